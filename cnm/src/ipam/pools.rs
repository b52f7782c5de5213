//! Subnets for networks that nobody chose one for.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::range::{address, overlap, span, width};
use crate::controller::HostFacts;

/// Routes this wide are default routes in disguise: what VPNs set to catch all traffic without
/// touching the real one.
const DEFAULT_LIKE: u8 = 1;

/// The supernets that subnets are cut from, in order of preference.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Supply<'a> {
    /// A supernet, and the prefix length of the subnets cut from it.
    pub(crate) supernets: &'a [(IpNetwork, u8)],
    /// What must be avoided: first and last addresses of the family, overlapping or not, in any order.
    pub(crate) taken: &'a [(u128, u128)],
}

impl Supply<'_> {
    /// The first subnet of a family that overlaps nothing taken; of another size than the usual
    /// one if `prefix` is given.
    pub(crate) fn first_free(&self, ipv6: bool, prefix: Option<u8>) -> Option<IpNetwork> {
        let mut taken = self.taken.to_vec();
        taken.sort_unstable();
        let supernets = self.supernets.iter().filter(|(net, _)| net.is_ipv6() == ipv6);
        supernets.into_iter().find_map(|(supernet, usual)| {
            let prefix = prefix.unwrap_or(*usual);
            first_free(*supernet, prefix, &taken)
        })
    }
}

/// The first subnet of the supernet that overlaps none of the taken ones, which come in order.
fn first_free(supernet: IpNetwork, prefix: u8, taken: &[(u128, u128)]) -> Option<IpNetwork> {
    let width = width(supernet.is_ipv6());
    if prefix < supernet.prefix() || prefix > width {
        return None;
    }
    let (mut start, end) = span(supernet).into_inner();
    let last_offset =
        1_u128.checked_shl((width - prefix).into()).map_or(u128::MAX, |size| size - 1);
    for &(first, last) in taken {
        if first > start.checked_add(last_offset)? {
            break;
        }
        if last >= start {
            // The first multiple of the size after the taken one.
            start = (last | last_offset).checked_add(1)?;
        }
    }
    let fits = start <= end && start.checked_add(last_offset)? <= end;
    fits.then(|| IpNetwork::new(address(supernet.ip(), start), prefix).ok()).flatten()
}

/// The first subnet of a family, of supernets with the usual prefix lengths, that overlaps nothing
/// taken; of another size than the usual one if `prefix` is given.
pub fn free_subnet(
    supernets: &[(IpNetwork, u8)],
    taken: &[IpNetwork],
    ipv6: bool,
    prefix: Option<u8>,
) -> Option<IpNetwork> {
    let wide = |net: &&IpNetwork| net.prefix() > DEFAULT_LIKE && net.is_ipv6() == ipv6;
    let taken: Vec<_> = taken.iter().filter(wide).map(|net| span(*net).into_inner()).collect();
    Supply { supernets, taken: &taken }.first_free(ipv6, prefix)
}

/// What the host uses of a family: its routes and its resolvers.
pub(crate) fn taken_by_host(host: &HostFacts, ipv6: bool) -> impl Iterator<Item = (u128, u128)> {
    let routes = host.routes.iter().copied().filter(|route| route.prefix() > DEFAULT_LIKE);
    let resolvers = host.resolvers.iter().map(|resolver: &IpAddr| IpNetwork::from(*resolver));
    let all = routes.chain(resolvers).filter(move |taken| taken.is_ipv6() == ipv6);
    all.map(|taken| span(taken).into_inner())
}

