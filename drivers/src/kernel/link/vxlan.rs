//! Tunnels for frames (VXLAN).

use std::net::IpAddr;

use cnm::LinkKind;
use netlink_packet_route::link::{InfoData, InfoKind, InfoVxlan, LinkInfo};

/// What the kernel is told of a new one. Frames of neighbours that nobody told of are no reason to
/// send to an address: anybody could send such.
pub(super) fn info(vni: u32, port: u16, local: IpAddr, proxy: bool) -> Vec<LinkInfo> {
    let local = match local {
        IpAddr::V4(local) => InfoVxlan::Local(local),
        IpAddr::V6(local) => InfoVxlan::Local6(local),
    };
    let data = vec![
        InfoVxlan::Id(vni),
        local,
        InfoVxlan::Port(port),
        InfoVxlan::Learning(false),
        InfoVxlan::Proxy(proxy),
    ];
    vec![LinkInfo::Kind(InfoKind::Vxlan), LinkInfo::Data(InfoData::Vxlan(data))]
}

/// What the kernel tells of one. One that learns is none of ours.
pub(super) fn read(data: &[InfoVxlan]) -> Option<LinkKind> {
    let (mut vni, mut port, mut local, mut proxy) = (None, None, None, false);
    for attribute in data {
        match attribute {
            InfoVxlan::Id(id) => vni = Some(*id),
            InfoVxlan::Port(number) => port = Some(*number),
            InfoVxlan::Local(address) => local = Some(IpAddr::from(*address)),
            InfoVxlan::Local6(address) => local = Some(IpAddr::from(*address)),
            InfoVxlan::Proxy(answers) => proxy = *answers,
            InfoVxlan::Learning(true) => return None,
            _ => {}
        }
    }
    Some(LinkKind::Vxlan { vni: vni?, port: port?, local: local?, proxy })
}
