//! Telling the endpoints on a bridge that an address belongs to another hardware address now.
//!
//! An endpoint tells its neighbours itself when it is made, but not those on other hosts: nothing is
//! flooded through tunnels. Whoever talked to the last owner of the address would go on sending to
//! that one's hardware address, for half a minute and more. So the host says it in the name of the new
//! owner: an ARP request for oneself, an unsolicited neighbour advertisement (RFC 4861, 7.2.6).

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};

use cnm::{LinkName, Mac};
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, bind, send, socket};

/// How many sockets are kept.
const KEPT: usize = 256;

const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;
const ICMPV6: u8 = 58;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Sockets by which bridges are told.
#[derive(Debug, Default)]
pub(super) struct Announcers(BTreeMap<LinkName, OwnedFd>);

impl Announcers {
    /// Tells all ports of a bridge of the calling thread's namespace whose an address is.
    pub(super) fn tell(&mut self, bridge: &LinkName, address: IpAddr, mac: Mac) -> io::Result<()> {
        let frame = frame(address, mac);
        let kept = self.0.get(bridge).map(|socket| say(socket, &frame));
        if kept.is_some_and(|sent| sent.is_ok()) {
            return Ok(());
        }
        // The bridge is another one than it was.
        self.0.remove(bridge);
        let socket = open(bridge)?;
        say(&socket, &frame)?;
        if self.0.len() >= KEPT {
            self.0.clear();
        }
        self.0.insert(bridge.clone(), socket);
        Ok(())
    }
}

fn open(bridge: &LinkName) -> io::Result<OwnedFd> {
    // Of no protocol: it hears nothing.
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
    let named = getifaddrs()?.filter(|found| found.interface_name == bridge.as_str());
    let mut links = named.filter_map(|found| Some(*found.address?.as_link_addr()?));
    bind(socket.as_raw_fd(), &links.next().ok_or(Errno::ENODEV)?)?;
    Ok(socket)
}

fn say(socket: &OwnedFd, frame: &[u8]) -> io::Result<()> {
    send(socket.as_raw_fd(), frame, MsgFlags::MSG_DONTWAIT)?;
    Ok(())
}

fn frame(address: IpAddr, mac: Mac) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => request(address, mac),
        IpAddr::V6(address) => advertisement(address, mac),
    }
}

/// Who asks for his own address tells it.
fn request(address: Ipv4Addr, mac: Mac) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(mac.octets());
    frame.extend(ARP.to_be_bytes());
    // Ethernet, IPv4, the lengths of their addresses, a request.
    frame.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(mac.octets());
    frame.extend(address.octets());
    frame.extend([0; 6]);
    frame.extend(address.octets());
    frame
}

fn advertisement(address: Ipv6Addr, mac: Mac) -> Vec<u8> {
    // It overrides what was known; then the target, and its hardware address as an option.
    let mut message = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
    message.extend(address.octets());
    message.extend([2, 1]);
    message.extend(mac.octets());
    let length = u16::try_from(message.len()).unwrap_or_default();
    let mut summed = [address.octets(), ALL_NODES.octets()].concat();
    summed.extend(u32::from(length).to_be_bytes());
    summed.extend([0, 0, 0, ICMPV6]);
    summed.extend(&message);
    let sum = super::packet::checksum(&summed).to_be_bytes();
    message[2..4].copy_from_slice(&sum);
    let mut frame = vec![0x33, 0x33, 0, 0, 0, 1];
    frame.extend(mac.octets());
    frame.extend(IPV6.to_be_bytes());
    frame.extend([0x60, 0, 0, 0]);
    frame.extend(length.to_be_bytes());
    // Nobody takes one that was forwarded.
    frame.extend([ICMPV6, 255]);
    frame.extend(address.octets());
    frame.extend(ALL_NODES.octets());
    frame.extend(message);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_advertisement_has_the_sum_that_its_reader_expects() {
        let frame = advertisement("fd09::c".parse().unwrap(), Mac::from([2, 0, 0, 0, 0, 12]));
        let mut summed = frame[22..54].to_vec();
        summed.extend([0, 0, 0, 32, 0, 0, 0, ICMPV6]);
        summed.extend(&frame[54..]);
        assert_eq!(frame.len(), 14 + 40 + 32);
        // With the sum in it, it comes to nothing.
        assert_eq!(super::super::packet::checksum(&summed), 0);
    }

    #[test]
    fn a_request_tells_the_hardware_address_of_who_asks() {
        let frame = request([10, 9, 0, 12].into(), Mac::from([2, 0, 0, 0, 0, 12]));
        assert_eq!(frame[22..32], [2, 0, 0, 0, 0, 12, 10, 9, 0, 12]);
        assert_eq!(frame[38..], [10, 9, 0, 12]);
    }
}
