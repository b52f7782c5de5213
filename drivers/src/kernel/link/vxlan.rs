//! Tunnels for frames (VXLAN).

use std::net::IpAddr;

use cnm::{LinkKind, LinkName};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkInfo};

use crate::kernel::netlink::Request;

/// What the kernel is told of a new one. Frames of neighbours that nobody told of are no reason to
/// send to an address: anybody could send such.
pub(super) fn info(vni: u32, port: u16, local: IpAddr) -> Vec<LinkInfo> {
    let data =
        vec![InfoVxlan::Id(vni), from(local), InfoVxlan::Port(port), InfoVxlan::Learning(false)];
    vec![LinkInfo::Kind(InfoKind::Vxlan), LinkInfo::Data(InfoData::Vxlan(data))]
}

/// Has one send from another address of the same family.
pub fn relocate(name: &LinkName, vni: u32, local: IpAddr) -> Request {
    let mut message = super::named(name);
    let info = vec![
        LinkInfo::Kind(InfoKind::Vxlan),
        LinkInfo::Data(InfoData::Vxlan(vec![InfoVxlan::Id(vni), from(local)])),
    ];
    message.attributes.push(LinkAttribute::LinkInfo(info));
    Request::change(RouteNetlinkMessage::NewLink(message))
}

fn from(local: IpAddr) -> InfoVxlan {
    match local {
        IpAddr::V4(local) => InfoVxlan::Local(local),
        IpAddr::V6(local) => InfoVxlan::Local6(local),
    }
}

/// The number and the port of one, whoever made it.
pub(super) fn number(data: &[InfoVxlan]) -> Option<(u32, u16)> {
    let vni = data.iter().find_map(|attribute| match attribute {
        InfoVxlan::Id(id) => Some(*id),
        _ => None,
    });
    let port = data.iter().find_map(|attribute| match attribute {
        InfoVxlan::Port(port) => Some(*port),
        _ => None,
    });
    Some((vni?, port?))
}

/// What the kernel tells of one. One that learns, or answers for neighbours, is none of ours: the bridge
/// does that, which knows of those on this host, too.
pub(super) fn read(data: &[InfoVxlan]) -> Option<LinkKind> {
    let (mut vni, mut port, mut local) = (None, None, None);
    for attribute in data {
        match attribute {
            InfoVxlan::Id(id) => vni = Some(*id),
            InfoVxlan::Port(number) => port = Some(*number),
            InfoVxlan::Local(address) => local = Some(IpAddr::from(*address)),
            InfoVxlan::Local6(address) => local = Some(IpAddr::from(*address)),
            InfoVxlan::Learning(true) | InfoVxlan::Proxy(true) => return None,
            _ => {}
        }
    }
    Some(LinkKind::Vxlan { vni: vni?, port: port?, local: local? })
}
