//! The host ports of a sandbox, as the resolver's process holds them.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;

use cnm::{PortBinding, Sandbox};
use dns::protocol::{HeldPort, Twin};

use super::Change;
use super::claims::ClaimedPort;
use super::resolver::BoundPort;

/// Where ports lead whose packets the kernel does not translate: the plan's word. A port that is
/// not among them leads nowhere.
pub(super) type Carried = BTreeMap<PortBinding, SocketAddr>;

/// All addresses of a family.
const ANY4: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const ANY6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// What the resolver is to hold of a change's ports, with their sockets.
pub(super) fn held<'a>(change: &'a Change, carried: &Carried) -> Vec<BoundPort<'a>> {
    let held = |ClaimedPort { bindings, socket }: &'a ClaimedPort| BoundPort {
        port: held_port(bindings, carried),
        socket: socket.as_fd(),
    };
    change.bound.iter().map(held).collect()
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

/// The ports that nobody expects to be free: `ip_local_port_range`.
pub(super) fn ephemeral_ports() -> std::ops::RangeInclusive<u16> {
    let text =
        std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut numbers = text.split_ascii_whitespace().filter_map(|word| word.parse().ok());
    match (numbers.next(), numbers.next()) {
        (Some(first), Some(last)) if first < last => first..=last,
        _ => 32_768..=60_999,
    }
}
