//! Subnets as users write them: parsed, checked, and made into pools.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::ControllerError;
use crate::driver::{HOST_ADDRESS, Reach};
use crate::ipam::range::{address, number, span, usable, within};
use crate::network::PoolSpec;
use crate::{Network, Pool};

/// A wanted subnet.
#[derive(Clone, Copy, Debug)]
pub(super) enum Subnet {
    This(IpNetwork),
    /// Any free one.
    Any {
        ipv6: bool,
        prefix: Option<u8>,
    },
}

impl Subnet {
    pub(super) fn parse(spec: &PoolSpec) -> Result<Self, ControllerError> {
        let Some(text) = &spec.subnet else {
            let other = spec.range.as_ref().or(spec.gateway.as_ref());
            if other.is_some() || !spec.auxiliary.is_empty() {
                return Err(ControllerError::invalid(
                    "an --ip-range, --gateway or --aux-address needs a --subnet that contains it",
                ));
            }
            return Ok(Self::Any { ipv6: false, prefix: None });
        };
        let subnet = parse_network("subnet", text)?;
        if subnet.ip().is_unspecified() && subnet.prefix() > 0 {
            return Ok(Self::Any { ipv6: subnet.is_ipv6(), prefix: Some(subnet.prefix()) });
        }
        let (first, last) = usable(subnet).into_inner();
        let invalid = |why| Err(ControllerError::invalid(format!("invalid subnet {text}: {why}")));
        match subnet.ip() {
            _ if subnet.prefix() == 0 => invalid("it is the whole address space"),
            ip if ip.is_loopback() => invalid("these are loopback addresses"),
            ip if ip.is_multicast() => invalid("these are multicast addresses"),
            _ if first == last => invalid("it has no room for a gateway and an endpoint"),
            _ => Ok(Self::This(subnet)),
        }
    }

    pub(super) fn is_ipv6(self) -> bool {
        match self {
            Self::This(subnet) => subnet.is_ipv6(),
            Self::Any { ipv6, .. } => ipv6,
        }
    }
}

/// A subnet or range, which must be written without host bits.
fn parse_network(what: &str, text: &str) -> Result<IpNetwork, ControllerError> {
    let bad = |why: String| ControllerError::invalid(format!("invalid {what} {text}: {why}"));
    let parsed = text.parse().ok().filter(|_| text.contains('/'));
    let network: IpNetwork = parsed.ok_or_else(|| {
        bad("an address and a prefix length are expected, such as 10.1.0.0/24".to_owned())
    })?;
    if network.ip() != network.network() {
        let proper = format!("{}/{}", network.network(), network.prefix());
        return Err(bad(format!("it should be {proper}")));
    }
    Ok(network)
}

fn parse_address(what: &str, text: &str) -> Result<IpAddr, ControllerError> {
    let error = |_| ControllerError::invalid(format!("invalid {what} {text}: it is no IP address"));
    text.parse().map_err(error)
}

pub(super) fn disabled(spec: &PoolSpec) -> ControllerError {
    let subnet = spec.subnet.as_deref().unwrap_or_default();
    let family = if subnet.contains(':') { "IPv6" } else { "IPv4" };
    ControllerError::invalid(format!(
        "invalid subnet {subnet}: {family} is disabled for this network; enable it or leave the subnet out"
    ))
}

/// One pool as asked for, checked.
pub(super) fn pool(
    network: &Network,
    subnet: IpNetwork,
    spec: &PoolSpec,
) -> Result<Pool, ControllerError> {
    let range = spec.range.as_deref().map(|text| parse_range(text, subnet)).transpose()?;
    let mut auxiliary = BTreeMap::new();
    for (name, text) in &spec.auxiliary {
        let address = member("auxiliary address", text, subnet)?;
        if let Some((other, _)) = auxiliary.iter().find(|(_, taken)| **taken == address) {
            let message = format!("auxiliary addresses {other} and {name} are both {address}");
            return Err(ControllerError::invalid(message));
        }
        auxiliary.insert(name.clone(), address);
    }
    let gateway = match &spec.gateway {
        Some(text) => Some(member("gateway", text, subnet)?),
        None if without_gateway(network, subnet) => None,
        None => Some(first_address(subnet, range, &auxiliary)?),
    };
    if let Some((name, address)) = auxiliary.iter().find(|(_, taken)| Some(**taken) == gateway) {
        let message = format!("auxiliary address {name} is {address}, which is the gateway");
        return Err(ControllerError::invalid(message));
    }
    let mut pool = Pool { subnet, range, gateway, auxiliary, automatic: spec.subnet.is_none() };
    if network.driver.host_joins(network) && !pool.auxiliary.contains_key(HOST_ADDRESS) {
        let address = last_address(&pool)?;
        pool.auxiliary.insert(HOST_ADDRESS.to_owned(), address);
    }
    Ok(pool)
}

fn parse_range(text: &str, subnet: IpNetwork) -> Result<IpNetwork, ControllerError> {
    let range = parse_network("ip-range", text)?;
    if within(range, subnet) {
        return Ok(range);
    }
    Err(ControllerError::invalid(format!(
        "invalid ip-range {text}: parent subnet {subnet} doesn't contain it"
    )))
}

/// An address that must be one of the subnet's usable ones.
fn member(what: &str, text: &str, subnet: IpNetwork) -> Result<IpAddr, ControllerError> {
    let address = parse_address(what, text)?;
    let refuse = |why| ControllerError::invalid(format!("invalid {what} {text}: {why}"));
    if !subnet.contains(address) {
        return Err(refuse(format!("parent subnet {subnet} doesn't contain it")));
    }
    if !usable(subnet).contains(&number(address)) {
        return Err(refuse(format!("it stands for the whole of subnet {subnet}")));
    }
    Ok(address)
}

/// Nobody leads out of an isolated network, not even the host; and who leads out of one that others
/// are on as well is for its user to say.
fn without_gateway(network: &Network, subnet: IpNetwork) -> bool {
    let reach = network.profile().reach(subnet.is_ipv6());
    matches!(reach, Reach::Closed | Reach::Attached | Reach::OnLink)
}

/// The address of the host on a network of others: the last one that endpoints could have, for the
/// first ones are routers more often.
fn last_address(pool: &Pool) -> Result<IpAddr, ControllerError> {
    let (first, last) = usable(pool.subnet).into_inner();
    let within = pool.range.unwrap_or(pool.subnet);
    let (from, to) = span(within).into_inner();
    let taken = |n: &u128| {
        let mut taken = pool.auxiliary.values().chain(&pool.gateway);
        taken.any(|taken| number(*taken) == *n)
    };
    let found = (first.max(from)..=last.min(to)).rev().find(|number| !taken(number));
    found.map(|number| address(pool.subnet.ip(), number)).ok_or_else(|| {
        ControllerError::invalid(format!("no address of {within} is left for the host"))
    })
}

fn first_address(
    subnet: IpNetwork,
    range: Option<IpNetwork>,
    auxiliary: &BTreeMap<String, IpAddr>,
) -> Result<IpAddr, ControllerError> {
    let (first, last) = usable(subnet).into_inner();
    let (from, to) = span(range.unwrap_or(subnet)).into_inner();
    let mut numbers = first.max(from)..=last.min(to);
    let free = |n: &u128| !auxiliary.values().any(|taken| number(*taken) == *n);
    let found = numbers.find(free).map(|number| address(subnet.ip(), number));
    found.ok_or_else(|| {
        let where_ = range.unwrap_or(subnet);
        ControllerError::invalid(format!("no address of {where_} is left for the gateway"))
    })
}
