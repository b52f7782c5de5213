//! Addresses: who has which, who had it, and who gets which next.
//!
//! A pool is never spelled out: what is free is a handful of ranges, whatever the size. An
//! address that was released stays with its last owner as long as nobody else needs it, and is
//! given to others only after all unused ones, the longest unused first. It rests in quarantine
//! before, so that nobody mistakes the new owner for the old one.

pub mod pools;
pub(crate) mod range;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use crate::{HasKind, Kind, Mac, Network, NetworkId, Pool};
use range::{Ranges, address, number, usable};

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
    #[error("Address already in use: {address} on network {network} {by}")]
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
    quarantine: u64,
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

#[derive(Debug)]
struct PoolAddresses {
    pool: Pool,
    /// What may be handed out and nobody has or had.
    free: Ranges,
    /// Where to look for the next free one.
    cursor: u128,
    leases: BTreeMap<u128, Lease>,
    by_owner: BTreeMap<String, BTreeSet<u128>>,
    /// Released and not reserved, by time. The owner may have its address back.
    resting: BTreeSet<(u64, u128)>,
    /// As `resting`, of owners who will not come back.
    orphaned: BTreeSet<(u64, u128)>,
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
            return Ok(Some(pools[at].take(number, holder)));
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
        let (name, pool) = self.wanted(network, wanted)?;
        let by = match pool.leases.get(&number(wanted)) {
            Some(lease) if lease.released.is_none() => format!("is used by {}", lease.holder()),
            Some(lease) if lease.reserved && lease.owner != holder.owner => {
                format!("is reserved for {}", lease.holder())
            }
            _ => return Ok(pool.take(number(wanted), holder)),
        };
        Err(IpamError::Taken { address: wanted, network: name, by })
    }

    /// Keeps an address for an owner, used or not.
    pub(crate) fn reserve(
        &mut self,
        network: &NetworkId,
        wanted: IpAddr,
        owner: &str,
    ) -> Result<(), IpamError> {
        let (name, pool) = self.wanted(network, wanted)?;
        let number = number(wanted);
        let mut lease = match pool.leases.get(&number) {
            Some(lease) if lease.owner == owner => lease.clone(),
            Some(lease) if lease.released.is_none() || lease.reserved => {
                let by = format!("is used by {}", lease.holder());
                return Err(IpamError::Taken { address: wanted, network: name, by });
            }
            _ => Lease { owner: owner.to_owned(), mac: None, released: Some(0), reserved: false },
        };
        lease.reserved = true;
        pool.set(number, Some(lease));
        Ok(())
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
    }

    /// What the lease of an address will be once it is released.
    pub(crate) fn released(&self, network: &NetworkId, address: IpAddr, now: u64) -> Option<Lease> {
        let lease = self.lease(network, address)?;
        Some(Lease { released: Some(now), ..lease.clone() })
    }

    /// Sets the lease of an address to what it was, or to none.
    pub(crate) fn restore(&mut self, network: &NetworkId, address: IpAddr, lease: Option<Lease>) {
        let pools = self.networks.get_mut(network).map(|addresses| &mut addresses.pools);
        let pool = pools.into_iter().flatten().find(|p| p.pool.subnet.contains(address));
        if let Some(pool) = pool {
            pool.set(number(address), lease);
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
            let idle = |lease: &&Lease| lease.released.is_some();
            numbers.iter().filter_map(|n| pool.leases.get(n)).filter(idle).find_map(|l| l.mac)
        })
    }

    /// Lets go of all that is kept for an owner; returns the addresses whose leases changed.
    pub(crate) fn forget(&mut self, owner: &str) -> Vec<(NetworkId, IpAddr)> {
        let mut changed = Vec::new();
        for (network, addresses) in &mut self.networks {
            for pool in &mut addresses.pools {
                let numbers = pool.by_owner.get(owner).cloned().unwrap_or_default();
                for number in numbers {
                    let lease = pool.leases.get(&number).map(Lease::orphaned);
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

    /// The lease of an owner who will not come back.
    pub(crate) fn orphaned(&self) -> Self {
        Self { owner: String::new(), reserved: false, ..self.clone() }
    }
}

impl PoolAddresses {
    fn new(pool: &Pool) -> Self {
        let mut free = Ranges::of(&dynamic(pool));
        let fixed = pool.gateway.iter().chain(pool.auxiliary.values());
        for address in fixed {
            free.remove(number(*address));
        }
        Self {
            free,
            cursor: 0,
            pool: pool.clone(),
            leases: BTreeMap::new(),
            by_owner: BTreeMap::new(),
            resting: BTreeSet::new(),
            orphaned: BTreeSet::new(),
        }
    }

    fn address(&self, number: u128) -> IpAddr {
        address(self.pool.subnet.ip(), number)
    }

    /// What an address is set aside for by the network itself.
    fn purpose(&self, address: IpAddr) -> Option<String> {
        if self.pool.gateway == Some(address) {
            return Some("is its gateway".to_owned());
        }
        let mut auxiliary = self.pool.auxiliary.iter();
        let (name, _) = auxiliary.find(|(_, taken)| **taken == address)?;
        Some(format!("is its auxiliary address {name}"))
    }

    /// The address that the owner had or that is kept for it, if nobody uses it.
    fn last_of(&self, owner: &str) -> Option<u128> {
        let idle = |number: &&u128| self.leases.get(number).is_some_and(|l| l.released.is_some());
        let mine = || self.by_owner.get(owner).into_iter().flatten().filter(idle);
        let kept = |number: &&u128| self.leases.get(number).is_some_and(|l| l.reserved);
        let last = |number: &&u128| self.leases.get(number).and_then(|l| l.released);
        mine().find(kept).or_else(|| mine().max_by_key(last)).copied()
    }

    /// The next one that nobody has or had, going round.
    fn next_free(&mut self) -> Option<u128> {
        let number = self.free.next(self.cursor)?;
        self.cursor = number.saturating_add(1);
        Some(number)
    }

    /// The one that was released first, if that was not after `until`.
    fn rested(&self, until: u64) -> Option<u128> {
        let dynamic = dynamic(&self.pool);
        let orphaned = self.orphaned.iter().find(|(_, number)| dynamic.contains(number));
        let oldest = [orphaned, self.resting.first()].into_iter().flatten().min();
        oldest.filter(|(released, _)| *released <= until).map(|(_, number)| *number)
    }

    /// Forgets leases of owners who will not come back, after their quarantine: two for each one
    /// that is handed out, so that they cannot become more and more.
    fn prune(&mut self, now: u64, quarantine: u64) -> impl Iterator<Item = IpAddr> + use<> {
        let rested = now.saturating_sub(quarantine);
        let first = self.orphaned.iter().take(2).filter(|(released, _)| *released <= rested);
        let numbers: Vec<u128> = first.map(|(_, number)| *number).collect();
        for number in &numbers {
            self.set(*number, None);
        }
        let like = self.pool.subnet.ip();
        numbers.into_iter().map(move |number| address(like, number))
    }

    fn take(&mut self, number: u128, holder: &Holder<'_>) -> Taken {
        let previous = self.leases.get(&number).cloned();
        let mine = previous.as_ref().filter(|lease| lease.owner == holder.owner);
        let lease = Lease {
            owner: holder.owner.to_owned(),
            mac: holder.mac,
            released: None,
            reserved: mine.is_some_and(|lease| lease.reserved),
        };
        self.set(number, Some(lease));
        Taken { address: with_prefix(self.address(number), self.pool.subnet), previous }
    }

    /// Puts a lease in the place of what was there: the one change of this type, which keeps all
    /// its parts in step.
    fn set(&mut self, number: u128, lease: Option<Lease>) {
        if let Some(old) = self.leases.remove(&number) {
            if let Some(numbers) = self.by_owner.get_mut(&old.owner) {
                numbers.remove(&number);
                if numbers.is_empty() {
                    self.by_owner.remove(&old.owner);
                }
            }
            if let Some(released) = old.released {
                self.resting.remove(&(released, number));
                self.orphaned.remove(&(released, number));
            }
        }
        let Some(lease) = lease else {
            if dynamic(&self.pool).contains(&number) {
                self.free.insert(number);
            }
            // The last one taken is given back: the next one gets it, as if nothing had been.
            if self.cursor == number.saturating_add(1) {
                self.cursor = number;
            }
            return;
        };
        self.free.remove(number);
        match lease.released {
            Some(released) if lease.owner.is_empty() => self.orphaned.insert((released, number)),
            Some(released) if !lease.reserved && dynamic(&self.pool).contains(&number) => {
                self.resting.insert((released, number))
            }
            _ => false,
        };
        if !lease.owner.is_empty() {
            self.by_owner.entry(lease.owner.clone()).or_default().insert(number);
        }
        self.leases.insert(number, lease);
    }
}

/// The first pool that has what is looked for.
fn first_of(
    pools: &mut [&mut PoolAddresses],
    mut choice: impl FnMut(&mut PoolAddresses) -> Option<u128>,
) -> Option<(usize, u128)> {
    pools.iter_mut().enumerate().find_map(|(at, pool)| Some((at, choice(pool)?)))
}

/// The addresses that are handed out where nobody wants a certain one.
fn dynamic(pool: &Pool) -> std::ops::RangeInclusive<u128> {
    let (first, last) = usable(pool.subnet).into_inner();
    let Some(range) = pool.range else { return first..=last };
    let (from, to) = range::span(range).into_inner();
    first.max(from)..=last.min(to)
}

fn with_prefix(address: IpAddr, subnet: IpNetwork) -> IpNetwork {
    // A prefix length of the same family is always valid.
    IpNetwork::new(address, subnet.prefix()).unwrap_or_else(|_| address.into())
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
