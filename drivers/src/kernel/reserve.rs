//! Host ports, reserved by sockets that nobody else can bind beside.

use std::io;
use std::os::fd::OwnedFd;

use cnm::PortBinding;

/// Why a port cannot be reserved.
#[derive(Debug, thiserror::Error)]
pub enum ReserveError {
    /// The host has no such address.
    #[error(
        "cannot publish {binding}: the host has no address {address}; \
             publish on 0.0.0.0 or on one of `ip addr`"
    )]
    NoSuchAddress {
        /// The binding.
        binding: String,
        /// The address.
        address: std::net::IpAddr,
    },
    /// The system refused.
    #[error("cannot reserve {binding}")]
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
    todo!("{binding:?}")
}
