//! This host in its cluster: what it knows, what it owns, and the tasks that keep both true.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cnm::{EndpointId, Mac, NetworkId, Store};
use engine_error::{Error, Kind, Result};
use sha2::{Digest as _, Sha256};
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::addresses::Addresses;
use crate::follow::follow;
use crate::knowledge::{Knowledge, Part};
use crate::local::{Local, SelfRecord};
use crate::publish::Said;
use crate::record::{KeyRecord, Keys};
use crate::restore::kept;
use crate::store::{ClusterStore, Revision, StoreError};
use crate::view::{Changes, Delta, Listeners, View, lock};

/// How a host takes part.
#[derive(Clone, Debug)]
pub struct Options {
    /// The cluster's name.
    pub cluster: String,
    /// The host's name.
    pub name: String,
    /// Where tunnels to it end.
    pub address: IpAddr,
    /// Whether a link of this host has that address now, and it is not one that is only remembered.
    pub found: bool,
    /// The largest packet that its way to the others takes, in bytes.
    pub mtu: u32,
    /// The version of its rnet.
    pub release: String,
    /// What the others need to encrypt what they send it, if it can.
    pub wireguard: Option<KeyRecord>,
    /// Labels that it has when it joins.
    pub labels: BTreeMap<String, String>,
    /// Which boot of the host it is.
    pub boot: String,
    /// A word that only this daemon and those after it on this host know.
    pub instance: String,
    /// After how long without a sign of life a host is removed; never, if absent.
    pub evict_after: Option<Duration>,
}

/// This host in its cluster.
pub struct Cluster {
    pub(crate) store: Arc<dyn ClusterStore>,
    pub(crate) local: Arc<Local>,
    pub(crate) keys: Keys,
    pub(crate) options: Mutex<Options>,
    /// This host's id.
    pub(crate) node: String,
    pub(crate) epoch: u64,
    pub(crate) me: Mutex<SelfRecord>,
    pub(crate) state: Mutex<State>,
    pub(crate) listeners: Listeners,
    pub(crate) joined: watch::Sender<Joined>,
    /// Addresses are to be claimed, given back, or to be said whose they are.
    pub(crate) refill: Notify,
    /// Something is to be published or withdrawn.
    pub(crate) owed: Notify,
    /// What this host says of itself has changed.
    pub(crate) described: Notify,
    pub(crate) taken: Mutex<Taken>,
    began: Instant,
    runtime: Handle,
    tasks: Mutex<Vec<AbortHandle>>,
}

/// Whose sign of life this daemon has taken for that of the last one on this host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Taken {
    /// Nobody's.
    #[default]
    No,
    /// Somebody's, who has not taken it back since.
    Since(Instant),
    /// That of a daemon which is there: this one is a twin.
    Back,
}

/// What changes.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) knowledge: Knowledge,
    pub(crate) addresses: BTreeMap<NetworkId, Addresses>,
    /// Addresses of endpoints that live here, on networks that nobody has heard of since the start.
    pub(crate) living: BTreeMap<NetworkId, Vec<(IpAddr, String)>>,
    /// Networks that are followed, with the tasks that do it.
    followed: BTreeMap<NetworkId, AbortHandle>,
    /// What was said of endpoints last, while it is owed.
    pub(crate) owing: BTreeMap<(NetworkId, EndpointId), Said>,
    /// Why an endpoint cannot be published.
    pub(crate) unpublished: BTreeMap<(NetworkId, EndpointId), String>,
    /// Whether what the store has for this host is to be looked at.
    pub(crate) looks: BTreeMap<NetworkId, Look>,
    /// Those of this host who are there, as far as it was said last.
    pub(crate) owners: BTreeSet<String>,
    /// Hardware addresses that this daemon claimed, and for whom.
    pub(crate) macs: BTreeSet<(NetworkId, Mac, String)>,
    /// Whether it was said who lives here ([`Cluster::reconcile`]): nobody is taken for gone before.
    pub(crate) reconciled: bool,
    pub(crate) connected: bool,
    pub(crate) problem: Option<String>,
    pub(crate) restored: bool,
}

/// When it is to be looked at what the store has for this host on a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// Now: it may be more or less than it remembers.
    Due,
    /// Once more at a time, for what was on its way to the store then.
    Again(u64),
    /// Not before something is in doubt.
    Done,
}

impl State {
    /// The addresses of endpoints of a network for which something is owed.
    pub(crate) fn owed_addresses(&self, network: &NetworkId) -> BTreeSet<IpAddr> {
        let owing = self.owing.iter().filter(|((of, _), _)| of == network);
        owing.flat_map(|(_, said)| said.addresses()).copied().collect()
    }
}

/// Whether this host is in its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Joined {
    /// Not yet.
    Waiting,
    /// It is not let in.
    Refused(Kind, String),
    Yes,
}

