//! Veth pairs: one end on the host, the other in a sandbox.

use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkInfo, LinkMessage,
};

/// The request's message for a pair, from that of its far end: the near end up and in its bridge,
/// the far end where it belongs, with its final name and hardware address, and still down, so that
/// its sysctls precede its first packet.
pub(super) fn pair(mut near: LinkMessage, far: LinkMessage) -> LinkMessage {
    near.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(far))),
    ]));
    near
}
