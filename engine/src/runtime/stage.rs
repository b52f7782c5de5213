//! The mount namespace that a runtime is called in.
//!
//! A runtime copies and reads all mounts that it sees, so it is to see none of other containers. A
//! copy without them has to be made of one with them, which takes 1.5 µs for each: on a thread that
//! works while the rest of the container is made.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use crate::shim::protocol::HYBRID;

/// A mount namespace that nothing is in. It is gone when this is dropped before anything is.
#[derive(Debug)]
pub struct Stage {
    /// The namespace.
    pub namespace: OwnedFd,
    /// What is `/` to this process, in the namespace.
    pub root: OwnedFd,
}

/// A [`Stage`] that is being made.
#[derive(Debug)]
pub struct Staging(JoinHandle<io::Result<Stage>>);

impl Stage {
    /// Begins to make a copy of the mounts of this process without those under `pins`, which is a
    /// private mount, and without [`HYBRID`] if that is to be hidden.
    pub fn begin(pins: PathBuf, hide_hybrid: bool) -> io::Result<Staging> {
        let builder = thread::Builder::new().name("stage".to_owned());
        builder.spawn(move || Self::make(&pins, hide_hybrid)).map(Staging)
    }

    /// To be called on a thread that does nothing else.
    fn make(pins: &Path, hide_hybrid: bool) -> io::Result<Self> {
        unshare(CloneFlags::CLONE_NEWNS)?;
        if hide_hybrid {
            let slave = MsFlags::MS_REC | MsFlags::MS_SLAVE;
            mount(None::<&str>, "/", None::<&str>, slave, None::<&str>)?;
            umount2(HYBRID, MntFlags::MNT_DETACH)?;
        }
        // Somebody may have unmounted it on the host; then the runtime sees more, and is slower.
        let _ = umount2(pins, MntFlags::MNT_DETACH);
        let mut directory = OpenOptions::new();
        directory.read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY);
        Ok(Self {
            namespace: File::open("/proc/thread-self/ns/mnt")?.into(),
            root: directory.open("/")?.into(),
        })
    }
}

impl Staging {
    /// Waits for it.
    pub fn wait(self) -> io::Result<Stage> {
        self.0.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_is_another_namespace_than_that_of_its_maker() {
        let made = Stage::begin(PathBuf::from("/nonexistent"), false).unwrap().wait();
        let stage = match made {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return,
            made => made.unwrap(),
        };
        let inode = |file: &File| {
            use std::os::unix::fs::MetadataExt;
            file.metadata().unwrap().ino()
        };
        let own = File::open("/proc/thread-self/ns/mnt").unwrap();
        assert_ne!(inode(&own), inode(&stage.namespace.into()));
        assert_eq!(inode(&File::open("/").unwrap()), inode(&stage.root.into()));
    }
}
