//! The controller: the only mutator of the model.
//!
//! It decides; it does not act. A `begin_*` checks a request, takes what must be unique (names,
//! addresses, host ports) and returns a [`Transaction`]: the records to write and the kernel state
//! before and after. The caller makes the transaction's intent durable, applies the difference,
//! and then calls [`Controller::commit`], or [`Controller::abort`] if that failed. What comes from
//! outside of the model ([`Claims`]) is input of a `begin_*`.
//!
//! Several transactions may be open at once, on different objects: what each of them took is
//! taken for all others from its beginning. A second one on the same sandbox or network is
//! refused until the first is committed or aborted.

mod claims;
mod cluster;
mod config;
mod draft;
mod error;
mod facts;
mod hold;
mod intent;
mod kept;
mod lent;
mod load;
mod network;
mod parent;
mod parts;
mod publish;
mod room;
mod sandbox;
mod subnet;
mod taken;
mod update;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnetwork::IpNetwork;

use crate::driver::Probe;
use crate::endpoint::{Mac, Protocol, StaticRoute};
use crate::ipam::{Ipam, Lease};
use crate::ports::Ports;
use crate::sandbox::Passage;
use crate::store::Batch;
use crate::store::record::Unreadable;
use crate::{
    Endpoint, EndpointId, Kind, LinkName, Network, NetworkId, Planner, PortBinding, Sandbox,
    SandboxId, State, Store,
};

pub(crate) use claims::Binding;
pub use claims::{ClaimedEndpoint, Claims, Decision, Lent, Unclaimed, WantedAddress};
pub use cluster::Awaited;
use cluster::{Nodes, Peers, Ways};
pub use error::ControllerError;
pub use facts::{HostFacts, HostLink};
pub use hold::{Asker, Hold};
pub use intent::Live;
pub(crate) use intent::{Change, Intent, Transition};
use intent::{Open, lease_record};
use taken::Taken;
pub use update::{NetworkUpdate, Part};

/// The record of the /48 that subnets for IPv6 come from where none is configured.
const ULA_KEY: &str = "meta/ula";

/// The model in memory, with the allocators that belong to it.
#[derive(Debug)]
pub struct Controller {
    planner: Arc<dyn Planner>,
    config: ControllerConfig,
    networks: BTreeMap<NetworkId, Arc<Network>>,
    taken: Taken,
    sandboxes: BTreeMap<SandboxId, Live>,
    /// The endpoints in `sandboxes`, by network.
    members: BTreeMap<NetworkId, BTreeMap<EndpointId, Arc<Endpoint>>>,
    /// Endpoints on other hosts, by network; nothing of those of which nobody has told.
    peers: BTreeMap<NetworkId, Peers>,
    /// The cluster's other hosts.
    nodes: Nodes,
    /// Host ends of all endpoints, those being created included: they have but 28 random bits.
    links: BTreeSet<LinkName>,
    ipam: Ipam,
    ports: Ports,
    /// Transactions by number.
    open: BTreeMap<u64, Open>,
    /// Those of them that were open when the process before this one ended.
    recovered: BTreeSet<u64>,
    next: u64,
    ula: Option<IpNetwork>,
    /// The MTU of the host's way out.
    egress_mtu: Option<u32>,
    /// The host's ways to the cluster's other hosts.
    ways: Ways,
    unreadable: Vec<Unreadable>,
}

/// The chance that the controller needs, passed in.
pub trait Entropy {
    /// Thirty-two random bytes.
    fn bytes(&mut self) -> [u8; 32];
}

/// How the controller is set up.
#[derive(Clone, Debug)]
pub struct ControllerConfig {
    /// Where subnets come from that nobody chose: a supernet and the prefix length to cut from it.
    pub default_pools: Vec<(IpNetwork, u8)>,
    /// How long a released address stays unused, in nanoseconds.
    pub quarantine: u64,
    /// Options that every new network of a driver has unless told otherwise (`--default-network-opt`).
    pub default_options: BTreeMap<String, BTreeMap<String, String>>,
    /// Ports for requests without a host port, usually `ip_local_port_range` (32768 to 60999).
    pub ephemeral_ports: std::ops::RangeInclusive<u16>,
    /// The addresses that ports are published on where nothing else says so; by default `0.0.0.0` and `::`.
    pub default_bindings: Vec<IpAddr>,
}

