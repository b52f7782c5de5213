//! A root with all that a container finds mounted in it, for somebody who looks into it while the
//! container does not run.
//!
//! It is put together in a mount namespace of its own, on a thread that ends when that is done. Every
//! place is opened in the root, with links that lead nowhere else, and a mount goes onto what was
//! opened: whatever the image has there, nothing is mounted or made outside.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::thread;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use tree::{IdMap, retried};

use super::{Root, RootFs};
use engine_error::{Error, Result};

/// Something of the host that a container finds somewhere.
#[derive(Debug)]
pub struct Piece {
    /// What it is.
    pub source: Source,
    /// Where the container finds it.
    pub target: String,
    /// Whether it may be written.
    pub writable: bool,
}

/// Where a piece comes from.
#[derive(Debug)]
pub enum Source {
    /// A directory or a file of the host.
    Path(PathBuf),
    /// A mount that is attached nowhere yet.
    Mount(OwnedFd),
}

/// A root with all that is mounted in it. The mounts are gone when it is dropped, or the process
/// ends.
#[derive(Debug)]
pub struct Assembly {
    root: OwnedFd,
    _namespace: OwnedFd,
}

impl Assembly {
    /// Puts a root together; what is missing of the places is made. Nobody else is to have the root
    /// meanwhile.
    pub fn new(rootfs: &RootFs, pieces: Vec<Piece>) -> Result<Self> {
        let failed =
            |error| Error::internal(format!("cannot mount {}", rootfs.dir.display()), error);
        let (root, place) = (rootfs.open()?, rootfs.dir.clone());
        let map = rootfs.mounter.map().cloned();
        let assemble = move || {
            // What is missing is made by somebody whom the root knows.
            map.as_ref().map_or(Ok(()), IdMap::be_root)?;
            assemble(root, &place, pieces)
        };
        let thread = thread::Builder::new().name("assembly".to_owned());
        let thread = thread.spawn(assemble).map_err(failed)?;
        let ended = |_| failed(io::Error::other("the mounting thread has ended"));
        thread.join().map_err(ended)?.map_err(failed)
    }
}

impl AsFd for Assembly {
    /// The root.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

/// To be called on a thread that does nothing else.
fn assemble(root: Root, place: &Path, pieces: Vec<Piece>) -> io::Result<Assembly> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    // What the host unmounts goes from here too, and nothing from here gets there.
    let slave = MsFlags::MS_REC | MsFlags::MS_SLAVE;
    mount(None::<&str>, "/", None::<&str>, slave, None::<&str>)?;
    let root = match root {
        Root::Mount(root) => root,
        Root::Directory(path) => {
            let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
            open_tree(CWD, &path, flags)?
        }
    };
    move_mount(&root, "", CWD, place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, place, flags, Mode::empty())?;
    for piece in pieces {
        let Piece { source, target, writable } = piece;
        match attach(&root, source, &target, writable) {
            // The place is a link to nothing: nobody finds what would be there.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                return Err(io::Error::new(error.kind(), format!("{target}: {error}")));
            }
            Ok(()) => {}
        }
    }
    Ok(Assembly { root, _namespace: File::open("/proc/thread-self/ns/mnt")?.into() })
}

fn attach(root: &OwnedFd, source: Source, target: &str, writable: bool) -> io::Result<()> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    let source = match source {
        Source::Path(path) => open_tree(CWD, &path, flags)?,
        Source::Mount(mount) => mount,
    };
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&source)?.st_mode);
    let target = place(root, target, kind == FileType::Directory)?;
    let empty = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(&source, "", &target, "", empty)?;
    if !writable {
        // The descriptor of what was moved is that of the mount.
        let mounted = format!("/proc/thread-self/fd/{}", source.as_raw_fd());
        let readonly = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
        mount(None::<&str>, &*mounted, None::<&str>, readonly, None::<&str>)?;
    }
    Ok(())
}

/// Opens a place in the root, which is made if it is missing.
fn place(root: &OwnedFd, target: &str, directory: bool) -> io::Result<OwnedFd> {
    let path = target.trim_matches('/').as_bytes();
    match open(root, path) {
        Err(Errno::NOENT) => {}
        result => return Ok(result?),
    }
    let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
    for end in ends.chain([path.len()]) {
        let upto = &path[..end];
        match open(root, upto) {
            Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
            Ok(_) => continue,
        }
        let (above, name) = match upto.iter().rposition(|&byte| byte == b'/') {
            Some(slash) => (&upto[..slash], &upto[slash + 1..]),
            None => (&b"."[..], upto),
        };
        let (above, name) = (open(root, above)?, OsStr::from_bytes(name));
        if directory || end < path.len() {
            rustix::fs::mkdirat(&above, name, Mode::from_raw_mode(0o755))?;
        } else {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            rustix::fs::openat(&above, name, flags, Mode::from_raw_mode(0o644))?;
        }
    }
    Ok(open(root, path)?)
}

fn open(root: &OwnedFd, path: &[u8]) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let path = OsStr::from_bytes(path);
    retried(|| rustix::fs::openat2(root, path, flags, Mode::empty(), resolve))
}
