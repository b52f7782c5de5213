//! The controller: the only mutator of the model.
//!
//! It decides; it does not act. A `begin_*` checks a request, takes what must be unique (names,
//! addresses, host ports) and returns a [`Transaction`]: the records to write and the kernel state
//! before and after. The caller makes the transaction's intent durable, applies the difference,
//! and then calls [`Controller::commit`], or [`Controller::abort`] if that failed.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;

use crate::endpoint::{Mac, Protocol};
use crate::store::Batch;
use crate::{
    Endpoint, HasKind, Kind, Network, NetworkId, NetworkSpec, Planner, PortBinding, Sandbox,
    SandboxId, State, Store,
};

/// The model in memory, with the allocators that belong to it.
#[derive(Debug)]
pub struct Controller {
    planner: Arc<dyn Planner>,
}

/// What the host already uses, to be avoided by the default pools.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// Destinations of all routes in all tables, default routes left out.
    pub routes: Vec<IpNetwork>,
    /// The addresses of the host's resolvers.
    pub resolvers: Vec<IpAddr>,
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
    /// Extra names on this network.
    pub aliases: Vec<String>,
    /// See [`Endpoint::gateway_priority`].
    pub gateway_priority: i32,
    /// Options as given.
    pub options: BTreeMap<String, String>,
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

/// Takes a host port for real, by binding it. Returns `false` if somebody else has it.
pub type Reserve<'a> = &'a mut dyn FnMut(&PortBinding) -> std::io::Result<bool>;

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
}

/// A decided change that has not happened yet.
#[derive(Clone, Debug)]
pub struct Transaction {
    /// Number of the intent; its record is `intent/<number>`.
    pub number: u64,
    /// What the change is about, for logs and for recovery.
    pub subject: Subject,
    /// The kernel state of its scope before.
    pub before: State,
    /// The kernel state of its scope after.
    pub after: State,
    /// The records that make it true.
    pub batch: Batch,
    /// Things the user should know (an unknown option, an ignored address).
    pub warnings: Vec<String>,
}

/// What a transaction is about.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Subject {
    /// A network is created or removed.
    Network(NetworkId),
    /// A sandbox is created, changed or removed.
    Sandbox(SandboxId),
}

impl Controller {
    /// Reads the model from the store. Intents that were not finished stay in the store: see
    /// [`Controller::intents`].
    pub fn load(
        store: &dyn Store,
        planner: Arc<dyn Planner>,
        config: ControllerConfig,
    ) -> Result<Self, ControllerError> {
        let _ = (store, config);
        Ok(Self { planner })
    }

    /// All networks, by name.
    pub fn networks(&self) -> Vec<Arc<Network>> {
        todo!()
    }

    /// The network with this full id, name or unique id prefix (in that order).
    pub fn network(&self, key: &str) -> Result<Arc<Network>, ControllerError> {
        todo!("{key}")
    }

    /// The endpoints of a network.
    pub fn endpoints_of(&self, network: &NetworkId) -> Vec<Arc<Endpoint>> {
        todo!("{network}")
    }

    /// All sandboxes.
    pub fn sandboxes(&self) -> Vec<Arc<Sandbox>> {
        todo!()
    }

    /// A sandbox with its endpoints, in the order they joined.
    pub fn sandbox(&self, id: &SandboxId) -> Option<(Arc<Sandbox>, Vec<Arc<Endpoint>>)> {
        todo!("{id}")
    }

    /// Begins to create a network. `now` is in nanoseconds since the Unix epoch.
    pub fn begin_create_network(
        &mut self,
        spec: &NetworkSpec,
        host: &HostFacts,
        entropy: &mut dyn Entropy,
        now: u64,
    ) -> Result<(Arc<Network>, Transaction), ControllerError> {
        todo!("{spec:?} {host:?} {now} {}", entropy.bytes()[0])
    }

