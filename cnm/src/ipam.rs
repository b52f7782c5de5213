//! Addresses: who has which, who had it, and who gets which next.
//!
//! A pool is never spelled out: what is free is a handful of ranges, whatever the size. An
//! address that was released stays with its last owner as long as nobody else needs it, and is
//! given to others only after all unused ones, the longest unused first. It rests in quarantine
//! before, so that nobody mistakes the new owner for the old one.

mod pool;
pub mod pools;
pub mod range;
mod withheld;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use crate::{HasKind, Kind, Mac, Network, NetworkId};
use pool::PoolAddresses;
use range::{number, usable};
use withheld::Withheld;

/// An address that somebody has, had, or has put aside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Who it belongs to; empty where its owner is gone for good.
    pub owner: String,
    /// The hardware address that the owner used with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
    /// When it was released, in nanoseconds since the Unix epoch; absent while it is in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub released: Option<u64>,
    /// Whether it is kept for its owner, used or not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reserved: bool,
    /// Whom else it is kept for. Whoever of them asks first while nobody uses it has it then.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub others: BTreeSet<String>,
}

/// An address that cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IpamError {
    /// All are in use or kept for somebody.
    #[error(
        "no free address in {pools} of network {network}: \
         all are in use; remove containers or create a network with a larger --subnet"
    )]
    Exhausted {
        /// The network's name.
        network: String,
        /// Its pools of the family.
        pools: String,
    },
    /// Wanted, and somebody else's.
    #[error("Address already in use: {address} on network {network} {by}; choose another")]
    Taken {
        /// The wanted address.
        address: IpAddr,
        /// The network's name.
        network: String,
        /// What it is used for or by whom.
        by: String,
    },
    /// Wanted, and in none of the network's subnets.
    #[error("no configured subnet contains IP address {address}: network {network} has {pools}")]
    Outside {
        /// The wanted address.
        address: IpAddr,
        /// The network's name.
        network: String,
        /// Its pools.
        pools: String,
    },
    /// Wanted, and the subnet's own or its broadcast address.
    #[error("{address} is not an address for an endpoint: it stands for the whole of {subnet}")]
    Unusable {
        /// The wanted address.
        address: IpAddr,
        /// The subnet.
        subnet: IpNetwork,
    },
}

impl HasKind for IpamError {
    fn kind(&self) -> Kind {
        match self {
            Self::Exhausted { .. } => Kind::Conflict,
            Self::Taken { .. } => Kind::Forbidden,
            Self::Outside { .. } | Self::Unusable { .. } => Kind::Invalid,
        }
    }
}

/// The addresses of all networks.
#[derive(Debug, Default)]
pub(crate) struct Ipam {
    networks: BTreeMap<NetworkId, Addresses>,
    /// The networks on which an owner has, had or keeps an address, and maybe some others.
    of_owner: BTreeMap<String, BTreeSet<NetworkId>>,
    quarantine: u64,
    withheld: Withheld,
    /// Leases that were forgotten and whose records are still in the store.
    garbage: BTreeSet<(NetworkId, IpAddr)>,
}

/// What was given to an owner, with the lease that it replaced.
#[derive(Clone, Debug)]
pub(crate) struct Taken {
    pub(crate) address: IpNetwork,
    pub(crate) previous: Option<Lease>,
}

/// The addresses of one network.
#[derive(Debug)]
struct Addresses {
    name: String,
    pools: Vec<PoolAddresses>,
}

impl Ipam {
    pub(crate) fn new(quarantine: u64) -> Self {
        Self { quarantine, ..Self::default() }
    }

    pub(crate) fn add_network(&mut self, network: &Network) {
        let pools = network.pools.iter().map(PoolAddresses::new).collect();
        let addresses = Addresses { name: network.name.clone(), pools };
        self.networks.insert(network.id.clone(), addresses);
    }

    /// A network has other pools than before, or other gateways in them.
    pub(crate) fn follow(&mut self, network: &Network) {
        let before = self.networks.remove(&network.id);
        self.add_network(network);
        let Some(addresses) = self.networks.get_mut(&network.id) else { return };
        for old in before.into_iter().flat_map(|before| before.pools) {
            let same = |new: &&mut PoolAddresses| new.pool.subnet == old.pool.subnet;
            if let Some(new) = addresses.pools.iter_mut().find(same) {
                new.take_over(old);
            }
        }
    }

