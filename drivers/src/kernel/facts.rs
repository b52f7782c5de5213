//! What the host uses already: routes, resolvers, bridges that are not ours.
//!
//! Routes and links are listed once and then kept up by the kernel's notifications, so that it does
//! not matter how many of our own there are. What a notification leaves open is listed again.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::mpsc::{Receiver, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use cnm::LinkName;
use cnm::controller::{HostFacts, HostLink};
use ipnetwork::IpNetwork;
use netlink_packet_core::{NLM_F_REPLACE, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv};

use super::egress::Egress;
use super::link::{self, Link};
use super::netlink::Socket;
use super::route::{self, Route};
use super::tag::Tag;

/// `RTNLGRP_LINK`, and those of addresses and routes of both families.
const GROUPS: [u32; 5] = [1, 5, 7, 9, 11];

/// What the kernel tells of a namespace.
#[derive(Debug)]
pub(super) struct Facts {
    notifications: netlink_sys::Socket,
    tag: String,
    links: BTreeMap<u32, Known>,
    /// The same by name. Who asked has let go of it when the next change is told, as a rule.
    by_name: Arc<BTreeMap<LinkName, HostLink>>,
    /// How often there is each route that is not by a link of ours.
    routes: BTreeMap<Way, usize>,
    /// The ways out, which are listed again when anything of them changes.
    egress: Egress,
    /// Whether to list everything again.
    stale: bool,
    /// Whether something of it has changed since that was asked.
    changed: bool,
    buffer: Vec<u8>,
}

/// A link, with its name.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    name: Option<LinkName>,
    ours: bool,
}

/// A route as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Way {
    destination: IpNetwork,
    table: u32,
    link: Option<u32>,
    via: Option<IpAddr>,
}

impl Facts {
    /// Begins to listen in the namespace of the calling thread.
    pub(super) fn open(tag: &str) -> io::Result<Self> {
        let mut notifications = netlink_sys::Socket::new(netlink_sys::protocols::NETLINK_ROUTE)?;
        notifications.bind_auto()?;
        for group in GROUPS {
            notifications.add_membership(group)?;
        }
        let (links, by_name, routes, egress) = Default::default();
        let (tag, buffer) = (tag.to_owned(), vec![0; 64 << 10]);
        let (stale, changed) = (true, false);
        Ok(Self { notifications, tag, links, by_name, routes, egress, stale, changed, buffer })
    }

    /// Another handle of what tells of changes, to wait for them.
    pub(super) fn bell(&self) -> io::Result<OwnedFd> {
        self.notifications.as_fd().try_clone_to_owned()
    }