    /// Begins to remove a network. Fails with [`Kind::Forbidden`] while it has endpoints or is predefined.
    pub fn begin_remove_network(&mut self, id: &NetworkId) -> Result<Transaction, ControllerError> {
        todo!("{id}")
    }

    /// Begins to create a sandbox with its endpoints and published ports.
    pub fn begin_create_sandbox(
        &mut self,
        spec: &SandboxSpec,
        reserve: Reserve<'_>,
        entropy: &mut dyn Entropy,
        now: u64,
    ) -> Result<(SandboxId, Transaction), ControllerError> {
        todo!("{spec:?} {now} {} {}", entropy.bytes()[0], reserve as *mut _ as *mut () as usize)
    }

    /// Begins to remove a sandbox with all its endpoints.
    pub fn begin_remove_sandbox(
        &mut self,
        id: &SandboxId,
        now: u64,
    ) -> Result<Transaction, ControllerError> {
        todo!("{id} {now}")
    }

    /// Begins to join one more network (`network connect`).
    pub fn begin_join(
        &mut self,
        sandbox: &SandboxId,
        join: &JoinSpec,
        entropy: &mut dyn Entropy,
        now: u64,
    ) -> Result<Transaction, ControllerError> {
        todo!("{sandbox} {join:?} {now} {}", entropy.bytes()[0])
    }

    /// Begins to leave a network (`network disconnect`).
    pub fn begin_leave(
        &mut self,
        sandbox: &SandboxId,
        network: &NetworkId,
        now: u64,
    ) -> Result<Transaction, ControllerError> {
        todo!("{sandbox} {network} {now}")
    }

    /// Begins to publish and withdraw ports of a live sandbox.
    pub fn begin_change_ports(
        &mut self,
        sandbox: &SandboxId,
        add: &[PortSpec],
        remove: &[PortBinding],
        reserve: Reserve<'_>,
    ) -> Result<Transaction, ControllerError> {
        todo!("{sandbox} {add:?} {remove:?} {}", reserve as *mut _ as *mut () as usize)
    }

    /// The intent record of a transaction: to be written durably before the first side effect.
    pub fn intent(&self, transaction: &Transaction) -> Batch {
        todo!("{transaction:?}")
    }

    /// Makes a transaction part of the model. The returned batch holds its records and deletes its
    /// intent; the caller writes it.
    pub fn commit(&mut self, transaction: Transaction) -> Batch {
        todo!("{transaction:?}")
    }

    /// Gives back what a transaction took. The returned batch deletes its intent.
    pub fn abort(&mut self, transaction: Transaction) -> Batch {
        todo!("{transaction:?}")
    }

    /// Transactions that were begun before a crash and neither committed nor aborted. Each is to be
    /// committed or aborted by the caller, who knows what lives.
    pub fn intents(&mut self) -> Vec<Transaction> {
        todo!()
    }

    /// The kernel state of the whole model.
    pub fn desired(&self) -> State {
        todo!("{:?}", self.planner)
    }

    /// The kernel state of one sandbox.
    pub fn desired_of(&self, sandbox: &SandboxId) -> State {
        todo!("{sandbox}")
    }

    /// Keeps an address for an owner, whether it runs or not (`--ip`); [`Controller::forget_owner`]
    /// lets it go. Fails with [`Kind::Forbidden`] if it is taken.
    pub fn reserve_static(
        &mut self,
        owner: &str,
        network: &NetworkId,
        address: IpAddr,
    ) -> Result<Batch, ControllerError> {
        todo!("{owner} {network} {address}")
    }

    /// Lets go of all that is kept for an owner: static reservations and sticky addresses.
    pub fn forget_owner(&mut self, owner: &str) -> Batch {
        todo!("{owner}")
    }
}

/// A request that the controller refuses.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct ControllerError {
    kind: Kind,
    message: String,
}

impl HasKind for ControllerError {
    fn kind(&self) -> Kind {
        self.kind
    }
}
