//! The host ports of a sandbox: bound while a change is decided, then held by the resolver's process.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;

use cnm::{Element, Endpoint, Key, PortBinding, Protocol, Sandbox, State, Value};
use dns::protocol::{HeldPort, Twin};
use drivers::kernel::{HostPorts, KernelError};

use super::resolver::Held;
use super::{Change, Reserved};
use engine_error::Error;

/// All addresses of a family.
const ANY4: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const ANY6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// What the resolver is to hold of a change's ports, with their sockets.
pub(super) fn held<'a>(change: &'a Change<'_>) -> Vec<Held<'a>> {
    let held = |(bindings, socket): &'a Reserved| {
        let port = held_port(bindings, &change.transaction.after, &change.endpoints);
        Held { port, socket: socket.as_fd() }
    };
    change.reserved.iter().map(held).collect()
}

/// Binds a port of the host on some addresses, by one socket where that does for all.
pub(super) fn reserve(
    host: &HostPorts<'_>,
    bindings: &[PortBinding],
    reserved: &mut Vec<Reserved>,
) -> Vec<std::io::Result<bool>> {
    if let Some(socket) = host.reserve_pair(bindings) {
        reserved.push((bindings.to_vec(), socket));
        return bindings.iter().map(|_| Ok(true)).collect();
    }
    let one = |binding: &PortBinding| match host.reserve(binding) {
        Ok(Some(socket)) => {
            reserved.push((vec![binding.clone()], socket));
            Ok(true)
        }
        Ok(None) => Ok(false),
        // Its reason tells the controller whether the host merely lacks the family.
        Err(KernelError::Step { source, .. }) => Err(source),
        Err(error) => Err(std::io::Error::other(Error::from(error).chain())),
    };
    bindings.iter().map(one).collect()
}

/// Lets go of sockets that were tried in vain.
pub(super) fn retain_taken(reserved: &mut Vec<Reserved>, sandbox: &Sandbox) {
    let ports: HashSet<&PortBinding> = sandbox.ports.iter().collect();
    reserved.retain(|(bindings, _)| bindings.iter().any(|binding| ports.contains(binding)));
}

/// What the resolver is to hold of all ports of a sandbox.
pub(super) fn ports_of(
    sandbox: &Sandbox,
    state: &State,
    endpoints: &[Arc<Endpoint>],
) -> Vec<HeldPort> {
    let ports: HashSet<&PortBinding> = sandbox.ports.iter().collect();
    // A port of both families is bound by one socket, if possible.
    let twin = |binding: &PortBinding, host: IpAddr| {
        let twin = PortBinding { host, ..binding.clone() };
        (ports.contains(&twin)).then_some(twin)
    };
    let held = |binding: &PortBinding| match binding.host {
        host if host == ANY4 => match twin(binding, ANY6) {
            Some(twin) => Some(held_port(&[binding.clone(), twin], state, endpoints)),
            None => Some(held_port(std::slice::from_ref(binding), state, endpoints)),
        },
        host if host == ANY6 && twin(binding, ANY4).is_some() => None,
        _ => Some(held_port(std::slice::from_ref(binding), state, endpoints)),
    };
    sandbox.ports.iter().filter_map(held).collect()
}

/// What the resolver is to hold by one socket: one port, or two that differ in their family.
fn held_port(bindings: &[PortBinding], state: &State, endpoints: &[Arc<Endpoint>]) -> HeldPort {
    let (binding, twin) = (&bindings[0], bindings.get(1));
    HeldPort {
        binding: binding.clone(),
        target: target(binding, state, endpoints),
        twin: twin.map(|twin| Twin { host: twin.host, target: target(twin, state, endpoints) }),
    }
}

/// Where connections go that reach a host port and are not translated by the kernel: `::1`, or
/// IPv6 clients of a container without IPv6.
fn target(binding: &PortBinding, state: &State, endpoints: &[Arc<Endpoint>]) -> Option<SocketAddr> {
    if binding.protocol == Protocol::Sctp {
        return None;
    }
    let published = Element::Published {
        host: binding.host,
        protocol: binding.protocol,
        port: binding.host_port,
    };
    if let Some(Value::Target { address, port }) = state.get(&Key::Element(published)) {
        return Some(SocketAddr::new(*address, *port));
    }
    let addresses = || endpoints.iter().flat_map(|endpoint| &endpoint.addresses);
    let same = addresses().find(|address| address.is_ipv6() == binding.host.is_ipv6());
    same.or_else(|| addresses().next()).map(|address| SocketAddr::new(address.ip(), binding.port))
}
