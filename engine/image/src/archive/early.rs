//! Layers of an archive that is still being read.
//!
//! Which file of an archive is a layer, and on top of what, stands at its end. What a layer unpacks
//! to does not depend on that, so whatever looks like one is unpacked at once; what was none, or is
//! wanted by nobody, goes again.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use super::super::compression::Compression;
use super::super::digest::Digest;
use super::super::store::{Store, Unplaced};

/// Smaller files are unpacked when they are wanted.
const WORTH_IT: u64 = 64 << 10;
/// Where the word `ustar` stands in an archive.
const MAGIC: usize = 257;

/// What was unpacked, by the digest of its file.
pub(super) type Unpacked = HashMap<Digest, Unplaced>;

/// Takes files that may be layers.
pub(super) struct Early<'a> {
    store: &'a Store,
    files: Sender<(PathBuf, Digest)>,
}

impl Early<'_> {
    /// Offers a file that is written. What the store has a blob of, it has most likely unpacked.
    pub(super) fn offer(&self, file: &Path, digest: Digest, size: u64) {
        if size >= WORTH_IT && !self.store.has_blob(digest) {
            // If nobody takes it, it is unpacked later.
            let _ = self.files.send((file.to_owned(), digest));
        }
    }
}

/// Unpacks what `read` offers while it goes on.
pub(super) fn while_read(
    store: &Store,
    read: impl FnOnce(&Early<'_>) -> io::Result<()>,
) -> io::Result<Unpacked> {
    let in_vain = &AtomicBool::new(false);
    thread::scope(|scope| {
        let (files, offered) = channel();
        let (done, unpacked) = channel();
        let named = |name: &str| thread::Builder::new().name(name.to_owned());
        named("write back").spawn_scoped(scope, move || write_back(store, &unpacked))?;
        let unpacking =
            named("layers").spawn_scoped(scope, move || unpack(store, offered, in_vain, &done))?;
        let result = read(&Early { store, files });
        in_vain.store(result.is_err(), Ordering::Relaxed);
        let unpacked = unpacking.join().unwrap_or_else(|panic| resume_unwind(panic));
        result.map(|()| unpacked)
    })
}

fn unpack(
    store: &Store,
    offered: Receiver<(PathBuf, Digest)>,
    in_vain: &AtomicBool,
    done: &Sender<()>,
) -> Unpacked {
    let mut unpacked = Unpacked::new();
    for (path, digest) in offered {
        if in_vain.load(Ordering::Relaxed) {
            break;
        }
        if unpacked.contains_key(&digest) || !is_layer(&path).unwrap_or(false) {
            continue;
        }
        // Whether it should have been one, and what is wrong with it, is found when it is wanted.
        let layer =
            File::open(&path).and_then(|file| store.unpack_aside(file, Some(digest), &mut |_| {}));
        unpacked.extend(layer.ok().map(|layer| (digest, layer)));
        let _ = done.send(());
    }
    unpacked
}

/// Has the disk write what is unpacked while more is read. Whoever gives a layer its place waits for
/// all of it; here it is only begun, so a failure is told there.
fn write_back(store: &Store, unpacked: &Receiver<()>) {
    while unpacked.recv().is_ok() {
        while unpacked.try_recv().is_ok() {}
        let _ = File::open(store.root()).map(rustix::fs::syncfs);
    }
}

/// Whether a file begins like a layer that can be a blob as it is.
fn is_layer(path: &Path) -> io::Result<bool> {
    let mut start = [0; 512];
    let mut file = File::open(path)?;
    file.read_exact(&mut start)?;
    Ok(match Compression::detect(&start) {
        Compression::Plain => start[MAGIC..].starts_with(b"ustar"),
        Compression::Gzip | Compression::Zstd => true,
        Compression::Xz | Compression::Bzip2 => false,
    })
}

#[cfg(test)]
mod tests {
    use crate::Digest;
    use crate::tarball::tests::Tar;
    use crate::tests::{Scratch, docker_archive, files_below, load, open};

    /// A layer that is worth it.
    fn large(text: &str) -> Vec<u8> {
        Tar::new().file("name", text.repeat(1 << 17).as_bytes()).finish()
    }

    #[test]
    fn what_was_unpacked_early_and_is_wanted_by_no_image_is_gone() {
        let scratch = Scratch::new();
        let images = open(&scratch);
        let mut archive = Tar::new()
            .file("stray/layer.tar", &large("x"))
            .file("notes", &vec![7; 1 << 18])
            .finish();
        archive.truncate(archive.len() - 1024);
        archive.extend(docker_archive(&[large("a"), large("b")], &["x:1"]));
        assert_eq!(load(&images, &archive), ["Loaded image: x:1"]);
        assert_eq!(files_below(&scratch.path("images/layers")), 2);
        assert_eq!(files_below(&scratch.path("images/tmp")), 0);
    }

    #[test]
    fn a_large_layer_that_is_not_what_the_configuration_says_leaves_nothing_behind() {
        let scratch = Scratch::new();
        let images = open(&scratch);
        let (right, wrong) = (large("a"), large("b"));
        let good = docker_archive(std::slice::from_ref(&right), &["x:1"]);
        let at = good.windows(right.len()).position(|part| part == right).unwrap();
        let bad = [&good[..at], &wrong, &good[at + right.len()..]].concat();
        let error = images.load(&bad[..], &mut |_| {}).unwrap_err().chain();
        let found = Digest::of(&wrong).to_string();
        assert!(error.contains("layer verification failed") && error.contains(&found), "{error}");
        for place in ["images/layers", "images/tmp"] {
            assert_eq!(files_below(&scratch.path(place)), 0, "{place}");
        }
    }
}
