//! Host ports, reserved by sockets that nobody else can bind beside.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Once;

use cnm::{PortBinding, Protocol};
use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
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
    match bind(binding) {
        Ok(socket) => Ok(Some(socket)),
        Err(Errno::EADDRINUSE) => Ok(None),
        Err(Errno::EADDRNOTAVAIL) => Err(ReserveError::NoSuchAddress {
            binding: describe(binding),
            address: binding.host,
            any: unspecified(binding.host),
        }),
        Err(errno) => {
            Err(ReserveError::Refused { binding: describe(binding), source: errno.into() })
        }
    }
}

fn bind(binding: &PortBinding) -> nix::Result<OwnedFd> {
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
        socket::setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
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
        IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    }
}
