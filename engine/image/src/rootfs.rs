//! Root file systems of containers: an image's layers below, the container's own changes above.
//!
//! Where the host mounts overlay file systems, a root is such a mount, and it is attached in the
//! mount namespace of its container only: the host's table of mounts, which every start of a
//! container copies and reads, does not grow with their number. Elsewhere a root is a copy of the
//! layers.

mod assembly;
mod changes;
mod mounter;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

pub use self::assembly::{Assembly, Piece, Source};
pub use self::changes::{Change, ChangeKind};
pub(super) use self::mounter::Mounter;
pub use self::mounter::Remap;
use super::digest::Digest;
use super::pack::Packer;
use super::store::Store;
use crate::{Image, Images};
use engine_error::{Error, Kind, Result};
use tree::{Tree, Unreachable};

/// What the driver's data calls the layers.
const LOWER: &str = "LowerDir";

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

/// The root file system of one container. Its directory has `upper` and `work`, which stay while
/// the container does; that of a copy has `merged`.
#[derive(Clone, Debug)]
pub struct RootFs {
    dir: PathBuf,
    /// The image store.
    root: PathBuf,
    /// Chain ids, lowest first.
    layers: Vec<Digest>,
    driver: StorageDriver,
    mounter: Arc<Mounter>,
}

/// What a container finds at `/`.
#[derive(Debug)]
pub enum Root {
    /// A mount that is attached nowhere yet, and is gone when this is dropped before it is.
    Mount(OwnedFd),
    /// A directory.
    Directory(PathBuf),
}

impl RootFs {
    /// Makes the directories of a container's root file system under `dir`. Idempotent; mounts
    /// nothing.
    pub fn prepare(images: &Images, image: &Image, dir: &Path) -> Result<Self> {
        Self::of_layers(images, image.layers.clone(), dir)
    }

    /// That of a container that was made before, by what the driver said of it then. Its image may
    /// have become unreadable since.
    pub fn again(images: &Images, data: &BTreeMap<String, String>, dir: &Path) -> Result<Self> {
        Self::of_layers(images, layers_of(data), dir)
    }

    /// The same to be looked at: nothing is made of what may be gone.
    pub fn as_it_is(images: &Images, data: &BTreeMap<String, String>, dir: &Path) -> Self {
        Self::named(images, layers_of(data), dir)
    }

