//! All there is to try: who, whom, and by what.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use super::listener::GROUPS;
use super::trial::{Trial, Way};
use crate::{Host, Lab};

/// The ports of a container, by what they are: on all addresses of the host, nowhere, on its localhost.
pub(super) const PORTS: [(&str, u16); 3] = [("published", 80), ("unpublished", 90), ("local", 81)];

/// The port of those who are no containers.
pub(super) const SERVICE: u16 = 7000;

/// The listeners of the host, of the machine outside, and of the one outside that has a route.
pub(super) const MACHINES: [&str; 3] = ["the host", "outside", "outside with a route"];

pub(super) const HOST: &str = "the host";
pub(super) const LOCALHOST: &str = "the host, at its localhost";
pub(super) const SAME: &str = "the same network";
pub(super) const ON_ITS_LAN: &str = "a machine on its LAN";
pub(super) const OUTSIDE: &str = "outside";
pub(super) const ROUTED: &str = "outside with a route";

/// Who tries.
pub(super) struct Source {
    /// What it is called in the tables.
    pub(super) row: String,
    pub(super) host: Host,
    /// The number of its network.
    pub(super) network: Option<usize>,
    /// What it is called by who is on the same network, if it is there for those alone.
    pub(super) neighbour: Option<&'static str>,
    /// The interfaces that it tries by, and their numbers: of the host, one for each network.
    pub(super) devices: Vec<(String, u32)>,
    /// What it knows the host by.
    pub(super) knows: Known,
    /// The host on its own network, or the first one.
    pub(super) gateway: Known,
}

/// A container that is tried.
pub(super) struct Target {
    pub(super) name: String,
    pub(super) title: String,
    pub(super) network: usize,
    pub(super) known: Known,
    pub(super) host_port: u16,
    pub(super) host: Host,
}

/// The addresses of somebody.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Known {
    pub(super) ipv4: Option<Ipv4Addr>,
    pub(super) ipv6: Option<Ipv6Addr>,
    pub(super) link_local: Option<Ipv6Addr>,
}

impl Known {
    /// Those of an interface.
    pub(super) fn of(host: &Host, interface: &str) -> Self {
        let mut known = Self::default();
        for address in host.addresses(interface) {
            match address.ip() {
                IpAddr::V4(ip) => known.ipv4 = Some(ip),
                IpAddr::V6(ip) if ip.is_unicast_link_local() => known.link_local = Some(ip),
                IpAddr::V6(ip) => known.ipv6 = Some(ip),
            }
        }
        known
    }

    /// One of each family.
    pub(super) fn from_pair([ipv4, ipv6]: [&str; 2]) -> Self {
        Self { ipv4: ipv4.parse().ok(), ipv6: ipv6.parse().ok(), link_local: None }
    }

    /// What there is to connect to, by columns; a link-local address is one of an interface.
    fn columns(self, scope: u32) -> Vec<(&'static str, SocketAddr)> {
        let ipv4 = self.ipv4.map(|ip| ("IPv4", SocketAddr::from((ip, 0))));
        let ipv6 = self.ipv6.map(|ip| ("IPv6", SocketAddr::from((ip, 0))));
        let local = |ip| ("link-local", SocketAddrV6::new(ip, 0, 0, scope).into());
        [ipv4, ipv6, self.link_local.map(local)].into_iter().flatten().collect()
    }
}

impl Source {
    fn device(&self, network: usize) -> &(String, u32) {
        self.devices.get(network).unwrap_or(&self.devices[0])
    }
}

/// Where trials of one source stand in the tables.
struct Row<'a> {
    source: usize,
    section: &'a str,
    name: &'a str,
    device: &'a str,
}

