//! The watch rule: everything at one revision, then whatever changes after that.
//!
//! When a watch ends it is begun again where it was. Only when the store has forgotten that
//! revision everything is read anew, and the difference is what changed. Nothing is taken for gone
//! before everything has been seen once.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use crate::cluster::Cluster;
use crate::knowledge::{Knowledge, Part};
use crate::store::{Event, Revision, Snapshot, StoreError};
use crate::view::{Delta, lock};

/// The first pause after an error, and the longest.
const PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(5)];

/// Pauses that become longer, and are never the same on all hosts.
#[derive(Debug)]
pub(crate) struct Pauses {
    next: Duration,
}

impl Pauses {
    pub(crate) fn new() -> Self {
        Self { next: PAUSES[0] }
    }

    pub(crate) fn reset(&mut self) {
        self.next = PAUSES[0];
    }

    pub(crate) async fn wait(&mut self) {
        sleep(self.next()).await;
    }

    /// How long the next one is.
    pub(crate) fn next(&mut self) -> Duration {
        let mut random = [0; 4];
        // Zeros do: it is only about hosts that would all come at once.
        let _ = getrandom::fill(&mut random);
        let part = f64::from(u32::from_le_bytes(random)) / f64::from(u32::MAX);
        let pause = self.next.mul_f64(0.5 + part / 2.0);
        self.next = (self.next * 2).min(PAUSES[1]);
        pause
    }
}

/// Where a part is to be followed on.
#[derive(Clone, Copy, Debug)]
struct Next {
    revision: Revision,
    /// How often the store had lost data.
    generation: u64,
}

/// Follows a part for ever.
pub(crate) async fn follow(cluster: Arc<Cluster>, part: Part) {
    let mut pauses = Pauses::new();
    let mut next: Option<Next> = None;
    cluster.wait_until_joined().await;
    loop {
        match follow_on(&cluster, &part, &mut next, &mut pauses).await {
            StoreError::Compacted(_) => next = None,
            error => cluster.disconnected(&error),
        }
        pauses.wait().await;
    }
}

/// Follows a part until that fails.
async fn follow_on(
    cluster: &Cluster,
    part: &Part,
    next: &mut Option<Next>,
    pauses: &mut Pauses,
) -> StoreError {
    let prefix = part.prefix(&cluster.keys);
    if let Err(error) = cluster.recognise().await {
        return error;
    }
    // Revisions of before the store lost data mean nothing.
    let generation = lock(&cluster.me).generation;
    let from = match *next {
        Some(next) if next.generation == generation => next.revision,
        _ => match cluster.store.range(&prefix).await {
            Ok(snapshot) => {
                let revision = snapshot.revision;
                cluster.take_in_all(part, &prefix, &snapshot);
                next.insert(Next { revision: revision + 1, generation }).revision
            }
            Err(error) => return error,
        },
    };
    let mut watch = match cluster.store.watch(&prefix, from).await {
        Ok(watch) => watch,
        Err(error) => return error,
    };
    cluster.connected();
    loop {
        match watch.next().await {
            Ok((revision, events)) => {
                pauses.reset();
                cluster.take_in(part, &prefix, revision, &events);
                *next = Some(Next { revision: revision + 1, generation });
            }
            Err(error) => return error,
        }
    }
}

impl Cluster {
    /// Takes in all of a part: what is not there is gone.
    pub(crate) fn take_in_all(&self, part: &Part, prefix: &str, snapshot: &Snapshot) {
        let mut delta = Delta::default();
        let mut state = lock(&self.state);
        let entries = || snapshot.entries.iter();
        let there: BTreeSet<&str> =
            entries().filter_map(|entry| entry.key.strip_prefix(prefix)).collect();
        let known = state.knowledge.ids(part, prefix);
        for gone in known.into_iter().filter(|id| !there.contains(id.as_str())) {
            self.put(&mut state.knowledge, part, &format!("{prefix}{gone}"), None, &mut delta);
        }
        for entry in entries() {
            self.put(&mut state.knowledge, part, &entry.key, Some(&entry.value), &mut delta);
        }
        state.knowledge.complete(part);
        let complete = state.knowledge.view.complete;
        drop(state);
        if complete {
            // Who waits for that is told by nothing else.
            self.refill.notify_one();
        }
        self.seen(snapshot.revision, complete);
        if matches!(part, Part::Endpoints(_)) {
            self.audit_own(part, snapshot);
        }
        self.told(&delta);
    }

    fn take_in(&self, part: &Part, prefix: &str, revision: Revision, events: &[Event]) {
        let mut delta = Delta::default();
        let mut state = lock(&self.state);
        for event in events.iter().filter(|event| event.key().starts_with(prefix)) {
            let value = match event {
                Event::Put(entry) => Some(entry.value.as_slice()),
                Event::Deleted { .. } => None,
            };
            self.put(&mut state.knowledge, part, event.key(), value, &mut delta);
        }
        let complete = state.knowledge.view.complete;
        drop(state);
        self.seen(revision, complete);
        self.told(&delta);
    }

    fn put(
        &self,
        knowledge: &mut Knowledge,
        part: &Part,
        key: &str,
        value: Option<&[u8]>,
        delta: &mut Delta,
    ) {
        let Some(id) = key.strip_prefix(&part.prefix(&self.keys)) else { return };
        let changed = knowledge.put(part, key, id, value, delta);
        if changed && let Some(short) = key.strip_prefix(self.keys.root()) {
            self.local.note_mirror(short, value);
        }
    }
}
