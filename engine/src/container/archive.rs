//! `cp`: what is at a path of a container, out of it as an archive, and archives into it.
//!
//! A path is resolved by the kernel below the container's root, and what is found there is used by
//! its descriptor: whatever is renamed meanwhile, nothing outside is read or written. Archives are
//! made and taken apart in this process, by no program of the image.

use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use chrono::{DateTime, Utc};
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, StatVfsMountFlags, StatxFlags,
};
use rustix::io::Errno;

use super::Containers;
use super::view::View;
use super::{Container, MountKind};
use engine_error::{Error, Kind, Result};
use image::pack::Packer;
use image::unpack::{Owner, Plain, unpack};

/// As many links as are followed on one way.
const MOST_LINKS: usize = 255;

/// What is at a path of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathStat {
    /// The last part of the path.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// What kind of file it is, and its permissions, in Unix's form.
    pub mode: u32,
    /// When it was changed.
    pub modified: DateTime<Utc>,
    /// Where a link leads, once all links are followed; empty if it is none.
    pub link_target: String,
}

/// How an archive is unpacked in a container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unpacking {
    /// No file takes the place of a directory, and none the other way round.
    pub keep_kinds: bool,
    /// What is made belongs to the user of the container.
    pub to_user: bool,
}

impl Containers {
    /// What is at a path of a container. Blocks.
    pub fn path_stat(&self, key: &str, path: &str) -> Result<PathStat> {
        check_path(path)?;
        self.viewed(key, |_, view| Ok(find(view, key, path)?.1))
    }

    /// Writes what is at a path of a container as an archive. `begin` is told what it is, and says
    /// where the archive goes. Blocks.
    pub fn read_path<W: Write>(
        &self,
        key: &str,
        path: &str,
        begin: impl FnOnce(PathStat) -> W,
    ) -> Result<()> {
        check_path(path)?;
        self.viewed(key, |container, view| {
            let (found, stat) = find(view, key, path)?;
            let closed = devices(container, view.as_fd());
            let packer = Packer::new(begin(stat)).without(closed);
            let mut packer = packer.inside(self.map_of(&container.spec).cloned());
            let written = packer.opened(&found, &base(path)).and_then(|()| packer.finish());
            written.map_err(|error| {
                Error::internal(format!("cannot copy {path} of container {key}"), error)
            })?;
            self.tell(container, "archive-path", &[]);
            Ok(())
        })
    }

    /// Unpacks an archive in a directory of a container. Blocks.
    pub fn write_path(
        &self,
        key: &str,
        path: &str,
        how: Unpacking,
        archive: impl Read + Send,
    ) -> Result<()> {
        check_path(path)?;
        self.viewed(key, |container, view| {
            let directory = open_directory(view, key, path)?;
            refuse_readonly(container, view.as_fd(), &directory, path)?;
            let owner = if how.to_user { owner(container, view)? } else { Owner::Archive };
            let below = clean(path);
            let map = self.map_of(&container.spec);
            let plain = Plain {
                root: view.as_fd(),
                directory: directory.as_fd(),
                path: below.as_os_str().as_bytes(),
                keep_kinds: how.keep_kinds,
                owner,
                map,
                rename: None,
            };
            // Whoever makes something in the root has to be somebody there.
            let unpacked = match map {
                Some(map) => map.as_root(|| unpack(archive, &plain)).flatten(),
                None => unpack(archive, &plain),
            };
            unpacked.map_err(|error| {
                // Docker's words of an archive that breaks off.
                if error.kind() == std::io::ErrorKind::UnexpectedEof {
                    return Error::new(Kind::Internal, "unexpected EOF");
                }
                Error::new(Kind::Internal, error.to_string())
            })?;
            self.tell(container, "extract-to-dir", &[]);
            Ok(())
        })
    }
}

/// The file system of the devices that every container that runs is given, unless it was asked for one
/// there. They are none of its files: with Docker they are not there for a copy, and whoever is not
/// root could not make them.
fn devices(container: &Container, root: BorrowedFd<'_>) -> Vec<u64> {
    if container.mounts.iter().any(|point| clean(&point.target) == Path::new("/dev")) {
        return Vec::new();
    }
    let device = |path: &[u8]| {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::fstat(open(root, path, flags).ok()?).ok().map(|stat| stat.st_dev)
    };
    device(b"/dev").filter(|of_devices| device(b"/") != Some(*of_devices)).into_iter().collect()
}

fn check_path(path: &str) -> Result<()> {
    if path.is_empty() {
        return Err(Error::invalid("bad parameter: pathcannot be empty"));
    }
    if path.contains('\0') {
        return Err(Error::invalid("bad parameter: path cannot have a zero byte"));
    }
    Ok(())
}

/// Opens what is at a path: a link itself, unless the path goes on after it.
fn find(view: &View, key: &str, path: &str) -> Result<(OwnedFd, PathStat)> {
    let root = view.as_fd();
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let look = || -> rustix::io::Result<_> {
        let found = open(root, path.as_bytes(), flags)?;
        let stat = rustix::fs::fstat(&found)?;
        Ok((found, stat))
    };
    let (found, stat) = look().map_err(|error| unfound(error, key, path))?;
    let link_target = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Symlink => followed(root, path)
            .map_err(|error| unfound(error, key, path))?
            .to_string_lossy()
            .into_owned(),
        _ => String::new(),
    };
    let stat = PathStat {
        name: name(path),
        size: u64::try_from(stat.st_size).unwrap_or(0),
        mode: stat.st_mode,
        modified: modified(&stat),
        link_target,
    };
    Ok((found, stat))
}

