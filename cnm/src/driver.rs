//! The contract between the model and the network drivers.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnetwork::IpNetwork;

use crate::controller::HostFacts;
use crate::network::Parent;
use crate::options::{Described, OptionError};
use crate::sandbox::Attachment;
use crate::{
    EndpointId, HasKind, Key, Kind, LinkKind, LinkName, Mac, Network, Ns, PortBinding, Protocol,
    Sandbox, SandboxId, State, Value, WireGuard,
};

/// A driver: what networks of one kind are like, and which kernel state realises them.
///
/// A driver decides and never acts: it does no I/O and holds no state. Equal inputs give equal
/// outputs. What others need to know of a network they ask its driver; nobody asks which it is.
pub trait Driver: fmt::Debug + Send + Sync {
    /// The name that users write and read.
    fn name(&self) -> &'static str;

    /// Other names that users may write.
    fn aliases(&self) -> &'static [&'static str] {
        &[]
    }

    /// What its networks are for and what they are made of, for the manual.
    fn about(&self) -> &'static str;

    /// What is true of all its networks.
    fn traits(&self) -> Traits {
        Traits::ORDINARY
    }

    /// The plugin that makes its networks and endpoints, where it does not plan their links itself.
    fn plugin(&self) -> Option<&'static str> {
        None
    }

    /// Reads the options of a network: a value that cannot be is an error, what is unknown a
    /// warning or, in Docker's vocabulary, an error.
    fn read(&self, options: &BTreeMap<String, String>) -> Result<Reading, OptionError>;

    /// The options of its networks, as the manual has them.
    fn options(&self) -> Vec<Described> {
        Vec::new()
    }

    /// The options of endpoints that not all drivers have, as the manual has them.
    fn endpoint_options(&self) -> Vec<Described> {
        Vec::new()
    }

    /// The options of a network that can be changed while it is used, each by all of its names, the
    /// proper one first: its plan follows, and nobody on it loses a link.
    fn changeable(&self) -> &'static [&'static [&'static str]] {
        &[]
    }

    /// Reads an option of an endpoint that not all drivers have; tells whether there is one of that
    /// name.
    fn read_endpoint(&self, _name: &str, _value: &str) -> Result<bool, OptionError> {
        Ok(false)
    }

    /// Refuses a network whose properties contradict each other. It has no pools yet.
    fn check(&self, _network: &Network) -> Result<(), OptionError> {
        Ok(())
    }

    /// The link of the host that a new network is to be on, with what the user should know of it.
    fn parent(
        &self,
        _network: &Network,
        _host: &HostFacts,
    ) -> Result<Option<(Parent, Vec<String>)>, OptionError> {
        Ok(None)
    }

    /// Refuses a network that is to have the same parent as another one of any driver.
    fn check_beside(&self, _network: &Network, _other: &Network) -> Result<(), OptionError> {
        Ok(())
    }

    /// The kinds of links that a network needs the kernel to have, beside bridges and pairs.
    fn kinds(&self, _network: &Network) -> Vec<LinkKind> {
        Vec::new()
    }

    /// What the model has to know of a network with these options.
    fn profile(&self, network: &Network) -> Profile;

    /// The kernel state of a network by itself: its devices, their addresses, set elements.
    fn network(&self, network: &Network) -> Result<State, PlanError>;

    /// What leads to endpoints of the network on other hosts, as far as that is no matter of the
    /// hosts ([`Planner::cluster`]).
    fn peers(&self, _network: &Network, _peers: &[&Peer]) -> State {
        State::default()
    }

    /// The kernel state of an endpoint: its link, the link's addresses. What concerns the sandbox
    /// as a whole is planned for all drivers alike, and so are the sysctls that all interfaces have.
    fn endpoint(&self, sandbox: &Sandbox, of: Attachment<'_>) -> Result<State, PlanError>;

    /// How many endpoints a network has room for, if that is limited.
    fn room(&self, _network: &Network) -> Option<Room> {
        None
    }

    /// Whether endpoints have hardware addresses of their own.
    fn has_hardware_addresses(&self) -> bool {
        true
    }

    /// Whether the host is to have an address of each pool, named [`HOST_ADDRESS`].
    fn host_joins(&self, _network: &Network) -> bool {
        false
    }

    /// What is to be asked before an endpoint uses its addresses, where others may have them.
    fn probe(&self, _of: Attachment<'_>) -> Option<Probe> {
        None
    }

    /// The port of a bridge that an endpoint sends by, if frames with addresses that are not its
    /// sandbox's are to be stopped there.
    fn guarded(&self, _of: Attachment<'_>) -> Option<LinkName> {
        None
    }

    /// Why ports of a protocol are not reached on a network though they are published, as a clause.
    fn unreached(&self, _network: &Network, _protocol: Protocol) -> Option<&'static str> {
        None
    }

    /// What leads from published ports to the endpoint.
    fn publish(&self, _bindings: &[&PortBinding], _to: Attachment<'_>) -> Vec<(Key, Value)> {
        Vec::new()
    }
}

