//! DHCP messages as frames of one interface, below all rules and routes of its namespace: what asks
//! for an address has none, and a container's own firewall is for what the container does.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Instant;

use cnm::{LinkName, Mac};
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, send, socket,
};
use socket2::{SockFilter, SockRef};

use crate::dhcp::{Destination, Port};

const CLIENTS_PORT: u16 = 68;
const SERVERS_PORT: u16 = 67;
const ETHERTYPE_IPV4: u16 = 0x0800;
const UDP: u8 = 17;

/// Sizes of headers.
const ETHERNET: usize = 14;
const IPV4: usize = 20;
const UDP_HEADER: usize = 8;

/// The least that a frame to us has.
const LEAST: usize = ETHERNET + IPV4 + UDP_HEADER;

/// A socket for the frames of one interface that are UDP to the DHCP clients' port.
#[derive(Debug)]
pub(super) struct Packets {
    socket: OwnedFd,
    mac: Mac,
    buffer: Vec<u8>,
}

impl Packets {
    /// Opens one in the namespace of the calling thread, with the hardware address that frames come
    /// from.
    pub(super) fn open(interface: &LinkName, mac: Mac) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthIp)?;
        // Before it is bound: what passes until then is of no interest.
        SockRef::from(&socket).attach_filter(&filter())?;
        let named = getifaddrs()?.filter(|found| found.interface_name == interface.as_str());
        let mut links = named.filter_map(|found| Some(*found.address?.as_link_addr()?));
        let link = links.next().ok_or(Errno::ENODEV)?;
        bind(socket.as_raw_fd(), &link)?;
        let mut packets = Self { socket, mac, buffer: vec![0; 2048] };
        // What came by other interfaces before.
        while packets.next()?.is_some() {}
        Ok(packets)
    }

    /// The next frame that is there already.
    fn next(&mut self) -> io::Result<Option<usize>> {
        loop {
            match recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(size) => return Ok(Some(size)),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Port for Packets {
    fn send(&mut self, message: &[u8], to: Destination) -> io::Result<()> {
        let frame = frame(self.mac, message, to);
        send(self.socket.as_raw_fd(), &frame, MsgFlags::empty())?;
        Ok(())
    }

    fn receive(&mut self, until: Instant) -> io::Result<Option<(Mac, Vec<u8>)>> {
        loop {
            while let Some(size) = self.next()? {
                if let Some((from, message)) = message(&self.buffer[..size]) {
                    return Ok(Some((from, message.to_vec())));
                }
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let wait = PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)], wait) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Classic BPF: UDP to the clients' port, whole.
fn filter() -> [SockFilter; 11] {
    const LOAD_HALF: u16 = 0x28;
    const LOAD_BYTE: u16 = 0x30;
    const LOAD_HALF_BEHIND: u16 = 0x48;
    const LOAD_HEADER_LENGTH: u16 = 0xb1;
    const JUMP_EQUAL: u16 = 0x15;
    const JUMP_ANY: u16 = 0x45;
    const RETURN: u16 = 0x06;
    let step = |code, k| SockFilter::new(code, 0, 0, k);
    let jump = |code, yes, no, k| SockFilter::new(code, yes, no, k);
    [
        step(LOAD_HALF, 12),
        jump(JUMP_EQUAL, 0, 8, u32::from(ETHERTYPE_IPV4)),
        step(LOAD_BYTE, 23),
        jump(JUMP_EQUAL, 0, 6, u32::from(UDP)),
        step(LOAD_HALF, 20),
        // Neither a fragment nor the first of several.
        jump(JUMP_ANY, 4, 0, 0x3fff),
        step(LOAD_HEADER_LENGTH, 14),
        step(LOAD_HALF_BEHIND, 16),
        jump(JUMP_EQUAL, 0, 1, u32::from(CLIENTS_PORT)),
        step(RETURN, u32::MAX),
        step(RETURN, 0),
    ]
}

/// A message as an Ethernet frame.
fn frame(from: Mac, message: &[u8], to: Destination) -> Vec<u8> {
    let udp_length = length(UDP_HEADER + message.len());
    let mut frame = Vec::with_capacity(LEAST + message.len());
    frame.extend(to.mac.octets());
    frame.extend(from.octets());
    frame.extend(ETHERTYPE_IPV4.to_be_bytes());
    let mut header = Vec::with_capacity(IPV4);
    header.extend([0x45, 0x10]);
    header.extend(length(IPV4 + UDP_HEADER + message.len()).to_be_bytes());
    // No identification, no fragments; it lives for 64 hops.
    header.extend([0, 0, 0, 0, 64, UDP, 0, 0]);
    header.extend(to.source.octets());
    header.extend(to.address.octets());
    let sum = checksum(&header).to_be_bytes();
    header[10..12].copy_from_slice(&sum);
    frame.extend(header);
    let mut udp = Vec::with_capacity(UDP_HEADER + message.len());
    for field in [CLIENTS_PORT, SERVERS_PORT, udp_length, 0] {
        udp.extend(field.to_be_bytes());
    }
    udp.extend(message);
    let sum = match checksum(&[&pseudo(to.source, to.address, udp_length), &udp[..]].concat()) {
        // Zero would mean that there is none.
        0 => 0xffff,
        sum => sum,
    };
    udp[6..8].copy_from_slice(&sum.to_be_bytes());
    frame.extend(udp);
    frame
}

/// What the checksum of UDP covers of IP (RFC 768).
fn pseudo(source: Ipv4Addr, destination: Ipv4Addr, length: u16) -> Vec<u8> {
    let addresses = [source.octets(), destination.octets()].concat();
    [&addresses[..], &[0, UDP], &length.to_be_bytes()].concat()
}

/// The checksum of RFC 1071.
pub(super) fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| {
        u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or_default()]))
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}