    pub(crate) fn remove_network(&mut self, network: &NetworkId) {
        self.networks.remove(network);
    }

    /// The addresses of a network that have leases.
    pub(crate) fn leased(&self, network: &NetworkId) -> impl Iterator<Item = IpAddr> {
        let pools = self.networks.get(network).into_iter().flat_map(|addresses| &addresses.pools);
        pools.flat_map(|pool| pool.leases.keys().map(|number| pool.address(*number)))
    }

    /// Gives an owner an address of a family: the one it had if it still can be, or another.
    /// `None` if the network has no pool of the family.
    pub(crate) fn allocate(
        &mut self,
        network: &NetworkId,
        ipv6: bool,
        holder: &Holder<'_>,
    ) -> Result<Option<Taken>, IpamError> {
        let Some(addresses) = self.networks.get_mut(network) else { return Ok(None) };
        let mut pools: Vec<_> =
            addresses.pools.iter_mut().filter(|p| p.pool.subnet.is_ipv6() == ipv6).collect();
        if pools.is_empty() {
            return Ok(None);
        }
        for pool in &mut pools {
            let forgotten = pool.prune(holder.now, self.quarantine);
            self.garbage.extend(forgotten.map(|address| (network.clone(), address)));
        }
        let rested = holder.now.saturating_sub(self.quarantine);
        let found = first_of(&mut pools, |pool| pool.last_of(holder.owner))
            .or_else(|| first_of(&mut pools, PoolAddresses::next_free))
            .or_else(|| first_of(&mut pools, |pool| pool.rested(rested)))
            .or_else(|| first_of(&mut pools, |pool| pool.rested(u64::MAX)));
        if let Some((at, number)) = found {
            let taken = pools[at].take(number, holder);
            self.note(holder.owner, network);
            return Ok(Some(taken));
        }
        let pools = joined(pools.iter().map(|p| p.pool.range.unwrap_or(p.pool.subnet)));
        Err(IpamError::Exhausted { network: addresses.name.clone(), pools })
    }

    /// Gives an owner the address it wants.
    pub(crate) fn take(
        &mut self,
        network: &NetworkId,
        wanted: IpAddr,
        holder: &Holder<'_>,
    ) -> Result<Taken, IpamError> {
        let kept = self
            .lease(network, wanted)
            .and_then(|lease| self.withheld.keeps(network, wanted, lease, holder.owner));
        let (name, pool) = self.wanted(network, wanted)?;
        if let Some(by) = kept {
            return Err(IpamError::Taken { address: wanted, network: name, by });
        }
        // It may be kept for another, who does not use it: that is for those who take any.
        let taken = pool.take(number(wanted), holder);
        self.note(holder.owner, network);
        Ok(taken)
    }

    /// Keeps an address for an owner, used or not, by itself or by another.
    pub(crate) fn reserve(
        &mut self,
        network: &NetworkId,
        wanted: IpAddr,
        owner: &str,
    ) -> Result<(), IpamError> {
        let unread = self.unread(network, wanted);
        let (name, pool) = self.wanted(network, wanted)?;
        if let Some(by) = unread {
            return Err(IpamError::Taken { address: wanted, network: name, by });
        }
        let number = number(wanted);
        let lease = Lease::kept_for(owner, pool.leases.get(&number).cloned());
        pool.set(number, Some(lease));
        self.note(owner, network);
        Ok(())
    }

    /// Lets go of one reservation of an owner, whether the address is used or not. It is no error
    /// if there is none.
    pub(crate) fn release_reservation(
        &mut self,
        network: &NetworkId,
        address: IpAddr,
        owner: &str,
    ) {
        let Ok((_, pool)) = self.wanted(network, address) else { return };
        let number = number(address);
        let Some(lease) = pool.leases.get(&number).cloned() else { return };
        pool.set(number, Some(lease.not_kept_for(owner)));
    }