    /// What is used now. The other socket is in the same namespace.
    pub(super) fn read(&mut self, socket: &mut Socket) -> io::Result<HostFacts> {
        self.update(socket)?;
        let routes: BTreeSet<IpNetwork> = self
            .routes
            .keys()
            .filter(|way| !self.is_ours(way.link))
            .map(|way| way.destination)
            .collect();
        let links = Arc::clone(&self.by_name);
        let resolvers = match std::fs::read_to_string("/etc/resolv.conf") {
            Ok(text) => nameservers(&text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let (routes, egress_mtu) = (routes.into_iter().collect(), self.egress.mtu());
        Ok(HostFacts { routes, resolvers, links, egress_mtu })
    }

    /// Whether routes or links have changed since this was asked last.
    pub(super) fn has_changed(&mut self) -> bool {
        self.drain();
        std::mem::take(&mut self.changed)
    }

    /// Reads what the kernel has told, and lists everything where that is not enough.
    fn update(&mut self, socket: &mut Socket) -> io::Result<()> {
        self.drain();
        if !self.stale {
            return Ok(());
        }
        tracing::debug!("list the host's links and routes");
        // What is told from here on is read the next time.
        self.stale = false;
        let listed = link::list(socket).and_then(|links| Ok((links, route::list(socket)?)));
        let (links, routes) = listed.inspect_err(|_| self.stale = true)?;
        self.egress = Egress::of(&links, &routes, &self.tag);
        self.links.clear();
        self.by_name = Arc::default();
        for link in &links {
            self.know(link);
        }
        self.routes.clear();
        for route in routes {
            self.add(&route);
        }
        Ok(())
    }

    fn drain(&mut self) {
        loop {
            let mut buffer = std::mem::take(&mut self.buffer);
            let received =
                recv(self.notifications.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT);
            if let Ok(size) = received {
                self.hear(&buffer[..size]);
            }
            self.buffer = buffer;
            match received {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return,
                // Some were lost, or the socket is broken.
                Err(error) => {
                    (self.stale, self.changed) = (true, true);
                    if error != Errno::ENOBUFS {
                        return;
                    }
                }
            }
        }
    }

    fn hear(&mut self, mut datagram: &[u8]) {
        while let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(datagram) {
            let replaces = message.header.flags & NLM_F_REPLACE != 0;
            if let NetlinkPayload::InnerMessage(told) = message.payload {
                self.note(told, replaces);
            }
            let size = (message.header.length as usize).next_multiple_of(4);
            let Some(rest) = datagram.get(size.max(4)..) else { return };
            datagram = rest;
        }
    }

    fn note(&mut self, told: RouteNetlinkMessage, replaces: bool) {
        match told {
            RouteNetlinkMessage::NewLink(message) if of_link(&message) => {
                let index = message.header.index;
                let Some(link) = link::read(RouteNetlinkMessage::NewLink(message)) else { return };
                self.changed |= self.know(&link);
                // Routes of IPv4 go with their link, and nobody tells.
                self.stale |= !self.is_ours(Some(index)) && !link.up && self.leads(index);
                self.stale |= self.egress.differs(index, Some(link.mtu));
                self.stale |= self.egress.contains(index) && !link.up;
            }
            RouteNetlinkMessage::DelLink(message) if of_link(&message) => {
                let index = message.header.index;
                self.forget(index);
                let lost = self.leads(index);
                self.stale |= lost || self.egress.contains(index);
                self.changed |= lost;
            }
            // Another way to this host.
            RouteNetlinkMessage::NewAddress(message)
                if !self.is_ours(Some(message.header.index)) =>
            {
                self.changed = true;
            }
            RouteNetlinkMessage::DelAddress(message)
                if !self.is_ours(Some(message.header.index)) =>
            {
                self.stale |= self.leads(message.header.index);
                self.changed = true;
            }
            RouteNetlinkMessage::NewRoute(_) => {
                let Some(route) = route::read(told) else { return };
                if replaces && !self.is_ours(route.link) {
                    (self.stale, self.changed) = (true, true);
                }
                self.stale |= self.leads_out(&route);
                self.changed |= self.add(&route);
            }
            RouteNetlinkMessage::DelRoute(message) => {
                let Some(route) = route::read(RouteNetlinkMessage::NewRoute(message)) else {
                    return;
                };
                self.stale |= self.leads_out(&route);
                self.changed |= self.remove(&route);
            }
            _ => {}
        }
    }

    /// Notes a route; says whether that matters.
    fn add(&mut self, route: &Route) -> bool {
        let matters = self.matters(route);
        if matters {
            *self.routes.entry(Way::of(route)).or_default() += 1;
        }
        matters
    }

    fn remove(&mut self, route: &Route) -> bool {
        let way = Way::of(route);
        match self.routes.get_mut(&way) {
            Some(1) => self.routes.remove(&way).is_some(),
            Some(times) => {
                *times -= 1;
                true
            }
            None => {
                let unknown = self.matters(route);
                self.stale |= unknown;
                unknown
            }
        }
    }

    fn matters(&self, route: &Route) -> bool {
        route.unicast && !self.is_ours(route.link) && !is_everywhere(route.destination)
    }

    /// Whether it is a default route, or one of the halves that a VPN puts over it.
    fn leads_out(&self, route: &Route) -> bool {
        route.unicast && route.destination.prefix() <= 1 && !self.is_ours(route.link)
    }

    fn is_ours(&self, link: Option<u32>) -> bool {
        link.and_then(|index| self.links.get(&index)).is_some_and(|link| link.ours)
    }

    /// Whether routes lead by a link.
    fn leads(&self, link: u32) -> bool {
        self.routes.keys().any(|way| way.link == Some(link))
    }

    /// Notes a link, under the name that it has now. Tells whether it is one of others whose size or state
    /// is different now.
    fn know(&mut self, link: &Link) -> bool {
        let before = link.name.parse().ok().and_then(|name: LinkName| self.by_name.get(&name));
        let before = before.map(|before| (before.mtu, before.up));
        self.forget(link.index);
        let tag = link.alias.as_deref().and_then(|alias| Tag::parse(&self.tag, alias));
        let own = HostLink {
            mtu: link.mtu,
            up: link.up,
            loopback: link.loopback,
            port: link.bridge.is_some(),
            bridge: link.is_bridge(),
            tag: tag.map(|tag| tag.owner),
        };
        let (name, ours) = (link.name.parse::<LinkName>().ok(), own.tag.is_some());
        if let Some(name) = &name {
            Arc::make_mut(&mut self.by_name).insert(name.clone(), own);
        }
        self.links.insert(link.index, Known { name, ours });
        !ours && before.is_some_and(|before| before != (link.mtu, link.up))
    }

    fn forget(&mut self, index: u32) {
        let name = self.links.remove(&index).and_then(|link| link.name);
        if let Some(name) = name {
            Arc::make_mut(&mut self.by_name).remove(&name);
        }
    }
}

/// Tells of changes on a thread of its own, which ends when the other end of `stop` is closed.
pub(super) fn watch(
    bell: OwnedFd,
    stop: OwnedFd,
    facts: Arc<Mutex<Option<Facts>>>,
) -> io::Result<Receiver<()>> {
    let (sender, receiver) = sync_channel(1);
    let watch = move || {
        loop {
            let mut sources =
                [stop.as_fd(), bell.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            match poll(&mut sources, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => {
                    tracing::error!(%error, "cannot wait for changes of the host's routes");
                    return;
                }
            }
            if sources[0].any().unwrap_or(true) {
                return;
            }
            let mut facts = facts.lock().unwrap_or_else(PoisonError::into_inner);
            let changed = facts.as_mut().is_some_and(Facts::has_changed);
            drop(facts);
            if changed && sender.try_send(()) == Err(TrySendError::Disconnected(())) {
                return;
            }
        }
    };
    thread::Builder::new().name("facts".to_owned()).spawn(watch)?;
    Ok(receiver)
}

impl Way {
    fn of(route: &Route) -> Self {
        let Route { destination, table, link, via, .. } = *route;
        Self { destination, table, link, via }
    }
}

/// Whether it is about the link itself, and not about it as the port of a bridge.
fn of_link(message: &LinkMessage) -> bool {
    message.header.interface_family == AddressFamily::Unspec
}

/// Default routes, the halves that a VPN puts over them, and what every interface has.
fn is_everywhere(destination: IpNetwork) -> bool {
    let local = match destination {
        IpNetwork::V4(net) => net.ip().is_loopback(),
        IpNetwork::V6(net) => net.ip().is_unicast_link_local() || net.ip().is_multicast(),
    };
    destination.prefix() <= 1 || local
}

fn nameservers(text: &str) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if words.next() == Some("nameserver") {
            // A link-local server may come with its interface: `fe80::1%eth0`.
            let word = words.next().and_then(|word| word.split('%').next());
            found.extend(word.and_then(|word| word.parse::<IpAddr>().ok()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nameservers_of_both_families_are_read() {
        let text = "# a comment\nnameserver 192.0.2.1\nsearch lan\nnameserver fe80::1%eth0\n\
                    options ndots:1\nnameserver\nnameserver x\n";
        let expected: [IpAddr; 2] = ["192.0.2.1".parse().unwrap(), "fe80::1".parse().unwrap()];
        assert_eq!(nameservers(text), expected);
    }

    #[test]
    fn routes_to_everywhere_are_no_obstacle() {
        for (destination, everywhere) in [
            ("0.0.0.0/0", true),
            ("128.0.0.0/1", true),
            ("::/0", true),
            ("fe80::/64", true),
            ("10.0.0.0/8", false),
            ("fd00::/8", false),
        ] {
            assert_eq!(is_everywhere(destination.parse().unwrap()), everywhere, "{destination}");
        }
    }
}
