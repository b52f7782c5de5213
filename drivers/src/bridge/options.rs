//! The options of bridge networks.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cnm::LinkName;
use cnm::driver::Reading;
use cnm::options::{
    BOOLEAN, Described, INTERFACE, OptionError, Spec, boolean, described, manual, number, put, read,
};

/// The options of the bridge driver.
#[expect(clippy::struct_excessive_bools, reason = "independent properties, as users set them")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BridgeOptions {
    /// `com.docker.network.bridge.name`: the device; `br-` and 12 digits of the id by default.
    pub(crate) bridge: Option<LinkName>,
    /// `com.docker.network.bridge.enable_icc`: whether endpoints may talk to each other.
    pub(crate) icc: bool,
    /// `com.docker.network.bridge.enable_ip_masquerade`: whether traffic to the outside leaves
    /// with the host's address.
    pub(crate) masquerade: bool,
    /// `com.docker.network.driver.mtu`: the MTU in bytes; the kernel's default if absent.
    pub(crate) mtu: Option<u32>,
    /// `com.docker.network.bridge.host_binding_ipv4` and its IPv6 twin: the addresses that ports
    /// are published on where the request names none; empty means all addresses.
    pub(crate) host_bindings: Vec<IpAddr>,
    /// `com.docker.network.container_iface_prefix`: `eth` by default.
    pub(crate) interface_prefix: String,
    /// `com.docker.network.bridge.gateway_mode_ipv4`.
    pub(crate) gateway_mode_ipv4: GatewayMode,
    /// `com.docker.network.bridge.gateway_mode_ipv6`.
    pub(crate) gateway_mode_ipv6: GatewayMode,
    /// `com.docker.network.bridge.inhibit_ipv4`: no IPv4 address on the bridge.
    pub(crate) inhibit_ipv4: bool,
    /// `rnet.bridge.host_address`: whether the host has the gateways' addresses.
    pub(crate) host_address: bool,
    /// `com.docker.network.bridge.trusted_host_interfaces`: the host's links from which published
    /// ports may be reached at the endpoints' own addresses.
    pub(crate) trusted: Vec<LinkName>,
    /// `com.docker.network.host_ipv4` and its IPv6 twin: the address that what leaves has.
    pub(crate) outbound: [Option<IpAddr>; 2],
    /// `rnet.bridge.publish_policy`.
    pub(crate) publish_policy: PublishPolicy,
    /// `rnet.bridge.topology`.
    pub(crate) topology: Topology,
    /// `rnet.bridge.any_source`: whether endpoints may send from addresses that are not theirs.
    pub(crate) any_source: bool,
}

/// How a bridge network is connected to the outside (Docker's gateway modes).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum GatewayMode {
    /// Masquerade and published ports; unpublished ports are out of reach.
    #[default]
    Nat,
    /// As `nat`, but every port may be reached directly.
    NatUnprotected,
    /// No NAT; published ports are open on the endpoint's own address.
    Routed,
    /// With `internal` only: the bridge has no address.
    Isolated,
}

/// Who decides on what is sent to a published port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum PublishPolicy {
    /// Whoever published it: everybody reaches it.
    #[default]
    Open,
    /// The host's own firewall, as on what is sent to a program of the host.
    HostFirewall,
}

/// What is between the endpoints of a network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Topology {
    /// A bridge, which all of them are ports of.
    #[default]
    Bridge,
    /// The host, which has a route to each of them.
    L3,
}

/// What options of the bridge driver set.
#[derive(Clone, Debug, Default)]
pub(crate) struct Parsed {
    pub(crate) options: BridgeOptions,
    pub(crate) reading: Reading,
}

/// The names of the option that sets the MTU.
pub(crate) const MTU_NAMES: &[&str] =
    &["com.docker.network.driver.mtu", "com.docker.network.mtu", "mtu"];

const MODE: &str = "nat, nat-unprotected, routed or isolated";

/// What can be changed while containers are on the network.
pub(super) const CHANGEABLE: &[&[&str]] = &[
    MTU_NAMES,
    &["com.docker.network.bridge.enable_icc"],
    &["com.docker.network.bridge.enable_ip_masquerade"],
    &["com.docker.network.bridge.host_binding_ipv4"],
    &["com.docker.network.bridge.host_binding_ipv6"],
    &["rnet.bridge.any_source"],
];

