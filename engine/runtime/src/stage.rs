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

/// Makes stages.
#[derive(Debug)]
pub struct Stages {
    pins: PathBuf,
    last: Mutex<Option<Last>>,
}

/// A mount namespace to make others of: the mounts of this process without those of other
/// containers. It is gone when this is dropped before anything is in it.
#[derive(Debug)]
pub struct Stage {
    /// The namespace.
    pub namespace: OwnedFd,
    /// What is `/` to this process, in the namespace.
    pub root: OwnedFd,
}

/// How a stage is to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Whether it hides [`HYBRID`].
    pub hide_hybrid: bool,
    /// Whether what is mounted in the container below a shared bind is to be seen on the host. Such a
    /// stage keeps the mounts of other containers, and is slower: where the host's mounts are shared,
    /// unmounting them here would unmount them there.
    pub spreads: bool,
}

/// A stage on its way.
#[derive(Debug)]
pub enum Staging {
    /// The last one still serves.
    Made(Arc<Stage>),
    /// One is being made.
    Making {
        /// The thread that does it.
        thread: JoinHandle<io::Result<Stage>>,
        /// What it is to be like.
        wanted: Wanted,
        /// What was mounted before; nothing if the kernel is not able to tell.
        mounts: Option<Vec<u8>>,
    },
}

/// The last stage, and what it was made of.
#[derive(Debug)]
struct Last {
    stage: Arc<Stage>,
    wanted: Wanted,
    mounts: Vec<u8>,
    used: Instant,
}

impl Stages {
    /// Stages without what is mounted under `pins`, which is a private mount.
    pub fn new(pins: impl Into<PathBuf>) -> Self {
        Self { pins: pins.into(), last: Mutex::default() }
    }

    /// Begins to make a stage of what is mounted now, or takes the last one if it is such a one.
    pub fn begin(&self, wanted: Wanted) -> io::Result<Staging> {
        let mounts = mounts::but_below(&self.pins).ok();
        if let Some(last) = self.last().as_mut()
            && last.wanted == wanted
            && mounts.as_ref() == Some(&last.mounts)
        {
            last.used = Instant::now();
            return Ok(Staging::Made(last.stage.clone()));
        }
        let pins = self.pins.clone();
        let builder = thread::Builder::new().name("stage".to_owned());
        let thread = builder.spawn(move || Stage::make(&pins, wanted))?;
        Ok(Staging::Making { thread, wanted, mounts })
    }

    /// Waits for a stage.
    pub fn finish(&self, staging: Staging) -> io::Result<Arc<Stage>> {
        let (thread, wanted, mounts) = match staging {
            Staging::Made(stage) => return Ok(stage),
            Staging::Making { thread, wanted, mounts } => (thread, wanted, mounts),
        };
        let made = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let stage = Arc::new(made?);
        if let Some(mounts) = mounts {
            let (stage, used) = (stage.clone(), Instant::now());
            let old = self.last().replace(Last { stage, wanted, mounts, used });
            drop(old);
        }
        Ok(stage)
    }

    /// Lets go of a stage that was not used for this long: what it has mounted is busy on a host
    /// whose mounts are not shared.
    pub fn rest(&self, unused: Duration) {
        let old = self.last().take_if(|last| last.used.elapsed() >= unused);
        drop(old);
    }

    fn last(&self) -> MutexGuard<'_, Option<Last>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stage {
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
