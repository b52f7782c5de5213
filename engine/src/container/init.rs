//! The init process of a container: ours, or the one that the daemon was told of.

use std::fs;
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::Containers;
use super::Spec;
use engine_error::{Error, Result};
use image::builtin::TOOLBOX;
use runtime::program::in_path;

/// Anybody may run it.
const MODE: u32 = 0o755;

impl Containers {
    /// The init process of a container, if it is to have one. In a PID namespace that is not its
    /// own it would not be process 1, and of no use.
    pub(super) fn init_program(&self, spec: &Spec) -> Result<Option<PathBuf>> {
        if !spec.namespaces.pid.is_own() || !spec.init.unwrap_or(self.settings.init) {
            return Ok(None);
        }
        let Some(path) = &self.settings.init_path else {
            return Ok(Some(self.settings.init_program()));
        };
        in_path(&path.to_string_lossy()).map(Some).ok_or_else(|| {
            let path = path.display();
            Error::invalid(format!("--init-path of the daemon names no program: {path}"))
        })
    }
}

/// Writes our init process, unless it is there as it has to be. Containers that run go on with the
/// one that they were started with.
pub(crate) fn unpack(path: &Path) -> Result<()> {
    let failed = |error| Error::internal(format!("cannot write {}", path.display()), error);
    if is_whole(path) { Ok(()) } else { replace(path).map_err(failed) }
}

fn is_whole(path: &Path) -> bool {
    let fits = |found: fs::Metadata| found.is_file() && found.permissions().mode() & 0o7777 == MODE;
    fs::symlink_metadata(path).is_ok_and(fits) && fs::read(path).is_ok_and(|bytes| bytes == TOOLBOX)
}

fn replace(path: &Path) -> io::Result<()> {
    let aside = path.with_extension("new");
    match fs::remove_file(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(MODE).open(&aside)?;
    io::Write::write_all(&mut file, TOOLBOX)?;
    file.set_permissions(fs::Permissions::from_mode(MODE))?;
    file.sync_all()?;
    fs::rename(aside, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_init_process_is_replaced_and_a_whole_one_left_alone() {
        let directory = std::env::temp_dir().join(format!("rnet-init-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let path = directory.join("init");
        unpack(&path).unwrap();
        let inode = || std::os::unix::fs::MetadataExt::ino(&fs::metadata(&path).unwrap());
        let first = inode();
        unpack(&path).unwrap();
        assert_eq!(inode(), first);
        fs::write(&path, "something else").unwrap();
        unpack(&path).unwrap();
        assert!(is_whole(&path) && inode() != first);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        unpack(&path).unwrap();
        assert!(is_whole(&path));
        fs::remove_dir_all(directory).unwrap();
    }
}
