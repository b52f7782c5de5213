//! Writes trees as archives, by descriptor, whatever is done to them meanwhile. What the kernel shows of
//! itself and of processes somewhere in a tree is none of its files: that directory is written empty.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use tar::EntryType;

use super::tarball::{Entry, TarWriter};
use tree::{DEEPEST, DIRECTORY, IdMap, names};

/// The longest value, and the longest list of names, of extended attributes in Linux.
const LONGEST_ATTRIBUTE: usize = 1 << 16;
/// The types of the file systems in which the kernel shows itself: proc and sysfs.
const SHOWN: [u64; 2] = [0x9fa0, 0x6265_6572];

/// An archive of what is in trees.
#[derive(Debug)]
pub struct Packer<W> {
    tar: TarWriter<W>,
    /// Files with several names, by device and inode, and the first of the names.
    links: HashMap<(u64, u64), Vec<u8>>,
    /// Bytes of the files so far.
    size: u64,
    /// The file systems, by device, whose directories are written empty.
    closed: Vec<u64>,
    /// Who users of the host are to whoever reads the archive.
    map: Option<IdMap>,
}

impl<W: Write> Packer<W> {
    /// Begins an archive.
    pub fn new(to: W) -> Self {
        Self {
            tar: TarWriter::new(to),
            links: HashMap::new(),
            size: 0,
            closed: Vec::new(),
            map: None,
        }
    }

    /// Calls users and groups as they are called inside of a container.
    #[must_use]
    pub fn inside(mut self, map: Option<IdMap>) -> Self {
        self.map = map;
        self
    }

    /// Leaves out what is on these file systems too, by device.
    #[must_use]
    pub fn without(mut self, closed: Vec<u64>) -> Self {
        self.closed = closed;
        self
    }

    /// Ends the archive; what it was written to, and bytes of the files in it.
    pub fn finish(self) -> io::Result<(W, u64)> {
        Ok((self.tar.finish()?, self.size))
    }

    /// Writes what was opened, by `O_PATH` at least, and all that is below it, as `path`.
    pub fn opened(&mut self, found: &OwnedFd, path: &[u8]) -> io::Result<()> {
        match self.write(found, path)? {
            Some(directory) if !self.is_closed(&directory)? => self.below(directory.as_fd(), path),
            _ => Ok(()),
        }
    }

    /// Writes all that is in a directory, with its path before each name; not the directory itself.
    pub fn below(&mut self, directory: BorrowedFd<'_>, path: &[u8]) -> io::Result<()> {
        // It may have been opened by `O_PATH` only.
        let directory = rustix::fs::openat(directory, ".", DIRECTORY, Mode::empty())?;
        let mut stack = vec![Level::open(directory, path.to_owned())?];
        while let Some(level) = stack.last_mut() {
            let Some(name) = level.left.next() else {
                stack.pop();
                continue;
            };
            let path = level.path_of(&name);
            let Some(below) = self.node(level.directory.as_fd(), &name, &path)? else { continue };
            if self.is_closed(&below)? {
                continue;
            }
            if stack.len() >= DEEPEST {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "directories are too deep"));
            }
            stack.push(Level::open(below, path)?);
        }
        Ok(())
    }

    /// Writes what a directory has under a name, as `path`, without what may be below: that is for
    /// the caller, who gets the directory that it is.
    pub fn node(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        path: &[u8],
    ) -> io::Result<Option<OwnedFd>> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = match rustix::fs::openat(parent, name, flags, Mode::empty()) {
            // It went meanwhile.
            Err(Errno::NOENT | Errno::SRCH) => return Ok(None),
            result => result.map_err(|error| named(path, &error.into()))?,
        };
        self.write(&found, path)
    }

    fn write(&mut self, found: &OwnedFd, path: &[u8]) -> io::Result<Option<OwnedFd>> {
        self.write_opened(found, path).map_err(|error| named(path, &error))
    }

    fn write_opened(&mut self, found: &OwnedFd, path: &[u8]) -> io::Result<Option<OwnedFd>> {
        let stat = rustix::fs::fstat(found)?;
        let mut entry = entry(&stat, path);
        if let Some(map) = &self.map {
            (entry.uid, entry.gid) = map.inside(entry.uid, entry.gid);
        }
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let directory = match rustix::fs::openat(found, ".", DIRECTORY, Mode::empty()) {
                    // It went meanwhile.
                    Err(Errno::NOENT | Errno::SRCH) => return Ok(None),
                    result => result?,
                };
                self.directory(directory.as_fd(), path)?;
                return Ok(Some(directory));
            }
            FileType::Socket | FileType::Unknown => return Ok(None),
            _ if self.is_linked(&stat, &mut entry) => self.tar.entry(&entry)?,
            FileType::RegularFile => self.file(found, entry)?,
            FileType::Symlink => {
                entry.link = rustix::fs::readlinkat(found, "", Vec::new())?.into_bytes();
                self.tar.entry(&entry)?;
            }
            FileType::CharacterDevice | FileType::BlockDevice | FileType::Fifo => {
                self.tar.entry(&entry)?;
            }
        }
        Ok(None)
    }

    /// Writes a directory itself.
    pub fn directory(&mut self, directory: BorrowedFd<'_>, path: &[u8]) -> io::Result<()> {
        let mut entry = entry(&rustix::fs::fstat(directory)?, path);
        entry.xattrs = attributes(directory)?;
        self.tar.entry(&entry)
    }

    /// Writes an empty file: a mark of layers.
    pub(super) fn mark(&mut self, path: &[u8]) -> io::Result<()> {
        self.tar.entry(&Entry {
            path: path.to_owned(),
            link: Vec::new(),
            kind: EntryType::Regular,
            size: 0,
            stored: 0,
            mode: 0o600,
            uid: 0,
            gid: 0,
            mtime: (0, 0),
            device: (0, 0),
            xattrs: Vec::new(),
        })
    }

    /// Whether what is in a directory is left out.
    fn is_closed(&self, directory: &OwnedFd) -> io::Result<bool> {
        let kind = rustix::fs::fstatfs(directory)?.f_type;
        let shown = u64::try_from(kind).is_ok_and(|kind| SHOWN.contains(&kind));
        Ok(shown || self.closed.contains(&rustix::fs::fstat(directory)?.st_dev))
    }

    /// Whether it is a further name of a file that is in the archive, and notes the first of one.
    fn is_linked(&mut self, stat: &Stat, entry: &mut Entry) -> bool {
        if stat.st_nlink < 2 {
            return false;
        }
        let file = (stat.st_dev, stat.st_ino);
        let Some(first) = self.links.get(&file) else {
            self.links.insert(file, entry.path.clone());
            return false;
        };
        entry.kind = EntryType::Link;
        entry.link.clone_from(first);
        entry.size = 0;
        true
    }

    /// Writes a regular file. It is opened by what was looked at, which no rename can change.
    fn file(&mut self, found: &OwnedFd, mut entry: Entry) -> io::Result<()> {
        let path = format!("/proc/self/fd/{}", found.as_raw_fd());
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(CWD, path, flags, Mode::empty()) {
            // It went meanwhile, from where nothing stays that is open.
            Err(Errno::NOENT | Errno::SRCH) => return Ok(()),
            result => File::from(result?),
        };
        entry.xattrs = attributes(file.as_fd())?;
        self.size += entry.size;
        self.tar.file(&entry, file)
    }
}

