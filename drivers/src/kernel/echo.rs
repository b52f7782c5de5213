//! Questions that come back from another host: from the host itself, or through a tunnel from a
//! station behind it. Nobody there takes part but the kernel, which answers echo requests (RFC 792, RFC 4443).
//!
//! A question through a tunnel is sent as this host's tunnel would send it, in a form of one's choice; the
//! answer comes back by the other host's own tunnel and is seen on the link here.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use cnm::{LinkName, Mac};
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, connect,
    recv, send, setsockopt, socket, sockopt,
};

use super::packet;

/// The way to a station behind a tunnel of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// The tunnel's link here.
    pub link: LinkName,
    /// The network's number.
    pub vni: u32,
    /// The tunnel's port.
    pub port: u16,
    /// Where it ends here.
    pub local: IpAddr,
    /// Where it ends there.
    pub remote: IpAddr,
    /// Who asks.
    pub from: Station,
    /// Who is asked.
    pub to: Station,
}

/// Somebody on a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Station {
    /// The hardware address.
    pub mac: Mac,
    /// An address, of the same family on both sides.
    pub address: IpAddr,
}

/// How the outer checksum of a question comes about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// As that of the tunnel: the card may do it.
    Offloaded,
    /// By this program.
    Computed,
    /// There is none, which only IPv4 knows.
    Absent,
}

/// What became of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It was answered.
    Came,
    /// Nothing came in time.
    Silence,
    /// A link on the way takes no packet of this size.
    TooLarge,
}

const ETHERNET: usize = 14;
const UDP_HEADER: usize = 8;

/// Asks a host itself, by a packet of a size that nobody on the way may cut into pieces.
pub fn host(local: IpAddr, remote: IpAddr, size: usize, wait: Duration) -> io::Result<Answer> {
    let protocol = if remote.is_ipv4() { SockProtocol::Icmp } else { SockProtocol::IcmpV6 };
    let socket = raw(local, remote, protocol)?;
    let message = request(local, remote, size, mark()?);
    if let Some(refused) = ask(&socket, &message)? {
        return Ok(refused);
    }
    // Of IPv4 the header is there, too.
    heard(&socket, wait, |packet| is_reply(packet, &message, remote.is_ipv4()))
}

/// The interface of this host that has an address.
pub fn interface_of(address: IpAddr) -> Option<String> {
    let has = |found: &nix::ifaddrs::InterfaceAddress| {
        let own = found.address.as_ref();
        let ipv4 = own.and_then(|own| own.as_sockaddr_in()).map(|own| IpAddr::from(own.ip()));
        let ipv6 = || own.and_then(|own| own.as_sockaddr_in6()).map(|own| IpAddr::from(own.ip()));
        ipv4.or_else(ipv6) == Some(address)
    };
    getifaddrs().ok()?.find(has).map(|found| found.interface_name)
}

impl Path {
    /// Asks the station by a packet of a size, the largest of which is the network's MTU.
    pub fn ask(&self, size: usize, checksum: Checksum, wait: Duration) -> io::Result<Answer> {
        let taps = self.listen()?;
        let message = request(self.from.address, self.to.address, size, mark()?);
        let payload = self.payload(&message);
        let refused = match checksum {
            Checksum::Offloaded => {
                let socket = UdpSocket::bind((self.local, 0))?;
                undivided(&socket, self.local)?;
                refusal(socket.send_to(&payload, (self.remote, self.port)).map(drop))?
            }
            Checksum::Computed | Checksum::Absent => {
                let socket = raw(self.local, self.remote, SockProtocol::Udp)?;
                ask(&socket, &self.datagram(&payload, checksum))?
            }
        };
        match refused {
            Some(refused) => Ok(refused),
            None => heard(&taps, wait, |frame| self.is_answer(frame, &message)),
        }
    }

