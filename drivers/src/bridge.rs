//! The `bridge` driver: one Linux bridge per network, one veth pair per endpoint.

mod l3;
mod options;

use std::collections::BTreeMap;

use cnm::driver::{Driver, Profile, Reach, Reading, Room};
use cnm::options::{BOOLEAN, Described, OptionError, Spec, boolean, described, manual, set};
use cnm::sandbox::Attachment;
use cnm::{
    Element, Key, Link, LinkKind, LinkName, Network, Ns, PlanError, Pool, PortBinding, Protocol,
    Sandbox, State, Value,
};
use ipnetwork::IpNetwork;

use crate::kernel::link::DEFAULT_MTU;
use crate::kernel::sysctl;
use crate::{isolation, link_addresses, neighbouring_subnets, overlay, portmap};
pub(crate) use options::{
    BridgeOptions, GatewayMode, MTU_NAMES, Parsed, PublishPolicy, Topology, read_with, set_mtu,
    shared,
};

/// The device of the predefined network, where no option names another.
const DEFAULT_DEVICE: &str = "rnet0";

/// The least MTU that IPv4 works with (RFC 791).
const MTU: u32 = 68;

/// The least MTU that IPv6 works with (RFC 8200).
const IPV6_MTU: u32 = 1280;

/// A bridge of Linux has 1,023 ports, and copies a broadcast to all of them at once: past the length of the
/// kernel's queue (`net.core.netdev_max_backlog`, 1,000) the copies are lost, always those to the same ports.
/// Who is there would not be found by its neighbours.
pub(crate) const ROOM: Room = Room {
    endpoints: 1_000,
    because: "a bridge does not copy a broadcast to more; make it with -o rnet.bridge.topology=l3, \
              which needs no bridge",
};

/// The option of an endpoint that says whether frames may leave by the port they came in by.
const HAIRPIN: &str = "rnet.endpoint.hairpin";

/// What an endpoint on a bridge may be told besides what every endpoint may.
const ENDPOINT: &[Spec<()>] = &[Spec {
    names: &[HAIRPIN],
    manual: manual(
        "Whether frames may leave by the port of the bridge that they came in by.",
        "true",
        "false",
    ),
    expected: BOOLEAN,
    set: |(), text| boolean(text).map(drop),
    idle: false,
}];

/// The `bridge` driver.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bridge;

