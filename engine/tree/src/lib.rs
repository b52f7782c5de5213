//! Trees of files that strangers fill: root file systems, layers, volumes.
//!
//! What is in such a tree is not trusted. A link in it may point anywhere, and a container that has
//! the tree mounted may swap a directory for a link at any moment. So nothing here takes the path
//! of something inside: a tree is opened once, everything below is reached from its descriptor with
//! `openat2`, and what is made is made exclusively and never followed.

mod copy;
pub mod identity;
pub mod mounts;
mod part;
mod resolve;
pub mod walk;

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, RenameFlags, ResolveFlags, Stat, Uid,
};
use rustix::io::Errno;

pub use copy::Given;
pub use identity::{IdMap, IdRange};
pub use mounts::mount_in;
pub use part::Unreachable;

/// Deeper trees cannot be walked with a bounded number of descriptors.
pub const DEEPEST: usize = 1100;

/// An open directory, the root of a tree.
#[derive(Debug)]
pub struct Tree(OwnedFd);

impl Tree {
    /// Opens a directory of ours; a link is not followed.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(rustix::fs::openat(CWD, path, DIRECTORY, Mode::empty())?))
    }

    /// The directory at a path below, links resolved as if this were the root of all; nothing if
    /// there is no directory.
    pub fn below(&self, path: &Path) -> io::Result<Option<Self>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        match retried(|| rustix::fs::openat2(&self.0, path, flags, Mode::empty(), resolve)) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            result => Ok(Some(Self(result?))),
        }
    }

    /// The directory at a path below, if that goes through directories only.
    pub fn below_plainly(&self, path: impl AsRef<Path>) -> io::Result<Option<Self>> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let open =
            || rustix::fs::openat2(&self.0, path.as_ref(), DIRECTORY, Mode::empty(), resolve);
        match retried(open) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            result => Ok(Some(Self(result?))),
        }
    }

    /// The regular file at a path below, links resolved as if this were the root of all; nothing if
    /// there is none. What is no file is not opened, see [`regular`].
    pub fn file(&self, path: &Path) -> io::Result<Option<File>> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        match retried(|| rustix::fs::openat2(&self.0, path, flags, Mode::empty(), resolve)) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            result => opened(&result?),
        }
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> io::Result<bool> {
        Ok(names(self.as_fd())?.is_empty())
    }

    /// Makes a file directly below the root, in place of whatever has its name.
    pub fn write(&self, name: &str, bytes: &[u8], mode: u32) -> io::Result<()> {
        let name = plain(name)?;
        remove(self.as_fd(), name)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.0, name, flags, Mode::from_raw_mode(0o600))?;
        rustix::fs::fchmod(&fd, Mode::from_raw_mode(mode))?;
        File::from(fd).write_all(bytes)
    }

    /// Copies all of `from` over what is here, as overlay would show it: whiteouts of `from` remove,
    /// opaque directories replace. Owners, modes, attributes, times and holes come along.
    pub fn copy_from(&self, from: &Self) -> io::Result<()> {
        copy::copy(from.as_fd(), self.as_fd())
    }

    /// Copies all of `from` into this directory, which stays as it is otherwise. What is copied is
    /// whose and what it is given to be.
    pub fn take_contents(&self, from: &Self, given: Given<'_>) -> io::Result<()> {
        copy::contents_of(from.as_fd(), self.as_fd(), given)
    }

    /// Gives this directory the owner, mode and attributes of another, or what is given.
    pub fn take_metadata(&self, from: &Self, given: Given<'_>) -> io::Result<()> {
        copy::root_given(from.as_fd(), self.as_fd(), given)
    }

    /// Copies one thing of `from` that is no directory here, under a name that is no path, in place of
    /// whatever has it.
    pub fn take(
        &self,
        (from, name): (&Self, &OsStr),
        new: &OsStr,
        given: Given<'_>,
    ) -> io::Result<()> {
        copy::one((from.as_fd(), name), (self.as_fd(), new), given)
    }

    /// Moves everything here, the root's own owner and mode included, into another directory of the
    /// same file system. What is there already stays as it is.
    pub fn move_into(&self, to: &Self) -> io::Result<()> {
        for name in names(self.as_fd())? {
            match rustix::fs::renameat_with(&self.0, &name, &to.0, &name, RenameFlags::NOREPLACE) {
                Err(Errno::EXIST) => {}
                // NFS and others cannot do both in one step.
                Err(Errno::INVAL | Errno::NOSYS) => {
                    let there = rustix::fs::statat(&to.0, &name, AtFlags::SYMLINK_NOFOLLOW);
                    if there.err() == Some(Errno::NOENT) {
                        rustix::fs::renameat(&self.0, &name, &to.0, &name)?;
                    }
                }
                result => result?,
            }
        }
        copy::root_metadata(self.as_fd(), to.as_fd())
    }

    /// Bytes of the files in it, each file once, whatever names it has. What vanishes meanwhile, or
    /// may not be read, does not count.
    pub fn size(&self) -> u64 {
        self.size_noting(|| ())
    }

    fn size_noting(&self, note: impl FnMut()) -> u64 {
        let mut files = Files::default();
        // A root that cannot be read has nothing that could be counted.
        let _ = each_file(self.as_fd(), note, |stat| files.count(stat));
        files.bytes
    }
}

