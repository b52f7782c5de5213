//! Copies a tree over another, as overlay would show the two.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, SeekFrom, Stat, Timespec, Timestamps, Uid,
    XattrFlags,
};
use rustix::io::Errno;

use super::{DEEPEST, DIRECTORY, is_opaque, names, regular, remove, retried, through};

/// The longest value, and the longest list of names, of extended attributes in Linux.
const LONGEST_ATTRIBUTE: usize = 1 << 16;

/// What a copy is in place of what it was made of.
#[derive(Clone, Copy, Default)]
pub struct Given<'a> {
    /// Whose it is.
    pub owner: Option<(u32, u32)>,
    /// What may be done with it.
    pub mode: Option<u32>,
    /// What is left out, by its path below what is copied.
    pub skip: Option<&'a dyn Fn(&Path) -> bool>,
}

impl std::fmt::Debug for Given<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (owner, mode) = (self.owner, self.mode);
        f.debug_struct("Given").field("owner", &owner).field("mode", &mode).finish_non_exhaustive()
    }
}

impl Given<'_> {
    /// The same for a directory that is made or entered.
    fn apply(&self, mut stat: Stat) -> Stat {
        if let Some((uid, gid)) = self.owner {
            (stat.st_uid, stat.st_gid) = (uid, gid);
        }
        if let Some(mode) = self.mode {
            stat.st_mode = stat.st_mode & !0o7777 | mode & 0o7777;
        }
        stat
    }
}

/// A copy under way. It keeps its own stack: trees may be deeper than that of a thread.
struct Copy<'a> {
    root: BorrowedFd<'a>,
    given: Given<'a>,
    /// The directories below the root that the copy is in.
    stack: Vec<Level>,
    /// Files with several names, by device and inode, and the first of the names.
    links: HashMap<(u64, u64), PathBuf>,
}

/// A directory that is being copied.
struct Level {
    name: OsString,
    from: Rc<OwnedFd>,
    to: Rc<OwnedFd>,
    stat: Stat,
    left: std::vec::IntoIter<OsString>,
}

pub(super) fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    contents_of(from, to, Given::default())?;
    root_metadata(from, to)
}

/// Copies all that is in a directory into another one, which stays as it is otherwise.
pub(super) fn contents_of(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    given: Given<'_>,
) -> io::Result<()> {
    let mut copy = Copy { root: to, given, stack: Vec::new(), links: HashMap::new() };
    for name in names(from)? {
        copy.entry(from, to, &name).map_err(of(Path::new(&name)))?;
        copy.descend()?;
    }
    Ok(())
}

