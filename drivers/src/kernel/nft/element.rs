//! Between the model's elements and those of the kernel's sets.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cnm::{Element, LinkName, Mac, Protocol, Value};
use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};

use super::encoder::{End, Entry, Listed};
use super::guard::{GUARDED, HARDWARE, SOURCES4, SOURCES6};
use super::rule::interface;
use super::set::{Field, Holds, SetDefinition, usual_prefix};
use super::sets::{
    APART, BEHIND4, BEHIND6, BRIDGES, CLOSED_LOOPS, CLOSED4, CLOSED6, DIRECT4, DIRECT6, ENCRYPTED,
    ENCRYPTING, ENDS, GATEWAYS4, GATEWAYS6, INTERNAL, LOOPS, MASQUERADE4, MASQUERADE4_24,
    MASQUERADE6, MASQUERADE6_64, OPEN4, OPEN6, OUTBOUND4, OUTBOUND4_24, OUTBOUND6, OUTBOUND6_64,
    PASSAGES4, PASSAGES6, PUBLISHED4, PUBLISHED4_ANY, PUBLISHED6, PUBLISHED6_ANY, RANGES4, RANGES6,
    TOGETHER4, TOGETHER4_24, TOGETHER6, TOGETHER6_64, TRUSTED, TUNNEL_SOURCES4, TUNNEL_SOURCES6,
    TUNNELS, UNPROTECTED4, UNPROTECTED6,
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
        Element::Masquerade { subnet } if present => {
            let four = (&MASQUERADE4_24, &MASQUERADE4);
            let sets = if subnet.is_ipv4() { four } else { (&MASQUERADE6_64, &MASQUERADE6) };
            Some(vec![in_one_of(sets, *subnet, None)])
        }
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
        _ => others(element, value),
    }
}

/// The same of elements that have come since.
fn others(element: &Element, value: &Value) -> Option<Vec<Entry>> {
    let target = |value: &Value| match value {
        Value::Target { address, port } => Some((*address, *port)),
        _ => None,
    };
    match element {
        Element::Outbound { subnet } => {
            let Value::Source { address } = value else { return None };
            let four = (&OUTBOUND4_24, &OUTBOUND4);
            let sets = if subnet.is_ipv4() { four } else { (&OUTBOUND6_64, &OUTBOUND6) };
            let fits = subnet.is_ipv4() == address.is_ipv4();
            fits.then(|| vec![in_one_of(sets, *subnet, Some(address_bytes(*address)))])
        }
        Element::PublishedRange { host, protocol, first, last } => {
            let (address, port) = target(value)?;
            let fits = port == *first && first <= last && host.is_ipv4() == address.is_ipv4();
            fits.then(|| vec![published_range(*host, *protocol, (*first, *last), address)])
        }
        _ if *value == Value::Present => one_more(element),
        _ => None,
    }
}

/// Those of them that are there or not.
fn one_more(element: &Element) -> Option<Vec<Entry>> {
    let one = |set: &SetDefinition, key| {
        vec![Entry { family: set.family, set: set.name, key, data: None, end: None }]
    };
    match element {
        Element::Trusted { from, to } => {
            let [from, to] = [from, to].map(|link| interface(link.as_str()));
            Some(one(&TRUSTED, [from, to].concat()))
        }
        Element::Direct { address, protocol, port } => {
            let set = if address.is_ipv4() { &DIRECT4 } else { &DIRECT6 };
            let key = [address_bytes(*address), protocol_and_port(*protocol, *port)].concat();
            Some(one(set, key))
        }
        Element::End { link } => Some(one(&ENDS, interface(link.as_str()))),
        Element::Behind { link, address } => {
            let set = if address.is_ipv4() { &BEHIND4 } else { &BEHIND6 };
            Some(one(set, [interface(link.as_str()), address_bytes(*address)].concat()))
        }
        Element::Together { from, to } if from.is_ipv4() == to.is_ipv4() => {
            Some(vec![together(*from, *to)])
        }
        Element::Tunnel { port, vni } => Some(one(&TUNNELS, tunnel(*port, *vni)?)),
        Element::Encrypting { link } => Some(one(&ENCRYPTING, interface(link.as_str()))),
        Element::Encrypted { port, vni } => Some(one(&ENCRYPTED, tunnel(*port, *vni)?)),
        Element::TunnelSource { address } => {
            let set = if address.is_ipv4() { &TUNNEL_SOURCES4 } else { &TUNNEL_SOURCES6 };
            Some(one(set, address_bytes(*address)))
        }
        _ => None,
    }
}

