//! Where sandbox namespaces are pinned: files of one directory, named after the sandboxes.
//!
//! A plain bind mount is enough. Other mount namespaces may hold copies of it, but to unlink the
//! file detaches those as well (Linux 3.18), so that no copy keeps a namespace alive.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use cnm::SandboxId;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statfs::{FsType, statfs};

/// `NSFS_MAGIC` of `linux/magic.h`.
const NSFS: FsType = FsType(0x6e73_6673);

/// Makes the directory, and removes what a crash left half-made in it.
pub(super) fn prepare(directory: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o711).create(directory)?;
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|n| n.to_str()) else { continue };
        let id = [NOTES, USER].iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name);
        if id.parse::<SandboxId>().is_ok() && !is_pinned(&directory.join(id)) {
            release(&path)?;
        }
    }
    Ok(())
}

/// The sandboxes whose namespaces are pinned.
pub(super) fn list(directory: &Path) -> io::Result<Vec<SandboxId>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let id = entry.file_name().to_str().and_then(|name| name.parse().ok());
        found.extend(id.filter(|_| is_pinned(&entry.path())));
    }
    Ok(found)
}

/// Pins a namespace to a file.
pub(super) fn pin(namespace: impl AsFd, path: &Path) -> io::Result<()> {
    if is_pinned(path) {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    File::create(path)?;
    let source = format!("/proc/self/fd/{}", namespace.as_fd().as_raw_fd());
    mount(Some(source.as_str()), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    Ok(())
}

/// Removes the pin; the kernel removes the namespace with all its links when nobody is inside. The user
/// namespace that it belongs to goes with it.
pub(super) fn unpin(path: &Path) -> io::Result<()> {
    remove_file(&notes(path))?;
    release(path)?;
    release(&user(path))
}

fn release(path: &Path) -> io::Result<()> {
    while is_pinned(path) {
        umount2(path, MntFlags::MNT_DETACH)?;
    }
    remove_file(path)
}

/// Where the user namespace is pinned that a network namespace belongs to, if it is not the host's.
pub(super) fn user(path: &Path) -> PathBuf {
    beside(path, USER)
}

/// Notes that a sysctl of the namespace is to be observed.
pub(super) fn note(path: &Path, sysctl: &str) -> io::Result<()> {
    if noted(path)?.iter().any(|known| known == sysctl) {
        return Ok(());
    }
    let mut file = OpenOptions::new().create(true).append(true).open(notes(path))?;
    writeln!(file, "{sysctl}")
}

/// The sysctls that were noted.
pub(super) fn noted(path: &Path) -> io::Result<Vec<String>> {
    match fs::read_to_string(notes(path)) {
        Ok(text) => Ok(text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Forgets a sysctl that was noted.
pub(super) fn forget(path: &Path, sysctl: &str) -> io::Result<()> {
    let mut known = noted(path)?;
    if !known.iter().any(|line| line == sysctl) {
        return Ok(());
    }
    known.retain(|line| line != sysctl);
    fs::write(notes(path), known.join("\n") + "\n")
}

const NOTES: &str = ".sysctls";
const USER: &str = ".user";

fn notes(path: &Path) -> PathBuf {
    beside(path, NOTES)
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Whether a namespace is pinned to a file.
pub(super) fn is_pinned(path: &Path) -> bool {
    statfs(path).is_ok_and(|fs| fs.filesystem_type() == NSFS)
}

fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
