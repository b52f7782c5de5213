//! Changes that were decided and have not happened yet: how they are written down, undone, and
//! found again after a crash.
//!
//! An intent holds what a change leads from and to. Everything else follows from the two: the
//! records, the addresses and ports that were taken for it, and those that it lets go of.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::{ChangeKind, Controller, ControllerError, Subject, Transaction, ULA_KEY};
use crate::ipam::{Ipam, Lease};
use crate::record;
use crate::sandbox::Attachment;
use crate::store::Batch;
use crate::{Endpoint, LinkName, Network, NetworkId, PortBinding, Sandbox, State};
use ipnetwork::IpNetwork;

/// A sandbox with its endpoints, in the order they joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Live {
    /// The sandbox.
    pub sandbox: Arc<Sandbox>,
    /// Its endpoints.
    pub endpoints: Vec<Arc<Endpoint>>,
}

/// The record of an intent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Intent {
    /// For people who read the store.
    pub(crate) kind: ChangeKind,
    pub(crate) subject: Subject,
    pub(crate) change: Change,
    /// When it was begun, in nanoseconds since the Unix epoch.
    pub(crate) now: u64,
}

/// Where a change leads from and to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Network(Transition<Arc<Network>>),
    Sandbox(Transition<Live>),
}

/// From what to what; there is always one of the two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Transition<T> {
    Create(T),
    Change { before: T, after: T },
    Remove(T),
}

/// An intent, with what an abort needs.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) intent: Intent,
    /// The leases that the taken addresses had.
    pub(super) previous: Vec<Previous>,
}

/// The lease that an address had before it was taken.
#[derive(Debug)]
pub(super) struct Previous {
    pub(super) network: NetworkId,
    pub(super) address: IpAddr,
    pub(super) lease: Option<Lease>,
}

impl Live {
    /// The addresses that are in use, with whom.
    pub(super) fn leases(&self) -> Vec<(NetworkId, IpAddr, Lease)> {
        leases_without(Some(self), None)
    }
}

impl<T> Transition<T> {
    pub(super) fn before(&self) -> Option<&T> {
        match self {
            Self::Create(_) => None,
            Self::Change { before: value, .. } | Self::Remove(value) => Some(value),
        }
    }

    pub(super) fn after(&self) -> Option<&T> {
        match self {
            Self::Remove(_) => None,
            Self::Change { after: value, .. } | Self::Create(value) => Some(value),
        }
    }

    /// Either of the two, for what both have in common.
    fn either(&self) -> &T {
        match self {
            Self::Create(value) | Self::Change { after: value, .. } | Self::Remove(value) => value,
        }
    }

    fn kind(&self) -> ChangeKind {
        match self {
            Self::Create(_) => ChangeKind::Create,
            Self::Change { .. } => ChangeKind::Change,
            Self::Remove(_) => ChangeKind::Remove,
        }
    }
}

impl Change {
    pub(super) fn kind(&self) -> ChangeKind {
        match self {
            Self::Network(transition) => transition.kind(),
            Self::Sandbox(transition) => transition.kind(),
        }
    }

    pub(super) fn subject(&self) -> Subject {
        match self {
            Self::Network(transition) => Subject::Network(transition.either().id.clone()),
            Self::Sandbox(transition) => Subject::Sandbox(transition.either().sandbox.id.clone()),
        }
    }

    /// The sandbox before and after; nothing if this is about a network.
    pub(super) fn sandboxes(&self) -> (Option<&Live>, Option<&Live>) {
        match self {
            Self::Sandbox(transition) => (transition.before(), transition.after()),
            Self::Network(_) => (None, None),
        }
    }

    /// The addresses that are in use afterwards and not before, with whom.
    fn new_leases(&self) -> Vec<(NetworkId, IpAddr, Lease)> {
        let (before, after) = self.sandboxes();
        leases_without(after, before)
    }

    /// The addresses that are in use before and not afterwards.
    fn gone_leases(&self) -> Vec<(NetworkId, IpAddr, Lease)> {
        let (before, after) = self.sandboxes();
        leases_without(before, after)
    }

    fn new_ports(&self) -> Vec<PortBinding> {
        let (before, after) = self.sandboxes();
        ports_without(after, before)
    }

    fn gone_ports(&self) -> Vec<PortBinding> {
        let (before, after) = self.sandboxes();
        ports_without(before, after)
    }

    /// The endpoints that there are afterwards and not before.
    pub(super) fn new_endpoints(&self) -> Vec<Arc<Endpoint>> {
        let (before, after) = self.sandboxes();
        without(after, before).map(|(_, endpoint)| Arc::clone(endpoint)).collect()
    }