impl Driver for Bridge {
    fn name(&self) -> &'static str {
        "bridge"
    }

    fn aliases(&self) -> &'static [&'static str] {
        &[""]
    }

    fn about(&self) -> &'static str {
        "A network of its own on one host: a Linux bridge, and for each container a pair of virtual cables to it. The host is \
         the gateway, translates what goes out, and leads published ports in."
    }

    fn read(&self, options: &BTreeMap<String, String>) -> Result<Reading, OptionError> {
        options::parse(options).map(|(_, reading)| reading)
    }

    fn options(&self) -> Vec<Described> {
        options::manuals()
    }

    fn endpoint_options(&self) -> Vec<Described> {
        endpoint_manuals()
    }

    fn changeable(&self) -> &'static [&'static [&'static str]] {
        options::CHANGEABLE
    }

    fn read_endpoint(&self, name: &str, value: &str) -> Result<bool, OptionError> {
        read_endpoint(name, value)
    }

    fn check(&self, network: &Network) -> Result<(), OptionError> {
        let options = BridgeOptions::of(&network.given_options);
        let modes = [options.gateway_mode_ipv4, options.gateway_mode_ipv6];
        if network.borrowed && (network.internal || !options.icc) {
            return Err(OptionError::Contradiction(
                "a bridge that is not rnet's leads wherever its owner wants: use neither --internal \
                 nor enable_icc=false with it"
                    .to_owned(),
            ));
        }
        if modes.contains(&GatewayMode::Isolated) && !network.internal {
            return Err(OptionError::Contradiction(
                "gateway mode 'isolated' can only be used for an internal network: add --internal"
                    .to_owned(),
            ));
        }
        check_mtu(network, &options)?;
        if options.topology == Topology::L3 {
            return l3::check(&options);
        }
        Ok(())
    }

    fn profile(&self, network: &Network) -> Profile {
        profile(network, BridgeOptions::of(&network.given_options))
    }

    fn network(&self, network: &Network) -> Result<State, PlanError> {
        // A bridge of somebody else's is not changed.
        if network.borrowed {
            return Ok(State::default());
        }
        let options = BridgeOptions::of(&network.given_options);
        Ok(plan_network(network, &options))
    }

    fn room(&self, network: &Network) -> Option<Room> {
        let options = BridgeOptions::of(&network.given_options);
        (options.topology == Topology::Bridge).then_some(ROOM)
    }

    fn endpoint(&self, sandbox: &Sandbox, of: Attachment<'_>) -> Result<State, PlanError> {
        let options = BridgeOptions::of(&of.network.given_options);
        match options.topology {
            Topology::Bridge => plan_endpoint(sandbox, of, &options),
            Topology::L3 => l3::plan_endpoint(sandbox, of, &options),
        }
    }

    fn guarded(&self, of: Attachment<'_>) -> Option<LinkName> {
        guarded(of, &BridgeOptions::of(&of.network.given_options))
    }

    fn unreached(&self, network: &Network, protocol: Protocol) -> Option<&'static str> {
        let options = BridgeOptions::of(&network.given_options);
        // What is not translated is carried by sockets, and nobody can carry SCTP.
        let obeys = options.publish_policy == PublishPolicy::HostFirewall;
        (obeys && protocol == Protocol::Sctp).then_some(
            "rnet.bridge.publish_policy=host-firewall cannot be had for sctp; publish them on a \
             network with the policy open",
        )
    }

    fn publish(&self, bindings: &[&PortBinding], to: Attachment<'_>) -> Vec<(Key, Value)> {
        let options = BridgeOptions::of(&to.network.given_options);
        // Addresses are everybody's there.
        if to.network.borrowed { Vec::new() } else { publish(bindings, to, &options) }
    }
}

/// What the manual says of the options of endpoints on bridges.
pub(crate) fn endpoint_manuals() -> Vec<Described> {
    described(ENDPOINT)
}

/// Reads an option of an endpoint on a bridge.
pub(crate) fn read_endpoint(name: &str, value: &str) -> Result<bool, OptionError> {
    set(ENDPOINT, &mut (), name, value).map(|spec| spec.is_some())
}

/// Refuses an MTU that IPv6 does not work with.
pub(crate) fn check_mtu(network: &Network, options: &BridgeOptions) -> Result<(), OptionError> {
    match options.mtu.filter(|mtu| network.ipv6 && *mtu < IPV6_MTU) {
        Some(mtu) => Err(OptionError::Contradiction(format!(
            "an MTU of {mtu} bytes is too small for IPv6: use {IPV6_MTU} or more, or no IPv6"
        ))),
        None => Ok(()),
    }
}

/// What the model has to know of a network with a bridge.
pub(crate) fn profile(network: &Network, options: BridgeOptions) -> Profile {
    let reach = |ipv6| match options.gateway_mode(ipv6) {
        // The host is no gateway there, and addresses are everybody's.
        _ if network.borrowed => Reach::Routed,
        GatewayMode::Nat | GatewayMode::NatUnprotected => Reach::Translated,
        GatewayMode::Routed => Reach::Routed,
        GatewayMode::Isolated => Reach::Closed,
    };
    Profile {
        device: Some(device(network, &options)),
        interface_prefix: Some(options.interface_prefix.clone()),
        reach: [false, true].map(reach),
        bindings: options.host_bindings,
    }
}

/// The port that an endpoint is behind, if what it sends is looked at.
pub(crate) fn guarded(of: Attachment<'_>, options: &BridgeOptions) -> Option<LinkName> {
    // Behind a route there is no frame to look at: see `l3`.
    let any = options.any_source || of.endpoint.any_source || options.topology == Topology::L3;
    (!any).then(|| of.endpoint.host_link())
}

