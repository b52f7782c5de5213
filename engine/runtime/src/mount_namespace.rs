//! The mount namespace that a runtime is called in.
//!
//! A runtime copies and reads all mounts that it sees, so it is to see none of other containers. A
//! copy without them has to be made of one with them, which takes 2 µs for each. So the last one is
//! used again as long as it is still what the host has mounted, and another is made on a thread
//! that works while the rest of the container is made.

mod mounts;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use shim::launch::unmount_hybrid;
#[cfg(doc)]
use shim::protocol::HYBRID;

/// Makes mount namespaces.
#[derive(Debug)]
pub struct MountNamespaces {
    pins: PathBuf,
    last: Mutex<Option<Last>>,
}

/// A mount namespace to make others of: the mounts of this process without those of other
/// containers. It is gone when this is dropped before anything is in it.
#[derive(Debug)]
pub struct MountNamespace {
    /// The namespace.
    pub namespace: OwnedFd,
    /// What is `/` to this process, in the namespace.
    pub root: OwnedFd,
}

/// How a mount namespace is to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Whether it hides [`HYBRID`].
    pub hide_hybrid: bool,
    /// Whether what is mounted in the container below a shared bind is to be seen on the host. Such a
    /// namespace keeps the mounts of other containers, and is slower: where the host's mounts are
    /// shared, unmounting them here would unmount them there.
    pub spreads: bool,
}

/// A namespace on its way.
#[derive(Debug)]
pub enum Pending {
    /// The last one still serves.
    Ready(Arc<MountNamespace>),
    /// One is being made.
    Making {
        /// The thread that does it.
        thread: JoinHandle<io::Result<MountNamespace>>,
        /// What it is to be like.
        wanted: Wanted,
        /// What was mounted before; nothing if the kernel is not able to tell.
        mounts: Option<Vec<u8>>,
    },
}

/// The last one, and what it was made of.
#[derive(Debug)]
struct Last {
    namespace: Arc<MountNamespace>,
    wanted: Wanted,
    mounts: Vec<u8>,
    used: Instant,
}

impl MountNamespaces {
    /// Namespaces without what is mounted under `pins`, which is a private mount.
    pub fn new(pins: impl Into<PathBuf>) -> Self {
        Self { pins: pins.into(), last: Mutex::default() }
    }

    /// Begins to make a mount namespace of what is mounted now, or takes the last one if it is such
    /// a one.
    pub fn begin(&self, wanted: Wanted) -> io::Result<Pending> {
        let mounts = mounts::but_below(&self.pins).ok();
        if let Some(last) = self.last().as_mut()
            && last.wanted == wanted
            && mounts.as_ref() == Some(&last.mounts)
        {
            last.used = Instant::now();
            return Ok(Pending::Ready(last.namespace.clone()));
        }
        let pins = self.pins.clone();
        let builder = thread::Builder::new().name("mount namespace".to_owned());
        let thread = builder.spawn(move || MountNamespace::make(&pins, wanted))?;
        Ok(Pending::Making { thread, wanted, mounts })
    }

    /// Waits for a mount namespace.
    pub fn finish(&self, pending: Pending) -> io::Result<Arc<MountNamespace>> {
        let (thread, wanted, mounts) = match pending {
            Pending::Ready(namespace) => return Ok(namespace),
            Pending::Making { thread, wanted, mounts } => (thread, wanted, mounts),
        };
        let made = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let namespace = Arc::new(made?);
        if let Some(mounts) = mounts {
            let (namespace, used) = (namespace.clone(), Instant::now());
            let old = self.last().replace(Last { namespace, wanted, mounts, used });
            drop(old);
        }
        Ok(namespace)
    }

    /// Lets go of a mount namespace that was not used for this long: what it has mounted is busy on a
    /// host whose mounts are not shared.
    pub fn rest(&self, unused: Duration) {
        let old = self.last().take_if(|last| last.used.elapsed() >= unused);
        drop(old);
    }

    fn last(&self) -> MutexGuard<'_, Option<Last>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MountNamespace {
    /// To be called on a thread that does nothing else.
    fn make(pins: &Path, wanted: Wanted) -> io::Result<Self> {
        unshare(CloneFlags::CLONE_NEWNS)?;
        if !wanted.spreads {
            // Or what is unmounted here would be unmounted on a host whose mounts are shared.
            let slave = MsFlags::MS_REC | MsFlags::MS_SLAVE;
            mount(None::<&str>, "/", None::<&str>, slave, None::<&str>)?;
        }
        if wanted.hide_hybrid {
            unmount_hybrid()?;
        }
        if !wanted.spreads {
            // Somebody may have unmounted it on the host; then the runtime sees more, and is slower.
            let _ = umount2(pins, MntFlags::MNT_DETACH);
        }
        let mut directory = OpenOptions::new();
        directory.read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY);
        Ok(Self {
            namespace: File::open("/proc/thread-self/ns/mnt")?.into(),
            root: directory.open("/")?.into(),
        })
    }
}

#[cfg(test)]
mod tests;