impl Row<'_> {
    /// A trial by a way, to an address, of a listener's port.
    fn trial(&self, column: &str, port: (&'static str, u16), to: SocketAddr, of: &str) -> Trial {
        Trial {
            source: self.source,
            place: (self.section.to_owned(), self.name.to_owned(), column.to_owned()),
            word: port.0,
            way: Way::Tcp,
            to,
            target: of.to_owned(),
            port: port.1,
            device: self.device.to_owned(),
        }
    }

    /// The same by TCP and by UDP, at a port that may be another one than the listener's own.
    fn both(
        &self,
        column: &str,
        port: (&'static str, u16),
        mut to: SocketAddr,
        at: u16,
        of: &str,
    ) -> [Trial; 2] {
        to.set_port(at);
        [Way::Tcp, Way::Udp].map(|way| Trial { way, ..self.trial(column, port, to, of) })
    }

    /// Datagrams to the groups that everybody joined.
    fn groups(&self, port: (&'static str, u16), of: &str) -> [Trial; 2] {
        let (ipv4, ipv6) = GROUPS;
        let groups = [("IPv4 multicast", IpAddr::V4(ipv4)), ("IPv6 multicast", IpAddr::V6(ipv6))];
        groups.map(|(column, group)| {
            let to = SocketAddr::new(group, port.1);
            Trial { way: Way::Multicast, ..self.trial(column, port, to, of) }
        })
    }
}

/// All trials.
pub(super) fn trials(sources: &[Source], targets: &[Target]) -> Vec<Trial> {
    let mut trials = Vec::new();
    for target in targets {
        let tried: Vec<_> = sources.iter().enumerate().filter_map(|s| who(s, target)).collect();
        for (number, source, row) in &tried {
            trials.extend(directly(*number, source, row, target));
        }
        for (number, source, row) in &tried {
            trials.extend(by_the_host(*number, source, row, target));
        }
    }
    let is_container = |source: &Source| source.neighbour == Some(SAME);
    let others = || sources.iter().enumerate().filter(|(_, s)| is_container(s) || is_outside(s));
    for (number, source) in others() {
        trials.extend(to_the_host(number, source));
    }
    let outside = [Lab::CLIENT, Lab::OTHER].map(Known::from_pair);
    for (name, known) in MACHINES[1..].iter().zip(outside) {
        for (number, source) in others().filter(|(_, source)| source.network.is_some()) {
            trials.extend(to_the_outside(number, source, name, known));
        }
    }
    trials
}

fn is_outside(source: &Source) -> bool {
    [OUTSIDE, ROUTED].contains(&&*source.row)
}

/// Whether somebody tries to reach a container, and what that is called.
fn who<'a>((n, source): (usize, &'a Source), to: &Target) -> Option<(usize, &'a Source, &'a str)> {
    match (source.neighbour, source.network == Some(to.network)) {
        (Some(row), true) => Some((n, source, row)),
        (Some(_), false) => None,
        (None, _) => Some((n, source, &source.row)),
    }
}

/// A container at its own addresses, and at groups that it joined.
fn directly(source: usize, by: &Source, row: &str, target: &Target) -> Vec<Trial> {
    let section = format!("To {}, at the container's own addresses", target.title);
    let (device, index) = by.device(target.network);
    let place = Row { source, section: &section, name: row, device };
    let mut trials = Vec::new();
    if row == LOCALHOST {
        return trials;
    }
    for (column, to) in target.known.columns(*index) {
        for port in PORTS {
            trials.extend(place.both(column, port, to, port.1, &target.name));
        }
    }
    for port in PORTS {
        trials.extend(place.groups(port, &target.name));
    }
    trials
}

/// A container at what is published of it.
fn by_the_host(source: usize, by: &Source, row: &str, target: &Target) -> Vec<Trial> {
    let section = format!("To {}, at addresses of the host", target.title);
    let (device, index) = by.device(target.network);
    let place = Row { source, section: &section, name: row, device };
    // Nothing is to be found where the port that is not published would be.
    let ports = [0, 2, 1].map(|offset| target.host_port + offset);
    let mut trials = Vec::new();
    for (column, to) in by.knows.columns(*index) {
        for (port, at) in PORTS.into_iter().zip(ports) {
            trials.extend(place.both(column, port, to, at, &target.name));
        }
    }
    trials
}

/// A service of the host itself.
fn to_the_host(source: usize, by: &Source) -> Vec<Trial> {
    let service = ("service", SERVICE);
    let (device, index) = by.device(0);
    let place = Row { source, section: "To the host itself", name: &by.row, device };
    let gateway = Known { link_local: None, ..by.gateway };
    let gateways = gateway.columns(*index).into_iter().zip(["IPv4 gateway", "IPv6 gateway"]);
    let gateways = gateways.map(|((_, to), column)| (column, to));
    let mut trials = Vec::new();
    for (column, to) in by.knows.columns(*index).into_iter().chain(gateways) {
        trials.extend(place.both(column, service, to, SERVICE, MACHINES[0]));
    }
    trials.extend(place.groups(service, MACHINES[0]));
    trials
}

/// A service of a machine outside.
fn to_the_outside(source: usize, by: &Source, name: &str, known: Known) -> Vec<Trial> {
    let service = ("service", SERVICE);
    let (device, index) = by.device(0);
    let section = format!("To a machine {name}");
    let place = Row { source, section: &section, name: &by.row, device };
    let mut trials = Vec::new();
    for (column, to) in known.columns(*index) {
        trials.extend(place.both(column, service, to, SERVICE, name));
    }
    trials.extend(place.groups(service, name));
    trials
}