/// The number is read from a packet with the byte that follows it, which is 0.
fn tunnel(port: u16, vni: u32) -> Option<Vec<u8>> {
    let vni = vni.checked_mul(1 << 8)?.to_be_bytes();
    Some([port_bytes(port), vni].concat())
}

/// A link that nothing is forwarded to from others like it.
pub(super) fn closed((ipv6, link): &(bool, LinkName)) -> [Entry; 2] {
    let name = interface(link.as_str());
    let pair = [name.as_slice(), &name].concat();
    let entry = |set: &SetDefinition, key| Entry {
        family: set.family,
        set: set.name,
        key,
        data: None,
        end: None,
    };
    [entry(if *ipv6 { &CLOSED6 } else { &CLOSED4 }, name), entry(&CLOSED_LOOPS, pair)]
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

fn published_range(
    host: IpAddr,
    protocol: Protocol,
    (first, last): (u16, u16),
    address: IpAddr,
) -> Entry {
    let set = if host.is_ipv4() { &RANGES4 } else { &RANGES6 };
    let key = |host: Vec<u8>, port| [host, protocol_and_port(protocol, port)].concat();
    let beginning = address_bytes(host);
    let all = vec![u8::MAX; beginning.len()];
    let end = key(if host.is_unspecified() { all } else { beginning.clone() }, last);
    Entry {
        family: set.family,
        set: set.name,
        key: key(beginning, first),
        data: Some(address_bytes(address)),
        end: Some(End::With(end)),
    }
}

/// Each field has a range of its own, from the first address of a subnet to its last.
fn together(from: IpNetwork, to: IpNetwork) -> Entry {
    let key = [address_bytes(from.network()), address_bytes(to.network())].concat();
    if is_usual(from) && is_usual(to) {
        let set = if from.is_ipv4() { &TOGETHER4_24 } else { &TOGETHER6_64 };
        return Entry { family: set.family, set: set.name, key, data: None, end: None };
    }
    let set = if from.is_ipv4() { &TOGETHER4 } else { &TOGETHER6 };
    let last = [address_bytes(from.broadcast()), address_bytes(to.broadcast())].concat();
    Entry { family: set.family, set: set.name, key, data: None, end: Some(End::With(last)) }
}

fn is_usual(subnet: IpNetwork) -> bool {
    subnet.prefix() == usual_prefix(subnet.is_ipv6())
}

/// A subnet, in the set of those of the usual size or in that of all others.
fn in_one_of(
    (usual, others): (&SetDefinition, &SetDefinition),
    subnet: IpNetwork,
    data: Option<Vec<u8>>,
) -> Entry {
    if !is_usual(subnet) {
        return range(subnet, others, data);
    }
    let key = address_bytes(subnet.network());
    Entry { family: usual.family, set: usual.name, key, data, end: None }
}

fn range(subnet: IpNetwork, set: &SetDefinition, data: Option<Vec<u8>>) -> Entry {
    let end = match subnet {
        IpNetwork::V4(net) => {
            net.broadcast().to_bits().checked_add(1).map(|next| next.to_be_bytes().to_vec())
        }
        IpNetwork::V6(net) => {
            net.broadcast().to_bits().checked_add(1).map(|next| next.to_be_bytes().to_vec())
        }
    };
    let key = address_bytes(subnet.network());
    Entry { family: set.family, set: set.name, key, data, end: end.map(End::Before) }
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
    match (set.holds, set.is_concatenation(), set.data.is_empty()) {
        (Holds::Ranges, true, true) => listed.iter().filter_map(two_subnets).collect(),
        (Holds::Ranges, true, false) => listed.iter().filter_map(published_ports).collect(),
        (Holds::Ranges, false, _) => subnets(listed).into_iter().filter_map(of_subnet).collect(),
        (Holds::Subnets, ..) => listed.iter().filter_map(of_usual_subnets).collect(),
        (Holds::Keys, ..) => listed
            .iter()
            .filter_map(|listed| decode_one(set, &listed.key, listed.data.as_deref()))
            .collect(),
    }
}

/// What is set of a subnet of the usual size, or of two.
fn of_usual_subnets(listed: &Listed) -> Option<(Element, Value)> {
    let length = listed.key.len();
    let (ipv6, pair) = (length >= 16, length == 8 || length == 32);
    let mut rest = listed.key.as_slice();
    let mut subnet = || IpNetwork::new(take_address(&mut rest, ipv6)?, usual_prefix(ipv6)).ok();
    let first = subnet()?;
    if !pair {
        return of_subnet((first, listed.data.as_deref()));
    }
    Some((Element::Together { from: first, to: subnet()? }, Value::Present))
}

/// The two subnets that an element of a set of pairs is.
fn two_subnets(listed: &Listed) -> Option<(Element, Value)> {
    let ipv6 = listed.key.len() > 8;
    let (mut first, mut last) = (listed.key.as_slice(), listed.last.as_deref()?);
    let mut subnet = || {
        let (first, last) = (take_address(&mut first, ipv6)?, take_address(&mut last, ipv6)?);
        let prefix = match (first, last) {
            (IpAddr::V4(first), IpAddr::V4(last)) => {
                (first.to_bits() ^ last.to_bits()).leading_zeros()
            }
            (IpAddr::V6(first), IpAddr::V6(last)) => {
                (first.to_bits() ^ last.to_bits()).leading_zeros()
            }
            _ => return None,
        };
        IpNetwork::new(first, u8::try_from(prefix).ok()?).ok()
    };
    let (from, to) = (subnet()?, subnet()?);
    Some((Element::Together { from, to }, Value::Present))
}

/// What is set of a subnet: nothing but that it is there, or the address that it leaves by.
fn of_subnet((subnet, data): (IpNetwork, Option<&[u8]>)) -> Option<(Element, Value)> {
    let Some(mut data) = data else {
        return Some((Element::Masquerade { subnet }, Value::Present));
    };
    let address = take_address(&mut data, subnet.is_ipv6())?;
    Some((Element::Outbound { subnet }, Value::Source { address }))
}

/// The published ports that one element of a map of ranges is.
fn published_ports(listed: &Listed) -> Option<(Element, Value)> {
    let ipv6 = listed.data.as_ref()?.len() > 4;
    let (mut first, mut last) = (listed.key.as_slice(), listed.last.as_deref()?);
    let (host, _) = (take_address(&mut first, ipv6)?, take_address(&mut last, ipv6)?);
    let ((protocol, first), (_, last)) = (take_port(first)?, take_port(last)?);
    let address = take_address(&mut listed.data.as_deref()?, ipv6)?;
    let element = Element::PublishedRange { host, protocol, first, last };
    Some((element, Value::Target { address, port: first }))
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
        _ => decode_other(set, key),
    }
}

