//! Machines on a switch with an overlay network, told by hand what there is on the others: the
//! kernel's part of a cluster, without daemons and without a store.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use cnm::controller::{
    Claims, Controller, ControllerConfig, Decision, Entropy, HostFacts, JoinSpec, Lent, SandboxSpec,
};
use cnm::driver::{Node, Peer, PeersChange};
use cnm::network::{PoolSpec, Tunnel};
use cnm::store::Memory;
use cnm::{NetworkId, NetworkSpec, SandboxId, State, WireGuard, diff, wireguard};
use drivers::Drivers;
use drivers::kernel::{Kernel, Linux, PrivateKey, reconcile};
use ipnetwork::IpNetwork;

use crate::{Host, Lab, Lan};

/// Machines with one overlay network.
#[derive(Debug)]
pub struct Machines {
    /// The switch.
    pub lan: Lan,
    /// The machines; the first has the number 1.
    pub all: Vec<Machine>,
    /// The network.
    pub network: NetworkId,
}

/// A machine: `eth0` is on the switch, and behind `lan0` and `lan1` are neighbours of its own.
#[derive(Debug)]
pub struct Machine {
    /// It and its neighbours.
    pub lab: Lab,
    /// Its kernel.
    pub kernel: Linux,
    /// Its model.
    pub model: Controller,
    /// How the others know it.
    pub node: Node,
    chance: Counter,
    network: NetworkId,
}

/// A container.
#[derive(Debug)]
pub struct Container {
    /// Its sandbox, and the machine that it is on.
    pub sandbox: SandboxId,
    /// What is in it.
    pub host: Host,
    /// How the others know it.
    pub peer: Peer,
}

/// What the network is like.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Whether the machines talk IPv6 to each other.
    pub outer_ipv6: bool,
    /// Whether containers have IPv4.
    pub ipv4: bool,
    /// Whether they have IPv6.
    pub ipv6: bool,
}

/// The usual one: both families over IPv4.
pub const USUAL: Shape = Shape { outer_ipv6: false, ipv4: true, ipv6: true };

/// The number of the network's tunnels, and their port.
pub const VNI: u32 = 4097;
/// See [`VNI`].
pub const PORT: u16 = 4789;

/// The same numbers every time, others on each machine.
#[derive(Debug)]
struct Counter(u8, u32);

impl Entropy for Counter {
    fn bytes(&mut self) -> [u8; 32] {
        self.1 += 1;
        let spread = self.1.wrapping_mul(0x9e37_79b1).to_be_bytes();
        let mut bytes = [self.0; 32];
        bytes[..4].copy_from_slice(&spread);
        bytes
    }
}

impl Machines {
    /// So many machines, all with the network.
    pub fn new(number: u8, shape: Shape) -> Self {
        Self::with_options(number, shape, &[])
    }

    /// The same, with options of the network.
    pub fn with_options(number: u8, shape: Shape, options: &[(&str, &str)]) -> Self {
        let (lan, network) = (Lan::new(), NetworkId::from_random([0x9c; 32]));
        let all = (1..=number).map(|number| Machine::new(&lan, number, shape, &network, options));
        let all = all.collect();
        let mut machines = Self { lan, all, network };
        let nodes: Vec<_> = machines.all.iter().map(|machine| machine.node).collect();
        for machine in &mut machines.all {
            machine.tell_nodes(&nodes);
            machine.model.tell_all_peers(&machines.network, Vec::new()).unwrap();
        }
        machines
    }

    /// Starts a container on a machine, with `10.9.0.<n>` and `fd09::<n>`, and tells the others.
    pub fn start(&mut self, machine: usize, n: u8) -> Container {
        let container = self.all[machine].start(n);
        for other in self.others(machine) {
            other.tell(vec![container.peer.clone()], Vec::new());
        }
        container
    }

    /// Ends it, and tells the others.
    pub fn stop(&mut self, machine: usize, container: &Container) {
        self.all[machine].stop(&container.sandbox);
        for other in self.others(machine) {
            other.tell(Vec::new(), vec![container.peer.endpoint.clone()]);
        }
    }

    fn others(&mut self, machine: usize) -> impl Iterator<Item = &mut Machine> {
        let all = self.all.iter_mut().enumerate();
        all.filter(move |(at, _)| *at != machine).map(|(_, machine)| machine)
    }
}

