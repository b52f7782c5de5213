//! Which ports are listened at inside a namespace.
//!
//! The kernel tells of sockets that are destroyed and of none that begin to listen, so it has to be
//! asked. A socket asks about the namespace that it was opened in, whoever uses it: one is opened for a
//! namespace once, and a question costs some ten microseconds.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cnm::Protocol;
use netlink_sys::protocols::NETLINK_SOCK_DIAG;

use super::nfnetlink::{Head, Received, Socket};

/// The states that are asked for: `TCP_LISTEN`, and `TCP_CLOSE`, which UDP has while it has no peer.
const LISTENING: u32 = 1 << 10;
const WITHOUT_PEER: u32 = 1 << 7;

/// What follows the first four bytes of `struct inet_diag_req_v2`: the states, and no socket's identity.
const REST: usize = 52;

/// Sockets that wait for somebody to come, in one namespace.
pub trait Listeners: Send {
    /// The ports that are reached from outside of the namespace: those of its loopback are not.
    fn ports(&mut self) -> io::Result<BTreeSet<(Protocol, u16)>>;
}

/// The listeners of a namespace of the kernel's.
#[derive(Debug)]
pub(super) struct Diagnosed(Socket);

impl Diagnosed {
    /// Those of the calling thread's namespace.
    pub(super) fn open() -> io::Result<Self> {
        Socket::open(NETLINK_SOCK_DIAG).map(Self)
    }

    fn of(&mut self, family: i32, protocol: Protocol, states: u32) -> io::Result<Vec<u16>> {
        let family = u8::try_from(family).unwrap_or_default();
        let head = Head::of_sockets(family, protocol.number());
        let mut rest = [0; REST];
        rest[..4].copy_from_slice(&states.to_ne_bytes());
        self.0.dump(head, |request| request.raw(&rest), reachable_port)
    }
}

impl Listeners for Diagnosed {
    fn ports(&mut self) -> io::Result<BTreeSet<(Protocol, u16)>> {
        let mut ports = BTreeSet::new();
        for (protocol, states) in [(Protocol::Tcp, LISTENING), (Protocol::Udp, WITHOUT_PEER)] {
            for family in [libc::AF_INET, libc::AF_INET6] {
                let found = self.of(family, protocol, states)?;
                ports.extend(found.into_iter().map(|port| (protocol, port)));
            }
        }
        Ok(ports)
    }
}

/// The port of a socket that has an address which others reach.
fn reachable_port(socket: &Received<'_>) -> Option<u16> {
    // `struct inet_diag_msg`: family, state, timer, retransmissions, then both ports and the source.
    let (head, rest) = socket.payload().split_first_chunk::<8>()?;
    let port = u16::from_be_bytes([head[4], head[5]]);
    let source: IpAddr = match i32::from(head[0]) {
        libc::AF_INET => Ipv4Addr::from(*rest.first_chunk::<4>()?).into(),
        _ => Ipv6Addr::from(*rest.first_chunk::<16>()?).to_canonical(),
    };
    (port > 0 && !source.is_loopback()).then_some(port)
}
