//! Layers, honest and hostile. These run as root: they make devices and set trusted attributes.

use std::fs;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use crate::limits::{Limits, Packed, Room};
use crate::tarball::tests::Tar;
use crate::tests::Scratch;

/// A directory to unpack into, beside one that must stay as it is.
struct Space {
    scratch: Scratch,
}

impl Space {
    fn new() -> Self {
        let scratch = Scratch::new();
        fs::create_dir(scratch.path("root")).unwrap();
        fs::create_dir(scratch.path("outside")).unwrap();
        fs::write(scratch.path("outside/secret"), "untouched").unwrap();
        Self { scratch }
    }

    fn root(&self) -> PathBuf {
        self.scratch.path("root")
    }

    fn extract(&self, tar: Tar) -> io::Result<Unpacked> {
        let bytes = tar.finish();
        let packed = Packed::whole(bytes.len() as u64);
        let mut budget = Budget::new(Limits::default(), packed, Room::of(&self.root()));
        let result = extract(&bytes[..], &self.root(), &mut budget);
        self.check_outside();
        result
    }

    fn check_outside(&self) {
        let outside = self.scratch.path("outside");
        let names: Vec<_> =
            fs::read_dir(&outside).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["secret"], "something was made outside");
        assert_eq!(fs::read_to_string(outside.join("secret")).unwrap(), "untouched");
        assert_eq!(fs::metadata(outside.join("secret")).unwrap().nlink(), 1);
        assert_eq!(fs::metadata(&outside).unwrap().mode() & 0o777, 0o755);
        let beside = fs::read_dir(self.scratch.path("")).unwrap().count();
        assert_eq!(beside, 2, "something was made beside the root");
    }
}

fn outside(space: &Space) -> String {
    space.scratch.path("outside").display().to_string()
}

#[test]
fn files_keep_owner_mode_time_and_links() {
    let space = Space::new();
    let tar = Tar::new()
        .dir("bin/")
        .entry("bin/su", EntryType::Regular, "", 0o4755, b"suid")
        .hard_link("bin/su2", "bin/su")
        .symlink("sh", "/bin/su")
        .entry("fifo", EntryType::Fifo, "", 0o622, b"")
        .entry("null", EntryType::Char, "", 0o666, b"");
    let unpacked = space.extract(tar).unwrap();
    assert_eq!(unpacked, Unpacked { size: 4, entries: 6 });
    let root = space.root();
    let su = fs::metadata(root.join("bin/su")).unwrap();
    assert_eq!((su.mode() & 0o7777, su.uid(), su.gid(), su.nlink()), (0o4755, 7, 8, 2));
    assert_eq!(su.mtime(), 1_000_000_000);
    assert_eq!(fs::metadata(root.join("bin")).unwrap().mtime(), 1_000_000_000);
    assert_eq!(fs::read_link(root.join("sh")).unwrap(), Path::new("/bin/su"));
    assert_eq!(fs::symlink_metadata(root.join("sh")).unwrap().uid(), 7);
    assert!(fs::symlink_metadata(root.join("fifo")).unwrap().file_type().is_fifo());
    let null = fs::symlink_metadata(root.join("null")).unwrap();
    assert_eq!((null.rdev(), null.mode() & 0o777), (rustix::fs::makedev(1, 3), 0o666));
}

#[test]
fn whiteouts_become_those_of_overlay() {
    let space = Space::new();
    let tar = Tar::new()
        .dir("etc/")
        .file("etc/.wh.passwd", b"")
        .dir("var/")
        .file("var/.wh..wh..opq", b"")
        .file(".wh..wh.plnk", b"")
        .file(".wh.home", b"")
        .dir("home/");
    space.extract(tar).unwrap();
    let passwd = fs::symlink_metadata(space.root().join("etc/passwd")).unwrap();
    assert!(passwd.file_type().is_char_device() && passwd.rdev() == 0);
    for opaque in ["var", "home"] {
        let mut value = [0; 8];
        let path = space.root().join(opaque);
        let length = rustix::fs::getxattr(path, OPAQUE, &mut value[..]).unwrap();
        assert_eq!(&value[..length], b"y", "{opaque}");
    }
    assert!(!space.root().join(".wh..wh.plnk").exists());
}

