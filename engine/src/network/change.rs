//! A change of one sandbox that is decided and not finished.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use cnm::controller::Live;
use cnm::{Endpoint, EndpointId, Kind, PortBinding, Protocol, Sandbox, Transaction};

use drivers::kernel::conntrack::Way;

use super::claims::{Claimed, ClaimedPort};
use super::flows::{Ways, moved};
use super::leases::Holding;
use super::shared::Claim;
use engine_error::{Error, Result};
use ipnetwork::IpNetwork;

/// What a sandbox is to become, and what that takes.
#[derive(Debug)]
pub(crate) struct Change {
    /// The sandbox as it is to be.
    pub(crate) sandbox: Arc<Sandbox>,
    /// Its endpoints as they are to be, in order.
    pub(crate) endpoints: Vec<Arc<Endpoint>>,
    pub(super) transaction: Transaction,
    /// The sockets of its new host ports.
    pub(super) bound: Vec<ClaimedPort>,
    /// What was lent for its new endpoints.
    pub(super) lent: Vec<Holding>,
    /// What was claimed for them of the cluster.
    pub(super) claimed: Vec<Claim>,
    /// Addresses that the sandbox has no more.
    pub(super) left: Vec<IpAddr>,
    /// Endpoints that it has no more.
    pub(super) gone: Vec<EndpointId>,
    /// Host ports that it has no more.
    pub(super) withdrawn: Vec<PortBinding>,
    /// Where those of them led that the kernel translated or let pass.
    pub(super) closed: Vec<(PortBinding, Way)>,
    /// Where connections were carried that came to those of them, and were not translated.
    pub(super) carried: Vec<(PortBinding, SocketAddr)>,
    /// What becomes of connections to them.
    pub(super) connections: Connections,
    /// Host ports that lead elsewhere than before.
    pub(super) moved: Vec<PortBinding>,
}

/// What becomes of connections to ports that are withdrawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Connections {
    /// They end with the port.
    #[default]
    End,
    /// They go on until they are [cut](super::Networks::cut_flows).
    GoOn,
}

impl Change {
    pub(super) fn of(transaction: Transaction, claimed: Claimed) -> Result<Self> {
        let missing = || Error::new(Kind::Internal, "the change leaves no sandbox");
        let Live { sandbox, endpoints } =
            transaction.sandbox_after().cloned().ok_or_else(missing)?;
        let before = transaction.sandbox_before().map_or(&[][..], |live| &live.endpoints);
        let gone = before.iter().filter(|old| !endpoints.iter().any(|kept| kept.id == old.id));
        let gone = gone.map(|endpoint| endpoint.id.clone()).collect();
        let left = before.iter().flat_map(|old| without(old, &endpoints)).collect();
        let old = transaction.sandbox_before().map_or(&[][..], |live| &live.sandbox.ports);
        let kept: HashSet<_> = sandbox.ports.iter().collect();
        let withdrawn: Vec<_> = old.iter().filter(|port| !kept.contains(port)).cloned().collect();
        let Transaction { before, after, .. } = &transaction;
        let ways = Ways::of(before);
        let led = |port: &PortBinding| Some((port.clone(), ways.way(port)?));
        let closed = withdrawn.iter().filter_map(led).collect();
        let moved = moved(&sandbox.ports, before, after);
        let (bound, leases, claimed) = claimed.of(&sandbox);
        Ok(Self {
            sandbox,
            endpoints,
            transaction,
            bound,
            lent: leases,
            claimed,
            left,
            gone,
            withdrawn,
            closed,
            carried: Vec::new(),
            connections: Connections::default(),
            moved,
        })
    }

    /// The same; connections to what it withdraws go on for a while.
    pub(crate) fn with_connections_going_on(self) -> Self {
        Self { connections: Connections::GoOn, ..self }
    }

    /// Where TCP was carried that came to ports that it withdraws.
    pub(crate) fn carried(&self) -> impl Iterator<Item = &(PortBinding, SocketAddr)> {
        self.carried.iter().filter(|(binding, _)| binding.protocol == Protocol::Tcp)
    }

    /// Where the ports led that it withdraws, as far as the kernel led them.
    pub(crate) fn closed(&self) -> &[(PortBinding, Way)] {
        &self.closed
    }

    /// What is odd about it, for the user.
    pub(crate) fn warnings(&self) -> &[String] {
        &self.transaction.warnings
    }

    /// Whether neighbours know another owner of an address.
    pub(crate) fn moves_address(&self) -> bool {
        self.transaction.moves_address
    }
}

/// The addresses of an endpoint that none of these has on its network.
fn without(old: &Endpoint, endpoints: &[Arc<Endpoint>]) -> Vec<IpAddr> {
    let has = |address: &&IpNetwork| {
        let mut same = endpoints.iter().filter(|endpoint| endpoint.network == old.network);
        same.any(|endpoint| endpoint.addresses.contains(address))
    };
    old.addresses.iter().filter(|address| !has(address)).map(IpNetwork::ip).collect()
}
