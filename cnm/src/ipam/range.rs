//! Addresses as numbers, and sets of them as ranges: one arithmetic for both families.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use ipnetwork::IpNetwork;

/// The address as a number.
pub fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

/// The address with this number, in the family of `like`.
pub fn address(like: IpAddr, number: u128) -> IpAddr {
    match like {
        IpAddr::V4(_) => {
            let [.., a, b, c, d] = number.to_be_bytes();
            Ipv4Addr::new(a, b, c, d).into()
        }
        IpAddr::V6(_) => Ipv6Addr::from_bits(number).into(),
    }
}

/// How many bits the addresses of the network's family have.
pub(crate) fn width(ipv6: bool) -> u8 {
    if ipv6 { 128 } else { 32 }
}

/// All addresses of the network, with the first and the last.
pub fn span(network: IpNetwork) -> RangeInclusive<u128> {
    number(network.network())..=number(network.broadcast())
}

/// Whether the two have an address in common.
pub fn overlap(a: IpNetwork, b: IpNetwork) -> bool {
    let (x, y) = (span(a), span(b));
    a.is_ipv6() == b.is_ipv6() && x.start() <= y.end() && y.start() <= x.end()
}

/// Whether all addresses of `inner` are in `outer`.
pub fn within(inner: IpNetwork, outer: IpNetwork) -> bool {
    inner.is_ipv6() == outer.is_ipv6()
        && outer.prefix() <= inner.prefix()
        && outer.contains(inner.network())
}

/// The addresses that may be handed out: not the one of the network itself (which is the
/// routers' anycast address in IPv6), not IPv4's broadcast address. The two of a point-to-point
/// subnet (RFC 3021, RFC 6164) and single addresses are all usable.
pub fn usable(subnet: IpNetwork) -> RangeInclusive<u128> {
    let (first, last) = span(subnet).into_inner();
    if subnet.prefix() + 1 >= width(subnet.is_ipv6()) {
        return first..=last;
    }
    first + 1..=if subnet.is_ipv6() { last } else { last - 1 }
}

/// A set of numbers, kept as disjoint ranges that do not touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ranges(BTreeMap<u128, u128>);

impl Ranges {
    /// All numbers of one range.
    pub(crate) fn of(range: &RangeInclusive<u128>) -> Self {
        if range.is_empty() {
            return Self::default();
        }
        Self(BTreeMap::from([(*range.start(), *range.end())]))
    }

    pub(crate) fn contains(&self, number: u128) -> bool {
        self.around(number).is_some()
    }

    /// The range that the number is in.
    fn around(&self, number: u128) -> Option<(u128, u128)> {
        let (start, end) = self.0.range(..=number).next_back()?;
        (*end >= number).then_some((*start, *end))
    }

    /// The smallest member that is at least `from`, or else the smallest of all.
    pub(crate) fn next(&self, from: u128) -> Option<u128> {
        if self.contains(from) {
            return Some(from);
        }
        let later = self.0.range(from..).next();
        later.or_else(|| self.0.first_key_value()).map(|(start, _)| *start)
    }

    /// Takes a number out; tells whether it was in.
    pub(crate) fn remove(&mut self, number: u128) -> bool {
        let Some((start, end)) = self.around(number) else { return false };
        self.0.remove(&start);
        if start < number {
            self.0.insert(start, number - 1);
        }
        if number < end {
            self.0.insert(number + 1, end);
        }
        true
    }

    /// Puts a number in.
    pub(crate) fn insert(&mut self, number: u128) {
        if self.contains(number) {
            return;
        }
        let (mut start, mut end) = (number, number);
        let below = number.checked_sub(1).and_then(|below| self.around(below));
        if let Some((first, _)) = below {
            start = first;
        }
        if let Some(last) = number.checked_add(1).and_then(|above| self.0.remove(&above)) {
            end = last;
        }
        self.0.insert(start, end);
    }
}

/// Ranges of numbers that are in use, those that touch put together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Spans(BTreeMap<u128, u128>);

impl Spans {
    /// Adds a range that none of them overlaps.
    pub(crate) fn insert(&mut self, first: u128, last: u128) {
        let (mut start, mut end) = (first, last);
        if let Some((below, up_to)) = self.0.range(..first).next_back()
            && up_to.checked_add(1) == Some(first)
        {
            start = *below;
        }
        if let Some(up_to) = last.checked_add(1).and_then(|above| self.0.remove(&above)) {
            end = up_to;
        }
        self.0.insert(start, end);
    }

