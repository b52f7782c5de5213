//! Layers of what was changed in mounted roots. These run as root.

use std::fs;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::PathBuf;

use serde_json::json;

use super::*;
use crate::rootfs::StorageDriver;
use crate::rootfs::tests::{attach, load, privately};
use crate::tarball::TarReader;
use crate::tarball::tests::Tar;
use crate::tests::Scratch;

const DRIVERS: [StorageDriver; 2] = [StorageDriver::Overlay, StorageDriver::Vfs];

fn base() -> Vec<Vec<u8>> {
    let one = Tar::new()
        .dir("a/")
        .dir("a/b/")
        .file("a/b/f", b"f")
        .file("a/gone", b"1")
        .dir("hidden/")
        .file("hidden/old", b"1")
        .dir("kept/")
        .file("kept/file", b"1")
        .dir("etc/");
    vec![one.finish(), Tar::new().file("top", b"2").file("a/from-above", b"2").finish()]
}

/// Where the container would find its root.
fn root(scratch: &Scratch, rootfs: &RootFs, driver: StorageDriver) -> PathBuf {
    if driver == StorageDriver::Vfs { rootfs.upper() } else { attach(scratch, rootfs) }
}

/// What a container does to its root, and what the runtime has made in it before.
fn change(root: &Path) {
    fs::write(root.join(".dockerenv"), "").unwrap();
    fs::write(root.join("etc/hosts"), "").unwrap();
    for given in ["proc", "sys", "dev"] {
        fs::create_dir(root.join(given)).unwrap();
    }
    fs::create_dir_all(root.join("new/deep")).unwrap();
    fs::write(root.join("new/deep/file"), "n").unwrap();
    fs::hard_link(root.join("new/deep/file"), root.join("new/link")).unwrap();
    std::os::unix::fs::symlink("/nowhere", root.join("new/symlink")).unwrap();
    fs::set_permissions(root.join("a/b"), fs::Permissions::from_mode(0o2750)).unwrap();
    fs::write(root.join("a/b/f"), "changed").unwrap();
    fs::remove_file(root.join("a/gone")).unwrap();
    fs::remove_file(root.join("a/from-above")).unwrap();
    fs::remove_dir_all(root.join("hidden")).unwrap();
    fs::create_dir(root.join("hidden")).unwrap();
    fs::write(root.join("hidden/new"), "n").unwrap();
    nix::unistd::mkfifo(&root.join("new/pipe"), nix::sys::stat::Mode::S_IRUSR).unwrap();
    let big = (Some(70_000.into()), Some(4_000_000_000.into()));
    nix::unistd::chown(&root.join("new/deep/file"), big.0, big.1).unwrap();
    let name = "n".repeat(200);
    fs::write(root.join("new").join(&name), name.as_bytes()).unwrap();
    let sparse = File::create(root.join("new/sparse")).unwrap();
    sparse.write_all_at(b"end", 8 << 20).unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(root.join("new/deep/file"), "user.note", b"kept", flags).unwrap();
}

fn told(rootfs: &RootFs) -> Vec<String> {
    let letter = |kind| match kind {
        ChangeKind::Modified => 'C',
        ChangeKind::Added => 'A',
        ChangeKind::Deleted => 'D',
    };
    let changes = rootfs.changes().unwrap();
    changes.iter().map(|change| format!("{} {}", letter(change.kind), change.path)).collect()
}