    fn new_links(&self) -> Vec<LinkName> {
        let (before, after) = self.sandboxes();
        without(after, before).map(|(_, endpoint)| endpoint.host_link()).collect()
    }

    fn gone_links(&self) -> Vec<LinkName> {
        let (before, after) = self.sandboxes();
        without(before, after).map(|(_, endpoint)| endpoint.host_link()).collect()
    }
}

/// The endpoints of one that the other does not have, with their sandbox.
fn without<'a>(
    of: Option<&'a Live>,
    other: Option<&'a Live>,
) -> impl Iterator<Item = (&'a Sandbox, &'a Arc<Endpoint>)> {
    let kept = move |endpoint: &Endpoint| {
        other.is_some_and(|live| live.endpoints.iter().any(|other| other.id == endpoint.id))
    };
    let endpoints =
        of.into_iter().flat_map(|live| live.endpoints.iter().map(|e| (&*live.sandbox, e)));
    endpoints.filter(move |(_, endpoint)| !kept(endpoint))
}

fn leases_without(of: Option<&Live>, other: Option<&Live>) -> Vec<(NetworkId, IpAddr, Lease)> {
    let leases = without(of, other).flat_map(|(sandbox, endpoint)| {
        let owner = sandbox.owner.clone();
        let lease = Lease::in_use(&owner, Some(endpoint.mac), None);
        let of_address =
            move |address: &IpNetwork| (endpoint.network.clone(), address.ip(), lease.clone());
        endpoint.addresses.iter().map(of_address)
    });
    leases.collect()
}

/// The host ports of one that the other does not have, wherever they lead.
fn ports_without(of: Option<&Live>, other: Option<&Live>) -> Vec<PortBinding> {
    let host_side = |b: &PortBinding| (b.protocol, b.host_port, b.host);
    let ports = |live: Option<&Live>| live.map_or_else(Vec::new, |live| live.sandbox.ports.clone());
    let kept: BTreeSet<_> = ports(other).iter().map(host_side).collect();
    ports(of).into_iter().filter(|binding| !kept.contains(&host_side(binding))).collect()
}

impl Controller {
    /// The intent record of a transaction: to be written durably before the first side effect.
    pub fn intent(&self, transaction: &Transaction) -> Batch {
        let mut batch = Batch::default();
        if let Some(open) = self.open.get(&transaction.number) {
            batch.put(intent_key(transaction.number), record::encode_intent(&open.intent));
        }
        batch
    }

    /// Makes a transaction part of the model. The returned batch holds its records and deletes its
    /// intent; the caller writes it. Batches must be written in the order in which the controller
    /// returned them.
    ///
    /// A transaction that is not open, because it has been committed or aborted, changes nothing.
    #[expect(clippy::needless_pass_by_value, reason = "a transaction ends once")]
    pub fn commit(&mut self, transaction: Transaction) -> Batch {
        let mut batch = self.take_garbage();
        batch.delete(intent_key(transaction.number));
        self.recovered.remove(&transaction.number);
        let Some(Open { intent, .. }) = self.open.remove(&transaction.number) else { return batch };
        batch.extend(self.records(&intent));
        for (network, address, _) in intent.change.gone_leases() {
            self.ipam.release(&network, address, intent.now);
        }
        self.release(&intent.change.gone_ports(), &intent.change.gone_links());
        match intent.change {
            Change::Network(transition) => self.settle_network(&transition),
            Change::Sandbox(transition) => self.settle_sandbox(&transition),
        }
        batch
    }

    /// Gives back what a transaction took. The returned batch deletes its intent; see
    /// [`Controller::commit`] for the order of writing.
    #[expect(clippy::needless_pass_by_value, reason = "a transaction ends once")]
    pub fn abort(&mut self, transaction: Transaction) -> Batch {
        self.recovered.remove(&transaction.number);
        if let Some(Open { intent, previous }) = self.open.remove(&transaction.number) {
            self.give_back(previous, &intent.change.new_ports(), &intent.change.new_links());
            if let Change::Network(Transition::Create(network)) = &intent.change {
                self.taken.remove(network);
            }
        }
        let mut batch = self.take_garbage();
        batch.delete(intent_key(transaction.number));
        batch
    }

