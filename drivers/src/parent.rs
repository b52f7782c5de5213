//! The link of the host that a macvlan or ipvlan network is on: its parent.
//!
//! The one that is named is used if it is there. One named as a VLAN is (`eth0.100`) is made if it is
//! not there, and goes with the last network that is on it. A network that names none gets a bridge
//! without ports, which leads nowhere.

use std::collections::BTreeMap;
use std::time::Duration;

use cnm::controller::{HostFacts, HostLink};
use cnm::driver::{PARENT_TAG, Probe, Reading};
use cnm::network::Parent;
use cnm::options::{
    BOOLEAN, Described, INTERFACE, OptionError, Spec, boolean, manual, number, put, read,
};
use cnm::sandbox::Attachment;
use cnm::{Key, Link, LinkKind, LinkName, Network, Ns, Sandbox, State, Value};

use crate::kernel::sysctl;

/// The least MTU that IPv6 works with (RFC 8200).
const IPV6_MTU: u32 = 1280;

/// The VLANs that there can be: 0 and 4095 mean something else (IEEE 802.1Q).
const VLANS: std::ops::RangeInclusive<u32> = 1..=4094;

/// How long neighbours have to say that an address is theirs, in milliseconds, where no option says
/// otherwise. A host that lives on the same wire answers within one or two.
const PROBE: u32 = 50;

/// What the options of such a network say, whichever of the two it is.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// `parent`: the link of the host.
    pub(crate) parent: Option<LinkName>,
    /// `com.docker.network.driver.mtu`.
    pub(crate) mtu: Option<u32>,
    /// `rnet.probe_ms`: how long to wait for whoever has an address already; not at all at 0.
    pub(crate) probe: u32,
    /// `com.docker.network.container_iface_prefix`.
    pub(crate) interface_prefix: String,
}

/// The options of a driver that puts its networks on links of the host, while they are read.
#[derive(Debug, Default)]
pub(crate) struct Draft<T> {
    pub(crate) own: T,
    pub(crate) common: Options,
    reading: Reading,
}

impl Default for Options {
    fn default() -> Self {
        Self { parent: None, mtu: None, probe: PROBE, interface_prefix: "eth".to_owned() }
    }
}

/// The options that such drivers have in common.
fn common<T>() -> Vec<Spec<Draft<T>>> {
    vec![
        Spec {
            names: &["parent"],
            manual: manual(
                "The link of the host that the network is on. A VLAN that is not there is made, and goes with the last network on it.",
                "a bridge without ports: the network leads nowhere",
                "eth0.100",
            ),
            expected: INTERFACE,
            set: |to, text| set_parent(&mut to.common.parent, text),
            idle: false,
        },
        Spec {
            names: &["com.docker.network.driver.mtu", "com.docker.network.mtu", "mtu"],
            manual: manual(
                "The MTU of the links, not more than that of the parent.",
                "that of the parent",
                "1400",
            ),
            expected: "a number of bytes from 68 to 65535, or 0 for that of the parent,",
            set: |to, text| {
                let bytes = text.parse().ok().filter(|n| *n == 0 || (68..=65_535).contains(n));
                put(&mut to.common.mtu, bytes.map(|bytes| (bytes > 0).then_some(bytes)))
            },
            idle: false,
        },
        Spec {
            names: &["rnet.probe_ms"],
            manual: manual(
                "For how many milliseconds neighbours are asked whether one of them has the address of a new container, which then does not start.",
                "50; 0 asks nobody",
                "0",
            ),
            expected: "a number of milliseconds from 0 to 10000",
            set: |to, text| put(&mut to.common.probe, number(text, 0..=10_000)),
            idle: false,
        },
        Spec {
            names: &[
                "com.docker.network.container_iface_prefix",
                "com.docker.network.container_interface_prefix",
            ],
            manual: manual(
                "What the names of the interfaces in containers begin with.",
                "eth",
                "net",
            ),
            expected: "the beginning of an interface name, at most 12 bytes,",
            set: |to, text| put(&mut to.common.interface_prefix, prefix(text)),
            idle: false,
        },
    ]
}

/// Those that the request has fields for as well.
fn families<T>() -> Vec<Spec<Draft<T>>> {
    vec![
        Spec {
            names: &["com.docker.network.enable_ipv4"],
            manual: manual("Whether the network has IPv4.", "true", "false"),
            expected: BOOLEAN,
            set: |to, text| put(&mut to.reading.ipv4, boolean(text).map(Some)),
            idle: false,
        },
        Spec {
            names: &["com.docker.network.enable_ipv6"],
            manual: manual(
                "Whether the network has IPv6.",
                "true if there is a subnet of it",
                "true",
            ),
            expected: BOOLEAN,
            set: |to, text| put(&mut to.reading.ipv6, boolean(text).map(Some)),
            idle: false,
        },
        Spec {
            names: &["com.docker.network.internal"],
            manual: manual(
                "Whether the network leads nowhere, as by `--internal`.",
                "false, and true without a parent",
                "true",
            ),
            expected: BOOLEAN,
            set: |to, text| put(&mut to.reading.internal, boolean(text).map(Some)),
            idle: false,
        },
    ]
}

