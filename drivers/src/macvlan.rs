//! The `macvlan` driver: endpoints with hardware addresses of their own on a link of the host, so that
//! they are hosts like others in the network that it leads to.

use std::collections::BTreeMap;

use cnm::controller::HostFacts;
use cnm::driver::{Driver, HOST_ADDRESS, Probe, Profile, Reach, Reading, Room};
use cnm::link::MacvlanMode;
use cnm::network::Parent;
use cnm::options::{BOOLEAN, Described, OptionError, Spec, boolean, manual, put};
use cnm::sandbox::Attachment;
use cnm::{Element, Key, Link, LinkKind, LinkName, Network, Ns, PlanError, Sandbox, State, Value};
use ipnetwork::IpNetwork;

use crate::kernel::sysctl;
use crate::parent::{self, Draft, Options};

const MODE: &str = "bridge, private, vepa or passthru";

/// The option that lets the host and the endpoints talk.
const HOST_ACCESS: &str = "rnet.macvlan.host_access";

/// The `macvlan` driver.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Macvlan;

/// The options that only it has.
#[derive(Clone, Copy, Debug, Default)]
struct Own {
    /// `macvlan_mode`.
    mode: MacvlanMode,
    /// Whether the host reaches the endpoints, and they the host.
    host_access: bool,
}

fn specs() -> Vec<Spec<Draft<Own>>> {
    vec![
        Spec {
            names: &["macvlan_mode"],
            manual: manual("Whom the links of one parent may talk to.", "bridge", "private"),
            expected: MODE,
            set: |to, text| put(&mut to.own.mode, mode(text)),
            idle: false,
        },
        Spec {
            names: &[HOST_ACCESS],
            manual: manual(
                "Whether the host reaches its containers, and they the host.",
                "false",
                "true",
            ),
            expected: BOOLEAN,
            set: |to, text| put(&mut to.own.host_access, boolean(text)),
            idle: false,
        },
    ]
}

fn options(network: &Network) -> (Own, Options) {
    parent::options(specs(), network)
}

fn mode(text: &str) -> Option<MacvlanMode> {
    match text {
        "" | "bridge" => Some(MacvlanMode::Bridge),
        "private" => Some(MacvlanMode::Private),
        "vepa" => Some(MacvlanMode::Vepa),
        "passthru" => Some(MacvlanMode::Passthru),
        _ => None,
    }
}

impl Driver for Macvlan {
    fn name(&self) -> &'static str {
        "macvlan"
    }

    fn about(&self) -> &'static str {
        "Containers are hosts of the network that a link of the host leads to, its parent, with hardware \
         addresses and all ports of their own. The host does not stand between them and the others there."
    }

    fn read(&self, options: &BTreeMap<String, String>) -> Result<Reading, OptionError> {
        parent::parse(specs(), options, self.name()).map(|(_, _, reading)| reading)
    }

    fn options(&self) -> Vec<Described> {
        parent::described(specs())
    }

    fn check(&self, network: &Network) -> Result<(), OptionError> {
        let (own, _) = options(network);
        if own.host_access && own.mode != MacvlanMode::Bridge {
            return Err(OptionError::Contradiction(format!(
                "{HOST_ACCESS} needs macvlan_mode bridge: in mode {} links of one parent do not \
                 talk to each other",
                own.mode
            )));
        }
        Ok(())
    }

    fn parent(
        &self,
        network: &Network,
        host: &HostFacts,
    ) -> Result<Option<(Parent, Vec<String>)>, OptionError> {
        parent::place(network, &options(network).1, host).map(Some)
    }

    /// Many networks may be on one parent, but for one that hands everything on.
    fn check_beside(&self, network: &Network, other: &Network) -> Result<(), OptionError> {
        parent::check_kind(network, other)?;
        let passthru = |network| options(network).0.mode == MacvlanMode::Passthru;
        let parent = parent::of(network);
        let taken =
            format!("macvlan network {} is already using parent interface {parent}", other.id);
        let why = match (passthru(network), passthru(other)) {
            (false, false) => return Ok(()),
            (true, _) => format!("cannot use mode passthru, {taken}"),
            (false, true) => format!("{taken} in mode passthru"),
        };
        Err(OptionError::Contradiction(why))
    }

    fn kinds(&self, network: &Network) -> Vec<LinkKind> {
        parent::kinds(network, kind(network))
    }

    fn room(&self, network: &Network) -> Option<Room> {
        let because =
            "macvlan_mode passthru hands the parent to one; make the network with mode bridge";
        (options(network).0.mode == MacvlanMode::Passthru).then_some(Room { endpoints: 1, because })
    }

    fn host_joins(&self, network: &Network) -> bool {
        options(network).0.host_access
    }

    fn probe(&self, of: Attachment<'_>) -> Option<Probe> {
        let inside = (Ns::Sandbox(of.endpoint.sandbox.clone()), of.endpoint.interface.clone());
        parent::probe(of, &options(of.network).1, inside)
    }

    fn profile(&self, network: &Network) -> Profile {
        Profile {
            device: None,
            interface_prefix: Some(options(network).1.interface_prefix),
            bindings: Vec::new(),
            reach: [Reach::Attached; 2],
        }
    }

    fn network(&self, network: &Network) -> Result<State, PlanError> {
        let mut state = parent::state(network);
        if options(network).0.host_access {
            state.extend(host_end(network));
        }
        Ok(state)
    }

    fn endpoint(&self, sandbox: &Sandbox, of: Attachment<'_>) -> Result<State, PlanError> {
        let mut state = parent::endpoint(sandbox, of, kind(of.network))?;
        if options(of.network).0.host_access {
            state.extend(host_routes(of));
        }
        Ok(state)
    }
}