    /// Transactions that were begun before a crash and neither committed nor aborted. Each is to be
    /// committed or aborted by the caller, who knows what lives. What they took is still taken;
    /// only the sockets that held their host ports are gone.
    pub fn intents(&mut self) -> Vec<Transaction> {
        let open =
            self.recovered.iter().filter_map(|number| Some((*number, self.open.get(number)?)));
        open.map(|(number, open)| {
            // That it can be planned was checked when it was loaded.
            let (before, after) = self.plan(&open.intent.change).unwrap_or_default();
            self.transaction(number, &open.intent, before, after)
        })
        .collect()
    }

    pub(super) fn take_again(&mut self, intent: Intent) -> Open {
        let mut previous = Vec::new();
        for (network, address, mut lease) in intent.change.new_leases() {
            let before = self.ipam.lease(&network, address).cloned();
            lease = Lease::in_use(&lease.owner, lease.mac, before.as_ref());
            self.ipam.restore(&network, address, Some(lease));
            previous.push(Previous { network, address, lease: before });
        }
        for binding in intent.change.new_ports() {
            self.ports.take(&binding);
        }
        self.links.extend(intent.change.new_links());
        if let Change::Network(Transition::Create(network)) = &intent.change {
            self.taken.add(network);
        }
        Open { intent, previous }
    }

    pub(super) fn give_back(
        &mut self,
        previous: Vec<Previous>,
        ports: &[PortBinding],
        links: &[LinkName],
    ) {
        // Last taken, first given back: an address may have been taken twice on the way.
        for Previous { network, address, lease } in previous.into_iter().rev() {
            self.ipam.restore(&network, address, lease);
        }
        self.release(ports, links);
    }

    fn release(&mut self, ports: &[PortBinding], links: &[LinkName]) {
        for binding in ports {
            self.ports.release(binding);
        }
        for link in links {
            self.links.remove(link);
        }
    }

    pub(super) fn transaction(
        &self,
        number: u64,
        intent: &Intent,
        before: State,
        after: State,
    ) -> Transaction {
        Transaction {
            number,
            kind: intent.kind,
            subject: intent.subject.clone(),
            change: intent.change.clone(),
            before,
            after,
            batch: self.records(intent),
            warnings: Vec::new(),
            moves_address: false,
            probes: Vec::new(),
        }
    }

    fn settle_network(&mut self, transition: &Transition<Arc<Network>>) {
        if let (Some(before), Some(network)) = (transition.before(), transition.after()) {
            // What a new one has is taken since it was begun.
            self.taken.remove(before);
            self.taken.add(network);
            self.ipam.follow(network);
            self.networks.insert(network.id.clone(), self.on_its_way_out(network));
        } else if let Some(network) = transition.after() {
            self.insert_network(network);
        } else if let Some(network) = transition.before() {
            self.taken.remove(network);
            self.networks.remove(&network.id);
            self.peers.remove(&network.id);
            self.members.remove(&network.id);
            self.ipam.remove_network(&network.id);
        }
    }

    fn settle_sandbox(&mut self, transition: &Transition<Live>) {
        if let Some(live) = transition.before() {
            for endpoint in &live.endpoints {
                if let Some(members) = self.members.get_mut(&endpoint.network) {
                    members.remove(&endpoint.id);
                }
            }
            self.sandboxes.remove(&live.sandbox.id);
        }
        if let Some(live) = transition.after() {
            self.insert_sandbox(live.clone());
        }
    }

    /// The kernel state before and after a change.
    pub(super) fn plan(&self, change: &Change) -> Result<(State, State), ControllerError> {
        match change {
            Change::Network(Transition::Change { before, after }) => {
                let plan = |network: &Network| {
                    let mut state = self.plan_network(network)?;
                    for live in self.members_of(&network.id) {
                        state.extend(self.plan_sandbox_on(live, network)?);
                    }
                    Ok::<_, ControllerError>(state)
                };
                Ok((plan(before)?, plan(after)?))
            }
            Change::Network(transition) => {
                let plan = |network: Option<&Arc<Network>>| {
                    network.map_or_else(|| Ok(State::default()), |net| self.plan_network(net))
                };
                let (mut before, mut after) =
                    (plan(transition.before())?, plan(transition.after())?);
                self.keep_shared(transition.either(), &mut before, &mut after);
                Ok((before, after))
            }
            Change::Sandbox(transition) => {
                let plan = |live: Option<&Live>| {
                    live.map_or_else(|| Ok(State::default()), |live| self.plan_sandbox(live))
                };
                Ok((plan(transition.before())?, plan(transition.after())?))
            }
        }
    }