const BRIDGE: &[Spec<Parsed>] = &[
    Spec {
        names: &["com.docker.network.bridge.name", "interface_name"],
        manual: manual(
            "The name of the bridge on the host.",
            "`br-` and the first 12 digits of the network's id",
            "br-shop",
        ),
        expected: INTERFACE,
        set: |to, text| put(&mut to.options.bridge, text.parse().ok().map(Some)),
        idle: false,
    },
    Spec {
        names: &["com.docker.network.bridge.enable_icc"],
        manual: manual(
            "Whether containers of the network may talk to each other.",
            "true",
            "false",
        ),
        expected: BOOLEAN,
        set: |to, text| put(&mut to.options.icc, boolean(text)),
        idle: false,
    },
    Spec {
        names: &["com.docker.network.bridge.enable_ip_masquerade"],
        manual: manual(
            "Whether what containers send outside has an address of the host.",
            "true",
            "false",
        ),
        expected: BOOLEAN,
        set: |to, text| put(&mut to.options.masquerade, boolean(text)),
        idle: false,
    },
    Spec {
        names: MTU_NAMES,
        manual: manual(
            "The largest packet, in bytes.",
            "that of the host's way out, which it follows; 1500 on internal networks",
            "1400",
        ),
        expected: "a number of bytes from 68 to 65535, or 0 for the default,",
        set: set_mtu,
        idle: false,
    },
    Spec {
        names: &["com.docker.network.bridge.host_binding_ipv4"],
        manual: manual(
            "The IPv4 address that ports are published on, and on no other, where the container names none.",
            "all addresses, or what the daemon's `ip` says",
            "127.0.0.1",
        ),
        expected: "an IPv4 address of this host",
        set: |to, text| {
            to.options.host_bindings.push(text.parse::<Ipv4Addr>().ok()?.into());
            Some(())
        },
        idle: false,
    },
    Spec {
        names: &["com.docker.network.bridge.host_binding_ipv6"],
        manual: manual(
            "The IPv6 address that ports are published on, and on no other, where the container names none.",
            "all addresses, or what the daemon's `ip` says",
            "2001:db8::1",
        ),
        expected: "an IPv6 address of this host",
        set: |to, text| {
            let bare = text.trim_start_matches('[').trim_end_matches(']');
            to.options.host_bindings.push(bare.parse::<Ipv6Addr>().ok()?.into());
            Some(())
        },
        idle: false,
    },
    Spec {
        names: &[
            "com.docker.network.container_iface_prefix",
            "com.docker.network.container_interface_prefix",
        ],
        manual: manual("What the names of interfaces in containers begin with.", "eth", "lan"),
        expected: "the beginning of an interface name, at most 12 bytes,",
        set: |to, text| put(&mut to.options.interface_prefix, prefix(text)),
        idle: false,
    },
    Spec {
        names: &["com.docker.network.bridge.gateway_mode_ipv4"],
        manual: manual(
            "How IPv4 leads out and in: translated; translated, with every port open to who has a route; by routes alone, with published ports open at the container's own address; not at all.",
            "nat",
            "routed",
        ),
        expected: MODE,
        set: |to, text| put(&mut to.options.gateway_mode_ipv4, mode(text)),
        idle: false,
    },
    Spec {
        names: &["com.docker.network.bridge.gateway_mode_ipv6"],
        manual: manual("The same for IPv6.", "nat", "routed"),
        expected: MODE,
        set: |to, text| put(&mut to.options.gateway_mode_ipv6, mode(text)),
        idle: false,
    },
    Spec {
        names: &["com.docker.network.bridge.inhibit_ipv4"],
        manual: manual(
            "Whether the bridge goes without an IPv4 address, for a gateway that is another machine.",
            "false",
            "true",
        ),
        expected: BOOLEAN,
        set: |to, text| put(&mut to.options.inhibit_ipv4, boolean(text)),
        idle: false,
    },
    Spec {
        names: &["rnet.bridge.host_address"],
        manual: manual(
            "Whether the host has the gateways' addresses, of both families.",
            "true",
            "false",
        ),
        expected: BOOLEAN,
        set: |to, text| put(&mut to.options.host_address, boolean(text)),
        idle: false,
    },
    Spec {
        names: &["rnet.bridge.any_source"],
        manual: manual(
            "Whether containers may send from addresses that are not theirs.",
            "false",
            "true",
        ),
        expected: BOOLEAN,
        set: |to, text| put(&mut to.options.any_source, boolean(text)),
        idle: false,
    },
    Spec {
        names: &["rnet.bridge.publish_policy"],
        manual: manual(
            "Who decides on what is sent to published ports: nobody, so that they are open; or the host's own firewall, as for programs of the host, which has containers see the host's address instead of the client's.",
            "open",
            "host-firewall",
        ),
        expected: "open or host-firewall",
        set: |to, text| put(&mut to.options.publish_policy, publish_policy(text)),
        idle: false,
    },
    Spec {
        names: &["rnet.bridge.topology"],
        manual: manual(
            "What is between the containers: a bridge, or the host with a route to each of them, for networks larger than a bridge can be.",
            "bridge",
            "l3",
        ),
        expected: "bridge or l3",
        set: |to, text| put(&mut to.options.topology, topology(text)),
        idle: false,
    },
    Spec {
        names: &["com.docker.network.enable_ipv4"],
        manual: manual(
            "Whether the network has IPv4, as the request's own field.",
            "true",
            "false",
        ),
        expected: BOOLEAN,
        set: |to, text| put(&mut to.reading.ipv4, boolean(text).map(Some)),
        idle: false,
    },
    Spec {
        names: &["com.docker.network.enable_ipv6"],
        manual: manual("Whether the network has IPv6, as `--ipv6`.", "false", "true"),
        expected: BOOLEAN,
        set: |to, text| put(&mut to.reading.ipv6, boolean(text).map(Some)),
        idle: false,
    },
    Spec {
        names: &["com.docker.network.internal"],
        manual: manual(
            "Whether the network is cut off from everything else, as `--internal`.",
            "false",
            "true",
        ),
        expected: BOOLEAN,
        set: |to, text| put(&mut to.reading.internal, boolean(text).map(Some)),
        idle: false,
    },
    Spec {
        // Which network is the default one is known without it.
        names: &["com.docker.network.bridge.default_bridge"],
        manual: manual(
            "Nothing: which network is the default one is known without it.",
            "false",
            "true",
        ),
        expected: BOOLEAN,
        set: |_, text| boolean(text).map(drop),
        idle: false,
    },
    Spec {
        names: &["com.docker.network.bridge.trusted_host_interfaces"],
        manual: manual(
            "The interfaces of the host by which published ports may be reached at the containers' own addresses, too.",
            "none",
            "eth1:wg0",
        ),
        expected: "a colon-separated list of interface names",
        set: |to, text| {
            let names: Result<_, _> = text.split(':').map(str::parse).collect();
            put(&mut to.options.trusted, names.ok())
        },
        idle: false,
    },
    Spec {
        names: &["com.docker.network.host_ipv4"],
        manual: manual(
            "The IPv4 address of the host that containers are seen with outside.",
            "that of the route",
            "192.0.2.1",
        ),
        expected: "an IPv4 address of this host",
        set: |to, text| {
            put(
                &mut to.options.outbound[0],
                text.parse::<Ipv4Addr>().ok().map(|ip| Some(ip.into())),
            )
        },
        idle: false,
    },
    Spec {
        names: &["com.docker.network.host_ipv6"],
        manual: manual(
            "The IPv6 address of the host that containers are seen with outside.",
            "that of the route",
            "2001:db8::1",
        ),
        expected: "an IPv6 address of this host",
        set: |to, text| {
            put(
                &mut to.options.outbound[1],
                text.parse::<Ipv6Addr>().ok().map(|ip| Some(ip.into())),
            )
        },
        idle: false,
    },
    Spec {
        names: &["com.docker.network.advertise_addr_nmsgs"],
        manual: manual(
            "How often a new container tells its neighbours of its addresses.",
            "3",
            "1",
        ),
        expected: "a number from 0 to 3",
        set: |_, text| number(text, 0..=3).map(drop),
        idle: true,
    },
    Spec {
        names: &["com.docker.network.advertise_addr_ms"],
        manual: manual("The milliseconds between two of these messages.", "1000", "200"),
        expected: "a number of milliseconds from 100 to 2000",
        set: |_, text| number(text, 100..=2000).map(drop),
        idle: true,
    },
    Spec {
        // How Docker's own proxy is set up; there is none here.
        names: &["com.docker.network.driver.private.no_proxy_6to4"],
        manual: manual("Nothing: it is about Docker's own proxy.", "false", "true"),
        expected: "anything",
        set: |_, _| Some(()),
        idle: false,
    },
];