/// A request to join a network.
#[derive(Clone, Debug, Default)]
pub struct JoinSpec {
    /// The network's id.
    pub network: Option<NetworkId>,
    /// The interface's name; the driver's prefix and the next free number by default.
    pub interface: Option<String>,
    /// The hardware address; random and stable by default.
    pub mac: Option<Mac>,
    /// Wanted addresses (`--ip`, `--ip6`).
    pub addresses: Vec<IpAddr>,
    /// See [`Endpoint::link_local`].
    pub link_local: Vec<IpAddr>,
    /// Extra names on this network.
    pub aliases: Vec<String>,
    /// See [`Endpoint::gateway_priority`].
    pub gateway_priority: i32,
    /// Whether the sandbox's default routes are to lead elsewhere.
    pub without_default_route: bool,
    /// Whether it may send from any address, its own or not.
    pub any_source: bool,
    /// Routes through it.
    pub routes: Vec<StaticRoute>,
    /// Options as given.
    pub options: BTreeMap<String, String>,
    /// The ports that it says it listens on, for whoever makes its link.
    pub exposed: Vec<(Protocol, u16)>,
}

/// A request to join the first network of a sandbox that lives already.
#[derive(Clone, Copy, Debug)]
pub struct FirstJoin<'a> {
    /// The network.
    pub join: &'a JoinSpec,
    /// The ports to publish.
    pub ports: &'a [PortSpec],
}

/// A request to publish a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortSpec {
    /// The host address; where absent, the network's or the daemon's default bindings.
    pub host: Option<IpAddr>,
    /// The host ports to choose from; `0..=0` means any ephemeral one.
    pub host_ports: std::ops::RangeInclusive<u16>,
    /// The protocol.
    pub protocol: Protocol,
    /// The port inside the sandbox.
    pub port: u16,
}

/// A request for a new sandbox with all its endpoints, or for one with none yet.
#[derive(Clone, Debug, Default)]
pub struct SandboxSpec {
    /// See [`Sandbox::owner`]. Sticky addresses belong to an owner: the same owner on the same
    /// network gets the addresses it had, as long as nobody else was given them.
    pub owner: String,
    /// See [`Sandbox::resolver`].
    pub resolver: bool,
    /// See [`Sandbox::sysctls`].
    pub sysctls: Vec<(String, String)>,
    /// The networks to join, in order.
    pub joins: Vec<JoinSpec>,
    /// The ports to publish.
    pub ports: Vec<PortSpec>,
    /// See [`Sandbox::closed`].
    pub closed: BTreeSet<(Protocol, u16)>,
    /// See [`Sandbox::passages`].
    pub passages: Vec<Passage>,
}

/// A request to publish and withdraw ports of a live sandbox.
#[derive(Clone, Copy, Debug)]
pub struct PortsChange<'a> {
    /// The ports to publish.
    pub add: &'a [PortSpec],
    /// The ports to withdraw.
    pub remove: &'a [PortBinding],
    /// See [`Sandbox::closed`]; as it is if there is nothing.
    pub closed: Option<&'a BTreeSet<(Protocol, u16)>>,
}

/// A decided change that has not happened yet.
#[derive(Clone, Debug)]
pub struct Transaction {
    /// Number of the intent; its record is `intent/<number>`.
    pub number: u64,
    /// Whether the subject comes, goes or stays.
    pub kind: ChangeKind,
    /// What the change is about, for logs and for recovery.
    pub subject: Subject,
    /// From what to what it leads.
    change: Change,
    /// The kernel state of its scope before.
    pub before: State,
    /// The kernel state of its scope after.
    pub after: State,
    /// The records that make it true.
    pub batch: Batch,
    /// Things the user should know (an unknown option, an ignored address).
    pub warnings: Vec<String>,
    /// Whether an address goes to another hardware address than had it last, or may do so:
    /// neighbours are wrong about it until they are told.
    pub moves_address: bool,
    /// What neighbours of new endpoints are to be asked before these use their addresses.
    pub probes: Vec<Probe>,
}

impl Transaction {
    /// The sandbox as it was; nothing if it is new, or if this is about a network.
    pub fn sandbox_before(&self) -> Option<&Live> {
        self.change.sandboxes().0
    }

    /// The sandbox as it is to be; nothing if it goes, or if this is about a network.
    pub fn sandbox_after(&self) -> Option<&Live> {
        self.change.sandboxes().1
    }
}

/// What happens to the subject of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    /// It did not exist before.
    Create,
    /// It exists before and after.
    Change,
    /// It does not exist afterwards.
    Remove,
}

/// What a transaction is about.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Subject {
    /// A network is created or removed.
    Network(NetworkId),
    /// A sandbox is created, changed or removed.
    Sandbox(SandboxId),
    /// What all networks of a cluster share. No transaction is about it.
    Cluster,
}