impl Machine {
    fn new(
        lan: &Lan,
        number: u8,
        shape: Shape,
        network: &NetworkId,
        options: &[(&str, &str)],
    ) -> Self {
        let addresses = [format!("203.0.113.{number}/24"), format!("2001:db8:7::{number}/64")];
        let host = lan.host(&addresses.each_ref().map(String::as_str));
        let lab = Lab::around(host);
        let address: IpNetwork = addresses[usize::from(shape.outer_ipv6)].parse().unwrap();
        let node = Node { number: number.into(), address: address.ip(), wireguard: None };
        let (kernel, config) = (lab.open(), ControllerConfig::default());
        let model = Controller::load(&Memory::new(), Arc::new(Drivers), config).unwrap();
        let (chance, network) = (Counter(number, 0), network.clone());
        let mut machine = Self { lab, kernel, model, node, chance, network };
        if options.contains(&("encrypted", "true")) {
            machine.encrypt(number);
        }
        machine.create(shape, options);
        machine
    }

    /// Has what is to be encrypted go by a link of its own.
    fn encrypt(&mut self, secret: u8) {
        self.hold_key(secret);
        self.model.tell_local_address(self.node.address);
        self.model.tell_wireguard(self.node.wireguard);
        let (before, after) = self.model.tell_encryption(true);
        self.apply(&before, &after);
    }

