//! Observing: what of the host is ours, in the words of [`cnm::Key`] and [`cnm::Value`].
//!
//! Ours are links with our tag and what we set on them: addresses, routes and neighbours with our
//! protocol number, the sysctls that [`sysctl`] lists, and everything in our table. What a container
//! did in its own namespace (tunnels, addresses, routes) is not reported and so never removed.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;

use cnm::{Damage, Key, LinkKind, LinkName, Ns, SandboxId, State, Value};

use super::{Linux, failed, pin, wireguard};
use crate::kernel::KernelError;
use crate::kernel::address::{self, Address, PROTOCOL};
use crate::kernel::link::{self, DEFAULT_MTU, Link};
use crate::kernel::neighbour::{self, Forward, Way};
use crate::kernel::netlink::Socket;
use crate::kernel::netns::{Netns, Visitor};
use crate::kernel::nexthop;
use crate::kernel::nft::SandboxTable;
use crate::kernel::route::{self, Route};
use crate::kernel::shortcut::Place;
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
    let devices = wireguard::devices(ours.values().map(|(link, _)| *link))?;
    for (link, tag) in ours.values() {
        if tag.far.is_none() {
            let device = devices.get(&link.index);
            let known = device.map(wireguard::kind);
            report_link(&Ns::Host, link, tag, known, view.parent(link), &mut state);
            if let Some(device) = device {
                wireguard::report(link, device, &mut state);
            }
            state.extend(port(link, &view));
        }
    }
    for end in sysctl::ends(&state) {
        state.extend(read_sysctls(&Ns::Host, sysctl::of_end(&end)));
    }
    if state.iter().any(|(_, value)| has_known_neighbours(value)) {
        let is_ours = |index: u32| ours.contains_key(&index);
        let ns = Ns::Host;
        linux.with_socket(|socket| view.report_neighbours(socket, &ns, is_ours, &mut state))?;
    }
    linux.with_socket(|socket| view.report_forwards(socket, &ours, &mut state))?;
    linux.with_socket(|socket| report_shortcuts(linux, socket, &ours, &mut state))?;
    if state.iter().any(|(key, value)| answers_for_others(key, value)) {
        linux.with_socket(|socket| view.report_proxies(socket, &ours, &mut state))?;
    }
    for path in sysctl::forwarding(&state).map(str::to_owned).collect::<Vec<_>>() {
        let value = sysctl::read(&path)?;
        state.insert(Key::Sysctl { ns: Ns::Host, path }, Value::Text(value));
    }
    let host = HostView { view: &view, ours: &ours };
    let far_ends = observe_sandboxes(linux, visitor, scope, &host, &mut state)?;
    for (link, tag) in ours.values() {
        let far = tag.far.as_ref();
        if far.is_some_and(|(sandbox, _)| !scope.contains(sandbox)) {
            continue;
        }
        let ends = far.and_then(|(sandbox, _)| far_ends.get(sandbox));
        let Some((key, value)) = pair(link, tag, ends.map_or(&[], Vec::as_slice)) else { continue };
        // A damaged pair is made again, which takes its port along.
        state.extend(port(link, &view).filter(|_| value.link().is_some()));
        let value = match state.remove(&key) {
            Some(other) => two_of_one(&key, &other, &value),
            None => value,
        };
        state.insert(key, value);
    }
    Ok(state)
}

