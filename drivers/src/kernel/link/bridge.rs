//! Bridges.

use netlink_packet_route::link::{InfoKind, LinkInfo};

/// What the kernel is told of a new one.
///
/// Its hardware address is fixed: it would otherwise be that of one of its ports and change with
/// them, while the endpoints still have the old one in their neighbour tables.
pub(super) fn info() -> Vec<LinkInfo> {
    vec![LinkInfo::Kind(InfoKind::Bridge)]
}
