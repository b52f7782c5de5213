//! Changes that somebody else made to what is ours.
//!
//! A thread reads the kernel's notifications. Most of them tell of our own doing, so it compares:
//! the [`Shadow`] is what we made on the host and have not removed; only where the kernel differs
//! from it somebody else was there. It tells of a burst once and does not say what changed:
//! notifications may be lost (`ENOBUFS`), and only an observation knows.

mod entries;
mod messages;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use cnm::{Key, LinkName, Ns, Plan, State, Step, Value};
use ipnetwork::IpNetwork;
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::link::{LinkFlags, LinkMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv};

use self::entries::{Found, Names, Told};
use self::messages::{controller, mtu, name, nexthop, raw};
use super::address::{self, Address};
use super::egress::Egress;
use super::link::{self, DEFAULT_MTU, Link, PortFlags};
use super::netlink::{Socket, errno};
use super::netns::Netns;
use super::nexthop;
use super::nft::Nft;
use super::shortcut;

/// `RTNLGRP_LINK`, `RTNLGRP_NEIGH`, `RTNLGRP_IPV4_IFADDR`, `RTNLGRP_IPV4_ROUTE`, `RTNLGRP_IPV6_IFADDR`
/// and `RTNLGRP_IPV6_ROUTE`.
const GROUPS: [u32; 6] = [1, 3, 5, 7, 9, 11];

/// `RTNLGRP_TC`
const FILTERS: u32 = 4;

/// `RTNLGRP_NEXTHOP`, which kernels before 5.3 do not have.
const WAYS: u32 = 32;

/// What we made on the host: links, ports and addresses; and what is on links of the host.
#[derive(Debug, Default)]
pub(super) struct Shadow(Mutex<Made>);

/// What we made, and which of it is about each link on the host.
#[derive(Debug, Default)]
struct Made {
    state: State,
    by_link: BTreeMap<LinkName, BTreeSet<Key>>,
    /// The links that have each address.
    by_address: BTreeMap<IpNetwork, BTreeSet<LinkName>>,
    /// How many links are on each link of the host.
    parents: BTreeMap<LinkName, usize>,
    told: Told,
}

impl Made {
    fn insert(&mut self, key: &Key, value: &Value) {
        self.remove(key);
        if self.told.insert(key, value) {
            return;
        }
        if let Some(link) = host_link(key, value) {
            self.by_link.entry(link.clone()).or_default().insert(key.clone());
        }
        if let Key::Address { link, address, .. } = key {
            self.by_address.entry(*address).or_default().insert(link.clone());
        }
        if let Some(parent) = parent(value) {
            *self.parents.entry(parent.clone()).or_default() += 1;
        }
        self.state.insert(key.clone(), value.clone());
    }

    fn remove(&mut self, key: &Key) {
        self.told.remove(key);
        let Some(value) = self.state.remove(key) else { return };
        if let Some(link) = host_link(key, &value) {
            take(&mut self.by_link, link, key);
        }
        if let Key::Address { link, address, .. } = key {
            take(&mut self.by_address, address, link);
        }
        if let Some(parent) = parent(&value)
            && let Some(children) = self.parents.get_mut(parent)
        {
            *children -= 1;
            if *children == 0 {
                self.parents.remove(parent);
            }
        }
    }

    /// What is about a link on the host.
    fn of_link(&self, link: &LinkName) -> impl Iterator<Item = &Value> {
        let keys = self.by_link.get(link).into_iter().flatten();
        keys.filter_map(|key| self.state.get(key))
    }

    /// The addresses among these that links of ours have.
    fn addresses(&self, some: &BTreeSet<IpNetwork>) -> Vec<Key> {
        let of = |address: &IpNetwork| {
            let links = self.by_address.get(address).into_iter().flatten().cloned();
            let address = *address;
            links.map(move |link| Key::Address { ns: Ns::Host, link, address })
        };
        some.iter().flat_map(of).collect()
    }
}

/// Takes a member out of one of several sets; none of them is empty.
fn take<K: Ord, V: Ord>(sets: &mut BTreeMap<K, BTreeSet<V>>, key: &K, member: &V) {
    let Some(set) = sets.get_mut(key) else { return };
    set.remove(member);
    if set.is_empty() {
        sets.remove(key);
    }
}

impl Shadow {
    /// Takes over what was observed.
    pub(super) fn adopt(&self, observed: &State) {
        let mine = observed.iter().filter(|(key, value)| is_shadowed(key, value));
        let mut made = Made::default();
        mine.for_each(|(key, value)| made.insert(key, value));
        *self.lock() = made;
    }