    /// Whatever comes by the link, before the bridge has it.
    fn listen(&self) -> io::Result<OwnedFd> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll)?;
        let named = getifaddrs()?.filter(|found| found.interface_name == self.link.as_str());
        let mut links = named.filter_map(|found| Some(*found.address?.as_link_addr()?));
        bind(socket.as_raw_fd(), &links.next().ok_or(Errno::ENODEV)?)?;
        Ok(socket)
    }

    /// What is in the outer datagram: RFC 7348, section 5.
    fn payload(&self, message: &[u8]) -> Vec<u8> {
        let mut payload = vec![8, 0, 0, 0];
        payload.extend((self.vni << 8).to_be_bytes());
        payload.extend(self.to.mac.octets());
        payload.extend(self.from.mac.octets());
        let kind: u16 = if self.to.address.is_ipv4() { 0x0800 } else { 0x86dd };
        payload.extend(kind.to_be_bytes());
        payload.extend(header(self.from.address, self.to.address, message.len()));
        payload.extend(message);
        payload
    }

    fn datagram(&self, payload: &[u8], checksum: Checksum) -> Vec<u8> {
        /// The least of those that are nobody's.
        const SOURCE: u16 = 49_152;
        let length = packet::length(UDP_HEADER + payload.len());
        let mut datagram = Vec::with_capacity(UDP_HEADER + payload.len());
        for field in [SOURCE, self.port, length, 0] {
            datagram.extend(field.to_be_bytes());
        }
        datagram.extend(payload);
        if checksum == Checksum::Computed {
            let covered = [&pseudo(self.local, self.remote, 17, length)[..], &datagram].concat();
            // Zero would mean that there is none.
            let sum = match packet::checksum(&covered) {
                0 => 0xffff,
                sum => sum,
            };
            datagram[6..8].copy_from_slice(&sum.to_be_bytes());
        }
        datagram
    }

    fn is_answer(&self, frame: &[u8], message: &[u8]) -> bool {
        let ipv4 = self.to.address.is_ipv4();
        let inner = if ipv4 { 0 } else { 40 };
        frame.get(6..12) == Some(&self.to.mac.octets()[..])
            && frame.get(ETHERNET + inner..).is_some_and(|rest| is_reply(rest, message, ipv4))
    }
}

/// What an echo request is known by: its identifier and sequence number. No two questions have the
/// same, so that an answer that comes late, or was somebody else's, is none to this one.
fn mark() -> io::Result<[u8; 4]> {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(bytes)
}

/// An echo request as one of a size with its header.
fn request(from: IpAddr, to: IpAddr, size: usize, mark: [u8; 4]) -> Vec<u8> {
    let (kind, protocol, before) = if to.is_ipv4() { (8, 1, 20) } else { (128, 58, 40) };
    let mut message = vec![kind, 0, 0, 0];
    message.extend(mark);
    message.resize(size.saturating_sub(before).max(8), b'?');
    let covered = match to {
        IpAddr::V4(_) => message.clone(),
        IpAddr::V6(_) => {
            [pseudo(from, to, protocol, packet::length(message.len())), message.clone()].concat()
        }
    };
    message[2..4].copy_from_slice(&packet::checksum(&covered).to_be_bytes());
    message
}

/// Whether a packet, with its header if it is of IPv4, answers a message.
fn is_reply(packet: &[u8], message: &[u8], ipv4: bool) -> bool {
    let (kind, before) = match packet.first() {
        Some(first) if ipv4 => (0, usize::from(first & 0x0f) * 4),
        _ => (129, 0),
    };
    // What is in the buffer behind it is the link's.
    let reply = packet.get(before..).and_then(|rest| rest.get(..message.len()));
    reply.is_some_and(|reply| reply[0] == kind && reply[4..] == message[4..])
}

/// The header of the inner packet.
fn header(from: IpAddr, to: IpAddr, length: usize) -> Vec<u8> {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut header = vec![0x45, 0];
            header.extend(packet::length(20 + length).to_be_bytes());
            header.extend([0, 0, 0x40, 0, 64, 1, 0, 0]);
            header.extend(from.octets());
            header.extend(to.octets());
            let sum = packet::checksum(&header).to_be_bytes();
            header[10..12].copy_from_slice(&sum);
            header
        }
        (from, to) => {
            let mut header = vec![0x60, 0, 0, 0];
            header.extend(packet::length(length).to_be_bytes());
            header.extend([58, 64]);
            header.extend(octets(from));
            header.extend(octets(to));
            header
        }
    }
}

/// What checksums cover of IP.
fn pseudo(from: IpAddr, to: IpAddr, protocol: u8, length: u16) -> Vec<u8> {
    [&octets(from)[..], &octets(to), &[0, protocol], &length.to_be_bytes()].concat()
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

// === sockets ===

/// A socket of a protocol, from an address of this host to another host: nothing else is heard by it.
fn raw(local: IpAddr, remote: IpAddr, protocol: SockProtocol) -> io::Result<OwnedFd> {
    let family = if local.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(family, SockType::Raw, flags, protocol)?;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(local, 0)))?;
    connect(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(remote, 0)))?;
    undivided(&socket, local)?;
    Ok(socket)
}

/// Has packets not be divided on their way, as the kernel does by itself with IPv4.
fn undivided(socket: &impl AsFd, local: IpAddr) -> io::Result<()> {
    if local.is_ipv6() {
        setsockopt(socket, sockopt::Ipv6DontFrag, &true)?;
    }
    Ok(())
}