/// A directory that is being written.
#[derive(Debug)]
struct Level {
    directory: OwnedFd,
    path: Vec<u8>,
    left: std::vec::IntoIter<std::ffi::OsString>,
}

impl Level {
    fn open(directory: OwnedFd, path: Vec<u8>) -> io::Result<Self> {
        let mut left = match names(directory.as_fd()) {
            // It went meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            result => result.map_err(|error| named(&path, &error))?,
        };
        left.sort_unstable();
        Ok(Self { directory, path, left: left.into_iter() })
    }

    fn path_of(&self, name: &OsStr) -> Vec<u8> {
        join(&self.path, name.as_bytes())
    }
}

/// A path and a name below it; both of an archive.
pub(super) fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    if path.is_empty() || path.ends_with(b"/") {
        return [path, name].concat();
    }
    [path, b"/", name].concat()
}

/// Says of which file an error is.
fn named(path: &[u8], error: &io::Error) -> io::Error {
    let path = String::from_utf8_lossy(path);
    io::Error::new(error.kind(), format!("cannot read {path:?}: {error}"))
}

fn entry(stat: &Stat, path: &[u8]) -> Entry {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => EntryType::Directory,
        FileType::Symlink => EntryType::Symlink,
        FileType::CharacterDevice => EntryType::Char,
        FileType::BlockDevice => EntryType::Block,
        FileType::Fifo => EntryType::Fifo,
        _ => EntryType::Regular,
    };
    let size = match kind {
        EntryType::Regular => u64::try_from(stat.st_size).unwrap_or(0),
        _ => 0,
    };
    let device = match kind {
        EntryType::Char | EntryType::Block => {
            (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev))
        }
        _ => (0, 0),
    };
    Entry {
        path: path.to_owned(),
        link: Vec::new(),
        kind,
        size,
        stored: size,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        // Whole seconds, as Docker writes them: more would be a record of its own for each file.
        mtime: (stat.st_mtime, 0),
        device,
        xattrs: Vec::new(),
    }
}

/// The extended attributes that belong to a file wherever it is: capabilities and those of users.
/// Labels of this host's security modules, and overlay's own, do not.
fn attributes(file: BorrowedFd<'_>) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut attributes = Vec::new();
    match rustix::fs::flistxattr_query(file) {
        // Most files have none.
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(attributes),
        result => drop(result?),
    }
    let mut names = vec![0; LONGEST_ATTRIBUTE];
    let length = rustix::fs::flistxattr(file, &mut names[..])?;
    for name in names[..length].split(|&byte| byte == 0) {
        if name != b"security.capability" && !name.starts_with(b"user.") {
            continue;
        }
        let mut value = vec![0; LONGEST_ATTRIBUTE];
        let length = match rustix::fs::fgetxattr(file, OsStr::from_bytes(name), &mut value[..]) {
            // It went meanwhile.
            Err(Errno::NODATA) => continue,
            result => result?,
        };
        value.truncate(length);
        attributes.push((name.to_owned(), value));
    }
    Ok(attributes)
}
