//! Observing: what of the host is ours, in the words of [`cnm::Key`] and [`cnm::Value`].
//!
//! Ours are links with our tag and what we set on them: addresses and routes with our protocol
//! number, the sysctls that [`sysctl`] lists, and everything in our table. What a container did in
//! its own namespace (tunnels, addresses, routes) is not reported and so never removed.
//!
//! Two values stand for damage, since no desired state has them: a link that is down has the MTU
//! 0, and a pair whose far end is not where it belongs has the hardware address of all zeros.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;

use cnm::{Key, LinkName, Mac, Ns, SandboxId, State, Value};

use super::{Linux, failed, pin};
use crate::kernel::KernelError;
use crate::kernel::address::{self, Address, PROTOCOL};
use crate::kernel::link::{self, DEFAULT_MTU, Link};
use crate::kernel::netlink::Socket;
use crate::kernel::netns::{Netns, Visitor};
use crate::kernel::nft::SandboxTable;
use crate::kernel::route::{self, Route};
use crate::kernel::sysctl;
use crate::kernel::tag::Tag;

/// Which sandboxes are looked at.
#[derive(Clone, Copy, Debug)]
pub(super) enum Scope<'a> {
    All,
    Only(&'a BTreeSet<SandboxId>),
}

impl Scope<'_> {
    fn contains(self, sandbox: &SandboxId) -> bool {
        match self {
            Self::All => true,
            Self::Only(sandboxes) => sandboxes.contains(sandbox),
        }
    }
}

/// Observes the host and sandboxes, one after the other on one thread.
pub(super) fn observe(linux: &Linux, scope: Scope<'_>) -> Result<State, KernelError> {
    let mut state = Visitor::send(|visitor| observe_links(linux, visitor, scope))
        .map_err(failed("list", "links, addresses and routes"))?;
    // The table's constant part is not in the vocabulary of states: it is put right on the way.
    linux.nft.ensure_skeleton()?;
    let elements = linux.nft.observe()?;
    state.extend(elements.into_iter().map(|(element, value)| (Key::Element(element), value)));
    Ok(state)
}

fn observe_links(linux: &Linux, visitor: &mut Visitor, scope: Scope<'_>) -> io::Result<State> {
    visitor.enter(&linux.host)?;
    let view = linux.with_socket(View::read)?;
    let ours = view.ours(&linux.config.tag);
    let mut state = State::default();
    view.report(&Ns::Host, |link| ours.contains_key(&link.index), &mut state);
    for (link, tag) in ours.values() {
        if tag.far.is_none() {
            state.extend(bridge(link, tag));
        }
    }
    for path in sysctl::forwarding(&state).map(str::to_owned).collect::<Vec<_>>() {
        let value = sysctl::read(&path)?;
        state.insert(Key::Sysctl { ns: Ns::Host, path }, Value::Text(value));
    }
    let mut far_ends = BTreeMap::new();
    let pinned = pin::list(&linux.config.namespaces)?;
    for sandbox in pinned.into_iter().filter(|sandbox| scope.contains(sandbox)) {
        let path = linux.namespace_path(&sandbox);
        match Netns::open(&path).and_then(|netns| visitor.enter(&netns)) {
            Ok(()) => {}
            // It was removed while we looked.
            Err(_) if !pin::is_pinned(&path) => continue,
            Err(error) => return Err(error),
        }
        let interfaces = observe_sandbox(linux, &sandbox, &ours, &mut state)?;
        far_ends.insert(sandbox, interfaces);
    }
    for (link, tag) in ours.values() {
        let far = tag.far.as_ref();
        if far.is_some_and(|(sandbox, _)| !scope.contains(sandbox)) {
            continue;
        }
        let ends = far.and_then(|(sandbox, _)| far_ends.get(sandbox));
        let pair = veth(link, tag, ends.map_or(&[], Vec::as_slice));
        // A damaged pair is made again, which takes its port along.
        let whole = !matches!(pair, Some((_, Value::Veth { mac: NOWHERE, .. })));
        state.extend(pair);
        state.extend(port(link, &view).filter(|_| whole));
    }
    Ok(state)
}

/// The hardware address of a far end that is not where it belongs.
const NOWHERE: Mac = Mac::UNSPECIFIED;

/// Links of ours by number, with what their tags say.
type Ours<'a> = BTreeMap<u32, (&'a Link, Tag)>;

/// What a namespace has.
#[derive(Debug)]
struct View {
    links: Vec<Link>,
    addresses: Vec<Address>,
    routes: Vec<Route>,
}

impl View {
    fn read(socket: &mut Socket) -> io::Result<Self> {
        Ok(Self {
            links: link::list(socket)?,
            addresses: address::list(socket)?,
            routes: route::list(socket)?,
        })
    }

