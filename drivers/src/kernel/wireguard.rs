//! What links that encrypt are told beside what all links are: keys, ports and peers (generic netlink).
//!
//! The crate that reads and writes the other messages does not know these: they are put together here.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use cnm::wireguard::{PublicKey, Remote};
use cnm::{LinkName, Value};

use super::netlink::{Message, Request, Socket};

/// `GENL_ID_CTRL`, which tells of all others.
const CONTROL: u16 = 0x10;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;

/// `WG_CMD_…`
const GET_DEVICE: u8 = 0;
const SET_DEVICE: u8 = 1;

/// `WGDEVICE_A_…`
const NAME: u16 = 2;
const PRIVATE_KEY: u16 = 3;
const PUBLIC_KEY: u16 = 4;
const LISTEN_PORT: u16 = 6;
const PEERS: u16 = 8;

/// `WGPEER_A_…`
const PEER_KEY: u16 = 1;
const PRESHARED_KEY: u16 = 2;
const PEER_FLAGS: u16 = 3;
const ENDPOINT: u16 = 4;
const ALLOWED: u16 = 9;

/// `WGPEER_F_…`
const REMOVE: u32 = 1;
const REPLACE_ALLOWED: u32 = 2;

/// `WGALLOWEDIP_A_…`
const FAMILY: u16 = 1;
const ADDRESS: u16 = 2;
const PREFIX: u16 = 3;

/// `NLA_F_NESTED`, and what of a number says what an attribute is.
const NESTED: u16 = 0x8000;
const KIND: u16 = 0x3fff;

/// `struct genlmsghdr`: command, version, two bytes in reserve.
const HEADER: usize = 4;

/// The private half of a key. It is shown to nobody but the kernel.
pub struct PrivateKey([u8; 32]);

impl PrivateKey {
    /// One of 32 random bytes, with the bits set that all such keys have.
    pub fn from_random(mut bytes: [u8; 32]) -> Self {
        bytes[0] &= 0xf8;
        bytes[31] = bytes[31] & 0x7f | 0x40;
        Self(bytes)
    }

    /// To be kept where nobody else can read it.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey")
    }
}

/// What a link that encrypts was told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Device {
    /// The public half of its key, if it has one.
    pub(super) key: Option<PublicKey>,
    /// Where it listens.
    pub(super) port: u16,
    /// Its peers; one that is not as we make them is [`Value::Astray`].
    pub(super) peers: Vec<(PublicKey, Value)>,
}

/// A socket to tell such links by, in the namespace of the thread that opened it.
#[derive(Debug)]
pub(super) struct Encryption {
    socket: Socket,
    /// The number by which the kernel knows what this is about.
    family: u16,
}

