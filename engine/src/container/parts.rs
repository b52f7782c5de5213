//! What of a volume or an image a container is shown, where that is more than a path of the host: a
//! mount of its own, which whoever shows it attaches.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use tree::{Tree, Unreachable};

use super::{Container, Containers, MountKind, MountPoint, Spec};
use engine_error::{Error, Result};
use image::Digest;
use image::rootfs::RootFs;

impl Containers {
    /// The mount that a container is shown, unless that is all of what is at a path of the host.
    ///
    /// # Errors
    /// Docker's words if there is no such thing in the volume or the image, or it is outside of it.
    pub(super) fn part(&self, spec: &Spec, point: &MountPoint) -> Result<Option<OwnedFd>> {
        let below = PathBuf::from(&point.subpath);
        let part = match point.kind {
            MountKind::Volume if !point.subpath.is_empty() => {
                let open = move |root: &Path| Tree::open(root)?.part(&below);
                // It may be where somebody has mounted what does not answer.
                self.file_systems.ask(&point.source, open)?
            }
            MountKind::Image => {
                let root = RootFs::of_layers(&self.images, layers(point)?, &point.source)?;
                self.seen_by(spec, root).part(&below)
            }
            _ => return Ok(None),
        };
        part.map(Some).map_err(|unreachable| words(point, unreachable))
    }

    /// Makes a container a user of an image that it mounts.
    pub(super) fn hold_image(
        &self,
        container: &Container,
        point: &mut MountPoint,
        number: usize,
    ) -> Result<()> {
        if point.image.is_empty() {
            let reference = point.name.as_deref().unwrap_or_default();
            let image = self.images.hold_mounted(&container.id, reference)?;
            point.image = image.id.to_string();
            point.layers = image.layers.iter().map(ToString::to_string).collect();
        } else {
            self.keep_image(&container.id, point)?;
        }
        point.source = container.paths.dir.join("images").join(number.to_string());
        Ok(())
    }

    /// Makes a container a user of an image that it, or another one that has it still, is known to mount.
    pub(super) fn keep_image(&self, id: &str, point: &MountPoint) -> Result<()> {
        let image = point.image.parse().map_err(|error| unreadable(point, error))?;
        self.images.keep_mounted(id, image, &layers(point)?);
        Ok(())
    }
}

fn layers(point: &MountPoint) -> Result<Vec<Digest>> {
    let layers = point.layers.iter().map(|layer| layer.parse());
    layers.collect::<Result<_, _>>().map_err(|error| unreadable(point, error))
}

fn unreadable(point: &MountPoint, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::internal(format!("cannot tell which image is mounted at {}", point.target), error)
}

fn words(point: &MountPoint, unreachable: Unreachable) -> Error {
    let (base, wanted) = (point.source.display(), &point.subpath);
    let Unreachable { at, error } = unreachable;
    let at = point.source.join(at);
    let missing = |why: &str| {
        let at = at.display();
        format!("cannot access path {base}/{wanted}: lstat {at}: {why}")
    };
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::XDEV) => Error::invalid(format!(
            "path concatenation escapes the base directory, base: {base}, subpath: {wanted}"
        )),
        Some(Errno::NOENT) => Error::not_found(missing("no such file or directory")),
        Some(Errno::NOTDIR) => Error::not_found(missing("not a directory")),
        Some(Errno::LOOP) => Error::invalid(missing("too many levels of symbolic links")),
        _ => Error::internal(format!("cannot mount {wanted} of {base}"), error),
    }
}
