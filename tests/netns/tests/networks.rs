//! `docs/networks/`: a page for each driver, with what its networks are in the kernel and what each option
//! changes of it, as the drivers themselves say and plan it.
//!
//! `UPDATE=1 cargo test -p netns-tests --test networks` writes them anew.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cnm::controller::{
    Claims, Controller, ControllerConfig, Decision, Entropy, HostFacts, HostLink, JoinSpec, Lent,
    PortSpec, SandboxSpec,
};
use cnm::driver::{Namespace, Node, Peer, Scope, Traits};
use cnm::network::{PoolSpec, Tunnel};
use cnm::options::{Described, EndpointOptions};
use cnm::store::Memory;
use cnm::{Driver, EndpointId, Mac, NetworkId, NetworkSpec, Planner, Protocol, State, diff};
use drivers::Drivers;

/// Everything of it is the same every time.
struct Counter(u64);

impl Entropy for Counter {
    fn bytes(&mut self) -> [u8; 32] {
        self.0 += 1;
        let spread = self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&spread);
        bytes
    }
}

/// A network with one container, as somebody might want it.
#[derive(Clone, Default)]
struct Wish {
    network: BTreeMap<String, String>,
    endpoint: BTreeMap<String, String>,
    ipv4: bool,
    ipv6: bool,
    internal: bool,
}

impl Wish {
    /// The usual one: both families, with a way out, on a link of the host where that is possible.
    fn usual(driver: &dyn Driver) -> Self {
        let parent = driver.options().iter().any(|option| option.names[0] == "parent");
        let parent = parent.then(|| ("parent".to_owned(), "eth0".to_owned()));
        let network = parent.into_iter().collect();
        Self { network, ipv4: true, ipv6: true, ..Self::default() }
    }

    /// The kernel state of all of it, or why it cannot be.
    fn state(&self, driver: &dyn Driver) -> Result<State, String> {
        let config = ControllerConfig::default();
        let mut model = Controller::load(&Memory::new(), Arc::new(Drivers), config).unwrap();
        let link = HostLink { mtu: 1500, up: true, ..HostLink::default() };
        let links = BTreeMap::from([("eth0".parse().unwrap(), link)]);
        let (mut chance, host) =
            (Counter(0), HostFacts { links: links.into(), ..HostFacts::default() });
        let mut spec = self.network(driver);
        let (network, transaction) = if driver.traits().single {
            "predefined".clone_into(&mut spec.name);
            model.begin_create_predefined(&spec, &host, &mut chance, 1)
        } else {
            model.begin_create_network(&spec, &host, &mut chance, 1)
        }
        .map_err(|error| error.to_string())?;
        model.commit(transaction);
        if network.tunnel.is_some() {
            elsewhere(&mut model, &network.id);
        }
        let join = JoinSpec {
            network: Some(network.id.clone()),
            options: self.endpoint.clone(),
            ..JoinSpec::default()
        };
        let spec = SandboxSpec {
            owner: "container".to_owned(),
            resolver: driver.traits().namespace == Namespace::Own,
            joins: vec![join],
            ports: published(driver.traits()),
            ..SandboxSpec::default()
        };
        let mut claims = Claims::default();
        loop {
            let decision = model.begin_create_sandbox(&spec, &claims, &mut chance, 1);
            match decision.map_err(|error| error.to_string())? {
                Decision::Made((_, transaction)) => {
                    model.commit(transaction);
                    return Ok(model.desired());
                }
                Decision::Unclaimed(wanted) => {
                    claims.claim_ports(&wanted.ports, &mut |ports| {
                        ports.iter().map(|_| Ok(true)).collect()
                    });
                    for wanted in &wanted.addresses {
                        for address in ["10.1.0.2/24", "fd00:1::2/64"] {
                            let address = address.parse().unwrap();
                            let lent = Lent { address, gateway: None, mac: None };
                            let has = if address.is_ipv6() { wanted.ipv6 } else { wanted.ipv4 };
                            if has {
                                claims.add_address(&wanted.network, lent);
                            }
                        }
                    }
                }
            }
        }
    }

    fn network(&self, driver: &dyn Driver) -> NetworkSpec {
        let subnets = [(self.ipv4, "10.1.0.0/24"), (self.ipv6, "fd00:1::/64")];
        let pool = |(has, subnet): (bool, &str)| {
            has.then(|| PoolSpec { subnet: Some(subnet.to_owned()), ..PoolSpec::default() })
        };
        let addresses = driver.traits().addresses;
        let reading = driver.read(&self.network).unwrap();
        let tunnel = Tunnel {
            vni: reading.vni.unwrap_or(4096),
            port: reading.port.unwrap_or(4789),
            local: "192.0.2.1".parse().unwrap(),
            encrypted: reading.encrypted,
            mtu: None,
        };
        NetworkSpec {
            tunnel: (driver.traits().scope == Scope::Cluster).then_some(tunnel),
            name: "example".to_owned(),
            driver: driver.name().to_owned(),
            options: self.network.clone(),
            pools: subnets.into_iter().filter_map(pool).filter(|_| addresses).collect(),
            ipv4: addresses.then_some(self.ipv4),
            ipv6: addresses.then_some(self.ipv6),
            internal: self.internal,
            ..NetworkSpec::default()
        }
    }
}

/// Another host, with a container on the network.
fn elsewhere(model: &mut Controller, network: &NetworkId) {
    let address = "192.0.2.2".parse().unwrap();
    model.tell_nodes(&[Node { number: 2, address, wireguard: None }]);
    let peer = Peer {
        endpoint: EndpointId::from_random([2; 32]),
        mac: Mac::from([2, 0, 0, 0, 0, 2]),
        addresses: ["10.1.0.3", "fd00:1::3"].map(|address| address.parse().unwrap()).to_vec(),
        node: 2,
    };
    model.tell_all_peers(network, vec![peer]).unwrap();
}

