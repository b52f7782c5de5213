//! Copying into a root file system, in which nothing is trusted: every directory is reached by its
//! descriptor, and links lead nowhere out.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Gid, Mode, Uid};
use rustix::io::Errno;

use super::context::directory;
use super::sources::Source;
use engine_error::{Error, Result};
use tree::{Given, Tree};

/// Links on the way that lead to nothing yet, as many as the kernel follows.
const MOST_LINKS: usize = 40;

/// Where files go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target<'a> {
    /// The root file system.
    pub(super) root: &'a Tree,
    /// The path in it, absolute.
    pub(super) path: &'a str,
    /// Whether it is said to be a directory.
    pub(super) is_directory: bool,
}

impl Target<'_> {
    /// Copies a source of a tree.
    pub(super) fn take(&self, tree: &Tree, source: &Source, given: Given<'_>) -> Result<()> {
        self.take_io(tree, source, given).map_err(|error| {
            let (from, to) = (source.path.display(), self.path);
            Error::caused(engine_error::Kind::Invalid, format!("cannot copy {from} to {to}"), error)
        })
    }

    fn take_io(&self, tree: &Tree, source: &Source, given: Given<'_>) -> io::Result<()> {
        let gone = || io::Error::from(io::ErrorKind::NotFound);
        if source.is_directory {
            let from = directory(tree, &source.path)?.ok_or_else(gone)?;
            return self.take_contents(&from, given);
        }
        let above = source.path.parent().unwrap_or(Path::new(""));
        let above = directory(tree, above)?.ok_or_else(gone)?;
        let last = source.path.file_name().ok_or_else(gone)?;
        let (to, name) = self.place(&source.name, given)?;
        // A directory of that name is not taken away for a file.
        if rustix::fs::openat(&to, &name, tree::DIRECTORY, Mode::empty()).is_ok() {
            return Err(Errno::ISDIR.into());
        }
        to.take((&above, last), &name, given)
    }

    /// Copies what is in a directory; one that has to be made is as that one.
    pub(super) fn take_contents(&self, from: &Tree, given: Given<'_>) -> io::Result<()> {
        let path = Path::new(self.path);
        let there = directory(self.root, path.strip_prefix("/").unwrap_or(path))?.is_some();
        let to = make(self.root, path, given.owner)?;
        if !there {
            to.take_metadata(from, given)?;
        }
        to.take_contents(from, given)
    }

    /// The directory and the name for a file.
    fn place(&self, name: &OsStr, given: Given<'_>) -> io::Result<(Tree, std::ffi::OsString)> {
        let path = Path::new(self.path);
        let inside = self.is_directory
            || directory(self.root, path.strip_prefix("/").unwrap_or(path))?.is_some();
        let (above, name) = match path.file_name() {
            Some(last) if !inside => (path.parent().unwrap_or(Path::new("/")), last),
            _ => (path, name),
        };
        Ok((make(self.root, above, given.owner)?, name.to_owned()))
    }
}

/// A directory at an absolute path, with those above it, made where they are missing.
pub(super) fn make(root: &Tree, path: &Path, owner: Option<(u32, u32)>) -> io::Result<Tree> {
    make_through(root, path, owner, 0)
}

/// The same after so many links that lead to nothing yet.
fn make_through(
    root: &Tree,
    path: &Path,
    owner: Option<(u32, u32)>,
    links: usize,
) -> io::Result<Tree> {
    let mut made = PathBuf::new();
    let gone = || io::Error::from(io::ErrorKind::NotFound);
    let mut above = root.below(Path::new("."))?.ok_or_else(gone)?;
    for part in path.components() {
        let Component::Normal(name) = part else { continue };
        made.push(name);
        if let Some(found) = root.below(&made)? {
            above = found;
            continue;
        }
        let text = format!("cannot copy to non-directory: /{}", made.display());
        match rustix::fs::mkdirat(&above, name, Mode::from_raw_mode(0o755)) {
            Err(Errno::EXIST) => {
                let Ok(target) = rustix::fs::readlinkat(&above, name, Vec::new()) else {
                    return Err(io::Error::new(io::ErrorKind::NotADirectory, text));
                };
                if links >= MOST_LINKS {
                    return Err(Errno::LOOP.into());
                }
                // What a link leads to is made where it leads, seen from the root.
                let target = Path::new(OsStr::from_bytes(target.as_bytes()));
                let parent = made.parent().unwrap_or(Path::new(""));
                let parent = root.resolve(parent)?.ok_or_else(gone)?;
                let target = Path::new("/").join(parent).join(target);
                let target = dockerfile::ignore::clean(&target.to_string_lossy());
                make_through(root, Path::new(&target), owner, links + 1)?;
            }
            result => result?,
        }
        let is_link = rustix::fs::readlinkat(&above, name, Vec::new()).is_ok();
        above = root.below(&made)?.ok_or_else(gone)?;
        if is_link {
            continue;
        }
        let (uid, gid) = owner.unwrap_or((0, 0));
        let owner = (Uid::from_raw(uid), Gid::from_raw(gid));
        tree::own(above.as_fd(), owner, Mode::from_raw_mode(0o755))?;
    }
    Ok(above)
}

/// The file of a source, if it is an archive.
pub(super) fn archive(tree: &Tree, source: &Source) -> io::Result<Option<File>> {
    if source.is_directory {
        return Ok(None);
    }
    let Some(file) = tree.file(&source.path)? else { return Ok(None) };
    if !image::context::is_archive(&file) {
        return Ok(None);
    }
    // What was read to find out is read again.
    rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0))?;
    Ok(Some(file))
}