impl Encryption {
    /// Fails where the kernel has no such links.
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::generic()?;
        let all = socket.dump_raw(&message(CONTROL, CTRL_CMD_GETFAMILY, Vec::new()))?;
        let family = all.iter().find_map(|body| family(body)).ok_or(io::ErrorKind::Unsupported)?;
        Ok(Self { socket, family })
    }

    /// Gives a link its key, and the port where it listens.
    pub(super) fn set_key(
        &mut self,
        link: &LinkName,
        key: &PrivateKey,
        port: u16,
    ) -> io::Result<()> {
        let attributes = [named(link), attribute(PRIVATE_KEY, &key.0), number(LISTEN_PORT, port)];
        self.tell(Request::change(message(self.family, SET_DEVICE, attributes.concat())))
    }

    /// Makes or changes a peer.
    pub(super) fn set_peer(
        &mut self,
        link: &LinkName,
        key: &PublicKey,
        remote: &Remote,
    ) -> io::Result<()> {
        let Remote { endpoint, address } = remote;
        let family = u16::try_from(libc::AF_INET6).unwrap_or_default();
        let allowed = [
            number(FAMILY, family),
            attribute(ADDRESS, &address.octets()),
            attribute(PREFIX, &[128]),
        ];
        let peer = [
            attribute(PEER_KEY, key.bytes()),
            attribute(PEER_FLAGS, &REPLACE_ALLOWED.to_ne_bytes()),
            attribute(ENDPOINT, &socket_address(*endpoint)),
            nested(ALLOWED, &nested(0, &allowed.concat())),
        ];
        let peers = nested(PEERS, &nested(0, &peer.concat()));
        let attributes = [named(link), peers].concat();
        self.tell(Request::change(message(self.family, SET_DEVICE, attributes)))
    }

    /// Removes a peer. That the link is gone is a success.
    pub(super) fn remove_peer(&mut self, link: &LinkName, key: &PublicKey) -> io::Result<()> {
        let peer = [attribute(PEER_KEY, key.bytes()), attribute(PEER_FLAGS, &REMOVE.to_ne_bytes())];
        let peers = nested(PEERS, &nested(0, &peer.concat()));
        let attributes = [named(link), peers].concat();
        self.tell(Request::remove(message(self.family, SET_DEVICE, attributes)))
    }

    /// What a link was told.
    pub(super) fn device(&mut self, link: &LinkName) -> io::Result<Device> {
        let parts = self.socket.dump_raw(&message(self.family, GET_DEVICE, named(link)))?;
        let mut device = Device::default();
        for body in &parts {
            device.add(body);
        }
        Ok(device)
    }

    fn tell(&mut self, request: Request) -> io::Result<()> {
        self.socket.batch(&[request]).pop().map_or(Ok(()), |refused| Err(refused.source))
    }
}

impl Device {
    /// What one message says: the kernel needs several for many peers.
    fn add(&mut self, body: &[u8]) {
        for (kind, content) in attributes(body.get(HEADER..).unwrap_or_default()) {
            match kind {
                PUBLIC_KEY => self.key = key(content),
                LISTEN_PORT => self.port = short(content).unwrap_or_default(),
                PEERS => self.peers.extend(attributes(content).filter_map(|(_, one)| peer(one))),
                _ => {}
            }
        }
    }
}

/// The number of what is called `wireguard`, if this message tells of it.
fn family(body: &[u8]) -> Option<u16> {
    let of = |wanted| {
        let mut all = attributes(body.get(HEADER..).unwrap_or_default());
        all.find(|(kind, _)| *kind == wanted).map(|(_, content)| content)
    };
    let is_it = of(CTRL_ATTR_FAMILY_NAME)? == b"wireguard\0";
    short(of(CTRL_ATTR_FAMILY_ID)?).filter(|_| is_it)
}

fn peer(content: &[u8]) -> Option<(PublicKey, Value)> {
    let (mut name, mut endpoint, mut allowed, mut shared) = (None, None, Vec::new(), false);
    for (kind, content) in attributes(content) {
        match kind {
            PEER_KEY => name = key(content),
            PRESHARED_KEY => shared = content.iter().any(|byte| *byte != 0),
            ENDPOINT => endpoint = read_socket_address(content),
            ALLOWED => allowed.extend(attributes(content).map(|(_, one)| alone(one))),
            _ => {}
        }
    }
    let value = match (endpoint, allowed.as_slice()) {
        (Some(endpoint), [Some(address)]) if !shared => {
            Value::Remote(Remote { endpoint, address: *address })
        }
        _ => Value::Astray,
    };
    Some((name?, value))
}

/// The one address that somebody may send from, if it is one of IPv6.
fn alone(content: &[u8]) -> Option<Ipv6Addr> {
    let (mut address, mut prefix) = (None, 0);
    for (kind, content) in attributes(content) {
        match kind {
            ADDRESS => address = <[u8; 16]>::try_from(content).ok().map(Ipv6Addr::from),
            PREFIX => prefix = content.first().copied().unwrap_or_default(),
            _ => {}
        }
    }
    address.filter(|_| prefix == 128)
}

fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let [a, b, c, d, ..] = *rest else { return None };
        let size = usize::from(u16::from_ne_bytes([a, b]));
        let content = rest.get(4..size)?;
        rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([c, d]) & KIND, content))
    })
}

fn key(content: &[u8]) -> Option<PublicKey> {
    <[u8; 32]>::try_from(content).ok().map(PublicKey::from)
}