fn ask(socket: &OwnedFd, packet: &[u8]) -> io::Result<Option<Answer>> {
    let sent = send(socket.as_raw_fd(), packet, MsgFlags::empty());
    refusal(sent.map(drop).map_err(io::Error::from))
}

fn refusal(sent: io::Result<()>) -> io::Result<Option<Answer>> {
    match sent {
        Ok(()) => Ok(None),
        Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => Ok(Some(Answer::TooLarge)),
        Err(error) => Err(error),
    }
}

/// Whether something good comes in time, whatever else comes.
fn heard(socket: &OwnedFd, wait: Duration, good: impl Fn(&[u8]) -> bool) -> io::Result<Answer> {
    let until = Instant::now() + wait;
    let mut buffer = vec![0; 1 << 16];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let pause = PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], pause) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(size) if good(&buffer[..size]) => return Ok(Answer::Came),
            Ok(_) | Err(Errno::EINTR | Errno::EAGAIN) => {}
            // Said by who could not pass it on.
            Err(Errno::EMSGSIZE) => return Ok(Answer::TooLarge),
            Err(error) => return Err(error.into()),
        }
        if left.is_zero() {
            return Ok(Answer::Silence);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: [u8; 4] = *b"rnet";

    #[test]
    fn what_comes_without_end_and_is_no_answer_does_not_hold_up_who_asks() {
        let here = UdpSocket::bind("127.0.0.1:0").unwrap();
        let there = UdpSocket::bind("127.0.0.1:0").unwrap();
        here.connect(there.local_addr().unwrap()).unwrap();
        there.connect(here.local_addr().unwrap()).unwrap();
        there.set_nonblocking(true).unwrap();
        let socket = OwnedFd::from(here);
        // For each that is looked at there is another one.
        let good = |_: &[u8]| {
            let _ = there.send(b"something else");
            false
        };
        good(b"");
        assert_eq!(heard(&socket, Duration::from_millis(20), good).unwrap(), Answer::Silence);
    }

    fn path(to: &str, from: &str) -> Path {
        let station = |last, address: &str| {
            let address = address.parse().unwrap();
            Station { mac: Mac::from([2, 0, 0, 0, 0, last]), address }
        };
        Path {
            link: "vx-0".parse().unwrap(),
            vni: 4096,
            port: 4789,
            local: "192.0.2.1".parse().unwrap(),
            remote: "192.0.2.2".parse().unwrap(),
            from: station(1, from),
            to: station(2, to),
        }
    }

    #[test]
    fn a_question_has_the_size_that_was_asked_for_and_checksums_that_are_right() {
        for (path, before) in [(path("10.0.0.2", "10.0.0.1"), 20), (path("fd00::2", "fd00::1"), 40)]
        {
            let message = request(path.from.address, path.to.address, 1450, MARK);
            let payload = path.payload(&message);
            assert_eq!(payload.len(), 8 + ETHERNET + 1450);
            if before == 20 {
                assert_eq!(packet::checksum(&payload[8 + ETHERNET..][..before]), 0);
                assert_eq!(packet::checksum(&message), 0);
            } else {
                let length = packet::length(message.len());
                let pseudo = pseudo(path.from.address, path.to.address, 58, length);
                assert_eq!(packet::checksum(&[pseudo, message].concat()), 0);
            }
            let datagram = path.datagram(&payload, Checksum::Computed);
            let pseudo = pseudo(path.local, path.remote, 17, packet::length(datagram.len()));
            assert_eq!(packet::checksum(&[&pseudo[..], &datagram].concat()), 0);
            assert_eq!(path.datagram(&payload, Checksum::Absent)[6..8], [0, 0]);
        }
    }

    #[test]
    fn an_answer_is_one_to_the_same_question_of_the_same_station() {
        for path in [path("10.0.0.2", "10.0.0.1"), path("fd00::2", "fd00::1")] {
            let message = request(path.from.address, path.to.address, 64, MARK);
            let mut reply = message.clone();
            reply[0] = if path.to.address.is_ipv4() { 0 } else { 129 };
            let back = Path { from: path.to, to: path.from, ..path.clone() };
            let mut frame = back.payload(&reply)[8..].to_vec();
            assert!(path.is_answer(&frame, &message));
            assert!(!path.is_answer(&back.payload(&message)[8..], &message), "a question");
            let other = request(path.from.address, path.to.address, 64, mark().unwrap());
            assert!(!path.is_answer(&frame, &other), "to another question");
            assert!(!path.is_answer(&frame[..40], &message), "cut off");
            frame[11] = 9;
            assert!(!path.is_answer(&frame, &message), "of another station");
        }
    }
}
