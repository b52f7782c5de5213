//! The `overlay` driver: one bridge per network and host, and a tunnel that joins them.
//!
//! On each host it is a bridge network with one more port, which leads to the other hosts: the host is
//! the gateway, with the same addresses everywhere, and what is published is published where the
//! container is. Nothing is learned and nothing is flooded: where an endpoint on another host is,
//! and which hardware address it has, is known from the cluster, and told to the tunnel, to the bridge
//! and to the host's own neighbour table, by which the bridge answers its ports.
//!
//! An entry of a tunnel leads to a group of ways that holds the one way to a host. Where that host
//! gets another address, the way is changed, and whatever number of entries with it.

mod options;
mod wireguard;

use std::collections::BTreeMap;

use cnm::driver::{Driver, Encryption, Node, Peer, Profile, Reading, Room, Scope, Traits};
use cnm::network::Tunnel;
use cnm::options::{Described, OptionError};
use cnm::sandbox::Attachment;
use cnm::{
    Element, Key, Lead, Link, LinkKind, LinkName, Network, Ns, PlanError, PortBinding, Sandbox,
    State, Value,
};
use ipnetwork::IpNetwork;

use crate::bridge;
use crate::kernel::sysctl;

/// As of a bridge, on each host: see [`bridge::ROOM`].
const ROOM: Room = Room {
    because: "a bridge does not copy a broadcast to more; each host of the cluster has room for as many",
    ..bridge::ROOM
};

/// The number of the way to the host with the number 0: `rn` and two bytes more.
const FIRST_WAY: u32 = 0x726e_0000;

/// The `overlay` driver.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Overlay;

impl Driver for Overlay {
    fn name(&self) -> &'static str {
        "overlay"
    }

    fn about(&self) -> &'static str {
        "A network of all hosts of a cluster: on each of them a Linux bridge, as of the bridge driver, and a VXLAN tunnel \
         from it to the others. Each host is the gateway of the containers on it, with the same address, and leads in what is \
         published there."
    }

    fn traits(&self) -> Traits {
        Traits { scope: Scope::Cluster, ..Traits::ORDINARY }
    }

    fn read(&self, options: &BTreeMap<String, String>) -> Result<Reading, OptionError> {
        options::parse(options).map(|(_, reading)| reading)
    }

    fn options(&self) -> Vec<Described> {
        options::manuals()
    }

    fn endpoint_options(&self) -> Vec<Described> {
        bridge::endpoint_manuals()
    }

    fn changeable(&self) -> &'static [&'static [&'static str]] {
        options::CHANGEABLE
    }

    fn read_endpoint(&self, name: &str, value: &str) -> Result<bool, OptionError> {
        bridge::read_endpoint(name, value)
    }

    fn check(&self, network: &Network) -> Result<(), OptionError> {
        bridge::check_mtu(network, &options::of(network))?;
        if network.tunnel.is_none() {
            return Err(OptionError::Contradiction(
                "an overlay network is one of a cluster, and this host is in none: have it join one with \
                 `rnet cluster join`, or use the bridge driver"
                    .to_owned(),
            ));
        }
        Ok(())
    }

    fn kinds(&self, network: &Network) -> Vec<LinkKind> {
        let Some(tunnel) = &network.tunnel else { return Vec::new() };
        let encrypts = tunnel.encrypted.then(wireguard::any);
        encrypts.into_iter().chain([kind(tunnel)]).collect()
    }

    fn room(&self, _network: &Network) -> Option<Room> {
        Some(ROOM)
    }

    fn profile(&self, network: &Network) -> Profile {
        bridge::profile(network, options::of(network))
    }

    fn network(&self, network: &Network) -> Result<State, PlanError> {
        let options = options::of(network);
        let tunnel = tunnel(network)?;
        let name = link(network);
        let mut state = bridge::plan_network(network, &options);
        let value = Link {
            kind: kind(tunnel),
            mac: None,
            mtu: bridge::mtu(network, &options),
            up: true,
            tag: format!("tunnel/{}", network.id),
        };
        state.insert(Key::Link { ns: Ns::Host, name: name.clone() }, Value::Link(value));
        let port = Value::Port {
            bridge: bridge::device(network, &options),
            isolated: false,
            hairpin: false,
            tunnel: true,
        };
        state.insert(Key::Port { link: name.clone() }, port);
        let off = Value::Text("1".to_owned());
        state.extend(
            sysctl::of_tunnel(&name).map(|path| (Key::Sysctl { ns: Ns::Host, path }, off.clone())),
        );
        let Tunnel { vni, port, .. } = *tunnel;
        let is_let_in = if tunnel.encrypted {
            Element::Encrypted { port, vni }
        } else {
            Element::Tunnel { port, vni }
        };
        state.insert(Key::Element(is_let_in), Value::Present);
        if options::has_shortcut(&network.given_options) {
            state.insert(Key::Shortcut { tunnel: name, port: None }, Value::Present);
        }
        Ok(state)
    }

    fn peers(&self, network: &Network, peers: &[&Peer]) -> State {
        let device = bridge::device(network, &options::of(network));
        let port = link(network);
        let shortcut = options::has_shortcut(&network.given_options);
        let mut state = State::default();
        let Ok(tunnel) = tunnel(network) else { return state };
        let way = if tunnel.encrypted { wireguard::way } else { way };
        for Peer { mac, node, addresses, .. } in peers {
            let (link, mac, (_, group)) = (port.clone(), *mac, way(*node));
            state.insert(Key::Fdb { link, mac }, Value::Via { group });
            state.insert(Key::Station { port: port.clone(), mac }, Value::Present);
            if shortcut {
                let (tunnel, lead) = (port.clone(), Lead::Out { mac });
                state.insert(Key::Lead { tunnel, lead }, Value::Present);
            }
            for address in addresses {
                let key = Key::Neighbour { ns: Ns::Host, link: device.clone(), address: *address };
                state.insert(key, Value::Neighbour { mac });
            }
        }
        state
    }

    fn endpoint(&self, sandbox: &Sandbox, of: Attachment<'_>) -> Result<State, PlanError> {
        let mut state = bridge::plan_endpoint(sandbox, of, &options::of(of.network))?;
        if options::has_shortcut(&of.network.given_options) {
            state.extend(shortcut(of));
        }
        Ok(state)
    }

    fn guarded(&self, of: Attachment<'_>) -> Option<LinkName> {
        bridge::guarded(of, &options::of(of.network))
    }

    fn publish(&self, bindings: &[&PortBinding], to: Attachment<'_>) -> Vec<(Key, Value)> {
        bridge::publish(bindings, to, &options::of(to.network))
    }
}

