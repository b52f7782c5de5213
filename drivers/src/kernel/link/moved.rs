//! Links that somebody else made: they go into a sandbox, and back when they are done with there.

use std::os::fd::{AsRawFd, BorrowedFd};

use cnm::{LinkName, Mac};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};

use crate::kernel::netlink::Request;

/// Moves a link to another namespace and gives it a name there, and another hardware address if
/// there is one to be given. The kernel switches it off on the way.
pub fn move_to(index: u32, name: &LinkName, netns: BorrowedFd<'_>, mac: Option<Mac>) -> Request {
    let mut message = moving(index, name, netns);
    message.attributes.extend(mac.map(|mac| LinkAttribute::Address(mac.octets().to_vec())));
    Request::change(RouteNetlinkMessage::NewLink(message))
}

/// Moves a link back to where it came from, under its old name and without our mark.
pub fn move_back(index: u32, name: &LinkName, host: BorrowedFd<'_>) -> Request {
    let mut message = moving(index, name, host);
    message.header.change_mask = LinkFlags::Up;
    message.attributes.push(LinkAttribute::IfAlias(String::new()));
    Request::remove(RouteNetlinkMessage::NewLink(message))
}

fn moving(index: u32, name: &LinkName, netns: BorrowedFd<'_>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes.push(LinkAttribute::NetNsFd(netns.as_raw_fd()));
    message.attributes.push(LinkAttribute::IfName(name.as_str().to_owned()));
    message
}
