//! The commands of the specification.

mod status;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use cnm::controller::{JoinSpec, SandboxSpec};
use cnm::{Endpoint, LinkName, Network, Sandbox, State};
use drivers::kernel::link;
use drivers::kernel::netlink::Socket;
use drivers::kernel::{KernelError, Netns};
use ipnetwork::IpNetwork;
use serde_json::Value;

use crate::check;
use crate::config::{Add, Attachment, Check, Del, Gc, Request};
use crate::plan::{describe, json};
use crate::result::{Attached, Code, Failure, Interface, Ip, Route, versions};
use crate::standalone::Standalone;

/// Does what is asked for; the value is for stdout.
pub(crate) fn run(request: Request) -> Result<Option<Value>, Failure> {
    match request {
        Request::Add(request) => add(*request).map(Some),
        Request::Check(request) => check(&request).map(|()| None),
        Request::Del(request) => del(&request).map(|()| None),
        Request::Gc(request) => gc(&request).map(|()| None),
        Request::Status { directory } => status::status(&directory).map(|()| None),
        Request::Version { asked } => Ok(Some(versions(&asked))),
    }
}

// === ADD ===

fn add(request: Add) -> Result<Value, Failure> {
    let netns = sandbox_namespace(&request.netns)?;
    let mut standalone = Standalone::open(&request.place.directory)?;
    let network = standalone.network(&request.place.network, |name| request.network.spec(name));
    let attached = network.and_then(|network| attach(&mut standalone, &network, &netns, &request));
    let attached = attached.inspect_err(|_| {
        // The failure is what counts; what is left now is removed by the next DEL or GC.
        let network = standalone.known_network(&request.place.network);
        let _ = standalone.tidy(network.as_deref());
    })?;
    Ok(attached.after(request.previous).to_json(request.version))
}

/// The namespace of the container, which must be one, and not the host's own.
fn sandbox_namespace(path: &Path) -> Result<Netns, Failure> {
    let wrong = |why: &(dyn std::error::Error + 'static)| {
        let msg = format!("CNI_NETNS {} is no network namespace", path.display());
        Failure::caused(Code::Environment, msg, why)
    };
    let netns = Netns::open(path).map_err(|error| wrong(&error))?;
    if netns.is_current().map_err(|error| wrong(&error))? {
        let msg = format!("CNI_NETNS {} is the host's own network namespace", path.display());
        return Err(Failure::new(Code::Environment, msg, "a container's is expected"));
    }
    netns.run(|| ()).map_err(|error| wrong(&error))?;
    Ok(netns)
}

fn attach(
    standalone: &mut Standalone,
    network: &Network,
    netns: &Netns,
    request: &Add,
) -> Result<Attached, Failure> {
    check_network(network, request)?;
    let Add { attachment, .. } = request;
    let owner = attachment.owner();
    let interface = &attachment.interface;
    if standalone.find(network, &owner).is_some() || has_link(netns, interface)? {
        let msg = format!("container {} has an interface {interface}", attachment.container);
        return Err(Failure::new(Code::Conflict, msg, "DEL it first, or give another CNI_IFNAME"));
    }
    let spec = SandboxSpec {
        owner,
        joins: vec![JoinSpec {
            interface: Some(interface.to_string()),
            mac: request.mac,
            addresses: request.addresses.clone(),
            ..request.endpoint.join(network)
        }],
        ports: request.ports.clone(),
        ..SandboxSpec::default()
    };
    let (id, state) = standalone.attach(&spec, netns)?;
    let (_, endpoints) = standalone.controller.sandbox(&id).unwrap_or_else(|| unreachable!());
    let Some(endpoint) = endpoints.first() else { unreachable!("it has joined") };
    attached(network, endpoint, &state, request)
}

/// A network is what its first attachment made it.
fn check_network(network: &Network, request: &Add) -> Result<(), Failure> {
    if !request.network.made(network) {
        let msg = format!(
            "network {} has attachments that were made with another configuration",
            request.place.network
        );
        let details = format!(
            "remove them first, or give it another name; it has {}, and {} is asked for",
            describe(network),
            json(&request.network)
        );
        return Err(Failure::new(Code::InvalidConfig, msg, details));
    }
    for route in request.endpoint.routes.iter().filter(|route| route.gw.is_none()) {
        let has_family = if route.dst.is_ipv6() { network.ipv6 } else { network.ipv4 };
        if !has_family {
            let msg = format!("ipam.routes: {} is of a family without addresses", route.dst);
            return Err(Failure::invalid(msg));
        }
    }
    Ok(())
}

fn has_link(netns: &Netns, name: &LinkName) -> Result<bool, Failure> {
    let look = || {
        let links = link::list(&mut Socket::open()?)?;
        Ok(links.iter().any(|link| link.name == name.as_str()))
    };
    let found = netns.run(look).and_then(|found: io::Result<bool>| found);
    found.map_err(|source| listing("links of the container", source))
}

