//! Kept addresses, wherever a change that is under way may bring back what there was before.

use std::net::IpAddr;

use super::Controller;
use super::intent::lease_record;
use crate::NetworkId;
use crate::ipam::Lease;
use crate::store::Batch;

impl Controller {
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

    /// Forgets the owner wherever it would come back by an abort; tells of which addresses.
    pub(super) fn forget_in_open(&mut self, owner: &str) -> Batch {
        let mut batch = Batch::default();
        for previous in self.open.values_mut().flat_map(|open| &mut open.previous) {
            let Some(lease) = &mut previous.lease else { continue };
            let without = lease.without(owner);
            if *lease != without {
                *lease = without;
                batch.writes.push(lease_record(&previous.network, previous.address, Some(lease)));
            }
        }
        batch
    }
}
