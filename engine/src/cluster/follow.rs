//! Other hosts are followed: networks appear here that were made there, their endpoints are reached,
//! and their names answered.
//!
//! One thread does it, one change after the other. A network that cannot be made here hinders nothing
//! else, is told, and tried again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use cluster::record::EndpointRecord;
use cluster::{Delta, View};
use cnm::controller::NetworkUpdate;
use cnm::driver::{Node, Peer, PeersChange};
use cnm::{EndpointId, Network, NetworkId};

use super::encryption;
use super::member::Member;
use super::names::{self, Presence};
use super::sharing::{difference, spec_of};
use super::told;
use engine_error::{Error, Result};

/// How often to look without being told of a change: at what could not be done, and at what nobody
/// here needs any more.
const PAUSE: Duration = Duration::from_secs(5);

/// How long a network is followed that nobody here is on.
const LINGER: Duration = Duration::from_secs(60);

/// What an endpoint became; nothing if it is gone.
type Endpoints = BTreeMap<EndpointId, Option<Arc<EndpointRecord>>>;

impl Member {
    /// What the last daemon knew of other hosts, before anything here is looked at or answered.
    pub(super) fn know_others(&self) {
        let view = self.cluster.view();
        let shared = self.below.networks.shared_networks();
        let mut told = self.told();
        told.inherited = shared.iter().map(|network| network.id.clone()).collect();
        drop(told);
        for network in &shared {
            if !self.below.networks.controller().endpoints_of(&network.id).is_empty() {
                self.follow_network(&network.id);
            }
        }
        if view.nodes.is_empty() {
            // Nobody knows what is too much.
            return;
        }
        self.note_nodes(&view);
        let nodes = self.others(&view);
        let mut peers = BTreeMap::new();
        for network in &shared {
            let used = self.told().followed.contains_key(&network.id);
            let all = match view.endpoints.get(&network.id).filter(|_| used) {
                Some(all) => all.iter().filter_map(|(id, of)| self.peer(&view, id, of)).collect(),
                // What nobody here needs is too much.
                None if !used => Vec::new(),
                None => continue,
            };
            peers.insert(network.id.clone(), all);
        }
        let way = (self.address(), self.least_mtu(&view), self.wireguard().ok());
        self.below.networks.know_others(&nodes, peers, way);
        for network in &shared {
            if let Err(error) = self.see_names(&view, &network.id, None) {
                tracing::warn!(network = network.name, error = error.chain(), "names are unknown");
            }
        }
    }

    /// Follows other hosts until this one leaves.
    pub(super) fn follow(self: &Arc<Self>) -> Result<()> {
        let member = Arc::clone(self);
        let changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut changes = changes.unwrap_or_else(|| self.cluster.changes());
        let follow = move || {
            let mut attended = Instant::now();
            loop {
                let next = member.below.runtime.block_on(async {
                    tokio::select! {
                        () = member.over.cancelled() => None,
                        next = tokio::time::timeout(PAUSE, changes.next()) => Some(next),
                    }
                });
                match next {
                    None => return,
                    Some(Ok(change)) => member.see(&change),
                    Some(Err(_)) => {}
                }
                // However much happens meanwhile.
                if attended.elapsed() >= PAUSE {
                    member.attend();
                    attended = Instant::now();
                }
            }
        };
        let started = std::thread::Builder::new().name("cluster".to_owned()).spawn(follow);
        let follower =
            started.map_err(|error| Error::internal("cannot follow the cluster", error))?;
        *self.follower.lock().unwrap_or_else(PoisonError::into_inner) = Some(follower);
        Ok(())
    }

    /// Somebody here is about to be on a network.
    pub(super) fn follow_network(&self, network: &NetworkId) {
        let mut told = self.told();
        if told.followed.insert(network.clone(), None).is_none() {
            self.cluster.follow(network);
        }
    }

    /// Makes a change true here.
    fn see(&self, change: &Delta) {
        let view = self.cluster.view();
        self.tell_status();
        let mut networks = change.networks.clone();
        if view.complete {
            // What went while nobody here looked.
            networks.extend(std::mem::take(&mut self.told().inherited));
        }
        if !change.nodes.is_empty() {
            self.see_nodes(&view);
        }
        let mut new = BTreeSet::new();
        for id in &networks {
            if self.see_network(&view, id) {
                new.insert(id.clone());
            }
        }
        for (id, endpoints) in &change.endpoints {
            if !new.contains(id) {
                self.see_endpoints(&view, id, Some(endpoints));
            }
        }
        for id in &new {
            self.see_endpoints(&view, id, None);
        }
    }

