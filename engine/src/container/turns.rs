//! How many containers are being started at a time.
//!
//! A start holds one of the threads that may be blocked as long as its runtime takes, which may hang
//! for minutes. There are 512 of those threads, for everything; so that some are left whatever runtimes
//! do, starts beyond a number wait where that costs nothing.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use engine_error::{Error, Kind, Result};

/// How many starts may be under way.
const AT_ONCE: usize = 384;
/// How long a client waits for its turn.
const PATIENCE: Duration = Duration::from_secs(30);

/// The turns of starts.
#[derive(Clone, Debug)]
pub(super) struct StartTurns {
    left: Arc<Semaphore>,
    patience: Duration,
}

/// The right to start a container, as long as this lives.
#[derive(Debug)]
pub(super) struct Turn(#[expect(dead_code, reason = "it is dropped")] OwnedSemaphorePermit);

impl StartTurns {
    /// Waits for a turn, but not for ever.
    pub(super) async fn take(&self) -> Result<Turn> {
        let late = |_| {
            let text = format!(
                "{AT_ONCE} other containers are being started and do not get on: see whether their \
                 runtime hangs"
            );
            Error::new(Kind::Unavailable, text)
        };
        tokio::time::timeout(self.patience, self.take_at_last()).await.map_err(late)?
    }

    /// Waits for a turn.
    pub(super) async fn take_at_last(&self) -> Result<Turn> {
        let permit = self.left.clone().acquire_owned().await;
        permit.map(Turn).map_err(|error| Error::internal("the daemon is ending", error))
    }
}

impl Default for StartTurns {
    fn default() -> Self {
        Self { left: Arc::new(Semaphore::new(AT_ONCE)), patience: PATIENCE }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_that_hang_leave_threads_to_all_others_and_those_beyond_are_told_of_them() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let turns = StartTurns { patience: Duration::from_millis(50), ..StartTurns::default() };
            let mut hung = Vec::new();
            for _ in 0..AT_ONCE {
                hung.push(turns.take().await.unwrap());
            }
            let error = turns.take().await.unwrap_err().to_string();
            assert!(error.starts_with("384 other containers are being started"), "{error}");
            let (waits, ended) = (turns.take(), async { drop(hung.pop()) });
            let (turn, ()) = tokio::join!(waits, ended);
            turn.unwrap();
        });
    }
}
