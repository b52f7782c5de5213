//! A change of one sandbox that is decided and not finished.

use std::net::IpAddr;
use std::sync::{Arc, RwLockReadGuard};

use cnm::controller::Live;
use cnm::{Endpoint, Kind, Sandbox, Transaction};

use super::claims::{Claimed, ClaimedPort};
use engine_error::{Error, Result};

/// What a sandbox is to become, and what that takes.
#[derive(Debug)]
pub(crate) struct Change<'a> {
    /// The sandbox as it is to be.
    pub(crate) sandbox: Arc<Sandbox>,
    /// Its endpoints as they are to be, in order.
    pub(crate) endpoints: Vec<Arc<Endpoint>>,
    pub(super) transaction: Transaction,
    /// The sockets of its new host ports.
    pub(super) bound: Vec<ClaimedPort>,
    /// Addresses that the sandbox has no more.
    pub(super) left: Vec<IpAddr>,
    _gate: RwLockReadGuard<'a, ()>,
}

impl<'a> Change<'a> {
    pub(super) fn of(
        transaction: Transaction,
        claimed: Claimed,
        gate: RwLockReadGuard<'a, ()>,
    ) -> Result<Self> {
        let missing = || Error::new(Kind::Internal, "the change leaves no sandbox");
        let Live { sandbox, endpoints } =
            transaction.sandbox_after().cloned().ok_or_else(missing)?;
        let before = transaction.sandbox_before().map_or(&[][..], |live| &live.endpoints);
        let gone = before.iter().filter(|old| !endpoints.iter().any(|kept| kept.id == old.id));
        let left = gone.flat_map(|endpoint| &endpoint.addresses).map(ipnetwork::IpNetwork::ip);
        let left = left.collect();
        let bound = claimed.of(&sandbox);
        Ok(Self { sandbox, endpoints, transaction, bound, left, _gate: gate })
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