    /// What could not be done is tried again, and what nobody needs is not followed any more.
    fn attend(&self) {
        let view = self.cluster.view();
        self.tell_status();
        self.cluster.keep_for(&self.owners());
        let troubled: Vec<_> = self.told().troubles.keys().cloned().collect();
        for id in troubled {
            if self.see_network(&view, &id) {
                self.see_endpoints(&view, &id, None);
            }
        }
        let followed: Vec<_> = self.told().followed.keys().cloned().collect();
        for id in followed {
            let used = !self.below.networks.controller().endpoints_of(&id).is_empty();
            let mut told = self.told();
            let Some(idle) = told.followed.get_mut(&id) else { continue };
            match (used, *idle) {
                (true, _) => *idle = None,
                (false, None) => *idle = Some(Instant::now()),
                (false, Some(since)) if since.elapsed() > LINGER => {
                    told.followed.remove(&id);
                    // Whoever follows it again does so after this.
                    self.cluster.unfollow(&id);
                    drop(told);
                    self.see_endpoints(&self.cluster.view(), &id, None);
                }
                (false, Some(_)) => {}
            }
        }
    }

    /// A network is to be here, to be different, or to be gone. Tells whether it is new.
    fn see_network(&self, view: &View, id: &NetworkId) -> bool {
        let known = self.below.networks.network(id.as_str()).ok();
        let seen = match (view.networks.get(id), known) {
            (Some(record), Some(known)) => self.renew(&known, &difference(&known, record)),
            (Some(record), None) => {
                let spec = spec_of(id, record, self);
                spec.and_then(|spec| self.below.networks.appear(&spec, record.created))
                    .map(|_| true)
            }
            (None, Some(_)) if view.complete => self.below.networks.vanish(id).map(|()| false),
            (None, _) => Ok(false),
        };
        let mut told = self.told();
        match seen {
            Ok(new) => {
                told.troubles.remove(id);
                new
            }
            Err(error) => {
                let why = error.chain();
                if told.troubles.get(id) != Some(&why) {
                    tracing::error!(network = id.short(), error = why, "cannot follow the cluster");
                }
                told.troubles.insert(id.clone(), why);
                false
            }
        }
    }

    fn renew(&self, known: &Network, update: &NetworkUpdate) -> Result<bool> {
        if update.labels.is_empty() && update.options.is_empty() && update.internal.is_none() {
            return Ok(false);
        }
        self.below.containers.follow_network(&known.id, update).map(|()| false)
    }

    /// Hosts have come, gone or changed, or are away.
    fn see_nodes(&self, view: &View) {
        let renumbered = self.note_nodes(view);
        let own = self.below.networks.tell_wireguard(self.wireguard().ok());
        if let Err(error) = own {
            tracing::error!(error = error.chain(), "nothing can be encrypted yet");
        }
        if let Err(error) = self.below.networks.tell_nodes(&self.others(view)) {
            tracing::error!(error = error.chain(), "cannot follow the hosts of the cluster yet");
        }
        self.tell_way(view);
        let networks: Vec<_> = self.told().names.keys().cloned().collect();
        for id in networks {
            if renumbered {
                self.see_endpoints(view, &id, None);
            } else if let Err(error) = self.see_names(view, &id, None) {
                tracing::warn!(network = id.short(), error = error.chain(), "names are unknown");
            }
        }
    }

    /// Endpoints of a network have come, changed or gone: these, or any.
    fn see_endpoints(&self, view: &View, id: &NetworkId, changed: Option<&Endpoints>) {
        let networks = &self.below.networks;
        if networks.network(id.as_str()).is_err() {
            return;
        }
        let first = !self.told().names.contains_key(id);
        let nobody = BTreeMap::new();
        let all = view.endpoints.get(id).map_or(&nobody, |all| &**all);
        let told = if let Some(changed) = changed.filter(|_| !first) {
            networks.tell_peers(id, self.peers_change(view, changed))
        } else {
            let peers = all.iter().filter_map(|(id, record)| self.peer(view, id, record));
            networks.tell_all_peers(id, peers.collect())
        };
        let named = self.see_names(view, id, changed.filter(|_| !first));
        for error in [told, named].into_iter().filter_map(Result::err) {
            let (network, error) = (id.short(), error.chain());
            tracing::error!(network, error, "cannot follow its endpoints yet");
        }
    }