fn published(traits: Traits) -> Vec<PortSpec> {
    let web = PortSpec { host: None, host_ports: 8080..=8080, protocol: Protocol::Tcp, port: 80 };
    if traits.publishes { vec![web] } else { Vec::new() }
}

/// The example of an option, in a network that is not so already.
fn with_option(driver: &dyn Driver, option: &Described) -> (Wish, Wish) {
    let (name, value) = (option.names[0].to_owned(), option.manual.example.to_owned());
    let mut before = Wish::usual(driver);
    let mut after = before.clone();
    after.network.insert(name, value);
    let reading = driver.read(&after.network).unwrap();
    // What the request's own fields say as well.
    for (said, before, after) in [
        (reading.ipv4, &mut before.ipv4, &mut after.ipv4),
        (reading.ipv6, &mut before.ipv6, &mut after.ipv6),
        (reading.internal, &mut before.internal, &mut after.internal),
    ] {
        if let Some(said) = said {
            (*before, *after) = (!said, said);
        }
    }
    (before, after)
}

fn with_endpoint_option(driver: &dyn Driver, option: &Described) -> (Wish, Wish) {
    let (name, value) = (option.names[0].to_owned(), option.manual.example.to_owned());
    let endpoint = BTreeMap::from([(name, value)]);
    (Wish::usual(driver), Wish { endpoint, ..Wish::usual(driver) })
}

/// What an option says of itself, and what it changes.
fn section(driver: &dyn Driver, option: &Described, (before, after): (Wish, Wish)) -> String {
    let manual = option.manual;
    let mut text = format!("\n### `{}`\n\n{}", option.names[0], manual.about);
    if let [_, others @ ..] = option.names
        && !others.is_empty()
    {
        let others: Vec<_> = others.iter().map(|name| format!("`{name}`")).collect();
        let _ = write!(text, " Also written {}.", others.join(", "));
    }
    let expected = option.expected.trim_end_matches(',');
    let _ = write!(text, " It takes {expected}; the default is {}.", code(manual.default));
    if option.idle {
        text += " **It is read and has no effect:** this version cannot do it.\n";
        return text;
    }
    let _ = write!(text, "\n\nWith `{}`", manual.example);
    let states = before.state(driver).and_then(|before| Ok((before, after.state(driver)?)));
    match states {
        Ok((before, after)) if before == after => text += " nothing in the kernel changes.\n",
        Ok((before, after)) => {
            let _ = write!(text, ":\n\n```diff\n{}```\n", diff(&before, &after));
        }
        Err(error) => {
            let _ = writeln!(text, ": {error}.");
        }
    }
    text
}

/// A default that is a value, not words about it.
fn code(default: &str) -> String {
    let is_value = !default.contains([' ', '`']) && default != "none";
    if is_value { format!("`{default}`") } else { default.to_owned() }
}

fn page(driver: &dyn Driver) -> String {
    let name = driver.name();
    let mut text = format!(
        "# The {name} driver\n\n<!-- Made by tests/netns/tests/networks.rs (UPDATE=1), from what the driver \
         says and plans. -->\n\n{}\n",
        driver.about()
    );
    let published = if driver.traits().publishes { ", port 80 published as 8080" } else { "" };
    let elsewhere = match driver.traits().scope {
        Scope::Cluster => ", and with a container on another host",
        Scope::Local => "",
    };
    let _ = write!(text, "\n## A network with a container{published}{elsewhere}\n");
    match Wish::usual(driver).state(driver) {
        Ok(state) if state.is_empty() => text += "\nThere is nothing in the kernel of it.\n",
        Ok(state) => {
            let _ = write!(text, "\n```diff\n{}```\n", diff(&State::default(), &state));
        }
        Err(error) => {
            let _ = writeln!(text, "\n{error}.");
        }
    }
    let options = driver.options();
    if !options.is_empty() {
        text += "\n## Options of a network (`network create -o`)\n";
    }
    for option in &options {
        text += &section(driver, option, with_option(driver, option));
    }
    if driver.traits().addresses {
        text += "\n## Options of an endpoint (`network connect --driver-opt`)\n";
        for option in EndpointOptions::described().iter().chain(&driver.endpoint_options()) {
            text += &section(driver, option, with_endpoint_option(driver, option));
        }
    }
    text
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/networks")
}

#[test]
fn the_page_of_every_driver_says_what_its_options_change() {
    let planner: &dyn Planner = &Drivers;
    let mut stale = Vec::new();
    for driver in planner.drivers() {
        let path = directory().join(format!("{}.md", driver.name()));
        let page = page(*driver);
        if std::env::var_os("UPDATE").is_some() {
            std::fs::create_dir_all(directory()).unwrap();
            std::fs::write(&path, &page).unwrap();
        }
        if std::fs::read_to_string(&path).unwrap_or_default() != page {
            stale.push(driver.name());
        }
    }
    assert!(stale.is_empty(), "out of date, run this test with UPDATE=1: {stale:?}");
}

#[test]
fn every_option_that_has_an_effect_says_what_it_does() {
    let planner: &dyn Planner = &Drivers;
    for driver in planner.drivers() {
        for option in driver.options().iter().chain(&driver.endpoint_options()) {
            let manual = option.manual;
            assert!(manual.about.ends_with('.'), "{}: {:?}", driver.name(), option.names);
            assert!(!manual.default.is_empty() && !manual.example.is_empty(), "{:?}", option.names);
        }
    }
}