/// The same of elements that have come since.
fn decode_other(set: &SetDefinition, key: &[u8]) -> Option<(Element, Value)> {
    let ipv6 = set.key.contains(&Field::Ipv6);
    let link = || link_name(key);
    let mut rest = key;
    let element = match set.name {
        name if name == DIRECT4.name || name == DIRECT6.name => {
            let address = take_address(&mut rest, ipv6)?;
            let (protocol, port) = take_port(rest)?;
            Element::Direct { address, protocol, port }
        }
        name if name == TRUSTED.name => {
            let to = link_name(key.get(libc::IFNAMSIZ..)?)?;
            Element::Trusted { from: link()?, to }
        }
        name if name == ENCRYPTING.name => Element::Encrypting { link: link()? },
        name if name == ENDS.name => Element::End { link: link()? },
        name if name == BEHIND4.name || name == BEHIND6.name => {
            let address = take_address(&mut key.get(libc::IFNAMSIZ..)?, ipv6)?;
            Element::Behind { link: link()?, address }
        }
        name if name == TUNNELS.name || name == ENCRYPTED.name => {
            let [high, low, _, _, vni @ ..] = *key.first_chunk::<8>()?;
            let (port, vni) = (u16::from_be_bytes([high, low]), u32::from_be_bytes(vni) >> 8);
            if name == TUNNELS.name {
                Element::Tunnel { port, vni }
            } else {
                Element::Encrypted { port, vni }
            }
        }
        name if name == TUNNEL_SOURCES4.name || name == TUNNEL_SOURCES6.name => {
            Element::TunnelSource { address: take_address(&mut rest, ipv6)? }
        }
        _ => return None,
    };
    Some((element, Value::Present))
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
fn subnets(listed: &[Listed]) -> Vec<(IpNetwork, Option<&[u8]>)> {
    let mut ends = BTreeMap::<&[u8], (Option<&Listed>, bool)>::new();
    for listed in listed {
        let entry = ends.entry(&listed.key).or_default();
        if listed.is_end { entry.1 = true } else { entry.0 = Some(listed) }
    }
    let starts = ends.iter().filter_map(|(key, (start, _))| Some((key, (*start)?)));
    starts
        .filter_map(|(key, start)| {
            use std::ops::Bound::{Excluded, Unbounded};
            let behind = ends.range::<[u8], _>((Excluded(*key), Unbounded));
            let end = behind.into_iter().find(|(_, (_, end))| *end).map(|(key, _)| *key);
            Some((subnet(key, end)?, start.data.as_deref()))
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
