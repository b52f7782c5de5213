//! The `bridge` driver: one Linux bridge per network, one veth pair per endpoint.

use cnm::options::{BridgeOptions, GatewayMode};
use cnm::sandbox::Attachment;
use cnm::{Key, Link, LinkKind, LinkName, Network, Ns, PlanError, Pool, Sandbox, State, Value};
use ipnetwork::IpNetwork;

use crate::isolation;
use crate::kernel::link::DEFAULT_MTU;
use crate::kernel::sysctl;

/// The bridge, the gateways' addresses on it, and the permissions of the network.
pub(crate) fn network(network: &Network, options: &BridgeOptions) -> State {
    let name = &options.bridge;
    let bridge = Link {
        kind: LinkKind::Bridge,
        mac: None,
        mtu: mtu(options),
        up: true,
        tag: format!("network/{}", network.id),
    };
    let key = Key::Link { ns: Ns::Host, name: name.clone() };
    let mut state = State::from_iter([(key, Value::Link(bridge))]);
    state.extend(bridge_sysctls(network, options));
    state.extend(network.pools.iter().filter_map(|pool| {
        let address = gateway_address(pool, options)?;
        Some((Key::Address { ns: Ns::Host, link: name.clone(), address }, Value::Present))
    }));
    state.extend(isolation::elements(network, options));
    state
}

/// The pair that joins a sandbox to the bridge, and its addresses.
pub(crate) fn endpoint(
    sandbox: &Sandbox,
    attachment: Attachment<'_>,
    options: &BridgeOptions,
) -> Result<State, PlanError> {
    let Attachment { network, endpoint } = attachment;
    let (name, interface) = (endpoint.host_link(), &endpoint.interface);
    let ns = Ns::Sandbox(sandbox.id.clone());
    let pair = Link {
        kind: LinkKind::Veth { peer: name.clone() },
        mac: Some(endpoint.mac),
        mtu: mtu(options),
        up: true,
        tag: format!("endpoint/{}", endpoint.id),
    };
    let link = Key::Link { ns: ns.clone(), name: interface.clone() };
    let port =
        Value::Port { bridge: options.bridge.clone(), isolated: !options.icc, hairpin: true };
    let mut state = State::from_iter([(link, Value::Link(pair)), (Key::Port { link: name }, port)]);
    state.extend(interface_sysctls(&ns, interface, endpoint.address(true).is_some()));
    for address in &endpoint.addresses {
        if network.pool_of(address.ip()).is_none() {
            return Err(PlanError::AddressOutsideSubnet {
                endpoint: endpoint.id.to_string(),
                address: *address,
                network: network.name.clone(),
            });
        }
        let key = Key::Address { ns: ns.clone(), link: interface.clone(), address: *address };
        state.insert(key, Value::Present);
    }
    state.extend(given_sysctls(&ns, attachment));
    Ok(state)
}

/// How a network is connected to the outside in one family.
pub(crate) fn gateway_mode(options: &BridgeOptions, ipv6: bool) -> GatewayMode {
    if ipv6 { options.gateway_mode_ipv6 } else { options.gateway_mode_ipv4 }
}

/// Whether addresses are translated in one family.
pub(crate) fn translates(network: &Network, options: &BridgeOptions, ipv6: bool) -> bool {
    let mode = gateway_mode(options, ipv6);
    !network.internal && matches!(mode, GatewayMode::Nat | GatewayMode::NatUnprotected)
}

pub(crate) fn gateway_address(pool: &Pool, options: &BridgeOptions) -> Option<IpNetwork> {
    let ipv6 = pool.subnet.is_ipv6();
    let inhibited = !ipv6 && options.inhibit_ipv4;
    if inhibited || gateway_mode(options, ipv6) == GatewayMode::Isolated {
        return None;
    }
    IpNetwork::new(pool.gateway?, pool.subnet.prefix()).ok()
}

/// A value of its own only where it is not the kernel's default.
fn mtu(options: &BridgeOptions) -> Option<u32> {
    options.mtu.filter(|mtu| *mtu != DEFAULT_MTU)
}

/// All of [`sysctl::of_bridge`], and forwarding.
fn bridge_sysctls(network: &Network, options: &BridgeOptions) -> Vec<(Key, Value)> {
    let ipv6 = network.ipv6 && options.gateway_mode_ipv6 != GatewayMode::Isolated;
    // Ports are published on 127.0.0.1 too: its packets may leave by the bridge. And the bridge's
    // link-local address is usable at once: without it no neighbour can be asked for on behalf of
    // others.
    let route_localnet = network.ipv4 && translates(network, options, false);
    let values = [route_localnet, false, false, !ipv6];
    let [ipv4_forwarding, ipv6_forwarding] =
        sysctl::FORWARDING.map(|path| sysctl_value(path, true));
    let of_bridge = sysctl::of_bridge(&options.bridge);
    let own = of_bridge.iter().zip(values).map(|(path, value)| sysctl_value(path, value));
    own.chain([ipv4_forwarding]).chain(ipv6.then_some(ipv6_forwarding)).collect()
}

/// All of [`sysctl::of_interface`].
///
/// A new link announces its addresses to neighbours who knew another owner. They are unique,
/// which needs no proof; and no neighbour shall talk it into routes.
fn interface_sysctls(ns: &Ns, interface: &LinkName, ipv6: bool) -> Vec<(Key, Value)> {
    let values = [true, true, false, false, !ipv6];
    let paths = sysctl::of_interface(interface).into_iter().zip(values);
    paths.map(|(path, value)| (Key::Sysctl { ns: ns.clone(), path }, text(value))).collect()
}

/// The sysctls that were given with the endpoint: `net.ipv4.conf.IFNAME.log_martians=1,...`.
fn given_sysctls(ns: &Ns, attachment: Attachment<'_>) -> Vec<(Key, Value)> {
    const OPTION: &str = "com.docker.network.endpoint.sysctls";
    let given = attachment.endpoint.given_options.get(OPTION).map_or("", String::as_str);
    let interface = attachment.endpoint.interface.as_str();
    let parse = |assignment: &str| {
        let (name, value) = assignment.split_once('=')?;
        let parts: Vec<_> = name.trim().split('.').collect();
        let [net, family, table, "IFNAME", leaf] = parts[..] else { return None };
        let path = [net, family, table, interface, leaf].join("/");
        Some((Key::Sysctl { ns: ns.clone(), path }, Value::Text(value.trim().to_owned())))
    };
    given.split(',').filter_map(parse).collect()
}

fn sysctl_value(path: &str, value: bool) -> (Key, Value) {
    (Key::Sysctl { ns: Ns::Host, path: path.to_owned() }, text(value))
}

fn text(value: bool) -> Value {
    Value::Text(u8::from(value).to_string())
}
