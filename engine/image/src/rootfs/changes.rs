//! What a container has changed: its own directory beside the layers below it.
//!
//! An overlay keeps changes apart: whatever is in its upper directory was touched. A copy has all of
//! the layers in it, and so has a directory that hides what is below: there each thing is compared.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, FileType, Mode, Stat};
use rustix::io::Errno;
use tree::{DEEPEST, DIRECTORY, Files, Tree, is_opaque, is_whiteout, names, through};

use super::{RootFs, StorageDriver};
use crate::pack::join;
use engine_error::{Error, Result};

/// More directories are not held open for one look at changes.
const MOST_OPEN: usize = 4096;

/// Files that every container is given empty, to mount something on or as a mark: none of its own.
const GIVEN: [&[u8]; 5] =
    [b".dockerenv", b"dev/console", b"etc/hostname", b"etc/hosts", b"etc/resolv.conf"];
/// Directories that every container is given.
const GIVEN_DIRECTORIES: [&[u8]; 6] = [b"dev", b"dev/pts", b"dev/shm", b"etc", b"proc", b"sys"];

/// What happened to a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// It is other than in the image.
    Modified,
    /// The image does not have it.
    Added,
    /// Only the image has it.
    Deleted,
}

/// A path of a container that is not as the image has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Absolute, within the container.
    pub path: String,
    /// What happened to it.
    pub kind: ChangeKind,
}

/// Something of a container that may have changed.
#[derive(Debug)]
pub(crate) struct Found<'a> {
    /// Relative to the root.
    pub(crate) path: &'a [u8],
    pub(crate) kind: ChangeKind,
    /// Where it is; for what is deleted, where it would be.
    pub(crate) parent: BorrowedFd<'a>,
    pub(crate) name: &'a OsStr,
    /// Whether it is a directory that hides what the layers have there.
    pub(crate) is_opaque: bool,
    /// Whether a directory around it hides it already.
    pub(crate) is_hidden: bool,
}

/// What a directory of a container holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extent {
    /// What an overlay has touched.
    Touched,
    /// All there is, below a directory that hides the layers.
    Opaque,
    /// All there is, in a copy of the layers.
    Copy,
}

/// A directory that is being looked at.
#[derive(Debug)]
struct Level {
    path: Vec<u8>,
    name: OsString,
    own: OwnedFd,
    /// The same directory in the layers, the topmost first.
    lower: Vec<OwnedFd>,
    extent: Extent,
    left: std::vec::IntoIter<OsString>,
    /// Told after all else.
    deleted: Vec<OsString>,
    /// What to tell of itself, unless that has been done.
    untold: Option<(ChangeKind, bool)>,
}

/// Something in the layers.
struct Lower {
    stat: Stat,
    directories: Vec<OwnedFd>,
    /// The layer that it is from.
    layer: usize,
}

impl RootFs {
    /// What is not as the image has it, each directory before what is in it.
    pub fn changes(&self) -> Result<Vec<Change>> {
        let mut changes = Vec::new();
        let walked = self.walk(false, &mut |found| {
            let path = format!("/{}", String::from_utf8_lossy(found.path));
            changes.push(Change { path, kind: found.kind });
            Ok(())
        });
        walked.map_err(|error| {
            Error::internal(format!("cannot list the changes in {}", self.dir.display()), error)
        })?;
        Ok(changes)
    }

    /// Bytes of the files that are not as the image has them, each file once.
    pub fn written(&self) -> Result<u64> {
        let mut files = Files::default();
        let walked = self.walk(false, &mut |found| {
            // What is deleted is not there, nor is what vanishes meanwhile.
            if let Ok(stat) =
                rustix::fs::statat(found.parent, found.name, AtFlags::SYMLINK_NOFOLLOW)
            {
                files.count(&stat);
            }
            Ok(())
        });
        walked.map_err(|error| {
            Error::internal(format!("cannot tell how large {} is", self.dir.display()), error)
        })?;
        Ok(files.bytes())
    }

