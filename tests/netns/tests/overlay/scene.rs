//! What tests of clusters do again and again.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use netns_tests::lookup::within;
use netns_tests::{Echo, Flow, Host, Rack, patient};

/// What [`Echo`]es listen on.
pub(crate) const PORT: u16 = 7;

/// Two containers on two machines, and what goes on between them.
pub(crate) struct Talk {
    /// The one that asks, `asker` on the first machine.
    pub(crate) asker: Host,
    /// The one that answers, `web` on the second.
    pub(crate) web: Host,
    /// The addresses of `web`.
    pub(crate) addresses: Vec<IpAddr>,
    _echo: Echo,
}

impl Talk {
    /// On a network that there is.
    pub(crate) fn new(rack: &Rack, network: &str) -> Self {
        let web = rack.daemon(1).run("web", &format!("--network {network}"));
        let asker = rack.daemon(0).run("asker", &format!("--network {network}"));
        let addresses = rack.daemon(1).addresses("web")[network].clone();
        let echo = Echo::start(&web, PORT);
        rack.agrees();
        Self { asker, web, addresses, _echo: echo }
    }

    /// Connections over both families and protocols that never pause.
    pub(crate) fn flows(&self) -> Vec<Flow> {
        let servers = [0, 1].map(|family| SocketAddr::new(self.addresses[family], PORT));
        Flow::all(&self.asker, servers)
    }

    /// Whether the name leads to the right place, and somebody answers there.
    pub(crate) fn works(&self) -> bool {
        knows(&self.asker, "web", &self.addresses)
            && self.addresses.iter().all(|address| reaches(&self.asker, *address))
    }
}

/// Whether a datagram comes back soon.
pub(crate) fn reaches(from: &Host, address: IpAddr) -> bool {
    from.echoes(SocketAddr::new(address, PORT), Duration::from_millis(200))
}

/// Whether a name leads to these addresses, IPv4 first, and to no others. A resolver that does not
/// answer does not know it.
pub(crate) fn knows(host: &Host, name: &str, addresses: &[IpAddr]) -> bool {
    let ask = |kind| {
        let answer = within(Duration::from_millis(500), host, "127.0.0.11:53", name, kind);
        answer.map(|answer| answer.addresses()).unwrap_or_default()
    };
    [ask("A"), ask("AAAA")].concat() == addresses
}

/// How long it takes until something is so; fails after a time.
pub(crate) fn takes(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < patient(limit), "after {limit:?} not yet: {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
    start.elapsed()
}

/// Has connections go on for a time, not one of which may break or lose anything.
pub(crate) fn outlast(flows: &[Flow], time: Duration) {
    let start = Instant::now();
    while start.elapsed() < time {
        flows.iter().for_each(Flow::goes_on);
    }
}

/// A frame of a tunnel, of one endpoint to another: UDP to [`PORT`] over IPv4, with this text.
pub(crate) fn frame(vni: u32, macs: [&str; 2], addresses: [IpAddr; 2], text: &[u8]) -> Vec<u8> {
    let [source, target] = addresses.map(|address| match address {
        IpAddr::V4(address) => address.octets(),
        IpAddr::V6(_) => panic!("{address} is of IPv6"),
    });
    let mac = |text: &str| {
        let bytes = text.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap());
        bytes.collect::<Vec<_>>()
    };
    let length = u16::try_from(8 + text.len()).unwrap();
    let mut header = [[0x45, 0, 0, 0], [0; 4], [64, 17, 0, 0], source, target].concat();
    header[2..4].copy_from_slice(&(20 + length).to_be_bytes());
    let words = header.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum: u32 = words.sum();
    let checksum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
    let mut frame = vec![8, 0, 0, 0];
    frame.extend((vni << 8).to_be_bytes());
    frame.extend([mac(macs[1]), mac(macs[0]), vec![8, 0], header].concat());
    frame.extend(PORT.to_be_bytes().into_iter().chain(PORT.to_be_bytes()));
    frame.extend(length.to_be_bytes().into_iter().chain([0, 0]));
    frame.extend(text);
    frame
}