fn listing(what: &str, source: io::Error) -> Failure {
    KernelError::Step { verb: "list", object: what.to_owned(), source }.into()
}

/// The result: the bridge, the host's end and the container's, in that order.
fn attached(
    network: &Network,
    endpoint: &Endpoint,
    state: &State,
    request: &Add,
) -> Result<Attached, Failure> {
    let look = || -> io::Result<Vec<link::Link>> {
        let socket = &mut Socket::open()?;
        let device = network.profile().device;
        let ends = state.iter().filter_map(|(_, value)| value.link()?.kind.peer().cloned());
        device.into_iter().chain(ends).map(|name| link::find(socket, &name)).collect()
    };
    let links = look().map_err(|source| listing("links", source))?;
    let mtu = links.last().map(|link| link.mtu);
    let on_host = |link: link::Link| Interface {
        name: link.name,
        mac: link.mac.map(|mac| mac.to_string()).unwrap_or_default(),
        mtu: Some(link.mtu),
        ..Interface::default()
    };
    let mut interfaces: Vec<_> = links.into_iter().map(on_host).collect();
    let ip = |address: &IpNetwork| Ip {
        address: *address,
        gateway: network.pool_of(address.ip()).and_then(|pool| pool.gateway),
        interface: Some(interfaces.len()),
    };
    let ips = endpoint.addresses.iter().map(ip).collect();
    interfaces.push(Interface {
        name: endpoint.interface.to_string(),
        mac: endpoint.mac.to_string(),
        mtu,
        sandbox: request.netns.display().to_string(),
        ..Interface::default()
    });
    let route = |(key, value): (&cnm::Key, &cnm::Value)| match (key, value) {
        (cnm::Key::Route { destination, .. }, cnm::Value::Route { via, .. }) => {
            Some(Route { dst: *destination, gw: *via, others: serde_json::Map::new() })
        }
        _ => None,
    };
    let routes = state.iter().filter_map(route).collect();
    Ok(Attached { interfaces, ips, routes, dns: request.dns.clone() })
}

// === DEL, GC ===

fn del(request: &Del) -> Result<(), Failure> {
    let mut standalone = Standalone::open(&request.place.directory)?;
    let network = standalone.known_network(&request.place.network);
    if let Some(network) = &network
        && let Some((sandbox, _)) = standalone.find(network, &request.attachment.owner())
    {
        standalone.detach(&sandbox.id)?;
    }
    standalone.tidy(network.as_deref())
}

fn gc(request: &Gc) -> Result<(), Failure> {
    let mut standalone = Standalone::open(&request.place.directory)?;
    let network = standalone.known_network(&request.place.network);
    let attached = network.as_deref().map(|network| standalone.attached(network));
    let valid: BTreeSet<_> = request.valid.iter().map(Attachment::owner).collect();
    let mut failures = Vec::new();
    for (sandbox, _) in attached.into_iter().flatten() {
        if !valid.contains(&sandbox.owner) {
            failures.extend(standalone.detach(&sandbox.id).err());
        }
    }
    failures.extend(standalone.heal().err());
    failures.extend(standalone.tidy(network.as_deref()).err());
    failures.into_iter().next().map_or(Ok(()), Err)
}

// === CHECK ===

fn check(request: &Check) -> Result<(), Failure> {
    let standalone = Standalone::open(&request.place.directory)?;
    let network = standalone.known_network(&request.place.network);
    let found = network.as_deref().and_then(|network| {
        let (sandbox, endpoint) = standalone.find(network, &request.attachment.owner())?;
        Some((network, sandbox, endpoint))
    });
    let Some((network, sandbox, endpoint)) = found else {
        let container = &request.attachment.container;
        let msg =
            format!("container {container} is not attached to network {}", request.place.network);
        return Err(Failure::new(Code::UnknownContainer, msg, ""));
    };
    let mut differences = check::forgotten(&endpoint, &request.previous);
    differences.extend(elsewhere(&standalone, &sandbox, &request.netns));
    let mut desired = standalone.controller.desired_of_network(&network.id);
    desired.extend(standalone.controller.desired_of(&sandbox.id));
    let observed = standalone.kernel.observe_only(&[sandbox.id.clone()].into())?;
    differences.extend(check::differences(&desired, &observed));
    if differences.is_empty() {
        return Ok(());
    }
    let msg = format!("container {} is not as ADD left it", request.attachment.container);
    Err(Failure::new(Code::Damaged, msg, differences.join("; ")))
}

/// Whether the runtime means another namespace than at ADD.
fn elsewhere(standalone: &Standalone, sandbox: &Sandbox, path: &Path) -> Option<String> {
    let identity = |path: &Path| fs::metadata(path).ok().map(|m| (m.dev(), m.ino()));
    let given = identity(path);
    let same = given.is_some() && given == identity(&standalone.kernel.namespace_path(&sandbox.id));
    (!same).then(|| format!("CNI_NETNS {} is not the namespace of ADD", path.display()))
}