/// Copies one thing that is no directory, in place of whatever has its new name.
pub(super) fn one(
    (from, name): (BorrowedFd<'_>, &OsStr),
    (to, new): (BorrowedFd<'_>, &OsStr),
    given: Given<'_>,
) -> io::Result<()> {
    let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        return Err(Errno::ISDIR.into());
    }
    remove(to, new)
        .and_then(|()| single((from, name), (to, new), &given.apply(stat)))
        .map_err(of(Path::new(name)))
}

/// Gives a directory that was made the owner, mode and attributes of another, or what is given.
pub(super) fn root_given(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    given: Given<'_>,
) -> io::Result<()> {
    own(to, &given.apply(rustix::fs::fstat(from)?))?;
    let dot = OsStr::new(".");
    attributes(&through(from, dot), &through(to, dot))
}

/// Gives a directory the owner, mode, attributes and times of another.
pub(super) fn root_metadata(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    let stat = rustix::fs::fstat(from)?;
    own(to, &stat)?;
    let dot = OsStr::new(".");
    attributes(&through(from, dot), &through(to, dot))?;
    Ok(rustix::fs::futimens(to, &times(&stat))?)
}

/// Says of which file an error is.
fn of(path: &Path) -> impl Fn(io::Error) -> io::Error + '_ {
    move |error| io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

impl Copy<'_> {
    /// Copies what is in the directory that was last entered, and leaves it.
    fn descend(&mut self) -> io::Result<()> {
        while let Some(mut level) = self.stack.pop() {
            let Some(name) = level.left.next() else {
                leave(&level).map_err(|error| {
                    let path = self.path_of(self.stack.len(), &level.name);
                    of(&path)(error)
                })?;
                continue;
            };
            let depth = self.stack.len();
            let (from, to) = (level.from.clone(), level.to.clone());
            self.stack.push(level);
            self.entry(from.as_fd(), to.as_fd(), &name)
                .map_err(|error| of(&self.path_of(depth + 1, &name))(error))?;
        }
        Ok(())
    }

    /// The path below the root of something in the first `depth` directories.
    fn path_of(&self, depth: usize, name: &OsStr) -> PathBuf {
        let above = self.stack.iter().take(depth).map(|level| level.name.as_os_str());
        above.chain([name]).collect()
    }

    fn entry(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
        if self.given.skip.is_some_and(|skip| skip(&self.path_of(self.stack.len(), name))) {
            return Ok(());
        }
        let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let stat = self.given.apply(stat);
        let kind = FileType::from_raw_mode(stat.st_mode);
        match kind {
            FileType::Directory => return self.enter(from, to, name, stat),
            FileType::CharacterDevice if stat.st_rdev == 0 => return remove(to, name),
            _ => remove(to, name)?,
        }
        if stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino)) {
                return self.link(first, to, name);
            }
            let path = self.path_of(self.stack.len(), name);
            self.links.insert((stat.st_dev, stat.st_ino), path);
        }
        single((from, name), (to, name), &stat)
    }

    /// Makes a directory, if it is not there, and goes into it.
    fn enter(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &OsStr,
        stat: Stat,
    ) -> io::Result<()> {
        if self.stack.len() >= DEEPEST {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "directories are too deep"));
        }
        let from = rustix::fs::openat(from, name, DIRECTORY, Mode::empty())?;
        let known = rustix::fs::openat(to, name, DIRECTORY, Mode::empty());
        let to = match known {
            Ok(known) if !is_opaque(from.as_fd()) => known,
            _ => {
                remove(to, name)?;
                rustix::fs::mkdirat(to, name, Mode::from_raw_mode(0o700))?;
                rustix::fs::openat(to, name, DIRECTORY, Mode::empty())?
            }
        };
        let left = names(from.as_fd())?.into_iter();
        let (from, to) = (Rc::new(from), Rc::new(to));
        self.stack.push(Level { name: name.to_owned(), from, to, stat, left });
        Ok(())
    }

    /// A further name of a file that was copied.
    fn link(&self, first: &Path, to: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
        let (above, first) = (first.parent().unwrap_or(Path::new("")), first.file_name());
        let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let above =
            retried(|| rustix::fs::openat2(self.root, above, flags, Mode::empty(), resolve))?;
        let first = first.unwrap_or_default();
        Ok(rustix::fs::linkat(&above, first, to, name, AtFlags::empty())?)
    }
}

