//! How transfers tell how they go.

use std::time::{Duration, Instant};

use tokio::sync::mpsc::Sender;

use super::Progress;

/// Bars move this often.
const TICK: Duration = Duration::from_millis(100);

/// Says when a bar may move again.
#[derive(Debug, Default)]
pub(super) struct Ticker(Option<Instant>);

impl Ticker {
    pub(super) fn is_due(&mut self) -> bool {
        let due = self.0.is_none_or(|last| last.elapsed() >= TICK);
        if due {
            self.0 = Some(Instant::now());
        }
        due
    }
}

/// Tells a step of a layer, or of the whole if `id` is empty.
pub(super) async fn tell(
    to: &Sender<Progress>,
    id: &str,
    status: &str,
    detail: Option<(u64, u64)>,
) {
    // Nobody has to watch.
    let _ = to.send(step(id, status, detail)).await;
}

/// A step, to be told.
pub(super) fn step(id: &str, status: &str, detail: Option<(u64, u64)>) -> Progress {
    let id = (!id.is_empty()).then(|| id.to_owned());
    Progress { id, status: status.to_owned(), detail, aux: None }
}