/// How a host stands with its cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Whether it is in it.
    pub joined: bool,
    /// Whether the store answered when it was last asked.
    pub connected: bool,
    /// What is wrong.
    pub problem: Option<String>,
    /// Whether the store lost data that the hosts know: nothing of it is followed before somebody
    /// says that it shall be told anew ([`Cluster::adopt`]).
    pub restored: bool,
    /// The last revision that was seen.
    pub revision: Revision,
    /// The cluster's identity.
    pub identity: Option<String>,
    /// How many endpoints are to be published or withdrawn.
    pub pending: usize,
    /// Endpoints that cannot be published, and why.
    pub unpublished: BTreeMap<(NetworkId, EndpointId), String>,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("node", &self.node).finish_non_exhaustive()
    }
}

impl Cluster {
    /// Begins with what this host remembers, without asking anybody; joins and follows beside that,
    /// for as long as it takes.
    pub fn start(
        store: Arc<dyn ClusterStore>,
        local: Arc<dyn Store>,
        options: Options,
        runtime: &Handle,
    ) -> Result<Arc<Self>> {
        let local = Arc::new(Local::new(local));
        let me = local.begin(&options.cluster, &options.boot)?;
        let cluster = Self {
            store,
            keys: Keys::of(&options.cluster),
            node: me.node.clone(),
            epoch: me.epoch,
            me: Mutex::new(me),
            state: Mutex::default(),
            listeners: Listeners::default(),
            joined: watch::channel(Joined::Waiting).0,
            refill: Notify::new(),
            owed: Notify::new(),
            described: Notify::new(),
            taken: Mutex::default(),
            began: Instant::now(),
            runtime: runtime.clone(),
            tasks: Mutex::default(),
            options: Mutex::new(options),
            local,
        };
        cluster.remember()?;
        if lock(&cluster.me).doubted {
            // Before anything is written.
            cluster.still_doubted();
        }
        let cluster = Arc::new(cluster);
        cluster.spawn(Self::keep_joined);
        cluster.spawn(Self::keep_local);
        cluster.spawn(Self::keep_addresses);
        cluster.spawn(Self::keep_published);
        cluster.spawn(Self::evict);
        for part in [Part::Nodes, Part::Lives, Part::Networks] {
            cluster.spawn(|cluster| follow(cluster, part));
        }
        Ok(cluster)
    }

    /// Ends its tasks. What it has written stays; that it is there ends by itself.
    pub fn stop(&self) {
        for task in lock(&self.tasks).drain(..) {
            task.abort();
        }
        for (_, task) in std::mem::take(&mut lock(&self.state).followed) {
            task.abort();
        }
        let flushed = self.local.flush();
        if let Err(error) = flushed {
            tracing::warn!(%error, "what is known of the cluster was not written down");
        }
    }

