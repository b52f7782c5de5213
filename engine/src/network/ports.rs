//! The host ports of a sandbox: bound while a change is decided, then held by the resolver's process.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;

use cnm::{PortBinding, Sandbox};
use dns::protocol::{HeldPort, Twin};
use drivers::kernel::{HostPorts, KernelError};

use super::resolver::BoundPort;
use super::{Change, Reserved};
use engine_error::Error;

/// Where ports lead whose packets the kernel does not translate: the plan's word. A port that is
/// not among them leads nowhere.
pub(super) type Carried = BTreeMap<PortBinding, SocketAddr>;

/// All addresses of a family.
const ANY4: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const ANY6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// What the resolver is to hold of a change's ports, with their sockets.
pub(super) fn held<'a>(change: &'a Change<'_>, carried: &Carried) -> Vec<BoundPort<'a>> {
    let held = |(bindings, socket): &'a Reserved| BoundPort {
        port: held_port(bindings, carried),
        socket: socket.as_fd(),
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
pub(super) fn ports_of(sandbox: &Sandbox, carried: &Carried) -> Vec<HeldPort> {
    let ports: HashSet<&PortBinding> = sandbox.ports.iter().collect();
    // A port of both families is bound by one socket, if possible.
    let twin = |binding: &PortBinding, host: IpAddr| {
        let twin = PortBinding { host, ..binding.clone() };
        (ports.contains(&twin)).then_some(twin)
    };
    let held = |binding: &PortBinding| match binding.host {
        host if host == ANY4 => match twin(binding, ANY6) {
            Some(twin) => Some(held_port(&[binding.clone(), twin], carried)),
            None => Some(held_port(std::slice::from_ref(binding), carried)),
        },
        host if host == ANY6 && twin(binding, ANY4).is_some() => None,
        _ => Some(held_port(std::slice::from_ref(binding), carried)),
    };
    sandbox.ports.iter().filter_map(held).collect()
}

/// What the resolver is to hold by one socket: one port, or two that differ in their family.
fn held_port(bindings: &[PortBinding], carried: &Carried) -> HeldPort {
    let (binding, twin) = (&bindings[0], bindings.get(1));
    let target = |binding| carried.get(binding).copied();
    HeldPort {
        binding: binding.clone(),
        target: target(binding),
        twin: twin.map(|twin| Twin { host: twin.host, target: target(twin) }),
    }
}
