//! The options of bridge networks.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cnm::LinkName;
use cnm::driver::Reading;
use cnm::options::{BOOLEAN, INTERFACE, OptionError, Spec, boolean, number, put, read};

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

/// What options of the bridge driver set.
#[derive(Debug, Default)]
struct Bridge {
    options: BridgeOptions,
    reading: Reading,
}

const MODE: &str = "nat, nat-unprotected, routed or isolated";

const BRIDGE: &[Spec<Bridge>] = &[
    Spec {
        names: &["com.docker.network.bridge.name", "interface_name"],
        expected: INTERFACE,
        set: |to, text| put(&mut to.options.bridge, text.parse().ok().map(Some)),
        idle: false,
    },
    Spec {
        names: &["com.docker.network.bridge.enable_icc"],
        expected: BOOLEAN,
        set: |to, text| put(&mut to.options.icc, boolean(text)),
        idle: false,
    },
    Spec {
        names: &["com.docker.network.bridge.enable_ip_masquerade"],
        expected: BOOLEAN,
        set: |to, text| put(&mut to.options.masquerade, boolean(text)),
        idle: false,
    },
    Spec {
        names: &["com.docker.network.driver.mtu", "com.docker.network.mtu", "mtu"],
        expected: "a number of bytes from 68 to 65535, or 0 for the default,",
        set: |to, text| {
            put(&mut to.options.mtu, mtu(text).map(|bytes| (bytes > 0).then_some(bytes)))
        },
        idle: false,
    },
    Spec {
        names: &["com.docker.network.bridge.host_binding_ipv4"],
        expected: "an IPv4 address of this host",
        set: |to, text| {
            to.options.host_bindings.push(text.parse::<Ipv4Addr>().ok()?.into());
            Some(())
        },
        idle: false,
    },
    Spec {
        names: &["com.docker.network.bridge.host_binding_ipv6"],
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
        expected: "the beginning of an interface name, at most 12 bytes,",
        set: |to, text| put(&mut to.options.interface_prefix, prefix(text)),
        idle: false,
    },
    Spec {
        names: &["com.docker.network.bridge.gateway_mode_ipv4"],
        expected: MODE,
        set: |to, text| put(&mut to.options.gateway_mode_ipv4, mode(text)),
        idle: false,
    },
    Spec {
        names: &["com.docker.network.bridge.gateway_mode_ipv6"],
        expected: MODE,
        set: |to, text| put(&mut to.options.gateway_mode_ipv6, mode(text)),
        idle: false,
    },
    Spec {
        names: &["com.docker.network.bridge.inhibit_ipv4"],
        expected: BOOLEAN,
        set: |to, text| put(&mut to.options.inhibit_ipv4, boolean(text)),
        idle: false,
    },
    Spec {
        names: &["rnet.bridge.host_address"],
        expected: BOOLEAN,
        set: |to, text| put(&mut to.options.host_address, boolean(text)),
        idle: false,
    },
    Spec {
        names: &["rnet.bridge.any_source"],
        expected: BOOLEAN,
        set: |to, text| put(&mut to.options.any_source, boolean(text)),
        idle: false,
    },
    Spec {
        names: &["com.docker.network.enable_ipv4"],
        expected: BOOLEAN,
        set: |to, text| put(&mut to.reading.ipv4, boolean(text).map(Some)),
        idle: false,
    },
    Spec {
        names: &["com.docker.network.enable_ipv6"],
        expected: BOOLEAN,
        set: |to, text| put(&mut to.reading.ipv6, boolean(text).map(Some)),
        idle: false,
    },
    Spec {
        names: &["com.docker.network.internal"],
        expected: BOOLEAN,
        set: |to, text| put(&mut to.reading.internal, boolean(text).map(Some)),
        idle: false,
    },
    Spec {
        // Which network is the default one is known without it.
        names: &["com.docker.network.bridge.default_bridge"],
        expected: BOOLEAN,
        set: |_, text| boolean(text).map(drop),
        idle: false,
    },
    Spec {
        names: &["com.docker.network.bridge.trusted_host_interfaces"],
        expected: "a colon-separated list of interface names",
        set: |_, text| text.split(':').all(|name| name.parse::<LinkName>().is_ok()).then_some(()),
        idle: true,
    },
    Spec {
        names: &["com.docker.network.host_ipv4"],
        expected: "an IPv4 address of this host",
        set: |_, text| text.parse::<Ipv4Addr>().ok().map(drop),
        idle: true,
    },
    Spec {
        names: &["com.docker.network.host_ipv6"],
        expected: "an IPv6 address of this host",
        set: |_, text| text.parse::<Ipv6Addr>().ok().map(drop),
        idle: true,
    },
    Spec {
        names: &["com.docker.network.advertise_addr_nmsgs"],
        expected: "a number from 0 to 3",
        set: |_, text| number(text, 0..=3).map(drop),
        idle: true,
    },
    Spec {
        names: &["com.docker.network.advertise_addr_ms"],
        expected: "a number of milliseconds from 100 to 2000",
        set: |_, text| number(text, 100..=2000).map(drop),
        idle: true,
    },
    Spec {
        // How Docker's own proxy is set up; there is none here.
        names: &["com.docker.network.driver.private.no_proxy_6to4"],
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

/// Reads the options of a network.
pub(super) fn parse(
    given: &BTreeMap<String, String>,
) -> Result<(BridgeOptions, Reading), OptionError> {
    let mut to = Bridge::default();
    to.reading.warnings = read(BRIDGE, &mut to, given, "driver bridge")?;
    Ok((to.options, to.reading))
}

fn mtu(text: &str) -> Option<u32> {
    // 68 bytes is the least that IPv4 works with (RFC 791).
    text.parse().ok().filter(|bytes| *bytes == 0 || (68..=65_535).contains(bytes))
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

fn prefix(text: &str) -> Option<String> {
    // Three digits must fit behind it.
    (text.len() <= 12 && text.parse::<LinkName>().is_ok()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests;
