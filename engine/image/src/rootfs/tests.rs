//! Root file systems, really mounted, in a mount namespace that ends with the test.

use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use nix::mount::{MsFlags, mount, umount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use rustix::mount::{MoveMountFlags, move_mount};

use super::*;
use crate::Options;
use crate::tarball::tests::Tar;
use crate::tests::{Scratch, docker_archive};

pub(crate) fn privately(test: impl FnOnce() + Send) {
    let inside = || {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, flags, None::<&str>).unwrap();
        test();
    };
    std::thread::scope(|scope| scope.spawn(inside).join().unwrap());
}

/// Attaches a root as a shim does, and says where.
pub(crate) fn attach(scratch: &Scratch, rootfs: &RootFs) -> PathBuf {
    let Root::Mount(root) = rootfs.open().unwrap() else { panic!("no mount") };
    let target = scratch.path("target");
    fs::create_dir_all(&target).unwrap();
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(&root, "", rustix::fs::CWD, &target, flags).unwrap();
    target
}

pub(crate) fn load(
    scratch: &Scratch,
    driver: StorageDriver,
    layers: &[Vec<u8>],
) -> (Images, RootFs) {
    let options = Options { driver, ..Options::default() };
    let images = Images::open_with(&scratch.path("im,ages:1"), options).unwrap();
    images.load(&docker_archive(layers, &["x:1"])[..], &mut |_| {}).unwrap();
    let image = images.find("x:1").unwrap();
    let rootfs = RootFs::prepare(&images, &image, &scratch.path("rootfs")).unwrap();
    (images, rootfs)
}

fn two_layers() -> [Vec<u8>; 2] {
    [
        Tar::new().dir("a/").file("a/old", b"1").file("a/both", b"1").file("gone", b"1").finish(),
        Tar::new().file("a/both", b"2").file(".wh.gone", b"").file("new", b"2").finish(),
    ]
}

fn check_two_layers(root: &Path) {
    assert_eq!(fs::read(root.join("a/old")).unwrap(), b"1");
    assert_eq!(fs::read(root.join("a/both")).unwrap(), b"2");
    assert_eq!(fs::read(root.join("new")).unwrap(), b"2");
    assert!(fs::symlink_metadata(root.join("gone")).is_err());
    assert_eq!(fs::metadata(root.join("a/old")).unwrap().uid(), 7);
}

#[test]
fn upper_layers_hide_lower_ones_in_an_overlay() {
    privately(|| {
        let scratch = Scratch::new();
        let (_images, rootfs) = load(&scratch, StorageDriver::Overlay, &two_layers());
        let root = attach(&scratch, &rootfs);
        check_two_layers(&root);
        fs::write(root.join("mine"), "x").unwrap();
        assert!(rootfs.upper().join("mine").exists());
        umount(&root).unwrap();
        assert!(!root.join("mine").exists());
        assert!(attach(&scratch, &rootfs).join("mine").exists(), "changes outlive a stop");
        umount(&root).unwrap();
    });
}

#[test]
fn a_daemon_killed_while_it_makes_an_overlay_leaves_no_mount() {
    privately(|| {
        let mut table = fs::File::open("/proc/thread-self/mountinfo").unwrap();
        io::copy(&mut table, &mut io::sink()).unwrap();
        let changed = || {
            let mut polled = [PollFd::new(table.as_fd(), PollFlags::POLLPRI)];
            poll(&mut polled, PollTimeout::ZERO).unwrap();
            polled[0].any().unwrap()
        };
        let scratch = Scratch::new();
        let (_images, rootfs) = load(&scratch, StorageDriver::Auto, &two_layers());
        let root = rootfs.open().unwrap();
        assert!(matches!(root, Root::Mount(_)));
        assert!(!changed(), "there was a mount");
        let root = attach(&scratch, &rootfs);
        assert!(changed(), "the kernel tells of mounts");
        umount(&root).unwrap();
    });
}

#[test]
fn upper_layers_hide_lower_ones_in_a_copy() {
    let scratch = Scratch::new();
    let (images, rootfs) = load(&scratch, StorageDriver::Vfs, &two_layers());
    let Root::Directory(root) = rootfs.open().unwrap() else { panic!("a mount") };
    check_two_layers(&root);
    fs::write(root.join("mine"), "x").unwrap();
    RootFs::prepare(&images, &images.find("x:1").unwrap(), &scratch.path("rootfs")).unwrap();
    assert!(root.join("mine").exists());
    assert_eq!(rootfs.driver_name(), "vfs");
}

