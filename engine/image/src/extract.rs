//! Unpacks a layer into a directory, as overlay wants it, and never outside of it.
//!
//! Every parent directory is opened with `openat2(RESOLVE_IN_ROOT)`, so the kernel itself keeps
//! symbolic links, absolute or not, inside; the last component is created exclusively and never
//! followed. Whiteouts of the archive become overlay's: a 0:0 character device for a removed
//! file, an attribute for an emptied directory.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;
use tar::EntryType;

use super::limits::Budget;
use super::tarball::{Entry, TarReader};
use tree::{DIRECTORY, OPAQUE, remove, retried, through};

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE_MARKER: &[u8] = b".wh..wh..opq";
/// Fewer zeros are no hole.
const PAGE: usize = 4096;
/// Deeper trees cannot be removed with bounded stack and descriptors.
pub(super) const DEEPEST: usize = 1000;

/// What came of a layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Unpacked {
    /// Bytes of regular files.
    pub(super) size: u64,
    /// Entries of the archive.
    pub(super) entries: u64,
}

/// Unpacks an archive into `root`, an empty directory. Reads the stream to its very end, since
/// what follows the archive counts for its digest.
pub(super) fn extract(
    archive: impl Read,
    root: &Path,
    budget: &mut Budget,
) -> io::Result<Unpacked> {
    unpack(archive, Extractor::new(root, true)?, budget)
}

/// Unpacks an archive of plain files, in which no name means anything but itself.
pub(super) fn plain(archive: impl Read, root: &Path, budget: &mut Budget) -> io::Result<Unpacked> {
    unpack(archive, Extractor::new(root, false)?, budget)
}

fn unpack(
    archive: impl Read,
    mut extractor: Extractor,
    budget: &mut Budget,
) -> io::Result<Unpacked> {
    let mut reader = TarReader::new(archive);
    let mut unpacked = Unpacked::default();
    while let Some(entry) = reader.next_entry()? {
        unpacked.entries += 1;
        let fits = budget.enter(entry.size, entry.stored);
        let applied = fits.and_then(|()| extractor.apply(&entry, &mut reader));
        let written = applied.map_err(|error| {
            let path = String::from_utf8_lossy(&entry.path);
            io::Error::new(error.kind(), format!("cannot unpack {path:?}: {error}"))
        })?;
        unpacked.size = unpacked.size.saturating_add(written);
    }
    io::copy(&mut reader.into_inner(), &mut io::sink())?;
    extractor.finish()?;
    Ok(unpacked)
}

struct Extractor {
    root: OwnedFd,
    /// Whether names are those of a layer: some of them are whiteouts.
    layer: bool,
    /// The directory that was last opened: files come grouped by directory.
    parent: Option<(Vec<u8>, OwnedFd)>,
    /// Times of directories, set last: each file made in one changes them. By path and number: links
    /// may lead elsewhere by then.
    times: Vec<(Vec<u8>, u64, (i64, u32))>,
    buffer: Vec<u8>,
}

impl Extractor {
    fn new(root: &Path, layer: bool) -> io::Result<Self> {
        let root = rustix::fs::openat(CWD, root, DIRECTORY, Mode::empty())?;
        Ok(Self { root, layer, parent: None, times: Vec::new(), buffer: vec![0; 1 << 16] })
    }

    /// Applies one entry; returns the bytes of content it has.
    fn apply<R: Read>(&mut self, entry: &Entry, content: &mut TarReader<R>) -> io::Result<u64> {
        let parts = components(&entry.path)?;
        let Some((name, parents)) = parts.split_last() else {
            return if entry.kind == EntryType::Directory { self.root_entry(entry) } else { Ok(0) };
        };
        let path = parents.join(&b'/');
        let parent = self.open_parent(&path)?;
        let result = self.apply_in(&parent, &path, name, entry, content);
        // Kept for the next entry, unless this one may have replaced what its path goes through.
        if matches!(entry.kind, EntryType::Regular | EntryType::Continuous | EntryType::Link) {
            self.parent = Some((path, parent));
        }
        result
    }