/// How many endpoints a network has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// So many.
    pub endpoints: usize,
    /// Why there is not more, and what has.
    pub because: &'static str,
}

/// The auxiliary address that is the host's own.
pub const HOST_ADDRESS: &str = "host";

/// The tag of a link that was made to be the parent of networks ([`crate::Link::tag`]).
pub const PARENT_TAG: &str = "parent";

/// A question to the neighbours of a new endpoint: whether one of them has its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// The endpoint's sandbox.
    pub sandbox: SandboxId,
    /// The interface that is to have the addresses.
    pub interface: LinkName,
    /// The link that the question leaves by.
    pub by: (Ns, LinkName),
    /// The addresses.
    pub addresses: Vec<IpAddr>,
    /// How long to wait for an answer.
    pub wait: Duration,
}

/// What is true of all networks of a driver.
#[expect(clippy::struct_excessive_bools, reason = "independent properties")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traits {
    /// Whether endpoints have addresses of the network's pools.
    pub addresses: bool,
    /// Whose namespace a sandbox has.
    pub namespace: Namespace,
    /// Whether there is only one network of it.
    pub single: bool,
    /// Whether a sandbox may be on other networks as well.
    pub company: bool,
    /// Whether ports can be published.
    pub publishes: bool,
    /// Where its networks reach.
    pub scope: Scope,
}

impl Traits {
    /// Those of networks of one host that sandboxes join, with an address on each of them.
    pub const ORDINARY: Self = Self {
        addresses: true,
        namespace: Namespace::Own,
        single: false,
        company: true,
        publishes: true,
        scope: Scope::Local,
    };

    /// Whether a sandbox on it is the host's own namespace.
    pub fn is_of_host(self) -> bool {
        self.namespace == Namespace::Host
    }

    /// Whether to be on it is to be on no network.
    pub fn is_none(self) -> bool {
        !self.company && self.namespace == Namespace::Own
    }
}

/// Whose namespace a sandbox has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Namespace {
    /// One of its own.
    Own,
    /// The host's.
    Host,
}

/// Where a network reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// One host.
    Local,
    /// All hosts of a cluster.
    Cluster,
}

impl Scope {
    /// Docker's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Cluster => "swarm",
        }
    }
}

/// What the options of a network say about the network itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Whether it has IPv4, the same as the request's own field.
    pub ipv4: Option<bool>,
    /// Whether it has IPv6, the same as the request's own field.
    pub ipv6: Option<bool>,
    /// Whether it is internal, the same as the request's own field.
    pub internal: Option<bool>,
    /// The number that its tunnels are to have ([`crate::network::Tunnel::vni`]).
    pub vni: Option<u32>,
    /// The port that its tunnels are to have.
    pub port: Option<u16>,
    /// Whether its tunnels are to be encrypted ([`crate::network::Tunnel::encrypted`]).
    pub encrypted: bool,
    /// Options that have no effect, in sentences.
    pub warnings: Vec<String>,
}

/// What the model has to know of one network, whatever its driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// The device on the host that no two networks share.
    pub device: Option<LinkName>,
    /// What the names of its interfaces begin with; nothing where an endpoint has none of its own.
    pub interface_prefix: Option<String>,
    /// Where ports are published if a request names no address; empty means where the daemon does.
    pub bindings: Vec<IpAddr>,
    /// How endpoints are reached and reach others, by IPv4 and by IPv6.
    pub reach: [Reach; 2],
}

/// How the endpoints of a network are connected to the outside in one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// By a gateway, and ports by addresses of the host.
    Translated,
    /// By a gateway, and ports by the endpoint's own address.
    Routed,
    /// By a link of the host, as hosts on it are, and by a gateway there if one is given.
    Attached,
    /// By a link of the host, by which everything leaves without a gateway.
    OnLink,
    /// Not at all: not even the host is a gateway.
    Closed,
}

