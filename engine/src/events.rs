//! The event bus: what happened, told to whoever listens, with a short memory.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Utc};
use tokio::sync::broadcast;

/// How many past events are remembered.
const REMEMBERED: usize = 256;

/// How far a listener may lag behind before it loses events.
const BACKLOG: usize = 4096;

/// Something that happened to an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// `container`, `network`, `image`, `volume`, `daemon`.
    pub kind: &'static str,
    /// `create`, `start`, `die` … Docker's words.
    pub action: String,
    /// The object's id, or an image's name.
    pub id: String,
    /// Attributes, such as `name`, `image`, `exitCode`.
    pub attributes: BTreeMap<String, String>,
    /// When.
    pub time: DateTime<Utc>,
}

/// Publishes events and remembers the last 256.
#[derive(Debug)]
pub struct Events {
    told: AtomicU64,
    past: Mutex<VecDeque<Arc<Event>>>,
    sender: broadcast::Sender<Arc<Event>>,
}

/// The events a listener gets: first those it missed, then those to come.
#[derive(Debug)]
pub struct Subscription {
    past: VecDeque<Arc<Event>>,
    receiver: broadcast::Receiver<Arc<Event>>,
}

impl Default for Events {
    fn default() -> Self {
        let (sender, _) = broadcast::channel(BACKLOG);
        Self { told: AtomicU64::new(0), past: Mutex::default(), sender }
    }
}

impl Events {
    /// Tells an event of this moment.
    pub fn publish(
        &self,
        kind: &'static str,
        action: impl Into<String>,
        id: impl Into<String>,
        attributes: BTreeMap<String, String>,
    ) {
        let (action, id) = (action.into(), id.into());
        self.told.fetch_add(1, Ordering::Relaxed);
        let mut past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        let event = Arc::new(Event { kind, action, id, attributes, time: Utc::now() });
        if past.len() == REMEMBERED {
            past.pop_front();
        }
        past.push_back(event.clone());
        // Nobody listening is no failure.
        let _ = self.sender.send(event);
    }

    /// How many were told so far.
    pub fn told(&self) -> u64 {
        self.told.load(Ordering::Relaxed)
    }

    /// Tells an event of a local volume.
    pub fn volume(&self, action: &str, name: &str, attributes: &[(&str, &str)]) {
        let attributes = [("driver", "local")].iter().chain(attributes);
        let attributes: BTreeMap<_, _> =
            attributes.map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        self.publish("volume", action, name, attributes);
    }

    /// Tells what was pruned, by kind of object, and how many bytes came free.
    pub fn pruned(&self, kind: &'static str, reclaimed: u64) {
        let attributes = BTreeMap::from([("reclaimed".to_owned(), reclaimed.to_string())]);
        self.publish(kind, "prune", "", attributes);
    }

    /// Listens. With `since`, the remembered events from then on come first.
    pub fn subscribe(&self, since: Option<DateTime<Utc>>) -> Subscription {
        // Both under the lock, so that no event falls between memory and channel.
        let past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        let receiver = self.sender.subscribe();
        let past = match since {
            Some(since) => past.iter().filter(|event| event.time >= since).cloned().collect(),
            None => VecDeque::new(),
        };
        Subscription { past, receiver }
    }
}

impl Subscription {
    /// The next remembered event; `None` when what follows is yet to come.
    pub fn next_past(&mut self) -> Option<Arc<Event>> {
        self.past.pop_front()
    }

    /// The next event; `None` when the engine is gone.
    pub async fn next(&mut self) -> Option<Arc<Event>> {
        if let Some(event) = self.past.pop_front() {
            return Some(event);
        }
        loop {
            match self.receiver.recv().await {
                Ok(event) => return Some(event),
                Err(broadcast::error::RecvError::Lagged(lost)) => {
                    tracing::warn!(lost, "a listener is too slow for the events");
                }
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_listener_gets_remembered_events_before_new_ones() {
        let events = Events::default();
        events.publish("container", "create", "a", BTreeMap::new());
        let mut listener = events.subscribe(Some(DateTime::UNIX_EPOCH));
        events.publish("container", "start", "a", BTreeMap::new());
        assert_eq!(listener.next().await.unwrap().action, "create");
        assert_eq!(listener.next().await.unwrap().action, "start");
    }

    #[test]
    fn only_the_last_256_events_are_remembered() {
        let events = Events::default();
        for n in 0..300 {
            events.publish("container", n.to_string(), "a", BTreeMap::new());
        }
        let mut listener = events.subscribe(Some(DateTime::UNIX_EPOCH));
        assert_eq!(listener.next_past().unwrap().action, "44");
    }
}
