//! Archives into directories of containers. These run as root: they make devices.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::PathBuf;

use super::*;
use crate::tarball::tests::Tar;
use crate::tests::Scratch;

/// A container's root with a directory to unpack into, beside something of the host.
struct Space(Scratch);

impl Space {
    fn new() -> Self {
        let scratch = Scratch::new();
        for directory in ["outside", "root/etc", "root/to/below", "root/run"] {
            fs::create_dir_all(scratch.path(directory)).unwrap();
        }
        fs::write(scratch.path("outside/secret"), "untouched").unwrap();
        fs::write(scratch.path("root/etc/passwd"), "untouched").unwrap();
        Self(scratch)
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.path(&format!("root/{path}"))
    }

    fn unpack(&self, tar: &[u8], change: impl FnOnce(&mut Plain<'_>)) -> io::Result<()> {
        self.unpack_by(tar, |tar, mut plain| {
            change(&mut plain);
            unpack(tar, &plain)
        })
    }

    fn unpack_by<'t>(
        &self,
        tar: &'t [u8],
        unpack: impl FnOnce(&'t [u8], Plain<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        let (root, to) = (File::open(self.at("")).unwrap(), File::open(self.at("to")).unwrap());
        let plain = Plain {
            map: None,
            root: root.as_fd(),
            directory: to.as_fd(),
            path: b"/to",
            keep_kinds: false,
            owner: Owner::Archive,
            rename: None,
        };
        let result = unpack(tar, plain);
        assert_eq!(fs::read_to_string(self.0.path("outside/secret")).unwrap(), "untouched");
        assert_eq!(fs::read_dir(self.0.path("outside")).unwrap().count(), 1);
        assert_eq!(fs::metadata(self.0.path("outside/secret")).unwrap().nlink(), 1);
        assert_eq!(fs::read_to_string(self.at("etc/passwd")).unwrap(), "untouched");
        assert_eq!(fs::read_dir(self.at("etc")).unwrap().count(), 1);
        result
    }
}

#[test]
fn what_is_unpacked_has_owner_mode_and_time_and_merges_with_what_is_there() {
    let space = Space::new();
    fs::write(space.at("to/below/kept"), "kept").unwrap();
    let tar = Tar::new()
        .dir("below/")
        .entry("below/f", EntryType::Regular, "", 0o4751, b"new")
        .hard_link("link", "below/f")
        .symlink("sym", "/etc/passwd")
        .file("implied/deep", b"x")
        .entry("null", EntryType::Char, "", 0o666, b"")
        .file(".wh.plain", b"no whiteout");
    space.unpack(&tar.finish(), |_| {}).unwrap();
    let made = fs::metadata(space.at("to/below/f")).unwrap();
    assert_eq!((made.uid(), made.gid(), made.mode() & 0o7777), (7, 8, 0o4751));
    assert_eq!((made.mtime(), made.nlink()), (1_000_000_000, 2));
    assert_eq!(fs::metadata(space.at("to/below")).unwrap().mtime(), 1_000_000_000);
    assert_eq!(fs::read(space.at("to/below/kept")).unwrap(), b"kept");
    assert_eq!(fs::read(space.at("to/.wh.plain")).unwrap(), b"no whiteout");
    assert_eq!(fs::metadata(space.at("to/null")).unwrap().mode() & 0o777, 0o666);
    assert_eq!(fs::metadata(space.at("to/implied")).unwrap().uid(), 0);
}

#[test]
fn compressed_archives_belong_to_whom_is_asked() {
    let space = Space::new();
    let tar = Tar::new().file("f", b"x").finish();
    space
        .unpack(&zstd::encode_all(&tar[..], 1).unwrap(), |plain| plain.owner = Owner::User(5, 6))
        .unwrap();
    let made = fs::metadata(space.at("to/f")).unwrap();
    assert_eq!((made.uid(), made.gid()), (5, 6));
}

#[test]
fn what_all_paths_begin_with_may_be_another_name() {
    let space = Space::new();
    let tar = Tar::new().dir("old/").file("old/f", b"x").hard_link("old/h", "old/f").finish();
    space.unpack(&tar, |plain| plain.rename = Some((b"old", b"new"))).unwrap();
    assert_eq!(fs::metadata(space.at("to/new/h")).unwrap().nlink(), 2);
    let tar = Tar::new().dir("./").file("./f", b"x").finish();
    space.unpack(&tar, |plain| plain.rename = Some((b".", b"other"))).unwrap();
    assert!(space.at("to/other/f").is_file() && !space.at("to/f").exists());
}

#[test]
fn kinds_are_kept_if_that_is_asked() {
    let space = Space::new();
    fs::write(space.at("to/file"), "old").unwrap();
    let keep = |tar: Tar| space.unpack(&tar.finish(), |plain| plain.keep_kinds = true);
    let error = keep(Tar::new().dir("file/")).unwrap_err();
    assert_eq!(error.to_string(), "cannot overwrite non-directory \"file\" with directory \"/to\"");
    let error = keep(Tar::new().file("below", b"x")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot overwrite directory \"below\" with non-directory \"/to\""
    );
    space.unpack(&Tar::new().dir("file/").file("below", b"x").finish(), |_| {}).unwrap();
    assert!(space.at("to/file").is_dir() && space.at("to/below").is_file());
}

#[test]
fn cve_2026_17106_no_archive_leads_out_of_the_directory() {
    let space = Space::new();
    let outside = space.0.path("outside").display().to_string();
    let hostile = [
        Tar::new().file("../etc/passwd", b"x"),
        Tar::new().file("a/../../etc/passwd", b"x"),
        Tar::new().symlink("s", "/etc").file("s/passwd", b"x"),
        Tar::new().symlink("s", "../etc").file("s/passwd", b"x"),
        Tar::new().symlink("s", &outside).file("s/secret", b"x"),
        Tar::new().symlink("s", "/etc").symlink("t", "s").file("t/new", b"x"),
        Tar::new().symlink("s", "/etc/passwd").hard_link("h", "s/../etc/passwd"),
        Tar::new().hard_link("h", "../etc/passwd").file("h", b"x"),
        Tar::new().symlink("s", "/etc").hard_link("h", "s/passwd"),
        Tar::new().symlink("s", "/etc").dir("s/dir/"),
    ];
    for tar in hostile {
        space.unpack(&tar.finish(), |_| {}).unwrap_err();
    }
    // A link in the place of a file is replaced, never written through.
    symlink("/etc/passwd", space.at("to/was-link")).unwrap();
    space.unpack(&Tar::new().file("was-link", b"new").finish(), |_| {}).unwrap();
    assert_eq!(fs::read(space.at("to/was-link")).unwrap(), b"new");
}

#[test]
fn a_link_that_was_there_is_followed_as_the_container_would() {
    let space = Space::new();
    symlink("/run", space.at("to/run")).unwrap();
    space.unpack(&Tar::new().file("run/pid", b"1").finish(), |_| {}).unwrap();
    assert_eq!(fs::read(space.at("run/pid")).unwrap(), b"1");
    symlink("../../../../../outside", space.at("to/up")).unwrap();
    space.unpack(&Tar::new().file("up/new", b"1").finish(), |_| {}).unwrap_err();
}

#[test]
fn a_file_may_be_larger_than_what_is_taken_at_any_ratio() {
    let space = Space::new();
    let limits = Limits { size: 1 << 40, free: 1 << 10, ratio: 2 };
    let copy =
        |archive: &[u8]| space.unpack_by(archive, |archive, to| within(limits, archive, &to));
    let tar = Tar::new().file("large", &vec![0; 4 << 20]).finish();
    copy(&tar).unwrap();
    let made = fs::metadata(space.at("to/large")).unwrap();
    assert_eq!(made.len(), 4 << 20);
    assert!(made.blocks() * 512 < 1 << 20, "holes stay holes");
    let packed = zstd::encode_all(&tar[..], 1).unwrap();
    for bomb in [packed, Tar::new().sparse("large", 4 << 20, &[]).finish()] {
        let error = copy(&bomb).unwrap_err().to_string();
        assert!(error.contains("decompression bomb"), "{error}");
    }
}

#[test]
fn capabilities_are_left_out_where_the_caller_may_not_give_them() {
    let tar = Tar::new().pax(&[("SCHILY.xattr.security.capability", b"x")]).file("f", b"").finish();
    let entry = TarReader::new(&tar[..]).next_entry().unwrap().unwrap();
    for (caller, left) in [((0, 0), 1), ((1000, 100), 0)] {
        let mut entry = entry.clone();
        Owner::Caller.take(&mut entry, caller);
        assert_eq!((entry.uid, entry.gid, entry.xattrs.len()), (caller.0, caller.1, left));
    }
}

#[test]
fn an_error_of_the_kernel_says_of_which_file_it_is() {
    let space = Space::new();
    let long = "n".repeat(256);
    let tar = Tar::new().pax(&[("path", long.as_bytes())]).file("f", b"").finish();
    let error = space.unpack(&tar, |_| {}).unwrap_err();
    assert!(error.to_string().starts_with(&format!("cannot unpack {long:?}: ")), "{error}");
}