#[test]
fn a_path_that_leaves_the_layer_is_refused() {
    for path in ["../outside/x", "a/../../outside/x", "..", "/../outside/x", "x/.."] {
        let space = Space::new();
        let error = space.extract(Tar::new().file(path, b"evil")).unwrap_err();
        assert!(error.to_string().contains("leaves the layer"), "{path}: {error}");
    }
}

#[test]
fn absolute_paths_and_links_are_those_of_the_layer() {
    let space = Space::new();
    let tar = Tar::new()
        .file("/etc/rnet-evil", b"x")
        .dir("usr/lib/")
        .symlink("lib", "/usr/lib")
        .file("lib/libc.so", b"elf")
        .symlink("up", "../../../../usr")
        .file("up/inside", b"y");
    space.extract(tar).unwrap();
    assert!(!Path::new("/etc/rnet-evil").exists());
    assert_eq!(fs::read(space.root().join("etc/rnet-evil")).unwrap(), b"x");
    assert_eq!(fs::read(space.root().join("usr/lib/libc.so")).unwrap(), b"elf");
    assert_eq!(fs::read(space.root().join("usr/inside")).unwrap(), b"y");
}

#[test]
fn links_out_of_the_layer_lead_nowhere() {
    let space = Space::new();
    let target = outside(&space);
    let secret = format!("{target}/secret");
    for tar in [
        Tar::new().symlink("out", &target).file("out/x", b"evil"),
        Tar::new().symlink("out", "../outside").file("out/secret", b"evil"),
        Tar::new().symlink("out", &secret).file("out", b"evil"),
        Tar::new().hard_link("hard", &secret).file("hard", b"evil"),
        Tar::new().symlink("out", &secret).hard_link("hard", "out").file("hard", b"evil"),
        Tar::new().symlink("out", &target).hard_link("hard", "out/secret"),
        Tar::new().symlink("out", &target).file("out/.wh.secret", b""),
        Tar::new().symlink("out", &target).file("out/.wh..wh..opq", b""),
        Tar::new().symlink("out", &target).dir("out/"),
        Tar::new().symlink("out", &target).entry("out/n", EntryType::Char, "", 0o666, b""),
        Tar::new().file(".wh...", b""),
        Tar::new().file(".wh..", b""),
        Tar::new().file("a/.wh.", b""),
        Tar::new().symlink("self", "/proc/self/root").file("self/x", b"evil"),
        Tar::new().symlink("loop", "loop").file("loop/x", b"evil"),
    ] {
        // Refused or kept inside: both are fine, and the check is of what is outside.
        let _ = space.extract(tar);
        fs::remove_dir_all(space.root()).unwrap();
        fs::create_dir(space.root()).unwrap();
    }
}

#[test]
fn a_later_entry_replaces_an_earlier_one() {
    let space = Space::new();
    let tar = Tar::new()
        .file("a", b"1")
        .file("a", b"22")
        .dir("a/")
        .file("a/b", b"3")
        .symlink("a", "/etc")
        .file("a", b"4")
        .file("x", b"5")
        .hard_link("x", "x");
    space.extract(tar).unwrap();
    assert_eq!(fs::read(space.root().join("a")).unwrap(), b"4");
    assert_eq!(fs::read(space.root().join("x")).unwrap(), b"5");
}

#[test]
fn attributes_are_set_but_not_those_of_overlay() {
    let space = Space::new();
    let tar = Tar::new()
        .pax(&[
            ("SCHILY.xattr.user.note", b"hi"),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
            ("SCHILY.xattr.security.selinux", b"x"),
        ])
        .file("f", b"");
    space.extract(tar).unwrap();
    let mut names = [0; 256];
    let length = rustix::fs::listxattr(space.root().join("f"), &mut names[..]).unwrap();
    let names = String::from_utf8_lossy(&names[..length]).into_owned();
    assert!(names.contains("user.note") && !names.contains("overlay"), "{names}");
}

#[test]
fn unknown_kinds_of_entries_are_named() {
    let space = Space::new();
    let tar = Tar::new().entry("odd", EntryType::new(b'Z'), "", 0, b"");
    let error = space.extract(tar).unwrap_err().to_string();
    assert!(error.contains("\"odd\"") && error.contains("not supported"), "{error}");
}

