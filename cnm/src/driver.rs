//! The contract between the model and the network drivers.

use std::fmt;

use ipnetwork::IpNetwork;

use crate::sandbox::Attachment;
use crate::{HasKind, Kind, Network, Sandbox, State};

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