/// Messages are far shorter than what a length can say.
pub(super) fn length(bytes: usize) -> u16 {
    u16::try_from(bytes).unwrap_or(u16::MAX)
}

/// The sender and the message of a frame that came through the filter.
fn message(frame: &[u8]) -> Option<(Mac, &[u8])> {
    let from: [u8; 6] = frame.get(6..12)?.try_into().ok()?;
    let header = usize::from(*frame.get(ETHERNET)? & 0x0f) * 4;
    let udp = frame.get(ETHERNET + header..)?;
    let port = |at: usize| Some(u16::from_be_bytes(udp.get(at..at + 2)?.try_into().ok()?));
    let size = usize::from(port(4)?);
    let is_answer = port(0)? == SERVERS_PORT && port(2)? == CLIENTS_PORT;
    let message = udp.get(UDP_HEADER..size.min(udp.len()))?;
    is_answer.then_some((Mac::from(from), message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(address: Ipv4Addr) -> Destination {
        let source = Ipv4Addr::new(192, 168, 7, 50);
        Destination { source, address, mac: Mac::from([2, 0, 0, 0, 0, 1]) }
    }

    #[test]
    fn the_checksums_of_a_frame_are_right() {
        for message in [&b"even"[..], b"odd"] {
            let frame = frame(Mac::from([2; 6]), message, to(Ipv4Addr::new(192, 168, 7, 1)));
            let (header, udp) = frame[ETHERNET..].split_at(IPV4);
            // Over a sum that is right the sum is nothing.
            assert_eq!(checksum(header), 0);
            let length = u16::try_from(udp.len()).unwrap();
            let covered =
                pseudo(to(Ipv4Addr::LOCALHOST).source, Ipv4Addr::new(192, 168, 7, 1), length);
            assert_eq!(checksum(&[&covered[..], udp].concat()), 0);
            assert_eq!(&udp[UDP_HEADER..], message);
        }
    }

    #[test]
    fn a_frame_that_is_cut_off_is_no_message() {
        let mut whole = frame(Mac::from([2; 6]), b"message", to(Ipv4Addr::BROADCAST));
        let ports = ETHERNET + IPV4;
        whole[ports..ports + 4].copy_from_slice(&[0, 67, 0, 68]);
        assert_eq!(message(&whole), Some((Mac::from([2; 6]), &b"message"[..])));
        for size in 0..LEAST {
            assert_eq!(message(&whole[..size]), None, "{size} bytes");
        }
        whole[ports + 1] = 53;
        assert_eq!(message(&whole), None, "of another port");
    }
}
