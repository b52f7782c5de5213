//! The ranges of `ipam`, as the reference plugin `host-local` has them, as pools of the model.
//!
//! A pool hands out addresses of one block, and not those that are put aside. A range is the
//! smallest block around it, with what it does not reach put aside.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cnm::network::PoolSpec;
use ipnetwork::IpNetwork;
use serde::Deserialize;

use super::fields::Fields;
use crate::plan::PoolSettings;
use crate::result::Failure;

/// The most addresses that are put aside for one range.
const ASIDE_MAX: u128 = 4096;

/// A range as it is written.
#[derive(Clone, Debug, Deserialize)]
struct Range {
    subnet: IpNetwork,
    #[serde(rename = "rangeStart")]
    start: Option<IpAddr>,
    #[serde(rename = "rangeEnd")]
    end: Option<IpAddr>,
    gateway: Option<IpAddr>,
}

/// The pools that are asked for; none leaves the choice to rnet.
pub(super) fn pools(ipam: &Fields<'_>, runtime: &Fields<'_>) -> Result<Vec<PoolSettings>, Failure> {
    let mut sets: Vec<Vec<Range>> = Vec::new();
    if let Some(subnet) = ipam.get("subnet")? {
        sets.push(vec![Range {
            subnet,
            start: ipam.get("rangeStart")?,
            end: ipam.get("rangeEnd")?,
            gateway: ipam.get("gateway")?,
        }]);
    }
    sets.extend(ipam.get::<Vec<Vec<Range>>>("ranges")?.unwrap_or_default());
    sets.extend(runtime.get::<Vec<Vec<Range>>>("ipRanges")?.unwrap_or_default());
    let mut families = Vec::new();
    let mut pools = Vec::new();
    for set in sets.iter().filter(|set| !set.is_empty()) {
        let ipv6 = set[0].subnet.is_ipv6();
        if set.iter().any(|range| range.subnet.is_ipv6() != ipv6) {
            let msg = "ipam.ranges: a set has ranges of both families; give each its own set";
            return Err(Failure::invalid(msg));
        }
        if families.contains(&ipv6) {
            let msg = "ipam.ranges: there are two sets of one family, \
                       and an interface gets one address of each";
            return Err(Failure::invalid(msg));
        }
        families.push(ipv6);
        for range in set {
            pools.push(PoolSettings::try_from(range)?);
        }
    }
    Ok(pools)
}

impl TryFrom<&Range> for PoolSettings {
    type Error = Failure;

    fn try_from(range: &Range) -> Result<Self, Failure> {
        let Range { subnet, start, end, gateway } = range;
        let invalid = |why: String| Failure::invalid(format!("ipam: subnet {subnet}: {why}"));
        for (what, address) in [("rangeStart", start), ("rangeEnd", end), ("gateway", gateway)] {
            if let Some(address) = address.filter(|address| !subnet.contains(*address)) {
                return Err(invalid(format!("{what} {address} is not in it")));
            }
        }
        // The subnet's own address is nobody's, and the next one is the gateway's.
        let (first, last) = (number(subnet.network()) + 1, number(subnet.broadcast()));
        if first >= last {
            return Err(invalid("it has no room for a gateway and an endpoint".to_owned()));
        }
        let like = subnet.network();
        let start = start.map_or(first, number);
        let end = end.map_or(last, number);
        if start > end {
            return Err(invalid("rangeStart is behind rangeEnd".to_owned()));
        }
        let settings = Self {
            subnet: *subnet,
            gateway: gateway.unwrap_or_else(|| address(like, first)),
            start: address(like, start.max(first)),
            end: address(like, end),
        };
        if aside(&settings) > ASIDE_MAX {
            let (start, end) = (settings.start, settings.end);
            return Err(invalid(format!(
                "the range {start} to {end} is too far from a block of addresses: \
                 {} would have to be put aside, {ASIDE_MAX} can be; \
                 let it start or end at a power of two",
                aside(&settings)
            )));
        }
        Ok(settings)
    }
}

impl PoolSettings {
    /// The pool in the words of the model.
    pub(crate) fn spec(&self) -> PoolSpec {
        let (block, subnet) = (block(self), self.subnet);
        let (start, end) = (number(self.start), number(self.end));
        let outside = (number(block.network())..start).chain(end + 1..=number(block.broadcast()));
        let (own, broadcast) = (number(subnet.network()), number(subnet.broadcast()));
        let named = outside
            .filter(|n| *n != own && (subnet.is_ipv6() || *n != broadcast))
            .map(|n| address(self.start, n))
            .filter(|address| *address != self.gateway)
            .map(|address| (format!("outside-{address}"), address.to_string()));
        PoolSpec {
            subnet: Some(subnet.to_string()),
            range: Some(block).filter(|block| *block != subnet).map(|block| block.to_string()),
            gateway: Some(self.gateway.to_string()),
            auxiliary: named.collect::<BTreeMap<_, _>>(),
        }
    }
}

/// How many addresses of the block are outside the range.
fn aside(pool: &PoolSettings) -> u128 {
    let block = block(pool);
    let before = number(pool.start) - number(block.network());
    before + (number(block.broadcast()) - number(pool.end))
}

/// The smallest block around the range.
fn block(pool: &PoolSettings) -> IpNetwork {
    let width: u8 = if pool.subnet.is_ipv6() { 128 } else { 32 };
    let differing = 128 - (number(pool.start) ^ number(pool.end)).leading_zeros();
    let prefix = width.saturating_sub(u8::try_from(differing).unwrap_or(width));
    let prefix = prefix.max(pool.subnet.prefix());
    let whole = IpNetwork::new(pool.start, prefix).unwrap_or(pool.subnet);
    IpNetwork::new(whole.network(), prefix).unwrap_or(pool.subnet)
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

/// The address with a number, of the same family as another.
fn address(like: IpAddr, number: u128) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX)).into(),
        IpAddr::V6(_) => Ipv6Addr::from(number).into(),
    }
}
