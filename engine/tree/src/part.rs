//! A part of a tree, as a mount of its own.
//!
//! Whoever fills the tree may swap what is on the way for a link at any moment. So the way is gone once,
//! by the kernel and beneath the root, and what was found there is what is mounted: no path of it is
//! looked up again.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};

use super::{Tree, retried};

/// Why there is nothing to be had at a path.
#[derive(Debug)]
pub struct Unreachable {
    /// As far as the path is good, and one step more.
    pub at: PathBuf,
    /// What is wrong there; [`Errno::XDEV`] if a link leads out of the tree.
    pub error: io::Error,
}

impl From<io::Error> for Unreachable {
    fn from(error: io::Error) -> Self {
        Self { at: PathBuf::new(), error }
    }
}

impl From<Unreachable> for io::Error {
    fn from(unreachable: Unreachable) -> Self {
        unreachable.error
    }
}

impl Tree {
    /// Whatever is at a path below, opened to be named. Links are followed as long as they are relative
    /// and stay in the tree.
    pub fn reach(&self, path: &Path) -> Result<OwnedFd, Unreachable> {
        self.beneath(path, OFlags::PATH).map_err(|errno| {
            let mut at = PathBuf::new();
            for component in path.components().filter(|part| *part != Component::CurDir) {
                at.push(component);
                if self.beneath(&at, OFlags::PATH).is_err() {
                    break;
                }
            }
            Unreachable { at, error: errno.into() }
        })
    }

    /// The directory at a path below, by the same rules; nothing if there is none.
    pub fn directory_beneath(&self, path: &Path) -> io::Result<Option<Self>> {
        match self.beneath(path, OFlags::RDONLY | OFlags::DIRECTORY) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => Ok(None),
            result => Ok(Some(Self(result?))),
        }
    }

    /// Whatever is at a path below, with all that is mounted in it, as a mount that is attached
    /// nowhere and is gone when it is dropped before it is.
    pub fn part(&self, path: &Path) -> Result<OwnedFd, Unreachable> {
        let found = self.reach(path)?;
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_RECURSIVE
            | OpenTreeFlags::AT_EMPTY_PATH;
        open_tree(&found, "", flags).map_err(|errno| io::Error::from(errno).into())
    }

    fn beneath(&self, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let flags = flags | OFlags::CLOEXEC;
        retried(|| rustix::fs::openat2(self.as_fd(), path, flags, Mode::empty(), resolve))
    }
}
