//! Which addresses of a network are this host's, and who has them: a pure state machine.
//!
//! The host owns some in the cluster's store; whoever starts gets one of those, so nobody is asked.
//! One that was released is the last to be given to somebody else, and its last owner has it again
//! as long as nobody else does.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use cnm::Pool;
use cnm::ipam::IpamError;
use cnm::ipam::range::{address, number, span, usable};
use ipnetwork::IpNetwork;

use crate::record::{AddressRecord, read};
use crate::store::Revision;

/// How many addresses nobody has are this host's, where the pool is large enough.
pub(crate) const SPARES: usize = 12;

/// With fewer it gets more: whenever the store goes away, so many new endpoints are possible.
pub(crate) const LOW: usize = 9;

/// With more than this many it gives some back.
pub(crate) const HIGH: usize = 2 * SPARES;

/// How far apart hosts begin to look for addresses, so that they do not want the same ones.
const STRIDE: u128 = 32;

/// This host's addresses of one network.
#[derive(Clone, Debug)]
pub(crate) struct Addresses {
    name: String,
    pools: Vec<Pool>,
    number: u32,
    mine: BTreeMap<IpAddr, Mine>,
    /// Where to look for more, for IPv4 and IPv6.
    cursor: [Option<u128>; 2],
    /// When this host gave the last ones back: what was read before that may have them still.
    left: Revision,
}

/// An address that is this host's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mine {
    /// The record in the cluster's store, as it was last seen.
    pub(crate) record: Vec<u8>,
    /// When that was: what was read before says nothing of it.
    pub(crate) seen: Revision,
    pub(crate) holder: Holder,
    /// Somebody wished for just this one.
    pub(crate) wished: bool,
    /// Somebody had wished for it and does not any more: it is no spare, others may wish for it.
    pub(crate) spent: bool,
}

/// Who has an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Holder {
    /// Nobody, since a time; the last one who had it.
    Nobody { since: u64, last: Option<String> },
    /// Somebody; whether it was kept for them before.
    Used { owner: String, kept: bool },
    /// One who does not use it now, and will have it again.
    Kept { owner: String },
}

impl Holder {
    /// The one who has it or shall have it.
    pub(crate) fn owner(&self) -> Option<&str> {
        match self {
            Self::Nobody { .. } => None,
            Self::Used { owner, .. } | Self::Kept { owner } => Some(owner),
        }
    }
}

impl Addresses {
    pub(crate) fn new(name: &str, pools: &[Pool], number: u32) -> Self {
        let (name, pools) = (name.to_owned(), pools.to_vec());
        Self { name, pools, number, mine: BTreeMap::new(), cursor: [None, None], left: 0 }
    }

    pub(crate) fn mine(&self) -> &BTreeMap<IpAddr, Mine> {
        &self.mine
    }

    /// Whether something is known of an address that is newer than what the store had at a revision.
    pub(crate) fn knows_better(&self, address: IpAddr, at: Revision) -> bool {
        self.mine.get(&address).map_or(self.left, |mine| mine.seen) > at
    }

    /// Notes what the store had for an address of this host at a revision. Who has it is not changed
    /// where that is known already.
    pub(crate) fn own(
        &mut self,
        address: IpAddr,
        record: Vec<u8>,
        holder: Option<String>,
        at: Revision,
    ) {
        if self.knows_better(address, at) {
            return;
        }
        let holder = match holder {
            None => Holder::Nobody { since: 0, last: None },
            Some(owner) => Holder::Kept { owner },
        };
        let mine = self.mine.entry(address).or_insert_with(|| Mine::new(holder));
        mine.seen = at;
        mine.wished = read::<AddressRecord>(&record).ok().is_some_and(|record| record.wished);
        mine.record = record;
    }

    /// Somebody who lives here has an address, whether the store knows that or not.
    pub(crate) fn adopt(&mut self, address: IpAddr, owner: &str) {
        let holder = Holder::Used { owner: owner.to_owned(), kept: false };
        let mine = self.mine.entry(address).or_insert_with(|| Mine::new(holder.clone()));
        mine.holder = holder;
    }

    /// The store has no record of an address any more.
    pub(crate) fn unrecord(&mut self, address: IpAddr) {
        if let Some(mine) = self.mine.get_mut(&address) {
            mine.record = Vec::new();
        }
    }

