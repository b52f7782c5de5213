//! Neighbours that nobody asks for, and what tunnels and bridges are told of hardware addresses (the
//! forwarding database).

use std::io;
use std::net::IpAddr;

use cnm::Mac;
use netlink_packet_core::{DefaultNla, Nla};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::RouteProtocol;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::address::PROTOCOL;
use super::netlink::{Request, Socket};

/// A neighbour of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// The number of the link it is reached by.
    pub link: u32,
    /// Its address.
    pub address: IpAddr,
    /// Its hardware address.
    pub mac: Mac,
}

/// An entry of a forwarding database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forward {
    /// The number of the tunnel, or of the bridge's port.
    pub link: u32,
    /// The hardware address; that of all zeros stands for all that are not known.
    pub mac: Mac,
    /// Where it leads.
    pub to: Way,
}

/// Where an entry of a forwarding database leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By a group of ways to the ends of a tunnel.
    Group(u32),
    /// To addresses, as nothing of ours.
    Addresses,
    /// A bridge's: by the port, for good.
    Port,
    /// A bridge's: by the port, until it is seen elsewhere.
    PortForNow,
}

/// `NDA_NH_ID`
const GROUP: u16 = 13;

/// Makes a neighbour known, whatever was known of it.
pub fn set(link: u32, address: IpAddr, mac: Mac) -> Request {
    let mut message = neighbour(link, address);
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.octets().to_vec()));
    message.attributes.push(NeighbourAttribute::Protocol(RouteProtocol::Other(PROTOCOL)));
    Request::replace(RouteNetlinkMessage::NewNeighbour(message))
}

/// Forgets a neighbour.
pub fn unset(link: u32, address: IpAddr) -> Request {
    Request::remove(RouteNetlinkMessage::DelNeighbour(neighbour(link, address)))
}

/// Has the kernel ask who a neighbour is. That somebody else asks already is an error.
pub fn want(link: u32, address: IpAddr) -> Request {
    let mut message = neighbour(link, address);
    message.header.state = NeighbourState::None;
    message.header.flags = NeighbourFlags::Use;
    Request::create(RouteNetlinkMessage::NewNeighbour(message))
}

/// A neighbour that has answered, or was heard of, if this tells of one.
pub fn known(message: &RouteNetlinkMessage) -> Option<Neighbour> {
    let RouteNetlinkMessage::NewNeighbour(message) = message else { return None };
    let heard = matches!(
        message.header.state,
        NeighbourState::Reachable
            | NeighbourState::Stale
            | NeighbourState::Delay
            | NeighbourState::Probe
    );
    let found = Neighbour {
        link: message.header.ifindex,
        address: destination(message)?,
        mac: mac(message)?,
    };
    heard.then_some(found)
}

/// Has a link answer for a neighbour.
pub fn proxy(link: u32, address: IpAddr) -> Request {
    let mut message = proxied(link, address);
    message.attributes.push(NeighbourAttribute::Protocol(RouteProtocol::Other(PROTOCOL)));
    Request::replace(RouteNetlinkMessage::NewNeighbour(message))
}

/// Has a link no more answer for a neighbour.
pub fn unproxy(link: u32, address: IpAddr) -> Request {
    Request::remove(RouteNetlinkMessage::DelNeighbour(proxied(link, address)))
}

/// Has a tunnel send frames for a hardware address by a group of ways, and nowhere else.
pub fn forward(link: u32, mac: Mac, group: u32) -> Request {
    let mut message = entry(link, mac, NeighbourFlags::Own, NeighbourState::Permanent);
    let group = DefaultNla::new(GROUP, group.to_ne_bytes().to_vec());
    message.attributes.push(NeighbourAttribute::Other(group));
    Request::replace(RouteNetlinkMessage::NewNeighbour(message))
}

/// Has a tunnel no more send frames for a hardware address anywhere.
pub fn unforward(link: u32, mac: Mac) -> Request {
    let message = entry(link, mac, NeighbourFlags::Own, NeighbourState::Permanent);
    Request::remove(RouteNetlinkMessage::DelNeighbour(message))
}

/// Tells a bridge that a hardware address is behind one of its ports, wherever else it may seem to be.
pub fn place(port: u32, mac: Mac) -> Request {
    let flags = NeighbourFlags::Controller | NeighbourFlags::Sticky;
    let message = entry(port, mac, flags, NeighbourState::Noarp);
    Request::replace(RouteNetlinkMessage::NewNeighbour(message))
}

/// Has a bridge forget what is behind one of its ports.
pub fn displace(port: u32, mac: Mac) -> Request {
    let message = entry(port, mac, NeighbourFlags::Controller, NeighbourState::Noarp);
    Request::remove(RouteNetlinkMessage::DelNeighbour(message))
}

