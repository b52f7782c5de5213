//! Ipvlan: links that share the hardware address of a link of the host.

use cnm::link::{IpvlanFlag, IpvlanMode};
use cnm::{LinkKind, LinkName};
use netlink_packet_route::link::{
    InfoData, InfoIpVlan, InfoKind, IpVlanFlags, IpVlanMode, LinkInfo,
};

const MODES: [(IpvlanMode, IpVlanMode); 3] = [
    (IpvlanMode::L2, IpVlanMode::L2),
    (IpvlanMode::L3, IpVlanMode::L3),
    (IpvlanMode::L3s, IpVlanMode::L3S),
];

/// What the kernel is told of a new one.
pub(super) fn info(mode: IpvlanMode, flag: IpvlanFlag) -> Vec<LinkInfo> {
    let mode = MODES.into_iter().filter(|(ours, _)| *ours == mode);
    let mode = mode.map(|(_, theirs)| InfoIpVlan::Mode(theirs));
    let data = mode.chain([InfoIpVlan::Flags(flags(flag))]).collect();
    vec![LinkInfo::Kind(InfoKind::IpVlan), LinkInfo::Data(InfoData::IpVlan(data))]
}

/// What the kernel tells of one.
pub(super) fn read(parent: LinkName, data: &[InfoIpVlan]) -> Option<LinkKind> {
    let (mut mode, mut flag) = (None, IpvlanFlag::Bridge);
    for attribute in data {
        match attribute {
            InfoIpVlan::Mode(found) => mode = Some(*found),
            InfoIpVlan::Flags(found) => {
                let all = [IpvlanFlag::Bridge, IpvlanFlag::Private, IpvlanFlag::Vepa];
                flag = all.into_iter().find(|flag| flags(*flag) == *found)?;
            }
            _ => {}
        }
    }
    let (mode, _) = MODES.into_iter().find(|(_, theirs)| Some(*theirs) == mode)?;
    Some(LinkKind::Ipvlan { parent, mode, flag })
}

fn flags(flag: IpvlanFlag) -> IpVlanFlags {
    match flag {
        IpvlanFlag::Bridge => IpVlanFlags::empty(),
        IpvlanFlag::Private => IpVlanFlags::Private,
        IpvlanFlag::Vepa => IpVlanFlags::Vepa,
    }
}
