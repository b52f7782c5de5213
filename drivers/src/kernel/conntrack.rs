//! Connection tracking: forgetting flows whose translation is no longer true.

use std::io;
use std::net::IpAddr;

use cnm::PortBinding;

/// Forgets the connections that were made to these host ports; returns how many there were.
pub fn flush_ports(bindings: &[PortBinding]) -> io::Result<usize> {
    todo!("{bindings:?}")
}

/// Forgets the connections from and to these addresses; returns how many there were.
pub fn flush_addresses(addresses: &[IpAddr]) -> io::Result<usize> {
    todo!("{addresses:?}")
}