    /// Takes out a range that is in.
    pub(crate) fn remove(&mut self, first: u128, last: u128) {
        let around = self.0.range(..=first).next_back().map(|(start, end)| (*start, *end));
        let Some((start, end)) = around.filter(|(_, end)| *end >= last) else { return };
        self.0.remove(&start);
        if start < first {
            self.0.insert(start, first - 1);
        }
        if last < end {
            self.0.insert(last + 1, end);
        }
    }

    /// All of them, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u128, u128)> {
        self.0.iter().map(|(start, end)| (*start, *end))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn network_and_broadcast_addresses_are_not_usable() {
        let check = |subnet: &str, first: &str, last: &str| {
            let subnet: IpNetwork = subnet.parse().unwrap();
            let (start, end) = usable(subnet).into_inner();
            let ends = [start, end].map(|n| address(subnet.ip(), n).to_string());
            assert_eq!(ends, [first, last]);
        };
        check("10.1.0.0/24", "10.1.0.1", "10.1.0.254");
        check("10.0.0.0/8", "10.0.0.1", "10.255.255.254");
        check("10.1.0.0/30", "10.1.0.1", "10.1.0.2");
        check("10.1.0.2/31", "10.1.0.2", "10.1.0.3");
        check("10.1.0.2/32", "10.1.0.2", "10.1.0.2");
        check("fd00::/64", "fd00::1", "fd00::ffff:ffff:ffff:ffff");
        check("fd00::2/127", "fd00::2", "fd00::3");
    }

    #[test]
    fn networks_of_different_families_never_overlap() {
        let (all4, all6) = ("0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap());
        assert!(!overlap(all4, all6) && !within(all4, all6));
        assert!(overlap(all4, "10.0.0.0/8".parse().unwrap()));
    }

    #[test]
    fn the_ends_of_the_number_space_are_ordinary_members() {
        let mut ranges = Ranges::of(&(0..=u128::MAX));
        for number in [0, u128::MAX] {
            assert!(ranges.remove(number) && !ranges.contains(number));
        }
        assert_eq!(ranges.next(u128::MAX), Some(1));
        ranges.insert(0);
        ranges.insert(u128::MAX);
        assert_eq!(ranges, Ranges::of(&(0..=u128::MAX)));
    }

    proptest! {
        #[test]
        fn spans_are_ranges_that_do_not_touch(steps in prop::collection::vec((any::<bool>(), 0..12_u128), 0..80)) {
            let mut spans = Spans::default();
            let mut blocks = BTreeSet::new();
            // Each of them has four numbers.
            for (insert, block) in steps {
                if insert && blocks.insert(block) {
                    spans.insert(block * 4, block * 4 + 3);
                } else if !insert && blocks.remove(&block) {
                    spans.remove(block * 4, block * 4 + 3);
                }
                let members = |(start, end): (u128, u128)| (start..=end).collect::<Vec<_>>();
                let all: Vec<_> = spans.iter().flat_map(members).collect();
                let expected = blocks.iter().flat_map(|block| (block * 4)..(block * 4 + 4));
                prop_assert_eq!(all, expected.collect::<Vec<_>>());
                let touching = spans.iter().zip(spans.iter().skip(1)).any(|((_, e), (s, _))| e + 1 >= s);
                prop_assert!(!touching);
            }
        }

        #[test]
        fn ranges_are_a_set(steps in prop::collection::vec((any::<bool>(), 0..40_u128), 0..200)) {
            let mut ranges = Ranges::of(&(10..=29));
            let mut set: BTreeSet<u128> = (10..=29).collect();
            for (insert, number) in steps {
                if insert {
                    ranges.insert(number);
                    set.insert(number);
                } else {
                    prop_assert_eq!(ranges.remove(number), set.remove(&number));
                }
                for probe in 0..=40 {
                    prop_assert_eq!(ranges.contains(probe), set.contains(&probe));
                    let next = set.range(probe..).next().or_else(|| set.first());
                    prop_assert_eq!(ranges.next(probe), next.copied());
                }
                let touching = ranges.0.iter().zip(ranges.0.keys().skip(1)).any(|((_, e), s)| e + 1 >= *s);
                prop_assert!(!touching);
            }
        }
    }
}