    /// What endpoints of a network are called: these, or any.
    fn see_names(&self, view: &View, id: &NetworkId, changed: Option<&Endpoints>) -> Result<()> {
        let presence = |node: &str| self.presence(view, node);
        let mut told = self.told();
        let nobody = BTreeMap::new();
        let all = view.endpoints.get(id).map_or(&nobody, |all| &**all);
        // Where a host is away, one name may hide another.
        let whole = changed.is_none() || !told.away.is_empty();
        let before = told.names.entry(id.clone()).or_default();
        let (named, gone) = match changed.filter(|_| !whole) {
            None => {
                let records = all.iter().map(|(id, record)| (id, &**record));
                let after = names::of_others(records, presence);
                let difference = told::difference(before, &after);
                *before = after;
                difference
            }
            Some(changed) => {
                let records = changed.iter();
                let records = records.filter_map(|(id, record)| Some((id, &**record.as_ref()?)));
                let after = names::of_others(records, presence);
                let gone = changed.keys().filter(|id| !after.contains_key(*id));
                let gone: Vec<_> =
                    gone.filter(|id| before.remove(*id).is_some()).cloned().collect();
                before.extend(after.clone());
                (after.into_values().collect(), gone)
            }
        };
        drop(told);
        if named.is_empty() && gone.is_empty() {
            return Ok(());
        }
        self.below.networks.tell_remote_names(id, &named, &gone)
    }

    fn peers_change(&self, view: &View, changed: &Endpoints) -> PeersChange {
        let mut change = PeersChange::default();
        for (id, record) in changed {
            match record.as_ref().and_then(|record| self.peer(view, id, record)) {
                Some(peer) => change.put.push(peer),
                None => change.gone.push(id.clone()),
            }
        }
        change
    }

    /// An endpoint as this host reaches it, if it is on another one.
    fn peer(&self, view: &View, id: &EndpointId, record: &EndpointRecord) -> Option<Peer> {
        let node = view.nodes.get(&record.node).filter(|_| record.node != self.cluster.id())?;
        Some(Peer {
            endpoint: id.clone(),
            mac: record.mac,
            addresses: record.addresses.iter().map(ipnetwork::IpNetwork::ip).collect(),
            node: node.record.number,
        })
    }

    /// The hosts that tunnels lead to.
    fn others(&self, view: &View) -> Vec<Node> {
        let others = view.nodes.iter().filter(|(id, _)| *id != self.cluster.id());
        let node = |(_, node): (&String, &cluster::NodeView)| Node {
            number: node.record.number,
            address: node.record.address,
            wireguard: encryption::part(&self.cluster, &node.record),
        };
        others.map(node).collect()
    }

    fn presence(&self, view: &View, node: &str) -> Presence {
        match view.nodes.get(node) {
            _ if node == self.cluster.id() => Presence::Own,
            Some(node) if node.live => Presence::Live,
            _ => Presence::Away,
        }
    }

    /// Notes which hosts there are; tells whether one has another number than before.
    fn note_nodes(&self, view: &View) -> bool {
        let number = |(id, node): (&String, &cluster::NodeView)| (id.clone(), node.record.number);
        let numbers: BTreeMap<_, _> = view.nodes.iter().map(number).collect();
        let away = view.nodes.iter().filter(|(id, node)| !node.live && *id != self.cluster.id());
        let away: BTreeSet<_> = away.map(|(id, _)| id.clone()).collect();
        let mut told = self.told();
        for id in away.difference(&told.away) {
            tracing::warn!(node = id, "a host of the cluster is away");
        }
        for id in told.away.difference(&away) {
            tracing::info!(node = id, "a host of the cluster is not away any more");
        }
        told.away = away;
        let renumbered = told.numbers != numbers;
        told.numbers = numbers;
        renumbered
    }

    /// The tunnels' own end, and the largest packet that gets to all others.
    pub(super) fn tell_way(&self, view: &View) {
        self.below.networks.tell_way(self.address(), self.least_mtu(view));
    }

    /// The largest packet that the ways of all hosts take.
    fn least_mtu(&self, view: &View) -> Option<u32> {
        let others = view.nodes.iter().filter(|(id, _)| *id != self.cluster.id());
        others.map(|(_, node)| node.record.mtu).chain([self.mtu()]).min()
    }

    fn tell_status(&self) {
        let status = self.cluster.status();
        let connected = std::mem::replace(&mut self.told().connected, status.connected);
        if connected != status.connected {
            let (problem, place) = (status.problem.unwrap_or_default(), self.place());
            if status.connected {
                tracing::info!(cluster = %place, "the cluster's store answers");
            } else {
                tracing::warn!(cluster = %place, problem, "the cluster's store does not answer");
            }
        }
    }
}
