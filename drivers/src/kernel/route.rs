//! Routes. Ours are in the main table and carry our protocol number.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::address::{PROTOCOL, family};
use super::netlink::{Request, Socket};

/// A route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The destination.
    pub destination: IpNetwork,
    /// The gateway.
    pub via: Option<IpAddr>,
    /// The address that the host itself sends from by it.
    pub source: Option<IpAddr>,
    /// The number of the link it leaves by.
    pub link: Option<u32>,
    /// The table it is in.
    pub table: u32,
    /// Who set it.
    pub protocol: u8,
    /// Whether it leads to other hosts: not local, broadcast or multicast.
    pub unicast: bool,
}

/// Adds a route to the main table.
pub fn add(destination: IpNetwork, link: u32, via: Option<IpAddr>) -> Request {
    Request::create(RouteNetlinkMessage::NewRoute(message(destination, Some(link), via)))
}

/// Adds a route by which the host itself sends from an address of its own, or puts it in the place of
/// the one with the same destination.
pub fn set_from(destination: IpNetwork, link: u32, source: IpAddr) -> Request {
    let mut message = message(destination, Some(link), None);
    message.attributes.push(RouteAttribute::PrefSource(source.into()));
    Request::replace(RouteNetlinkMessage::NewRoute(message))
}

/// Puts a route in the place of the one with the same destination.
pub fn replace(destination: IpNetwork, link: u32, via: Option<IpAddr>) -> Request {
    Request::replace(RouteNetlinkMessage::NewRoute(message(destination, Some(link), via)))
}

/// Removes our route to a destination from the main table.
pub fn remove(destination: IpNetwork) -> Request {
    Request::remove(RouteNetlinkMessage::DelRoute(message(destination, None, None)))
}

/// All routes of the socket's namespace, of all tables and both families.
pub fn list(socket: &mut Socket) -> io::Result<Vec<Route>> {
    let mut routes = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        let found = socket.dump(&RouteNetlinkMessage::GetRoute(message))?;
        routes.extend(found.into_iter().filter_map(read));
    }
    Ok(routes)
}

impl Route {
    /// Whether it is one that we set.
    pub fn is_ours(&self) -> bool {
        self.protocol == PROTOCOL && self.table == u32::from(RouteHeader::RT_TABLE_MAIN)
    }
}

fn message(destination: IpNetwork, link: Option<u32>, via: Option<IpAddr>) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(destination);
    message.header.destination_prefix_length = destination.prefix();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Other(PROTOCOL);
    message.header.kind = RouteType::Unicast;
    message.header.scope = match (link, via) {
        // A removal names no link and matches any scope.
        (None, _) => RouteScope::NoWhere,
        (_, None) if destination.is_ipv4() => RouteScope::Link,
        _ => RouteScope::Universe,
    };
    if destination.prefix() > 0 {
        message.attributes.push(RouteAttribute::Destination(destination.network().into()));
    }
    message.attributes.extend(link.map(RouteAttribute::Oif));
    message.attributes.extend(via.map(|via| RouteAttribute::Gateway(via.into())));
    message
}

/// The route that a message tells of.
pub(super) fn read(message: RouteNetlinkMessage) -> Option<Route> {
    let RouteNetlinkMessage::NewRoute(message) = message else { return None };
    let unspecified: IpAddr = match message.header.address_family {
        AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
        AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let (mut to, mut via, mut source, mut link) = (unspecified, None, None, None);
    let mut table = u32::from(message.header.table);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => to = ip(address)?,
            RouteAttribute::Gateway(address) => via = ip(address),
            RouteAttribute::PrefSource(address) => source = ip(address),
            RouteAttribute::Oif(index) => link = Some(*index),
            RouteAttribute::Table(id) => table = *id,
            _ => {}
        }
    }
    Some(Route {
        destination: IpNetwork::new(to, message.header.destination_prefix_length).ok()?,
        via,
        source,
        link,
        table,
        protocol: message.header.protocol.into(),
        unicast: message.header.kind == RouteType::Unicast,
    })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}