fn short(content: &[u8]) -> Option<u16> {
    content.try_into().ok().map(u16::from_ne_bytes)
}

/// `struct sockaddr_in` or `struct sockaddr_in6`.
fn socket_address(address: SocketAddr) -> Vec<u8> {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let family = u16::try_from(family).unwrap_or_default().to_ne_bytes();
    let port = address.port().to_be_bytes();
    match address.ip() {
        IpAddr::V4(ip) => [&family[..], &port, &ip.octets(), &[0; 8]].concat(),
        IpAddr::V6(ip) => [&family[..], &port, &[0; 4], &ip.octets(), &[0; 4]].concat(),
    }
}

fn read_socket_address(content: &[u8]) -> Option<SocketAddr> {
    let [_, _, high, low, rest @ ..] = content else { return None };
    let ip = if content.len() < 28 {
        Ipv4Addr::from(*rest.first_chunk::<4>()?).into()
    } else {
        Ipv6Addr::from(*rest.get(4..)?.first_chunk::<16>()?).into()
    };
    Some(SocketAddr::new(ip, u16::from_be_bytes([*high, *low])))
}

fn named(link: &LinkName) -> Vec<u8> {
    attribute(NAME, &[link.as_str().as_bytes(), &[0]].concat())
}

fn number(kind: u16, number: u16) -> Vec<u8> {
    attribute(kind, &number.to_ne_bytes())
}

fn nested(kind: u16, content: &[u8]) -> Vec<u8> {
    attribute(kind | NESTED, content)
}

fn attribute(kind: u16, content: &[u8]) -> Vec<u8> {
    let size = u16::try_from(content.len() + 4).unwrap_or_default();
    let mut bytes = [&size.to_ne_bytes()[..], &kind.to_ne_bytes(), content].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn message(kind: u16, command: u8, attributes: Vec<u8>) -> Message {
    Message::Raw { kind, bytes: [vec![command, 1, 0, 0], attributes].concat() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel would tell of a peer.
    fn told(remote: &Remote, shared: u8, prefix: u8) -> Vec<u8> {
        let allowed = [
            number(FAMILY, 10),
            attribute(ADDRESS, &remote.address.octets()),
            attribute(PREFIX, &[prefix]),
        ];
        let peer = [
            attribute(PEER_KEY, &[7; 32]),
            attribute(PRESHARED_KEY, &[shared; 32]),
            attribute(ENDPOINT, &socket_address(remote.endpoint)),
            nested(ALLOWED, &nested(0, &allowed.concat())),
        ];
        let peers = nested(PEERS, &nested(0, &peer.concat()));
        let own = [attribute(PUBLIC_KEY, &[1; 32]), number(LISTEN_PORT, 51_871)];
        [vec![0; HEADER], own.concat(), peers].concat()
    }

    #[test]
    fn what_is_written_is_read_again() {
        for endpoint in ["192.0.2.2:51871", "[2001:db8::2]:7"] {
            let (endpoint, address) = (endpoint.parse().unwrap(), "fd00::2".parse().unwrap());
            let remote = Remote { endpoint, address };
            let mut device = Device::default();
            device.add(&told(&remote, 0, 128));
            let peers = vec![([7; 32].into(), Value::Remote(remote))];
            assert_eq!(device, Device { key: Some([1; 32].into()), port: 51_871, peers });
        }
    }

    #[test]
    fn a_peer_that_may_send_from_elsewhere_or_knows_a_secret_is_astray() {
        let (endpoint, address) = ("192.0.2.2:1".parse().unwrap(), "fd00::2".parse().unwrap());
        let remote = Remote { endpoint, address };
        for (shared, prefix) in [(0, 64), (9, 128)] {
            let mut device = Device::default();
            device.add(&told(&remote, shared, prefix));
            assert_eq!(device.peers, [([7; 32].into(), Value::Astray)]);
        }
    }

    #[test]
    fn a_private_key_is_not_shown() {
        assert_eq!(format!("{:?}", PrivateKey::from_random([0xff; 32])), "PrivateKey");
    }
}
