//! Host ports, reserved by sockets that nobody else can bind beside.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Once;

use cnm::{PortBinding, Protocol};
use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::socket::{
    self, AddressFamily, Backlog, SockFlag, SockProtocol, SockType, SockaddrStorage, sockopt,
};

/// Connections that wait in a socket that somebody may accept on (`HeldPort::target`).
const BACKLOG: i32 = 128;

/// Why a port cannot be reserved.
#[derive(Debug, thiserror::Error)]
pub enum ReserveError {
    /// The host has no such address.
    #[error(
        "cannot publish {binding}: the host has no address {address}; \
         publish on {any} or on one that `ip address` shows"
    )]
    NoSuchAddress {
        /// The binding.
        binding: String,
        /// The address.
        address: IpAddr,
        /// The address that stands for all of its family.
        any: IpAddr,
    },
    /// A socket for each port is more than the process may have.
    #[error(
        "cannot reserve port {binding}: this process may have {limit} files open (RLIMIT_NOFILE); \
         raise the limit or publish fewer ports"
    )]
    TooManyFiles {
        /// The binding.
        binding: String,
        /// The limit.
        limit: u64,
    },
    /// The system refused.
    #[error("cannot reserve port {binding}")]
    Refused {
        /// The binding.
        binding: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Binds a host port in the network namespace of the calling thread; it is reserved as long as
/// the descriptor is open. `None` if somebody else has the port.
///
/// TCP sockets listen, so that a process that holds one for `::1` can accept on it. Where the
/// kernel does not know SCTP nobody can take the port; the descriptor is then a mere token.
pub fn reserve_port(binding: &PortBinding) -> Result<Option<OwnedFd>, ReserveError> {
    match bind(binding, Families::One) {
        Ok(socket) => Ok(Some(socket)),
        Err(Errno::EADDRINUSE) => Ok(None),
        Err(Errno::EADDRNOTAVAIL) => Err(ReserveError::NoSuchAddress {
            binding: describe(binding),
            address: binding.host,
            any: unspecified(binding.host),
        }),
        Err(Errno::EMFILE) => Err(ReserveError::TooManyFiles {
            binding: describe(binding),
            limit: getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft),
        }),
        Err(errno) => {
            Err(ReserveError::Refused { binding: describe(binding), source: errno.into() })
        }
    }
}

/// Binds a port of all addresses of both families by one socket: thousands of ports would need
/// twice as many descriptors otherwise. `None` if the bindings are not such a port, or if it cannot
/// be had whole: each of the two is then to be asked for by itself.
pub fn reserve_pair(bindings: &[PortBinding]) -> Option<OwnedFd> {
    let [one, other] = bindings else { return None };
    let (v4, v6) = if one.host.is_ipv4() { (one, other) } else { (other, one) };
    let same = v4.host_port == v6.host_port && v4.protocol == v6.protocol;
    let all = v4.host == Ipv4Addr::UNSPECIFIED && v6.host == Ipv6Addr::UNSPECIFIED;
    if same && all { bind(v6, Families::Both).ok() } else { None }
}

/// What a socket of an IPv6 address reserves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Families {
    /// The port of the address's family.
    One,
    /// The same port of IPv4 as well.
    Both,
}

fn bind(binding: &PortBinding, families: Families) -> nix::Result<OwnedFd> {
    let address = SocketAddr::new(binding.host, binding.host_port);
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let (kind, protocol) = match binding.protocol {
        Protocol::Tcp => (SockType::Stream, SockProtocol::Tcp),
        Protocol::Udp => (SockType::Datagram, SockProtocol::Udp),
        Protocol::Sctp => (SockType::Stream, SockProtocol::Sctp),
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = match socket::socket(family, kind, flags, protocol) {
        Err(Errno::EPROTONOSUPPORT) if binding.protocol == Protocol::Sctp => return token(),
        other => other?,
    };
    if address.is_ipv6() {
        // The IPv4 side of the port may be somebody else's.
        socket::setsockopt(&socket, sockopt::Ipv6V6Only, &(families == Families::One))?;
    }
    if binding.protocol == Protocol::Tcp {
        // Connections of an earlier holder that linger are no reason to refuse; a listener is.
        socket::setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    }
    socket::bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    // Marks the socket for the ruleset: what comes out of an internal network must not reach it.
    // Set after `bind`, it does not open addresses that are not the host's.
    socket::setsockopt(&socket, sockopt::IpTransparent, &true)?;
    if binding.protocol != Protocol::Udp {
        socket::listen(&socket, Backlog::new(BACKLOG)?)?;
    }
    Ok(socket)
}

/// Stands for a reservation that needs no socket.
fn token() -> nix::Result<OwnedFd> {
    static SAID: Once = Once::new();
    SAID.call_once(|| {
        tracing::warn!("this kernel has no SCTP sockets: published SCTP ports cannot be reserved");
    });
    Ok(EventFd::from_flags(EfdFlags::EFD_CLOEXEC)?.into())
}

fn describe(binding: &PortBinding) -> String {
    let address = SocketAddr::new(binding.host, binding.host_port);
    format!("{address}/{}", binding.protocol)
}

fn unspecified(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}