fn modified(stat: &Stat) -> DateTime<Utc> {
    let nanoseconds = u32::try_from(stat.st_mtime_nsec).unwrap_or(0);
    DateTime::from_timestamp(stat.st_mtime, nanoseconds).unwrap_or_default()
}

fn unfound(error: Errno, key: &str, path: &str) -> Error {
    if error == Errno::NOENT {
        let text = format!("Could not find the file {path} in container {key}");
        return Error::not_found(text);
    }
    let why = match error {
        Errno::NOTDIR => "not a directory".to_owned(),
        other => other.to_string(),
    };
    let absolute = if path.starts_with('/') { "" } else { "/" };
    Error::new(Kind::Internal, format!("lstat {absolute}{path}: {why}"))
}

fn open(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let path = OsStr::from_bytes(if path.is_empty() { b"." } else { path });
    tree::retried(|| rustix::fs::openat2(root, path, flags, Mode::empty(), resolve))
}

/// The last part of a path, as Docker names it.
fn name(path: &str) -> String {
    let trimmed = path.trim_end_matches('/');
    if trimmed.is_empty() {
        return "/".to_owned();
    }
    trimmed.rsplit('/').next().unwrap_or(trimmed).to_owned()
}

/// What the archive calls it.
fn base(path: &str) -> Vec<u8> {
    match name(path).as_str() {
        // No archive leads upwards.
        ".." => clean(path).file_name().map_or(b"/".to_vec(), |name| name.as_bytes().to_vec()),
        other => other.as_bytes().to_vec(),
    }
}

/// A path from the root, without dots.
fn clean(path: &str) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for component in Path::new(path).components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => drop(clean.pop()),
            _ => {}
        }
    }
    clean
}

/// Where a path leads when all of its links are followed, whether there is something or not.
fn followed(root: BorrowedFd<'_>, path: &str) -> rustix::io::Result<PathBuf> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let parts = |path: &Path| -> Vec<OsString> {
        path.components().rev().map(|part| part.as_os_str().to_owned()).collect()
    };
    let (mut way, mut left, mut links) = (PathBuf::from("/"), parts(Path::new(path)), 0);
    while let Some(part) = left.pop() {
        match part.as_bytes() {
            b"/" => way = PathBuf::from("/"),
            b"." => {}
            b".." => drop(way.pop()),
            _ => {
                let there = way.join(&part);
                let found = open(root, there.as_os_str().as_bytes(), flags);
                let link = found.and_then(|found| rustix::fs::readlinkat(found, "", Vec::new()));
                let Ok(link) = link else {
                    way = there;
                    continue;
                };
                links += 1;
                if links > MOST_LINKS {
                    return Err(Errno::LOOP);
                }
                left.extend(parts(Path::new(&OsString::from_vec(link.into_bytes()))));
            }
        }
    }
    Ok(way)
}

fn open_directory(view: &View, key: &str, path: &str) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    open(view.as_fd(), path.as_bytes(), flags).map_err(|error| match error {
        Errno::NOTDIR => Error::invalid("extraction point is not a directory"),
        error => unfound(error, key, path),
    })
}

/// Refuses what may not be written, by what is mounted there and by what the container was given.
fn refuse_readonly(
    container: &Container,
    root: BorrowedFd<'_>,
    directory: &OwnedFd,
    path: &str,
) -> Result<()> {
    let failed = |error: Errno| Error::internal(format!("cannot look at {path}"), error);
    let mount = |of: BorrowedFd<'_>| {
        let stat = rustix::fs::statx(of, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID);
        stat.map(|stat| stat.stx_mnt_id).map_err(failed)
    };
    let flags = rustix::fs::fstatvfs(directory).map_err(failed)?.f_flag;
    let in_root = mount(root)? == mount(directory.as_fd())?;
    let given = container.mounts.iter().filter(|point| point.kind != MountKind::Tmpfs);
    let cleaned = clean(path);
    let around = given.filter(|point| cleaned.starts_with(&point.target));
    let innermost = around.max_by_key(|point| point.target.len());
    let readonly = flags.contains(StatVfsMountFlags::RDONLY);
    if in_root && (readonly || container.spec.readonly_rootfs) {
        return Err(Error::invalid("container rootfs is marked read-only"));
    }
    if readonly || innermost.is_some_and(|point| !point.writable) {
        return Err(Error::invalid("mounted volume is marked read-only"));
    }
    Ok(())
}

/// Whom a container's files belong to, if it runs as somebody.
fn owner(container: &Container, view: &View) -> Result<Owner> {
    if container.resolved.user.is_empty() {
        return Ok(Owner::Archive);
    }
    let root = format!("/proc/self/fd/{}", view.as_fd().as_raw_fd());
    let user = runtime::user::resolve(Path::new(&root), &container.resolved.user, &[])?;
    Ok(Owner::User(user.uid, user.gid))
}
