//! Addresses of links.
//!
//! Those that we set carry a mark (`IFA_PROTO`): what somebody else adds to a link of ours, such
//! as a virtual address that moves between containers, stays theirs.

use std::io;

use ipnetwork::IpNetwork;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressProtocol,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::netlink::{Request, Socket};

/// The origin of our addresses and routes, as `ip` shows it: `proto 114`, an `r`.
pub const PROTOCOL: u8 = 114;

/// An address of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The link's number.
    pub link: u32,
    /// The address with its prefix length.
    pub address: IpNetwork,
    /// Who set it; `None` if nobody said, or the kernel is older than 5.18 and does not know.
    pub protocol: Option<u8>,
}

/// Adds an address. Nobody else can have it, so that it is usable at once: no detection of
/// duplicates.
pub fn add(link: u32, address: IpNetwork) -> Request {
    let mut message = message(link, address);
    message.header.flags = AddressHeaderFlags::Permanent | AddressHeaderFlags::Nodad;
    message.attributes.push(AddressAttribute::Flags(AddressFlags::Permanent | AddressFlags::Nodad));
    message.attributes.push(AddressAttribute::Protocol(AddressProtocol::Other(PROTOCOL)));
    if let IpNetwork::V4(net) = address
        && net.prefix() < 31
    {
        message.attributes.push(AddressAttribute::Broadcast(net.broadcast()));
    }
    Request::create(RouteNetlinkMessage::NewAddress(message))
}

/// Removes an address.
pub fn remove(link: u32, address: IpNetwork) -> Request {
    Request::remove(RouteNetlinkMessage::DelAddress(message(link, address)))
}

/// All addresses of the socket's namespace.
pub fn list(socket: &mut Socket) -> io::Result<Vec<Address>> {
    let found = socket.dump(&RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
    Ok(found.into_iter().filter_map(address).collect())
}

fn message(link: u32, address: IpNetwork) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(address);
    message.header.prefix_len = address.prefix();
    message.header.index = link;
    message.attributes.push(AddressAttribute::Local(address.ip()));
    message.attributes.push(AddressAttribute::Address(address.ip()));
    message
}

/// The family of an address or a destination.
pub(super) fn family(address: IpNetwork) -> AddressFamily {
    if address.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet }
}

/// Who set an address.
pub(super) fn protocol(message: &AddressMessage) -> Option<u8> {
    message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Protocol(by) => Some(u8::from(*by)),
        _ => None,
    })
}

fn address(message: RouteNetlinkMessage) -> Option<Address> {
    let RouteNetlinkMessage::NewAddress(message) = message else { return None };
    read(&message)
}

/// The address that a message is about.
pub(super) fn read(message: &AddressMessage) -> Option<Address> {
    let (mut local, mut remote) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => remote = Some(*ip),
            _ => {}
        }
    }
    let address = IpNetwork::new(local.or(remote)?, message.header.prefix_len).ok()?;
    Some(Address { link: message.header.index, address, protocol: protocol(message) })
}
