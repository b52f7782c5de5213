//! What builds leave behind: files of one that was cut short, containers of an earlier daemon, and
//! what is kept for the next build until somebody wants the room.

use std::fs;
use std::io;
use std::path::Path;

use super::Builds;
use crate::container::Remove;
use engine_error::{Error, Result};

/// The annotation of a build's containers, by which the next daemon knows them.
pub(super) const OF_BUILD: &str = "dev.rnet.build";

/// What a prune gave back.
#[derive(Clone, Debug, Default)]
pub struct Freed {
    /// The entries of the cache that went.
    pub entries: Vec<String>,
    /// Bytes.
    pub size: u64,
}

impl Builds {
    /// Removes the containers of steps that an earlier daemon did not see to their end. Those that
    /// were to be kept are.
    pub(crate) async fn sweep(&self) {
        for container in self.containers.list() {
            let kept = self.root.join("kept").join(container.id.as_str());
            if !container.spec.annotations.contains_key(OF_BUILD) || kept.exists() {
                continue;
            }
            let how = Remove { force: true, volumes: true, link: false };
            if let Err(error) = self.containers.remove(&container.id, how).await {
                tracing::warn!(container = container.short_id(), error = error.chain(), "it stays");
            }
        }
        if let Err(error) = self.forget_gone() {
            tracing::warn!(%error, "the build cache is not swept");
        }
    }

    /// Notes that a container of a build stays, since its client wants to look at it.
    pub(super) fn keep(&self, container: &str) {
        let path = self.root.join("kept").join(container);
        if let Err(error) = fs::write(&path, "") {
            tracing::warn!(%error, container, "a container of a build is not kept");
        }
    }

    /// Forgets what the cache says of images that are gone, and of containers that are.
    fn forget_gone(&self) -> io::Result<()> {
        self.cache.forget(|id| self.images.find(&id.to_string()).is_err())?;
        for entry in fs::read_dir(self.root.join("kept"))? {
            let entry = entry?;
            if self.containers.find(&entry.file_name().to_string_lossy()).is_err() {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// Empties the cache: directories of `--mount=type=cache` that no step has, and keys of images that
    /// are gone; with `all`, every key. Images are images, as in Docker: those without a name go with
    /// `image prune`.
    pub fn prune(&self, all: bool) -> Result<Freed> {
        let failed = |error| Error::internal("cannot empty the build cache", error);
        let size = self.caches.prune().map_err(failed)?;
        let gone = |id: image::ImageId| all || self.images.find(&id.to_string()).is_err();
        let entries = self.cache.forget(gone).map_err(failed)?;
        Ok(Freed { entries, size })
    }
}

/// Removes a directory of ours. What is mounted below is taken off first, and never emptied.
pub(super) fn clear(directory: &Path) -> io::Result<()> {
    while let Some(mounted) = tree::mount_in(directory)? {
        rustix::mount::unmount(&mounted, rustix::mount::UnmountFlags::DETACH)?;
    }
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
