//! What the host was told of endpoints on other hosts: ways, entries of forwarding databases,
//! neighbours. There may be very many, so that they are kept in little space, and the kernel is asked
//! for all of them only where a notification does not fit.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;

use cnm::{Key, LinkName, Mac, Ns, Value};
use netlink_packet_route::RouteNetlinkMessage;

use crate::kernel::link;
use crate::kernel::neighbour::{self, Forward, Way};
use crate::kernel::netlink::Socket;
use crate::kernel::nexthop::{self, Nexthop};

/// All that was told.
#[derive(Debug, Default)]
pub(super) struct Told {
    by_link: BTreeMap<LinkName, BTreeMap<Entry, u64>>,
    ways: BTreeMap<u32, Value>,
}

/// What was told of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Entry {
    Fdb(Mac),
    Station(Mac),
    Neighbour(IpAddr),
}

/// An entry, and what it leads to as a number.
type Said = (Entry, Option<u64>);

impl Told {
    /// Notes an object, if it is one of these.
    pub(super) fn insert(&mut self, key: &Key, value: &Value) -> bool {
        if let Key::Nexthop { id } = key {
            self.ways.insert(*id, value.clone());
            return true;
        }
        let Some((link, entry)) = entry(key) else { return false };
        let Some(to) = number(value) else { return false };
        self.by_link.entry(link.clone()).or_default().insert(entry, to);
        true
    }

    /// Forgets an object, if it is one of these.
    pub(super) fn remove(&mut self, key: &Key) {
        if let Key::Nexthop { id } = key {
            self.ways.remove(id);
        }
        let Some((link, entry)) = entry(key) else { return };
        let Some(entries) = self.by_link.get_mut(link) else { return };
        entries.remove(&entry);
        if entries.is_empty() {
            self.by_link.remove(link);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_link.is_empty() && self.ways.is_empty()
    }

    /// Whether a message about a neighbour says something else than what was told.
    pub(super) fn contradicts(&self, message: &RouteNetlinkMessage, names: &mut Names) -> bool {
        let gone = matches!(message, RouteNetlinkMessage::DelNeighbour(_));
        let Some((index, (entry, to))) = said(message) else { return false };
        if let (Entry::Station(mac), false) = (entry, gone)
            && self.is_placed(mac)
            && names.of(index).is_none_or(|name| self.known(&name, Entry::Station(mac)).is_none())
        {
            return true;
        }
        let Some(name) = names.of(index) else { return false };
        self.known(&name, entry).is_some_and(|known| gone || Some(known) != to)
    }

    /// Whether a message about a way says something else than what was told.
    pub(super) fn contradicts_way(&self, way: &Nexthop, gone: bool) -> bool {
        let known = self.ways.get(&way.id);
        known.is_some_and(|known| gone || !way.ours || way.value.as_ref() != Some(known))
    }

    /// Whether the kernel lacks something of it.
    pub(super) fn lacks(&self, found: &Found) -> bool {
        let ways = self.ways.iter();
        if ways.into_iter().any(|(id, value)| found.ways.get(id) != Some(&Some(value.clone()))) {
            return true;
        }
        let lacks = |(name, entries): (&LinkName, &BTreeMap<Entry, u64>)| {
            let found = found.by_link.get(name);
            let is_there = |said: (Entry, u64)| found.is_some_and(|found| found.contains(&said));
            !entries.iter().all(|(entry, to)| is_there((*entry, *to)))
        };
        self.by_link.iter().any(lacks)
    }

    fn known(&self, link: &LinkName, entry: Entry) -> Option<u64> {
        self.by_link.get(link)?.get(&entry).copied()
    }

    /// Whether a hardware address is behind a tunnel.
    fn is_placed(&self, mac: Mac) -> bool {
        self.by_link.values().any(|entries| entries.contains_key(&Entry::Station(mac)))
    }
}

/// What the kernel has of such things.
#[derive(Debug, Default)]
pub(super) struct Found {
    by_link: BTreeMap<LinkName, BTreeSet<(Entry, u64)>>,
    ways: BTreeMap<u32, Option<Value>>,
}

impl Found {
    /// Looks at all of it.
    pub(super) fn read(socket: &mut Socket) -> io::Result<Self> {
        let mut found = Self::default();
        let ways = nexthop::list(socket)?.into_iter();
        found.ways = ways.map(|way| (way.id, way.value)).collect();
        let names: BTreeMap<u32, LinkName> = link::list(socket)?
            .into_iter()
            .filter_map(|link| Some((link.index, link.name.parse().ok()?)))
            .collect();
        for Forward { link, mac, to } in neighbour::forwards(socket)? {
            found.add(names.get(&link), forward(mac, to));
        }
        for known in neighbour::list(socket)? {
            let said = (Entry::Neighbour(known.address), Some(of_mac(known.mac)));
            found.add(names.get(&known.link), said);
        }
        Ok(found)
    }

    fn add(&mut self, name: Option<&LinkName>, (entry, to): Said) {
        let (Some(name), Some(to)) = (name, to) else { return };
        if let Some(entries) = self.by_link.get_mut(name) {
            entries.insert((entry, to));
        } else {
            self.by_link.insert(name.clone(), BTreeSet::from([(entry, to)]));
        }
    }
}

/// The names of links, as long as nothing is heard of them.
#[derive(Debug)]
pub(super) struct Names {
    socket: Socket,
    known: BTreeMap<u32, Option<LinkName>>,
}

impl Names {
    /// Asks by a socket in the host's namespace.
    pub(super) fn new(socket: Socket) -> Self {
        Self { socket, known: BTreeMap::new() }
    }

    /// Something was heard of a link.
    pub(super) fn forget(&mut self, index: u32) {
        self.known.remove(&index);
    }

    pub(super) fn of(&mut self, index: u32) -> Option<LinkName> {
        let Self { socket, known } = self;
        let ask = || link::name(socket, index).ok().and_then(|name| name.parse().ok());
        known.entry(index).or_insert_with(ask).clone()
    }
}

fn entry(key: &Key) -> Option<(&LinkName, Entry)> {
    match key {
        Key::Fdb { link, mac } => Some((link, Entry::Fdb(*mac))),
        Key::Station { port, mac } => Some((port, Entry::Station(*mac))),
        Key::Neighbour { ns: Ns::Host, link, address } => Some((link, Entry::Neighbour(*address))),
        _ => None,
    }
}

fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Via { group } => Some(u64::from(*group)),
        Value::Present => Some(0),
        Value::Neighbour { mac } => Some(of_mac(*mac)),
        _ => None,
    }
}

fn of_mac(mac: Mac) -> u64 {
    mac.octets().into_iter().fold(0, |number, byte| number << 8 | u64::from(byte))
}

fn forward(mac: Mac, to: Way) -> Said {
    match to {
        Way::Group(group) => (Entry::Fdb(mac), Some(u64::from(group))),
        Way::Addresses => (Entry::Fdb(mac), None),
        Way::Port => (Entry::Station(mac), Some(0)),
        Way::PortForNow => (Entry::Station(mac), None),
    }
}

/// What a message says of which link.
fn said(message: &RouteNetlinkMessage) -> Option<(u32, Said)> {
    if let Some(Forward { link, mac, to }) = neighbour::read_forward(message) {
        return Some((link, forward(mac, to)));
    }
    let (link, address, mac) = neighbour::told(message)?;
    Some((link, (Entry::Neighbour(address), mac.map(of_mac))))
}
