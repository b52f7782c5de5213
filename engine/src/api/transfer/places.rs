//! Places for work that goes on for as long as its client, or a file system, takes its time.
//!
//! Such work blocks a thread that nobody can call back. So it has a thread of its own, not one of those
//! that all requests share, and there are only so many of each kind: whatever hangs, other kinds do not.

use std::sync::Arc;
use std::thread;

use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio_util::sync::CancellationToken;

use crate::api::waiting::turn;
use engine_error::{Error, Result};

/// How many requests of one kind are served at the same time; the others wait.
const AT_A_TIME: usize = 64;

/// The places of all kinds.
#[derive(Debug)]
pub struct Transfers {
    /// Files out of and into containers.
    pub copies: Places,
    /// Archives of images on their way in.
    pub loads: Places,
    /// The same on their way out.
    pub saves: Places,
    /// Root file systems that become images.
    pub imports: Places,
    /// Contexts, and what is built of them.
    pub builds: Places,
    /// Connections of clients that want `BuildKit`.
    pub sessions: Places,
}

impl Default for Transfers {
    fn default() -> Self {
        Self {
            copies: Places::new("copy", AT_A_TIME),
            loads: Places::new("load", AT_A_TIME),
            saves: Places::new("save", AT_A_TIME),
            imports: Places::new("import", AT_A_TIME),
            builds: Places::new("build", AT_A_TIME),
            sessions: Places::new("session", AT_A_TIME),
        }
    }
}

/// The places of one kind.
#[derive(Clone, Debug)]
pub struct Places {
    /// What its threads are called.
    name: &'static str,
    free: Arc<Semaphore>,
}

/// The right to a thread.
#[derive(Debug)]
pub struct Place {
    name: &'static str,
    _permit: OwnedSemaphorePermit,
}

impl Places {
    pub(super) fn new(name: &'static str, count: usize) -> Self {
        Self { name, free: Arc::new(Semaphore::new(count)) }
    }

    /// Whether nobody has to wait for one.
    pub(super) fn are_free(&self) -> bool {
        self.free.available_permits() > 0
    }

    /// Waits for a place, as long as somebody wants it.
    pub async fn take(&self, left: &CancellationToken) -> Result<Place> {
        let permit = turn(&self.free, left).await?;
        Ok(Place { name: self.name, _permit: permit })
    }

    /// Runs work that blocks, once there is a place for it and if somebody still wants it then.
    pub async fn run<T, E>(
        &self,
        left: &CancellationToken,
        work: impl FnOnce() -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        self.take(left).await?.run(work).await
    }
}

impl Place {
    /// Runs work that blocks, to its end, whether anybody waits for it or not.
    pub async fn run<T, E>(
        self,
        work: impl FnOnce() -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        let (done, result) = oneshot::channel();
        let (name, tasks) = (self.name, Handle::current());
        let runs = move || {
            let _place = self;
            // What it does may begin tasks.
            let _entered = tasks.enter();
            // Nobody may wait for it any more.
            let _ = done.send(work());
        };
        let unstarted = |error| Error::internal("cannot start a thread", error);
        thread::Builder::new().name(name.to_owned()).spawn(runs).map_err(unstarted)?;
        let fault = |error| Error::internal(format!("the {name} ended in a fault"), error);
        result.await.map_err(fault)?
    }
}
