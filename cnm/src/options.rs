//! Driver options as typed values.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::{DriverKind, HasKind, Kind, LinkName};

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

/// What the options of a new network say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParsedOptions {
    /// The driver's.
    pub driver: DriverOptions,
    /// `com.docker.network.enable_ipv4`, the same as the network's own field.
    pub ipv4: Option<bool>,
    /// `com.docker.network.enable_ipv6`, the same as the network's own field.
    pub ipv6: Option<bool>,
    /// `com.docker.network.internal`, the same as the network's own field.
    pub internal: Option<bool>,
    /// Options that have no effect, in sentences.
    pub warnings: Vec<String>,
}

/// What the options of an endpoint say (`--driver-opt`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointOptions {
    /// `com.docker.network.endpoint.ifname`: the interface's name in the sandbox.
    pub interface: Option<LinkName>,
    /// `com.docker.network.endpoint.sysctls`: paths below `/proc/sys` and values. `IFNAME` in a
    /// path stands for the interface.
    pub sysctls: Vec<(String, String)>,
    /// Options that have no effect, in sentences.
    pub warnings: Vec<String>,
}

/// An option that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// It has a value that it cannot have.
    #[error("invalid value \"{value}\" of option {option}: {expected} is expected")]
    Value {
        /// Its name.
        option: String,
        /// The value.
        value: String,
        /// What it takes.
        expected: &'static str,
    },
    /// Its name is one of Docker's networks, and there is none of that name.
    #[error("{0}")]
    Unknown(String),
}

impl HasKind for OptionError {
    fn kind(&self) -> Kind {
        Kind::Invalid
    }
}

/// One option: its names (the first is the proper one), what it accepts, and what it does.
struct Spec<T> {
    names: &'static [&'static str],
    expected: &'static str,
    set: fn(&mut T, &str) -> Option<()>,
}

/// What options of the bridge driver set.
struct Bridge {
    options: BridgeOptions,
    ipv4: Option<bool>,
    ipv6: Option<bool>,
    internal: Option<bool>,
    /// Whether the option just set is one that this version cannot realise.
    idle: bool,
}

const BOOLEAN: &str = "true or false";
const MODE: &str = "nat, nat-unprotected, routed or isolated";
const SYSCTLS: &str = "a comma-separated list such as net.ipv4.conf.IFNAME.log_martians=1";

