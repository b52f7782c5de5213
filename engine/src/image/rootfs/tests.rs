//! Root file systems, really mounted, in a mount namespace that ends with the test.

use std::os::unix::fs::MetadataExt;

use rustix::event::{PollFd, PollFlags, Timespec};

use super::*;
use crate::image::Options;
use crate::image::tarball::tests::Tar;
use crate::image::tests::{Scratch, docker_archive};

fn privately(test: impl FnOnce() + Send) {
    let inside = || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        nix::mount::mount(None::<&str>, "/", None::<&str>, flags, None::<&str>).unwrap();
        test();
    };
    std::thread::scope(|scope| scope.spawn(inside).join().unwrap());
}

#[test]
fn a_daemon_killed_while_it_tries_overlay_mounts_leaves_none() {
    privately(|| {
        let scratch = Scratch::new();
        let mut table = fs::File::open("/proc/thread-self/mountinfo").unwrap();
        io::copy(&mut table, &mut io::sink()).unwrap();
        let changed = || {
            let mut polled = [PollFd::new(&table, PollFlags::PRI)];
            rustix::event::poll(&mut polled, Some(&Timespec::default())).unwrap();
            !polled[0].revents().is_empty()
        };
        try_overlay(&scratch.path("pro,be:1")).unwrap();
        assert!(!changed(), "there was a mount");
        let target = scratch.path("target");
        fs::create_dir(&target).unwrap();
        nix::mount::mount(Some("x"), &target, Some("tmpfs"), MsFlags::empty(), None::<&str>)
            .unwrap();
        assert!(changed(), "the kernel tells of mounts");
        nix::mount::umount(&target).unwrap();
    });
}

fn load(scratch: &Scratch, driver: StorageDriver, layers: &[Vec<u8>]) -> (Images, RootFs) {
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
        rootfs.mount().unwrap();
        rootfs.mount().unwrap();
        check_two_layers(&rootfs.merged());
        fs::write(rootfs.merged().join("mine"), "x").unwrap();
        assert!(rootfs.upper().join("mine").exists());
        rootfs.unmount().unwrap();
        rootfs.unmount().unwrap();
        assert!(!rootfs.merged().join("mine").exists());
        rootfs.mount().unwrap();
        assert!(rootfs.merged().join("mine").exists(), "changes outlive a stop");
        rootfs.remove().unwrap();
        rootfs.remove().unwrap();
        assert!(!scratch.path("rootfs").exists());
    });
}

#[test]
fn upper_layers_hide_lower_ones_in_a_copy() {
    let scratch = Scratch::new();
    let (images, rootfs) = load(&scratch, StorageDriver::Vfs, &two_layers());
    rootfs.mount().unwrap();
    check_two_layers(&rootfs.merged());
    fs::write(rootfs.merged().join("mine"), "x").unwrap();
    let again = RootFs::prepare(&images, &images.find("x:1").unwrap(), &scratch.path("rootfs"));
    assert!(again.unwrap().merged().join("mine").exists());
    assert_eq!(rootfs.driver_name(), "vfs");
    rootfs.remove().unwrap();
}

#[test]
fn an_image_without_layers_is_an_empty_root() {
    privately(|| {
        let scratch = Scratch::new();
        let (_images, rootfs) = load(&scratch, StorageDriver::Auto, &[]);
        assert_eq!(rootfs.driver_name(), "overlay2");
        rootfs.mount().unwrap();
        assert_eq!(fs::read_dir(rootfs.merged()).unwrap().count(), 0);
        fs::write(rootfs.merged().join("x"), "x").unwrap();
        rootfs.remove().unwrap();
    });
}

#[test]
fn as_many_layers_as_an_image_may_have_are_mounted() {
    privately(|| {
        let scratch = Scratch::new();
        let layers: Vec<_> =
            (0..127).map(|n| Tar::new().file(&format!("f{n}"), b"x").finish()).collect();
        let (_images, rootfs) = load(&scratch, StorageDriver::Overlay, &layers);
        rootfs.mount().unwrap();
        assert_eq!(fs::read_dir(rootfs.merged()).unwrap().count(), 127);
        rootfs.remove().unwrap();
    });
}