    fn named(images: &Images, layers: Vec<Digest>, dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            root: images.root().to_owned(),
            layers,
            driver: images.driver(),
            mounter: Arc::clone(&images.mounter),
        }
    }

    /// That of an image which is mounted and no root: of these layers, with nothing above them.
    pub fn of_layers(images: &Images, layers: Vec<Digest>, dir: &Path) -> Result<Self> {
        let failed = |error| Error::internal(format!("cannot prepare {}", dir.display()), error);
        let rootfs = Self::named(images, layers, dir);
        for layer in &rootfs.layers {
            if !rootfs.short_path(*layer).exists() {
                images.store().link_short(*layer).map_err(failed)?;
            }
        }
        fs::create_dir_all(dir).map_err(failed)?;
        match rootfs.driver {
            StorageDriver::Vfs => rootfs.copy_layers().map_err(failed)?,
            StorageDriver::Auto | StorageDriver::Overlay => {
                for part in ["upper", "work"] {
                    make_dir(&dir.join(part), 0o755).map_err(failed)?;
                }
            }
        }
        Ok(rootfs)
    }

    /// The same as a user namespace sees it that the images were [remapped](Images::remap) to; as it is
    /// if they were not.
    #[must_use]
    pub fn remapped(self, images: &Images) -> Self {
        match &images.remapped {
            Some(mounter) => Self { mounter: Arc::clone(mounter), ..self },
            None => self,
        }
    }

    /// The root, for one run of the container.
    pub fn open(&self) -> Result<Root> {
        if self.driver == StorageDriver::Vfs {
            return Ok(Root::Directory(self.copy()));
        }
        self.overlay().map(Root::Mount).map_err(|error| {
            Error::internal(format!("cannot mount an overlay of {}", self.dir.display()), error)
        })
    }

    /// Writes all that is in it as an archive, without what is mounted in it. It may be in use
    /// meanwhile: what is read is a mount of its own, which changes nothing.
    pub fn export(&self, to: impl Write) -> Result<()> {
        let export = || -> io::Result<()> {
            let tree = if self.is_overlay() {
                let lower = self.lower();
                Tree::from(self.mounter.lower(&self.root, &self.dir, &lower)?)
            } else {
                Tree::open(&self.copy())?
            };
            let mut packer = Packer::new(to);
            packer.below(tree.as_fd(), b"")?;
            packer.finish().map(drop)
        };
        export().map_err(|error| {
            Error::internal(format!("cannot export {}", self.dir.display()), error)
        })
    }

    /// The directory it has at `path`, if there is one. The image is not trusted: no link leads out
    /// of the root.
    pub fn directory(&self, path: &str) -> Result<Option<Tree>> {
        let failed = |error| Error::internal(format!("cannot open {path} of the image"), error);
        let root = match self.open()? {
            Root::Mount(root) => Tree::from(root),
            Root::Directory(root) => Tree::open(&root).map_err(failed)?,
        };
        root.below(Path::new(path)).map_err(failed)
    }

    /// What it has at a path below, as a mount for reading only that is attached nowhere.
    pub fn part(&self, below: &Path) -> Result<OwnedFd, Unreachable> {
        self.part_of(below, false)
    }

    /// The same, to be written to: the root is not to be open otherwise meanwhile.
    pub fn writable_part(&self, below: &Path) -> Result<OwnedFd, Unreachable> {
        self.part_of(below, true)
    }

    fn part_of(&self, below: &Path, to_write: bool) -> Result<OwnedFd, Unreachable> {
        if self.is_overlay() {
            return self.mounter.part(&self.root, &self.dir, &self.lower(), below, to_write);
        }
        Tree::open(&self.copy())?.part(below)
    }

    /// Makes an empty file directly below the root, in place of whatever the image has there.
    pub fn mark(&self, name: &str) -> Result<()> {
        let marked = Tree::open(&self.upper()).and_then(|upper| upper.write(name, b"", 0o755));
        marked.map_err(|error| Error::internal(format!("cannot write /{name}"), error))
    }

    /// Whether its changes are kept apart from the layers.
    pub(super) fn is_overlay(&self) -> bool {
        self.driver != StorageDriver::Vfs
    }

    /// The topmost layer below it.
    pub(super) fn parent(&self) -> Option<Digest> {
        self.layers.last().copied()
    }

    fn copy(&self) -> PathBuf {
        self.dir.join("merged")
    }

    /// The container's changes.
    pub fn upper(&self) -> PathBuf {
        match self.driver {
            StorageDriver::Vfs => self.copy(),
            StorageDriver::Auto | StorageDriver::Overlay => self.dir.join("upper"),
        }
    }

    /// `overlay2` or `vfs`, in the words of `docker info`.
    pub fn driver_name(&self) -> &'static str {
        self.driver.name()
    }

    /// What the driver notes of it: for a copy too, what it is a copy of. There is no `MergedDir`: only
    /// the container has it.
    pub fn driver_data(&self) -> BTreeMap<String, String> {
        let text = |path: PathBuf| path.display().to_string();
        let mut data = data_of(&self.root, &self.layers);
        if self.is_overlay() {
            data.insert("UpperDir".to_owned(), text(self.upper()));
            data.insert("WorkDir".to_owned(), text(self.dir.join("work")));
        }
        data
    }

    fn overlay(&self) -> io::Result<OwnedFd> {
        self.mounter.overlay(&self.root, &self.lower(), &self.dir)
    }

    /// The layers as a mount option, the topmost first.
    fn lower(&self) -> String {
        let names: Vec<_> =
            self.layers.iter().rev().map(|layer| Store::short_name(*layer)).collect();
        if names.is_empty() { "empty".to_owned() } else { names.join(":") }
    }

    fn copy_layers(&self) -> io::Result<()> {
        let merged = self.copy();
        if merged.exists() {
            return Ok(());
        }
        // Aside first: what was cut short must not be taken for a whole.
        let aside = self.dir.join("copying");
        if aside.exists() {
            fs::remove_dir_all(&aside)?;
        }
        make_dir(&aside, 0o755)?;
        let target = Tree::open(&aside)?;
        for layer in &self.layers {
            target.copy_from(&Tree::open(&self.diff_path(*layer))?)?;
        }
        fs::rename(&aside, &merged)
    }

    fn diff_path(&self, layer: Digest) -> PathBuf {
        diff_path(&self.root, layer)
    }

    fn short_path(&self, layer: Digest) -> PathBuf {
        self.root.join(Store::short_name(layer))
    }
}

