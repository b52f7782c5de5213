//! The requests that steps are made of.

use std::collections::BTreeMap;
use std::io;

use cnm::{Key, Step, Value};

use super::apply::{failure, wanted};
use crate::kernel::netlink::{Request, Socket};
use crate::kernel::{KernelError, address, link, route, sysctl};

/// Requests with the steps they are for.
pub(super) type Requests<'p> = Vec<(&'p Step, Request)>;

/// The requests for the addresses and routes among the steps, and the steps that have none
/// because their link is missing.
pub(super) fn equipment<'p>(
    socket: &mut Socket,
    steps: &[&'p Step],
) -> (Requests<'p>, Vec<KernelError>) {
    let mut requests = Requests::new();
    let mut failures = Vec::new();
    let mut indexes = BTreeMap::new();
    for step in steps {
        let ((Key::Address { link, .. }, _) | (Key::Route { .. }, Value::Route { link, .. })) =
            (step.key(), wanted(step))
        else {
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
        requests.extend(request.map(|request| (*step, request)));
    }
    (requests, failures)
}

fn equip_request(step: &Step, link: u32) -> Option<Request> {
    match (step, step.key(), wanted(step)) {
        (Step::Add(..), Key::Address { address, .. }, _) => Some(address::add(link, *address)),
        (Step::Add(..), Key::Route { destination, .. }, Value::Route { via, .. }) => {
            Some(route::add(*destination, link, *via))
        }
        (Step::Change { .. }, Key::Route { destination, .. }, Value::Route { via, .. }) => {
            Some(route::replace(*destination, link, *via))
        }
        _ => None,
    }
}

/// The requests that remove addresses and routes. What is on a link that is gone is gone.
pub(super) fn undoing<'p>(socket: &mut Socket, steps: &[&'p Step]) -> Requests<'p> {
    let request = |step: &Step| match step.key() {
        Key::Route { destination, .. } => Some(route::remove(*destination)),
        Key::Address { link, address, .. } => {
            Some(address::remove(link::index(socket, link).ok()?, *address))
        }
        _ => None,
    };
    let mut request = request;
    steps.iter().filter_map(|step| Some((*step, request(step)?))).collect()
}

pub(super) fn unlink(step: &Step) -> Option<Request> {
    match step.key() {
        Key::Bridge { name } | Key::Veth { name, .. } => Some(link::remove(name)),
        Key::Port { link } => Some(link::set_bridge(link, 0)),
        _ => None,
    }
}

/// Brings up the end of a pair that is in the sandbox.
pub(super) fn far_end(step: &Step) -> Option<Request> {
    let (Key::Veth { interface, .. }, Value::Veth { mtu, .. }) = (step.key(), wanted(step)) else {
        return None;
    };
    match step {
        Step::Add(..) => Some(link::switch_on(interface, None)),
        _ => Some(link::switch_on(interface, Some(mtu.unwrap_or(link::DEFAULT_MTU)))),
    }
}

/// Neighbours may know another owner of the addresses.
pub(super) fn announcement(step: &Step) -> Option<Request> {
    match step {
        Step::Add(Key::Veth { interface, .. }, Value::Veth { mac, .. }) => {
            Some(link::announce(interface, *mac))
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