    /// The pool that a wanted address can be taken from, and the network's name.
    fn wanted(
        &mut self,
        network: &NetworkId,
        wanted: IpAddr,
    ) -> Result<(String, &mut PoolAddresses), IpamError> {
        let outside =
            |network: String, pools| IpamError::Outside { address: wanted, network, pools };
        let Some(addresses) = self.networks.get_mut(network) else {
            return Err(outside(network.short().to_owned(), "none".to_owned()));
        };
        let name = addresses.name.clone();
        let subnets = joined(addresses.pools.iter().map(|p| p.pool.subnet));
        let mut pools = addresses.pools.iter_mut();
        let Some(pool) = pools.find(|p| p.pool.subnet.contains(wanted)) else {
            return Err(outside(name, subnets));
        };
        let subnet = pool.pool.subnet;
        if !usable(subnet).contains(&number(wanted)) {
            return Err(IpamError::Unusable { address: wanted, subnet });
        }
        if let Some(by) = pool.purpose(wanted) {
            return Err(IpamError::Taken { address: wanted, network: name, by });
        }
        Ok((name, pool))
    }

    /// Ends the use of an address. Its owner may get it back later.
    pub(crate) fn release(&mut self, network: &NetworkId, address: IpAddr, now: u64) {
        if let Some(lease) = self.released(network, address, now) {
            self.restore(network, address, Some(lease));
        }
        self.found_again(network, address);
    }

    /// What the lease of an address will be once it is released.
    pub(crate) fn released(&self, network: &NetworkId, address: IpAddr, now: u64) -> Option<Lease> {
        let lease = self.lease(network, address)?;
        Some(Lease { released: Some(now), ..lease.clone() })
    }

    /// Sets the lease of an address to what it was, or to none. That of one whose record cannot be
    /// read stays.
    pub(crate) fn restore(&mut self, network: &NetworkId, address: IpAddr, lease: Option<Lease>) {
        if self.is_unread(network, address) {
            return;
        }
        let pools = self.networks.get_mut(network).map(|addresses| &mut addresses.pools);
        let pool = pools.into_iter().flatten().find(|p| p.pool.subnet.contains(address));
        let Some(pool) = pool else { return };
        let parties: Vec<_> = lease.iter().flat_map(Lease::parties).cloned().collect();
        pool.set(number(address), lease);
        for party in &parties {
            self.note(party, network);
        }
    }

    /// An owner has something on a network.
    fn note(&mut self, owner: &str, network: &NetworkId) {
        if !owner.is_empty() {
            self.of_owner.entry(owner.to_owned()).or_default().insert(network.clone());
        }
    }

    /// The lease of an address.
    pub(crate) fn lease(&self, network: &NetworkId, address: IpAddr) -> Option<&Lease> {
        let pools = &self.networks.get(network)?.pools;
        pools.iter().find(|p| p.pool.subnet.contains(address))?.leases.get(&number(address))
    }

    /// The hardware address that an owner had on a network.
    pub(crate) fn mac(&self, network: &NetworkId, owner: &str) -> Option<Mac> {
        let pools = &self.networks.get(network)?.pools;
        pools.iter().find_map(|pool| {
            let numbers = pool.by_owner.get(owner)?;
            let idle = |lease: &&Lease| lease.owner == owner && lease.released.is_some();
            numbers.iter().filter_map(|n| pool.leases.get(n)).filter(idle).find_map(|l| l.mac)
        })
    }

    /// Lets go of all that is kept for an owner; returns the addresses whose leases changed.
    pub(crate) fn forget(&mut self, owner: &str) -> Vec<(NetworkId, IpAddr)> {
        let mut changed = Vec::new();
        for network in self.of_owner.remove(owner).unwrap_or_default() {
            let pools = self.networks.get_mut(&network).map(|addresses| &mut addresses.pools);
            for pool in pools.into_iter().flatten() {
                let numbers = pool.by_owner.get(owner).cloned().unwrap_or_default();
                for number in numbers {
                    let lease = pool.leases.get(&number).map(|lease| lease.without(owner));
                    pool.set(number, lease);
                    changed.push((network.clone(), pool.address(number)));
                }
            }
        }
        changed
    }

    /// The addresses whose records can be deleted. Those that somebody has again wait: if it is
    /// for good, their records are in their place.
    pub(crate) fn take_garbage(&mut self) -> BTreeSet<(NetworkId, IpAddr)> {
        let garbage = std::mem::take(&mut self.garbage);
        let leased = |(network, address): &(_, _)| self.lease(network, *address).is_some();
        let (waiting, gone) = garbage.into_iter().partition(leased);
        self.garbage = waiting;
        gone
    }

