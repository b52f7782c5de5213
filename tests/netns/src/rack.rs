//! Machines on a switch, and etcd beside them: what a cluster runs on.

mod agreement;
mod records;

use std::io::{self, Write};
use std::thread;

use crate::{Daemon, Etcd, Host, Lan, wait_until};

pub use records::Records;

/// What machines are called, in their order.
pub const NAMES: [&str; 5] = ["one", "two", "three", "four", "five"];

/// Machines on one switch, each with what it runs, and the members of an etcd.
///
/// ```text
/// machines    192.0.2.1, 2001:db8::1, and so on
/// members     192.0.2.101, 2001:db8::101, and so on
/// ```
#[derive(Debug)]
pub struct Rack {
    /// The machines.
    pub machines: Vec<Machine>,
    /// The members of etcd, if there are any.
    pub etcd: Etcd,
    /// The switch.
    pub lan: Lan,
}

/// A machine.
#[derive(Debug)]
pub struct Machine {
    /// What it is called.
    pub name: &'static str,
    /// Its network.
    pub host: Host,
    /// Its addresses, IPv4 first.
    pub addresses: [String; 2],
    /// The switch's end of its cable.
    pub port: String,
    daemon: Option<Daemon>,
}

impl Rack {
    /// So many machines with nothing on them, and so many members of etcd that answer.
    pub fn bare(machines: usize, members: usize) -> Self {
        Self::with(machines, |lan| Etcd::start(lan, members))
    }

    /// The same where etcd asks for certificates.
    pub fn bare_with_tls(machines: usize, members: usize) -> Self {
        Self::with(machines, |lan| Etcd::start_with_tls(lan, members))
    }

    /// So many machines that are one cluster, and so many members of etcd.
    pub fn cluster(machines: usize, members: usize) -> Self {
        let mut rack = Self::bare(machines, members);
        rack.join(0);
        rack
    }

    /// Starts the daemons of all machines that have none. Their tunnels are of one family: 0 for IPv4, 1 for IPv6.
    pub fn join(&mut self, family: usize) {
        let url = self.etcd.url();
        thread::scope(|scope| {
            for machine in self.machines.iter_mut().filter(|machine| machine.daemon.is_none()) {
                let url = &url;
                scope.spawn(move || {
                    let address = machine.addresses[family].clone();
                    machine.start(&["--cluster", url, "--advertise-addr", &address]);
                });
            }
        });
    }

    /// The daemon of a machine.
    pub fn daemon(&self, machine: usize) -> &Daemon {
        self.machines[machine].daemon()
    }

    /// Makes an overlay network with both families on a machine, and waits until all have it.
    pub fn network(&self, machine: usize, words: &str, name: &str) {
        let create = "network create -d overlay --attachable --ipv6";
        self.daemon(machine).rnet(&format!("{create} {words} {name}").replace("  ", " "));
        self.has_network(name);
    }

    /// Waits until all machines have a network: they hear of it, and nobody waits for that.
    pub fn has_network(&self, name: &str) {
        for daemon in self.machines.iter().filter_map(|machine| machine.daemon.as_ref()) {
            wait_until("the network is everywhere", || {
                let names = daemon.rnet("network ls --filter driver=overlay --format {{.Name}}");
                names.lines().any(|line| line == name)
            });
        }
    }

    /// The id that a machine has as a node.
    pub fn node(&self, machine: usize) -> String {
        let nodes = self.records().nodes;
        let own = nodes.iter().find(|(_, record)| self.machines[machine].has(&record["address"]));
        own.map(|(id, _)| id.clone()).expect("the machine is a node")
    }

    /// What etcd holds of the cluster.
    pub fn records(&self) -> Records {
        Records::read(&self.etcd)
    }

    fn with(machines: usize, etcd: impl FnOnce(&Lan) -> Etcd) -> Self {
        let lan = Lan::new();
        let etcd = etcd(&lan);
        let machines = (1..=machines).map(|number| Machine::new(&lan, number)).collect();
        Self { machines, etcd, lan }
    }

    /// Pulls the cable of a machine.
    pub fn unplug(&self, machine: usize) {
        self.lan.unplug(&self.machines[machine].port);
    }

    /// Puts it back.
    pub fn plug(&self, machine: usize) {
        self.lan.plug(&self.machines[machine].port);
    }

    /// Has the switch drop whatever two machines send each other, until [`Lan::mend`].
    pub fn cut(&self, one: usize, other: usize) {
        self.lan.cut(&self.machines[one].port, &self.machines[other].port);
    }

    /// Has the switch drop whatever a machine and the members of etcd send each other.
    pub fn cut_from_etcd(&self, machine: usize) {
        for port in self.etcd.ports() {
            self.lan.cut(&self.machines[machine].port, port);
        }
    }
}

impl Drop for Rack {
    /// Whoever reads of a failure wants to know what the daemons had to say.
    fn drop(&mut self) {
        if thread::panicking() {
            for machine in &self.machines {
                let Some(daemon) = &machine.daemon else { continue };
                let told =
                    ["ps -a --no-trunc", "cluster inspect"].map(|words| daemon.output(words));
                let text = format!("--- {}\n{}\n{}", machine.name, told.join("\n"), daemon.log());
                let _ = io::stderr().write_all(text.as_bytes());
            }
        }
    }
}

impl Machine {
    fn new(lan: &Lan, number: usize) -> Self {
        let addresses = [format!("192.0.2.{number}"), format!("2001:db8::{number}")];
        let (host, [ipv4, ipv6]) = (Host::new(), &addresses);
        let port = lan.connect(&host, "eth0", &[&format!("{ipv4}/24"), &format!("{ipv6}/64")]);
        Self { name: NAMES[number - 1], host, addresses, port, daemon: None }
    }

    /// Starts its daemon.
    pub fn start(&mut self, flags: &[&str]) {
        self.daemon = Some(Daemon::start_named(&self.host, self.name, flags));
    }

    /// Its daemon.
    pub fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().expect("the machine has a daemon")
    }

    /// The same, to end and start it.
    pub fn daemon_mut(&mut self) -> &mut Daemon {
        self.daemon.as_mut().expect("the machine has a daemon")
    }

    /// Loses its daemon and all of its containers.
    pub fn loses_daemon(&mut self) {
        self.daemon = None;
    }

    /// Everything on it ends at once, and its daemon starts after another boot.
    pub fn reboot(&mut self) {
        let daemon = self.daemon.as_mut().expect("the machine has a daemon");
        daemon.lose_power();
        let made = |link: &str| link != "lo" && link != "eth0";
        for link in self.host.links().into_iter().filter(|link| made(&link.name)) {
            // The other end of a pair went with the first.
            if self.host.link(&link.name).is_some() {
                self.host.output(&format!("ip link del {}", link.name));
            }
        }
        self.host.output("ip nexthop flush");
        self.host.output("nft flush ruleset");
        daemon.restart();
    }

    /// Exchanges an address for another of the same net.
    pub fn change_address(&mut self, family: usize, address: &str) {
        let length = [24, 64][family];
        // With the first address of a net its others go, so that it cannot go last.
        let old = std::mem::replace(&mut self.addresses[family], address.to_owned());
        self.host.remove_address("eth0", &format!("{old}/{length}"));
        self.host.add_address("eth0", &format!("{address}/{length}"));
    }

    /// What its cable carries at most, at both ends.
    pub fn set_mtu(&self, mtu: u32) {
        self.host.output(&format!("ip link set eth0 mtu {mtu}"));
    }
}
