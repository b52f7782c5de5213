//! Files and sockets that are on no disk: they are in a file system of memory that is mounted nowhere but
//! where a step finds them, and that ends with the last who has one of them open.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Uid};
use rustix::mount::{OpenTreeFlags, open_tree};

use super::sessions::Secret;

/// One of them.
#[derive(Clone, Debug)]
pub(super) struct Content {
    /// What is in a file; a socket has nothing.
    pub(super) file: Option<Secret>,
    pub(super) owner: (u32, u32),
    pub(super) mode: u32,
}

/// One of them, as a mount that is attached nowhere.
#[derive(Debug)]
pub(super) struct Sealed {
    pub(super) mount: OwnedFd,
    /// Where those come who connect to a socket.
    pub(super) listener: Option<UnixListener>,
}

/// Makes them. `place` is a directory to mount on, which is seen by nobody.
pub(super) fn seal(place: &Path, contents: Vec<Content>) -> io::Result<Vec<Sealed>> {
    let place = place.to_owned();
    let seal = move || enter().and_then(|()| make(&place, &contents));
    let thread = thread::Builder::new().name("seal".to_owned()).spawn(seal)?;
    thread.join().map_err(|_| io::Error::other("the mounting thread has ended"))?
}

/// Gives this thread, which does nothing else, mounts of its own: they end with it.
fn enter() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    // What the host unmounts goes from here too, and nothing from here gets there.
    let slave = MsFlags::MS_REC | MsFlags::MS_SLAVE;
    Ok(mount(None::<&str>, "/", None::<&str>, slave, None::<&str>)?)
}

fn make(place: &Path, contents: &[Content]) -> io::Result<Vec<Sealed>> {
    let bytes = |content: &Content| content.file.as_ref().map_or(0, |file| file.bytes().len());
    let size = contents.iter().map(|content| bytes(content).div_ceil(4096) + 1).sum::<usize>() + 16;
    let options = format!("mode=0700,size={}k,nr_inodes={}", size * 4, contents.len() + 16);
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    // Older kernels may swap it.
    let unswapped = format!("{options},noswap");
    mount(Some("tmpfs"), place, Some("tmpfs"), flags, Some(&*unswapped))
        .or_else(|_| mount(Some("tmpfs"), place, Some("tmpfs"), flags, Some(&*options)))?;
    let root = rustix::fs::openat(
        CWD,
        place,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    contents.iter().enumerate().map(|(at, content)| put(&root, &at.to_string(), content)).collect()
}

fn put(root: &OwnedFd, name: &str, content: &Content) -> io::Result<Sealed> {
    let listener = if let Some(secret) = &content.file {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(root, name, flags, Mode::from_raw_mode(0o600))?;
        File::from(file).write_all(secret.bytes())?;
        None
    } else {
        // The path of a socket may have 107 bytes only.
        let path = format!("/proc/thread-self/fd/{}/{name}", root.as_fd().as_raw_fd());
        Some(UnixListener::bind(path)?)
    };
    let (uid, gid) = (Uid::from_raw(content.owner.0), Gid::from_raw(content.owner.1));
    rustix::fs::chownat(root, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    rustix::fs::chmodat(root, name, Mode::from_raw_mode(content.mode), AtFlags::empty())?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    Ok(Sealed { mount: open_tree(root, name, flags)?, listener })
}
