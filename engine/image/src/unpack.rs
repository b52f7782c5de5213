//! Unpacks archives into directories of containers, and nowhere else.
//!
//! Every parent is opened below the directory, the last part is made exclusively and never followed.
//! A link that leads out of the directory is followed only within the container's root, as the
//! container itself would, and only if it was there before: an archive leads nothing astray by links
//! of its own (CVE-2026-17106). Compressed archives are decompressed here (CVE-2026-41567).

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use tar::EntryType;

use super::compression::Decoder;
use super::extract::{DEEPEST, fill, metadata, new_file, node, own, set_xattrs, times};
use super::limits::{Budget, Limited, Limits, Packed, Room};
use super::pack::join;
use super::tarball::{Entry, TarReader};
use tree::{DIRECTORY, IdMap, remove, retried};

/// Where an archive is unpacked, and how.
#[derive(Clone, Copy, Debug)]
pub struct Plain<'a> {
    /// The root of the container.
    pub root: BorrowedFd<'a>,
    /// The directory.
    pub directory: BorrowedFd<'a>,
    /// Its path in the root.
    pub path: &'a [u8],
    /// No file takes the place of a directory, and none the other way round.
    pub keep_kinds: bool,
    /// Whom all belongs to.
    pub owner: Owner,
    /// Who users of the archive are on the host; who they are called if absent.
    pub map: Option<&'a IdMap>,
    /// The first part of all paths in the archive, `.` if they have none in common, and what comes
    /// in its place.
    pub rename: Option<(&'a [u8], &'a [u8])>,
}

/// Whom the files of an archive belong to when they are unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Whom the archive says.
    Archive,
    /// This user and group.
    User(u32, u32),
    /// Whoever unpacks it.
    Caller,
}

impl Owner {
    /// Makes an entry belong to whom it should; `caller` is who unpacks it.
    fn take(self, entry: &mut Entry, caller: (u32, u32)) {
        match self {
            Self::Archive => {}
            Self::User(uid, gid) => (entry.uid, entry.gid) = (uid, gid),
            Self::Caller => {
                (entry.uid, entry.gid) = caller;
                // Only root may give files capabilities.
                if caller.0 != 0 {
                    entry.xattrs.retain(|(key, _)| !key.starts_with(b"security."));
                }
            }
        }
    }
}

/// Unpacks an archive, compressed or not, and reads it to its end.
pub fn unpack(archive: impl Read, plain: &Plain<'_>) -> io::Result<()> {
    within(Limits::default(), archive, plain)
}

fn within(limits: Limits, archive: impl Read, plain: &Plain<'_>) -> io::Result<()> {
    let packed = Packed::default();
    let decoder = Decoder::new(packed.count(archive))?;
    let mut reader = TarReader::new(Limited::new(decoder, limits, packed.clone()));
    let room = Room::of(Path::new(&format!("/proc/self/fd/{}", plain.directory.as_raw_fd())));
    let mut budget = Budget::new(limits, packed, room);
    let caller = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let mut unpacker =
        Unpacker { plain, linked: false, times: Vec::new(), buffer: vec![0; 1 << 16] };
    while let Some(mut entry) = reader.next_entry()? {
        let fits = budget.enter(entry.size, entry.stored);
        fits.map_err(|error| of(&entry.path, &error))?;
        plain.owner.take(&mut entry, caller);
        if let Some(map) = plain.map {
            let outside = map.outside(entry.uid, entry.gid);
            (entry.uid, entry.gid) = outside.map_err(|error| named(&entry.path, error))?;
        }
        let applied = unpacker.apply(&entry, &mut reader);
        applied.map_err(|error| named(&entry.path, error))?;
    }
    io::copy(&mut reader.into_inner(), &mut io::sink())?;
    unpacker.finish();
    Ok(())
}

impl Plain<'_> {
    /// The parts of a path of the archive. None leads out.
    fn parts<'p>(&'p self, path: &'p [u8]) -> io::Result<Vec<&'p [u8]>> {
        let mut parts = Vec::new();
        for part in path.split(|&byte| byte == b'/') {
            match part {
                b"" | b"." => {}
                b".." if parts.pop().is_some() => {}
                b".." => return Err(self.outside(path)),
                _ if part.contains(&0) => return Err(io::ErrorKind::InvalidData.into()),
                _ => parts.push(part),
            }
        }
        match self.rename {
            Some((b"." | b"/", new)) => parts.insert(0, new),
            Some((old, new)) if parts.first() == Some(&old) => parts[0] = new,
            _ => {}
        }
        if parts.len() > DEEPEST {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the path is too deep"));
        }
        Ok(parts)
    }

    fn outside(&self, path: &[u8]) -> io::Error {
        let (path, here) = (String::from_utf8_lossy(path), String::from_utf8_lossy(self.path));
        io::Error::new(io::ErrorKind::InvalidData, format!("{path:?} is outside of {here:?}"))
    }
}

struct Unpacker<'a> {
    plain: &'a Plain<'a>,
    /// Whether the archive has had a symbolic link.
    linked: bool,
    /// Times of directories, set last: each file made in one changes them.
    times: Vec<(OwnedFd, (i64, u32))>,
    buffer: Vec<u8>,
}

