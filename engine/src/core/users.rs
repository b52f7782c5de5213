//! What the engine has ready for containers with users of their own.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use crate::settings::Settings;
use engine_error::{Error, Result};
use image::Images;
use image::rootfs::Remap;
use shim::namespaces::{self, Origin};

/// Has root file systems shown to the users that the settings tell of. What cannot be had is an error: a
/// container whose root is the host's is not what was asked for.
pub(super) fn remapped(settings: &Settings, mut images: Images) -> Result<Images> {
    let Some(map) = &settings.remap else { return Ok(images) };
    let (uids, gids) = map.lines();
    let origin = Origin::New { uids: &uids, gids: &gids };
    let made = namespaces::make(&settings.binary("rnet-shim"), origin).map_err(|error| {
        Error::internal("cannot make a user namespace, which --userns-remap needs", error)
    })?;
    let of_data = |name| settings.data_root.join(name);
    let places = vec![images.root().to_owned(), of_data("containers"), of_data("build")];
    let namespace = Arc::new(made.user);
    images.remap(Remap { map: map.clone(), namespace, places })?;
    Ok(images)
}

/// Refuses a directory that the root of containers cannot get to, for what is above it is not ours.
pub(super) fn check_way(directory: &Path) -> Result<()> {
    let closed = directory.ancestors().skip(1).find(|above| {
        let mode = std::fs::metadata(above).map(|of| of.permissions().mode());
        mode.is_ok_and(|mode| mode & 0o001 == 0)
    });
    match closed {
        Some(above) => Err(Error::invalid(format!(
            "the root of containers cannot get to {}: allow o+x on {}, or choose another --exec-root",
            directory.display(),
            above.display()
        ))),
        None => Ok(()),
    }
}

/// Lets the root of containers pass through a directory, though not read it: a runtime that is in their
/// user namespace goes that way to what it mounts.
pub(super) fn let_through(directory: &Path) -> std::io::Result<()> {
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o711))
}