fn hostile_path() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        Just("a"),
        Just("b"),
        Just("c"),
        Just(".."),
        Just("."),
        Just(""),
        Just(".wh.a"),
        Just(".wh..wh..opq"),
        Just(".wh..."),
    ];
    proptest::collection::vec(part, 1..4).prop_map(|parts| parts.join("/"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_archive_touches_what_is_outside(
        entries in proptest::collection::vec(
            (0..5_u8, hostile_path(), prop_oneof![
                hostile_path(), Just("/outside".to_owned()), Just("../outside/secret".to_owned()),
                Just("../outside".to_owned()), Just("/proc/self/cwd".to_owned()),
            ]),
            1..8,
        )
    ) {
        let space = Space::new();
        let mut tar = Tar::new();
        for (kind, path, link) in entries {
            tar = match kind {
                0 => tar.file(&path, b"evil"),
                1 => tar.dir(&path),
                2 => tar.symlink(&path, &link),
                3 => tar.hard_link(&path, &link),
                _ => tar.entry(&path, EntryType::Fifo, "", 0o600, b""),
            };
        }
        let _ = space.extract(tar);
    }
}

#[test]
fn a_sparse_header_of_terabytes_is_refused_before_a_byte_is_written() {
    let space = Space::new();
    for size in [8 << 40, 17 << 30, u64::MAX / 2] {
        let tar = Tar::new().sparse("huge", size, &[(0, b"data")]);
        let error = space.extract(tar).unwrap_err().to_string();
        assert!(error.contains("decompression bomb"), "{size}: {error}");
        assert!(!space.root().join("huge").exists());
    }
}

#[test]
fn a_sparse_file_of_many_gigabytes_is_no_bomb() {
    let space = Space::new();
    let tar = Tar::new().sparse("s", 10 << 30, &[(2 << 30, b"data")]);
    assert_eq!(space.extract(tar).unwrap().size, 10 << 30);
    let metadata = fs::metadata(space.root().join("s")).unwrap();
    assert_eq!(metadata.len(), 10 << 30);
    assert!(metadata.blocks() < 100, "{} blocks", metadata.blocks());
}

#[test]
fn holes_stay_holes_and_cost_no_disk() {
    let space = Space::new();
    let pieces: [(u64, &[u8]); 2] = [(1 << 20, b"first"), (3 << 20, b"second")];
    let tar = Tar::new().sparse("s", 512 << 20, &pieces).file("next", b"n");
    assert_eq!(space.extract(tar).unwrap().size, (512 << 20) + 1);
    let file = space.root().join("s");
    let metadata = fs::metadata(&file).unwrap();
    assert_eq!(metadata.len(), 512 << 20);
    assert!(metadata.blocks() < 100, "{} blocks", metadata.blocks());
    let content = File::open(file).unwrap();
    let mut bytes = [1; 8];
    content.read_exact_at(&mut bytes, (3 << 20) - 2).unwrap();
    assert_eq!(&bytes, b"\0\0second");
    assert_eq!(fs::read(space.root().join("next")).unwrap(), b"n");
}

#[test]
fn the_time_of_a_directory_goes_to_no_other_that_a_link_leads_to() {
    let space = Space::new();
    let tar = Tar::new().dir("one").dir("two").symlink("link", "one").dir("link/d");
    // What `link/d` is from now on was never in the archive itself.
    let tar = tar.symlink("link", "two").file("two/d/f", b"");
    space.extract(tar).unwrap();
    let time = |path: &str| fs::metadata(space.root().join(path)).unwrap().mtime();
    assert_eq!([time("one"), time("two")], [1_000_000_000; 2]);
    assert_ne!(time("two/d"), 1_000_000_000, "it has the time of another");
}

#[test]
fn a_hard_link_to_itself_through_a_link_leaves_the_file() {
    let space = Space::new();
    let tar = Tar::new().dir("d").file("d/f", b"content").symlink("l", "d");
    space.extract(tar.hard_link("l/f", "d/f").hard_link("d/f", "l/f")).unwrap();
    assert_eq!(fs::read(space.root().join("d/f")).unwrap(), b"content");
}