impl Controller {
    /// Reads the model from the store. Intents that were not finished stay in the store: see
    /// [`Controller::intents`].
    pub fn load(
        store: &dyn Store,
        planner: Arc<dyn Planner>,
        config: ControllerConfig,
    ) -> Result<Self, ControllerError> {
        let mut controller = Self {
            ipam: Ipam::new(config.quarantine),
            ports: Ports::new(config.ephemeral_ports.clone()),
            planner,
            config,
            networks: BTreeMap::new(),
            taken: Taken::default(),
            sandboxes: BTreeMap::new(),
            members: BTreeMap::new(),
            peers: BTreeMap::new(),
            nodes: Nodes::None,
            links: BTreeSet::new(),
            open: BTreeMap::new(),
            recovered: BTreeSet::new(),
            next: 1,
            ula: None,
            egress_mtu: None,
            ways: Ways::default(),
            unreadable: Vec::new(),
        };
        controller.read(store)?;
        controller.ways.encrypts = controller.has_encrypted();
        Ok(controller)
    }

    /// The records that could not be read, and that the model goes without.
    pub fn unreadable(&self) -> &[Unreadable] {
        &self.unreadable
    }

    /// All networks, by name.
    pub fn networks(&self) -> Vec<Arc<Network>> {
        self.taken.names.values().filter_map(|id| self.networks.get(id)).cloned().collect()
    }

    /// The network with this full id, name or unique id prefix (in that order).
    pub fn network(&self, key: &str) -> Result<Arc<Network>, ControllerError> {
        let by_id = key.parse().ok().and_then(|id: NetworkId| self.networks.get(&id));
        let by_name = || self.taken.names.get(key).and_then(|id| self.networks.get(id));
        if let Some(network) = by_id.or_else(by_name) {
            return Ok(Arc::clone(network));
        }
        // The smallest id with the prefix, if the key is one at all.
        let first = format!("{key:0<64}").parse::<NetworkId>().ok().filter(|_| !key.is_empty());
        let later = first.map(|first| self.networks.range(first..));
        let mut matching = later.into_iter().flatten();
        let mut matching = matching.by_ref().take_while(|(id, _)| id.as_str().starts_with(key));
        match (matching.next(), matching.count()) {
            (Some((_, network)), 0) => Ok(Arc::clone(network)),
            (None, _) => Err(ControllerError::not_found("network", key)),
            (Some(_), others) => Err(ControllerError::invalid(format!(
                "network {key} is ambiguous ({} matches found based on ID prefix)",
                others + 1
            ))),
        }
    }

    /// The endpoints of a network.
    pub fn endpoints_of(&self, network: &NetworkId) -> Vec<Arc<Endpoint>> {
        self.members
            .get(network)
            .map(|members| members.values().cloned().collect())
            .unwrap_or_default()
    }

    /// Whether an endpoint is there, or about to come or to go.
    pub fn has_endpoint(&self, id: &EndpointId) -> bool {
        let changing = self.open_changes().flat_map(|change| {
            let (before, after) = change.sandboxes();
            before.into_iter().chain(after).flat_map(|live| &live.endpoints)
        });
        self.members.values().any(|members| members.contains_key(id))
            || changing.into_iter().any(|endpoint| endpoint.id == *id)
    }

    /// Whether a network is there, or about to come or to go.
    pub fn has_network(&self, id: &NetworkId) -> bool {
        self.all_networks().any(|network| network.id == *id)
    }

    /// All sandboxes.
    pub fn sandboxes(&self) -> Vec<Arc<Sandbox>> {
        self.sandboxes.values().map(|live| Arc::clone(&live.sandbox)).collect()
    }

    /// A sandbox with its endpoints, in the order they joined.
    pub fn sandbox(&self, id: &SandboxId) -> Option<(Arc<Sandbox>, Vec<Arc<Endpoint>>)> {
        let live = self.sandboxes.get(id)?;
        Some((Arc::clone(&live.sandbox), live.endpoints.clone()))
    }

    /// The kernel state of the whole model.
    pub fn desired(&self) -> State {
        let mut state = self.plan_cluster();
        for network in self.networks.values() {
            // That it can be planned was checked when it became part of the model.
            state.extend(self.plan_network(network).unwrap_or_default());
        }
        for live in self.sandboxes.values() {
            state.extend(self.plan_sandbox(live).unwrap_or_default());
        }
        state
    }

    /// The kernel state of one network, without its sandboxes.
    pub fn desired_of_network(&self, network: &NetworkId) -> State {
        let network = self.networks.get(network);
        network.and_then(|network| self.plan_network(network).ok()).unwrap_or_default()
    }

