//! A LAN that any number of hosts are on.

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};

use cnm::LinkName;
use drivers::kernel::link;
use drivers::kernel::netlink::Socket;

use crate::{Daemon, Host, Sniffer};

/// A switch with its cables.
#[derive(Debug)]
pub struct Lan {
    switch: Host,
    ports: Cell<usize>,
}

/// What servers of [`Lan::with_daemon`] listen on.
pub const PORT: u16 = 7;

/// A neighbour of the host on [`Lan::with_daemon`].
pub const NEIGHBOUR: [&str; 2] = ["10.7.0.1", "fd00:7::1"];

/// The host there.
pub const HOST: [&str; 2] = ["10.7.0.2", "fd00:7::2"];

/// Fails unless somebody reaches these addresses of both families over TCP and UDP.
pub fn passes(from: &Host, to: &[IpAddr]) {
    assert_eq!(to.len(), 2, "{to:?}");
    passes_all(from, to);
}

/// Fails unless somebody reaches these addresses over TCP and UDP.
pub fn passes_all(from: &Host, to: &[IpAddr]) {
    assert!(!to.is_empty());
    for address in to {
        assert!(from.tcp(*address, PORT).is_ok(), "{address}");
        assert!(from.udp(*address, PORT).is_ok(), "{address}");
    }
}

/// `network create` of a driver with IPv4 on a parent, and the half of the addresses that begins with this one.
pub fn halved(driver: &str, half: u8, parent: &str) -> String {
    format!(
        "network create -d {driver} --subnet=10.0.0.0/24 --ip-range=10.0.0.{half}/25 \
         --gateway=10.0.0.1 -o parent={parent} mynet"
    )
}

/// Fails if somebody reaches any of these addresses of both families.
pub fn fails(from: &Host, to: &[IpAddr]) {
    assert_eq!(to.len(), 2, "{to:?}");
    for address in to {
        assert!(from.is_cut_off_from(SocketAddr::new(*address, PORT)), "{address}");
    }
}

const BRIDGE: &str = "switch";

impl Lan {
    /// A switch that nobody is connected to.
    pub fn new() -> Self {
        let switch = Host::new();
        switch.add_bridge(BRIDGE);
        switch.request(&[link::switch_on(&name(BRIDGE), None, None)]);
        Self { switch, ports: Cell::new(0) }
    }

    /// One with a daemon on each of two hosts, which have no addresses there.
    pub fn with_two_daemons() -> (Self, [(Host, Daemon); 2]) {
        let lan = Self::new();
        let side = || {
            let host = lan.host(&[]);
            let daemon = Daemon::start(&host, &[]);
            (host, daemon)
        };
        let sides = [side(), side()];
        (lan, sides)
    }

    /// One with a neighbour and the host of a daemon.
    pub fn with_daemon() -> (Self, Host, Host, Daemon) {
        let lan = Self::new();
        let [neighbour, host] = [NEIGHBOUR, HOST]
            .map(|[ipv4, ipv6]| lan.host(&[&format!("{ipv4}/24"), &format!("{ipv6}/64")]));
        let daemon = Daemon::start(&host, &[]);
        (lan, neighbour, host, daemon)
    }

    /// A host with an interface on it, `eth0`, which has these addresses.
    pub fn host(&self, addresses: &[&str]) -> Host {
        let host = Host::new();
        self.connect(&host, "eth0", addresses);
        host
    }

    /// Gives a host an interface on it, with addresses; returns the other end of the cable.
    pub fn connect(&self, host: &Host, interface: &str, addresses: &[&str]) -> String {
        let port = name(&format!("port{}", self.ports.get()));
        self.ports.set(self.ports.get() + 1);
        host.connect(interface, &self.switch, port.as_str());
        let index = self.switch.link(BRIDGE).unwrap().index;
        self.switch.request(&[link::set_bridge(&port, index)]);
        self.switch.run(|| link::settle(&mut Socket::open().unwrap(), &port)).unwrap();
        for address in addresses {
            host.add_address(interface, address);
        }
        port.to_string()
    }

    /// Takes down all that hosts send each other from now on.
    pub fn sniff(&self) -> Sniffer {
        Sniffer::start(&self.switch)
    }

    /// Pulls a cable out of the switch.
    pub fn unplug(&self, port: &str) {
        self.switch.request(&[link::switch_off(&name(port))]);
    }

    /// Puts it back.
    pub fn plug(&self, port: &str) {
        self.switch.request(&[link::switch_on(&name(port), None, None)]);
        self.switch.run(|| link::settle(&mut Socket::open().unwrap(), &name(port))).unwrap();
    }

    /// Drops what comes in at one port and would go out at another, either way, until [`Lan::mend`].
    pub fn cut(&self, one: &str, other: &str) {
        for (from, to) in [(one, other), (other, one)] {
            self.filter(&format!("iifname {from} oifname {to} drop"));
        }
    }

    /// Adds a rule to what the switch hands on, in the words of `nft`, until [`Lan::mend`].
    pub fn filter(&self, rule: &str) {
        self.nft(&format!(
            "add table bridge faults\n\
             add chain bridge faults forward {{ type filter hook forward priority 0; }}\n\
             add rule bridge faults forward {rule}\n"
        ));
    }

    /// Takes back every rule.
    pub fn mend(&self) {
        self.nft("add table bridge faults\ndelete table bridge faults\n");
    }

    /// What the switch knows of its rules, counters among it.
    pub fn rules(&self) -> String {
        self.switch.output("nft list ruleset")
    }

    fn nft(&self, lines: &str) {
        self.switch.output_with("nft -f -", lines);
    }
}

impl Default for Lan {
    fn default() -> Self {
        Self::new()
    }
}

fn name(text: &str) -> LinkName {
    text.parse().unwrap()
}
