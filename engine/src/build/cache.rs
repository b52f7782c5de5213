//! The build cache: keys of steps and the images that came of them.
//!
//! Nothing is in it but what builds here have made, and a key holds all that makes a step the same
//! ([`dockerfile::key`]): an image that somebody gives a fitting history is never taken for a result
//! (CVE-2024-24557). An entry that is lost or damaged costs a build some time and nothing else.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use image::{Digest, Image, ImageId, Images};

/// The table.
#[derive(Debug)]
pub(super) struct Cache {
    directory: PathBuf,
    next: AtomicU64,
}

impl Cache {
    pub(super) fn new(directory: PathBuf) -> Self {
        Self { directory, next: AtomicU64::new(0) }
    }

    /// The image of a key, if it is still there.
    pub(super) fn find(&self, images: &Images, key: &str) -> Option<Arc<Image>> {
        let id = self.read(key)?;
        images.find(&id.to_string()).ok()
    }

    /// Notes what came of a step.
    pub(super) fn note(&self, key: &str, image: ImageId) {
        let aside = self.directory.join(format!(".{}", self.next.fetch_add(1, Ordering::Relaxed)));
        let written = fs::write(&aside, image.to_string())
            .and_then(|()| fs::rename(&aside, self.directory.join(key)));
        if let Err(error) = written {
            tracing::warn!(%error, key, "a step of a build is not cached");
        }
    }

    /// The keys whose images are no longer there, or all of them, go; how many those were.
    pub(super) fn forget(&self, gone: impl Fn(ImageId) -> bool) -> io::Result<Vec<String>> {
        let mut forgotten = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if self.read(&name).is_none_or(&gone) {
                fs::remove_file(self.directory.join(&name))?;
                forgotten.push(name);
            }
        }
        Ok(forgotten)
    }

    fn read(&self, key: &str) -> Option<ImageId> {
        let text = fs::read_to_string(self.directory.join(key)).ok()?;
        Digest::from_str(text.trim()).ok().map(ImageId)
    }
}