fn kind(network: &Network) -> LinkKind {
    LinkKind::Macvlan { parent: parent::of(network), mode: options(network).0.mode }
}

/// The host's own link on the parent: what it sends by the parent itself goes out, and not to the
/// endpoints.
fn host_link(network: &Network) -> LinkName {
    let name = format!("mv-{}", network.id.short());
    name.parse().unwrap_or_else(|_| unreachable!("15 bytes are a link name"))
}

/// The host's link, with an address of each subnet for the host alone: the subnet itself is beyond the
/// parent.
fn host_end(network: &Network) -> State {
    let name = host_link(network);
    let link = Link {
        kind: kind(network),
        mac: None,
        mtu: network.parent.as_ref().and_then(|parent| parent.mtu),
        up: true,
        tag: format!("host/{}", network.id),
    };
    let key = Key::Link { ns: Ns::Host, name: name.clone() };
    let mut state = State::from_iter([(key, Value::Link(link))]);
    // The parent answers for the host's addresses to whoever is beyond it, this link to endpoints.
    let values = [true, false, false, false, !network.ipv6];
    state.extend(sysctl::of_host_end(&name).into_iter().zip(values).map(|(path, value)| {
        (Key::Sysctl { ns: Ns::Host, path }, Value::Text(u8::from(value).to_string()))
    }));
    let addresses = network.pools.iter().filter_map(|pool| pool.auxiliary.get(HOST_ADDRESS));
    state.extend(addresses.map(|address| {
        let key =
            Key::Address { ns: Ns::Host, link: name.clone(), address: alone((*address).into()) };
        (key, Value::Present)
    }));
    // Else the host would lead in whoever sends to it: containers of other networks, other LANs of its.
    let internal = network.internal.then(|| Element::Internal { link: name.clone() });
    let elements = internal.into_iter().chain([Element::Bridge { link: name }]);
    state.extend(elements.map(|element| (Key::Element(element), Value::Present)));
    state
}

/// The host's routes to an endpoint.
fn host_routes(of: Attachment<'_>) -> Vec<(Key, Value)> {
    let link = host_link(of.network);
    let route = |address: &IpNetwork| {
        let key = Key::Route { ns: Ns::Host, destination: alone(*address) };
        (key, Value::Route { link: link.clone(), via: None })
    };
    of.endpoint.addresses.iter().map(route).collect()
}

/// An address by itself, without its subnet.
fn alone(address: IpNetwork) -> IpNetwork {
    address.ip().into()
}