/// The bridge of a network.
pub(crate) fn device(network: &Network, options: &BridgeOptions) -> LinkName {
    let derived = || {
        let own = format!("br-{}", network.id.short());
        let name = if network.predefined { DEFAULT_DEVICE } else { &own };
        name.parse().unwrap_or_else(|_| unreachable!("15 bytes are a link name"))
    };
    options.bridge.clone().unwrap_or_else(derived)
}

/// The bridge, the gateways' addresses on it, and the permissions of the network.
pub(crate) fn plan_network(network: &Network, options: &BridgeOptions) -> State {
    let name = &device(network, options);
    let bridge = Link {
        kind: LinkKind::Bridge,
        mac: None,
        mtu: mtu(network, options),
        up: true,
        tag: format!("network/{}", network.id),
    };
    let key = Key::Link { ns: Ns::Host, name: name.clone() };
    let mut state = State::from_iter([(key, Value::Link(bridge))]);
    state.extend(bridge_sysctls(network, name, options));
    state.extend(network.pools.iter().filter_map(|pool| {
        let address = gateway_address(pool, options)?;
        Some((Key::Address { ns: Ns::Host, link: name.clone(), address }, Value::Present))
    }));
    state.extend(isolation::of_network(network, options));
    state.extend(isolation::of_link(network, name, options));
    if options.topology == Topology::L3 && options.icc {
        state.extend(l3::together(network));
    }
    state
}

/// The pair that joins a sandbox to the bridge, and its addresses.
pub(crate) fn plan_endpoint(
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
        mtu: mtu(network, options),
        up: true,
        tag: format!("endpoint/{}", endpoint.id),
    };
    let link = Key::Link { ns: ns.clone(), name: interface.clone() };
    let hairpin = endpoint.given_options.get(HAIRPIN).and_then(|text| boolean(text));
    let port = Value::Port {
        bridge: device(network, options),
        isolated: !options.icc,
        hairpin: hairpin.unwrap_or(true),
        tunnel: false,
    };
    let mut state = State::from_iter([(link, Value::Link(pair)), (Key::Port { link: name }, port)]);
    state.extend(link_addresses(&ns, attachment)?);
    state.extend(neighbouring_subnets(&ns, attachment));
    if !options.icc {
        state.extend(proxied(&ns, attachment, options));
        state.extend(isolation::passages(sandbox, attachment));
    }
    Ok(state)
}

/// Neighbours that do not hear each other's questions are answered by the bridge, so that the host
/// decides on what they send: in IPv4 of itself ([`bridge_sysctls`]), in IPv6 one by one. There the
/// kernel answers no question that is put to the neighbour alone, as those are by which an endpoint
/// makes sure that one is still there; so it asks all. And it tells of the neighbour's own hardware
/// address, which does not lead there.
fn proxied(ns: &Ns, of: Attachment<'_>, options: &BridgeOptions) -> Vec<(Key, Value)> {
    let Some(own) = of.endpoint.address(true) else { return Vec::new() };
    let (link, address) = (device(of.network, options), own.ip());
    let proxied = (Key::Neighbour { ns: Ns::Host, link, address }, Value::Proxied);
    let interface = &of.endpoint.interface;
    let sysctl = |(path, value): (String, &str)| {
        let path = format!("net/ipv6/{path}");
        (Key::Sysctl { ns: ns.clone(), path }, Value::Text(value.to_owned()))
    };
    let inside = [
        (format!("conf/{interface}/accept_redirects"), "0"),
        (format!("neigh/{interface}/mcast_resolicit"), "3"),
        (format!("neigh/{interface}/ucast_solicit"), "0"),
    ];
    inside.map(sysctl).into_iter().chain([proxied]).collect()
}

/// What leads from a port of the host to an endpoint, or opens the endpoint's own.
pub(crate) fn publish(
    bindings: &[&PortBinding],
    to: Attachment<'_>,
    options: &BridgeOptions,
) -> Vec<(Key, Value)> {
    bindings.iter().flat_map(|binding| published(binding, to, options)).flatten().collect()
}

