//! The requests that steps are made of.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::sync::PoisonError;

use cnm::link::MacvlanMode;
use cnm::{Key, Link, LinkKind, LinkName, Ns, Step, Value};

use super::Linux;
use super::apply::{failure, wanted};
use crate::kernel::netlink::{Request, Socket, errno};
use crate::kernel::netns::{Netns, Visitor};
use crate::kernel::tag::Tag;
use crate::kernel::{KernelError, address, link, neighbour, nexthop, route, sysctl};

/// Requests with the steps they are for.
pub(super) type Requests<'p> = Vec<(&'p Step, Request)>;

/// The requests for the addresses, routes and neighbours among the steps, and the steps that have none
/// because their link is missing.
pub(super) fn equipment<'p>(
    socket: &mut Socket,
    steps: &[&'p Step],
) -> (Requests<'p>, Vec<KernelError>) {
    let mut requests = Requests::new();
    let mut failures = Vec::new();
    let mut indexes = BTreeMap::new();
    // The kernel takes a gateway only if it knows a way there, which may be another route.
    let (behind, near): (Vec<&Step>, Vec<&Step>) = steps
        .iter()
        .copied()
        .partition(|step| matches!(wanted(step), Value::Route { via: Some(_), .. }));
    for step in near.into_iter().chain(behind) {
        let Some(link) = link_of(step) else {
            requests.extend(nexthop_request(step).map(|request| (step, request)));
            continue;
        };
        let known = indexes.get(link).copied();
        let index = known.map_or_else(|| link::index(socket, link), Ok);
        let request = match index {
            Ok(index) => {
                indexes.insert(link, index);
                equip_request(step, index)
            }
            Err(source) => {
                failures.push(failure(step, source));
                None
            }
        };
        requests.extend(request.map(|request| (step, request)));
    }
    (requests, failures)
}

/// The link that an address, a route or a neighbour is on.
fn link_of(step: &Step) -> Option<&LinkName> {
    match (step.key(), wanted(step)) {
        (
            Key::Address { link, .. }
            | Key::Neighbour { link, .. }
            | Key::Fdb { link, .. }
            | Key::Station { port: link, .. },
            _,
        )
        | (Key::Route { .. }, Value::Route { link, .. } | Value::HostRoute { link, .. }) => {
            Some(link)
        }
        _ => None,
    }
}

fn equip_request(step: &Step, link: u32) -> Option<Request> {
    match (step, step.key(), wanted(step)) {
        (_, Key::Neighbour { address, .. }, Value::Neighbour { mac }) => {
            Some(neighbour::set(link, *address, *mac))
        }
        (_, Key::Neighbour { address, .. }, Value::Proxied) => {
            Some(neighbour::proxy(link, *address))
        }
        (_, Key::Fdb { mac, .. }, Value::Via { group }) => {
            Some(neighbour::forward(link, *mac, *group))
        }
        (_, Key::Station { mac, .. }, _) => Some(neighbour::place(link, *mac)),
        (Step::Add(..), Key::Address { address, .. }, _) => Some(address::add(link, *address)),
        (Step::Add(..), Key::Route { destination, .. }, Value::Route { via, .. }) => {
            Some(route::add(*destination, link, *via))
        }
        (_, Key::Route { destination, .. }, Value::HostRoute { source, .. }) => {
            Some(route::set_from(*destination, link, *source))
        }
        (Step::Change { .. }, Key::Route { destination, .. }, Value::Route { via, .. }) => {
            Some(route::replace(*destination, link, *via))
        }
        _ => None,
    }
}

/// The request for a way to another host, or for a group of such.
fn nexthop_request(step: &Step) -> Option<Request> {
    match (step.key(), wanted(step)) {
        (Key::Nexthop { id }, Value::Nexthop { via }) => Some(nexthop::set(*id, *via)),
        (Key::Nexthop { id }, Value::NexthopGroup { of }) => Some(nexthop::set_group(*id, *of)),
        _ => None,
    }
}

/// Tells the endpoints on bridges of the host whose addresses behind tunnels are now.
pub(super) fn announce(linux: &Linux, visitor: &mut Visitor, steps: &[&Step]) -> io::Result<()> {
    let mut bridges = BTreeMap::new();
    let mut news = Vec::new();
    for step in steps {
        let (Key::Neighbour { link, address, .. }, Value::Neighbour { mac }) =
            (step.key(), wanted(step))
        else {
            continue;
        };
        let is_bridge = if let Some(known) = bridges.get(link).copied() {
            known
        } else {
            visitor.enter(&linux.host)?;
            linux.with_socket(|socket| link::find(socket, link))?.is_bridge()
        };
        bridges.insert(link, is_bridge);
        if is_bridge {
            news.push((link, *address, *mac));
        }
    }
    if news.is_empty() {
        return Ok(());
    }
    let mut announcers = linux.announcers.lock().unwrap_or_else(PoisonError::into_inner);
    news.into_iter().try_for_each(|(link, address, mac)| announcers.tell(link, address, mac))
}