    /// The address is not this host's any more.
    pub(crate) fn disown(&mut self, address: IpAddr) -> Option<Mine> {
        self.mine.remove(&address)
    }

    /// Notes when addresses were given back.
    pub(crate) fn have_left(&mut self, at: Revision) {
        self.left = self.left.max(at);
    }

    /// The store went back to an earlier state: its revisions begin anew.
    pub(crate) fn forget_revisions(&mut self) {
        self.left = 0;
        self.mine.values_mut().for_each(|mine| mine.seen = 0);
    }

    /// Whether this host has one that nobody uses, of the family or just that one.
    pub(crate) fn take(
        &mut self,
        owner: &str,
        ipv6: bool,
        wanted: Option<IpAddr>,
    ) -> Option<IpAddr> {
        let found = wanted.map_or_else(
            || self.choose(owner, ipv6),
            |wanted| self.mine.get(&wanted)?.is_for(owner).then_some(wanted),
        )?;
        self.hold(found, owner);
        Some(found)
    }

    /// Somebody has an address of this host from here on.
    pub(crate) fn hold(&mut self, address: IpAddr, owner: &str) {
        if let Some(mine) = self.mine.get_mut(&address) {
            let kept = match &mine.holder {
                Holder::Nobody { .. } => false,
                Holder::Used { kept, .. } => *kept,
                Holder::Kept { .. } => true,
            };
            mine.holder = Holder::Used { owner: owner.to_owned(), kept };
            mine.spent = false;
        }
    }

    /// What the owner has already, or had last; else the one that nobody used for the longest time.
    fn choose(&self, owner: &str, ipv6: bool) -> Option<IpAddr> {
        let family = || self.mine.iter().filter(|(address, _)| address.is_ipv6() == ipv6);
        let has = family().find(|(_, mine)| mine.holder.owner() == Some(owner));
        let had = || {
            family().find(|(_, mine)| match &mine.holder {
                Holder::Nobody { last, .. } => last.as_deref() == Some(owner),
                _ => false,
            })
        };
        let oldest = || {
            let unused = family().filter_map(|(address, mine)| match &mine.holder {
                Holder::Nobody { since, .. } if !mine.spent => Some((*since, *address)),
                _ => None,
            });
            unused.filter(|(_, address)| self.is_dynamic(*address)).min()
        };
        let known = has.or_else(had).map(|(address, _)| *address);
        known.or_else(|| oldest().map(|(_, address)| address))
    }

    /// A claim came to nothing: all is as before.
    pub(crate) fn unclaim(&mut self, address: IpAddr, now: u64) {
        self.release(address, None, now);
    }

    /// Nobody uses the address any more; whether its owner shall have it again (as before, if it
    /// is not said).
    pub(crate) fn release(&mut self, address: IpAddr, keep: Option<bool>, now: u64) {
        let Some(mine) = self.mine.get_mut(&address) else { return };
        let Holder::Used { owner, kept } = &mine.holder else { return };
        let owner = owner.clone();
        mine.spent = (*kept || mine.wished) && !keep.unwrap_or(*kept);
        mine.holder = if keep.unwrap_or(*kept) {
            Holder::Kept { owner }
        } else {
            Holder::Nobody { since: now, last: Some(owner) }
        };
    }

    /// An owner is gone for good: what was kept for it is not any more. Tells which addresses.
    pub(crate) fn forget(&mut self, gone: impl Fn(&str) -> bool, now: u64) -> Vec<IpAddr> {
        let mut freed = Vec::new();
        for (address, mine) in &mut self.mine {
            if let Holder::Kept { owner } = &mine.holder
                && gone(owner)
            {
                mine.holder = Holder::Nobody { since: now, last: None };
                mine.spent = true;
                freed.push(*address);
            }
        }
        freed
    }

    /// How many nobody has, of a family.
    pub(crate) fn spares(&self, ipv6: bool) -> usize {
        let unused =
            |(address, mine): &(&IpAddr, &Mine)| address.is_ipv6() == ipv6 && mine.is_spare();
        self.mine.iter().filter(unused).count()
    }