const BRIDGE: &[Spec<Bridge>] = &[
    Spec {
        names: &["com.docker.network.bridge.name", "interface_name"],
        expected: "an interface name of 1 to 15 bytes without `/`, `:` and white space",
        set: |to, text| put(&mut to.options.bridge, text.parse().ok()),
    },
    Spec {
        names: &["com.docker.network.bridge.enable_icc"],
        expected: BOOLEAN,
        set: |to, text| put(&mut to.options.icc, boolean(text)),
    },
    Spec {
        names: &["com.docker.network.bridge.enable_ip_masquerade"],
        expected: BOOLEAN,
        set: |to, text| put(&mut to.options.masquerade, boolean(text)),
    },
    Spec {
        names: &["com.docker.network.driver.mtu", "com.docker.network.mtu", "mtu"],
        expected: "a number of bytes from 68 to 65535, or 0 for the default,",
        set: |to, text| {
            put(&mut to.options.mtu, mtu(text).map(|bytes| (bytes > 0).then_some(bytes)))
        },
    },
    Spec {
        names: &["com.docker.network.bridge.host_binding_ipv4"],
        expected: "an IPv4 address of this host",
        set: |to, text| {
            to.options.host_bindings.push(text.parse::<Ipv4Addr>().ok()?.into());
            Some(())
        },
    },
    Spec {
        names: &["com.docker.network.bridge.host_binding_ipv6"],
        expected: "an IPv6 address of this host",
        set: |to, text| {
            let bare = text.trim_start_matches('[').trim_end_matches(']');
            to.options.host_bindings.push(bare.parse::<Ipv6Addr>().ok()?.into());
            Some(())
        },
    },
    Spec {
        names: &[
            "com.docker.network.container_iface_prefix",
            "com.docker.network.container_interface_prefix",
        ],
        expected: "the beginning of an interface name, at most 12 bytes,",
        set: |to, text| put(&mut to.options.interface_prefix, prefix(text)),
    },
    Spec {
        names: &["com.docker.network.bridge.gateway_mode_ipv4"],
        expected: MODE,
        set: |to, text| put(&mut to.options.gateway_mode_ipv4, mode(text)),
    },
    Spec {
        names: &["com.docker.network.bridge.gateway_mode_ipv6"],
        expected: MODE,
        set: |to, text| put(&mut to.options.gateway_mode_ipv6, mode(text)),
    },
    Spec {
        names: &["com.docker.network.bridge.inhibit_ipv4"],
        expected: BOOLEAN,
        set: |to, text| put(&mut to.options.inhibit_ipv4, boolean(text)),
    },
    Spec {
        names: &["com.docker.network.enable_ipv4"],
        expected: BOOLEAN,
        set: |to, text| put(&mut to.ipv4, boolean(text).map(Some)),
    },
    Spec {
        names: &["com.docker.network.enable_ipv6"],
        expected: BOOLEAN,
        set: |to, text| put(&mut to.ipv6, boolean(text).map(Some)),
    },
    Spec {
        names: &["com.docker.network.internal"],
        expected: BOOLEAN,
        set: |to, text| put(&mut to.internal, boolean(text).map(Some)),
    },
    Spec {
        // Which network is the default one is known without it.
        names: &["com.docker.network.bridge.default_bridge"],
        expected: BOOLEAN,
        set: |_, text| boolean(text).map(drop),
    },
    Spec {
        names: &["com.docker.network.bridge.trusted_host_interfaces"],
        expected: "a colon-separated list of interface names",
        set: |to, text| {
            let names = text.split(':').all(|name| name.parse::<LinkName>().is_ok());
            put(&mut to.idle, names.then_some(true))
        },
    },
    Spec {
        names: &["com.docker.network.host_ipv4"],
        expected: "an IPv4 address of this host",
        set: |to, text| put(&mut to.idle, text.parse::<Ipv4Addr>().ok().map(|_| true)),
    },
    Spec {
        names: &["com.docker.network.host_ipv6"],
        expected: "an IPv6 address of this host",
        set: |to, text| put(&mut to.idle, text.parse::<Ipv6Addr>().ok().map(|_| true)),
    },
    Spec {
        names: &["com.docker.network.advertise_addr_nmsgs"],
        expected: "a number from 0 to 3",
        set: |to, text| put(&mut to.idle, number(text, 0..=3).map(|_| true)),
    },
    Spec {
        names: &["com.docker.network.advertise_addr_ms"],
        expected: "a number of milliseconds from 100 to 2000",
        set: |to, text| put(&mut to.idle, number(text, 100..=2000).map(|_| true)),
    },
    Spec {
        // How Docker's own proxy is set up; there is none here.
        names: &["com.docker.network.driver.private.no_proxy_6to4"],
        expected: "anything",
        set: |_, _| Some(()),
    },
];

const ENDPOINT: &[Spec<EndpointOptions>] = &[
    Spec {
        names: &["com.docker.network.endpoint.ifname"],
        expected: "an interface name of 1 to 15 bytes without `/`, `:` and white space",
        set: |to, text| put(&mut to.interface, text.parse().ok().map(Some)),
    },
    Spec {
        names: &["com.docker.network.endpoint.sysctls"],
        expected: SYSCTLS,
        set: |to, text| {
            to.sysctls = text.split(',').map(sysctl).collect::<Option<_>>()?;
            Some(())
        },
    },
];

impl BridgeOptions {
    /// What a bridge network is like where no option says otherwise.
    pub fn new(bridge: LinkName) -> Self {
        Self {
            bridge,
            icc: true,
            masquerade: true,
            mtu: None,
            host_bindings: Vec::new(),
            interface_prefix: "eth".to_owned(),
            gateway_mode_ipv4: GatewayMode::Nat,
            gateway_mode_ipv6: GatewayMode::Nat,
            inhibit_ipv4: false,
        }
    }

    /// The gateway mode of a family.
    pub fn gateway_mode(&self, ipv6: bool) -> GatewayMode {
        if ipv6 { self.gateway_mode_ipv6 } else { self.gateway_mode_ipv4 }
    }
}

