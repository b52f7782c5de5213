//! A small model to plan from, without a controller.

use std::collections::BTreeMap;
use std::net::IpAddr;

use cnm::sandbox::Attachment;
use cnm::{
    Driver, Endpoint, EndpointId, Mac, Network, NetworkId, Planner, Pool, PortBinding, Protocol,
    Sandbox, SandboxId, State,
};
use drivers::Drivers;
use ipnetwork::IpNetwork;

/// Networks and sandboxes, each known by a small number.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// Networks.
    pub networks: BTreeMap<u8, Network>,
    /// Sandboxes with their endpoints.
    pub sandboxes: BTreeMap<u8, (Sandbox, Vec<Endpoint>)>,
}

impl Model {
    /// Adds a dual-stack bridge network: `10.<n>.0.0/24` and `fd00:<n>::/64`.
    pub fn network(&mut self, n: u8) -> &mut Network {
        let id = NetworkId::from_random([n; 32]);
        let subnets = [format!("10.{n}.0.0/24"), format!("fd00:{n}::/64")];
        let network = Network {
            name: format!("n{n}"),
            created: 0,
            driver: bridge(),
            given_options: BTreeMap::new(),
            addressing: cnm::network::Addressing::default(),
            ipam: None,
            ipam_options: None,
            borrowed: false,
            pools: subnets.iter().map(|subnet| pool(subnet)).collect(),
            ipv4: true,
            ipv6: true,
            internal: false,
            attachable: false,
            predefined: false,
            labels: BTreeMap::new(),
            parent: None,
            egress_mtu: None,
            tunnel: None,
            id,
        };
        self.networks.entry(n).or_insert(network)
    }

    /// Sets an option of a network, `com.docker.network.<option>`.
    pub fn set(&mut self, n: u8, option: &str, value: &str) {
        let name = format!("com.docker.network.{option}");
        self.networks.get_mut(&n).unwrap().given_options.insert(name, value.to_owned());
    }

    /// Adds a sandbox that joins networks; its interfaces are `eth0`, `eth1`, ... in their order.
    pub fn sandbox(&mut self, n: u8, networks: &[u8]) -> SandboxId {
        let id = SandboxId::from_random([n; 32]);
        let sandbox = Sandbox {
            id: id.clone(),
            owner: format!("c{n}"),
            ports: Vec::new(),
            resolver: true,
            sysctls: Vec::new(),
            closed: std::collections::BTreeSet::new(),
            passages: Vec::new(),
        };
        self.sandboxes.insert(n, (sandbox, Vec::new()));
        for network in networks {
            self.join(n, *network);
        }
        id
    }

    /// Joins a sandbox to a network.
    pub fn join(&mut self, n: u8, network: u8) {
        let pools = &self.networks[&network];
        let mut addresses = Vec::new();
        for pool in &pools.pools {
            let address = Self::address_in(pool.subnet, n);
            addresses.push(IpNetwork::new(address, pool.subnet.prefix()).unwrap());
        }
        let (sandbox, endpoints) = self.sandboxes.get_mut(&n).unwrap();
        let mut id = [n; 32];
        id[0] = network;
        let order = u32::try_from(endpoints.len()).unwrap();
        endpoints.push(Endpoint {
            id: EndpointId::from_random(id),
            network: pools.id.clone(),
            sandbox: sandbox.id.clone(),
            interface: format!("eth{order}").parse().unwrap(),
            mac: Mac::from([2, 0, 0, 0, network, n]),
            gateways: Vec::new(),
            addresses,
            link_local: Vec::new(),
            aliases: Vec::new(),
            gateway_priority: 0,
            order,
            default_route: true,
            any_source: false,
            routes: Vec::new(),
            sysctls: Vec::new(),
            given_options: BTreeMap::new(),
            handover: None,
        });
    }

    /// Leaves a network.
    pub fn leave(&mut self, n: u8, network: u8) {
        let id = self.networks[&network].id.clone();
        self.sandboxes.get_mut(&n).unwrap().1.retain(|endpoint| endpoint.network != id);
    }

    /// Publishes a TCP port of a sandbox.
    pub fn publish(&mut self, n: u8, host: &str, host_port: u16, port: u16) {
        let host = host.parse().unwrap();
        let binding = PortBinding { host, host_port, protocol: Protocol::Tcp, port };
        self.sandboxes.get_mut(&n).unwrap().0.ports.push(binding);
    }

    /// The addresses of a sandbox on a network, IPv4 first.
    pub fn addresses(&self, n: u8, network: u8) -> Vec<IpAddr> {
        self.networks[&network].pools.iter().map(|p| Self::address_in(p.subnet, n)).collect()
    }

    /// The gateways of a network, IPv4 first.
    pub fn gateways(&self, network: u8) -> Vec<IpAddr> {
        self.networks[&network].pools.iter().filter_map(|pool| pool.gateway).collect()
    }

    /// The kernel state of all of it.
    pub fn desired(&self) -> State {
        let mut state = State::default();
        for network in self.networks.values() {
            state.extend(network.driver.network(network).unwrap());
        }
        for n in self.sandboxes.keys() {
            state.extend(self.desired_of(*n));
        }
        state
    }

    /// The kernel state of one sandbox.
    pub fn desired_of(&self, n: u8) -> State {
        let (sandbox, endpoints) = &self.sandboxes[&n];
        let attachments: Vec<_> = endpoints
            .iter()
            .map(|endpoint| {
                let network = self.networks.values().find(|n| n.id == endpoint.network).unwrap();
                Attachment { network, endpoint }
            })
            .collect();
        Drivers.sandbox(sandbox, &attachments).unwrap()
    }

    fn address_in(subnet: IpNetwork, n: u8) -> IpAddr {
        subnet.iter().nth(usize::from(n) + 1).unwrap()
    }
}

fn bridge() -> &'static dyn Driver {
    let drivers: &dyn Planner = &Drivers;
    drivers.driver("bridge").unwrap()
}

fn pool(subnet: &str) -> Pool {
    let subnet: IpNetwork = subnet.parse().unwrap();
    Pool {
        subnet,
        range: None,
        gateway: subnet.iter().nth(1),
        auxiliary: BTreeMap::new(),
        automatic: false,
    }
}
