//! Root file systems of containers: an image's layers below, the container's own changes above.
//!
//! Where the host mounts overlay file systems, a root is one mount(2). Elsewhere it is a copy of
//! the layers.

mod copy;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use nix::mount::{MntFlags, MsFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
};

use super::digest::Digest;
use super::store::Store;
use crate::error::{Error, Result};
use crate::image::{Image, Images};

/// mount(2) takes one page of options, with the zero at its end.
const LONGEST_OPTIONS: usize = 4095;

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
/// the container does, and `merged`, which is its root while mounted; a copy has only `merged`.
#[derive(Clone, Debug)]
pub struct RootFs {
    dir: PathBuf,
    /// The image store.
    root: PathBuf,
    /// Chain ids, lowest first.
    layers: Vec<Digest>,
    driver: StorageDriver,
}

impl RootFs {
    /// Makes the directories of a container's root file system under `dir`. Idempotent; mounts
    /// nothing.
    pub fn prepare(images: &Images, image: &Image, dir: &Path) -> Result<Self> {
        let failed = |error| Error::internal(format!("cannot prepare {}", dir.display()), error);
        let rootfs = Self {
            dir: dir.to_owned(),
            root: images.root().to_owned(),
            layers: image.layers.clone(),
            driver: images.driver(),
        };
        for layer in &rootfs.layers {
            if !rootfs.short_path(*layer).exists() {
                images.store().link_short(*layer).map_err(failed)?;
            }
        }
        fs::create_dir_all(dir).map_err(failed)?;
        match rootfs.driver {
            StorageDriver::Vfs => rootfs.copy_layers().map_err(failed)?,
            StorageDriver::Auto | StorageDriver::Overlay => {
                for part in ["upper", "work", "merged"] {
                    make_dir(&dir.join(part), 0o755).map_err(failed)?;
                }
            }
        }
        Ok(rootfs)
    }

