//! Waiting as long as the client does.
//!
//! Requests run to their ends in tasks of their own, whether their clients are still there or not. What
//! has not begun has no need to: who waits for a turn or for a first word leaves the queue with the client.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use engine_error::{Error, Kind, Result};

/// Waits for something, unless the client has `left`.
pub async fn wanted<T>(left: &CancellationToken, wait: impl Future<Output = T>) -> Result<T> {
    let gone = || Error::new(Kind::Unavailable, "the client left while it waited");
    left.run_until_cancelled(wait).await.ok_or_else(gone)
}

/// Waits for one of so many turns, unless the client has `left`.
pub async fn turn(free: &Arc<Semaphore>, left: &CancellationToken) -> Result<OwnedSemaphorePermit> {
    let over = |error| Error::internal("the daemon is ending", error);
    wanted(left, free.clone().acquire_owned()).await?.map_err(over)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_client_that_has_left_waits_no_longer_and_takes_no_turn() {
        let (free, left) = (Arc::new(Semaphore::new(1)), CancellationToken::new());
        let first = turn(&free, &left).await.unwrap();
        let (waits, leaves) = (turn(&free, &left), async { left.cancel() });
        let (turned, ()) = tokio::join!(waits, leaves);
        assert_eq!(turned.unwrap_err().to_string(), "the client left while it waited");
        drop(first);
        assert!(turn(&free, &left).await.is_err(), "not even a turn that is free");
        assert_eq!(free.available_permits(), 1);
        assert!(turn(&free, &CancellationToken::new()).await.is_ok());
    }
}