    fn ours(&self, prefix: &str) -> Ours<'_> {
        let tagged = self.links.iter().filter_map(|link| {
            let tag = Tag::parse(prefix, link.alias.as_deref()?)?;
            Some((link.index, (link, tag)))
        });
        tagged.collect()
    }

    fn name(&self, index: u32) -> Option<LinkName> {
        self.links.iter().find(|link| link.index == index)?.name.parse().ok()
    }

    /// Whether an address on a link of ours was set by us. Before 5.18 the kernel does not tell,
    /// not even of the loopback's own; then it is ours unless the kernel makes such by itself.
    fn is_ours(&self, address: &Address) -> bool {
        let kernel_tells = self.addresses.iter().any(|address| address.protocol.is_some());
        let automatic =
            matches!(address.address.ip(), IpAddr::V6(ip) if ip.is_unicast_link_local());
        address.protocol == Some(PROTOCOL) || (!kernel_tells && !automatic)
    }

    /// Our addresses and routes on some of the links.
    fn report(&self, ns: &Ns, wanted: impl Fn(&Link) -> bool, state: &mut State) {
        for link in self.links.iter().filter(|link| wanted(link)) {
            let Ok(name) = link.name.parse::<LinkName>() else { continue };
            let addresses =
                self.addresses.iter().filter(|a| a.link == link.index && self.is_ours(a));
            state.extend(addresses.map(|a| {
                let key = Key::Address { ns: ns.clone(), link: name.clone(), address: a.address };
                (key, Value::Present)
            }));
            let routes = self.routes.iter().filter(|r| r.is_ours() && r.link == Some(link.index));
            state.extend(routes.map(|r| {
                let key = Key::Route { ns: ns.clone(), destination: r.destination };
                (key, Value::Route { link: name.clone(), via: r.via })
            }));
        }
    }
}

/// Reports what is inside a sandbox, and returns its interfaces that are ours.
fn observe_sandbox(
    linux: &Linux,
    sandbox: &SandboxId,
    ours: &Ours<'_>,
    state: &mut State,
) -> io::Result<Vec<Link>> {
    let ns = Ns::Sandbox(sandbox.clone());
    let view = View::read(&mut Socket::open()?)?;
    let is_ours = |link: &Link| {
        let near = link.peer.and_then(|index| ours.get(&index));
        near.is_some_and(|(near, tag)| {
            let far = tag.far.as_ref();
            near.peer == Some(link.index) && far.is_some_and(|(there, _)| there == sandbox)
        })
    };
    state.insert(Key::Namespace { sandbox: sandbox.clone() }, Value::Present);
    view.report(&ns, is_ours, state);
    let mut sysctls = pin::noted(&linux.namespace_path(sandbox))?;
    let interfaces: Vec<_> = view.links.iter().filter(|link| is_ours(link)).cloned().collect();
    let names = interfaces.iter().filter_map(|link| link.name.parse().ok());
    sysctls.extend(names.flat_map(|name: LinkName| sysctl::of_interface(&name)));
    state.extend(read_sysctls(&ns, sysctls));
    if SandboxTable::open().and_then(|table| table.is_installed()).map_err(io::Error::other)? {
        state.insert(Key::Resolver { sandbox: sandbox.clone() }, Value::Present);
    }
    Ok(interfaces)
}

fn bridge(link: &Link, tag: &Tag) -> Vec<(Key, Value)> {
    let Ok(name) = link.name.parse::<LinkName>() else { return Vec::new() };
    let value = Value::Bridge { mtu: mtu(&[link]), tag: tag.owner.clone() };
    let mut found = read_sysctls(&Ns::Host, sysctl::of_bridge(&name));
    found.push((Key::Bridge { name }, value));
    found
}

fn veth(link: &Link, tag: &Tag, interfaces: &[Link]) -> Option<(Key, Value)> {
    let (sandbox, interface) = tag.far.clone()?;
    let far = interfaces.iter().find(|far| link.peer == Some(far.index));
    let far = far.filter(|far| far.name == interface.as_str());
    let mac = far.and_then(|far| far.mac).unwrap_or(NOWHERE);
    let ends: Vec<_> = far.into_iter().chain([link]).collect();
    let value = Value::Veth { mac, mtu: mtu(&ends), tag: tag.owner.clone() };
    Some((Key::Veth { name: link.name.parse().ok()?, sandbox, interface }, value))
}

fn port(link: &Link, view: &View) -> Option<(Key, Value)> {
    let bridge = view.name(link.bridge?)?;
    let key = Key::Port { link: link.name.parse().ok()? };
    let Link { flags, .. } = link;
    Some((key, Value::Port { bridge, isolated: flags.isolated, hairpin: flags.hairpin }))
}

/// The MTU in the vocabulary of values: nothing for the kernel's default, 0 if an end is down,
/// the smallest if the ends differ.
fn mtu(ends: &[&Link]) -> Option<u32> {
    if ends.iter().any(|link| !link.up) {
        return Some(0);
    }
    ends.iter().map(|link| link.mtu).min().filter(|mtu| *mtu != DEFAULT_MTU)
}

/// Reads sysctls in the namespace of the calling thread. One that has just vanished is left out.
fn read_sysctls(ns: &Ns, paths: impl IntoIterator<Item = String>) -> Vec<(Key, Value)> {
    let read = |path: String| {
        let value = sysctl::read(&path).ok()?;
        Some((Key::Sysctl { ns: ns.clone(), path }, Value::Text(value)))
    };
    paths.into_iter().filter_map(read).collect()
}
