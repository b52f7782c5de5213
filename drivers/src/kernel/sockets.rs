//! TCP connections of an address that a sandbox loses.
//!
//! Nobody at the other end hears of an interface that is gone: a client that waits for an answer waits
//! for ever. The kernel ends such connections on request (`SOCK_DESTROY`, Linux 4.5) and tells the other
//! end, as long as the way there is.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::nfnetlink::{Head, Received, Socket};

/// `NETLINK_SOCK_DIAG`
const PROTOCOL: isize = 4;
/// `IPPROTO_TCP`
const TCP: u8 = 6;
/// `SOCK_DESTROY`
const DESTROY: u16 = 21;

/// Where a message has what identifies a socket, and how long that is.
const IDENTITY: std::ops::Range<usize> = 4..52;
/// Where an identity has the socket's own address.
const SOURCE: std::ops::Range<usize> = 4..20;

/// All states but those of listeners and of connections that have ended (`tcp_states.h`).
const CONNECTED: u32 = 1 << 1 | 1 << 2 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11;

/// A connection, as the kernel wants it named.
struct Connection {
    family: u8,
    identity: Vec<u8>,
}

/// Ends the TCP connections that these addresses have in the network namespace of the calling thread.
/// Returns how many there were.
pub(super) fn reset(addresses: &[IpAddr]) -> io::Result<usize> {
    let mut socket = Socket::open(PROTOCOL)?;
    let mut ended = 0;
    for family in [libc::AF_INET, libc::AF_INET6] {
        let family = u8::try_from(family).unwrap_or_default();
        let of_these = |message: &Received<'_>| Connection::of(message, family, addresses);
        let mut body = CONNECTED.to_ne_bytes().to_vec();
        body.resize(4 + IDENTITY.len(), 0);
        let found =
            socket.dump(Head::of_sockets(family, TCP), |request| request.raw(&body), of_these)?;
        for connection in found {
            let body = [u32::MAX.to_ne_bytes().as_slice(), &connection.identity].concat();
            let head = Head::to_sockets(DESTROY, connection.family, TCP);
            match socket.request(head, |request| request.raw(&body), |_| {}) {
                Ok(()) => ended += 1,
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(ended)
}

impl Connection {
    /// The connection in a message, if it is one of these addresses.
    fn of(message: &Received<'_>, family: u8, addresses: &[IpAddr]) -> Option<Self> {
        let identity = message.payload().get(IDENTITY)?;
        let source: [u8; 16] = identity.get(SOURCE)?.try_into().ok()?;
        let address = if i32::from(family) == libc::AF_INET {
            Ipv4Addr::from(*source.first_chunk()?).into()
        } else {
            // A socket of both families has IPv4 addresses as IPv6 has them.
            Ipv6Addr::from(source).to_canonical()
        };
        addresses.contains(&address).then(|| Self { family, identity: identity.to_vec() })
    }
}
