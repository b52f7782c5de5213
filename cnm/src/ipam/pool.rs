//! One subnet: what is free in it, what is leased, and what can be leased anew.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnetwork::IpNetwork;

use super::range::{Ranges, address, number, span, usable};
use super::{Holder, Lease, Taken};
use crate::Pool;

/// The addresses of one subnet.
#[derive(Debug)]
pub(super) struct PoolAddresses {
    pub(super) pool: Pool,
    /// What may be handed out and nobody has or had.
    pub(super) free: Ranges,
    /// Where to look for the next free one.
    pub(super) cursor: u128,
    pub(super) leases: BTreeMap<u128, Lease>,
    pub(super) by_owner: BTreeMap<String, BTreeSet<u128>>,
    /// Released and not reserved, by time. The owner may have its address back.
    pub(super) resting: BTreeSet<(u64, u128)>,
    /// As `resting`, of owners who will not come back.
    pub(super) orphaned: BTreeSet<(u64, u128)>,
}

impl PoolAddresses {
    pub(super) fn new(pool: &Pool) -> Self {
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

    /// Has all leases of the same subnet as it was before, but for what the network has itself now.
    pub(super) fn take_over(&mut self, before: Self) {
        for (number, lease) in before.leases {
            if self.purpose(self.address(number)).is_none() {
                self.set(number, Some(lease));
            }
        }
        self.cursor = before.cursor;
    }

    pub(super) fn address(&self, number: u128) -> IpAddr {
        address(self.pool.subnet.ip(), number)
    }

    /// What an address is set aside for by the network itself.
    pub(super) fn purpose(&self, address: IpAddr) -> Option<String> {
        if self.pool.gateway == Some(address) {
            return Some("is its gateway".to_owned());
        }
        let mut auxiliary = self.pool.auxiliary.iter();
        let (name, _) = auxiliary.find(|(_, taken)| **taken == address)?;
        Some(format!("is its auxiliary address {name}"))
    }

    /// The address that the owner had or that is kept for it, if nobody uses it.
    pub(super) fn last_of(&self, owner: &str) -> Option<u128> {
        let mine = || {
            let numbers = self.by_owner.get(owner).into_iter().flatten();
            let leases = numbers.filter_map(|number| Some((*number, self.leases.get(number)?)));
            leases.filter(|(_, lease)| lease.released.is_some())
        };
        let kept = mine().find(|(_, lease)| lease.kept_for_whom().any(|whom| whom == owner));
        let had = || mine().filter(|(_, lease)| !lease.is_kept());
        let last = || had().max_by_key(|(number, lease)| (lease.released, *number));
        kept.or_else(last).map(|(number, _)| number)
    }

    /// The next one that nobody has or had, going round.
    pub(super) fn next_free(&mut self) -> Option<u128> {
        let number = self.free.next(self.cursor)?;
        self.cursor = number.saturating_add(1);
        Some(number)
    }

    /// The one that was released first, if that was not after `until`.
    pub(super) fn rested(&self, until: u64) -> Option<u128> {
        let dynamic = dynamic(&self.pool);
        let orphaned = self.orphaned.iter().find(|(_, number)| dynamic.contains(number));
        let oldest = [orphaned, self.resting.first()].into_iter().flatten().min();
        oldest.filter(|(released, _)| *released <= until).map(|(_, number)| *number)
    }

    /// Forgets leases of owners who will not come back, after their quarantine: two for each one
    /// that is handed out, so that they cannot become more and more.
    pub(super) fn prune(
        &mut self,
        now: u64,
        quarantine: u64,
    ) -> impl Iterator<Item = IpAddr> + use<> {
        let rested = now.saturating_sub(quarantine);
        let first = self.orphaned.iter().take(2).filter(|(released, _)| *released <= rested);
        let numbers: Vec<u128> = first.map(|(_, number)| *number).collect();
        for number in &numbers {
            self.set(*number, None);
        }
        let like = self.pool.subnet.ip();
        numbers.into_iter().map(move |number| address(like, number))
    }

    pub(super) fn take(&mut self, number: u128, holder: &Holder<'_>) -> Taken {
        let previous = self.leases.get(&number).cloned();
        let lease = Lease::in_use(holder.owner, holder.mac, previous.as_ref());
        self.set(number, Some(lease));
        Taken { address: with_prefix(self.address(number), self.pool.subnet), previous }
    }

    /// Puts a lease in the place of what was there: the one change of this type, which keeps all
    /// its parts in step.
    pub(super) fn set(&mut self, number: u128, lease: Option<Lease>) {
        if let Some(old) = self.leases.remove(&number) {
            for party in old.parties() {
                if let Some(numbers) = self.by_owner.get_mut(party) {
                    numbers.remove(&number);
                    if numbers.is_empty() {
                        self.by_owner.remove(party);
                    }
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
            Some(_) if lease.is_kept() => false,
            Some(released) if lease.owner.is_empty() => self.orphaned.insert((released, number)),
            Some(released) if dynamic(&self.pool).contains(&number) => {
                self.resting.insert((released, number))
            }
            _ => false,
        };
        for party in lease.parties() {
            self.by_owner.entry(party.clone()).or_default().insert(number);
        }
        self.leases.insert(number, lease);
    }
}

/// The addresses that are handed out where nobody wants a certain one.
fn dynamic(pool: &Pool) -> RangeInclusive<u128> {
    let (first, last) = usable(pool.subnet).into_inner();
    let Some(range) = pool.range else { return first..=last };
    let (from, to) = span(range).into_inner();
    first.max(from)..=last.min(to)
}

fn with_prefix(address: IpAddr, subnet: IpNetwork) -> IpNetwork {
    // A prefix length of the same family is always valid.
    IpNetwork::new(address, subnet.prefix()).unwrap_or_else(|_| address.into())
}
