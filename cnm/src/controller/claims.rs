//! Claims: what a change needs of the world outside the model, and got before it is decided.
//!
//! To bind a port of the host, or to ask somebody for an address, may be slow, may fail, and can be
//! given back. So it happens before a `begin_*`, and outside of every lock. The controller takes
//! what was claimed as input; where something is missing it says what, decides nothing, and keeps
//! nothing. The claims belong to the caller, who lets go of those that the change does not use.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;

use crate::endpoint::Handover;
use crate::{EndpointId, Mac, NetworkId, PortBinding, Protocol, SandboxId};

/// What was claimed for a change, and what could not be had.
#[derive(Debug, Default)]
pub struct Claims {
    /// What became of the attempts to bind ports of the host, by address.
    ports: BTreeMap<(Protocol, u16), Vec<(IpAddr, Binding)>>,
    lent: BTreeMap<NetworkId, Vec<Lent>>,
    /// The id of the sandbox, where somebody was told it already.
    sandbox: Option<SandboxId>,
    endpoints: BTreeMap<NetworkId, ClaimedEndpoint>,
}

/// An endpoint that somebody else was told of, who may have made its link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimedEndpoint {
    /// Its id, as it was told them.
    pub id: EndpointId,
    /// The hardware address that they say it has.
    pub mac: Option<Mac>,
    /// What the names of its interfaces are to begin with.
    pub prefix: Option<String>,
    /// The link, if they made one.
    pub handover: Option<Handover>,
}

/// An address that somebody else gave for an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lent {
    /// The address, with the prefix length of its subnet.
    pub address: IpNetwork,
    /// The gateway that came with it.
    pub gateway: Option<IpAddr>,
    /// The hardware address that it is for, if it is for one only.
    pub mac: Option<Mac>,
}

/// An address that an endpoint needs and that others are to be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedAddress {
    /// The network.
    pub network: NetworkId,
    /// Whom it is for, see [`crate::Sandbox::owner`].
    pub owner: String,
    /// The hardware address of the endpoint.
    pub mac: Mac,
    /// Whether one of IPv4 is needed.
    pub ipv4: bool,
    /// Whether one of IPv6 is.
    pub ipv6: bool,
    /// The addresses that the user wants, at most one of a family that is needed.
    pub wanted: Vec<IpAddr>,
}

/// What is to be claimed before a change can be decided.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unclaimed {
    /// Ports of the host. Those of a group differ in their address only, so that one socket may do
    /// for all of them.
    pub ports: Vec<Vec<PortBinding>>,
    /// Addresses that others lend.
    pub addresses: Vec<WantedAddress>,
}

impl Unclaimed {
    pub(super) fn is_empty(&self) -> bool {
        self.ports.is_empty() && self.addresses.is_empty()
    }
}

/// What became of the attempt to bind a port on an address.
#[derive(Clone, Debug)]
pub(crate) enum Binding {
    /// It is bound, and stays so while the change is decided.
    Bound,
    /// Another program has it.
    InUse,
    /// The host cannot bind it.
    Refused(Arc<io::Error>),
}

/// What a `begin_*` comes to.
#[derive(Debug)]
#[must_use = "a change that is decided is to be committed or aborted"]
pub enum Decision<T> {
    /// The change is decided.
    Made(T),
    /// Nothing is decided: this is to be claimed first.
    Unclaimed(Unclaimed),
}

impl<T> Decision<T> {
    /// What was decided, unless something is to be claimed first.
    pub fn made(self) -> Option<T> {
        match self {
            Self::Made(made) => Some(made),
            Self::Unclaimed(_) => None,
        }
    }

    pub(super) fn map<U>(self, f: impl FnOnce(T) -> U) -> Decision<U> {
        match self {
            Self::Made(made) => Decision::Made(f(made)),
            Self::Unclaimed(unclaimed) => Decision::Unclaimed(unclaimed),
        }
    }
}

impl Claims {
    /// No claims, for changes that need none.
    pub const fn none() -> Self {
        Self {
            ports: BTreeMap::new(),
            lent: BTreeMap::new(),
            sandbox: None,
            endpoints: BTreeMap::new(),
        }
    }

    /// Says what id the sandbox has, because somebody was told it.
    pub fn name_sandbox(&mut self, id: SandboxId) {
        self.sandbox = Some(id);
    }

    /// Adds an endpoint for which somebody else made a link.
    pub fn add_endpoint(&mut self, network: &NetworkId, endpoint: ClaimedEndpoint) {
        self.endpoints.insert(network.clone(), endpoint);
    }

    pub(super) fn sandbox(&self) -> Option<&SandboxId> {
        self.sandbox.as_ref()
    }

    pub(super) fn endpoint(&self, network: &NetworkId) -> Option<&ClaimedEndpoint> {
        self.endpoints.get(network)
    }

    /// Claims ports of the host: `bind` binds one on some addresses at once, and returns `false` for
    /// those on which somebody else has it.
    pub fn claim_ports(
        &mut self,
        groups: &[Vec<PortBinding>],
        bind: &mut dyn FnMut(&[PortBinding]) -> Vec<io::Result<bool>>,
    ) {
        for group in groups {
            for (port, outcome) in group.iter().zip(bind(group)) {
                let binding = match outcome {
                    Ok(true) => Binding::Bound,
                    Ok(false) => Binding::InUse,
                    Err(error) => Binding::Refused(Arc::new(error)),
                };
                let by_address = self.ports.entry((port.protocol, port.host_port)).or_default();
                by_address.retain(|(host, _)| *host != port.host);
                by_address.push((port.host, binding));
            }
        }
    }

    /// Adds an address that somebody else gave for the endpoint on a network: a DHCP server, a
    /// plugin, a cluster. The endpoint gets it instead of one of its family that would be allocated.
    pub fn add_address(&mut self, network: &NetworkId, lent: Lent) {
        self.lent.entry(network.clone()).or_default().push(lent);
    }

    /// The addresses that were added for a network.
    pub fn lent(&self, network: &NetworkId) -> &[Lent] {
        self.lent.get(network).map_or(&[], Vec::as_slice)
    }

    /// What became of an attempt; nothing if there was none.
    pub(crate) fn port(&self, protocol: Protocol, port: u16, host: IpAddr) -> Option<&Binding> {
        let by_address = self.ports.get(&(protocol, port))?;
        by_address.iter().find(|(address, _)| *address == host).map(|(_, binding)| binding)
    }

    /// The ports that are bound on some address.
    pub(crate) fn bound(&self) -> BTreeSet<(Protocol, u16)> {
        let is_bound = |hosts: &[(IpAddr, Binding)]| {
            hosts.iter().any(|(_, binding)| matches!(binding, Binding::Bound))
        };
        self.ports.iter().filter(|(_, hosts)| is_bound(hosts)).map(|(port, _)| *port).collect()
    }
}
