//! Addresses that are withheld, because of records that cannot be read.
//!
//! Where the record of a lease cannot be read, nobody knows whose the address is: nobody gets it,
//! and the record is not written over, for it may be one of a later release. Where the record of an
//! endpoint cannot be read, it may still be in use: its address is for its owner only.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::{Ipam, Lease};
use crate::NetworkId;

/// Why nobody gets an address whose record cannot be read, as a clause about it.
const UNREAD: &str = "has a record that cannot be read (see `rnet system check`)";

/// What is withheld.
#[derive(Debug, Default)]
pub(super) struct Withheld {
    /// From everybody.
    unread: BTreeSet<(NetworkId, IpAddr)>,
    /// From everybody but the owners of the leases.
    lost: BTreeSet<(NetworkId, IpAddr)>,
}

impl Withheld {
    /// Why an owner cannot have an address that has this lease.
    pub(super) fn keeps(
        &self,
        network: &NetworkId,
        address: IpAddr,
        lease: &Lease,
        owner: &str,
    ) -> Option<String> {
        let key = &(network.clone(), address);
        if self.unread.contains(key) {
            return Some(UNREAD.to_owned());
        }
        let returns = lease.owner == owner && self.lost.contains(key);
        let used = lease.released.is_none() && !returns;
        used.then(|| format!("is used by {}", lease.holder()))
    }
}

impl Ipam {
    /// Gives an address to nobody: its record cannot be read.
    pub(crate) fn withhold(&mut self, network: &NetworkId, address: IpAddr) {
        let used = self.lease(network, address).is_some_and(|lease| lease.released.is_none());
        if !used {
            let nobodys = Lease::in_use("", None, None);
            self.restore(network, address, Some(nobodys));
        }
        self.withheld.unread.insert((network.clone(), address));
    }

    /// Gives an address to nobody but its owner: it was in use by what cannot be read.
    pub(crate) fn keep_lost(&mut self, network: &NetworkId, address: IpAddr) {
        let Some(lease) = self.lease(network, address).cloned() else { return };
        self.restore(network, address, Some(Lease { released: None, ..lease }));
        self.withheld.lost.insert((network.clone(), address));
    }

    /// Whether the record of an address cannot be read.
    pub(crate) fn is_unread(&self, network: &NetworkId, address: IpAddr) -> bool {
        !self.withheld.unread.is_empty()
            && self.withheld.unread.contains(&(network.clone(), address))
    }

    /// An address of a subnet whose record cannot be read.
    pub(crate) fn unread_in(&self, network: &NetworkId, subnet: IpNetwork) -> Option<IpAddr> {
        let mut unread = self.withheld.unread.iter();
        let found = unread.find(|(of, address)| of == network && subnet.contains(*address))?;
        Some(found.1)
    }

    /// The record of an address that could not be read is forgotten: it is given out again, unless
    /// somebody uses it.
    pub(crate) fn give_out(&mut self, network: &NetworkId, address: IpAddr, used: bool) {
        if self.withheld.unread.remove(&(network.clone(), address)) && !used {
            self.restore(network, address, None);
        }
    }

    /// The owner of an address has let it go itself.
    pub(super) fn found_again(&mut self, network: &NetworkId, address: IpAddr) {
        self.withheld.lost.remove(&(network.clone(), address));
    }

    /// Why an address cannot be kept for anybody.
    pub(super) fn unread(&self, network: &NetworkId, address: IpAddr) -> Option<String> {
        self.is_unread(network, address).then(|| UNREAD.to_owned())
    }
}
