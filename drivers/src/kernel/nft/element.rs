//! Between the model's elements and those of the kernel's sets.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cnm::{Element, LinkName, Mac, Protocol, Value};
use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};

use super::encoder::{Entry, Listed};
use super::guard::{GUARDED, HARDWARE, SOURCES4, SOURCES6};
use super::rule::interface;
use super::set::{Field, SetDefinition};
use super::skeleton::{
    APART, BRIDGES, GATEWAYS4, GATEWAYS6, INTERNAL, LOOPS, MASQUERADE4, MASQUERADE6, OPEN4, OPEN6,
    PASSAGES4, PASSAGES6, PUBLISHED4, PUBLISHED4_ANY, PUBLISHED6, PUBLISHED6_ANY, UNPROTECTED4,
    UNPROTECTED6,
};

/// What an element of the model is in the kernel. `None` if the value does not fit the key.
pub(super) fn entries(element: &Element, value: &Value) -> Option<Vec<Entry>> {
    let one = |set: &SetDefinition, key| {
        vec![Entry { family: set.family, set: set.name, key, data: None, end: None }]
    };
    let present = *value == Value::Present;
    match element {
        Element::Bridge { link } if present => {
            let name = interface(link.as_str());
            let pair = [name.as_slice(), &name].concat();
            Some([one(&BRIDGES, name), one(&LOOPS, pair)].concat())
        }
        Element::Internal { link } if present => Some(one(&INTERNAL, interface(link.as_str()))),
        Element::Gateway { address } if present => {
            let set = if address.is_ipv4() { &GATEWAYS4 } else { &GATEWAYS6 };
            Some(one(set, address_bytes(*address)))
        }
        Element::Unprotected { link, ipv6 } if present => {
            let set = if *ipv6 { &UNPROTECTED6 } else { &UNPROTECTED4 };
            Some(one(set, interface(link.as_str())))
        }
        Element::Masquerade { subnet } if present => Some(vec![range(*subnet)]),
        Element::Open { address, protocol, port } if present => {
            let set = if address.is_ipv4() { &OPEN4 } else { &OPEN6 };
            let key = [address_bytes(*address), protocol_and_port(*protocol, *port)].concat();
            Some(one(set, key))
        }
        Element::Apart { link } if present => {
            let name = interface(link.as_str());
            Some(one(&APART, [name.as_slice(), &name].concat()))
        }
        Element::Passage { from, to, protocol, port } if present => {
            let set = match (from, to) {
                (IpAddr::V4(_), IpAddr::V4(_)) => &PASSAGES4,
                (IpAddr::V6(_), IpAddr::V6(_)) => &PASSAGES6,
                _ => return None,
            };
            let ends = [address_bytes(*from), address_bytes(*to)].concat();
            Some(one(set, [ends, protocol_and_port(*protocol, *port)].concat()))
        }
        Element::Guarded { link, mac } if present => {
            let name = interface(link.as_str());
            let key = [name.as_slice(), &mac.octets(), &[0; 2]].concat();
            Some([one(&GUARDED, name), one(&HARDWARE, key)].concat())
        }
        Element::Source { link, address } if present => {
            let set = if address.is_ipv4() { &SOURCES4 } else { &SOURCES6 };
            Some(one(set, [interface(link.as_str()), address_bytes(*address)].concat()))
        }
        Element::Published { host, protocol, port } => {
            let Value::Target { address, port: target } = value else { return None };
            published(*host, *protocol, *port, (*address, *target))
        }
        _ => None,
    }
}

fn published(
    host: IpAddr,
    protocol: Protocol,
    port: u16,
    (address, target): (IpAddr, u16),
) -> Option<Vec<Entry>> {
    if host.is_ipv4() != address.is_ipv4() {
        return None;
    }
    let set = match (host, host.is_unspecified()) {
        (IpAddr::V4(_), true) => &PUBLISHED4_ANY,
        (IpAddr::V4(_), false) => &PUBLISHED4,
        (IpAddr::V6(_), true) => &PUBLISHED6_ANY,
        (IpAddr::V6(_), false) => &PUBLISHED6,
    };
    let mut key = if host.is_unspecified() { Vec::new() } else { address_bytes(host) };
    key.extend(protocol_and_port(protocol, port));
    let mut data = address_bytes(address);
    data.extend(port_bytes(target));
    Some(vec![Entry { family: set.family, set: set.name, key, data: Some(data), end: None }])
}

fn range(subnet: IpNetwork) -> Entry {
    let set = if subnet.is_ipv4() { &MASQUERADE4 } else { &MASQUERADE6 };
    let end = match subnet {
        IpNetwork::V4(net) => {
            net.broadcast().to_bits().checked_add(1).map(|next| next.to_be_bytes().to_vec())
        }
        IpNetwork::V6(net) => {
            net.broadcast().to_bits().checked_add(1).map(|next| next.to_be_bytes().to_vec())
        }
    };
    let key = address_bytes(subnet.network());
    Entry { family: set.family, set: set.name, key, data: None, end }
}

fn address_bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// Every field is filled up to whole words.
fn protocol_and_port(protocol: Protocol, port: u16) -> Vec<u8> {
    let mut bytes = vec![protocol.number(), 0, 0, 0];
    bytes.extend(port_bytes(port));
    bytes
}