    #[cfg(test)]
    pub(crate) fn garbage(&self) -> &BTreeSet<(NetworkId, IpAddr)> {
        &self.garbage
    }

    #[cfg(test)]
    pub(crate) fn leases(&self) -> BTreeMap<(NetworkId, IpAddr), Lease> {
        let of_pool = |network: &NetworkId, pool: &PoolAddresses| {
            let leases = pool.leases.iter();
            let lease = |(n, l): (&u128, &Lease)| ((network.clone(), pool.address(*n)), l.clone());
            leases.map(lease).collect::<Vec<_>>()
        };
        let all = self.networks.iter();
        all.flat_map(|(id, a)| a.pools.iter().flat_map(move |p| of_pool(id, p))).collect()
    }
}

/// Who takes an address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Holder<'a> {
    pub(crate) owner: &'a str,
    pub(crate) mac: Option<Mac>,
    pub(crate) now: u64,
}

impl Lease {
    /// Who has it, for people.
    fn holder(&self) -> &str {
        if self.owner.is_empty() { "another sandbox" } else { short(&self.owner) }
    }

    /// The lease of one who takes an address into use.
    pub(crate) fn in_use(owner: &str, mac: Option<Mac>, previous: Option<&Self>) -> Self {
        let mut others: BTreeSet<_> = previous.into_iter().flat_map(Self::kept_for_whom).collect();
        let reserved = others.remove(owner);
        let others = others.into_iter().map(str::to_owned).collect();
        Self { owner: owner.to_owned(), mac, released: None, reserved, others }
    }

    /// The lease of an address that is kept for one more owner.
    pub(crate) fn kept_for(owner: &str, previous: Option<Self>) -> Self {
        match previous {
            Some(mut lease) if lease.owner == owner => {
                lease.reserved = true;
                lease
            }
            Some(mut lease) if lease.released.is_none() || lease.is_kept() => {
                lease.others.insert(owner.to_owned());
                lease
            }
            // Whoever had it last has no right to it.
            _ => Self {
                owner: owner.to_owned(),
                mac: None,
                released: Some(0),
                reserved: true,
                others: BTreeSet::new(),
            },
        }
    }

    /// The lease of an address that is kept for one owner less.
    pub(crate) fn not_kept_for(mut self, owner: &str) -> Self {
        self.reserved &= self.owner != owner;
        self.others.remove(owner);
        self
    }

    /// Whether it is given to those only who ask for it.
    pub(crate) fn is_kept(&self) -> bool {
        self.reserved || !self.others.is_empty()
    }

    /// Whom it is kept for.
    fn kept_for_whom(&self) -> impl Iterator<Item = &str> {
        let owner = self.reserved.then_some(self.owner.as_str());
        owner.into_iter().chain(self.others.iter().map(String::as_str))
    }

    /// Everybody who has a part in it.
    fn parties(&self) -> impl Iterator<Item = &String> {
        let owner = (!self.owner.is_empty()).then_some(&self.owner);
        owner.into_iter().chain(&self.others)
    }

    /// The lease when an owner will not come back.
    pub(crate) fn without(&self, owner: &str) -> Self {
        let lease = self.clone().not_kept_for(owner);
        if lease.owner == owner { Self { owner: String::new(), ..lease } } else { lease }
    }
}

/// The first pool that has what is looked for.
fn first_of(
    pools: &mut [&mut PoolAddresses],
    mut choice: impl FnMut(&mut PoolAddresses) -> Option<u128>,
) -> Option<(usize, u128)> {
    pools.iter_mut().enumerate().find_map(|(at, pool)| Some((at, choice(pool)?)))
}

fn joined(networks: impl Iterator<Item = IpNetwork>) -> String {
    let texts: Vec<String> = networks.map(|network| network.to_string()).collect();
    if texts.is_empty() { "none".to_owned() } else { texts.join(" and ") }
}

/// An owner as people know it: container ids are cut to 12 digits.
pub(crate) fn short(owner: &str) -> &str {
    let id = owner.len() == 64 && owner.bytes().all(|byte| byte.is_ascii_hexdigit());
    if id { &owner[..12] } else { owner }
}

#[cfg(test)]
mod tests;