    fn apply_in<R: Read>(
        &mut self,
        parent: &OwnedFd,
        path: &[u8],
        name: &[u8],
        entry: &Entry,
        content: &mut TarReader<R>,
    ) -> io::Result<u64> {
        if self.layer && name == OPAQUE_MARKER {
            rustix::fs::fsetxattr(reopen(parent)?, OPAQUE, b"y", XattrFlags::empty())?;
            return Ok(0);
        }
        if let Some(hidden) = name.strip_prefix(WHITEOUT).filter(|_| self.layer) {
            return whiteout(parent.as_fd(), hidden).map(|()| 0);
        }
        let name = OsStr::from_bytes(name);
        let parent = parent.as_fd();
        match entry.kind {
            EntryType::Directory => {
                let number = directory(parent, name, entry)?;
                let full = [path, b"/", name.as_bytes()].concat();
                self.times.push((full, number, entry.mtime));
                Ok(0)
            }
            EntryType::Regular | EntryType::Continuous => {
                remove(parent, name)?;
                self.file(parent, name, entry, content)
            }
            EntryType::Link => self.hard_link(parent, name, entry).map(|()| 0),
            EntryType::Symlink => {
                remove(parent, name)?;
                rustix::fs::symlinkat(OsStr::from_bytes(&entry.link), parent, name)?;
                metadata(parent, name, entry).map(|()| 0)
            }
            EntryType::Char | EntryType::Block | EntryType::Fifo => {
                remove(parent, name)?;
                node(parent, name, entry).map(|()| 0)
            }
            other => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!("entries of type {other:?} are not supported"),
            )),
        }
    }

    fn root_entry(&mut self, entry: &Entry) -> io::Result<u64> {
        own(self.root.as_fd(), entry)?;
        set_xattrs(self.root.as_fd(), OsStr::new("."), entry)?;
        let number = rustix::fs::fstat(&self.root)?.st_ino;
        self.times.push((b".".to_vec(), number, entry.mtime));
        Ok(0)
    }

    /// Opens a directory inside the root, making what is missing of it.
    fn open_parent(&mut self, path: &[u8]) -> io::Result<OwnedFd> {
        if let Some((known, fd)) = self.parent.take()
            && known == path
        {
            return Ok(fd);
        }
        match self.open(path) {
            Err(Errno::NOENT) => {}
            result => return Ok(result?),
        }
        for (at, byte) in path.iter().chain(b"/").enumerate() {
            if *byte != b'/' {
                continue;
            }
            let upto = &path[..at];
            match self.open(upto) {
                Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
                Ok(_) => continue,
            }
            let (above, name) = match upto.iter().rposition(|&byte| byte == b'/') {
                Some(slash) => (&upto[..slash], &upto[slash + 1..]),
                None => (&b""[..], upto),
            };
            let above = self.open(above)?;
            rustix::fs::mkdirat(&above, OsStr::from_bytes(name), Mode::from_raw_mode(0o755))?;
            rustix::fs::chmodat(
                &above,
                OsStr::from_bytes(name),
                Mode::from_raw_mode(0o755),
                AtFlags::empty(),
            )?;
        }
        Ok(self.open(path)?)
    }

    fn open(&self, path: &[u8]) -> rustix::io::Result<OwnedFd> {
        let path = if path.is_empty() { b"." } else { path };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let path = OsStr::from_bytes(path);
        retried(|| rustix::fs::openat2(&self.root, path, flags, Mode::empty(), resolve))
    }

    fn file<R: Read>(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        entry: &Entry,
        content: &mut TarReader<R>,
    ) -> io::Result<u64> {
        let mut file = new_file(parent, name)?;
        let written = fill(&mut file, content, &mut self.buffer)?;
        own(file.as_fd(), entry)?;
        // After the owner: changing that drops file capabilities.
        set_xattrs(parent, name, entry)?;
        rustix::fs::futimens(&file, &times(entry.mtime))?;
        Ok(written)
    }

    fn hard_link(&mut self, parent: BorrowedFd<'_>, name: &OsStr, entry: &Entry) -> io::Result<()> {
        let target = components(&entry.link)?;
        if target == components(&entry.path)? {
            return Ok(());
        }
        let Some((base, above)) = target.split_last() else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "hard link to the root"));
        };
        let above = self.open(&above.join(&b'/'))?;
        let base = OsStr::from_bytes(base);
        // Looked up before the name is cleared, so that an error leaves what was there.
        rustix::fs::statat(&above, base, AtFlags::SYMLINK_NOFOLLOW)?;
        // Links may lead to where this is itself.
        let directories = [rustix::fs::fstat(&above)?, rustix::fs::fstat(parent)?];
        if base == name && directories[0].st_ino == directories[1].st_ino {
            return Ok(());
        }
        remove(parent, name)?;
        // Without AT_SYMLINK_FOLLOW: a link to a symbolic link is a link to that link itself.
        Ok(rustix::fs::linkat(&above, base, parent, name, AtFlags::empty())?)
    }

    fn finish(mut self) -> io::Result<()> {
        self.parent = None;
        for (path, number, mtime) in std::mem::take(&mut self.times).into_iter().rev() {
            let fd = match self.open(&path) {
                // Replaced by a later entry.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                result => result?,
            };
            if rustix::fs::fstat(&fd)?.st_ino != number {
                continue;
            }
            rustix::fs::utimensat(&fd, ".", &times(mtime), AtFlags::empty())?;
        }
        Ok(())
    }
}

/// The parts of a path; an error if it could mean something outside.
fn components(path: &[u8]) -> io::Result<Vec<&[u8]>> {
    let invalid = |why| io::Error::new(io::ErrorKind::InvalidData, why);
    let mut parts = Vec::new();
    for part in path.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err(invalid("the path leaves the layer")),
            _ if part.contains(&0) => return Err(invalid("the path has a zero byte")),
            _ => parts.push(part),
        }
    }
    if parts.len() > DEEPEST {
        return Err(invalid("the path is too deep"));
    }
    Ok(parts)
}