/// Why a tunnel cannot be made, where that is somebody else's doing: says whose.
pub(super) fn explained(linux: &Linux, step: &Step, source: io::Error) -> io::Error {
    let Some(LinkKind::Vxlan { vni, port, .. }) = wanted(step).link().map(|link| &link.kind) else {
        return source;
    };
    let message = match errno(&source) {
        Some(libc::EEXIST) => {
            let other = linux.with_socket(|socket| link::tunnel(socket, *vni, *port));
            let other = match other {
                Ok(Some(name)) => format!("link {name} has"),
                _ => "a link that was made here and is in another namespace now has".to_owned(),
            };
            format!(
                "{other} the network number {vni} at port {port} already: remove it, or make the \
                     network with another number (-o com.docker.network.driver.overlay.vxlanid_list)"
            )
        }
        Some(libc::EADDRINUSE) => format!("another program has UDP port {port}: end it"),
        _ => return source,
    };
    io::Error::new(source.kind(), message)
}

/// The requests that remove addresses, routes and neighbours, and links of the namespace. What is
/// on a link that is gone is gone.
pub(super) fn undoing<'p>(
    socket: &mut Socket,
    ns: &Ns,
    steps: &[&'p Step],
    host: &Netns,
) -> Requests<'p> {
    let mut requests = Requests::new();
    let mut indexes = BTreeMap::new();
    for step in steps {
        if let (Key::Link { name, .. }, Some((from, _))) = (step.key(), moved(wanted(step))) {
            // One that is gone is nobody's to have back.
            let index = link::index(socket, name).ok();
            let back = index.map(|index| link::move_back(index, from, host.as_fd()));
            requests.extend(back.map(|request| (*step, request)));
            continue;
        }
        match step.key() {
            Key::Route { destination, .. } => {
                requests.push((step, route::remove(*destination)));
                continue;
            }
            Key::Nexthop { id } => {
                requests.push((step, nexthop::remove(*id)));
                continue;
            }
            _ => {}
        }
        requests.extend(unlinking(step, ns).into_iter().map(|request| (*step, request)));
        let index = link_of(step).and_then(|link| {
            *indexes.entry(link).or_insert_with(|| link::index(socket, link).ok())
        });
        let request = index.and_then(|index| match (step.key(), wanted(step)) {
            (Key::Address { address, .. }, _) => Some(address::remove(index, *address)),
            (Key::Neighbour { address, .. }, Value::Proxied) => {
                Some(neighbour::unproxy(index, *address))
            }
            (Key::Neighbour { address, .. }, _) => Some(neighbour::unset(index, *address)),
            (Key::Fdb { mac, .. }, _) => Some(neighbour::unforward(index, *mac)),
            (Key::Station { mac, .. }, _) => Some(neighbour::displace(index, *mac)),
            _ => None,
        });
        requests.extend(request.map(|request| (*step, request)));
    }
    requests
}

/// What a link that somebody else made is called on the host.
fn moved(value: &Value) -> Option<(&LinkName, &Link)> {
    let link = value.link()?;
    match &link.kind {
        LinkKind::Moved { from } => Some((from, link)),
        _ => None,
    }
}

/// The requests that remove what is in a namespace of a link, or take a port out of its bridge.
pub(super) fn unlinking(step: &Step, ns: &Ns) -> Vec<Request> {
    if let Key::Port { link } = step.key() {
        return vec![link::set_bridge(link, 0)];
    }
    let remains = wanted(step).remains(step.key()).into_iter().filter(|(at, _)| at == ns);
    remains.map(|(_, name)| link::remove(&name)).collect()
}

/// Brings up a link of a sandbox. One without an end on the host is marked where it is.
///
/// The kernel gives a new link that everything is handed on to the address of its parent, and when it
/// is given another one, its parent gets that too.
pub(super) fn inner_end(step: &Step, prefix: &str, mtu: u32) -> Option<Request> {
    let (Key::Link { name, .. }, Value::Link(link)) = (step.key(), wanted(step)) else {
        return None;
    };
    let alias = link.kind.peer().is_none().then(|| Tag::of(link).alias(prefix));
    let added = matches!(step, Step::Add(..));
    let mtu = (!added && moved(wanted(step)).is_none()).then_some(mtu);
    let passthru = matches!(link.kind, LinkKind::Macvlan { mode: MacvlanMode::Passthru, .. });
    let mac = link.mac.filter(|_| added && passthru);
    Some(link::switch_on_with(name, mtu, alias, mac))
}

/// Neighbours may know another owner of the addresses.
pub(super) fn announcement(step: &Step) -> Option<Request> {
    match step {
        Step::Add(Key::Link { name, .. }, Value::Link(Link { mac: Some(mac), .. })) => {
            Some(link::announce(name, *mac))
        }
        _ => None,
    }
}

/// A host that forwards IPv6 takes no more notice of router advertisements, and would lose the
/// default route that it has from one. Links with such a route go on listening.
pub(super) fn keep_autoconfiguration(socket: &mut Socket) -> io::Result<()> {
    const RTPROT_RA: u8 = 9;
    if sysctl::read(sysctl::FORWARDING[1])? != "0" {
        return Ok(());
    }
    let links: BTreeMap<_, _> =
        link::list(socket)?.into_iter().map(|link| (link.index, link.name)).collect();
    for route in route::list(socket)? {
        let name = route.link.and_then(|index| links.get(&index));
        if let Some(name) = name.filter(|_| route.protocol == RTPROT_RA) {
            let path = format!("net/ipv6/conf/{name}/accept_ra");
            if sysctl::read(&path)? == "1" {
                sysctl::write(&path, "2")?;
            }
        }
    }
    Ok(())
}