    /// The root file system under `dir`, to unmount or remove it when its image is not known.
    pub fn orphan(images: &Images, dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            root: images.root().to_owned(),
            layers: Vec::new(),
            driver: images.driver(),
        }
    }

    /// Mounts it on [`Self::merged`]; nothing if it is mounted.
    pub fn mount(&self) -> Result<()> {
        if self.driver == StorageDriver::Vfs || self.is_mounted() {
            return Ok(());
        }
        self.mount_overlay().map_err(|error| {
            Error::internal(format!("cannot mount overlay on {}", self.merged().display()), error)
        })
    }

    /// Unmounts it; nothing if it is not mounted.
    pub fn unmount(&self) -> Result<()> {
        if self.driver == StorageDriver::Vfs {
            return Ok(());
        }
        let merged = self.merged();
        loop {
            match nix::mount::umount2(&merged, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
                // Somebody mounted it twice.
                Ok(()) => {}
                Err(nix::Error::EINVAL | nix::Error::ENOENT) => return Ok(()),
                Err(error) => {
                    let message = format!("cannot unmount {}", merged.display());
                    return Err(Error::internal(message, error));
                }
            }
        }
    }

    /// Unmounts it and removes the container's changes.
    pub fn remove(&self) -> Result<()> {
        self.unmount()?;
        match fs::remove_dir_all(&self.dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::internal(format!("cannot remove {}", self.dir.display()), error))
            }
            _ => Ok(()),
        }
    }

    /// Where the container's root is while mounted.
    pub fn merged(&self) -> PathBuf {
        self.dir.join("merged")
    }

    /// The container's changes.
    pub fn upper(&self) -> PathBuf {
        match self.driver {
            StorageDriver::Vfs => self.merged(),
            StorageDriver::Auto | StorageDriver::Overlay => self.dir.join("upper"),
        }
    }

    /// `overlay2` or `vfs`, in the words of `docker info`.
    pub fn driver_name(&self) -> &'static str {
        self.driver.name()
    }

    /// `GraphDriver.Data` of `inspect`.
    pub fn driver_data(&self) -> Vec<(&'static str, String)> {
        let text = |path: PathBuf| path.display().to_string();
        if self.driver == StorageDriver::Vfs {
            return Vec::new();
        }
        let lower: Vec<_> =
            self.layers.iter().rev().map(|layer| text(self.diff_path(*layer))).collect();
        vec![
            ("LowerDir", lower.join(":")),
            ("MergedDir", text(self.merged())),
            ("UpperDir", text(self.upper())),
            ("WorkDir", text(self.dir.join("work"))),
        ]
    }

    fn mount_overlay(&self) -> io::Result<()> {
        let upper = format!(
            "upperdir={},workdir={}",
            escape(&self.dir.join("upper"))?,
            escape(&self.dir.join("work"))?
        );
        let lower = |base: &str, parts: &mut dyn Iterator<Item = &Digest>| {
            let names: Vec<_> =
                parts.map(|layer| base.to_owned() + &Store::short_name(*layer)).collect();
            if names.is_empty() { format!("{base}empty") } else { names.join(":") }
        };
        let root = escape(&self.root)?.replace(':', "\\:") + "/";
        let options = format!("lowerdir={},{upper}", lower(&root, &mut self.layers.iter().rev()));
        if options.len() <= LONGEST_OPTIONS {
            return overlay(&self.merged(), &options);
        }
        let options = format!("lowerdir={},{upper}", lower("", &mut self.layers.iter().rev()));
        in_directory(&self.root, || overlay(&self.merged(), &options))
    }

    /// A mount point is another device than the directory above it.
    fn is_mounted(&self) -> bool {
        use std::os::unix::fs::MetadataExt;
        let device = |path: &Path| fs::symlink_metadata(path).map(|meta| meta.dev()).ok();
        device(&self.merged()).is_some_and(|merged| Some(merged) != device(&self.dir))
    }

    fn copy_layers(&self) -> io::Result<()> {
        let merged = self.merged();
        if merged.exists() {
            return Ok(());
        }
        // Aside first: what was cut short must not be taken for a whole.
        let aside = self.dir.join("copying");
        if aside.exists() {
            fs::remove_dir_all(&aside)?;
        }
        make_dir(&aside, 0o755)?;
        for layer in &self.layers {
            copy::copy_layer(&self.diff_path(*layer), &aside)?;
        }
        fs::rename(&aside, &merged)
    }

    fn diff_path(&self, layer: Digest) -> PathBuf {
        self.root.join("layers").join(layer.hex()).join("diff")
    }

    fn short_path(&self, layer: Digest) -> PathBuf {
        self.root.join(Store::short_name(layer))
    }
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
    pub(super) fn settle(self, root: &Path) -> Self {
        if self != Self::Auto {
            return self;
        }
        match try_overlay(&root.join("tmp/probe")) {
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

fn overlay(target: &Path, options: &str) -> io::Result<()> {
    Ok(nix::mount::mount(
        Some("overlay"),
        target,
        Some("overlay"),
        MsFlags::empty(),
        Some(options),
    )?)
}

/// Makes a small overlay and lets go of it. It is never attached to a path: the end of this
/// process at any moment leaves no mount behind.
fn try_overlay(dir: &Path) -> io::Result<()> {
    for part in ["lower", "upper", "work"] {
        fs::create_dir_all(dir.join(part))?;
    }
    let tried = || -> io::Result<()> {
        let context = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        let lower = escape(&dir.join("lower"))?.replace(':', "\\:");
        fsconfig_set_string(&context, "lowerdir", lower)?;
        fsconfig_set_string(&context, "upperdir", dir.join("upper"))?;
        fsconfig_set_string(&context, "workdir", dir.join("work"))?;
        fsconfig_create(&context)?;
        let flags = FsMountFlags::FSMOUNT_CLOEXEC;
        drop(fsmount(&context, flags, MountAttrFlags::empty())?);
        Ok(())
    };
    let tried = tried();
    // What stays is swept when the store is opened next.
    let _ = fs::remove_dir_all(dir);
    tried
}

/// Runs a closure with a working directory of its own: relative names keep options short.
fn in_directory<T: Send>(
    directory: &Path,
    run: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    let inside = || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS)?;
        nix::unistd::chdir(directory)?;
        run()
    };
    std::thread::scope(|scope| scope.spawn(inside).join())
        .unwrap_or_else(|_| Err(io::Error::other("the mounting thread ended early")))
}

/// A path as a mount option: backslashes and commas are escaped, all else is as it is.
fn escape(path: &Path) -> io::Result<String> {
    let text = path.to_str().ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidInput, format!("{} is not text", path.display()))
    })?;
    Ok(text.replace('\\', "\\\\").replace(',', "\\,"))
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
mod tests;
