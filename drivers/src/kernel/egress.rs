//! The host's way out: the links that default routes leave by, and how large a packet they take.
//!
//! Networks that were given no MTU have the smallest of theirs: what containers send then needs no
//! message about a packet that was too large, which many a firewall on the way throws away.

use std::collections::BTreeMap;
use std::io;

use super::link::{self, Link};
use super::netlink::Socket;
use super::route::{self, Route};
use super::tag::Tag;

/// The links of others that default routes leave by, with their MTUs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Egress(BTreeMap<u32, u32>);

impl Egress {
    /// Reads them in the socket's namespace. Links with our tag lead nowhere else.
    pub(super) fn read(socket: &mut Socket, tag: &str) -> io::Result<Self> {
        Ok(Self::of(&link::list(socket)?, &route::list(socket)?, tag))
    }

    /// Those among links and routes of all tables.
    pub(super) fn of(links: &[Link], routes: &[Route], tag: &str) -> Self {
        let is_ours =
            |link: &Link| link.alias.as_ref().is_some_and(|alias| Tag::parse(tag, alias).is_some());
        let leads_out = |index: u32| {
            let leads = |route: &&Route| route.link == Some(index) && is_default(route);
            routes.iter().any(|route| leads(&route))
        };
        let out = links.iter().filter(|link| link.up && !is_ours(link) && leads_out(link.index));
        Self(out.map(|link| (link.index, link.mtu)).collect())
    }

    /// The smallest MTU; nothing where there is no way out.
    pub(super) fn mtu(&self) -> Option<u32> {
        self.0.values().min().copied()
    }

    /// Whether a link is one of these, and has another MTU now.
    pub(super) fn differs(&self, index: u32, mtu: Option<u32>) -> bool {
        self.0.get(&index).is_some_and(|known| Some(*known) != mtu)
    }

    /// Whether a link is one of these.
    pub(super) fn contains(&self, index: u32) -> bool {
        self.0.contains_key(&index)
    }
}

/// Default routes, and the halves that a VPN puts over them.
fn is_default(route: &Route) -> bool {
    route.unicast && route.destination.prefix() <= 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, mtu: u32, up: bool, alias: Option<&str>) -> Link {
        let alias = alias.map(str::to_owned);
        Link { index, name: format!("l{index}"), mtu, up, alias, ..Link::default() }
    }

    fn route(destination: &str, link: u32, table: u32) -> Route {
        let destination = destination.parse().unwrap();
        let link = Some(link);
        Route { destination, via: None, source: None, link, table, protocol: 4, unicast: true }
    }

    #[test]
    fn the_smallest_link_of_all_ways_out_counts_whatever_their_tables() {
        let tag = "rnet:network/0".to_owned();
        let links = [
            link(1, 1500, true, None),
            link(2, 1420, true, None),
            link(3, 1280, false, None),
            link(4, 1000, true, Some(&tag)),
            link(5, 900, true, None),
        ];
        let mut routes = vec![route("10.0.0.0/8", 5, 254)];
        assert_eq!(Egress::of(&links, &routes, "rnet").mtu(), None);
        routes.extend([route("0.0.0.0/0", 1, 254), route("::/0", 3, 254), route("::/0", 4, 254)]);
        assert_eq!(Egress::of(&links, &routes, "rnet").mtu(), Some(1500));
        routes.push(route("128.0.0.0/1", 2, 51_820));
        let egress = Egress::of(&links, &routes, "rnet");
        assert_eq!(egress.mtu(), Some(1420));
        assert!(egress.differs(2, Some(1400)) && !egress.differs(2, Some(1420)));
        assert!(!egress.differs(5, Some(1400)) && !egress.contains(5));
    }
}
