//! What notifications say, as far as it is of interest.

use cnm::LinkName;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};

use crate::kernel::nexthop;

/// What a datagram tells of a way to another host: the kernel sends each by itself.
pub(super) fn nexthop(datagram: &[u8]) -> Option<(u16, &[u8])> {
    raw(datagram).filter(|(kind, _)| matches!(*kind, nexthop::NEW | nexthop::GONE))
}

/// The number of a datagram's first message, and all of that but its header.
pub(super) fn raw(datagram: &[u8]) -> Option<(u16, &[u8])> {
    let kind = u16::from_ne_bytes([*datagram.get(4)?, *datagram.get(5)?]);
    let length = u32::from_ne_bytes(*datagram.first_chunk()?);
    Some((kind, datagram.get(16..usize::try_from(length).ok()?)?))
}

pub(super) fn name(link: &LinkMessage) -> Option<LinkName> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => name.parse().ok(),
        _ => None,
    })
}

pub(super) fn mtu(link: &LinkMessage) -> Option<u32> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Mtu(mtu) => Some(*mtu),
        _ => None,
    })
}

pub(super) fn controller(link: &LinkMessage) -> Option<u32> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Controller(index) => Some(*index),
        _ => None,
    })
}
