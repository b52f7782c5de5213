//! A site: a client on a wire, a host, and containers on the host's bridges, each of them a
//! network namespace. The host's table is the subject; nothing else of rnet takes part.
#![expect(clippy::unwrap_used, reason = "what cannot be set up cannot be tested")]

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use cnm::{Element, Key, LinkName, Step, Value};
use drivers::kernel::nft::{Nft, Ownership};
use nix::sched::CloneFlags;

use crate::patient;

/// How long a packet that is expected may take.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// How long is waited for a packet that must not come.
pub const SILENCE: Duration = Duration::from_millis(250);

/// A network namespace that is gone when it is dropped.
#[derive(Debug)]
pub struct Space(OwnedFd);

impl Space {
    /// A new namespace with its loopback up.
    pub fn new() -> Self {
        let space = std::thread::spawn(|| {
            nix::sched::unshare(CloneFlags::CLONE_NEWNET).unwrap();
            Self(std::fs::File::open("/proc/thread-self/ns/net").unwrap().into())
        });
        let space = space.join().unwrap();
        space.ip(&["link set lo up"]);
        // An address that is checked for duplicates cannot be used for a second.
        space.sysctl("net/ipv6/conf/all/accept_dad", "0");
        space.sysctl("net/ipv6/conf/default/accept_dad", "0");
        space
    }

    /// Runs a closure on a thread inside.
    pub fn run<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                #[expect(clippy::disallowed_methods, reason = "a thread made for the namespace")]
                nix::sched::setns(&self.0, CloneFlags::CLONE_NEWNET).unwrap();
                inside()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// A path by which other processes can name the namespace while it lives.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// Runs lines of `ip -batch`.
    pub fn ip(&self, lines: &[&str]) {
        let output = self.command("ip", &["-batch", "-"], &(lines.join("\n") + "\n"));
        assert!(output.status.success(), "{lines:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Runs a program inside.
    pub fn command(&self, program: &str, arguments: &[&str], input: &str) -> Output {
        self.run(|| {
            let mut child = Command::new(program)
                .args(arguments)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
            child.wait_with_output().unwrap()
        })
    }

    /// What a program prints that must succeed.
    pub fn output(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.command(program, arguments, "");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {arguments:?}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Writes a sysctl.
    pub fn sysctl(&self, path: &str, value: &str) {
        self.run(|| std::fs::write(format!("/proc/sys/{path}"), value).unwrap());
    }

    /// Serves TCP and UDP at a port: tells everybody its name and the address it sees them with.
    pub fn serve(&self, name: &'static str, port: u16) {
        let address = SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, port));
        let (listener, datagrams) =
            self.run(|| (TcpListener::bind(address).unwrap(), UdpSocket::bind(address).unwrap()));
        serve_on(name, listener, datagrams);
    }

    /// The number of a link.
    pub fn index(&self, link: &str) -> u32 {
        self.run(|| nix::net::if_::if_nametoindex(link).unwrap())
    }

    /// What a TCP server says: its name and the address it sees us with. `None` if there is none.
    pub fn tcp(&self, to: &str, wait: Duration) -> Option<String> {
        let (to, wait) = (to.parse().unwrap(), patient(wait));
        self.run(|| {
            let mut stream = TcpStream::connect_timeout(&to, wait).ok()?;
            stream.set_read_timeout(Some(wait)).unwrap();
            let mut text = String::new();
            stream.write_all(b"\n").ok()?;
            stream.read_to_string(&mut text).ok()?;
            Some(text)
        })
    }

    /// What a UDP server says: its name and the address it sees us with. `None` if there is none.
    pub fn udp(&self, to: &str, wait: Duration) -> Option<String> {
        let to: SocketAddr = to.parse().unwrap();
        let socket = self.datagrams();
        socket.connect(to).ok()?;
        ask(&socket, wait)
    }

    /// A UDP socket inside.
    pub fn datagrams(&self) -> UdpSocket {
        self.run(|| UdpSocket::bind("[::]:0").unwrap())
    }

    /// What both a TCP and a UDP server say: `name sees address`.
    pub fn reach(&self, to: &str) -> String {
        let tcp = self.tcp(to, PATIENCE);
        let udp = self.udp(to, PATIENCE);
        assert_eq!(tcp, udp, "TCP and UDP to {to} differ");
        tcp.unwrap_or_else(|| panic!("{to} is not reached"))
    }

    /// Whether neither TCP nor UDP gets anywhere.
    pub fn is_cut_off_from(&self, to: &str) -> bool {
        std::thread::scope(|scope| {
            let tcp = scope.spawn(|| self.tcp(to, SILENCE));
            self.udp(to, SILENCE).is_none() && tcp.join().unwrap().is_none()
        })
    }
}

impl Default for Space {
    fn default() -> Self {
        Self::new()
    }
}

/// Serves on sockets, which may be non-blocking, until the process ends.
pub fn serve_on(name: &'static str, listener: TcpListener, datagrams: UdpSocket) {
    listener.set_nonblocking(false).unwrap();
    datagrams.set_nonblocking(false).unwrap();
    std::thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            std::thread::spawn(move || greet(name, connection));
        }
    });
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((_, peer)) = datagrams.recv_from(&mut buffer) {
            let _ = datagrams.send_to(seen(name, peer).as_bytes(), peer);
        }
    });
}