impl Default for BridgeOptions {
    /// What a bridge network is like where no option says otherwise.
    fn default() -> Self {
        Self {
            bridge: None,
            icc: true,
            masquerade: true,
            mtu: None,
            host_bindings: Vec::new(),
            interface_prefix: "eth".to_owned(),
            gateway_mode_ipv4: GatewayMode::Nat,
            gateway_mode_ipv6: GatewayMode::Nat,
            inhibit_ipv4: false,
            host_address: true,
            trusted: Vec::new(),
            outbound: [None; 2],
            publish_policy: PublishPolicy::Open,
            topology: Topology::Bridge,
            any_source: false,
        }
    }
}

impl BridgeOptions {
    /// The options of a network. That they can be read was checked when it was made.
    pub(crate) fn of(given: &BTreeMap<String, String>) -> Self {
        parse(given).map(|(options, _)| options).unwrap_or_default()
    }

    /// The gateway mode of a family.
    pub(crate) fn gateway_mode(&self, ipv6: bool) -> GatewayMode {
        if ipv6 { self.gateway_mode_ipv6 } else { self.gateway_mode_ipv4 }
    }
}

/// What the manual says of the options of a network.
pub(super) fn manuals() -> Vec<Described> {
    described(BRIDGE)
}

/// Reads the options of a network.
pub(super) fn parse(
    given: &BTreeMap<String, String>,
) -> Result<(BridgeOptions, Reading), OptionError> {
    read_with(BRIDGE, given, "driver bridge")
}

