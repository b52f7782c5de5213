//! A container in the engine's memory: its snapshot, and what is known of it only while it lives.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Mutex as AsyncMutex, watch};

use super::Container;
use crate::runner::StreamClient;
use engine_error::Result;
use shim::client::ShimClient;

/// How long others wait for the end of a start.
const SETTLED: Duration = Duration::from_secs(30);

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
    streams: Mutex<Streams>,
    /// How many restarts by hand are under way.
    restarts: AtomicUsize,
    /// Whether a start is under way.
    starting: watch::Sender<bool>,
    /// In which of its runs its ports are opened and closed by somebody; 0 is none.
    ports_watched: AtomicU64,
}

/// A restart by hand under way: an end meanwhile is no reason to remove the container.
#[derive(Debug)]
pub(crate) struct Restart(Arc<Live>);

impl Drop for Restart {
    fn drop(&mut self) {
        self.0.restarts.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A start under way: until this is dropped it is not known what became of the container.
#[derive(Debug)]
pub(crate) struct Start(Arc<Live>);

impl Drop for Start {
    fn drop(&mut self) {
        self.0.starting.send_replace(false);
    }
}

/// Who has, and who waits for, the streams of the container's process.
#[derive(Debug, Default)]
struct Streams {
    /// The shim, while there is one.
    shim: Option<Arc<ShimClient>>,
    /// Clients that attached before the start.
    early: Vec<StreamClient>,
}

/// How far a container's life has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// How often it was started.
    pub(crate) starts: u64,
    /// How often it ended or could not be started.
    pub(crate) ends: u64,
    /// Whether its process has ended and what that leaves is being removed; then it counts as an end.
    pub(crate) leaving: bool,
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
            streams: Mutex::default(),
            restarts: AtomicUsize::new(0),
            starting: watch::Sender::new(false),
            ports_watched: AtomicU64::new(0),
        }
    }

    /// Says that the container is being restarted by hand.
    pub(crate) fn restart(self: &Arc<Self>) -> Restart {
        self.restarts.fetch_add(1, Ordering::SeqCst);
        Restart(self.clone())
    }

    /// Says that the container is being started. Its lifecycle is locked by the caller.
    pub(crate) fn start(self: &Arc<Self>) -> Start {
        self.starting.send_replace(true);
        Start(self.clone())
    }

    /// Waits for the end of a start. A client may have seen what the process writes before it is known
    /// here that there is one; Docker has everybody wait. If it takes too long, the container is what it
    /// was before.
    pub(crate) async fn settled(&self) {
        let mut starting = self.starting.subscribe();
        let _ = tokio::time::timeout(SETTLED, starting.wait_for(|starting| !*starting)).await;
    }

    /// Whether it is being restarted by hand.
    pub(crate) fn restarts(&self) -> bool {
        self.restarts.load(Ordering::SeqCst) > 0
    }

    /// Says that somebody opens and closes the ports from now on, in the run after so many ends; tells
    /// whether nobody did.
    pub(crate) fn watch_ports(&self, ends: u64) -> bool {
        self.ports_watched.swap(ends + 1, Ordering::SeqCst) != ends + 1
    }

    /// Says that nobody does any more.
    pub(crate) fn unwatch_ports(&self, ends: u64) {
        let watched = &self.ports_watched;
        let _ = watched.compare_exchange(ends + 1, 0, Ordering::SeqCst, Ordering::SeqCst);
    }

    /// The container as it is now.
    pub(crate) fn get(&self) -> Arc<Container> {
        self.snapshot.load_full()
    }

    /// Changes the container, and returns what became of it with the change's result.
    pub(crate) fn change<T>(
        &self,
        change: impl FnOnce(&mut Container) -> T,
    ) -> (Arc<Container>, T) {
        let _turn = lock(&self.change);
        let mut container = Container::clone(&self.snapshot.load());
        let result = change(&mut container);
        let container = Arc::new(container);
        self.snapshot.store(container.clone());
        (container, result)
    }

    /// The shim to attach to, or `early` made to wait for the start.
    pub(crate) fn shim_or_wait(
        &self,
        early: impl FnOnce() -> Result<StreamClient>,
    ) -> Result<Option<Arc<ShimClient>>> {
        let mut streams = lock(&self.streams);
        if streams.shim.is_none() {
            streams.early.push(early()?);
        }
        Ok(streams.shim.clone())
    }

    /// Takes the clients that wait for the start.
    pub(crate) fn take_early(&self) -> Vec<StreamClient> {
        std::mem::take(&mut lock(&self.streams).early)
    }

    /// The shim, while there is one.
    pub(crate) fn shim(&self) -> Option<Arc<ShimClient>> {
        lock(&self.streams).shim.clone()
    }

    /// There is a shim now; returns those who came too late to be handed to it at its start.
    pub(crate) fn set_shim(&self, shim: Arc<ShimClient>) -> Vec<StreamClient> {
        let mut streams = lock(&self.streams);
        streams.shim = Some(shim);
        std::mem::take(&mut streams.early)
    }

    /// There is no shim any more.
    pub(crate) fn clear_shim(&self) {
        lock(&self.streams).shim = None;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