impl Unpacker<'_> {
    fn apply<R: Read>(&mut self, entry: &Entry, content: &mut TarReader<R>) -> io::Result<()> {
        let plain = self.plain;
        let parts = plain.parts(&entry.path)?;
        let Some((name, parents)) = parts.split_last() else { return Ok(()) };
        let parent = self.parent(parents)?;
        let (parent, name) = (parent.as_fd(), OsStr::from_bytes(name));
        self.make_room(parent, name, entry)?;
        match entry.kind {
            EntryType::Directory => self.directory(parent, name, entry),
            EntryType::Regular | EntryType::Continuous => self.file(parent, name, entry, content),
            EntryType::Link => self.hard_link(parent, name, entry),
            EntryType::Symlink => {
                self.linked = true;
                rustix::fs::symlinkat(OsStr::from_bytes(&entry.link), parent, name)?;
                metadata(parent, name, entry)
            }
            EntryType::Char | EntryType::Block | EntryType::Fifo => node(parent, name, entry),
            other => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!("unhandled tar header type {}", other.as_byte()),
            )),
        }
    }

    /// Opens a directory, making what is missing of it.
    fn parent(&self, parts: &[&[u8]]) -> io::Result<OwnedFd> {
        let path = parts.join(&b'/');
        match self.open(&path) {
            Ok(found) => return Ok(found),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let mut above = self.open(b".")?;
        for count in 1..=parts.len() {
            above = match self.open(&parts[..count].join(&b'/')) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let name = OsStr::from_bytes(parts[count - 1]);
                    let rights = Mode::from_raw_mode(0o755);
                    rustix::fs::mkdirat(&above, name, rights)?;
                    let made = rustix::fs::openat(&above, name, DIRECTORY, Mode::empty())?;
                    rustix::fs::fchmod(&made, rights)?;
                    made
                }
                result => result?,
            };
        }
        Ok(above)
    }

    fn open(&self, path: &[u8]) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let (below, path) = (ResolveFlags::BENEATH, if path.is_empty() { b"." } else { path });
        match resolve(self.plain.directory, path, flags, below) {
            Err(Errno::XDEV) if self.plain.path == b"/" || !self.linked => {
                let whole = join(self.plain.path, path);
                Ok(resolve(self.plain.root, &whole, flags, ResolveFlags::IN_ROOT)?)
            }
            Err(Errno::XDEV) => Err(self.plain.outside(path)),
            result => Ok(result?),
        }
    }

    /// Removes what an entry replaces. Two directories become one.
    fn make_room(&self, parent: BorrowedFd<'_>, name: &OsStr, entry: &Entry) -> io::Result<()> {
        let stat = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(()),
            result => result?,
        };
        let is = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let becomes = entry.kind == EntryType::Directory;
        if is && becomes {
            return Ok(());
        }
        let path = String::from_utf8_lossy(&entry.path);
        let path = path.trim_end_matches('/');
        if self.plain.keep_kinds && is != becomes {
            let here = String::from_utf8_lossy(self.plain.path);
            let (old, new) = if is { ("", "non-") } else { ("non-", "") };
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                format!("cannot overwrite {old}directory {path:?} with {new}directory {here:?}"),
            ));
        }
        remove(parent, name).map_err(|error| {
            io::Error::new(error.kind(), format!("cannot replace {path:?}: {error}"))
        })
    }

    fn directory(&mut self, parent: BorrowedFd<'_>, name: &OsStr, entry: &Entry) -> io::Result<()> {
        match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let made = rustix::fs::openat(parent, name, DIRECTORY, Mode::empty())?;
        own(made.as_fd(), entry)?;
        set_xattrs(parent, name, entry)?;
        // So many are held open; the times of further ones are set at once.
        if self.times.len() < 256 {
            self.times.push((made, entry.mtime));
        } else {
            rustix::fs::futimens(&made, &times(entry.mtime))?;
        }
        Ok(())
    }

    fn file<R: Read>(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        entry: &Entry,
        content: &mut TarReader<R>,
    ) -> io::Result<()> {
        let mut file = new_file(parent, name)?;
        fill(&mut file, content, &mut self.buffer)?;
        own(file.as_fd(), entry)?;
        // After the owner: changing that drops file capabilities.
        set_xattrs(parent, name, entry)?;
        Ok(rustix::fs::futimens(&file, &times(entry.mtime))?)
    }

    fn hard_link(&self, parent: BorrowedFd<'_>, name: &OsStr, entry: &Entry) -> io::Result<()> {
        let parts = self.plain.parts(&entry.link)?;
        let Some((base, above)) = parts.split_last() else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "hard link to the root"));
        };
        let above = self.open(&above.join(&b'/'))?;
        // Without AT_SYMLINK_FOLLOW: a link to a symbolic link is a link to that link itself.
        let base = OsStr::from_bytes(base);
        Ok(rustix::fs::linkat(&above, base, parent, name, AtFlags::empty())?)
    }

    fn finish(self) {
        for (directory, mtime) in self.times.into_iter().rev() {
            // It may be on a file system that keeps no times.
            let _ = rustix::fs::futimens(&directory, &times(mtime));
        }
    }
}

fn resolve(
    from: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
    how: ResolveFlags,
) -> rustix::io::Result<OwnedFd> {
    let (path, resolve) = (OsStr::from_bytes(path), how | ResolveFlags::NO_MAGICLINKS);
    retried(|| rustix::fs::openat2(from, path, flags, Mode::empty(), resolve))
}

/// Says of which file the kernel complains; all other errors say it themselves, and that an archive broke
/// off is of none.
fn named(path: &[u8], error: io::Error) -> io::Error {
    if error.raw_os_error().is_some() { of(path, &error) } else { error }
}

fn of(path: &[u8], error: &io::Error) -> io::Error {
    let path = String::from_utf8_lossy(path);
    io::Error::new(error.kind(), format!("cannot unpack {path:?}: {error}"))
}

#[cfg(test)]
mod tests;