    /// Shows what is not as the layers have it, and if `same` what an overlay has touched and left as
    /// it was. A directory on the way to something is shown before it, as modified.
    pub(crate) fn walk(
        &self,
        same: bool,
        tell: &mut dyn FnMut(&Found<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut walk = Walk { stack: Vec::new(), same, tell };
        let layers = self.layers.iter().rev().map(|layer| Tree::open(&self.diff_path(*layer)));
        let lower = layers.map(|tree| Ok(tree?.into())).collect::<io::Result<Vec<OwnedFd>>>()?;
        let extent = match self.driver {
            StorageDriver::Vfs => Extent::Copy,
            StorageDriver::Auto | StorageDriver::Overlay => Extent::Touched,
        };
        let own = Tree::open(&self.upper())?.into();
        walk.enter(Vec::new(), OsString::new(), (own, lower), (extent, None))?;
        walk.run()
    }

    /// Makes the directories directly below the root that every container is given, where the image has
    /// nothing of that name: what is copied into a container before its first start may go there.
    pub fn furnish(&self) -> Result<()> {
        let furnished = || -> io::Result<()> {
            let upper = OwnedFd::from(Tree::open(&self.upper())?);
            let layers = self.layers.iter().map(|layer| Tree::open(&self.diff_path(*layer)));
            let layers =
                layers.map(|tree| Ok(tree?.into())).collect::<io::Result<Vec<OwnedFd>>>()?;
            let below_root = |path: &&&[u8]| !path.contains(&b'/');
            for name in GIVEN_DIRECTORIES.iter().filter(below_root) {
                let is_in = |directory: &OwnedFd| {
                    rustix::fs::statat(directory, *name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
                };
                if !layers.iter().any(is_in) && !is_in(&upper) {
                    rustix::fs::mkdirat(&upper, *name, Mode::from_raw_mode(0o755))?;
                }
            }
            Ok(())
        };
        furnished().map_err(|error| {
            Error::internal(format!("cannot make directories in {}", self.dir.display()), error)
        })
    }

    /// Removes from an overlay's upper directory what every container is given.
    pub(crate) fn remove_given(&self) -> io::Result<()> {
        let upper = Tree::open(&self.upper())?;
        for path in GIVEN {
            let (above, name) = split(path);
            let Some(above) = upper.below_plainly(above)? else { continue };
            if let Ok(stat) = rustix::fs::statat(&above, name, AtFlags::SYMLINK_NOFOLLOW)
                && is_given_file(path, &stat)
            {
                rustix::fs::unlinkat(&above, name, AtFlags::empty())?;
            }
        }
        // The innermost first.
        for path in GIVEN_DIRECTORIES.into_iter().rev() {
            let (above, name) = split(path);
            let Some(above) = upper.below_plainly(above)? else { continue };
            if self.is_in_layers(path)? {
                continue;
            }
            match rustix::fs::unlinkat(&above, name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT | Errno::NOTDIR | Errno::NOTEMPTY) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Whether some layer has a directory there.
    fn is_in_layers(&self, path: &[u8]) -> io::Result<bool> {
        for layer in &self.layers {
            let layer = Tree::open(&self.diff_path(*layer))?;
            if layer.below_plainly(OsStr::from_bytes(path))?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn split(path: &[u8]) -> (&OsStr, &OsStr) {
    let at = path.iter().rposition(|&byte| byte == b'/');
    let (above, name) = at.map_or((&b"."[..], path), |at| (&path[..at], &path[at + 1..]));
    (OsStr::from_bytes(above), OsStr::from_bytes(name))
}

fn is_given_file(path: &[u8], stat: &Stat) -> bool {
    let is_empty_file =
        FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && stat.st_size == 0;
    is_empty_file && GIVEN.contains(&path)
}

/// A walk; it keeps its own stack, since trees may be deeper than that of a thread.
struct Walk<'a> {
    stack: Vec<Level>,
    same: bool,
    tell: &'a mut dyn FnMut(&Found<'_>) -> io::Result<()>,
}

impl Walk<'_> {
    fn run(&mut self) -> io::Result<()> {
        while let Some(level) = self.stack.last_mut() {
            if let Some(name) = level.left.next() {
                self.look(name)?;
            } else if let Some(name) = level.deleted.pop() {
                self.found(&name, ChangeKind::Deleted)?;
            } else {
                self.stack.pop();
            }
        }
        Ok(())
    }

    fn enter(
        &mut self,
        path: Vec<u8>,
        name: OsString,
        (own, lower): (OwnedFd, Vec<OwnedFd>),
        (extent, untold): (Extent, Option<(ChangeKind, bool)>),
    ) -> io::Result<()> {
        let open: usize = self.stack.iter().map(|level| level.lower.len() + 1).sum();
        if self.stack.len() >= DEEPEST || open + lower.len() > MOST_OPEN {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "directories are too deep"));
        }
        let mut all: BTreeSet<_> = names(own.as_fd())?.into_iter().collect();
        if extent != Extent::Touched {
            for layer in &lower {
                all.extend(names(layer.as_fd())?);
            }
        }
        let left = all.into_iter().collect::<Vec<_>>().into_iter();
        let deleted = Vec::new();
        self.stack.push(Level { path, name, own, lower, extent, left, deleted, untold });
        Ok(())
    }

    /// Looks at what the innermost directory and the layers have under a name.
    fn look(&mut self, name: OsString) -> io::Result<()> {
        let Some(level) = self.stack.last_mut() else { return Ok(()) };
        let lower = level.lower(&name)?;
        let own = match rustix::fs::statat(&level.own, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if is_whiteout(&stat) && level.extent != Extent::Copy => None,
            Err(Errno::NOENT) => None,
            result => Some(result?),
        };
        let Some(stat) = own else {
            if lower.is_some() {
                level.deleted.push(name);
            }
            return Ok(());
        };
        let path = join(&level.path, name.as_bytes());
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return self.look_into(path, name, &stat, lower);
        }
        let kind = if lower.is_some() { ChangeKind::Modified } else { ChangeKind::Added };
        if is_given_file(&path, &stat) && (lower.is_none() || path == GIVEN[0]) {
            return Ok(());
        }
        let is_same = match &lower {
            Some(lower) => level.is_same(&name, &stat, lower)?,
            None => false,
        };
        if is_same && (level.extent == Extent::Copy || !self.same) {
            return Ok(());
        }
        self.found(&name, kind)
    }

    fn look_into(
        &mut self,
        path: Vec<u8>,
        name: OsString,
        stat: &Stat,
        lower: Option<Lower>,
    ) -> io::Result<()> {
        let Some(level) = self.stack.last() else { return Ok(()) };
        let own = rustix::fs::openat(&level.own, &name, DIRECTORY, Mode::empty())?;
        let opaque = level.extent == Extent::Touched && is_opaque(own.as_fd());
        let extent = if opaque { Extent::Opaque } else { level.extent };
        let is_same = lower.as_ref().is_some_and(|lower| alike(&lower.stat, stat));
        let kind = if lower.is_some() { ChangeKind::Modified } else { ChangeKind::Added };
        let given = lower.is_none() && GIVEN_DIRECTORIES.contains(&&path[..]);
        let directories = lower.map(|lower| lower.directories).unwrap_or_default();
        let waits = (is_same && !(opaque && self.same)) || given;
        self.enter(path, name, (own, directories), (extent, Some((kind, opaque))))?;
        if waits { Ok(()) } else { self.tell_directories() }
    }

    /// Tells something in the innermost directory, and the directories on the way to it before.
    fn found(&mut self, name: &OsStr, kind: ChangeKind) -> io::Result<()> {
        self.tell_directories()?;
        let Some(level) = self.stack.last() else { return Ok(()) };
        let (path, parent) = (join(&level.path, name.as_bytes()), level.own.as_fd());
        let is_hidden = level.extent == Extent::Opaque;
        (self.tell)(&Found { path: &path, kind, parent, name, is_opaque: false, is_hidden })
    }

    /// Tells the directories that the walk is in, as far as that has not been done.
    fn tell_directories(&mut self) -> io::Result<()> {
        for at in 1..self.stack.len() {
            let Some((kind, is_opaque)) = self.stack[at].untold.take() else { continue };
            let (above, level) = (&self.stack[at - 1], &self.stack[at]);
            let is_hidden = above.extent == Extent::Opaque;
            let (path, parent, name) = (&level.path, above.own.as_fd(), &level.name);
            (self.tell)(&Found { path, kind, parent, name, is_opaque, is_hidden })?;
        }
        Ok(())
    }
}

impl Level {
    /// What the layers show under a name.
    fn lower(&self, name: &OsStr) -> io::Result<Option<Lower>> {
        let mut found: Option<Lower> = None;
        for (layer, directory) in self.lower.iter().enumerate() {
            let stat = match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => continue,
                result => result?,
            };
            if is_whiteout(&stat) {
                break;
            }
            if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                found.get_or_insert(Lower { stat, directories: Vec::new(), layer });
                break;
            }
            let below = rustix::fs::openat(directory, name, DIRECTORY, Mode::empty())?;
            let is_last = is_opaque(below.as_fd());
            let found = found.get_or_insert(Lower { stat, directories: Vec::new(), layer });
            found.directories.push(below);
            if is_last {
                break;
            }
        }
        Ok(found)
    }

    /// Whether something, which is no directory, is what the layers have.
    fn is_same(&self, name: &OsStr, stat: &Stat, lower: &Lower) -> io::Result<bool> {
        let times = |stat: &Stat| (stat.st_mtime, stat.st_mtime_nsec, stat.st_size);
        if !alike(stat, &lower.stat) || times(stat) != times(&lower.stat) {
            return Ok(false);
        }
        let layer = self.lower[lower.layer].as_fd();
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => {
                let target = |parent| rustix::fs::readlinkat(parent, name, Vec::new());
                Ok(target(self.own.as_fd())? == target(layer)?)
            }
            FileType::RegularFile => {
                Ok(capability(self.own.as_fd(), name)? == capability(layer, name)?)
            }
            _ => Ok(true),
        }
    }
}

/// Whether two have one kind, mode, owner and device: for directories all that counts.
fn alike(a: &Stat, b: &Stat) -> bool {
    let parts = |stat: &Stat| (stat.st_mode, stat.st_uid, stat.st_gid, stat.st_rdev);
    parts(a) == parts(b)
}

/// What a file may do, which changes without its time.
fn capability(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<Vec<u8>> {
    let mut value = vec![0; 64];
    let path = through(parent, name);
    match rustix::fs::lgetxattr(path, "security.capability", &mut value[..]) {
        Ok(length) => value.truncate(length),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => value.clear(),
        Err(error) => return Err(error.into()),
    }
    Ok(value)
}
