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

/// A stage on its way.
#[derive(Debug)]
pub enum Staging {
    /// The last one still serves.
    Made(Arc<Stage>),
    /// One is being made.
    Making {
        /// The thread that does it.
        thread: JoinHandle<io::Result<Stage>>,
        /// Whether it hides [`HYBRID`].
        hide_hybrid: bool,
        /// What was mounted before; nothing if the kernel is not able to tell.
        mounts: Option<Vec<u8>>,
    },
}

/// The last stage, and what it was made of.
#[derive(Debug)]
struct Last {
    stage: Arc<Stage>,
    hide_hybrid: bool,
    mounts: Vec<u8>,
    used: Instant,
}

impl Stages {
    /// Stages without what is mounted under `pins`, which is a private mount.
    pub fn new(pins: impl Into<PathBuf>) -> Self {
        Self { pins: pins.into(), last: Mutex::default() }
    }

    /// Begins to make a stage of what is mounted now, without [`HYBRID`] if that is to be hidden; or
    /// takes the last one if it is such a one.
    pub fn begin(&self, hide_hybrid: bool) -> io::Result<Staging> {
        let mounts = mounts::but_below(&self.pins).ok();
        if let Some(last) = self.last().as_mut()
            && last.hide_hybrid == hide_hybrid
            && mounts.as_ref() == Some(&last.mounts)
        {
            last.used = Instant::now();
            return Ok(Staging::Made(last.stage.clone()));
        }
        let pins = self.pins.clone();
        let builder = thread::Builder::new().name("stage".to_owned());
        let thread = builder.spawn(move || Stage::make(&pins, hide_hybrid))?;
        Ok(Staging::Making { thread, hide_hybrid, mounts })
    }

    /// Waits for a stage.
    pub fn finish(&self, staging: Staging) -> io::Result<Arc<Stage>> {
        let (thread, hide_hybrid, mounts) = match staging {
            Staging::Made(stage) => return Ok(stage),
            Staging::Making { thread, hide_hybrid, mounts } => (thread, hide_hybrid, mounts),
        };
        let made = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let stage = Arc::new(made?);
        if let Some(mounts) = mounts {
            let (stage, used) = (stage.clone(), Instant::now());
            let old = self.last().replace(Last { stage, hide_hybrid, mounts, used });
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

#[cfg(test)]
mod tests;