    /// How many spares the host may have, where so many hosts share the pools: a quarter of all
    /// addresses at most is set aside.
    pub(crate) fn share(&self, ipv6: bool, hosts: usize) -> usize {
        let all: u128 = self.ranges(ipv6).map(|(first, last)| last - first + 1).sum();
        let share = all / 4 / u128::try_from(hosts.max(1)).unwrap_or(1);
        usize::try_from(share).unwrap_or(SPARES).min(SPARES)
    }

    /// Up to so many addresses to ask the store for; those that are somebody's, as far as it is known.
    pub(crate) fn candidates(
        &mut self,
        ipv6: bool,
        count: usize,
        taken: &BTreeSet<IpAddr>,
    ) -> Vec<IpAddr> {
        let ranges: Vec<_> = self.ranges(ipv6).collect();
        let all: u128 = ranges.iter().map(|(first, last)| last - first + 1).sum();
        if all == 0 {
            return Vec::new();
        }
        let slot = usize::from(ipv6);
        let begin = u128::from(self.number.saturating_sub(1)).saturating_mul(STRIDE);
        // Not at the low end, where people wish for certain ones.
        let begin = (all / 2).saturating_add(begin);
        let mut position = self.cursor[slot].unwrap_or(begin) % all;
        let mut found = Vec::new();
        // Each of those that are known to be taken may be in the way once.
        let known = taken.len() + self.mine.len() + self.pools.len() * 8 + count;
        let tries = all.min(u128::try_from(known).unwrap_or(u128::MAX));
        for _ in 0..tries {
            if found.len() == count {
                break;
            }
            let candidate = self.at(&ranges, ipv6, position);
            position = (position + 1) % all;
            let free = |address: &IpAddr| {
                !taken.contains(address)
                    && !self.mine.contains_key(address)
                    && !self.is_fixed(*address)
            };
            found.extend(candidate.filter(free));
        }
        self.cursor[slot] = Some(position);
        found
    }

    fn at(&self, ranges: &[(u128, u128)], ipv6: bool, mut position: u128) -> Option<IpAddr> {
        let like = self.pools.iter().find(|pool| pool.subnet.is_ipv6() == ipv6)?.subnet.ip();
        for (first, last) in ranges {
            let size = last - first + 1;
            if position < size {
                return Some(address(like, first + position));
            }
            position -= size;
        }
        None
    }

    /// First and last of what is handed out, of each pool of a family.
    fn ranges(&self, ipv6: bool) -> impl Iterator<Item = (u128, u128)> {
        let pools = self.pools.iter().filter(move |pool| pool.subnet.is_ipv6() == ipv6);
        pools.map(|pool| {
            let (first, last) = usable(pool.subnet).into_inner();
            let (from, to) = span(pool.range.unwrap_or(pool.subnet)).into_inner();
            (first.max(from), last.min(to))
        })
    }

    fn is_dynamic(&self, address: IpAddr) -> bool {
        let place = number(address);
        self.ranges(address.is_ipv6()).any(|(first, last)| (first..=last).contains(&place))
    }

    fn is_fixed(&self, address: IpAddr) -> bool {
        self.pools.iter().any(|pool| {
            pool.gateway == Some(address) || pool.auxiliary.values().any(|fixed| *fixed == address)
        })
    }

    /// Those that somebody had wished for, and those that this host has too many of: the ones that
    /// nobody used for the longest time, and not since a time.
    pub(crate) fn surplus(&self, ipv6: bool, share: usize, until: u64) -> Vec<IpAddr> {
        let family = || self.mine.iter().filter(|(address, _)| address.is_ipv6() == ipv6);
        let spent = family().filter(|(_, mine)| mine.spent).map(|(address, _)| *address);
        let mut surplus: Vec<_> = spent.collect();
        let spares = self.spares(ipv6);
        if spares <= HIGH.min(2 * share) {
            return surplus;
        }
        let unused = family().filter_map(|(address, mine)| match &mine.holder {
            Holder::Nobody { since, .. } if *since <= until && !mine.spent => {
                Some((*since, *address))
            }
            _ => None,
        });
        let mut unused: Vec<_> = unused.collect();
        unused.sort_unstable();
        surplus.extend(unused.into_iter().map(|(_, address)| address).take(spares - share));
        surplus
    }

