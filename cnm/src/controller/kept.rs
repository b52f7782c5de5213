//! Kept addresses, wherever a change that is under way may bring back what there was before.

use std::net::IpAddr;

use super::Controller;
use super::intent::lease_record;
use super::load::leased;
use crate::NetworkId;
use crate::ipam::Lease;
use crate::store::Batch;

impl Controller {
    /// Whether an address is kept for an owner, used or not.
    pub fn keeps(&self, network: &NetworkId, address: IpAddr, owner: &str) -> bool {
        let lease = self.ipam.lease(network, address);
        lease.is_some_and(|lease| lease.reserved && lease.owner == owner)
    }

    /// Keeps an address, or does not keep it any more, after an abort as well.
    pub(super) fn keep_in_open(
        &mut self,
        network: &NetworkId,
        address: IpAddr,
        keep: impl Fn(Option<Lease>) -> Option<Lease>,
    ) {
        for previous in self.open.values_mut().flat_map(|open| &mut open.previous) {
            if previous.network == *network && previous.address == address {
                previous.lease = keep(previous.lease.take());
            }
        }
    }

    /// A record that could not be read was discarded: what was withheld because of it is free.
    pub fn discarded(&mut self, key: &str) {
        let Some((network, address)) = leased(key) else { return };
        let mut endpoints = self.sandboxes.values().flat_map(|live| &live.endpoints);
        let used = endpoints.any(|endpoint| {
            endpoint.network == network && endpoint.addresses.iter().any(|a| a.ip() == address)
        });
        self.ipam.give_out(&network, address, used);
    }

    /// Forgets the owner wherever it would come back by an abort; tells of which addresses.
    pub(super) fn forget_in_open(&mut self, owner: &str) -> Batch {
        let mut batch = Batch::default();
        let Self { open, ipam, .. } = self;
        for previous in open.values_mut().flat_map(|open| &mut open.previous) {
            let Some(lease) = &mut previous.lease else { continue };
            let without = lease.without(owner);
            if *lease != without {
                *lease = without;
                let (network, address) = (&previous.network, previous.address);
                batch.writes.extend(lease_record(ipam, network, address, Some(lease)));
            }
        }
        batch
    }
}