    /// The kernel state of one sandbox.
    pub fn desired_of(&self, sandbox: &SandboxId) -> State {
        let live = self.sandboxes.get(sandbox);
        live.and_then(|live| self.plan_sandbox(live).ok()).unwrap_or_default()
    }

    /// Where a sandbox's ports are to be carried that the kernel does not translate, with these
    /// endpoints: the planner's word, and nobody else's.
    pub fn carried(
        &self,
        sandbox: &Sandbox,
        endpoints: &[Arc<Endpoint>],
    ) -> BTreeMap<PortBinding, SocketAddr> {
        let attachments = self.attachments(endpoints).unwrap_or_default();
        self.planner.carried(sandbox, &attachments)
    }

    /// Keeps an address for an owner, whether it runs or not (`--ip`); [`Controller::forget_owner`]
    /// lets it go. Nobody gets it who takes any; whoever asks for it by name gets it while nobody
    /// uses it. Fails with [`Kind::Forbidden`] if it is the network's own.
    pub fn reserve_static(
        &mut self,
        owner: &str,
        network: &NetworkId,
        address: IpAddr,
    ) -> Result<Batch, ControllerError> {
        self.joinable(network)?;
        if owner.is_empty() {
            return Err(ControllerError::invalid(format!("{address} cannot be kept for nobody")));
        }
        self.ipam.reserve(network, address, owner)?;
        self.keep_in_open(network, address, |lease| Some(Lease::kept_for(owner, lease)));
        let lease = self.ipam.lease(network, address);
        let record = lease_record(&self.ipam, network, address, lease);
        Ok(Batch { writes: record.into_iter().collect() })
    }

    /// Lets go of one address that is kept for an owner. The endpoint that uses it, if there is
    /// one, goes on doing so. It is no error if the address is not kept.
    pub fn release_static(&mut self, owner: &str, network: &NetworkId, address: IpAddr) -> Batch {
        self.ipam.release_reservation(network, address, owner);
        self.keep_in_open(network, address, |lease| Some(lease?.not_kept_for(owner)));
        let lease = self.ipam.lease(network, address);
        let record = lease_record(&self.ipam, network, address, lease);
        Batch { writes: record.into_iter().collect() }
    }

    /// Lets go of all that is kept for an owner: static reservations and sticky addresses.
    pub fn forget_owner(&mut self, owner: &str) -> Batch {
        let mut batch = self.forget_in_open(owner);
        for (network, address) in self.ipam.forget(owner) {
            let lease = self.ipam.lease(&network, address);
            batch.writes.extend(lease_record(&self.ipam, &network, address, lease));
        }
        batch
    }

    fn insert_network(&mut self, network: &Arc<Network>) {
        self.ipam.add_network(network);
        self.members.entry(network.id.clone()).or_default();
        let network = self.on_its_way_out(network);
        self.networks.insert(network.id.clone(), network);
    }

    fn insert_sandbox(&mut self, live: Live) {
        for endpoint in &live.endpoints {
            let members = self.members.entry(endpoint.network.clone()).or_default();
            members.insert(endpoint.id.clone(), Arc::clone(endpoint));
        }
        self.sandboxes.insert(live.sandbox.id.clone(), live);
    }

    /// The changes that are open.
    fn open_changes(&self) -> impl Iterator<Item = &Change> {
        self.open.values().map(|open| &open.intent.change)
    }

    /// Fails while another transaction is open on the subject.
    fn check_idle(&self, subject: &Subject) -> Result<(), ControllerError> {
        let noun = match subject {
            Subject::Network(id) => {
                let name = self.networks.get(id).map_or(id.short(), |network| &network.name);
                if self.is_updated(id) {
                    return Err(ControllerError::passing(name));
                }
                format!("network {name}")
            }
            Subject::Sandbox(id) => {
                self.check_networks_settled(id)?;
                format!("sandbox {}", id.short())
            }
            // No transaction is about it.
            Subject::Cluster => return Ok(()),
        };
        if !self.open_changes().any(|change| change.subject() == *subject) {
            return Ok(());
        }
        let message =
            format!("{noun} is being changed by another request: try again when it is done");
        Err(ControllerError::new(Kind::Conflict, message))
    }

    /// A network that can be joined now.
    fn joinable(&self, id: &NetworkId) -> Result<&Arc<Network>, ControllerError> {
        let network = self.networks.get(id);
        let network = network.ok_or_else(|| ControllerError::not_found("network", id))?;
        self.check_idle(&Subject::Network(id.clone()))?;
        Ok(network)
    }
}

#[cfg(test)]
mod tests;