impl From<OwnedFd> for Tree {
    /// The tree below a directory that is open.
    fn from(directory: OwnedFd) -> Self {
        Self(directory)
    }
}

impl From<Tree> for OwnedFd {
    fn from(tree: Tree) -> Self {
        tree.0
    }
}

impl AsFd for Tree {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Files whose bytes are added up.
#[derive(Debug, Default)]
pub struct Files {
    /// Those with several names.
    seen: HashSet<(u64, u64)>,
    bytes: u64,
}

impl Files {
    /// Adds a regular file, once whatever names it has. Nothing else counts.
    pub fn count(&mut self, stat: &Stat) {
        let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        if is_file && (stat.st_nlink < 2 || self.seen.insert((stat.st_dev, stat.st_ino))) {
            self.bytes = self.bytes.saturating_add(u64::try_from(stat.st_size).unwrap_or(0));
        }
    }

    /// How many they are together.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// Bytes of the files in a directory of ours; zero if it is not there.
pub fn size_of(path: &Path) -> u64 {
    size_noting(path, || ())
}

/// The same; `note` is called at each step of a walk that may be long.
pub fn size_noting(path: &Path, note: impl FnMut()) -> u64 {
    Tree::open(path).map_or(0, |tree| tree.size_noting(note))
}

/// How a directory of a stranger's tree is opened.
pub const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Shows `count` each regular file below.
fn each_file(
    root: BorrowedFd<'_>,
    mut note: impl FnMut(),
    mut count: impl FnMut(&Stat),
) -> io::Result<()> {
    let mut stack = vec![(root.try_clone_to_owned()?, names(root)?)];
    while let Some((directory, mut left)) = stack.pop() {
        let Some(name) = left.pop() else { continue };
        note();
        let stat = rustix::fs::statat(&directory, &name, AtFlags::SYMLINK_NOFOLLOW);
        let kind = stat.map(|stat| FileType::from_raw_mode(stat.st_mode));
        let below = match kind {
            Ok(FileType::Directory) if stack.len() < DEEPEST => {
                rustix::fs::openat(&directory, &name, DIRECTORY, Mode::empty()).ok()
            }
            _ => None,
        };
        if let (Ok(stat), Ok(FileType::RegularFile)) = (stat, kind) {
            count(&stat);
        }
        stack.push((directory, left));
        if let Some(below) = below {
            let left = names(below.as_fd()).unwrap_or_default();
            stack.push((below, left));
        }
    }
    Ok(())
}

/// Gives something its owner and mode; the owner first, since changing it drops set-user-id.
pub fn own(fd: BorrowedFd<'_>, owner: (Uid, Gid), mode: Mode) -> io::Result<()> {
    rustix::fs::fchown(fd, Some(owner.0), Some(owner.1))?;
    Ok(rustix::fs::fchmod(fd, mode)?)
}

/// The names in a directory, read by a descriptor of its own.
pub fn names(directory: BorrowedFd<'_>) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            names.push(OsString::from_vec(name.to_owned()));
        }
    }
    Ok(names)
}

/// A name that is no path.
fn plain(name: &str) -> io::Result<&OsStr> {
    let mut components = Path::new(name).components();
    match (components.next(), components.next()) {
        (Some(Component::Normal(only)), None) if only.len() == name.len() => Ok(only),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is no file name"))),
    }
}

/// The attribute of a directory in a layer that hides what the layers below have of it.
pub const OPAQUE: &str = "trusted.overlay.opaque";

/// Whether a directory of a layer hides what the layers below have of it.
pub fn is_opaque(directory: BorrowedFd<'_>) -> bool {
    let mut value = [0; 1];
    matches!(rustix::fs::fgetxattr(directory, OPAQUE, &mut value[..]), Ok(1) if &value == b"y")
}

/// Whether something in a layer says that the layers below do not have it.
pub fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Removes a file or a whole directory; what is not there is gone already.
pub fn remove(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        // The standard library's walk is by descriptors too.
        Err(Errno::ISDIR | Errno::PERM) => std::fs::remove_dir_all(through(parent, name)),
        Err(error) => Err(error.into()),
    }
}

/// Opens the regular file of a name, which is no path; nothing if that is something else. To open a
/// device may do something, and to open a pipe may wait: a stranger's is looked at first.
pub fn regular(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<Option<File>> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    opened(&rustix::fs::openat(parent, name, flags, Mode::empty())?)
}

/// Opens what a descriptor stands for, if it is a regular file.
fn opened(found: &OwnedFd) -> io::Result<Option<File>> {
    let kind = FileType::from_raw_mode(rustix::fs::fstat(found)?.st_mode);
    if kind != FileType::RegularFile {
        return Ok(None);
    }
    File::open(format!("/proc/self/fd/{}", found.as_raw_fd())).map(Some)
}

/// A path for calls that take no descriptor; its users do not follow the last component.
pub fn through(parent: BorrowedFd<'_>, name: &OsStr) -> OsString {
    let mut path = format!("/proc/self/fd/{}/", parent.as_raw_fd()).into_bytes();
    path.extend(name.as_bytes());
    OsString::from_vec(path)
}

/// `openat2` gives up when anything on the way is renamed, anywhere on the host.
pub fn retried<T>(mut open: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    loop {
        match open() {
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests;
