//! Work that goes on beside the requests, and ends with the engine.

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The tasks of one engine.
#[derive(Debug)]
pub struct Tasks {
    runtime: Handle,
    tracker: TaskTracker,
    over: CancellationToken,
}

impl Tasks {
    /// Tasks that run on `runtime`.
    pub fn new(runtime: Handle) -> Self {
        Self { runtime, tracker: TaskTracker::new(), over: CancellationToken::new() }
    }

    /// Runs a task until it is done, or the engine is closed.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let over = self.over.clone();
        let task = async move {
            tokio::select! {
                () = over.cancelled() => {}
                () = task => {}
            }
        };
        self.tracker.spawn_on(task, &self.runtime);
    }

    /// The runtime that they run on.
    pub fn handle(&self) -> &Handle {
        &self.runtime
    }

    /// Ends them, and returns when they have.
    pub async fn end(&self) {
        self.over.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}
