//! What `COPY` and `ADD` take: which files a word means, and the digest of what is in them.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Stat};
use sha2::{Digest as _, Sha256};

use super::context::directory;
use dockerfile::ignore::clean;
use engine_error::{Error, Result};
use image::reference::Pattern;
use tree::Tree;

/// Something to be copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Source {
    /// Where it is, with no link in the way.
    pub(super) path: PathBuf,
    /// What it is called where it goes.
    pub(super) name: OsString,
    /// Whether it is a directory, whose contents are meant.
    pub(super) is_directory: bool,
}

/// How sources are looked at.
#[derive(Clone, Copy)]
pub(super) struct Look<'a> {
    /// The instruction, for errors.
    pub(super) instruction: &'a str,
    /// Whether it is the context that is looked into, and not an image.
    pub(super) is_context: bool,
    /// Whether files keep their owners.
    pub(super) keeps_owners: bool,
    /// What is left out.
    pub(super) skip: Option<&'a dyn Fn(&Path) -> bool>,
}

impl Look<'_> {
    fn failed(&self, text: impl std::fmt::Display) -> Error {
        Error::invalid(format!("{} failed: {text}", self.instruction))
    }

    /// What a word means: one thing, or with wildcards several.
    pub(super) fn find(&self, tree: &Tree, word: &str) -> Result<Vec<Source>> {
        let path = clean(word.trim_start_matches('/'));
        if self.is_context && (path == ".." || path.starts_with("../")) {
            return Err(self.failed(format!("forbidden path outside the build context: {word} ()")));
        }
        let unread = |error| Error::internal(format!("cannot look for {word}"), error);
        if !path.contains(['*', '?', '[']) {
            let found = source(tree, Path::new(&path)).map_err(unread)?;
            return found.map(|found| vec![found]).ok_or_else(|| self.missing(&path));
        }
        let patterns = path.split('/').map(Pattern::parse).collect::<Result<Vec<_>, _>>();
        let patterns = patterns.map_err(|error| self.failed(error))?;
        let mut found = Vec::new();
        for path in matching(tree, &patterns).map_err(unread)? {
            found.extend(source(tree, &path).map_err(unread)?);
        }
        Ok(found)
    }

    fn missing(&self, path: &str) -> Error {
        if self.is_context {
            return self.failed(format!(
                "file not found in build context or excluded by .dockerignore: stat {path}: file \
                 does not exist"
            ));
        }
        self.failed(format!("stat {path}: file does not exist"))
    }

    /// The digest of a source: what it is and what is in it, but for times.
    pub(super) fn digest(&self, tree: &Tree, source: &Source) -> io::Result<String> {
        let mut hash = Sha256::new();
        if !source.is_directory {
            let above = source.path.parent().unwrap_or(Path::new(""));
            let gone = || io::Error::from(io::ErrorKind::NotFound);
            let above = directory(tree, above)?.ok_or_else(gone)?;
            let name = source.path.file_name().ok_or_else(gone)?;
            let stat = rustix::fs::statat(&above, name, AtFlags::SYMLINK_NOFOLLOW)?;
            let visit = tree::walk::Visit {
                path: Path::new(&source.name),
                parent: above.as_fd(),
                name,
                stat,
            };
            self.see(&mut hash, &visit)?;
            return Ok(dockerfile::key::hex(&hash.finalize()));
        }
        let root = directory(tree, &source.path)?.ok_or(io::ErrorKind::NotFound)?;
        // A directory that has to be made is as this one.
        self.header(&mut hash, &rustix::fs::fstat(&root)?);
        root.walk(|visit| {
            if self.skip.is_some_and(|skip| skip(visit.path)) {
                return Ok(false);
            }
            self.see(&mut hash, visit)?;
            Ok(true)
        })?;
        Ok(dockerfile::key::hex(&hash.finalize()))
    }

    fn see(&self, hash: &mut Sha256, visit: &tree::walk::Visit<'_>) -> io::Result<()> {
        field(hash, visit.path.as_os_str().as_bytes());
        self.header(hash, &visit.stat);
        for (name, value) in visit.attributes()? {
            field(hash, &name);
            field(hash, &value);
        }
        match visit.kind() {
            FileType::RegularFile => contents(hash, visit.parent.as_fd(), visit.name),
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(visit.parent, visit.name, Vec::new())?;
                field(hash, target.as_bytes());
                Ok(())
            }
            FileType::CharacterDevice | FileType::BlockDevice => {
                field(hash, &visit.stat.st_rdev.to_le_bytes());
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Kind, mode, and owner if that is kept.
    fn header(&self, hash: &mut Sha256, stat: &Stat) {
        field(hash, &stat.st_mode.to_le_bytes());
        if self.keeps_owners {
            field(hash, &stat.st_uid.to_le_bytes());
            field(hash, &stat.st_gid.to_le_bytes());
        }
    }
}

/// With its length, so that no two lists of fields are the same bytes.
fn field(hash: &mut Sha256, bytes: &[u8]) {
    hash.update((bytes.len() as u64).to_le_bytes());
    hash.update(bytes);
}

fn contents(
    hash: &mut Sha256,
    parent: std::os::fd::BorrowedFd<'_>,
    name: &OsStr,
) -> io::Result<()> {
    let swapped = || io::Error::new(io::ErrorKind::InvalidData, "it was swapped while it was read");
    let mut file = tree::regular(parent, name)?.ok_or_else(swapped)?;
    let (mut buffer, mut size) = (vec![0; 1 << 16], 0_u64);
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        hash.update(&buffer[..count]);
        size += count as u64;
    }
    hash.update(size.to_le_bytes());
    Ok(())
}

/// What is at a path, links followed inside the tree.
fn source(tree: &Tree, path: &Path) -> io::Result<Option<Source>> {
    let Some(resolved) = tree.resolve(path)? else { return Ok(None) };
    let name = path.file_name().unwrap_or_default().to_owned();
    let (Some(above), Some(last)) = (resolved.parent(), resolved.file_name()) else {
        return Ok(Some(Source { path: resolved, name, is_directory: true }));
    };
    let Some(above) = directory(tree, above)? else { return Ok(None) };
    let stat = rustix::fs::statat(&above, last, AtFlags::SYMLINK_NOFOLLOW)?;
    let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    Ok(Some(Source { path: resolved, name, is_directory }))
}

/// The paths that patterns match, one for each name on the way, in order. Where nothing can match,
/// nothing is looked at.
fn matching(tree: &Tree, patterns: &[Pattern]) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    tree.walk(|visit| {
        let depth = visit.path.components().count();
        // A name that is no text is meant by no pattern.
        let name = visit.name.to_str();
        let pattern = depth.checked_sub(1).and_then(|at| patterns.get(at));
        if !name.zip(pattern).is_some_and(|(name, pattern)| pattern.matches(name)) {
            return Ok(false);
        }
        if depth == patterns.len() {
            found.push(visit.path.to_owned());
        }
        Ok(depth < patterns.len())
    })?;
    Ok(found)
}