fn port_bytes(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

/// The elements of the model that a listed set holds. What is not ours to understand is left out.
pub(super) fn decode(set: &SetDefinition, listed: &[Listed]) -> Vec<(Element, Value)> {
    if set.interval {
        let present = |subnet| (Element::Masquerade { subnet }, Value::Present);
        return subnets(listed).into_iter().map(present).collect();
    }
    listed.iter().filter_map(|(key, data, _)| decode_one(set, key, data.as_deref())).collect()
}

fn decode_one(set: &SetDefinition, key: &[u8], data: Option<&[u8]>) -> Option<(Element, Value)> {
    let link = || link_name(key);
    let ipv6 = set.key.contains(&Field::Ipv6) || set.data.contains(&Field::Ipv6);
    let address = |bytes: &mut &[u8]| take_address(bytes, ipv6);
    let mut rest = key;
    let present = |element| Some((element, Value::Present));
    match set.name {
        name if name == BRIDGES.name => present(Element::Bridge { link: link()? }),
        name if name == INTERNAL.name => present(Element::Internal { link: link()? }),
        name if name == GATEWAYS4.name || name == GATEWAYS6.name => {
            present(Element::Gateway { address: address(&mut rest)? })
        }
        name if name == UNPROTECTED4.name || name == UNPROTECTED6.name => {
            present(Element::Unprotected { link: link()?, ipv6: name == UNPROTECTED6.name })
        }
        name if name == OPEN4.name || name == OPEN6.name => {
            let address = address(&mut rest)?;
            let (protocol, port) = take_port(rest)?;
            present(Element::Open { address, protocol, port })
        }
        name if name == APART.name => present(Element::Apart { link: link()? }),
        name if name == PASSAGES4.name || name == PASSAGES6.name => {
            let (from, to) = (address(&mut rest)?, address(&mut rest)?);
            let (protocol, port) = take_port(rest)?;
            present(Element::Passage { from, to, protocol, port })
        }
        name if name == HARDWARE.name => {
            let mac = Mac::from(*key.get(libc::IFNAMSIZ..)?.first_chunk()?);
            present(Element::Guarded { link: link()?, mac })
        }
        name if name == SOURCES4.name || name == SOURCES6.name => {
            let address = take_address(&mut key.get(libc::IFNAMSIZ..)?, ipv6)?;
            present(Element::Source { link: link()?, address })
        }
        name if !set.data.is_empty() => {
            let host = if name == PUBLISHED4_ANY.name {
                Ipv4Addr::UNSPECIFIED.into()
            } else if name == PUBLISHED6_ANY.name {
                Ipv6Addr::UNSPECIFIED.into()
            } else {
                address(&mut rest)?
            };
            let (protocol, port) = take_port(rest)?;
            let mut target = data?;
            let address = address(&mut target)?;
            let target = u16::from_be_bytes(*target.first_chunk()?);
            let value = Value::Target { address, port: target };
            Some((Element::Published { host, protocol, port }, value))
        }
        _ => None,
    }
}

fn link_name(bytes: &[u8]) -> Option<LinkName> {
    str::from_utf8(bytes.split(|byte| *byte == 0).next()?).ok()?.parse().ok()
}

fn take_address(bytes: &mut &[u8], ipv6: bool) -> Option<IpAddr> {
    if ipv6 {
        let (head, rest) = bytes.split_first_chunk::<16>()?;
        *bytes = rest;
        return Some(Ipv6Addr::from(*head).into());
    }
    let (head, rest) = bytes.split_first_chunk::<4>()?;
    *bytes = rest;
    Some(Ipv4Addr::from(*head).into())
}

fn take_port(bytes: &[u8]) -> Option<(Protocol, u16)> {
    let [number, _, _, _, high, low, ..] = *bytes else { return None };
    let known = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
    let protocol = known.into_iter().find(|protocol| protocol.number() == number)?;
    Some((protocol, u16::from_be_bytes([high, low])))
}

/// The kernel lists the two ends of a range by themselves, the ends of neighbouring ranges being
/// the same key.
fn subnets(listed: &[Listed]) -> Vec<IpNetwork> {
    let mut ends = BTreeMap::<&[u8], (bool, bool)>::new();
    for (key, _, is_end) in listed {
        let entry = ends.entry(key).or_default();
        if *is_end { entry.1 = true } else { entry.0 = true }
    }
    let starts = ends.iter().filter(|(_, (start, _))| *start);
    starts
        .filter_map(|(key, _)| {
            use std::ops::Bound::{Excluded, Unbounded};
            let behind = ends.range::<[u8], _>((Excluded(*key), Unbounded));
            let end = behind.into_iter().find(|(_, (_, end))| *end).map(|(key, _)| *key);
            subnet(key, end)
        })
        .collect()
}

/// The subnet from `first` to right before `end`, if that is one.
fn subnet(first: &[u8], end: Option<&[u8]>) -> Option<IpNetwork> {
    if let Ok(first) = <[u8; 4]>::try_from(first) {
        let first = u32::from_be_bytes(first);
        let end = end.map_or(Some(0), |end| Some(u32::from_be_bytes(end.try_into().ok()?)))?;
        // The number of addresses; 0 stands for all of them.
        let prefix = prefix_length(u128::from(end.wrapping_sub(first)), 32)?;
        return Some(Ipv4Network::new(Ipv4Addr::from(first), prefix).ok()?.into());
    }
    let first = u128::from_be_bytes(first.try_into().ok()?);
    let end = end.map_or(Some(0), |end| Some(u128::from_be_bytes(end.try_into().ok()?)))?;
    let prefix = prefix_length(end.wrapping_sub(first), 128)?;
    Some(Ipv6Network::new(Ipv6Addr::from(first), prefix).ok()?.into())
}

fn prefix_length(addresses: u128, bits: u8) -> Option<u8> {
    match addresses {
        0 => Some(0),
        power if power.is_power_of_two() => bits.checked_sub(u8::try_from(power.ilog2()).ok()?),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
