//! VLANs of a link of the host.

use cnm::{LinkKind, LinkName};
use netlink_packet_route::link::{InfoData, InfoKind, InfoVlan, LinkInfo};

/// What the kernel is told of a new one.
pub(super) fn info(id: u16) -> Vec<LinkInfo> {
    vec![LinkInfo::Kind(InfoKind::Vlan), LinkInfo::Data(InfoData::Vlan(vec![InfoVlan::Id(id)]))]
}

/// What the kernel tells of one.
pub(super) fn read(parent: LinkName, data: &[InfoVlan]) -> Option<LinkKind> {
    let id = data.iter().find_map(|attribute| match attribute {
        InfoVlan::Id(id) => Some(*id),
        _ => None,
    })?;
    Some(LinkKind::Vlan { parent, id })
}
