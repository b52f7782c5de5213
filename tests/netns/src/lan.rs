//! A LAN that any number of hosts are on.

use std::cell::Cell;

use cnm::LinkName;
use drivers::kernel::link;
use drivers::kernel::netlink::Socket;

use crate::Host;

/// A switch with its cables.
#[derive(Debug)]
pub struct Lan {
    switch: Host,
    ports: Cell<usize>,
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

    /// A host with an interface on it, `eth0`, which has these addresses.
    pub fn host(&self, addresses: &[&str]) -> Host {
        let host = Host::new();
        self.connect(&host, "eth0", addresses);
        host
    }

    /// Gives a host an interface on it, with addresses.
    pub fn connect(&self, host: &Host, interface: &str, addresses: &[&str]) {
        let port = name(&format!("port{}", self.ports.get()));
        self.ports.set(self.ports.get() + 1);
        host.connect(interface, &self.switch, port.as_str());
        let index = self.switch.link(BRIDGE).unwrap().index;
        self.switch.request(&[link::set_bridge(&port, index)]);
        self.switch.run(|| link::settle(&mut Socket::open().unwrap(), &port)).unwrap();
        for address in addresses {
            host.add_address(interface, address);
        }
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
