//! Networks without a bridge between their endpoints: the host has a route to each of them.
//!
//! A bridge has 1,023 ports at most, and copies to all of them what is meant for nobody in
//! particular. Here each endpoint has the host alone for a neighbour, by a pair of its own; its
//! address is the only one on its link, and everything else is behind the gateway. The network's
//! device is a bridge all the same, without ports: it has the gateway's addresses, and takes what is
//! sent to an address of the subnet that no endpoint has.
//!
//! Broadcast and multicast reach nobody. What an endpoint sends comes from its own addresses, by a
//! rule for packets instead of frames; so nobody may send from others here.

use cnm::options::OptionError;
use cnm::sandbox::Attachment;
use cnm::{Element, Key, Link, LinkKind, LinkName, Network, Ns, PlanError, Sandbox, State, Value};
use ipnetwork::IpNetwork;

use super::{BridgeOptions, GatewayMode, gateway_address, mtu, text, translates};
use crate::kernel::link::near_mac;
use crate::kernel::sysctl;
use crate::{isolation, link_addresses};

/// Refuses what needs a bridge.
pub(super) fn check(options: &BridgeOptions) -> Result<(), OptionError> {
    let modes = [options.gateway_mode_ipv4, options.gateway_mode_ipv6];
    let contradiction = if modes.contains(&GatewayMode::Isolated) {
        "gateway mode 'isolated'"
    } else if options.inhibit_ipv4 || !options.host_address {
        "a bridge without the gateway's address"
    } else if options.any_source {
        "rnet.bridge.any_source=true"
    } else {
        return Ok(());
    };
    Err(OptionError::Contradiction(format!(
        "{contradiction} cannot be had with rnet.bridge.topology=l3, where endpoints reach everything \
         by the host: leave out one of the two"
    )))
}

/// The subnets whose endpoints may talk to each other, each way.
pub(super) fn together(network: &Network) -> Vec<(Key, Value)> {
    let subnets = || network.pools.iter().map(|pool| pool.subnet);
    let pairs = subnets().flat_map(|from| subnets().map(move |to| (from, to)));
    let same_family = pairs.filter(|(from, to)| from.is_ipv6() == to.is_ipv6());
    same_family
        .map(|(from, to)| (Key::Element(Element::Together { from, to }), Value::Present))
        .collect()
}

/// The pair that joins a sandbox to the host, its addresses, and the ways there and back.
pub(super) fn plan_endpoint(
    sandbox: &Sandbox,
    of: Attachment<'_>,
    options: &BridgeOptions,
) -> Result<State, PlanError> {
    let Attachment { network, endpoint } = of;
    let (near, interface) = (endpoint.host_link(), &endpoint.interface);
    let ns = Ns::Sandbox(sandbox.id.clone());
    let pair = Link {
        kind: LinkKind::Veth { peer: near.clone() },
        mac: Some(endpoint.mac),
        mtu: mtu(network, options),
        up: true,
        tag: format!("endpoint/{}", endpoint.id),
    };
    let link = Key::Link { ns: ns.clone(), name: interface.clone() };
    let mut state = State::from_iter([(link, Value::Link(pair))]);
    // That the network has them is checked for all topologies alike.
    link_addresses(&ns, of)?;
    state.extend(near_sysctls(network, &near, options));
    for address in &endpoint.addresses {
        state.extend(ways(&ns, of, *address, options));
        let (link, address) = (near.clone(), address.ip());
        let behind = Key::Element(Element::Behind { link, address });
        state.insert(behind, Value::Present);
    }
    state.insert(Key::Element(Element::End { link: near.clone() }), Value::Present);
    state.extend(isolation::of_link(network, &near, options));
    if !options.icc {
        state.extend(isolation::passages(sandbox, of));
    }
    Ok(state)
}

/// An address of an endpoint, the host's route there, and the endpoint's to all of its network.
fn ways(
    ns: &Ns,
    of: Attachment<'_>,
    address: IpNetwork,
    options: &BridgeOptions,
) -> Vec<(Key, Value)> {
    let (near, link) = (of.endpoint.host_link(), of.endpoint.interface.clone());
    let alone = IpNetwork::from(address.ip());
    let own = Key::Address { ns: ns.clone(), link: link.clone(), address: alone };
    let mut ways = vec![(own, Value::Present)];
    let pool = of.network.pool_of(address.ip());
    let Some((pool, gateway)) = pool.and_then(|pool| Some((pool, gateway_address(pool, options)?)))
    else {
        return ways;
    };
    let source = gateway.ip();
    let there = Key::Route { ns: Ns::Host, destination: alone };
    ways.push((there, Value::HostRoute { link: near.clone(), source }));
    // Nobody asks for a neighbour: the kernel remembers a thousand of those that it asked for, of all
    // namespaces together.
    let known = Key::Neighbour { ns: Ns::Host, link: near.clone(), address: address.ip() };
    ways.push((known, Value::Neighbour { mac: of.endpoint.mac }));
    let route = |destination, via| {
        let key = Key::Route { ns: ns.clone(), destination };
        (key, Value::Route { link: link.clone(), via })
    };
    ways.push(route(IpNetwork::from(source), None));
    ways.push(route(pool.subnet, Some(source)));
    let mac = near_mac(&near);
    let known = Key::Neighbour { ns: ns.clone(), link: link.clone(), address: source };
    ways.push((known, Value::Neighbour { mac }));
    if address.is_ipv6() {
        // The kernel answers for its addresses by the link they are on, and by no other, unless told.
        let key = Key::Neighbour { ns: Ns::Host, link: near, address: source };
        ways.push((key, Value::Proxied));
    }
    ways
}

/// All of [`sysctl::of_end`].
fn near_sysctls(network: &Network, near: &LinkName, options: &BridgeOptions) -> Vec<(Key, Value)> {
    // Ports are published on 127.0.0.1 too: its packets may leave by the link.
    let route_localnet = network.ipv4 && translates(network, options, false);
    let values = [route_localnet, false, false, !network.ipv6, network.ipv6, false];
    let paths = sysctl::of_end(near).into_iter().zip(values);
    paths.map(|(path, value)| (Key::Sysctl { ns: Ns::Host, path }, text(value))).collect()
}