/// Observes the sandboxes, and returns the interfaces of each that are ours. One that cannot be
/// looked into is damaged, and of no concern to the others.
fn observe_sandboxes(
    linux: &Linux,
    visitor: &mut Visitor,
    scope: Scope<'_>,
    host: &HostView<'_>,
    state: &mut State,
) -> io::Result<BTreeMap<SandboxId, Vec<Link>>> {
    let mut far_ends = BTreeMap::new();
    let pinned = pin::list(&linux.config.namespaces)?;
    for sandbox in pinned.into_iter().filter(|sandbox| scope.contains(sandbox)) {
        let path = linux.namespace_path(&sandbox);
        let mut inside = State::default();
        let entered = Netns::open(&path).and_then(|netns| visitor.enter(&netns));
        match entered.and_then(|()| observe_sandbox(linux, &sandbox, host, &mut inside)) {
            Ok(interfaces) => {
                state.extend(inside);
                far_ends.insert(sandbox, interfaces);
            }
            // It was removed while we looked.
            Err(_) if !pin::is_pinned(&path) => {}
            Err(error) => {
                let what = format!("it cannot be looked into: {error}");
                let damage = Damage { what, remains: Vec::new() };
                state.insert(Key::Namespace { sandbox }, Value::Damaged(damage));
            }
        }
    }
    Ok(far_ends)
}

/// Links of ours by number, with what their tags say.
type Ours<'a> = BTreeMap<u32, (&'a Link, Tag)>;

/// The links of the host, for the sandboxes that have links with ends or parents there.
#[derive(Clone, Copy, Debug)]
struct HostView<'a> {
    view: &'a View,
    ours: &'a Ours<'a>,
}

impl HostView<'_> {
    /// What the mark of the pair says whose end in a sandbox a link is.
    fn tag_of(&self, far: &Link, sandbox: &SandboxId) -> Option<&Tag> {
        let (near, tag) = self.ours.get(&far.peer?)?;
        let there = tag.far.as_ref().is_some_and(|(there, _)| there == sandbox);
        (near.peer == Some(far.index) && there).then_some(tag)
    }
}

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

    /// The link of the host that a link is on, if this is the host's view.
    fn parent(&self, link: &Link) -> Option<&Link> {
        let index = link.peer?;
        self.links.iter().find(|parent| parent.index == index)
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

    /// Whether there is a route to one address alone, as to the gateway of an endpoint that is on no
    /// bridge: it is a neighbour that nobody asks for.
    fn has_gateway_alone(&self) -> bool {
        let alone = |route: &Route| {
            let longest = if route.destination.is_ipv6() { 128 } else { 32 };
            route.is_ours() && route.via.is_none() && route.destination.prefix() == longest
        };
        self.routes.iter().any(alone)
    }

    /// Our neighbours on links of ours, and what our tunnels forward.
    fn report_neighbours(
        &self,
        socket: &mut Socket,
        ns: &Ns,
        is_ours: impl Fn(u32) -> bool,
        state: &mut State,
    ) -> io::Result<()> {
        let name = |index: u32| self.name(index).filter(|_| is_ours(index));
        for entry in neighbour::list(socket)? {
            let Some(link) = name(entry.link) else { continue };
            let key = Key::Neighbour { ns: ns.clone(), link, address: entry.address };
            state.insert(key, Value::Neighbour { mac: entry.mac });
        }
        Ok(())
    }

    /// What tunnels of ours forward where, and what their bridges think is behind them.
    fn report_forwards(
        &self,
        socket: &mut Socket,
        ours: &Ours<'_>,
        state: &mut State,
    ) -> io::Result<()> {
        let tunnels: BTreeMap<u32, LinkName> = ours
            .values()
            .filter(|(link, _)| link::is_tunnel(link))
            .filter_map(|(link, _)| Some((link.index, link.name.parse().ok()?)))
            .collect();
        if !tunnels.is_empty() {
            for Forward { link, mac, to } in neighbour::forwards(socket)? {
                let Some(link) = tunnels.get(&link).cloned() else { continue };
                let (key, value) = match to {
                    Way::Group(group) => (Key::Fdb { link, mac }, Value::Via { group }),
                    Way::Addresses => (Key::Fdb { link, mac }, Value::Astray),
                    Way::Port => (Key::Station { port: link, mac }, Value::Present),
                    Way::PortForNow => (Key::Station { port: link, mac }, Value::Astray),
                };
                state.insert(key, value);
            }
        }
        // They say whose they are, but not which daemon's.
        let others = self.links.iter().filter(|link| !ours.contains_key(&link.index));
        if !tunnels.is_empty() || !others.into_iter().any(Tag::is_tunnel_of_another) {
            state.extend(nexthop::list(socket)?.into_iter().map(|nexthop| {
                let value = nexthop.value.unwrap_or(Value::Astray);
                (Key::Nexthop { id: nexthop.id }, value)
            }));
        }
        Ok(())
    }

    /// The neighbours that bridges of ours answer for.
    fn report_proxies(
        &self,
        socket: &mut Socket,
        ours: &Ours<'_>,
        state: &mut State,
    ) -> io::Result<()> {
        for (index, address) in neighbour::proxies(socket)? {
            let Some(link) = ours.get(&index).and_then(|_| self.name(index)) else { continue };
            state.insert(Key::Neighbour { ns: Ns::Host, link, address }, Value::Proxied);
        }
        Ok(())
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
                let value = match r.source {
                    Some(source) => Value::HostRoute { link: name.clone(), source },
                    None => Value::Route { link: name.clone(), via: r.via },
                };
                (key, value)
            }));
        }
    }
}

