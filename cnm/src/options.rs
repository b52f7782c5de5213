//! Driver options as typed values.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{DriverKind, LinkName};

/// The options of a network, by driver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "driver", rename_all = "lowercase")]
pub enum DriverOptions {
    /// See [`BridgeOptions`].
    Bridge(BridgeOptions),
    /// The host driver has none.
    Host,
    /// The null driver has none.
    Null,
}

/// The options of the bridge driver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BridgeOptions {
    /// `com.docker.network.bridge.name`: the device; `br-` and 12 digits of the id by default.
    pub bridge: LinkName,
    /// `com.docker.network.bridge.enable_icc`: whether endpoints may talk to each other.
    pub icc: bool,
    /// `com.docker.network.bridge.enable_ip_masquerade`: whether traffic to the outside leaves
    /// with the host's address.
    pub masquerade: bool,
    /// `com.docker.network.driver.mtu`: the MTU in bytes; the kernel's default if absent.
    pub mtu: Option<u32>,
    /// `com.docker.network.bridge.host_binding_ipv4` and its IPv6 twin: the addresses that ports
    /// are published on where the request names none; empty means all addresses.
    pub host_bindings: Vec<IpAddr>,
    /// `com.docker.network.container_iface_prefix`: `eth` by default.
    pub interface_prefix: String,
    /// `com.docker.network.bridge.gateway_mode_ipv4`.
    pub gateway_mode_ipv4: GatewayMode,
    /// `com.docker.network.bridge.gateway_mode_ipv6`.
    pub gateway_mode_ipv6: GatewayMode,
    /// `com.docker.network.bridge.inhibit_ipv4`: no IPv4 address on the bridge.
    pub inhibit_ipv4: bool,
}

/// How a bridge network is connected to the outside (Docker's gateway modes).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GatewayMode {
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

impl DriverOptions {
    /// The driver these options belong to.
    pub fn kind(&self) -> DriverKind {
        match self {
            Self::Bridge(_) => DriverKind::Bridge,
            Self::Host => DriverKind::Host,
            Self::Null => DriverKind::Null,
        }
    }
}
