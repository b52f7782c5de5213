//! The options of overlay networks: some of those of bridge networks, and their own.

use std::collections::BTreeMap;

use cnm::Network;
use cnm::driver::Reading;
use cnm::options::{
    BOOLEAN, Described, OptionError, Spec, boolean, described, manual, number, put,
};

use crate::bridge::{BridgeOptions, MTU_NAMES, Parsed, read_with, set_mtu, shared};

/// What can be changed while containers are on the network.
pub(super) const CHANGEABLE: &[&[&str]] = &[
    MTU_NAMES,
    &["com.docker.network.bridge.enable_ip_masquerade"],
    &["com.docker.network.bridge.host_binding_ipv4"],
    &["com.docker.network.bridge.host_binding_ipv6"],
];

/// The options of bridge networks that mean the same here.
const SHARED: &[&str] = &[
    "com.docker.network.bridge.enable_ip_masquerade",
    "com.docker.network.bridge.host_binding_ipv4",
    "com.docker.network.bridge.host_binding_ipv6",
    "com.docker.network.container_iface_prefix",
    "com.docker.network.enable_ipv4",
    "com.docker.network.enable_ipv6",
    "com.docker.network.internal",
];

/// Docker's name for whether what is between the hosts is encrypted.
const ENCRYPTED: &str = "encrypted";

/// The name for whether frames between endpoints on different hosts go past the bridge.
const SHORTCUT: &str = "rnet.overlay.shortcut";

const OWN: &[Spec<Parsed>] = &[
    Spec {
        names: MTU_NAMES,
        manual: manual(
            "The largest packet, in bytes.",
            "what the ways between the hosts take, less 50 bytes (70 where the hosts talk IPv6; 130 and 150 where it is \
             encrypted), which it follows",
            "1400",
        ),
        expected: "a number of bytes from 68 to 65535, or 0 for the default,",
        set: set_mtu,
        idle: false,
    },
    Spec {
        names: &["com.docker.network.driver.overlay.vxlanid_list"],
        manual: manual(
            "The number by which the network's frames are known in its tunnels (VNI).",
            "a free one from 4096 on",
            "4242",
        ),
        expected: "a number from 1 to 16777215",
        set: |to, text| put(&mut to.reading.vni, number(text, 1..=16_777_215).map(Some)),
        idle: false,
    },
    Spec {
        names: &["rnet.overlay.port"],
        manual: manual(
            "The UDP port of the tunnels, the same on all hosts.",
            "that of the cluster, 4789 where nobody said otherwise; 4790 where it is encrypted",
            "8472",
        ),
        expected: "a port from 1024 to 49151",
        set: |to, text| put(&mut to.reading.port, port(text).map(Some)),
        idle: false,
    },
    Spec {
        names: &[ENCRYPTED],
        manual: manual(
            "Whether what is between the hosts is encrypted: it goes by WireGuard, which all hosts with containers on the \
             network need, or not at all. Without a value it is `true`.",
            "false",
            "true",
        ),
        expected: BOOLEAN,
        set: |to, text| put(&mut to.reading.encrypted, encrypted(text)),
        idle: false,
    },
    Spec {
        names: &[SHORTCUT],
        manual: manual(
            "Whether what containers on different hosts send each other goes past the bridge, and past what the \
             host's own firewall says of bridged packets.",
            "true",
            "false",
        ),
        expected: BOOLEAN,
        set: |_, text| boolean(text).map(drop),
        idle: false,
    },
];

/// What the options of a network say of its bridges. That they can be read was checked when it was made.
pub(super) fn of(network: &Network) -> BridgeOptions {
    parse(&network.given_options).map(|(options, _)| options).unwrap_or_default()
}

/// Whether what is between the hosts is to be encrypted.
pub(super) fn is_encrypted(given: &BTreeMap<String, String>) -> bool {
    given.get(ENCRYPTED).and_then(|text| encrypted(text)).unwrap_or_default()
}

/// Whether frames between endpoints on different hosts go past the bridge.
pub(super) fn has_shortcut(given: &BTreeMap<String, String>) -> bool {
    given.get(SHORTCUT).and_then(|text| boolean(text)).unwrap_or(true)
}

pub(super) fn manuals() -> Vec<Described> {
    described(&specs())
}

pub(super) fn parse(
    given: &BTreeMap<String, String>,
) -> Result<(BridgeOptions, Reading), OptionError> {
    read_with(&specs(), given, "driver overlay")
}

fn specs() -> Vec<Spec<Parsed>> {
    OWN.iter().cloned().chain(shared(SHARED)).collect()
}

fn port(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port| (1024..=49_151).contains(port))
}

/// Docker takes the option for a switch, whose value may be missing.
fn encrypted(text: &str) -> Option<bool> {
    if text.is_empty() { Some(true) } else { boolean(text) }
}