    /// Whether an address may be wanted at all.
    pub(crate) fn check(&self, wanted: IpAddr) -> Result<(), IpamError> {
        let Some(pool) = self.pools.iter().find(|pool| pool.subnet.contains(wanted)) else {
            return Err(IpamError::Outside {
                address: wanted,
                network: self.name.clone(),
                pools: self.listed(None),
            });
        };
        if !usable(pool.subnet).contains(&number(wanted)) {
            return Err(IpamError::Unusable { address: wanted, subnet: pool.subnet });
        }
        let auxiliary = pool.auxiliary.iter().find(|(_, fixed)| **fixed == wanted);
        if pool.gateway == Some(wanted) {
            return Err(self.taken(wanted, "is its gateway"));
        }
        auxiliary.map_or(Ok(()), |(name, _)| {
            Err(self.taken(wanted, &format!("is its auxiliary address {name}")))
        })
    }

    pub(crate) fn taken(&self, address: IpAddr, by: &str) -> IpamError {
        IpamError::Taken { address, network: self.name.clone(), by: by.to_owned() }
    }

    pub(crate) fn exhausted(&self, ipv6: bool) -> IpamError {
        IpamError::Exhausted { network: self.name.clone(), pools: self.listed(Some(ipv6)) }
    }

    fn listed(&self, ipv6: Option<bool>) -> String {
        let family = self.pools.iter().map(|pool| pool.subnet);
        let family = family.filter(|net| ipv6.is_none_or(|ipv6| net.is_ipv6() == ipv6));
        family.map(|net| net.to_string()).collect::<Vec<_>>().join(", ")
    }

    /// The address with the prefix length of its subnet.
    pub(crate) fn with_prefix(&self, address: IpAddr) -> IpNetwork {
        let pool = self.pools.iter().find(|pool| pool.subnet.contains(address));
        let prefix = pool.and_then(|pool| IpNetwork::new(address, pool.subnet.prefix()).ok());
        prefix.unwrap_or_else(|| address.into())
    }

    /// Which families it has addresses of.
    pub(crate) fn families(&self) -> impl Iterator<Item = bool> {
        let has = |ipv6: &bool| self.pools.iter().any(|pool| pool.subnet.is_ipv6() == *ipv6);
        [false, true].into_iter().filter(has)
    }
}

impl Mine {
    fn new(holder: Holder) -> Self {
        Self { record: Vec::new(), seen: 0, holder, wished: false, spent: false }
    }

    /// Who uses it.
    pub(crate) fn user(&self) -> Option<&str> {
        match &self.holder {
            Holder::Used { owner, .. } => Some(owner),
            Holder::Nobody { .. } | Holder::Kept { .. } => None,
        }
    }

    /// Whether anybody may have it.
    fn is_spare(&self) -> bool {
        matches!(self.holder, Holder::Nobody { .. }) && !self.spent
    }

    /// Whether somebody may have it.
    fn is_for(&self, owner: &str) -> bool {
        self.holder.owner().is_none_or(|other| other == owner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_before_a_change_and_is_heard_of_after_it_is_no_news() {
        let pool = Pool {
            subnet: "10.9.0.0/24".parse().unwrap(),
            range: None,
            gateway: None,
            auxiliary: BTreeMap::new(),
            automatic: false,
        };
        let mut all = Addresses::new("app", &[pool], 1);
        let [one, other] = [[10, 9, 0, 2], [10, 9, 0, 3]].map(IpAddr::from);
        all.own(one, b"new".to_vec(), Some("web".to_owned()), 7);
        all.own(one, b"old".to_vec(), None, 6);
        assert_eq!(all.mine()[&one].record, b"new");
        // One that was given back at 9 was this host's at 8.
        all.own(other, b"mine".to_vec(), None, 7);
        all.disown(other);
        all.have_left(9);
        all.own(other, b"mine".to_vec(), None, 8);
        assert!(!all.mine().contains_key(&other));
        all.own(other, b"again".to_vec(), None, 10);
        assert!(all.mine().contains_key(&other));
        all.forget_revisions();
        all.own(one, b"of another store".to_vec(), None, 2);
        assert_eq!(all.mine()[&one].record, b"of another store");
    }
}