/// Reads the options of a network by the driver's own table and the common one.
pub(crate) fn parse<T: Default>(
    own: Vec<Spec<Draft<T>>>,
    given: &BTreeMap<String, String>,
    driver: &str,
) -> Result<(T, Options, Reading), OptionError> {
    let specs: Vec<_> = own.into_iter().chain(common()).chain(families()).collect();
    let mut to = Draft::<T>::default();
    let warnings = read(&specs, &mut to, given, &format!("driver {driver}"))?;
    let Draft { own, common, mut reading } = to;
    reading.warnings = warnings;
    // A network that is on nothing reaches nothing.
    reading.internal = if common.parent.is_none() { Some(true) } else { reading.internal };
    Ok((own, common, reading))
}

/// What the options of a network say. That they can be read was checked when it was made.
pub(crate) fn options<T: Default>(own: Vec<Spec<Draft<T>>>, network: &Network) -> (T, Options) {
    let parsed = parse(own, &network.given_options, network.driver.name()).ok();
    parsed.map(|(own, common, _)| (own, common)).unwrap_or_default()
}

/// An empty text means none, as it does to Docker.
fn set_parent(to: &mut Option<LinkName>, text: &str) -> Option<()> {
    *to = if text.is_empty() { None } else { Some(text.parse().ok()?) };
    Some(())
}

fn prefix(text: &str) -> Option<String> {
    // Three digits must fit behind it.
    (text.len() <= 12 && text.parse::<LinkName>().is_ok()).then(|| text.to_owned())
}

/// Where a new network is to be, and what its user should know of that.
pub(crate) fn place(
    network: &Network,
    options: &Options,
    host: &HostFacts,
) -> Result<(Parent, Vec<String>), OptionError> {
    let Some(link) = options.parent.clone() else {
        let link = lone_bridge(network);
        check_mtu(network, options, &link, crate::kernel::link::DEFAULT_MTU)?;
        return Ok((Parent { link, made: false, mtu: options.mtu.filter(|m| *m < 1500) }, vec![]));
    };
    let found = host.links.get(&link);
    let base = match found {
        Some(found) => check_usable(&link, found, network)?,
        None => base_of(&link, network, host)?,
    };
    check_mtu(network, options, &link, base.mtu)?;
    let made = found.is_none_or(|found| found.tag.as_deref() == Some(PARENT_TAG));
    let mut warnings = Vec::new();
    if !base.up {
        warnings.push(format!(
            "parent interface {link} is switched off: no container starts on network {} before it \
             is switched on",
            network.name
        ));
    }
    let mtu = options.mtu.filter(|mtu| *mtu < base.mtu);
    Ok((Parent { link, made, mtu }, warnings))
}

/// Refuses a link of the host that cannot be a parent.
fn check_usable<'a>(
    name: &LinkName,
    link: &'a HostLink,
    network: &Network,
) -> Result<&'a HostLink, OptionError> {
    if link.loopback {
        return Err(OptionError::Contradiction(format!(
            "loopback interface is not a valid {} parent link: name another one than {name}",
            network.driver.name()
        )));
    }
    if link.port {
        return Err(OptionError::Contradiction(format!(
            "parent interface {name} is a port of a bridge or bond, which takes all that arrives: \
             name that one as the parent"
        )));
    }
    Ok(link)
}

/// The link that a VLAN which is not there yet is of.
fn base_of<'a>(
    name: &LinkName,
    network: &Network,
    host: &'a HostFacts,
) -> Result<&'a HostLink, OptionError> {
    let Some((base, id)) = name.as_str().rsplit_once('.') else {
        return Err(OptionError::Contradiction(format!(
            "parent interface {name} was not found on the host: see `ip link`; the name of a VLAN \
             interface that is to be made is that of another one and the VLAN, as in eth0.10"
        )));
    };
    let Some(id) = id.parse::<u32>().ok() else {
        return Err(OptionError::Contradiction(format!(
            "parent interface {name} was not found on the host, and it is an invalid subinterface \
             vlan name, example formatting is eth0.10"
        )));
    };
    if !VLANS.contains(&id) {
        return Err(OptionError::Contradiction(format!(
            "parent interface {name} was not found on the host, and cannot be made: vlan id must \
             be between 1-4094, received: {id}"
        )));
    }
    let found =
        base.parse::<LinkName>().ok().and_then(|base| Some((base.clone(), host.links.get(&base)?)));
    let Some((base, link)) = found else {
        return Err(OptionError::Contradiction(format!(
            "-o parent interface was not found on the host: {base}, which {name} would be a VLAN of"
        )));
    };
    check_usable(&base, link, network)
}

