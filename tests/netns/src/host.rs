//! One host: a network namespace.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::process::{Command, Output, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use cnm::{LinkKind, LinkName};
use drivers::kernel::netlink::{Request, Socket};
use drivers::kernel::{Netns, address, link, route};
use ipnetwork::IpNetwork;
use nix::sys::socket::{Shutdown, shutdown};

/// How long to wait for what must happen.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// How long to wait for what must not happen.
pub const SILENCE: Duration = Duration::from_millis(250);

/// A limit as it is on this machine: an emulated one is slower, and `RNET_TEST_PATIENCE` says how many
/// times. Whoever waits here asks it, so that tests name the limits of an ordinary machine.
pub fn patient(limit: Duration) -> Duration {
    let factor = std::env::var("RNET_TEST_PATIENCE");
    limit * factor.map_or(1, |text| text.parse().unwrap())
}

/// A host, which exists as long as something is open in it.
#[derive(Debug)]
pub struct Host(Netns);

impl Host {
    /// A new host with nothing but its loopback.
    pub fn new() -> Self {
        let host = Self(Netns::create().unwrap());
        host.request(&[link::switch_on_loopback()]);
        // A real host has had the time to find its link-local addresses unique.
        host.set_sysctl("net/ipv6/conf/default/accept_dad", "0");
        host
    }

    /// The host that a namespace is.
    pub fn from_netns(netns: Netns) -> Self {
        Self(netns)
    }

    /// Another handle of the same host.
    #[must_use]
    pub fn another(&self) -> Self {
        Self(self.0.try_clone().unwrap())
    }

    /// Runs a function inside.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        self.0.run(f).unwrap()
    }

    /// Sends requests to the kernel, all of which must succeed.
    pub fn request(&self, requests: &[Request]) {
        let refused = self.run(|| Socket::open().unwrap().batch(requests));
        assert!(refused.is_empty(), "{refused:?}");
    }

    /// Connects two hosts by a cable.
    pub fn connect(&self, interface: &str, other: &Self, other_interface: &str) {
        let (name, far) =
            (interface.parse::<LinkName>().unwrap(), other_interface.parse::<LinkName>().unwrap());
        let pair = link::New {
            name: &far,
            kind: &LinkKind::Veth { peer: name.clone() },
            mac: Some(link::stable_mac(&format!("{interface} {:?}", other.0))),
            mtu: 1500,
            netns: Some(other.0.as_fd()),
            parent: None,
            bridge: None,
        };
        // Several hosts may have an interface of that name on one LAN.
        let mac = link::stable_mac(&format!("{:?} {interface} {:?}", self.0, other.0));
        self.request(&[link::create(&pair), link::announce(&name, mac)]);
        other.request(&[link::switch_on(&far, None, None)]);
        for (host, end) in [(self, &name), (other, &far)] {
            host.run(|| link::settle(&mut Socket::open().unwrap(), end)).unwrap();
        }
    }

    /// Adds a bridge, switched off.
    pub fn add_bridge(&self, name: &str) {
        let (name, kind) = (name.parse().unwrap(), LinkKind::Bridge);
        let mac = Some(link::stable_mac(LinkName::as_str(&name)));
        let (mtu, netns, parent, bridge) = (1500, None, None, None);
        let new = link::New { name: &name, kind: &kind, mac, mtu, netns, parent, bridge };
        self.request(&[link::create(&new)]);
    }

    /// Adds an address to a link.
    pub fn add_address(&self, interface: &str, address: &str) {
        let index = self.index(interface);
        self.request(&[address::add(index, address.parse().unwrap())]);
    }

    /// Removes an address from a link.
    pub fn remove_address(&self, interface: &str, address: &str) {
        let index = self.index(interface);
        self.request(&[address::remove(index, address.parse().unwrap())]);
    }

    /// Adds a route.
    pub fn add_route(&self, destination: &str, interface: &str, via: &str) {
        let index = self.index(interface);
        let destination = destination.parse().unwrap();
        self.request(&[route::add(destination, index, Some(via.parse().unwrap()))]);
    }

    /// The links.
    pub fn links(&self) -> Vec<link::Link> {
        self.run(|| link::list(&mut Socket::open().unwrap())).unwrap()
    }

    /// The link with this name.
    pub fn link(&self, name: &str) -> Option<link::Link> {
        self.links().into_iter().find(|link| link.name == name)
    }

    /// The addresses of a link.
    pub fn addresses(&self, interface: &str) -> Vec<IpNetwork> {
        let index = self.index(interface);
        let all = self.run(|| address::list(&mut Socket::open().unwrap())).unwrap();
        all.into_iter().filter(|a| a.link == index).map(|a| a.address).collect()
    }

    /// The value of a sysctl.
    pub fn sysctl(&self, path: &str) -> String {
        self.run(|| drivers::kernel::sysctl::read(path)).unwrap()
    }

    /// Sets a sysctl.
    pub fn set_sysctl(&self, path: &str, value: &str) {
        self.run(|| drivers::kernel::sysctl::write(path, value)).unwrap();
    }

    /// Serves a TCP and a UDP port of both families: tells each client what its address is.
    pub fn serve(&self, port: u16) -> Server {
        self.run(|| Server::start(port)).unwrap()
    }

    /// Connects to a server over TCP; returns the address that the server sees.
    pub fn tcp(&self, address: impl Into<IpAddr>, port: u16) -> io::Result<IpAddr> {
        self.tcp_to(SocketAddr::new(address.into(), port), TIMEOUT)
    }

    /// Sends to a server over UDP; returns the address that the server sees.
    pub fn udp(&self, address: impl Into<IpAddr>, port: u16) -> io::Result<IpAddr> {
        self.udp_to(SocketAddr::new(address.into(), port), TIMEOUT)
    }

    /// Whether a server sends a datagram back within a time, at the first attempt.
    pub fn echoes(&self, server: SocketAddr, limit: Duration) -> bool {
        let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = self.run(|| UdpSocket::bind(any)).unwrap();
        let (mut buffer, text) = ([0; 8], b"echo");
        let asked = socket.connect(server).and_then(|()| {
            socket.set_read_timeout(Some(patient(limit)))?;
            socket.send(text)?;
            socket.recv(&mut buffer)
        });
        asked.is_ok_and(|size| buffer[..size] == *text)
    }

    /// Whether a server answers neither over TCP nor over UDP.
    pub fn is_cut_off_from(&self, server: SocketAddr) -> bool {
        thread::scope(|scope| {
            let tcp = scope.spawn(|| self.tcp_to(server, SILENCE).is_err());
            self.udp_to(server, SILENCE).is_err() && tcp.join().unwrap()
        })
    }

    /// As [`Host::tcp`], with a limit.
    pub fn tcp_to(&self, server: SocketAddr, limit: Duration) -> io::Result<IpAddr> {
        let limit = patient(limit);
        let mut stream = self.run(|| TcpStream::connect_timeout(&server, limit))?;
        stream.set_read_timeout(Some(limit))?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        parse(&text)
    }

    /// As [`Host::udp`], with a limit. A lost datagram is sent again.
    pub fn udp_to(&self, server: SocketAddr, limit: Duration) -> io::Result<IpAddr> {
        let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = self.run(|| UdpSocket::bind(any))?;
        socket.connect(server)?;
        socket.set_read_timeout(Some(patient(limit.min(SILENCE) / 2)))?;
        let limit = patient(limit);
        let start = Instant::now();
        loop {
            let mut buffer = [0; 64];
            let answer = socket.send(b"?").and_then(|_| socket.recv(&mut buffer));
            match answer {
                Ok(size) => return parse(&String::from_utf8_lossy(&buffer[..size])),
                Err(error) if start.elapsed() > limit => return Err(error),
                Err(_) => {}
            }
        }
    }

    /// What a program prints here, given words. It must succeed.
    pub fn output(&self, words: &str) -> String {
        self.output_with(words, "")
    }

    /// The same with an input.
    pub fn output_with(&self, words: &str, input: &str) -> String {
        let output = self.program(words, input);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words} {input}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What a program complains of here, given words. It must fail.
    pub fn complaint(&self, words: &str) -> String {
        let output = self.program(words, "");
        assert!(!output.status.success(), "{words}: succeeded");
        String::from_utf8(output.stderr).unwrap()
    }

    fn program(&self, words: &str, input: &str) -> Output {
        let words: Vec<_> = words.split(' ').collect();
        self.run(|| {
            let mut command = Command::new(words[0]);
            command.args(&words[1..]).stdin(Stdio::piped());
            let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
            child.wait_with_output().unwrap()
        })
    }

    fn index(&self, name: &str) -> u32 {
        self.link(name).unwrap_or_else(|| panic!("no link {name}: {:?}", self.links())).index
    }
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

