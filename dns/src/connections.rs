//! Connections that are carried, whoever let them in: they end by themselves, or when they are told to.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::task::JoinHandle;

/// Connections, each with the target that it is carried to. Clones are of the same ones.
#[derive(Clone, Debug, Default)]
pub(crate) struct Connections(Arc<Mutex<Vec<Connection>>>);

/// A connection, and the task that carries it.
#[derive(Debug)]
struct Connection {
    target: SocketAddr,
    task: JoinHandle<()>,
}

impl Connections {
    /// Adds one. It is begun while nobody ends any, so that it is either seen by who does, or begun
    /// after that.
    pub(crate) fn add(&self, begin: impl FnOnce() -> Option<(SocketAddr, JoinHandle<()>)>) {
        let mut all = self.lock();
        all.retain(|connection| !connection.task.is_finished());
        all.extend(begin().map(|(target, task)| Connection { target, task }));
    }

    /// Ends those to some targets. They are closed when this returns.
    pub(crate) async fn end(&self, is_wanted: impl Fn(SocketAddr) -> bool) {
        for connection in self.take(is_wanted) {
            connection.task.abort();
            let _ = connection.task.await;
        }
    }

    /// Takes out those to some targets.
    pub(crate) fn part(&self, is_wanted: impl Fn(SocketAddr) -> bool) -> Self {
        Self(Arc::new(Mutex::new(self.take(is_wanted))))
    }

    /// Whether all have ended.
    pub(crate) fn are_over(&self) -> bool {
        self.lock().iter().all(|connection| connection.task.is_finished())
    }

    fn take(&self, is_wanted: impl Fn(SocketAddr) -> bool) -> Vec<Connection> {
        let mut all = self.lock();
        let (taken, kept) = all.drain(..).partition(|connection| is_wanted(connection.target));
        *all = kept;
        taken
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