impl Images {
    /// Has root file systems made for a user namespace too. The host is asked whether it is able to.
    pub fn remap(&mut self, remap: Remap) -> Result<()> {
        if self.driver() == StorageDriver::Vfs {
            return Err(Error::invalid(
                "user namespaces need the storage driver overlay2: vfs copies what containers have, \
                 and shows it as it is",
            ));
        }
        let mounter = Mounter::remapped(remap);
        try_overlay(&mounter, &self.root().join("tmp/probe")).map_err(|error| {
            let text = "user namespaces need a kernel and a file system that show the files of layers \
                        by an idmapped mount below an overlay (Linux 5.19): this host does not";
            Error::caused(Kind::Invalid, text, error)
        })?;
        self.remapped = Some(Arc::new(mounter));
        Ok(())
    }
}

fn diff_path(root: &Path, layer: Digest) -> PathBuf {
    root.join("layers").join(layer.hex()).join("diff")
}

/// What a driver notes of a root of these layers in the image store `root`.
pub(super) fn data_of(root: &Path, layers: &[Digest]) -> BTreeMap<String, String> {
    let lower = layers.iter().rev().map(|layer| diff_path(root, *layer).display().to_string());
    [(LOWER.to_owned(), lower.collect::<Vec<_>>().join(":"))].into()
}

/// The chain ids of the layers that a driver's data names, lowest first.
pub(super) fn layers_of(data: &BTreeMap<String, String>) -> Vec<Digest> {
    let lower = data.get(LOWER).map_or("", String::as_str);
    let chain = |path: &str| {
        let chain = path.strip_suffix("/diff")?.rsplit('/').next()?;
        format!("sha256:{chain}").parse().ok()
    };
    lower.split(':').rev().filter_map(chain).collect()
}

impl StorageDriver {
    /// `overlay2` or `vfs`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto | Self::Overlay => "overlay2",
            Self::Vfs => "vfs",
        }
    }

    /// What [`Self::Auto`] means on the file system of `root`.
    pub(super) fn settle(self, mounter: &Mounter, root: &Path) -> Self {
        if self != Self::Auto {
            return self;
        }
        match try_overlay(mounter, &root.join("tmp/probe")) {
            Ok(()) => Self::Overlay,
            Err(error) => {
                tracing::warn!(%error, "no overlay mounts here: root file systems are copied");
                Self::Vfs
            }
        }
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

/// Makes a small overlay and lets go of it.
fn try_overlay(mounter: &Mounter, dir: &Path) -> io::Result<()> {
    for part in ["lower", "upper", "work"] {
        fs::create_dir_all(dir.join(part))?;
    }
    let tried = mounter.overlay(dir, "lower", dir);
    // What stays is swept when the store is opened next.
    let _ = fs::remove_dir_all(dir);
    tried.map(drop)
}

fn make_dir(path: &Path, mode: u32) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
        // Whatever the umask says: it is the root directory of a container.
        Ok(()) => Ok(rustix::fs::chmod(path, rustix::fs::Mode::from_raw_mode(mode))?),
    }
}

#[cfg(test)]
pub(super) mod tests;