impl ParsedOptions {
    /// Reads the options of a network. `bridge` is the device of a bridge network that names
    /// none. What is unknown is an error or, if it is not of Docker's vocabulary, a warning; a value
    /// that cannot be is an error.
    pub fn parse(
        kind: DriverKind,
        given: &BTreeMap<String, String>,
        bridge: LinkName,
    ) -> Result<Self, OptionError> {
        let options = BridgeOptions::new(bridge);
        let mut to = Bridge { options, ipv4: None, ipv6: None, internal: None, idle: false };
        let mut warnings = Vec::new();
        let specs = if kind == DriverKind::Bridge { BRIDGE } else { &[] };
        for (name, value) in given {
            if specs.is_empty() {
                warnings.push(format!("option {name} is ignored: driver {kind} has no options"));
                continue;
            }
            if !set(specs, &mut to, name, value)? {
                let of = format!("driver {kind}");
                warnings.extend(unknown(name, &of, specs.iter().flat_map(|spec| spec.names))?);
            }
            if std::mem::take(&mut to.idle) {
                warnings.push(format!("option {name} is ignored: this version cannot do it"));
            }
        }
        let driver = match kind {
            DriverKind::Bridge => DriverOptions::Bridge(to.options),
            DriverKind::Host => DriverOptions::Host,
            DriverKind::Null => DriverOptions::Null,
        };
        Ok(Self { driver, ipv4: to.ipv4, ipv6: to.ipv6, internal: to.internal, warnings })
    }
}

impl EndpointOptions {
    /// Reads the options of an endpoint.
    pub fn parse(given: &BTreeMap<String, String>) -> Result<Self, OptionError> {
        let mut to = Self::default();
        for (name, value) in given {
            if !set(ENDPOINT, &mut to, name, value)? {
                let names = ENDPOINT.iter().flat_map(|spec| spec.names);
                to.warnings.extend(unknown(name, "endpoints", names)?);
            }
        }
        Ok(to)
    }
}

/// Applies the option of this name; tells whether there is one.
fn set<T>(specs: &[Spec<T>], to: &mut T, name: &str, value: &str) -> Result<bool, OptionError> {
    let Some(spec) = specs.iter().find(|spec| spec.names.contains(&name)) else {
        return Ok(false);
    };
    (spec.set)(to, value).map(|()| true).ok_or_else(|| OptionError::Value {
        option: name.to_owned(),
        value: value.to_owned(),
        expected: spec.expected,
    })
}

/// A name of Docker's vocabulary that does not exist was meant to do something: it is an error.
/// Others are for somebody else, and a warning.
fn unknown<'a>(
    name: &str,
    of: &str,
    known: impl Iterator<Item = &'a &'static str>,
) -> Result<Option<String>, OptionError> {
    let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_lowercase();
    // The last word says what is meant; what stands before it is often left out or mixed up.
    let far = |known: &str| (distance(&last(known), &last(name)), distance(known, name));
    let sane = (1..100).contains(&name.len());
    let near = |known: &&&str| sane && 3 * far(known).0 <= last(name).len();
    let hint = known.filter(near).min_by_key(|known| far(known));
    let hint = hint.map(|known| format!(": did you mean {known}?")).unwrap_or_default();
    if name.starts_with("com.docker.network.") {
        return Err(OptionError::Unknown(format!("unknown option {name} of {of}{hint}")));
    }
    Ok(Some(format!("unknown option {name} of {of} is ignored{hint}")))
}

/// How many letters have to be put in, taken out or replaced to turn one text into the other.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// Sets what an option stands for, if the text means something.
fn put<T>(slot: &mut T, value: Option<T>) -> Option<()> {
    *slot = value?;
    Some(())
}

/// The spellings of Go's `strconv.ParseBool`, which clients know from Docker.
fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "True" | "TRUE" => Some(true),
        "0" | "f" | "F" | "false" | "False" | "FALSE" => Some(false),
        _ => None,
    }
}

fn number(text: &str, accepted: RangeInclusive<u32>) -> Option<u32> {
    text.parse().ok().filter(|number| accepted.contains(number))
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

/// `net.ipv4.conf.IFNAME.x=v` as a path and a value. Only what belongs to one interface is
/// accepted: the rest are the sandbox's own.
fn sysctl(text: &str) -> Option<(String, String)> {
    let (name, value) = text.trim().split_once('=')?;
    let parts: Vec<&str> = name.split('.').collect();
    let plain = |part: &str| !part.is_empty() && !part.contains('/');
    let ["net", "ipv4" | "ipv6" | "mpls", _, rest @ ..] = parts.as_slice() else { return None };
    let of_interface = rest.first() == Some(&"IFNAME") || parts[1] == "mpls";
    (of_interface && parts.iter().copied().all(plain)).then(|| (parts.join("/"), value.to_owned()))
}

#[cfg(test)]
mod tests;
