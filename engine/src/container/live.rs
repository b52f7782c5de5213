//! A container in the engine's memory: its snapshot, and what is known of it only while it lives.

use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::{Mutex as AsyncMutex, watch};

use super::{Attach, Container};
use crate::shim::client::ShimClient;

/// A container of this engine.
#[derive(Debug)]
pub(crate) struct Live {
    snapshot: ArcSwap<Container>,
    /// Serialises changes of the snapshot; held for a moment only.
    change: Mutex<()>,
    /// Serialises operations that start, end or remove the container or change its networks.
    pub(crate) lifecycle: AsyncMutex<()>,
    /// How far its life has come, for those who wait.
    pub(crate) progress: watch::Sender<Progress>,
    /// Clients that attached before it was started.
    early: Mutex<Vec<Early>>,
    shim: Mutex<Option<Arc<ShimClient>>>,
}

/// A client that attached to a container that does not run yet.
#[derive(Debug)]
pub(crate) struct Early {
    /// The end of a socket pair that the shim is to have.
    pub(crate) stream: UnixStream,
    /// The streams it wants.
    pub(crate) attach: Attach,
}

/// How far a container's life has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// How often it was started.
    pub(crate) starts: u64,
    /// How often it ended or could not be started.
    pub(crate) ends: u64,
    /// The exit code of the last end.
    pub(crate) code: i64,
    /// Why the last start failed.
    pub(crate) error: Option<String>,
    /// Whether it runs, or is about to be started again.
    pub(crate) running: bool,
    /// Whether it was removed.
    pub(crate) removed: bool,
}

impl Live {
    pub(crate) fn new(container: Container) -> Self {
        let progress = Progress {
            running: container.state.is_running(),
            code: i64::from(container.state.exit_code),
            ..Progress::default()
        };
        Self {
            snapshot: ArcSwap::from_pointee(container),
            change: Mutex::default(),
            lifecycle: AsyncMutex::default(),
            progress: watch::Sender::new(progress),
            early: Mutex::default(),
            shim: Mutex::default(),
        }
    }

    /// The container as it is now.
    pub(crate) fn get(&self) -> Arc<Container> {
        self.snapshot.load_full()
    }

    /// Changes the container, and returns what became of it with the change's result.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Container) -> T) -> (Arc<Container>, T) {
        let _turn = lock(&self.change);
        let mut container = Container::clone(&self.snapshot.load());
        let result = change(&mut container);
        let container = Arc::new(container);
        self.snapshot.store(container.clone());
        (container, result)
    }

    /// Adds a client that waits for the start.
    pub(crate) fn attach_early(&self, early: Early) {
        lock(&self.early).push(early);
    }

    /// Takes the clients that wait for the start.
    pub(crate) fn take_early(&self) -> Vec<Early> {
        std::mem::take(&mut lock(&self.early))
    }

    /// The shim, while there is one.
    pub(crate) fn shim(&self) -> Option<Arc<ShimClient>> {
        lock(&self.shim).clone()
    }

    pub(crate) fn set_shim(&self, shim: Option<Arc<ShimClient>>) {
        *lock(&self.shim) = shim;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