/// Makes an image on top of the one that a root was made of.
fn image(images: &Images, rootfs: &RootFs, keep: Keep) -> (NewLayer, Arc<Image>) {
    let making = images.making();
    let layer = making.layer(rootfs, keep).unwrap();
    let below = images.find("x:1").unwrap();
    let diff_ids: Vec<_> =
        below.diff_ids().iter().cloned().chain([layer.diff_id.to_string()]).collect();
    let config = json!({"os": "linux", "architecture": "amd64",
        "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    let name = Reference::parse("made:1").unwrap();
    let image = making.image(config.to_string().as_bytes(), &[name], Some(below.id)).unwrap();
    (layer, image)
}

fn check_changed(root: &Path) {
    assert_eq!(fs::read(root.join("a/b/f")).unwrap(), b"changed");
    assert_eq!(fs::metadata(root.join("a/b")).unwrap().mode() & 0o7777, 0o2750);
    assert_eq!(fs::read(root.join("kept/file")).unwrap(), b"1");
    for gone in ["a/gone", "a/from-above", "hidden/old", ".dockerenv", "etc/hosts", "proc"] {
        assert!(fs::symlink_metadata(root.join(gone)).is_err(), "{gone}");
    }
    assert_eq!(fs::read(root.join("hidden/new")).unwrap(), b"n");
    let (file, link) = (root.join("new/deep/file"), root.join("new/link"));
    let metadata = fs::metadata(&file).unwrap();
    assert_eq!((metadata.uid(), metadata.gid()), (70_000, 4_000_000_000));
    assert_eq!(metadata.ino(), fs::metadata(link).unwrap().ino());
    assert!(fs::metadata(root.join("new/pipe")).unwrap().file_type().is_fifo());
    assert_eq!(fs::read(root.join("new").join("n".repeat(200))).unwrap(), [b'n'; 200]);
    let sparse = fs::metadata(root.join("new/sparse")).unwrap();
    assert_eq!(sparse.len(), (8 << 20) + 3);
    assert!(sparse.blocks() < 2048, "its hole is filled");
    let mut note = [0; 8];
    let length = rustix::fs::getxattr(file, "user.note", &mut note[..]).unwrap();
    assert_eq!(&note[..length], b"kept");
}

#[test]
fn changes_are_told_as_docker_tells_them() {
    for driver in DRIVERS {
        privately(|| {
            let scratch = Scratch::new();
            let (_images, rootfs) = load(&scratch, driver, &base());
            assert!(told(&rootfs).is_empty(), "{driver:?}");
            change(&root(&scratch, &rootfs, driver));
            let name = "n".repeat(200);
            let wanted = [
                "C /a",
                "C /a/b",
                "C /a/b/f",
                "D /a/gone",
                "D /a/from-above",
                "C /hidden",
                "A /hidden/new",
                "D /hidden/old",
                "A /new",
                "A /new/deep",
                "A /new/deep/file",
                "A /new/link",
                &format!("A /new/{name}"),
                "A /new/pipe",
                "A /new/sparse",
                "A /new/symlink",
            ];
            assert_eq!(told(&rootfs), wanted, "{driver:?}");
        });
    }
}

#[test]
fn a_layer_of_changes_is_what_the_container_had() {
    for (driver, keep) in [
        (StorageDriver::Overlay, Keep::Copy),
        (StorageDriver::Overlay, Keep::Move),
        (StorageDriver::Vfs, Keep::Copy),
        (StorageDriver::Vfs, Keep::Move),
    ] {
        privately(|| {
            let scratch = Scratch::new();
            let (images, rootfs) = load(&scratch, driver, &base());
            let place = root(&scratch, &rootfs, driver);
            change(&place);
            if driver == StorageDriver::Overlay {
                nix::mount::umount(&place).unwrap();
            }
            let (layer, made) = image(&images, &rootfs, keep);
            assert_eq!(made.parent, Some(images.find("x:1").unwrap().id));
            assert_eq!(images.layer_size(layer.chain), layer.size);
            let again = RootFs::prepare(&images, &made, &scratch.path("again")).unwrap();
            check_changed(&root(&scratch, &again, driver));
            let _ = nix::mount::umount(&scratch.path("target"));
            // What is saved is the same, wherever it is unpacked.
            let mut archive = Vec::new();
            images.save(&["made:1".to_owned()], &mut archive).unwrap();
            let elsewhere = Images::open_with(&scratch.path("elsewhere"), images.options());
            let elsewhere = elsewhere.unwrap();
            elsewhere.load(&archive[..], &mut |_| {}).unwrap();
            let loaded = elsewhere.find("made:1").unwrap();
            assert_eq!(loaded.id, made.id);
            let third = RootFs::prepare(&elsewhere, &loaded, &scratch.path("third")).unwrap();
            check_changed(&root(&scratch, &third, driver));
        });
    }
}

#[test]
fn nothing_changed_is_an_empty_layer_and_always_the_same() {
    privately(|| {
        let scratch = Scratch::new();
        let (images, rootfs) = load(&scratch, StorageDriver::Overlay, &base());
        let (first, made) = image(&images, &rootfs, Keep::Copy);
        assert_eq!(first.diff_id, Digest::of(&[0; 1024]));
        let again = RootFs::prepare(&images, &made, &scratch.path("again")).unwrap();
        let making = images.making();
        let second = making.layer(&again, Keep::Copy).unwrap();
        assert_eq!(second.diff_id, first.diff_id);
        assert_ne!(second.chain, first.chain);
        assert_eq!(making.layer(&again, Keep::Move).unwrap(), second, "it is there already");
    });
}

#[test]
fn a_layer_has_whiteouts_in_oci_s_words_and_each_directory_before_its_content() {
    privately(|| {
        let scratch = Scratch::new();
        let (images, rootfs) = load(&scratch, StorageDriver::Overlay, &base());
        change(&attach(&scratch, &rootfs));
        let mut packer = Packer::new(Vec::new());
        write_changes(&rootfs, &mut packer).unwrap();
        let (archive, _) = packer.finish().unwrap();
        let mut reader = TarReader::new(&archive[..]);
        let mut names = Vec::new();
        while let Some(entry) = reader.next_entry().unwrap() {
            names.push(String::from_utf8(entry.path).unwrap());
        }
        assert_eq!(names[..5], ["a/", "a/b/", "a/b/f", "a/.wh.gone", "a/.wh.from-above"]);
        assert_eq!(names[5..8], ["hidden/", "hidden/.wh..wh..opq", "hidden/new"]);
        assert!(!names.iter().any(|name| name.starts_with("etc") || name == "kept/"), "{names:?}");
        drop(images);
    });
}

#[test]
fn the_parent_of_an_image_outlives_the_daemon() {
    let scratch = Scratch::new();
    let (images, rootfs) = load(&scratch, StorageDriver::Vfs, &base());
    let (_, made) = image(&images, &rootfs, Keep::Copy);
    let options = images.options();
    drop((images, rootfs));
    let images = Images::open_with(&scratch.path("im,ages:1"), options).unwrap();
    assert_eq!(images.find("made:1").unwrap().parent, made.parent);
}
