//! What a host knows of its cluster, and what changes of that.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cnm::{EndpointId, NetworkId};
use tokio::sync::Notify;

use crate::record::{EndpointRecord, NetworkRecord, NodeRecord};

/// What a host knows of its cluster. Clones are cheap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Whether everything that there was at one time is in it: nothing may be removed before.
    pub complete: bool,
    /// The hosts, by their ids; this one, too.
    pub nodes: Arc<BTreeMap<String, NodeView>>,
    /// The networks.
    pub networks: Arc<BTreeMap<NetworkId, Arc<NetworkRecord>>>,
    /// The endpoints of networks that this host follows; its own, too.
    pub endpoints: BTreeMap<NetworkId, Arc<Endpoints>>,
    /// Keys whose records this release cannot read, and why. They are left alone.
    pub unreadable: Arc<BTreeMap<String, String>>,
}

/// Endpoints of one network.
pub type Endpoints = BTreeMap<EndpointId, Arc<EndpointRecord>>;

/// A host, as others see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeView {
    /// What it says of itself.
    pub record: Arc<NodeRecord>,
    /// Whether it is there.
    pub live: bool,
}

/// What changed of a [`View`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// Hosts that came, went, changed, or are live or not any more.
    pub nodes: BTreeSet<String>,
    /// Networks that came, went or changed.
    pub networks: BTreeSet<NetworkId>,
    /// Endpoints that came or changed, and those that went.
    pub endpoints: BTreeMap<NetworkId, BTreeMap<EndpointId, Option<Arc<EndpointRecord>>>>,
    /// Whether [`crate::Cluster::status`] says something else.
    pub status: bool,
}

impl Delta {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds what changed later.
    pub(crate) fn add(&mut self, later: Self) {
        self.nodes.extend(later.nodes);
        self.networks.extend(later.networks);
        for (network, endpoints) in later.endpoints {
            self.endpoints.entry(network).or_default().extend(endpoints);
        }
        self.status |= later.status;
    }
}

impl View {
    /// All that there is, as a change from nothing.
    pub(crate) fn all(&self) -> Delta {
        let some = |(id, record): (&EndpointId, &Arc<EndpointRecord>)| {
            (id.clone(), Some(Arc::clone(record)))
        };
        let endpoints = self.endpoints.iter();
        let endpoints = endpoints.map(|(id, all)| (id.clone(), all.iter().map(some).collect()));
        Delta {
            nodes: self.nodes.keys().cloned().collect(),
            networks: self.networks.keys().cloned().collect(),
            endpoints: endpoints.collect(),
            status: true,
        }
    }

    /// The network with a name.
    pub fn named(&self, name: &str) -> Option<(&NetworkId, &Arc<NetworkRecord>)> {
        self.networks.iter().find(|(_, record)| record.name == name)
    }
}

/// What changes, for one who wants to hear of it. While nobody listens changes are put together, so
/// that there is never more to tell than what there is.
#[derive(Debug)]
pub struct Changes(Arc<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    delta: Mutex<Delta>,
    told: Notify,
}

impl Changes {
    /// What changed since the last call, as soon as something has. The first time it is all that there is.
    pub async fn next(&mut self) -> Delta {
        loop {
            let told = self.0.told.notified();
            let delta = std::mem::take(&mut *lock(&self.0.delta));
            if !delta.is_empty() {
                return delta;
            }
            told.await;
        }
    }
}

/// Those who want to hear of changes.
#[derive(Debug, Default)]
pub(crate) struct Listeners(Mutex<Vec<Arc<Waiting>>>);

impl Listeners {
    pub(crate) fn add(&self, first: Delta) -> Changes {
        let waiting = Arc::new(Waiting { delta: Mutex::new(first), told: Notify::new() });
        lock(&self.0).push(Arc::clone(&waiting));
        Changes(waiting)
    }

    pub(crate) fn tell(&self, delta: &Delta) {
        if delta.is_empty() {
            return;
        }
        let mut all = lock(&self.0);
        // Of one that nobody listens to any more there is only this one.
        all.retain(|waiting| Arc::strong_count(waiting) > 1);
        for waiting in &*all {
            lock(&waiting.delta).add(delta.clone());
            waiting.told.notify_one();
        }
    }
}

// Every change of what is behind the locks is one call that does not panic half-way.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