    /// To be called before a plan is applied: what it removes or changes is not missed.
    pub(super) fn release(&self, plan: &Plan) {
        let mut made = self.lock();
        for step in plan.steps() {
            if let Step::Remove(key, _) | Step::Change { key, .. } = step {
                made.remove(key);
            }
        }
    }

    /// To be called after a plan was applied.
    pub(super) fn record(&self, plan: &Plan) {
        let mut made = self.lock();
        for step in plan.steps() {
            match step {
                Step::Add(key, value) | Step::Change { key, to: value, .. }
                    if is_shadowed(key, value) =>
                {
                    made.insert(key, value);
                }
                _ => {}
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Made> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts the thread. It ends when the other end of `stop` is closed.
pub(super) fn start(
    host: &Netns,
    nft: Arc<Nft>,
    shadow: Arc<Shadow>,
    tag: &str,
    stop: OwnedFd,
) -> io::Result<Receiver<()>> {
    let (routes, mut socket, names, events) = host.run(|| {
        let events = nft.events().map_err(io::Error::other)?;
        let names = Names::new(Socket::open()?);
        Ok::<_, io::Error>((subscribe()?, Socket::open()?, names, events))
    })??;
    let (sender, receiver) = sync_channel(1);
    let (egress, tag) = (Egress::read(&mut socket, tag)?, tag.to_owned());
    let monitor = Monitor { routes, events, stop, socket, names, nft, shadow, tag, egress, sender };
    thread::Builder::new().name("monitor".to_owned()).spawn(|| monitor.run())?;
    Ok(receiver)
}

#[derive(Debug)]
struct Monitor {
    routes: netlink_sys::Socket,
    events: OwnedFd,
    stop: OwnedFd,
    socket: Socket,
    names: Names,
    nft: Arc<Nft>,
    shadow: Arc<Shadow>,
    tag: String,
    egress: Egress,
    sender: SyncSender<()>,
}

/// Links and addresses that a burst of notifications makes doubtful.
#[derive(Debug, Default)]
struct Doubts {
    links: BTreeSet<LinkName>,
    addresses: BTreeSet<IpNetwork>,
    /// Links of which a program may be gone.
    shortcuts: BTreeSet<u32>,
    /// What was told of other hosts.
    told: bool,
    /// The host's way out.
    egress: bool,
    /// Something was changed for certain, or notifications were lost.
    certain: bool,
}

impl Monitor {
    fn run(mut self) {
        loop {
            let mut sources = [self.stop.as_fd(), self.routes.as_fd(), self.events.as_fd()]
                .map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            match poll(&mut sources, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => {
                    tracing::error!(%error, "cannot wait for changes of the kernel's state");
                    return;
                }
            }
            if sources[0].any().unwrap_or(true) {
                return;
            }
            let doubts = self.drain();
            if !self.confirms(&doubts) {
                continue;
            }
            if let Err(TrySendError::Disconnected(())) = self.sender.try_send(()) {
                return;
            }
        }
    }

    /// Reads all that has arrived.
    fn drain(&mut self) -> Doubts {
        let mut doubts = Doubts::default();
        let mut buffer = vec![0; 64 << 10];
        while let Some(size) = receive(&self.routes, &mut buffer, &mut doubts) {
            self.read_routes(&buffer[..size], &mut doubts);
        }
        while let Some(size) = receive(&self.events, &mut buffer, &mut doubts) {
            doubts.certain |= self.nft.concerns(&buffer[..size]);
        }
        doubts
    }

    fn read_routes(&mut self, mut datagram: &[u8], doubts: &mut Doubts) {
        if let Some((kind, body)) = raw(datagram)
            && matches!(kind, shortcut::DISCIPLINE_GONE | shortcut::GONE)
        {
            doubts.shortcuts.extend(shortcut::link_of(body));
            return;
        }
        if let Some((kind, body)) = nexthop(datagram) {
            let gone = kind == nexthop::GONE;
            let way = nexthop::read(body);
            let made = self.shadow.lock();
            doubts.told |= way.is_some_and(|way| made.told.contradicts_way(&way, gone));
            return;
        }
        while let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(datagram) {
            match message.payload {
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => {
                    let doubtful =
                        !link.header.flags.contains(LinkFlags::Up) || controller(&link).is_none();
                    let doubtful = |name: &LinkName| doubtful || self.is_tunnel(name);
                    let name = name(&link).filter(|name| doubtful(name) && self.knows(name));
                    doubts.links.extend(name);
                    let up = link.header.flags & link.header.change_mask;
                    doubts.certain |= up.contains(LinkFlags::Up) && self.is_parent(&link);
                    doubts.egress |= self.egress.differs(link.header.index, mtu(&link));
                    self.names.forget(link.header.index);
                }
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link)) => {
                    doubts.links.extend(name(&link).filter(|name| self.knows(name)));
                    doubts.certain |= self.is_parent(&link);
                    doubts.egress |= self.egress.contains(link.header.index);
                    self.names.forget(link.header.index);
                }
                NetlinkPayload::InnerMessage(
                    RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route),
                ) => doubts.egress |= route.header.destination_prefix_length <= 1,
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelAddress(address)) => {
                    let removed = address::read(&address).map(|removed| removed.address);
                    doubts.addresses.extend(removed.filter(|removed| self.has(removed)));
                }
                NetlinkPayload::InnerMessage(
                    neighbour @ (RouteNetlinkMessage::NewNeighbour(_)
                    | RouteNetlinkMessage::DelNeighbour(_)),
                ) => {
                    let told = &self.shadow.lock().told;
                    doubts.told |=
                        !told.is_empty() && told.contradicts(&neighbour, &mut self.names);
                }
                _ => {}
            }
            let size = (message.header.length as usize).next_multiple_of(4);
            let Some(rest) = datagram.get(size.max(4)..) else { return };
            datagram = rest;
        }
    }

