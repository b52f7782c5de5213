//! Where a path leads, links and all, without leaving a tree.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType};
use rustix::io::Errno;

use super::Tree;

/// Links on the way, as many as the kernel follows.
const MOST_LINKS: usize = 40;

impl Tree {
    /// The path of what a path leads to, with no link in it; nothing if it leads to nothing. It is
    /// what it is while nobody else changes the tree.
    pub fn resolve(&self, path: &Path) -> io::Result<Option<PathBuf>> {
        let mut left: VecDeque<OsString> = parts(path);
        let (mut resolved, mut links) = (PathBuf::new(), 0);
        while let Some(part) = left.pop_front() {
            if part == ".." {
                resolved.pop();
                continue;
            }
            let above = if resolved.as_os_str().is_empty() { Path::new(".") } else { &resolved };
            let Some(directory) = self.below(above)? else { return Ok(None) };
            let stat = match rustix::fs::statat(&directory, &part, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG) => return Ok(None),
                result => result?,
            };
            if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
                resolved.push(part);
                continue;
            }
            links += 1;
            if links > MOST_LINKS {
                return Err(Errno::LOOP.into());
            }
            let target = rustix::fs::readlinkat(&directory, &part, Vec::new())?;
            let target = Path::new(OsStr::from_bytes(target.as_bytes()));
            if target.is_absolute() {
                resolved.clear();
            }
            for part in parts(target).into_iter().rev() {
                left.push_front(part);
            }
        }
        Ok(Some(resolved))
    }
}

fn parts(path: &Path) -> VecDeque<OsString> {
    let parts = path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    parts.collect()
}
