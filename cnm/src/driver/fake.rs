//! Drivers that spell their networks out, for the tests of the model.

use super::*;
use crate::network::Tunnel;
use crate::options::{BOOLEAN, INTERFACE, Spec, boolean, manual, number, put, read};
use crate::{Ns, PortBinding};

/// The three that every daemon has.
pub(crate) const DRIVERS: &[&dyn Driver] = &[&Fake::Bridge, &Fake::Host, &Fake::Null];

thread_local! {
    /// How often a driver was asked what a network is like.
    pub(crate) static PROFILES: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// A driver with some of the options of the real one.
#[derive(Debug)]
pub(crate) enum Fake {
    Bridge,
    Host,
    Null,
}

#[derive(Default)]
struct Options {
    reading: Reading,
    device: Option<LinkName>,
    mtu: u32,
    prefix: Option<String>,
    bindings: Vec<IpAddr>,
    reach: [Option<Reach>; 2],
}

const SPECS: &[Spec<Options>] = &[
    Spec {
        names: &["com.docker.network.bridge.name"],
        manual: manual("", "", ""),
        expected: INTERFACE,
        set: |to, text| put(&mut to.device, text.parse().ok().map(Some)),
        idle: false,
    },
    Spec {
        names: &["com.docker.network.bridge.enable_icc"],
        manual: manual("", "", ""),
        expected: BOOLEAN,
        set: |_, text| boolean(text).map(drop),
        idle: false,
    },
    Spec {
        names: &["com.docker.network.driver.mtu", "mtu"],
        manual: manual("", "", ""),
        expected: "a number of bytes",
        set: |to, text| put(&mut to.mtu, number(text, 68..=65_535)),
        idle: false,
    },
    Spec {
        names: &["com.docker.network.internal"],
        manual: manual("", "", ""),
        expected: BOOLEAN,
        set: |to, text| put(&mut to.reading.internal, boolean(text).map(Some)),
        idle: false,
    },
    Spec {
        names: &["com.docker.network.container_iface_prefix"],
        manual: manual("", "", ""),
        expected: "the beginning of a name",
        set: |to, text| put(&mut to.prefix, Some(Some(text.to_owned()))),
        idle: false,
    },
    Spec {
        names: &["com.docker.network.bridge.host_binding_ipv4"],
        manual: manual("", "", ""),
        expected: "an address",
        set: |to, text| {
            to.bindings.push(text.parse().ok()?);
            Some(())
        },
        idle: false,
    },
    Spec {
        names: &["com.docker.network.bridge.gateway_mode_ipv4"],
        manual: manual("", "", ""),
        expected: "a mode",
        set: |to, text| put(&mut to.reach[0], reach(text).map(Some)),
        idle: false,
    },
    Spec {
        names: &["com.docker.network.bridge.gateway_mode_ipv6"],
        manual: manual("", "", ""),
        expected: "a mode",
        set: |to, text| put(&mut to.reach[1], reach(text).map(Some)),
        idle: false,
    },
];

fn reach(text: &str) -> Option<Reach> {
    match text {
        "nat" => Some(Reach::Translated),
        "routed" => Some(Reach::Routed),
        "isolated" => Some(Reach::Closed),
        _ => None,
    }
}

impl Fake {
    fn options(&self, given: &BTreeMap<String, String>) -> Result<Options, OptionError> {
        let mut to = Options::default();
        let specs = if matches!(self, Self::Bridge) { SPECS } else { &[] };
        to.reading.warnings = read(specs, &mut to, given, &format!("driver {}", self.name()))?;
        Ok(to)
    }
}

impl Driver for Fake {
    fn name(&self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Host => "host",
            Self::Null => "null",
        }
    }

    fn aliases(&self) -> &'static [&'static str] {
        match self {
            Self::Bridge => &[""],
            Self::Host => &[],
            Self::Null => &["none"],
        }
    }

    fn about(&self) -> &'static str {
        "Nothing real."
    }

    fn traits(&self) -> Traits {
        let bridge = matches!(self, Self::Bridge);
        let host = matches!(self, Self::Host);
        Traits {
            addresses: bridge,
            namespace: if host { Namespace::Host } else { Namespace::Own },
            single: !bridge,
            company: bridge,
            publishes: bridge,
            scope: Scope::Local,
        }
    }

    fn read(&self, options: &BTreeMap<String, String>) -> Result<Reading, OptionError> {
        Ok(self.options(options)?.reading)
    }

    fn check(&self, network: &Network) -> Result<(), OptionError> {
        let options = self.options(&network.given_options)?;
        if options.reach.contains(&Some(Reach::Closed)) && !network.internal {
            return Err(OptionError::Contradiction("isolated needs internal".to_owned()));
        }
        Ok(())
    }

    fn profile(&self, network: &Network) -> Profile {
        PROFILES.set(PROFILES.get() + 1);
        let options = self.options(&network.given_options).unwrap_or_default();
        if !matches!(self, Self::Bridge) {
            let (device, interface_prefix, bindings) = Default::default();
            return Profile { device, interface_prefix, bindings, reach: [Reach::Closed; 2] };
        }
        let device = || if network.predefined { "rnet0" } else { network.id.short() }.parse().ok();
        Profile {
            device: options.device.clone().or_else(device),
            interface_prefix: options.prefix.or(Some("eth".to_owned())),
            bindings: options.bindings,
            reach: options.reach.map(|reach| reach.unwrap_or(Reach::Translated)),
        }
    }

    fn network(&self, network: &Network) -> Result<State, PlanError> {
        let path = format!("network/{}", network.name);
        let pools = network.pools.iter().map(|pool| pool.subnet.to_string());
        let tunnel = network.tunnel.map(|Tunnel { vni, local, mtu, .. }| {
            let mtu = mtu.map_or_else(String::new, |mtu| format!(" mtu {mtu}"));
            format!("tunnel {vni} from {local}{mtu}")
        });
        let text = pools.chain(tunnel).collect::<Vec<_>>().join(" ");
        Ok(State::from_iter([(Key::Sysctl { ns: Ns::Host, path }, Value::Text(text))]))
    }

    fn peers(&self, network: &Network, peers: &[&Peer]) -> State {
        let entry = |what: String, node: u32| {
            let path = format!("network/{}/{what}", network.name);
            (Key::Sysctl { ns: Ns::Host, path }, Value::Text(format!("at {node}")))
        };
        let of_peer = |peer: &&Peer| {
            let addresses = peer.addresses.iter().map(ToString::to_string);
            let all = addresses.chain([peer.mac.to_string()]);
            all.map(|what| entry(what, peer.node)).collect::<Vec<_>>()
        };
        peers.iter().flat_map(of_peer).collect()
    }

    fn endpoint(&self, sandbox: &Sandbox, of: Attachment<'_>) -> Result<State, PlanError> {
        let Attachment { network, endpoint } = of;
        if matches!(self, Self::Host) {
            let (sandbox, network) = (sandbox.id.to_string(), network.name.clone());
            return Err(PlanError::HostNetwork { sandbox, network });
        }
        let path = format!("{}/{}", network.name, endpoint.interface);
        let addresses: Vec<String> = endpoint.addresses.iter().map(ToString::to_string).collect();
        let text = format!("{} {}", endpoint.mac, addresses.join(" "));
        let ns = Ns::Sandbox(sandbox.id.clone());
        Ok(State::from_iter([(Key::Sysctl { ns, path }, Value::Text(text))]))
    }

    fn publish(&self, bindings: &[&PortBinding], _to: Attachment<'_>) -> Vec<(Key, Value)> {
        let one = |binding: &&PortBinding| {
            let PortBinding { host, host_port, protocol, port } = binding;
            let path =
                format!("port/{}/{host_port}/{protocol}", host.to_string().replace('.', "-"));
            (Key::Sysctl { ns: Ns::Host, path }, Value::Text(port.to_string()))
        };
        bindings.iter().map(one).collect()
    }
}