/// Copies a file, a link, a device; nothing has its new name.
fn single(
    (from, name): (BorrowedFd<'_>, &OsStr),
    (to, new): (BorrowedFd<'_>, &OsStr),
    stat: &Stat,
) -> io::Result<()> {
    let kind = FileType::from_raw_mode(stat.st_mode);
    match kind {
        FileType::RegularFile => return file((from, name), (to, new), stat),
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(from, name, Vec::new())?;
            rustix::fs::symlinkat(target.as_c_str(), to, new)?;
        }
        _ => node(to, new, kind, stat)?,
    }
    let (uid, gid) = owner(stat);
    rustix::fs::chownat(to, new, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    attributes(&through(from, name), &through(to, new))?;
    Ok(rustix::fs::utimensat(to, new, &times(stat), AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Gives a directory that is whole what its entries would have changed.
fn leave(level: &Level) -> io::Result<()> {
    own(level.to.as_fd(), &level.stat)?;
    let dot = OsStr::new(".");
    attributes(&through(level.from.as_fd(), dot), &through(level.to.as_fd(), dot))?;
    Ok(rustix::fs::futimens(&level.to, &times(&level.stat))?)
}

fn file(
    (from, name): (BorrowedFd<'_>, &OsStr),
    (to, new): (BorrowedFd<'_>, &OsStr),
    stat: &Stat,
) -> io::Result<()> {
    // What was a file a moment ago may be a pipe now, or a device.
    let swapped =
        || io::Error::new(io::ErrorKind::InvalidData, "it was swapped while it was copied");
    let source = regular(from, name)?.ok_or_else(swapped)?;
    let found = rustix::fs::fstat(&source)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let target = File::from(rustix::fs::openat(to, new, flags, Mode::from_raw_mode(0o600))?);
    contents(&source, &target, found.st_size)?;
    own(target.as_fd(), stat)?;
    // After the owner: changing that drops file capabilities.
    attributes(&through(from, name), &through(to, new))?;
    Ok(rustix::fs::futimens(&target, &times(stat))?)
}

/// Copies the data of a file and leaves its holes holes.
fn contents(source: &File, target: &File, size: i64) -> io::Result<()> {
    let size = u64::try_from(size).unwrap_or(0);
    let mut end = 0;
    while end < size {
        let start = match rustix::fs::seek(source, SeekFrom::Data(end)) {
            // Nothing but a hole is left.
            Err(Errno::NXIO) => break,
            // This file system knows of no holes.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => end,
            result => result?,
        };
        end = rustix::fs::seek(source, SeekFrom::Hole(start)).unwrap_or(size).min(size);
        if end <= start {
            break;
        }
        rustix::fs::seek(source, SeekFrom::Start(start))?;
        rustix::fs::seek(target, SeekFrom::Start(start))?;
        io::copy(&mut source.take(end - start), &mut &*target)?;
    }
    target.set_len(size)
}

fn node(to: BorrowedFd<'_>, name: &OsStr, kind: FileType, stat: &Stat) -> io::Result<()> {
    // Without any bit, so that the umask has no say; the mode comes by the inode itself.
    rustix::fs::mknodat(to, name, kind, Mode::empty(), stat.st_rdev)?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = rustix::fs::openat(to, name, flags, Mode::empty())?;
    if FileType::from_raw_mode(rustix::fs::fstat(&made)?.st_mode) != kind {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "it was swapped while it was copied",
        ));
    }
    let path = format!("/proc/self/fd/{}", made.as_raw_fd());
    Ok(rustix::fs::chmod(path, mode(stat))?)
}

fn own(fd: BorrowedFd<'_>, stat: &Stat) -> io::Result<()> {
    super::own(fd, owner(stat), mode(stat))
}

fn owner(stat: &Stat) -> (Uid, Gid) {
    (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid))
}

fn mode(stat: &Stat) -> Mode {
    Mode::from_raw_mode(stat.st_mode & 0o7777)
}

fn times(stat: &Stat) -> Timestamps {
    let time = |seconds, nanoseconds: u64| Timespec {
        tv_sec: seconds,
        tv_nsec: i64::try_from(nanoseconds).unwrap_or(0),
    };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

/// Copies the extended attributes, but for overlay's own.
fn attributes(from: &OsStr, to: &OsStr) -> io::Result<()> {
    let mut names = vec![0; LONGEST_ATTRIBUTE];
    let length = match rustix::fs::llistxattr(from, &mut names[..]) {
        Err(Errno::OPNOTSUPP) => return Ok(()),
        result => result?,
    };
    for name in names[..length].split(|&byte| byte == 0) {
        if name.is_empty() || name.starts_with(b"trusted.overlay.") {
            continue;
        }
        let name = OsString::from_vec(name.to_owned());
        let mut value = vec![0; LONGEST_ATTRIBUTE];
        let length = rustix::fs::lgetxattr(from, &name, &mut value[..])?;
        match rustix::fs::lsetxattr(to, &name, &value[..length], XattrFlags::empty()) {
            Err(Errno::OPNOTSUPP) if !name.as_bytes().starts_with(b"security.capability") => {}
            result => result?,
        }
    }
    Ok(())
}