/// What leads frames past the bridge, from an endpoint to those on other hosts and back. What it may
/// not send, and all that an endpoint sends that is not guarded, comes to the bridge, which decides.
fn shortcut(of: Attachment<'_>) -> Vec<(Key, Value)> {
    let Attachment { network, endpoint } = of;
    let (tunnel, port, mac) = (link(network), endpoint.host_link(), endpoint.mac);
    let lead = |lead| {
        let key = Key::Lead { tunnel: tunnel.clone(), lead };
        (key, Value::Behind { port: port.clone() })
    };
    let inward = lead(Lead::In { mac });
    let Some(port) = bridge::guarded(of, &options::of(network)) else { return vec![inward] };
    let from = |address: &IpNetwork| lead(Lead::From { mac, address: address.ip() });
    let outward = endpoint.addresses.iter().map(from);
    let program = Key::Shortcut { tunnel: tunnel.clone(), port: Some(port) };
    outward.chain([inward, (program, Value::Present)]).collect()
}

/// The ways to the other hosts of a cluster, and whose tunnels are let in; what encrypts, if anything is to.
pub(crate) fn cluster(nodes: &[Node], encryption: Option<&Encryption>) -> State {
    let of_node = |node: &Node| {
        let ((id, group), Node { address, .. }) = (way(node.number), *node);
        let source = Key::Element(Element::TunnelSource { address });
        [
            (Key::Nexthop { id }, Value::Nexthop { via: address }),
            (Key::Nexthop { id: group }, Value::NexthopGroup { of: id }),
            (source, Value::Present),
        ]
    };
    let encrypted = encryption.map(|encryption| wireguard::cluster(nodes, encryption));
    nodes.iter().flat_map(of_node).chain(encrypted.into_iter().flatten()).collect()
}

/// What of a packet the tunnel takes for itself: frame, VXLAN, UDP and the outer IP header.
pub(crate) fn overhead(tunnel: &Tunnel) -> u32 {
    if tunnel.local.is_ipv6() { 70 } else { 50 }
}

/// The numbers of the way to a host, and of the group of it.
fn way(node: u32) -> (u32, u32) {
    let way = FIRST_WAY.wrapping_add(node.wrapping_mul(2));
    (way, way.wrapping_add(1))
}

/// The tunnel of a network; one that is to be encrypted has no other.
fn tunnel(network: &Network) -> Result<&Tunnel, PlanError> {
    let name = || network.name.clone();
    let tunnel = network.tunnel.as_ref();
    let tunnel = tunnel.ok_or_else(|| PlanError::NoTunnel { network: name() })?;
    if options::is_encrypted(&network.given_options) != tunnel.encrypted {
        return Err(PlanError::InTheClear { network: name() });
    }
    Ok(tunnel)
}

/// The tunnel's link on the host.
fn link(network: &Network) -> LinkName {
    let name = format!("vx-{}", network.id.short()).parse();
    name.unwrap_or_else(|_| unreachable!("15 bytes are a link name"))
}

fn kind(tunnel: &Tunnel) -> LinkKind {
    let Tunnel { vni, port, local, .. } = *tunnel;
    LinkKind::Vxlan { vni, port, local }
}
