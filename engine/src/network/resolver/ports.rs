//! The ports half: the sockets that reserve host ports, held by `rnet-dns`.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use cnm::PortBinding;
use dns::client::{Client, ClientError};
use dns::protocol::HeldPort;
use drivers::kernel::{BindPorts, Host};

use super::super::change::Connections;
use super::desired::Services;
use engine_error::Error;

/// A host port with the socket that reserves it.
#[derive(Debug)]
pub(crate) struct BoundPort<'a> {
    pub(crate) port: HeldPort,
    pub(crate) socket: BorrowedFd<'a>,
}

/// Has ports held whose sockets are at hand.
pub(super) fn hold(client: &Client, bound: &[BoundPort<'_>]) -> Result<(), ClientError> {
    let ports: Vec<_> = bound.iter().map(|bound| (bound.port.clone(), bound.socket)).collect();
    client.hold(&ports)
}

/// Has ports held no more.
pub(super) fn withdraw(
    client: &Client,
    ports: &[PortBinding],
    connections: Connections,
) -> Result<(), ClientError> {
    if connections == Connections::GoOn {
        match client.drain_ports(ports) {
            // A process from before an upgrade knows nothing of that.
            Err(ClientError::Refused { .. }) => {}
            other => return other,
        }
    }
    client.drop_ports(ports)
}

/// Has a process hold all ports and no others; these it holds already.
pub(super) fn synchronise(
    kernel: &dyn Host,
    client: &Client,
    services: &Services,
    known: &[PortBinding],
) -> Result<(), ClientError> {
    let held: HashSet<&PortBinding> = known.iter().collect();
    for service in services.values() {
        hold_missing(kernel, client, &service.ports, &held)?;
    }
    let ports = services.values().flat_map(|service| &service.ports);
    let wanted: HashSet<PortBinding> = ports.flat_map(HeldPort::bindings).collect();
    let stale: Vec<_> = known.iter().filter(|port| !wanted.contains(port)).cloned().collect();
    if stale.is_empty() { Ok(()) } else { client.drop_ports(&stale) }
}

/// Binds those host ports again that are not held, and has them held.
fn hold_missing(
    kernel: &dyn Host,
    client: &Client,
    ports: &[HeldPort],
    held: &HashSet<&PortBinding>,
) -> Result<(), ClientError> {
    let known = ports.iter().flat_map(HeldPort::apart);
    // Where they lead may have changed while nobody could tell it.
    let known: Vec<_> = known.filter(|port| held.contains(&port.binding)).collect();
    client.lead(&known)?;
    let host = kernel.host_ports();
    let bound: Vec<_> = ports.iter().flat_map(|port| bind(host.as_ref(), port, held)).collect();
    let bound: Vec<_> = bound.iter().map(|(port, socket)| (port.clone(), socket.as_fd())).collect();
    client.hold(&bound)
}

/// Binds what is not held of a port: by one socket, if it is of both families and can be had so.
fn bind(
    host: &dyn BindPorts,
    port: &HeldPort,
    held: &HashSet<&PortBinding>,
) -> Vec<(HeldPort, OwnedFd)> {
    let missing: Vec<_> = port.apart().filter(|single| !held.contains(&single.binding)).collect();
    let bindings: Vec<_> = missing.iter().map(|single| single.binding.clone()).collect();
    if let Some(socket) = host.reserve_pair(&bindings) {
        return vec![(port.clone(), socket)];
    }
    let bind = |single: HeldPort| match host.reserve(&single.binding) {
        Ok(Some(socket)) => Some((single, socket)),
        Ok(None) => {
            tracing::warn!(port = single.binding.host_port, "a published port was taken");
            None
        }
        Err(error) => {
            let error = Error::from(error).chain();
            tracing::warn!(port = single.binding.host_port, error, "cannot bind a port");
            None
        }
    };
    missing.into_iter().filter_map(bind).collect()
}