    pub(super) fn plan_network(&self, network: &Network) -> Result<State, ControllerError> {
        let mut state = network.driver.network(network)?;
        state.extend(self.plan_all_peers(network));
        Ok(state)
    }

    pub(super) fn plan_sandbox(&self, live: &Live) -> Result<State, ControllerError> {
        let attachments = self.attachments(&live.endpoints)?;
        Ok(self.planner.sandbox(&live.sandbox, &attachments)?)
    }

    pub(super) fn attachments<'a>(
        &'a self,
        endpoints: &'a [Arc<Endpoint>],
    ) -> Result<Vec<Attachment<'a>>, ControllerError> {
        let attachment = |endpoint: &'a Arc<Endpoint>| {
            let network = self.networks.get(&endpoint.network);
            let network =
                network.ok_or_else(|| ControllerError::not_found("network", &endpoint.network))?;
            Ok(Attachment { network, endpoint })
        };
        endpoints.iter().map(attachment).collect()
    }

    /// The records that make a change true.
    fn records(&self, intent: &Intent) -> Batch {
        match &intent.change {
            Change::Network(transition) => self.network_records(transition),
            Change::Sandbox(transition) => {
                let mut batch = sandbox_records(transition);
                for (network, address, _) in intent.change.new_leases() {
                    let lease = self.ipam.lease(&network, address);
                    batch.writes.extend(lease_record(&self.ipam, &network, address, lease));
                }
                for (network, address, _) in intent.change.gone_leases() {
                    let lease = self.ipam.released(&network, address, intent.now);
                    let record = lease_record(&self.ipam, &network, address, lease.as_ref());
                    batch.writes.extend(record);
                }
                batch
            }
        }
    }

    fn network_records(&self, transition: &Transition<Arc<Network>>) -> Batch {
        let mut batch = Batch::default();
        if let Some(network) = transition.after() {
            // What the network has no place for any more.
            for address in self.ipam.leased(&network.id) {
                if network.pool_of(address).is_none_or(|pool| pool.gateway == Some(address)) {
                    batch.writes.extend(lease_record(&self.ipam, &network.id, address, None));
                }
            }
            batch.put(format!("network/{}", network.id), record::encode_network(network));
            // One of a later release stays for that release.
            let stays = self.unreadable.iter().any(|record| record.place == ULA_KEY);
            if let Some(ula) = self.ula.as_ref().filter(|_| !stays) {
                batch.put(ULA_KEY, record::encode_ula(*ula));
            }
        } else if let Some(network) = transition.before() {
            batch.delete(format!("network/{}", network.id));
            for address in self.ipam.leased(&network.id) {
                batch.writes.extend(lease_record(&self.ipam, &network.id, address, None));
            }
        }
        batch
    }

    fn take_garbage(&mut self) -> Batch {
        let garbage = self.ipam.take_garbage().into_iter();
        let record =
            |(net, address): (NetworkId, IpAddr)| lease_record(&self.ipam, &net, address, None);
        Batch { writes: garbage.filter_map(record).collect() }
    }
}

fn sandbox_records(transition: &Transition<Live>) -> Batch {
    let mut batch = Batch::default();
    let (before, after) = (transition.before(), transition.after());
    for (_, endpoint) in without(before, after) {
        batch.delete(format!("endpoint/{}", endpoint.id));
    }
    let known = |endpoint| before.is_some_and(|live| live.endpoints.contains(endpoint));
    let written = after.into_iter().flat_map(|live| &live.endpoints);
    for endpoint in written.filter(|endpoint| !known(endpoint)) {
        batch.put(format!("endpoint/{}", endpoint.id), record::encode_endpoint(endpoint));
    }
    let key = format!("sandbox/{}", transition.either().sandbox.id);
    match after.map(|live| &live.sandbox) {
        None => batch.delete(key),
        Some(sandbox) if before.is_some_and(|live| live.sandbox == *sandbox) => {}
        Some(sandbox) => batch.put(key, record::encode_sandbox(sandbox)),
    }
    batch
}

/// The record of a lease, to be written; nothing where the one that is there cannot be read, and
/// may be one of a later release.
pub(super) fn lease_record(
    ipam: &Ipam,
    network: &NetworkId,
    address: IpAddr,
    lease: Option<&Lease>,
) -> Option<(String, Option<Vec<u8>>)> {
    let key = format!("lease/{network}/{address}");
    (!ipam.is_unread(network, address)).then(|| (key, lease.map(record::encode_lease)))
}

fn intent_key(number: u64) -> String {
    // With leading zeros the records are in the order of the transactions.
    format!("intent/{number:020}")
}
