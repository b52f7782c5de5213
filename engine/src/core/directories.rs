//! The directories that the engine works in.

use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::users;
use crate::settings::Settings;
use engine_error::{Error, Result};

/// Makes the directories. Returns those that were made mounts and had not been.
pub(super) fn make(settings: &Settings) -> Result<Vec<PathBuf>> {
    use std::os::unix::fs::DirBuilderExt;
    let (data, exec) = (&settings.data_root, &settings.exec_root);
    let all = [
        data.clone(),
        data.join("containers"),
        data.join("build"),
        exec.clone(),
        settings.pins(),
        exec.join("shim"),
        exec.join("runtime"),
        settings.view_dir(),
        settings.view_of_root(),
    ];
    for directory in all {
        // Nobody but us: container files keep their owners and modes (set-user-id among them).
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory).map_err(
            |error| Error::internal(format!("cannot make {}", directory.display()), error),
        )?;
    }
    if settings.remap.is_some() {
        users::check_way(exec)?;
        for directory in [exec.clone(), settings.view_dir(), settings.view_of_root()] {
            users::let_through(&directory).map_err(|error| {
                Error::internal(format!("cannot open {}", directory.display()), error)
            })?;
        }
    }
    let mut mounted = Vec::new();
    for directory in [settings.pins(), settings.view_dir()] {
        let new = keep_private(&directory).map_err(|error| {
            Error::internal(format!("cannot mount {}", directory.display()), error)
        })?;
        mounted.extend(new.then_some(directory));
    }
    for namespace in [settings.view_of_network(), settings.view_of_user()] {
        let made = std::fs::OpenOptions::new().create(true).append(true).open(&namespace);
        made.map_err(|error| {
            Error::internal(format!("cannot make {}", namespace.display()), error)
        })?;
    }
    Ok(mounted)
}

/// Unmounts what [`make`] mounted.
pub(super) fn unmount(settings: &Settings) -> Result<()> {
    for path in [settings.pins(), settings.view_dir()] {
        match umount2(&path, MntFlags::MNT_DETACH) {
            // Somebody was faster.
            Ok(()) | Err(Errno::EINVAL) => {}
            Err(error) => {
                let text = format!("cannot unmount {}", path.display());
                return Err(Error::internal(text, error));
            }
        }
    }
    Ok(())
}

/// Makes a directory a mount of its own whose mounts do not spread to other mount namespaces. Returns
/// whether it was none before.
fn keep_private(directory: &Path) -> nix::Result<bool> {
    let nothing = None::<&str>;
    let make = || mount(nothing, directory, nothing, MsFlags::MS_PRIVATE, nothing);
    match make() {
        // It is no mount yet.
        Err(Errno::EINVAL) => {
            mount(Some(directory), directory, nothing, MsFlags::MS_BIND, nothing)?;
            make().map(|()| true)
        }
        done => done.map(|()| false),
    }
}