impl Reach {
    /// Whether endpoints are on a link of the host, past which they are reached.
    pub fn is_attached(self) -> bool {
        matches!(self, Self::Attached | Self::OnLink)
    }
}

impl Profile {
    /// How endpoints are connected in one family.
    pub fn reach(&self, ipv6: bool) -> Reach {
        self.reach[usize::from(ipv6)]
    }
}

/// An endpoint of a network on another host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its identity.
    pub endpoint: EndpointId,
    /// Its hardware address.
    pub mac: Mac,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The number of the other host.
    pub node: u32,
}

/// What becomes of endpoints on other hosts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeersChange {
    /// Those that are there, or are different from now on.
    pub put: Vec<Peer>,
    /// Those that are not there any more.
    pub gone: Vec<EndpointId>,
}

/// Another host of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its number, which no other host has.
    pub number: u32,
    /// Where tunnels to it end.
    pub address: IpAddr,
    /// How it takes part in what is encrypted, if it can.
    pub wireguard: Option<WireGuard>,
}

/// What encrypted networks need of this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encryption {
    /// How it takes part.
    pub own: WireGuard,
    /// The MTU of the link that encrypts.
    pub mtu: u32,
}

impl PartialEq for dyn Driver {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for dyn Driver {}

/// All drivers, and what is planned for sandboxes whatever their networks are.
///
/// Pure, as drivers are.
pub trait Planner: fmt::Debug + Send + Sync {
    /// All drivers.
    fn drivers(&self) -> &[&'static dyn Driver];

    /// The driver of the networks that a plugin makes, whether it is there at the moment or not.
    fn remote(&self, _plugin: &str) -> Option<&'static dyn Driver> {
        None
    }

    /// The kernel state of one sandbox: its namespace, interfaces, routes, published ports.
    fn sandbox(
        &self,
        sandbox: &Sandbox,
        attachments: &[Attachment<'_>],
    ) -> Result<State, PlanError>;

    /// The kernel state that all networks of a cluster share: the ways to its other hosts, and whose
    /// tunnels are let in. Where there are encrypted networks, what encrypts, too.
    fn cluster(&self, _nodes: &[Node], _encryption: Option<&Encryption>) -> State {
        State::default()
    }

    /// Where what arrives at the sockets that reserve a sandbox's ports is to be carried, because
    /// the kernel does not translate it. A port that is not among them leads nowhere: whoever holds
    /// its socket answers nobody. Nobody holds the sockets of a planner that does not say.
    fn carried(
        &self,
        _sandbox: &Sandbox,
        _attachments: &[Attachment<'_>],
    ) -> BTreeMap<PortBinding, SocketAddr> {
        BTreeMap::new()
    }
}

impl dyn Planner + '_ {
    /// The driver with a name.
    pub fn driver(&self, name: &str) -> Option<&'static dyn Driver> {
        let named = |driver: &&&'static dyn Driver| {
            driver.name() == name || driver.aliases().contains(&name)
        };
        self.drivers().iter().find(named).copied()
    }
}

/// A model that no kernel state can realise.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// An endpoint's address is in none of its network's subnets.
    #[error("address {address} of endpoint {endpoint} is outside the subnets of network {network}")]
    AddressOutsideSubnet {
        /// The endpoint's id.
        endpoint: String,
        /// Its address.
        address: IpNetwork,
        /// The network's name.
        network: String,
    },
    /// Nobody made the link of an endpoint that a plugin is to make.
    #[error("endpoint {endpoint} on network {network} has no link: plugin {plugin} made none")]
    NoLink {
        /// The endpoint's id.
        endpoint: String,
        /// The network's name.
        network: String,
        /// The plugin's name.
        plugin: String,
    },
    /// Nobody told of the tunnel of a network that is one of a cluster's.
    #[error("network {network} is one of a cluster, and nobody told of its tunnel")]
    NoTunnel {
        /// The network's name.
        network: String,
    },
    /// The tunnel of a network that is to be encrypted is not.
    #[error("network {network} is to be encrypted, and its tunnel is not: nothing of it is made")]
    InTheClear {
        /// The network's name.
        network: String,
    },
    /// A sandbox of its own cannot join the host's network.
    #[error("sandbox {sandbox} cannot join network {network}: it is the host's own namespace")]
    HostNetwork {
        /// The sandbox's id.
        sandbox: String,
        /// The network's name.
        network: String,
    },
}

impl HasKind for PlanError {
    fn kind(&self) -> Kind {
        Kind::Invalid
    }
}

#[cfg(test)]
pub(crate) mod fake;