#[test]
fn a_copy_was_as_large_as_nothing_whatever_was_written_to_it() {
    let scratch = Scratch::new();
    let (images, rootfs) = load(&scratch, StorageDriver::Vfs, &two_layers());
    let root = rootfs.upper();
    assert_eq!(rootfs.written().unwrap(), 0);
    fs::write(root.join("mine"), [0; 1000]).unwrap();
    fs::hard_link(root.join("mine"), root.join("again")).unwrap();
    fs::write(root.join("new"), [0; 500]).unwrap();
    fs::remove_file(root.join("a/old")).unwrap();
    std::os::unix::fs::symlink("/a/both", root.join("link")).unwrap();
    assert_eq!(rootfs.written().unwrap(), 1500);
    // One that is gone meanwhile is not made again.
    let gone = scratch.path("gone");
    let looked_at = RootFs::as_it_is(&images, &rootfs.driver_data(), &gone);
    assert!(looked_at.written().is_err() && !gone.exists());
}

#[test]
fn an_image_without_layers_is_an_empty_root() {
    privately(|| {
        let scratch = Scratch::new();
        let (_images, rootfs) = load(&scratch, StorageDriver::Auto, &[]);
        assert_eq!(rootfs.driver_name(), "overlay2");
        let root = attach(&scratch, &rootfs);
        assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
        fs::write(root.join("x"), "x").unwrap();
        umount(&root).unwrap();
    });
}

#[test]
fn as_many_layers_as_an_image_may_have_are_mounted() {
    privately(|| {
        let scratch = Scratch::new();
        let layers: Vec<_> =
            (0..127).map(|n| Tar::new().file(&format!("f{n}"), b"x").finish()).collect();
        let (_images, rootfs) = load(&scratch, StorageDriver::Overlay, &layers);
        let root = attach(&scratch, &rootfs);
        assert_eq!(fs::read_dir(&root).unwrap().count(), 127);
        umount(&root).unwrap();
    });
}

#[test]
fn cve_2025_24965_an_image_whose_dockerenv_is_a_link_does_not_choose_what_create_writes() {
    let scratch = Scratch::new();
    let outside = scratch.path("shadow");
    fs::write(&outside, "theirs").unwrap();
    let layer = Tar::new().symlink(".dockerenv", outside.to_str().unwrap()).finish();
    for driver in [StorageDriver::Vfs, StorageDriver::Overlay] {
        let scratch = Scratch::new();
        let (_images, rootfs) = load(&scratch, driver, std::slice::from_ref(&layer));
        rootfs.mark(".dockerenv").unwrap();
        assert_eq!(fs::read(&outside).unwrap(), b"theirs", "{driver:?}");
        let marked = fs::symlink_metadata(rootfs.upper().join(".dockerenv")).unwrap();
        assert!(marked.is_file() && marked.len() == 0, "{driver:?}");
    }
}

#[test]
fn an_image_without_the_usual_directories_gets_them_and_others_keep_theirs() {
    let scratch = Scratch::new();
    let outside = scratch.path("outside");
    fs::create_dir(&outside).unwrap();
    let layer =
        Tar::new().dir("etc/").file("proc", b"a file").symlink("sys", outside.to_str().unwrap());
    let layer = layer.finish();
    for driver in [StorageDriver::Vfs, StorageDriver::Overlay] {
        let scratch = Scratch::new();
        let (_images, rootfs) = load(&scratch, driver, std::slice::from_ref(&layer));
        rootfs.furnish().unwrap();
        rootfs.furnish().unwrap();
        let made = |name: &str| rootfs.upper().join(name).symlink_metadata().ok();
        assert!(made("dev").unwrap().is_dir(), "{driver:?}");
        let copies = driver == StorageDriver::Vfs;
        assert_eq!(made("etc").is_some(), copies);
        assert_eq!(made("proc").is_some_and(|found| found.is_file()), copies);
        assert_eq!(made("sys").is_some_and(|found| found.is_symlink()), copies);
        assert!(rootfs.changes().unwrap().is_empty(), "it is nothing that changed");
    }
}

#[test]
fn cve_2022_23648_a_place_that_an_image_links_elsewhere_is_looked_up_inside_the_image() {
    let scratch = Scratch::new();
    let layer = Tar::new()
        .dir("etc/")
        .dir("etc/inside/")
        .symlink("data", "/etc")
        .symlink("up", "../../etc");
    let (_images, rootfs) = load(&scratch, StorageDriver::Vfs, &[layer.finish()]);
    for path in ["/data", "/up", "/etc"] {
        let found = rootfs.directory(path).unwrap().unwrap();
        assert!(found.below(Path::new("inside")).unwrap().is_some(), "{path}");
    }
    assert!(rootfs.directory("/none").unwrap().is_none());
}
