//! A walk through a tree, always in the same order.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, Stat};

use super::{DEEPEST, DIRECTORY, Tree, names, through};

/// The longest value, and the longest list of names, of extended attributes in Linux.
const LONGEST_ATTRIBUTE: usize = 1 << 16;

/// Something that a walk comes by.
#[derive(Debug)]
pub struct Visit<'a> {
    /// Where it is, below the root.
    pub path: &'a Path,
    /// The directory that it is in.
    pub parent: BorrowedFd<'a>,
    /// Its name there.
    pub name: &'a OsStr,
    /// What it is.
    pub stat: Stat,
}

struct Level {
    directory: OwnedFd,
    path: PathBuf,
    left: std::vec::IntoIter<OsString>,
}

impl Tree {
    /// Shows everything below to `visit`, a directory before what is in it, names in order. What it
    /// does not want to be gone into, it answers with false.
    pub fn walk(&self, mut visit: impl FnMut(&Visit<'_>) -> io::Result<bool>) -> io::Result<()> {
        let mut stack = vec![level(self.as_fd().try_clone_to_owned()?, PathBuf::new())?];
        while let Some(mut top) = stack.pop() {
            let Some(name) = top.left.next() else { continue };
            let stat = rustix::fs::statat(&top.directory, &name, AtFlags::SYMLINK_NOFOLLOW)?;
            let path = top.path.join(&name);
            let (parent, name) = (top.directory.as_fd(), name.as_os_str());
            let goes_on = visit(&Visit { path: &path, parent, name, stat })?;
            let mut below = None;
            if goes_on && FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                if stack.len() >= DEEPEST {
                    let text = "directories are too deep";
                    return Err(io::Error::new(io::ErrorKind::InvalidData, text));
                }
                below = Some(rustix::fs::openat(&top.directory, name, DIRECTORY, Mode::empty())?);
            }
            stack.push(top);
            if let Some(below) = below {
                stack.push(level(below, path)?);
            }
        }
        Ok(())
    }
}

fn level(directory: OwnedFd, path: PathBuf) -> io::Result<Level> {
    let mut names = names(directory.as_fd())?;
    names.sort();
    Ok(Level { directory, path, left: names.into_iter() })
}

impl Visit<'_> {
    /// What kind of thing it is.
    pub fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    /// Its extended attributes in order, but for those of this host: overlay's and SELinux's.
    pub fn attributes(&self) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
        attributes(&through(self.parent, self.name))
    }
}

fn attributes(path: &OsStr) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    use std::os::unix::ffi::OsStrExt;
    let mut names = vec![0; LONGEST_ATTRIBUTE];
    let length = match rustix::fs::llistxattr(path, &mut names[..]) {
        Err(rustix::io::Errno::OPNOTSUPP) => return Ok(Vec::new()),
        result => result?,
    };
    let mut attributes = Vec::new();
    for name in names[..length].split(|byte| *byte == 0) {
        let of_host = name.starts_with(b"trusted.") || name == b"security.selinux";
        if name.is_empty() || of_host {
            continue;
        }
        let mut value = vec![0; LONGEST_ATTRIBUTE];
        let length = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value[..])?;
        value.truncate(length);
        attributes.push((name.to_owned(), value));
    }
    attributes.sort();
    Ok(attributes)
}
