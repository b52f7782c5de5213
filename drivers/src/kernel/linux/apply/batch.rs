//! Requests for links, and what of a link they are about.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use cnm::ground::Ground;
use cnm::{Link, LinkKind, LinkName, Ns, Step};

use super::super::requests::Requests;
use crate::kernel::link;
use crate::kernel::netlink::errno;

/// Requests for links, gathered until one needs the number of a link that they make.
#[derive(Debug, Default)]
pub(super) struct LinkBatch<'p> {
    pub(super) requests: Requests<'p>,
    /// Numbers of links of the host.
    pub(super) indexes: BTreeMap<LinkName, u32>,
    /// Ports whose links have not been met.
    pub(super) ports: BTreeMap<&'p LinkName, &'p Step>,
    /// What the requests make.
    pub(super) awaited: BTreeSet<Ground>,
}

/// Says which parent it is that is not there.
pub(super) fn missing(parent: &LinkName, error: io::Error) -> io::Error {
    if errno(&error) == Some(libc::ENODEV) {
        let message = format!("its parent interface {parent} is not there any more");
        return io::Error::new(io::ErrorKind::NotFound, message);
    }
    error
}

/// The hardware address of a link of the host that is given none: one that it has again if it is made
/// again. A VLAN has that of its parent; and the bridge that is one would have no carrier, if it
/// were given one while it has no ports. One that encrypts has none.
pub(super) fn stable_mac(ns: &Ns, link: &Link) -> Option<cnm::Mac> {
    let is_parent = matches!(link.kind, LinkKind::Vlan { .. }) || link.tag.starts_with("lone/");
    let has_none = matches!(link.kind, LinkKind::WireGuard { .. });
    (*ns == Ns::Host && !is_parent && !has_none).then(|| link::stable_mac(&link.tag))
}

/// The end of a link that is on the host, if it has one.
pub(super) fn outer_end<'a>(ns: &Ns, name: &'a LinkName, link: &'a Link) -> Option<&'a LinkName> {
    link.kind.peer().or((*ns == Ns::Host).then_some(name))
}