    fn spawn<F>(self: &Arc<Self>, task: impl FnOnce(Arc<Self>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let handle = self.runtime.spawn(task(Arc::clone(self))).abort_handle();
        lock(&self.tasks).push(handle);
    }

    /// Takes in what this host remembers.
    fn remember(&self) -> Result<()> {
        let mut state = lock(&self.state);
        let mut delta = Delta::default();
        for (short, value) in self.local.mirror()? {
            let key = format!("{}{short}", self.keys.root());
            let Some((part, id)) = self.part_of(&key) else { continue };
            state.knowledge.put(&part, &key, &id, Some(&value), &mut delta);
        }
        state.knowledge.view.complete = lock(&self.me).complete;
        for (network, address, record) in self.local.addresses()? {
            let Ok(all) = self.addresses_of(&mut state, &network) else { continue };
            let holder = crate::record::read::<crate::record::AddressRecord>(&record).ok();
            all.own(address, record, holder.and_then(|holder| holder.holder), 0);
        }
        Ok(())
    }

    /// Which part a key is in, and the id in it.
    fn part_of(&self, key: &str) -> Option<(Part, String)> {
        let below = |part: Part| {
            let id = key.strip_prefix(&part.prefix(&self.keys))?.to_owned();
            Some((part, id))
        };
        below(Part::Nodes).or_else(|| below(Part::Networks)).or_else(|| {
            let rest = key.strip_prefix(&self.keys.all_endpoints())?;
            let (network, endpoint) = rest.split_once('/')?;
            Some((Part::Endpoints(network.parse().ok()?), endpoint.to_owned()))
        })
    }

    /// This host's id.
    pub fn id(&self) -> &str {
        &self.node
    }

    /// How often this host has booted, as far as it knows.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// This host's number, once it has joined.
    pub fn number(&self) -> Option<u32> {
        lock(&self.me).number
    }

    /// The address of a host inside of what encrypts: it follows from the cluster and the host's number, so
    /// nobody can claim another's. Nothing before this host has joined.
    pub fn inside(&self, number: u32) -> Option<Ipv6Addr> {
        let identity = lock(&self.me).identity.clone()?;
        let hash = Sha256::digest(format!("wireguard {identity}"));
        let mut octets = [0_u8; 16];
        octets[0] = 0xfd;
        octets[1..6].copy_from_slice(&hash[..5]);
        octets[12..].copy_from_slice(&number.to_be_bytes());
        Some(octets.into())
    }

    /// What this host knows.
    pub fn view(&self) -> View {
        lock(&self.state).knowledge.view.clone()
    }

    /// What changes from here on; first of all everything that there is.
    pub fn changes(&self) -> Changes {
        let state = lock(&self.state);
        self.listeners.add(state.knowledge.view.all())
    }

    /// How this host stands with its cluster.
    pub fn status(&self) -> Status {
        let state = lock(&self.state);
        let me = lock(&self.me);
        let refusal = match &*self.joined.borrow() {
            Joined::Refused(_, why) => Some(why.clone()),
            _ => None,
        };
        Status {
            joined: *self.joined.borrow() == Joined::Yes,
            connected: state.connected,
            problem: refusal.or_else(|| state.problem.clone()),
            restored: state.restored,
            revision: me.revision,
            identity: me.identity.clone(),
            pending: self.local.owed().map_or(0, |owed| owed.len()),
            unpublished: state.unpublished.clone(),
        }
    }

    /// Waits until this host is in its cluster, or it is said that it may not be.
    pub async fn joined(&self) -> Result<()> {
        let mut joined = self.joined.subscribe();
        let known = joined.wait_for(|joined| *joined != Joined::Waiting).await;
        let known = known.map(|known| known.clone());
        match known {
            Ok(Joined::Refused(kind, why)) => Err(Error::new(kind, why)),
            _ => Ok(()),
        }
    }

    /// Waits until this host is in its cluster.
    pub(crate) async fn wait_until_joined(&self) {
        let mut joined = self.joined.subscribe();
        // The sender lives as long as the cluster does.
        let _ = joined.wait_for(|joined| *joined == Joined::Yes).await;
    }

    /// Follows a network's endpoints.
    pub fn follow(self: &Arc<Self>, network: &NetworkId) {
        let mut state = lock(&self.state);
        if state.followed.contains_key(network) {
            return;
        }
        let task = follow(Arc::clone(self), Part::Endpoints(network.clone()));
        let handle = self.runtime.spawn(task).abort_handle();
        state.followed.insert(network.clone(), handle);
    }

    /// Follows a network's endpoints no longer, and forgets them.
    pub fn unfollow(&self, network: &NetworkId) {
        let mut state = lock(&self.state);
        if let Some(task) = state.followed.remove(network) {
            task.abort();
        }
        let endpoints = state.knowledge.view.endpoints.get(network).cloned();
        for endpoint in endpoints.iter().flat_map(|all| all.keys()) {
            let key = self.keys.endpoint(network, endpoint);
            if let Some(short) = key.strip_prefix(self.keys.root()) {
                self.local.note_mirror(short, None);
            }
        }
        state.knowledge.drop_endpoints(network);
    }

    /// Tells whoever listens; and what has to do with networks that came or went.
    pub(crate) fn told(&self, delta: &Delta) {
        if !delta.networks.is_empty() {
            self.refill.notify_one();
        }
        if delta.nodes.contains(&self.node) {
            // Somebody changed what this host says of itself, or removed it.
            self.described.notify_one();
        }
        self.listeners.tell(delta);
    }

    /// Notes how far the store has got.
    pub(crate) fn seen(&self, revision: Revision, complete: bool) {
        let mut me = lock(&self.me);
        if revision > me.revision || complete != me.complete {
            me.revision = me.revision.max(revision);
            me.complete = complete;
            self.local.note_self(&me);
        }
    }

    pub(crate) fn connected(&self) {
        let mut state = lock(&self.state);
        let changed = !state.connected;
        state.connected = true;
        if !state.restored {
            state.problem = None;
        }
        drop(state);
        if changed {
            tracing::info!("the cluster's store answers");
            self.owed.notify_one();
            self.refill.notify_one();
            self.told(&Delta { status: true, ..Delta::default() });
        }
    }

    pub(crate) fn disconnected(&self, error: &StoreError) {
        let mut state = lock(&self.state);
        let changed = state.connected || state.problem.is_none();
        state.connected = false;
        state.problem = Some(error.to_string());
        drop(state);
        if changed {
            tracing::warn!(%error, "the cluster's store does not answer");
            self.told(&Delta { status: true, ..Delta::default() });
        }
    }

    /// Waits until something is on the disk, and holds up nobody else meanwhile.
    pub(crate) async fn on_disk(
        &self,
        write: impl FnOnce(&Local) -> Result<()> + Send + 'static,
    ) -> Result<(), StoreError> {
        let local = Arc::clone(&self.local);
        let written = tokio::task::spawn_blocking(move || write(&local)).await;
        let written = written.map_err(|error| Error::internal("cannot write the store", error));
        written.flatten().map_err(kept)
    }

    /// Milliseconds since this host began; never 0.
    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
    }

    /// Writes down what is known, a few times a second at most.
    async fn keep_local(self: Arc<Self>) {
        loop {
            self.local.noted().await;
            tokio::time::sleep(Duration::from_millis(100)).await;
            if let Err(error) = self.on_disk(Local::flush).await {
                tracing::warn!(%error, "what is known of the cluster was not written down");
            }
        }
    }
}