/// All neighbours of the socket's namespace that are ours.
pub fn list(socket: &mut Socket) -> io::Result<Vec<Neighbour>> {
    let found = socket.dump(&RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()))?;
    Ok(found.into_iter().filter_map(read_neighbour).collect())
}

/// All neighbours that links of the socket's namespace answer for at our wish: links and addresses.
pub fn proxies(socket: &mut Socket) -> io::Result<Vec<(u32, IpAddr)>> {
    let mut message = NeighbourMessage::default();
    message.header.flags = NeighbourFlags::Proxy;
    let found = socket.dump(&RouteNetlinkMessage::GetNeighbour(message))?;
    Ok(found.into_iter().filter_map(read_proxy).collect())
}

/// All entries of forwarding databases of the socket's namespace, but those of the addresses that
/// bridges and their ports have themselves.
pub fn forwards(socket: &mut Socket) -> io::Result<Vec<Forward>> {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    let found = socket.dump(&RouteNetlinkMessage::GetNeighbour(message))?;
    Ok(found.iter().filter_map(read_forward).collect())
}

fn neighbour(link: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family =
        if address.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
    message.header.ifindex = link;
    message.header.state = NeighbourState::Permanent;
    message.attributes.push(NeighbourAttribute::Destination(address.into()));
    message
}

fn proxied(link: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = neighbour(link, address);
    message.header.flags = NeighbourFlags::Proxy;
    message
}

fn entry(link: u32, mac: Mac, flags: NeighbourFlags, state: NeighbourState) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = link;
    message.header.state = state;
    message.header.flags = flags;
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.octets().to_vec()));
    message
}

fn read_neighbour(message: RouteNetlinkMessage) -> Option<Neighbour> {
    let (link, message) = permanent(message)?;
    let ours = NeighbourAttribute::Protocol(RouteProtocol::Other(PROTOCOL));
    message.attributes.contains(&ours).then_some(())?;
    Some(Neighbour { link, address: destination(&message)?, mac: mac(&message)? })
}

fn read_proxy(message: RouteNetlinkMessage) -> Option<(u32, IpAddr)> {
    let RouteNetlinkMessage::NewNeighbour(message) = message else { return None };
    let ours = NeighbourAttribute::Protocol(RouteProtocol::Other(PROTOCOL));
    let is_ours =
        message.header.flags.contains(NeighbourFlags::Proxy) && message.attributes.contains(&ours);
    is_ours.then(|| Some((message.header.ifindex, destination(&message)?)))?
}

/// The entry of a forwarding database that a message tells of, whether it is there or gone.
pub(super) fn read_forward(message: &RouteNetlinkMessage) -> Option<Forward> {
    let (RouteNetlinkMessage::NewNeighbour(message) | RouteNetlinkMessage::DelNeighbour(message)) =
        message
    else {
        return None;
    };
    let (flags, state) = (message.header.flags, message.header.state);
    let to = if message.header.family != AddressFamily::Bridge {
        return None;
    } else if flags.contains(NeighbourFlags::Own) {
        group(message).map_or(Way::Addresses, Way::Group)
    } else if state == NeighbourState::Permanent {
        return None;
    } else if state == NeighbourState::Noarp && flags.contains(NeighbourFlags::Sticky) {
        Way::Port
    } else {
        Way::PortForNow
    };
    Some(Forward { link: message.header.ifindex, mac: mac(message)?, to })
}

/// What a message tells of a neighbour, whether it is there or gone: its link, its address, and the
/// hardware address that it has for good.
pub(super) fn told(message: &RouteNetlinkMessage) -> Option<(u32, IpAddr, Option<Mac>)> {
    let (RouteNetlinkMessage::NewNeighbour(message) | RouteNetlinkMessage::DelNeighbour(message)) =
        message
    else {
        return None;
    };
    let permanent = message.header.state == NeighbourState::Permanent;
    let mac = mac(message).filter(|_| permanent);
    Some((message.header.ifindex, destination(message)?, mac))
}

fn group(message: &NeighbourMessage) -> Option<u32> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Other(nla) if nla.kind() == GROUP => {
            let mut bytes = [0; 4];
            (nla.value_len() == bytes.len()).then(|| nla.emit_value(&mut bytes))?;
            Some(u32::from_ne_bytes(bytes))
        }
        _ => None,
    })
}

fn permanent(message: RouteNetlinkMessage) -> Option<(u32, NeighbourMessage)> {
    let RouteNetlinkMessage::NewNeighbour(message) = message else { return None };
    let permanent = message.header.state == NeighbourState::Permanent;
    permanent.then_some((message.header.ifindex, message))
}

fn destination(message: &NeighbourMessage) -> Option<IpAddr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => Some((*ip).into()),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => Some((*ip).into()),
        _ => None,
    })
}

fn mac(message: &NeighbourMessage) -> Option<Mac> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) => {
            <[u8; 6]>::try_from(bytes.as_slice()).ok().map(Mac::from)
        }
        _ => None,
    })
}