/// What leads frames past the bridges of tunnels of ours.
fn report_shortcuts(
    linux: &Linux,
    socket: &mut Socket,
    ours: &Ours<'_>,
    state: &mut State,
) -> io::Result<()> {
    let place = |link: &Link| Some(Place { index: link.index, name: link.name.parse().ok()? });
    let links = || ours.values().map(|(link, _)| *link);
    for tunnel in links().filter(|link| link::is_tunnel(link)) {
        let Some(bridge) = tunnel.bridge else { continue };
        let others =
            links().filter(|link| link.bridge == Some(bridge) && link.index != tunnel.index);
        let ports: Vec<_> = others.filter_map(place).collect();
        let Some(tunnel) = place(tunnel) else { continue };
        state.extend(linux.shortcuts.observe(socket, &tunnel, &ports)?);
    }
    Ok(())
}

/// Reports what is inside a sandbox, and returns its interfaces that are ours.
///
/// A pair is known by the mark on its end on the host; a link that has no end there by its own.
fn observe_sandbox(
    linux: &Linux,
    sandbox: &SandboxId,
    host: &HostView<'_>,
    state: &mut State,
) -> io::Result<Vec<Link>> {
    let ns = Ns::Sandbox(sandbox.clone());
    let mut socket = Socket::open()?;
    let view = View::read(&mut socket)?;
    let marked = view.ours(&linux.config.tag);
    let is_ours =
        |link: &Link| marked.contains_key(&link.index) || host.tag_of(link, sandbox).is_some();
    state.insert(Key::Namespace { sandbox: sandbox.clone() }, Value::Present);
    view.report(&ns, is_ours, state);
    if view.has_gateway_alone() {
        let is_ours = |index| view.links.iter().any(|link| link.index == index && is_ours(link));
        view.report_neighbours(&mut socket, &ns, is_ours, state)?;
    }
    for (link, tag) in marked.values().filter(|(link, _)| host.tag_of(link, sandbox).is_none()) {
        report_link(&ns, link, tag, None, host.view.parent(link), state);
    }
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

/// Reports a link that is marked itself; of one on the host, its sysctls too. Of some kinds it is known by other
/// means what they are.
fn report_link(
    ns: &Ns,
    link: &Link,
    tag: &Tag,
    known: Option<LinkKind>,
    parent: Option<&Link>,
    state: &mut State,
) {
    let Ok(name) = link.name.parse::<LinkName>() else { return };
    let moved = tag.from.clone().map(|from| LinkKind::Moved { from });
    let on = parent.and_then(|parent| parent.name.parse().ok());
    let kind = moved.or(known).or_else(|| link::kind(link, on));
    if let Some(kind) = kind.as_ref().filter(|_| *ns == Ns::Host) {
        state.extend(read_sysctls(ns, link::sysctls(kind, &name)));
    }
    let value = match kind {
        Some(kind) => {
            // On the host the address follows from the owner.
            let mac = link.mac.filter(|_| *ns != Ns::Host);
            let on = parent.filter(|_| kind.parent().is_some());
            let tag = tag.owner.clone();
            whole(&[link], on, cnm::Link { kind, mac, mtu: None, up: true, tag })
        }
        None => Value::Damaged(Damage {
            what: "it is of another kind".to_owned(),
            remains: vec![(ns.clone(), name.clone())],
        }),
    };
    state.insert(Key::Link { ns: ns.clone(), name }, value);
}

/// A pair, from its end on the host and the interfaces of the sandbox that its mark names.
fn pair(near: &Link, tag: &Tag, interfaces: &[Link]) -> Option<(Key, Value)> {
    let (sandbox, interface) = tag.far.clone()?;
    let peer: LinkName = near.name.parse().ok()?;
    let far = interfaces.iter().find(|far| near.peer == Some(far.index));
    let value = match far.filter(|far| far.name == interface.as_str()) {
        Some(far) => {
            let (kind, tag) = (LinkKind::Veth { peer }, tag.owner.clone());
            whole(&[far, near], None, cnm::Link { kind, mac: far.mac, mtu: None, up: true, tag })
        }
        None => Value::Damaged(Damage {
            what: format!("{peer} does not lead there"),
            remains: vec![(Ns::Host, peer)],
        }),
    };
    Some((Key::Link { ns: Ns::Sandbox(sandbox), name: interface }, value))
}

/// Two links that say to be the same one: neither can stay.
fn two_of_one(key: &Key, one: &Value, other: &Value) -> Value {
    let remains = [one, other].iter().flat_map(|value| value.remains(key)).collect();
    Value::Damaged(Damage { what: "there are two of it".to_owned(), remains })
}

/// A link with what its ends have in common: down if one of them is, with the smallest MTU. That of
/// the link it is on is no news.
fn whole(ends: &[&Link], on: Option<&Link>, link: cnm::Link) -> Value {
    let usual = on.map_or(DEFAULT_MTU, |on| on.mtu);
    let mtu = ends.iter().map(|end| end.mtu).min().filter(|mtu| *mtu != usual);
    let mtu = mtu.filter(|_| !matches!(link.kind, LinkKind::Moved { .. }));
    Value::Link(cnm::Link { mtu, up: ends.iter().all(|end| end.up), ..link })
}

/// Whether a sysctl has a bridge answer for neighbours that are named one by one.
fn answers_for_others(key: &Key, value: &Value) -> bool {
    let on = *value == Value::Text("1".to_owned());
    on && matches!(key, Key::Sysctl { path, .. } if path.ends_with("/proxy_ndp"))
}

/// Whether there are neighbours that nobody has to ask for: behind tunnels, and behind links to one
/// endpoint each.
fn has_known_neighbours(value: &Value) -> bool {
    let is_tunnel = |link: &cnm::Link| matches!(link.kind, LinkKind::Vxlan { .. });
    matches!(value, Value::HostRoute { .. }) || value.link().is_some_and(is_tunnel)
}

fn port(link: &Link, view: &View) -> Option<(Key, Value)> {
    let bridge = view.name(link.bridge?)?;
    let key = Key::Port { link: link.name.parse().ok()? };
    let Link { flags, .. } = link;
    let link::PortFlags { isolated, hairpin, tunnel } = *flags;
    Some((key, Value::Port { bridge, isolated, hairpin, tunnel }))
}

/// Reads sysctls in the namespace of the calling thread. One that has just vanished is left out.
fn read_sysctls(ns: &Ns, paths: impl IntoIterator<Item = String>) -> Vec<(Key, Value)> {
    let read = |path: String| {
        let value = sysctl::read(&path).ok()?;
        Some((Key::Sysctl { ns: ns.clone(), path }, Value::Text(value)))
    };
    paths.into_iter().filter_map(read).collect()
}