fn whiteout(parent: BorrowedFd<'_>, hidden: &[u8]) -> io::Result<()> {
    // `.wh..wh.aufs` and its kin: bookkeeping of a file system of old.
    if hidden.starts_with(WHITEOUT) {
        return Ok(());
    }
    if matches!(hidden, b"" | b"." | b"..") {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "whiteout of nothing"));
    }
    let hidden = OsStr::from_bytes(hidden);
    remove(parent, hidden)?;
    rustix::fs::mknodat(parent, hidden, FileType::CharacterDevice, Mode::empty(), 0)?;
    Ok(())
}

/// Makes a directory, or takes the one that is there; its number.
fn directory(parent: BorrowedFd<'_>, name: &OsStr, entry: &Entry) -> io::Result<u64> {
    let mut opaque = false;
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {}
        Ok(stat) => {
            // The layer removes what is below and makes a directory of that name.
            opaque = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
                && stat.st_rdev == 0;
            remove(parent, name)?;
            rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o700))?;
        }
        Err(Errno::NOENT) => rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o700))?,
        Err(error) => return Err(error.into()),
    }
    let fd = rustix::fs::openat(parent, name, DIRECTORY, Mode::empty())?;
    own(fd.as_fd(), entry)?;
    set_xattrs(parent, name, entry)?;
    if opaque {
        rustix::fs::fsetxattr(&fd, OPAQUE, b"y", XattrFlags::empty())?;
    }
    Ok(rustix::fs::fstat(&fd)?.st_ino)
}

/// Makes a device or a pipe. Its mode comes by its inode: the container may swap the name for a link.
pub(super) fn node(parent: BorrowedFd<'_>, name: &OsStr, entry: &Entry) -> io::Result<()> {
    let (kind, device) = entry.node();
    rustix::fs::mknodat(parent, name, kind, Mode::empty(), device)?;
    metadata(parent, name, entry)?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    if FileType::from_raw_mode(rustix::fs::fstat(&made)?.st_mode) != kind {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it was swapped while it was made"));
    }
    let path = format!("/proc/self/fd/{}", made.as_raw_fd());
    Ok(rustix::fs::chmod(path, Mode::from_raw_mode(entry.mode))?)
}

/// Makes a file where there is nothing, for nobody else to read until it has its owner.
pub(super) fn new_file(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o600))?))
}

/// Writes the content of a new file; returns how many bytes it has. Holes stay holes.
pub(super) fn fill<R: Read>(
    file: &mut File,
    content: &mut TarReader<R>,
    buffer: &mut [u8],
) -> io::Result<u64> {
    let mut written = 0;
    loop {
        let hole = content.skip_hole();
        if hole > 0 {
            written += hole;
            file.seek(SeekFrom::Start(written))?;
        }
        let count = content.read(buffer)?;
        if count == 0 {
            break;
        }
        // A page of zeros and more is a hole again, as it may have been where it comes from.
        if count >= PAGE && buffer[..count].iter().all(|&byte| byte == 0) {
            file.seek_relative(i64::try_from(count).unwrap_or(0))?;
        } else {
            file.write_all(&buffer[..count])?;
        }
        written += count as u64;
    }
    // It may end with a hole.
    file.set_len(written)?;
    Ok(written)
}

/// Owner, attributes and time of what is not opened.
pub(super) fn metadata(parent: BorrowedFd<'_>, name: &OsStr, entry: &Entry) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
    rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    set_xattrs(parent, name, entry)?;
    let times = times(entry.mtime);
    Ok(rustix::fs::utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

pub(super) fn own(fd: BorrowedFd<'_>, entry: &Entry) -> io::Result<()> {
    let owner = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
    tree::own(fd, owner, Mode::from_raw_mode(entry.mode))
}

pub(super) fn set_xattrs(parent: BorrowedFd<'_>, name: &OsStr, entry: &Entry) -> io::Result<()> {
    for (key, value) in &entry.xattrs {
        // Overlay's own attributes redirect lookups; an image has no say in them.
        if key.starts_with(b"trusted.") || key.contains(&0) {
            continue;
        }
        let path = through(parent, name);
        let key = OsStr::from_bytes(key);
        match rustix::fs::lsetxattr(path, key, value, XattrFlags::empty()) {
            // What this file system or kernel has no notion of, such as SELinux labels.
            Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::PERM)
                if !key.as_bytes().starts_with(b"security.capability") => {}
            result => result?,
        }
    }
    Ok(())
}

pub(super) fn times((seconds, nanoseconds): (i64, u32)) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() };
    Timestamps { last_access: time, last_modification: time }
}

/// A path descriptor opened for real.
fn reopen(fd: &OwnedFd) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(fd, ".", flags, Mode::empty())?)
}

#[cfg(test)]
mod tests;