    fn has(&self, address: &IpNetwork) -> bool {
        self.shadow.lock().by_address.contains_key(address)
    }

    fn knows(&self, name: &LinkName) -> bool {
        self.shadow.lock().by_link.contains_key(name)
    }

    /// Whether it is a tunnel of ours: there are few, and much depends on how they are ports.
    fn is_tunnel(&self, name: &LinkName) -> bool {
        let made = self.shadow.lock();
        made.of_link(name).any(|value| matches!(value, Value::Port { tunnel: true, .. }))
    }

    /// Whether links of ours are on it: they go with it, also those in sandboxes, and can come back
    /// with it.
    fn is_parent(&self, link: &LinkMessage) -> bool {
        let unbridged = link.header.interface_family == AddressFamily::Unspec;
        let Some(name) = name(link).filter(|_| unbridged) else { return false };
        self.shadow.lock().parents.contains_key(&name)
    }

    /// Whether the kernel differs from the shadow where there are doubts.
    fn confirms(&mut self, doubts: &Doubts) -> bool {
        if doubts.certain || (doubts.egress && self.leads_elsewhere().unwrap_or(true)) {
            return true;
        }
        let names = doubts.links.clone();
        if names.iter().any(|name| self.is_damaged(name)) {
            return true;
        }
        if doubts.shortcuts.iter().any(|link| self.lacks_shortcut(*link)) {
            return true;
        }
        if doubts.told && self.lacks_told().unwrap_or(true) {
            return true;
        }
        self.lacks_addresses(&doubts.addresses).unwrap_or(true)
    }

    /// Whether the host's way out takes larger or smaller packets than before.
    fn leads_elsewhere(&mut self) -> io::Result<bool> {
        let before = self.egress.mtu();
        self.egress = Egress::read(&mut self.socket, &self.tag)?;
        Ok(self.egress.mtu() != before)
    }

    fn is_damaged(&mut self, name: &LinkName) -> bool {
        let found = link::find(&mut self.socket, name);
        let bridge = match &found {
            Ok(link) => link.bridge.map(|index| link::name(&mut self.socket, index)),
            Err(error) if errno(error) == Some(libc::ENODEV) => return self.knows(name),
            Err(_) => return true,
        };
        let bridge = bridge.and_then(Result::ok);
        let made = self.shadow.lock();
        found.is_ok_and(|link| {
            made.of_link(name).any(|value| !fits(&link, bridge.as_deref(), value))
        })
    }

    /// Whether a link has lost its program, and not been removed itself.
    fn lacks_shortcut(&mut self, link: u32) -> bool {
        let Some(name) = self.names.of(link) else { return false };
        let wanted = |made: &Made| {
            let is_at = |key: &Key| {
                matches!(key, Key::Shortcut { tunnel, port }
                if *port.as_ref().unwrap_or(tunnel) == name)
            };
            made.by_link.get(&name).into_iter().flatten().any(is_at)
        };
        let is_wanted = wanted(&self.shadow.lock());
        is_wanted && !shortcut::is_at(&mut self.socket, link).unwrap_or(true)
    }

