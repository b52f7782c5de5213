//! Copies a layer over what is there: what overlay does, for hosts that cannot mount it.
//!
//! The source is a layer of ours, which nobody changes; the target is not yet a container's.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

const OPAQUE: &str = "trusted.overlay.opaque";

/// Files with several names, by device and inode.
type Links = HashMap<(u64, u64), PathBuf>;

pub(super) fn copy_layer(layer: &Path, target: &Path) -> io::Result<()> {
    copy_dir(layer, target, &mut Links::new())
}

/// Copies a directory below a root; nothing if it is not one. The image is not trusted: no link
/// leads out of the root.
pub(super) fn copy_out(root: &OwnedFd, path: &str, target: &Path) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let directory = match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        result => result?,
    };
    let from = format!("/proc/self/fd/{}/.", directory.as_raw_fd());
    copy_dir(Path::new(&from), target, &mut Links::new())
}

fn copy_dir(from: &Path, to: &Path, links: &mut Links) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        let meta = fs::symlink_metadata(&from)?;
        let kind = meta.file_type();
        if kind.is_char_device() && meta.rdev() == 0 {
            remove(&to)?;
            continue;
        }
        let below = fs::symlink_metadata(&to).is_ok_and(|meta| meta.is_dir());
        if kind.is_dir() {
            if !below || is_opaque(&from) {
                remove(&to)?;
                fs::create_dir(&to)?;
            }
            copy_dir(&from, &to, links)?;
            copy_metadata(&from, &to, &meta)?;
            continue;
        }
        remove(&to)?;
        if meta.nlink() > 1 {
            if let Some(first) = links.get(&(meta.dev(), meta.ino())) {
                fs::hard_link(first, &to)?;
                continue;
            }
            links.insert((meta.dev(), meta.ino()), to.clone());
        }
        copy_file(&from, &to, &meta)?;
        copy_metadata(&from, &to, &meta)?;
    }
    let meta = fs::symlink_metadata(from)?;
    copy_metadata(from, to, &meta)
}

fn copy_file(from: &Path, to: &Path, meta: &fs::Metadata) -> io::Result<()> {
    let kind = meta.file_type();
    if kind.is_symlink() {
        return symlink(fs::read_link(from)?, to);
    }
    if kind.is_file() {
        return fs::copy(from, to).map(drop);
    }
    let kind = FileType::from_raw_mode(meta.mode());
    Ok(rustix::fs::mknodat(CWD, to, kind, Mode::from_raw_mode(0o600), meta.rdev())?)
}

fn copy_metadata(from: &Path, to: &Path, meta: &fs::Metadata) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(meta.uid()), Gid::from_raw(meta.gid()));
    rustix::fs::chownat(CWD, to, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    if !meta.is_symlink() {
        rustix::fs::chmodat(CWD, to, Mode::from_raw_mode(meta.mode() & 0o7777), AtFlags::empty())?;
    }
    copy_xattrs(from, to)?;
    let times = Timestamps {
        last_access: Timespec { tv_sec: meta.atime(), tv_nsec: meta.atime_nsec() },
        last_modification: Timespec { tv_sec: meta.mtime(), tv_nsec: meta.mtime_nsec() },
    };
    Ok(rustix::fs::utimensat(CWD, to, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

fn copy_xattrs(from: &Path, to: &Path) -> io::Result<()> {
    let mut names = vec![0; 1 << 16];
    let length = match rustix::fs::llistxattr(from, &mut names[..]) {
        Err(Errno::OPNOTSUPP) => return Ok(()),
        result => result?,
    };
    for name in names[..length].split(|&byte| byte == 0) {
        if name.is_empty() || name.starts_with(b"trusted.overlay.") {
            continue;
        }
        let name = OsString::from_vec(name.to_owned());
        let mut value = vec![0; 1 << 16];
        let length = rustix::fs::lgetxattr(from, &name, &mut value[..])?;
        match rustix::fs::lsetxattr(to, &name, &value[..length], XattrFlags::empty()) {
            Err(Errno::OPNOTSUPP) if !name.as_bytes().starts_with(b"security.capability") => {}
            result => result?,
        }
    }
    Ok(())
}

fn is_opaque(path: &Path) -> bool {
    let mut value = [0; 1];
    matches!(rustix::fs::lgetxattr(path, OPAQUE, &mut value[..]), Ok(1) if &value == b"y")
}

pub(super) fn remove(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