/// What of the host's a subnet overlaps, as people would call it.
pub fn overlapped(subnet: IpNetwork, host: &HostFacts) -> Option<String> {
    let resolver = host.resolvers.iter().find(|resolver| subnet.contains(**resolver));
    let wide = |route: &&IpNetwork| route.prefix() > DEFAULT_LIKE;
    let route = || host.routes.iter().filter(wide).find(|route| overlap(**route, subnet));
    let resolver = resolver.map(|resolver| format!("this host's resolver {resolver}"));
    resolver.or_else(|| route().map(|route| format!("this host's route to {route}")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn spans(texts: &[&str], ipv6: bool) -> Vec<(u128, u128)> {
        let networks = texts.iter().map(|text| text.parse::<IpNetwork>().unwrap());
        let family = networks.filter(|network| network.is_ipv6() == ipv6);
        family.map(|network| span(network).into_inner()).collect()
    }

    fn check(supernets: &[(&str, u8)], taken: &[&str], prefix: Option<u8>, expected: Option<&str>) {
        let supernets: Vec<(IpNetwork, u8)> =
            supernets.iter().map(|(net, size)| (net.parse().unwrap(), *size)).collect();
        let ipv6 = supernets[0].0.is_ipv6();
        let supply = Supply { supernets: &supernets, taken: &spans(taken, ipv6) };
        let found = supply.first_free(ipv6, prefix).map(|net| net.to_string());
        assert_eq!(found.as_deref(), expected, "{supernets:?} without {taken:?}");
    }

    #[test]
    fn the_first_subnet_that_overlaps_nothing_is_taken() {
        let ten: &[(&str, u8)] = &[("10.0.0.0/8", 24)];
        check(ten, &[], None, Some("10.0.0.0/24"));
        check(ten, &["10.0.0.0/24"], None, Some("10.0.1.0/24"));
        check(ten, &["10.0.0.7/32", "10.0.1.0/25"], None, Some("10.0.2.0/24"));
        check(ten, &["10.0.1.0/24", "10.0.0.0/16", "10.0.3.0/24"], None, Some("10.1.0.0/24"));
        check(ten, &["10.0.1.0/24"], None, Some("10.0.0.0/24"));
        check(ten, &["fd00::/8", "192.168.0.0/16"], None, Some("10.0.0.0/24"));
        check(ten, &["10.0.0.0/8"], None, None);
        check(ten, &["0.0.0.0/2"], None, None);
    }

    #[test]
    fn another_size_is_cut_on_demand() {
        check(&[("10.0.0.0/8", 24)], &["10.0.0.0/24"], Some(16), Some("10.1.0.0/16"));
        check(&[("10.0.0.0/8", 24)], &[], Some(7), None);
        check(&[("10.0.0.0/24", 24), ("10.4.0.0/14", 24)], &[], Some(20), Some("10.4.0.0/20"));
        check(&[("fd00::/48", 64)], &["fd00::/64"], Some(80), Some("fd00:0:0:1::/80"));
    }

    #[test]
    fn the_next_supernet_serves_when_one_is_full() {
        let two: &[(&str, u8)] = &[("10.1.0.0/24", 25), ("10.9.0.0/16", 24)];
        check(two, &["10.1.0.0/25"], None, Some("10.1.0.128/25"));
        check(two, &["10.1.0.0/25", "10.1.0.200/32"], None, Some("10.9.0.0/24"));
    }

    #[test]
    fn the_end_of_the_address_space_is_no_obstacle() {
        check(&[("255.255.0.0/16", 16)], &["255.255.255.255/32"], None, None);
        check(&[("::/0", 1)], &["::1/128"], None, Some("8000::/1"));
        check(&[("::/0", 1)], &["::1/128", "ffff::/16"], None, None);
        check(&[("::/0", 0)], &[], None, Some("::/0"));
    }

    proptest! {
        #[test]
        fn the_found_subnet_is_free_and_the_first(
            taken in prop::collection::vec((any::<u16>(), 20..=32_u8), 0..40),
            prefix in 20..=28_u8,
        ) {
            let supernet: IpNetwork = "10.1.0.0/18".parse().unwrap();
            let network = |(low, prefix)| {
                let bits = (10 << 24) + (1 << 16) + u32::from(low);
                IpNetwork::new(std::net::Ipv4Addr::from_bits(bits).into(), prefix).unwrap()
            };
            let taken: Vec<_> = taken.into_iter().map(network).collect();
            let size = 1_u32 << (32 - prefix);
            let all = (0..(1_u32 << 14) / size).map(|i| (u16::try_from(i * size).unwrap(), prefix));
            let expected = all.map(network).find(|net| !taken.iter().any(|t| overlap(*t, *net)));
            let taken: Vec<_> = taken.into_iter().map(|net| span(net).into_inner()).collect();
            let supply = Supply { supernets: &[(supernet, prefix)], taken: &taken };
            prop_assert_eq!(supply.first_free(false, None), expected);
        }
    }
}
