//! Places that are made in a root file system because something is mounted there: none of what a step
//! changed. Which they are is known only before the step runs.

use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::AtFlags;

use super::context::directory;
use engine_error::{Error, Result};
use image::rootfs::RootFs;
use tree::Tree;

/// What is missing of the places, each before what is in it.
#[derive(Debug, Default)]
pub(super) struct Places(Vec<PathBuf>);

impl Places {
    /// Finds what is missing in a root file system of what is to be mounted on.
    pub(super) fn missing<'t>(
        root: &Tree,
        targets: impl Iterator<Item = &'t str>,
    ) -> io::Result<Self> {
        let mut missing = Vec::new();
        for target in targets {
            let path = Path::new(target.trim_start_matches('/'));
            for above in path.ancestors() {
                let Some(resolved) = root.resolve(above)? else { continue };
                let mut place = resolved;
                for part in path.strip_prefix(above).into_iter().flat_map(Path::components) {
                    place.push(part);
                    missing.push(place.clone());
                }
                break;
            }
        }
        Ok(Self(missing))
    }

    /// Takes them away again. Only what is empty goes, and no link is followed.
    pub(super) fn forget(&self, root: &RootFs) -> Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        let changes = root.upper();
        let failed = |error| Error::internal(format!("cannot clear {}", changes.display()), error);
        let tree = Tree::open(&changes).map_err(failed)?;
        for place in self.0.iter().rev() {
            let Some(name) = place.file_name() else { continue };
            let above = place.parent().unwrap_or(Path::new(""));
            if let Some(above) = directory(&tree, above).map_err(failed)? {
                forget(&above, name);
            }
        }
        Ok(())
    }
}

/// Removes a directory or a file if nothing is in it.
fn forget(above: &Tree, name: &OsStr) {
    if rustix::fs::unlinkat(above.as_fd(), name, AtFlags::REMOVEDIR).is_ok() {
        return;
    }
    let stat = rustix::fs::statat(above.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW);
    let empty = stat.is_ok_and(|stat| {
        let kind = rustix::fs::FileType::from_raw_mode(stat.st_mode);
        kind == rustix::fs::FileType::RegularFile && stat.st_size == 0
    });
    if empty {
        // What stays is in the layer.
        let _ = rustix::fs::unlinkat(above.as_fd(), name, AtFlags::empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_missing_before_a_step_is_made_for_a_mount() {
        let path = std::env::temp_dir().join(format!("rnet-places-{}", std::process::id()));
        std::fs::create_dir_all(path.join("real/there")).unwrap();
        std::os::unix::fs::symlink("/real", path.join("link")).unwrap();
        let tree = Tree::open(&path).unwrap();
        let targets = ["/real/there", "/link/new/deep", "/other/"];
        let found = Places::missing(&tree, targets.into_iter());
        std::fs::remove_dir_all(&path).unwrap();
        let wanted = ["real/new", "real/new/deep", "other"].map(PathBuf::from);
        assert_eq!(found.unwrap().0, wanted);
    }
}