/// Reads options by a table that sets those of bridge networks.
pub(crate) fn read_with(
    specs: &[Spec<Parsed>],
    given: &BTreeMap<String, String>,
    of: &str,
) -> Result<(BridgeOptions, Reading), OptionError> {
    let mut to = Parsed::default();
    to.reading.warnings = read(specs, &mut to, given, of)?;
    Ok((to.options, to.reading))
}

/// The options with these proper names, for a driver whose networks have them as well.
pub(crate) fn shared(names: &[&str]) -> impl Iterator<Item = Spec<Parsed>> {
    BRIDGE.iter().filter(|spec| names.contains(&spec.names[0])).cloned()
}

/// Sets the MTU; 0 stands for the default.
pub(crate) fn set_mtu(to: &mut Parsed, text: &str) -> Option<()> {
    // 68 bytes is the least that IPv4 works with (RFC 791).
    let bytes = text.parse().ok().filter(|bytes| *bytes == 0 || (68..=65_535).contains(bytes))?;
    to.options.mtu = (bytes > 0).then_some(bytes);
    Some(())
}

fn mode(text: &str) -> Option<GatewayMode> {
    match text {
        "nat" => Some(GatewayMode::Nat),
        "nat-unprotected" => Some(GatewayMode::NatUnprotected),
        "routed" => Some(GatewayMode::Routed),
        "isolated" => Some(GatewayMode::Isolated),
        _ => None,
    }
}

fn publish_policy(text: &str) -> Option<PublishPolicy> {
    match text {
        "open" => Some(PublishPolicy::Open),
        "host-firewall" => Some(PublishPolicy::HostFirewall),
        _ => None,
    }
}

fn topology(text: &str) -> Option<Topology> {
    match text {
        "bridge" => Some(Topology::Bridge),
        "l3" => Some(Topology::L3),
        _ => None,
    }
}

fn prefix(text: &str) -> Option<String> {
    // Three digits must fit behind it.
    (text.len() <= 12 && text.parse::<LinkName>().is_ok()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests;