/// Servers on one port; they end with the value.
#[derive(Debug)]
pub struct Server {
    tcp: TcpListener,
    udp: UdpSocket,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    fn start(port: u16) -> io::Result<Self> {
        let any = SocketAddr::new(IpAddr::from([0_u16; 8]), port);
        let (tcp, udp) = (TcpListener::bind(any)?, UdpSocket::bind(any)?);
        let (listener, socket) = (tcp.try_clone()?, udp.try_clone()?);
        let threads = vec![
            thread::spawn(move || {
                while let Ok((mut stream, peer)) = listener.accept() {
                    let _ = stream.write_all(name(peer).as_bytes());
                }
            }),
            thread::spawn(move || {
                let mut buffer = [0; 64];
                while let Ok((size @ 1.., peer)) = socket.recv_from(&mut buffer) {
                    debug_assert!(size <= buffer.len());
                    let _ = socket.send_to(name(peer).as_bytes(), peer);
                }
            }),
        ];
        Ok(Self { tcp, udp, threads })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // To shut down a socket that is not connected is an error, and wakes its reader.
        let _ = shutdown(self.tcp.as_raw_fd(), Shutdown::Both);
        let _ = shutdown(self.udp.as_raw_fd(), Shutdown::Both);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Waits until a condition holds.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < patient(TIMEOUT), "waited in vain until {what}");
        thread::park_timeout(Duration::from_millis(1));
    }
}

fn name(peer: SocketAddr) -> String {
    peer.ip().to_canonical().to_string()
}

fn parse(text: &str) -> io::Result<IpAddr> {
    text.parse().map_err(|_| io::Error::new(io::ErrorKind::InvalidData, text.to_owned()))
}
