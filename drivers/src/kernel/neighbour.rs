//! Neighbours that nobody asks for, and where tunnels send frames (the forwarding database).

use std::io;
use std::net::IpAddr;

use cnm::Mac;
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

/// An entry of a tunnel's forwarding database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forward {
    /// The tunnel's number.
    pub link: u32,
    /// The hardware address; that of all zeros stands for all that are not known.
    pub mac: Mac,
    /// The tunnel's other end.
    pub remote: IpAddr,
}

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

/// Has a tunnel send frames for a hardware address to its other end at an address, in addition to
/// others that it sends them to.
pub fn forward(link: u32, mac: Mac, remote: IpAddr) -> Request {
    Request::append(RouteNetlinkMessage::NewNeighbour(entry(link, mac, remote)))
}

/// Has a tunnel no more send frames for a hardware address there.
pub fn unforward(link: u32, mac: Mac, remote: IpAddr) -> Request {
    Request::remove(RouteNetlinkMessage::DelNeighbour(entry(link, mac, remote)))
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

/// All permanent entries of the forwarding databases of tunnels of the socket's namespace.
pub fn forwards(socket: &mut Socket) -> io::Result<Vec<Forward>> {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    let found = socket.dump(&RouteNetlinkMessage::GetNeighbour(message))?;
    Ok(found.into_iter().filter_map(read_forward).collect())
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

fn entry(link: u32, mac: Mac, remote: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = link;
    message.header.state = NeighbourState::Permanent;
    message.header.flags = NeighbourFlags::Own;
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.octets().to_vec()));
    message.attributes.push(NeighbourAttribute::Destination(remote.into()));
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

fn read_forward(message: RouteNetlinkMessage) -> Option<Forward> {
    let (link, message) = permanent(message)?;
    Some(Forward { link, remote: destination(&message)?, mac: mac(&message)? })
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
        // An entry of a tunnel is of the bridges' family, whatever its other end is.
        NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => {
            let ipv4 = <[u8; 4]>::try_from(bytes.as_slice()).map(IpAddr::from);
            ipv4.or_else(|_| <[u8; 16]>::try_from(bytes.as_slice()).map(IpAddr::from)).ok()
        }
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
