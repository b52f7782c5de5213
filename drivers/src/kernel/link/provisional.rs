//! What a link that is made for a sandbox is called until it is there.
//!
//! Linux 6.1 refuses a new link whose name is taken where the request comes from, wherever the link is
//! to be: the host's `eth0` would keep every sandbox from having one on a link of the host.

use std::io;

use cnm::LinkName;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};

use super::stable_mac;
use crate::kernel::netlink::Request;

/// The name until then; the same for the same name, so that what a crash left is found.
pub fn provisional(name: &LinkName) -> io::Result<LinkName> {
    let mut octets = [0; 8];
    octets[3..].copy_from_slice(&stable_mac(name.as_str()).octets()[1..]);
    format!("rn-{:010x}", u64::from_be_bytes(octets)).parse().map_err(io::Error::other)
}

/// Gives a link that is switched off its own name and its mark: of one with the name alone nobody would know, after
/// a crash in between, that it is ours.
pub fn name_and_mark(index: u32, name: &LinkName, alias: String) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes.push(LinkAttribute::IfName(name.as_str().to_owned()));
    message.attributes.push(LinkAttribute::IfAlias(alias));
    Request::change(RouteNetlinkMessage::NewLink(message))
}