/// Waits until something is so.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !condition() {
        assert!(begun.elapsed() < patient(PATIENCE), "{what}: not after {PATIENCE:?}");
        std::thread::yield_now();
    }
}

/// Sends a datagram on a connected socket and waits for the answer.
pub fn ask(socket: &UdpSocket, wait: Duration) -> Option<String> {
    socket.set_read_timeout(Some(patient(wait))).unwrap();
    // An ICMP error of an earlier datagram may be pending.
    let _ = socket.take_error();
    socket.send(b"?").ok()?;
    let mut buffer = [0; 512];
    let length = socket.recv(&mut buffer).ok()?;
    Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

fn seen(name: &str, peer: SocketAddr) -> String {
    format!("{name} sees {}", peer.ip().to_canonical())
}

fn greet(name: &str, mut connection: TcpStream) {
    let mut byte = [0; 1];
    if let Ok(peer) = connection.peer_addr()
        && connection.read(&mut byte).is_ok()
    {
        let _ = connection.write_all(seen(name, peer).as_bytes());
    }
}

/// The namespaces, wired.
///
/// ```text
/// client       192.0.2.2, 2001:db8::2
/// host         192.0.2.1 and .9, 2001:db8::1 and ::9; the bridges' .1 and ::1
/// a1, a2 on br-a   10.1.0.2 and .3, fd00:a::2 and ::3
/// b1 on br-b       10.2.0.2, fd00:b::2
/// i1 on br-i       10.3.0.2, fd00:c::2
/// ```
///
/// The client has routes to all of them by the host.
#[derive(Debug)]
pub struct Site {
    /// On the wire outside.
    pub client: Space,
    /// The host.
    pub host: Space,
    /// On br-a.
    pub a1: Space,
    /// On br-a too.
    pub a2: Space,
    /// On br-b.
    pub b1: Space,
    /// On br-i, an internal network.
    pub i1: Space,
    /// The host's table.
    pub nft: Nft,
}

impl Site {
    /// The site with networks a and b, and i, which is internal; nothing is published.
    pub fn new() -> Self {
        Self::with(Ownership::Preferred)
    }

    /// The same with or without ownership of the table.
    pub fn with(ownership: Ownership) -> Self {
        let (client, host) = (Space::new(), Space::new());
        wire(&client, &host);
        let a1 = Space::new();
        let a2 = Space::new();
        let b1 = Space::new();
        let i1 = Space::new();
        bridge(&host, "br-a", "10.1.0", "fd00:a:", &[&a1, &a2]);
        bridge(&host, "br-b", "10.2.0", "fd00:b:", &[&b1]);
        bridge(&host, "br-i", "10.3.0", "fd00:c:", &[&i1]);
        let nft = host.run(|| Nft::open("rnet", None, ownership).unwrap());
        let site = Self { client, host, a1, a2, b1, i1, nft };
        site.add(networks());
        let Self { client, a1, a2, b1, i1, .. } = &site;
        for (name, space) in [("client", client), ("a1", a1), ("a2", a2), ("b1", b1), ("i1", i1)] {
            space.serve(name, 80);
        }
        site
    }

    /// Adds elements.
    pub fn add(&self, elements: impl IntoIterator<Item = (Element, Value)>) {
        let step = |(element, value)| Step::Add(Key::Element(element), value);
        let steps: Vec<_> = elements.into_iter().map(step).collect();
        self.nft.apply(&steps.iter().collect::<Vec<_>>()).unwrap();
    }

    /// Removes elements.
    pub fn remove(&self, elements: impl IntoIterator<Item = (Element, Value)>) {
        let step = |(element, value)| Step::Remove(Key::Element(element), value);
        let steps: Vec<_> = elements.into_iter().map(step).collect();
        self.nft.apply(&steps.iter().collect::<Vec<_>>()).unwrap();
    }

    /// Publishes port 80 of an endpoint for TCP and UDP.
    pub fn publish(&self, host: &str, port: u16, address: &str) {
        self.add(published(host, port, address));
    }
}

impl Default for Site {
    fn default() -> Self {
        Self::new()
    }
}

/// The elements that publish port 80 of an endpoint for TCP and UDP.
pub fn published(host: &str, port: u16, address: &str) -> [(Element, Value); 2] {
    let (host, address): (IpAddr, IpAddr) = (host.parse().unwrap(), address.parse().unwrap());
    [cnm::Protocol::Tcp, cnm::Protocol::Udp].map(|protocol| {
        (Element::Published { host, protocol, port }, Value::Target { address, port: 80 })
    })
}

/// A link's name.
pub fn link(name: &str) -> LinkName {
    name.parse().unwrap()
}

/// What the planners would say of the site's networks.
pub fn networks() -> Vec<(Element, Value)> {
    let mut elements: Vec<_> =
        ["br-a", "br-b", "br-i"].iter().map(|name| Element::Bridge { link: link(name) }).collect();
    elements.push(Element::Internal { link: link("br-i") });
    for address in ["10.1.0.1", "10.2.0.1", "10.3.0.1", "fd00:a::1", "fd00:b::1", "fd00:c::1"] {
        elements.push(Element::Gateway { address: address.parse().unwrap() });
    }
    for subnet in ["10.1.0.0/24", "10.2.0.0/24", "fd00:a::/64", "fd00:b::/64"] {
        elements.push(Element::Masquerade { subnet: subnet.parse().unwrap() });
    }
    elements.into_iter().map(|element| (element, Value::Present)).collect()
}

fn wire(client: &Space, host: &Space) {
    let path = client.path();
    host.ip(&[
        &format!("link add eth0 type veth peer name eth0 netns {path}"),
        "link set eth0 up",
        "addr add 192.0.2.1/24 dev eth0",
        "addr add 192.0.2.9/24 dev eth0",
        "addr add 2001:db8::1/64 dev eth0 nodad",
        // Deprecated: never the source of what the host sends by itself.
        "addr add 2001:db8::9/64 dev eth0 nodad preferred_lft 0",
    ]);
    client.ip(&[
        "link set eth0 up",
        "addr add 192.0.2.2/24 dev eth0",
        "addr add 2001:db8::2/64 dev eth0 nodad",
        "route add 10.0.0.0/8 via 192.0.2.1",
        "route add fd00::/16 via 2001:db8::1",
    ]);
    host.sysctl("net/ipv4/ip_forward", "1");
    host.sysctl("net/ipv6/conf/all/forwarding", "1");
}

fn bridge(host: &Space, name: &str, v4: &str, v6: &str, containers: &[&Space]) {
    host.ip(&[
        &format!("link add {name} type bridge"),
        &format!("link set {name} up"),
        &format!("addr add {v4}.1/24 dev {name}"),
        &format!("addr add {v6}:1/64 dev {name} nodad"),
    ]);
    host.sysctl(&format!("net/ipv4/conf/{name}/route_localnet"), "1");
    for (number, container) in (2..).zip(containers) {
        let port = format!("{name}-{number}");
        let path = container.path();
        host.ip(&[
            &format!("link add {port} type veth peer name eth0 netns {path}"),
            &format!("link set {port} up master {name}"),
            // The container itself may be the target of a port of the host it connects to.
            &format!("link set {port} type bridge_slave hairpin on"),
        ]);
        container.ip(&[
            "link set eth0 up",
            &format!("addr add {v4}.{number}/24 dev eth0"),
            &format!("addr add {v6}:{number}/64 dev eth0 nodad"),
            &format!("route add default via {v4}.1"),
            &format!("route add default via {v6}:1"),
        ]);
    }
}