    /// Whether something is missing that was told of other hosts. What is told meanwhile may seem to be,
    /// but not twice.
    fn lacks_told(&mut self) -> io::Result<bool> {
        for _ in 0..2 {
            let found = Found::read(&mut self.socket)?;
            if !self.shadow.lock().told.lacks(&found) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether one of these addresses is missing at a link of ours.
    fn lacks_addresses(&mut self, doubtful: &BTreeSet<IpNetwork>) -> io::Result<bool> {
        let mut missing = self.shadow.lock().addresses(doubtful);
        if missing.is_empty() {
            return Ok(false);
        }
        tracing::debug!("list addresses: one of ours was removed");
        let found = address::list(&mut self.socket)?;
        let mut links = BTreeMap::new();
        for key in &missing {
            let Key::Address { link, .. } = key else { continue };
            match link::index(&mut self.socket, link) {
                Ok(index) => drop(links.insert(link.clone(), index)),
                Err(error) if errno(&error) == Some(libc::ENODEV) => {}
                Err(error) => return Err(error),
            }
        }
        missing.retain(|key| match key {
            Key::Address { link, address, .. } => {
                let here = |a: &Address| links.get(link) == Some(&a.link) && a.address == *address;
                !found.iter().any(here)
            }
            _ => false,
        });
        // What we remove meanwhile is not missed.
        let made = self.shadow.lock();
        Ok(missing.iter().any(|key| made.state.get(key).is_some()))
    }
}

/// Opens a socket for the notifications of the calling thread's namespace.
fn subscribe() -> io::Result<netlink_sys::Socket> {
    let mut socket = netlink_sys::Socket::new(netlink_sys::protocols::NETLINK_ROUTE)?;
    socket.bind_auto()?;
    // More than `net.core.rmem_max` is for the privileged; without it, more gets lost.
    let _ = socket.set_rx_buf_sz(4_u32 << 20);
    for group in GROUPS {
        socket.add_membership(group)?;
    }
    let _ = socket.add_membership(WAYS);
    let _ = socket.add_membership(FILTERS);
    Ok(socket)
}

/// Receives what is there; `None` if nothing is.
fn receive(socket: &impl AsFd, buffer: &mut [u8], doubts: &mut Doubts) -> Option<usize> {
    loop {
        match recv(socket.as_fd().as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(size) => return Some(size),
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => return None,
            // Notifications were lost, or the socket is broken: somebody should look.
            Err(error) => {
                doubts.certain = true;
                if error != Errno::ENOBUFS {
                    return None;
                }
            }
        }
    }
}

fn is_shadowed(key: &Key, value: &Value) -> bool {
    match key {
        Key::Address { ns, .. } | Key::Neighbour { ns, .. } => *ns == Ns::Host,
        Key::Nexthop { .. } | Key::Fdb { .. } | Key::Station { .. } => true,
        _ => host_link(key, value).is_some() || parent(value).is_some(),
    }
}

/// The link of the host that a link is on.
fn parent(value: &Value) -> Option<&LinkName> {
    value.link().and_then(|link| link.kind.parent())
}

/// The link on the host that an object is, has its end at, or is about.
fn host_link<'a>(key: &'a Key, value: &'a Value) -> Option<&'a LinkName> {
    match key {
        Key::Link { ns: Ns::Host, name } | Key::Port { link: name } => Some(name),
        Key::Shortcut { tunnel, port } => Some(port.as_ref().unwrap_or(tunnel)),
        Key::Link { .. } => value.link().and_then(|link| link.kind.peer()),
        _ => None,
    }
}

/// Whether a link on the host looks as its value says.
fn fits(link: &Link, bridge: Option<&str>, value: &Value) -> bool {
    match value {
        Value::Link(wanted) => {
            let parents = wanted.mtu.is_none() && wanted.kind.parent().is_some();
            let mtu = parents || link.mtu == wanted.mtu.unwrap_or(DEFAULT_MTU);
            link.up && link.alias.is_some() && mtu
        }
        Value::Damaged(_) => false,
        Value::Port { bridge: wanted, .. } => {
            bridge == Some(wanted.as_str()) && PortFlags::of(value) == Some(link.flags)
        }
        _ => true,
    }
}
