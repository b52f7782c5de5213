//! Watches of etcd's.

use std::time::Duration;

use etcd_client::{Client, EventType, WatchOptions, WatchResponse, WatchStream};

use super::{ANSWER, entry, error::Failure};
use crate::store::{Event, Pending, Revision, StoreError, Watch};

/// A stream of changes from one member.
#[derive(Debug)]
pub(super) struct EtcdWatch {
    stream: WatchStream,
    /// What the next change may be of.
    next: Revision,
    /// What came with the answer that the watch has begun.
    early: Option<WatchResponse>,
}

/// Asks for changes from a revision on.
pub(super) async fn open(
    client: Client,
    prefix: &str,
    from: Revision,
) -> Result<WatchStream, etcd_client::Error> {
    let options =
        WatchOptions::new().with_prefix().with_start_revision(from).with_progress_notify();
    let mut client = client.watch_client().max_decoding_message_size(ANSWER);
    client.watch(prefix, Some(options)).await
}

impl EtcdWatch {
    /// Waits until the member says that the watch has begun.
    pub(super) async fn begin(
        stream: WatchStream,
        next: Revision,
        limit: Duration,
    ) -> Result<Self, StoreError> {
        let mut watch = Self { stream, next, early: None };
        let first = tokio::time::timeout(limit, watch.message()).await;
        let late = |_| StoreError::Unavailable("a watch did not begin in time".to_owned());
        let first = first.map_err(late)??;
        if !first.created() || !first.events().is_empty() {
            watch.early = Some(first);
        }
        Ok(watch)
    }

    async fn message(&mut self) -> Result<WatchResponse, StoreError> {
        let message = self.stream.message().await;
        let message = message.map_err(|error| Failure::of(&error).told(true))?;
        let message =
            message.ok_or_else(|| StoreError::Unavailable("a watch has ended".to_owned()))?;
        if message.compact_revision() > 0 {
            return Err(StoreError::Compacted(message.compact_revision()));
        }
        if message.canceled() {
            let reason = message.cancel_reason();
            return Err(if reason.contains("permission denied") || reason.contains("auth") {
                StoreError::Denied(reason.to_owned())
            } else {
                StoreError::Unavailable(format!("a watch was ended: {reason}"))
            });
        }
        Ok(message)
    }
}

impl Watch for EtcdWatch {
    fn next(&mut self) -> Pending<'_, Result<(Revision, Vec<Event>), StoreError>> {
        Box::pin(async move {
            let message = match self.early.take() {
                Some(early) => early,
                None => self.message().await?,
            };
            let events: Vec<_> = message.events().iter().filter_map(event).collect();
            let header = message.header().map_or(0, etcd_client::ResponseHeader::revision);
            // While a watch catches up, the header tells of the store and not of the watch.
            let revision = match message.events().last().and_then(|last| last.kv()) {
                Some(last) => last.mod_revision(),
                None => header,
            };
            self.next = self.next.max(revision + 1);
            Ok((self.next - 1, events))
        })
    }
}

fn event(event: &etcd_client::Event) -> Option<Event> {
    let found = event.kv()?;
    Some(match event.event_type() {
        EventType::Put => Event::Put(entry(found)),
        EventType::Delete => {
            let (entry, revision) = (entry(found), found.mod_revision());
            Event::Deleted { key: entry.key, revision }
        }
    })
}