    /// Gives it the key that follows from a byte: the others are not told.
    pub fn hold_key(&mut self, secret: u8) {
        let key = self.kernel.hold_key(PrivateKey::from_random([secret; 32])).unwrap();
        let address = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, self.node.number.try_into().unwrap());
        self.node.wireguard = Some(WireGuard { key, port: wireguard::PORT, address });
    }

    fn create(&mut self, shape: Shape, options: &[(&str, &str)]) {
        let subnets = [(shape.ipv4, "10.9.0.0/24"), (shape.ipv6, "fd09::/64")];
        let pools = subnets
            .into_iter()
            .filter(|(has, _)| *has)
            .map(|(_, subnet)| PoolSpec { subnet: Some(subnet.to_owned()), ..PoolSpec::default() });
        let inside = self.node.wireguard.map(|own| own.address.into());
        let (encrypted, local) = (inside.is_some(), inside.unwrap_or(self.node.address));
        let port = if encrypted { wireguard::TUNNELS } else { PORT };
        let spec = NetworkSpec {
            name: "app".to_owned(),
            driver: "overlay".to_owned(),
            id: Some(self.network.clone()),
            tunnel: Some(Tunnel { vni: VNI, port, local, encrypted, mtu: None }),
            pools: pools.collect(),
            options: options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            ipv4: Some(shape.ipv4),
            ipv6: Some(shape.ipv6),
            ..NetworkSpec::default()
        };
        let facts = HostFacts::default();
        let (_, transaction) =
            self.model.begin_create_network(&spec, &facts, &mut self.chance, 1).unwrap();
        self.apply(&transaction.before, &transaction.after);
        self.model.commit(transaction);
    }

    /// Makes the difference of two states in the kernel.
    pub fn apply(&self, before: &State, after: &State) {
        self.kernel.apply(&diff(before, after)).unwrap();
    }

    /// Counts from now on what comes and goes to a port of tunnels; see [`Self::untracked_and_tracked`].
    pub fn count_packets_to(&self, port: u16) {
        let chain = |hook| {
            let rule = |state| format!("udp dport {port} ct state {state} counter;");
            let rules = [rule("untracked"), rule("!= untracked")].concat();
            format!("chain {hook} {{ type filter hook {hook} priority 0; {rules} }}\n")
        };
        let table = format!("table inet watch {{ {}{} }}", chain("input"), chain("output"));
        self.lab.host.output_with("nft -f -", &table);
    }

    /// How many of what came, and of what went, are of no connection, and of one.
    pub fn untracked_and_tracked(&self) -> [[u64; 2]; 2] {
        let rules = self.lab.host.output("nft list table inet watch");
        let counters = rules.lines().filter_map(|line| line.split_once("counter packets "));
        let counts = counters.map(|(_, count)| count.split(' ').next().unwrap().parse().unwrap());
        let [came, came_of_one, went, went_of_one] =
            counts.collect::<Vec<u64>>().try_into().unwrap();
        [[came, came_of_one], [went, went_of_one]]
    }

    /// Makes the kernel what the model says; tells what had to be done for it.
    pub fn heal(&self) -> String {
        reconcile(&self.kernel, &self.model.desired()).unwrap().to_string()
    }

    /// Has its daemon killed, and the next one begin.
    pub fn restart(&mut self) {
        // The next one gets the table when the one before is gone.
        self.kernel = self.lab.open_as("stand-in");
        self.kernel = self.lab.open();
        if self.node.wireguard.is_some() {
            self.hold_key(self.node.number.try_into().unwrap());
        }
    }

    /// What of the kernel is its own.
    pub fn kernel_state(&self) -> State {
        self.kernel.observe().unwrap()
    }

    /// Tells it which machines there are.
    pub fn tell_nodes(&mut self, all: &[Node]) {
        let others = all.iter().copied().filter(|node| node.number != self.node.number);
        let (before, after) = self.model.tell_nodes(&others.collect::<Vec<_>>());
        self.apply(&before, &after);
    }

    /// Tells it of containers on others.
    pub fn tell(&mut self, put: Vec<Peer>, gone: Vec<cnm::EndpointId>) {
        let told = self.model.tell_peers(&self.network, PeersChange { put, gone });
        let (before, after) = told.unwrap();
        self.apply(&before, &after);
    }

    fn start(&mut self, n: u8) -> Container {
        let join = JoinSpec { network: Some(self.network.clone()), ..JoinSpec::default() };
        let owner = format!("c{n}");
        let spec = SandboxSpec { owner, joins: vec![join], ..SandboxSpec::default() };
        let mut claims = Claims::default();
        let (id, transaction) = loop {
            let begun = self.model.begin_create_sandbox(&spec, &claims, &mut self.chance, 1);
            match begun.unwrap() {
                Decision::Made(made) => break made,
                Decision::Unclaimed(wanted) => {
                    let wanted = &wanted.addresses[0];
                    let families = [
                        (wanted.ipv4, format!("10.9.0.{n}/24")),
                        (wanted.ipv6, format!("fd09::{n:x}/64")),
                    ];
                    for (_, address) in families.into_iter().filter(|(lacks, _)| *lacks) {
                        let address = address.parse().unwrap();
                        let lent = Lent { address, gateway: None, mac: None };
                        claims.add_address(&wanted.network, lent);
                    }
                }
            }
        };
        self.apply(&transaction.before, &transaction.after);
        self.model.commit(transaction);
        let (_, endpoints) = self.model.sandbox(&id).unwrap();
        let peer = Peer {
            endpoint: endpoints[0].id.clone(),
            mac: endpoints[0].mac,
            addresses: endpoints[0].addresses.iter().map(IpNetwork::ip).collect(),
            node: self.node.number,
        };
        Container { host: self.lab.sandbox(&self.kernel, &id), sandbox: id, peer }
    }

    fn stop(&mut self, sandbox: &SandboxId) {
        let transaction = self.model.begin_remove_sandbox(sandbox, 1).unwrap();
        self.apply(&transaction.before, &transaction.after);
        self.model.commit(transaction);
    }
}

impl Container {
    /// Its addresses, IPv4 first.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.peer.addresses
    }
}

/// What a tunnel of the network sends of a datagram over IPv4, from one container to another and to a port.
pub fn frame([from, to]: [&Container; 2], port: u16, text: &[u8]) -> Vec<u8> {
    let (IpAddr::V4(source), IpAddr::V4(target)) = (from.addresses()[0], to.addresses()[0]) else {
        panic!("IPv4 comes first");
    };
    let length = u16::try_from(8 + text.len()).unwrap();
    let mut header = [[0x45, 0, 0, 0], [0; 4], [64, 17, 0, 0], source.octets(), target.octets()];
    header[0][2..].copy_from_slice(&(20 + length).to_be_bytes());
    let mut header = header.concat();
    let words = header.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum: u32 = words.sum();
    let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    let macs = [to.peer.mac, from.peer.mac].map(cnm::Mac::octets).concat();
    let ports = [9, port, length, 0].map(u16::to_be_bytes).concat();
    [&[8, 0, 0, 0], &(VNI << 8).to_be_bytes()[..], &macs, &[8, 0], &header, &ports, text].concat()
}
