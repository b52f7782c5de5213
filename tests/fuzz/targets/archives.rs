//! Archives: tar with all that has grown on it, compressed or not, manifests of Docker and OCI. What
//! comes of one stays in the store, whole; what is refused leaves nothing.
//!
//! The first byte says whether it is an archive of images or a root file system.
#![no_main]

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

use image::rootfs::StorageDriver;
use image::{Filter, Images, Options};
use libfuzzer_sys::fuzz_target;

struct Store {
    images: Images,
    outside: PathBuf,
}

/// A store for all runs, in memory where the host has a place for that, and a file beside it.
static STORE: LazyLock<Store> = LazyLock::new(|| {
    let base = ["/dev/shm", "/tmp"].into_iter().map(PathBuf::from).find(|path| path.is_dir());
    let base = base.unwrap_or_default().join(format!("rnet-fuzz-{}", std::process::id()));
    fs::create_dir_all(&base).expect("a scratch directory");
    let outside = base.join("outside");
    fs::write(&outside, "untouched").expect("a file");
    let options = Options { driver: StorageDriver::Vfs, ..Options::default() };
    let images = Images::open_with(&base.join("images"), options).expect("a store");
    Store { images, outside }
});

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, archive)) = bytes.split_first() else { return };
    let images = &STORE.images;
    if kind % 2 == 0 {
        let _ = images.load(archive, &mut |_| {});
    } else {
        let _ = images.import(archive, Some("fuzz:1"), &serde_json::json!({}), "");
    }
    for image in images.list() {
        images.find(&image.id.to_string()).expect("what is listed is found");
    }
    assert_eq!(fs::read(&STORE.outside).ok().as_deref(), Some(&b"untouched"[..]));
    images.prune(&Filter::default(), true).expect("nobody uses them");
    for directory in ["layers", "blobs/sha256", "tmp", "l"] {
        let left = fs::read_dir(images.root().join(directory)).expect("a directory").count();
        assert_eq!(left, 0, "{directory} has leftovers");
    }
});
