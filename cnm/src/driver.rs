//! The contract between the model and the network drivers.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;

use ipnetwork::IpNetwork;

use crate::sandbox::Attachment;
use crate::{HasKind, Kind, Network, PortBinding, Sandbox, State};

/// Turns the model into the kernel state that realises it.
///
/// A planner decides and never acts: it does no I/O and holds no state. Equal inputs give equal
/// outputs.
pub trait Planner: fmt::Debug + Send + Sync {
    /// The kernel state of a network by itself: its bridge, the bridge's addresses, set elements.
    fn network(&self, network: &Network) -> Result<State, PlanError>;

    /// The kernel state of one sandbox: its namespace, interfaces, routes, published ports.
    fn sandbox(
        &self,
        sandbox: &Sandbox,
        attachments: &[Attachment<'_>],
    ) -> Result<State, PlanError>;

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