fn check_mtu(
    network: &Network,
    options: &Options,
    parent: &LinkName,
    of_parent: u32,
) -> Result<(), OptionError> {
    let Some(mtu) = options.mtu else { return Ok(()) };
    if mtu > of_parent {
        return Err(OptionError::Contradiction(format!(
            "an MTU of {mtu} bytes is more than the {of_parent} of parent interface {parent}"
        )));
    }
    if network.ipv6 && mtu < IPV6_MTU {
        return Err(OptionError::Contradiction(format!(
            "an MTU of {mtu} bytes is too small for IPv6: use {IPV6_MTU} or more, or no IPv6"
        )));
    }
    Ok(())
}

/// The device of a network that is on no link of the host, with Docker's name for it.
pub(crate) fn lone_bridge(network: &Network) -> LinkName {
    let name = format!("dm-{}", network.id.short());
    name.parse().unwrap_or_else(|_| unreachable!("15 bytes are a link name"))
}

/// The parent of a network. Every network of these drivers has one since it was made.
pub(crate) fn of(network: &Network) -> LinkName {
    network.parent.as_ref().map_or_else(|| lone_bridge(network), |parent| parent.link.clone())
}

/// What a network by itself has of its parent: the VLAN or the bridge that was made for it.
pub(crate) fn state(network: &Network) -> State {
    let link = of(network);
    if link == lone_bridge(network) {
        return lone(network, link);
    }
    vlan(network).map(|value| (Key::Link { ns: Ns::Host, name: link }, value)).into_iter().collect()
}

/// The VLAN that is a network's parent and ours.
fn vlan(network: &Network) -> Option<Value> {
    vlan_kind(network).map(|kind| {
        Value::Link(Link { kind, mac: None, mtu: None, up: true, tag: PARENT_TAG.to_owned() })
    })
}

/// What kind of link the network's parent is to be made as.
pub(crate) fn vlan_kind(network: &Network) -> Option<LinkKind> {
    let (parent, id) = network.made_parent()?.as_str().rsplit_once('.')?;
    Some(LinkKind::Vlan { parent: parent.parse().ok()?, id: id.parse().ok()? })
}

/// A bridge without ports, whose host has no address on it.
fn lone(network: &Network, name: LinkName) -> State {
    let tag = format!("lone/{}", network.id);
    let bridge = Link { kind: LinkKind::Bridge, mac: None, mtu: None, up: true, tag };
    let off = sysctl::of_bridge(&name).into_iter().map(|path| {
        let value = u8::from(path.ends_with("/disable_ipv6")).to_string();
        (Key::Sysctl { ns: Ns::Host, path }, Value::Text(value))
    });
    let off: Vec<_> = off.collect();
    [(Key::Link { ns: Ns::Host, name }, Value::Link(bridge))].into_iter().chain(off).collect()
}

/// The kinds of links that a network needs, with that of its endpoints.
pub(crate) fn kinds(network: &Network, endpoint: LinkKind) -> Vec<LinkKind> {
    [endpoint].into_iter().chain(vlan_kind(network)).collect()
}

/// An endpoint's link of a kind and its addresses.
pub(crate) fn endpoint(
    sandbox: &Sandbox,
    of: Attachment<'_>,
    kind: LinkKind,
) -> Result<State, cnm::PlanError> {
    let ns = Ns::Sandbox(sandbox.id.clone());
    let own_mac = of.network.driver.has_hardware_addresses();
    let link = Link {
        kind,
        mac: own_mac.then_some(of.endpoint.mac),
        mtu: of.network.parent.as_ref().and_then(|parent| parent.mtu),
        up: true,
        tag: format!("endpoint/{}", of.endpoint.id),
    };
    let interface = &of.endpoint.interface;
    let key = Key::Link { ns: ns.clone(), name: interface.clone() };
    let mut state = State::from_iter([(key, Value::Link(link))]);
    state.extend(crate::link_addresses(&ns, of)?);
    Ok(state)
}

/// What is to be asked before an endpoint uses its addresses; nothing where only we give addresses.
pub(crate) fn probe(of: Attachment<'_>, options: &Options, by: (Ns, LinkName)) -> Option<Probe> {
    let addresses: Vec<_> = of.endpoint.addresses.iter().map(ipnetwork::IpNetwork::ip).collect();
    let wanted = options.parent.is_some() && options.probe > 0 && !addresses.is_empty();
    wanted.then(|| Probe {
        sandbox: of.endpoint.sandbox.clone(),
        interface: of.endpoint.interface.clone(),
        by,
        addresses,
        wait: Duration::from_millis(options.probe.into()),
    })
}

/// Refuses networks of two drivers on one parent.
pub(crate) fn check_kind(network: &Network, other: &Network) -> Result<(), OptionError> {
    if network.driver == other.driver {
        return Ok(());
    }
    Err(OptionError::Contradiction(format!(
        "parent interface {} is used by network {} of driver {}: the kernel lets it be the parent \
         of {} links or of {} links",
        of(network),
        other.name,
        other.driver.name(),
        other.driver.name(),
        network.driver.name()
    )))
}

/// The options of a driver, as the manual has them.
pub(crate) fn described<T>(own: Vec<Spec<Draft<T>>>) -> Vec<Described> {
    let all: Vec<_> = own.into_iter().chain(common()).chain(families()).collect();
    cnm::options::described(&all)
}