/// The at most two elements that a published port is.
fn published(
    binding: &PortBinding,
    to: Attachment<'_>,
    options: &BridgeOptions,
) -> [Option<(Key, Value)>; 2] {
    let Some(own) = to.endpoint.address(binding.host.is_ipv6()) else { return [None, None] };
    let PortBinding { protocol, port, .. } = *binding;
    let address = own.ip();
    let present = |element| (Key::Element(element), Value::Present);
    match options.gateway_mode(binding.host.is_ipv6()) {
        GatewayMode::Nat | GatewayMode::NatUnprotected => {
            let trusts = !options.trusted.is_empty();
            let direct = trusts.then(|| present(Element::Direct { address, protocol, port }));
            // What is not translated comes to the socket that reserves the port, as to a program of
            // the host, and is carried on from there if the host's firewall lets it get there.
            let open = options.publish_policy == PublishPolicy::Open;
            let translated = open.then(|| portmap::translated(binding, to)).flatten();
            [translated, direct]
        }
        GatewayMode::Routed => [Some(present(Element::Open { address, protocol, port })), None],
        GatewayMode::Isolated => [None, None],
    }
}

/// Whether addresses are translated in one family.
pub(crate) fn translates(network: &Network, options: &BridgeOptions, ipv6: bool) -> bool {
    let mode = options.gateway_mode(ipv6);
    !network.internal && matches!(mode, GatewayMode::Nat | GatewayMode::NatUnprotected)
}

pub(crate) fn gateway_address(pool: &Pool, options: &BridgeOptions) -> Option<IpNetwork> {
    let ipv6 = pool.subnet.is_ipv6();
    let inhibited = !options.host_address || (!ipv6 && options.inhibit_ipv4);
    if inhibited || options.gateway_mode(ipv6) == GatewayMode::Isolated {
        return None;
    }
    IpNetwork::new(pool.gateway?, pool.subnet.prefix()).ok()
}

/// The user's word, or what the host's way out takes, or the ways to other hosts. A value of its own
/// only where it is not the kernel's default.
pub(crate) fn mtu(network: &Network, options: &BridgeOptions) -> Option<u32> {
    let least = if network.ipv6 { IPV6_MTU } else { MTU };
    let followed = match &network.tunnel {
        // What gets into the tunnel has to fit, wherever else it may go.
        Some(tunnel) => {
            let whole = tunnel.mtu.unwrap_or(DEFAULT_MTU);
            Some(whole.saturating_sub(overlay::overhead(tunnel)))
        }
        None => network.egress_mtu.filter(|_| !network.internal),
    };
    let followed = followed.map(|mtu| mtu.max(least));
    options.mtu.or(followed).filter(|mtu| *mtu != DEFAULT_MTU)
}

/// All of [`sysctl::of_bridge`], and forwarding.
fn bridge_sysctls(
    network: &Network,
    device: &LinkName,
    options: &BridgeOptions,
) -> Vec<(Key, Value)> {
    let ipv6 = network.ipv6 && options.gateway_mode_ipv6 != GatewayMode::Isolated;
    // Ports are published on 127.0.0.1 too: its packets may leave by the bridge. And the bridge's
    // link-local address is usable at once: without it no neighbour can be asked for on behalf of
    // others.
    let route_localnet = network.ipv4 && translates(network, options, false);
    let (proxy4, proxy6) = (network.ipv4 && !options.icc, ipv6 && !options.icc);
    // Who asks for a neighbour by proxy is answered at once.
    let values = [route_localnet, proxy4, false, false, false, !ipv6, proxy6, false];
    let [ipv4_forwarding, ipv6_forwarding] =
        sysctl::FORWARDING.map(|path| sysctl_value(path, true));
    let of_bridge = sysctl::of_bridge(device);
    let own = of_bridge.iter().zip(values).map(|(path, value)| sysctl_value(path, value));
    own.chain([ipv4_forwarding]).chain(ipv6.then_some(ipv6_forwarding)).collect()
}

fn sysctl_value(path: &str, value: bool) -> (Key, Value) {
    (Key::Sysctl { ns: Ns::Host, path: path.to_owned() }, text(value))
}

fn text(value: bool) -> Value {
    Value::Text(u8::from(value).to_string())
}
