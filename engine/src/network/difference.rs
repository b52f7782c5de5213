//! What the daemon's options want of the network `bridge` otherwise than it was made.

use std::collections::BTreeSet;
use std::fmt::{Display, Formatter};

use cnm::network::{Pool, PoolSpec};
use cnm::{Network, NetworkSpec};
use ipnetwork::IpNetwork;

use crate::settings::Settings;

/// The options of the driver that have a flag of the daemon's.
const FLAGS: [(&str, &str); 6] = [
    ("com.docker.network.bridge.name", "--bridge"),
    ("com.docker.network.bridge.enable_icc", "--icc"),
    ("com.docker.network.bridge.enable_ip_masquerade", "--ip-masq"),
    ("com.docker.network.bridge.host_binding_ipv4", "--ip"),
    ("com.docker.network.bridge.host_binding_ipv6", "--ip"),
    ("com.docker.network.driver.mtu", "--mtu"),
];

/// An option that was given another value, or none, since the network was made.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Difference {
    flag: String,
    wanted: Option<String>,
    in_force: Option<String>,
}

impl Difference {
    fn new(
        flag: &str,
        wanted: Option<impl Display>,
        in_force: Option<impl Display>,
    ) -> Option<Self> {
        let wanted = wanted.map(|value| value.to_string());
        let in_force = in_force.map(|value| value.to_string());
        (wanted != in_force).then(|| Self { flag: flag.to_owned(), wanted, in_force })
    }
}

impl Display for Difference {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        match &self.wanted {
            Some(wanted) => write!(f, "{} {wanted} is not in force", self.flag)?,
            None => write!(f, "the default of {} is not in force", self.flag)?,
        }
        let in_force = self.in_force.as_deref().unwrap_or("the default");
        write!(f, ": network bridge has {in_force}")
    }
}

/// All differences between the network that is there and the one that would be made now.
/// `defaults` are the pools that subnets come from which nobody named.
pub(super) fn differences(
    network: &Network,
    spec: &NetworkSpec,
    settings: &Settings,
    defaults: &[(IpNetwork, u8)],
) -> Vec<Difference> {
    let ipv6 = spec.ipv6.unwrap_or(false);
    let mut found = options(network, spec, settings);
    found.extend(Difference::new("--ipv6", Some(ipv6), Some(network.ipv6)));
    for ipv6 in [false, true] {
        let is = network.pools.iter().find(|pool| pool.subnet.is_ipv6() == ipv6);
        let wanted =
            spec.pools.iter().find(|pool| subnet(pool).is_some_and(|n| n.is_ipv6() == ipv6));
        match (is, wanted) {
            (Some(is), Some(wanted)) => found.extend(pool(is, wanted, settings)),
            (Some(is), None) => found.extend(no_pool(is, defaults)),
            // A family that the network lacks has been found already.
            (None, _) => {}
        }
    }
    found
}

fn options(network: &Network, spec: &NetworkSpec, settings: &Settings) -> Vec<Difference> {
    let mut wanted = settings.default_network_options.get("bridge").cloned().unwrap_or_default();
    wanted.extend(spec.options.clone());
    let keys: BTreeSet<_> = wanted.keys().chain(network.given_options.keys()).collect();
    let difference = |key: &String| {
        let flag = FLAGS.iter().find(|(known, _)| known == key).map(|(_, flag)| (*flag).to_owned());
        let flag = flag.unwrap_or_else(|| format!("--default-network-opt bridge={key}"));
        Difference::new(&flag, wanted.get(key), network.given_options.get(key))
    };
    keys.into_iter().filter_map(difference).collect()
}

/// The pool of a family whose subnet was named.
fn pool(is: &Pool, wanted: &PoolSpec, settings: &Settings) -> Vec<Difference> {
    let bridge = &settings.default_bridge;
    let [bip, fixed, gateway] = flags(is);
    let range = wanted.range.as_ref().and_then(|text| text.parse::<IpNetwork>().ok());
    let address = if is.subnet.is_ipv6() { bridge.address6 } else { bridge.address };
    let of_subnet = match address {
        Some(address) => Difference::new(bip, Some(address), address_of(is)),
        None => Difference::new(fixed, subnet(wanted), Some(is.subnet)),
    };
    let of_range = Difference::new(fixed, range, is.range);
    let of_gateway = match (&wanted.gateway, address) {
        (Some(wanted), None) => Difference::new(gateway, Some(wanted), is.gateway),
        _ => None,
    };
    of_subnet.into_iter().chain(of_range).chain(of_gateway).collect()
}

/// The pool of a family whose subnet nobody names any more.
fn no_pool(is: &Pool, defaults: &[(IpNetwork, u8)]) -> Option<Difference> {
    let [bip, fixed, _] = flags(is);
    let nothing = None::<IpNetwork>;
    if is.range.is_some() {
        return Difference::new(fixed, nothing, is.range);
    }
    let of_family = defaults.iter().filter(|(net, _)| net.is_ipv6() == is.subnet.is_ipv6());
    let mut nets = of_family.map(|(net, _)| *net).peekable();
    // Unique local addresses are what is taken without a pool.
    let unknown = nets.peek().is_none();
    let from_default = unknown || nets.any(|net| net.contains(is.subnet.network()));
    if from_default { None } else { Difference::new(bip, nothing, address_of(is)) }
}

/// The flags of a pool: the bridge's address, the range, the gateway.
fn flags(pool: &Pool) -> [&'static str; 3] {
    if pool.subnet.is_ipv6() {
        ["--bip6", "--fixed-cidr-v6", "--default-gateway-v6"]
    } else {
        ["--bip", "--fixed-cidr", "--default-gateway"]
    }
}

/// The bridge's address, as `--bip` has it.
fn address_of(pool: &Pool) -> Option<IpNetwork> {
    IpNetwork::new(pool.gateway?, pool.subnet.prefix()).ok()
}

fn subnet(pool: &PoolSpec) -> Option<IpNetwork> {
    pool.subnet.as_ref()?.parse().ok()
}
