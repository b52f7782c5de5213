//! Macvlan: links with hardware addresses of their own on a link of the host.

use cnm::link::MacvlanMode;
use cnm::{LinkKind, LinkName};
use netlink_packet_route::link::{InfoData, InfoKind, InfoMacVlan, LinkInfo, MacVlanMode};

const MODES: [(MacvlanMode, MacVlanMode); 4] = [
    (MacvlanMode::Bridge, MacVlanMode::Bridge),
    (MacvlanMode::Private, MacVlanMode::Private),
    (MacvlanMode::Vepa, MacVlanMode::Vepa),
    (MacvlanMode::Passthru, MacVlanMode::Passthrough),
];

/// What the kernel is told of a new one.
pub(super) fn info(mode: MacvlanMode) -> Vec<LinkInfo> {
    let mode = MODES.into_iter().filter(|(ours, _)| *ours == mode);
    let mode = mode.map(|(_, theirs)| InfoMacVlan::Mode(theirs)).collect();
    vec![LinkInfo::Kind(InfoKind::MacVlan), LinkInfo::Data(InfoData::MacVlan(mode))]
}

/// What the kernel tells of one.
pub(super) fn read(parent: LinkName, data: &[InfoMacVlan]) -> Option<LinkKind> {
    let mode = data.iter().find_map(|attribute| match attribute {
        InfoMacVlan::Mode(mode) => Some(*mode),
        _ => None,
    })?;
    let (mode, _) = MODES.into_iter().find(|(_, theirs)| *theirs == mode)?;
    Some(LinkKind::Macvlan { parent, mode })
}
