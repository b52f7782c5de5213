//! Root file systems of containers: an image's layers below, the container's own changes above.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::image::{Image, Images};

/// How the root file system of a container is made of an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StorageDriver {
    /// An overlay mount; a copy where the host refuses overlay mounts.
    #[default]
    Auto,
    /// An overlay mount or an error.
    Overlay,
    /// A full copy per container.
    Vfs,
}

/// The root file system of one container.
#[derive(Clone, Debug)]
pub struct RootFs {
    dir: PathBuf,
    lower: Vec<PathBuf>,
    driver: StorageDriver,
}

impl RootFs {
    /// Makes the directories of a container's root file system under `dir`. Idempotent; mounts
    /// nothing.
    pub fn prepare(images: &Images, image: &Image, dir: &Path) -> Result<Self> {
        let _ = image;
        Ok(Self { dir: dir.to_owned(), lower: Vec::new(), driver: images.options().driver })
    }

    /// Mounts it on [`Self::merged`]; nothing if it is mounted.
    pub fn mount(&self) -> Result<()> {
        Ok(())
    }

    /// Unmounts it; nothing if it is not mounted.
    pub fn unmount(&self) -> Result<()> {
        Ok(())
    }

    /// Unmounts it and removes the container's changes.
    pub fn remove(&self) -> Result<()> {
        Ok(())
    }

    /// Where the container's root is while mounted.
    pub fn merged(&self) -> PathBuf {
        self.dir.join("merged")
    }

    /// The container's changes.
    pub fn upper(&self) -> PathBuf {
        self.dir.join("upper")
    }

    /// `overlay2` or `vfs`, in the words of `docker info`.
    pub fn driver_name(&self) -> &'static str {
        match self.driver {
            StorageDriver::Auto | StorageDriver::Overlay => "overlay2",
            StorageDriver::Vfs => "vfs",
        }
    }

    /// `GraphDriver.Data` of `inspect`.
    pub fn driver_data(&self) -> Vec<(&'static str, String)> {
        self.lower.iter().map(|path| ("LowerDir", path.display().to_string())).collect()
    }
}

impl FromStr for StorageDriver {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "" => Ok(Self::Auto),
            "overlay" | "overlay2" | "overlayfs" => Ok(Self::Overlay),
            "vfs" => Ok(Self::Vfs),
            other => Err(Error::invalid(format!(
                "storage driver {other:?} is not supported: use overlay2 or vfs"
            ))),
        }
    }
}
