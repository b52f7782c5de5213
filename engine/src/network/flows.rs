//! Connections that are under way when something changes: those that lead elsewhere now are led there,
//! those by a way that is closed end, and no others notice anything.

use std::net::IpAddr;
use std::sync::Arc;

use cnm::{Element, Endpoint, Key, PortBinding, Sandbox, State, Value};
use drivers::kernel::conntrack::Way;

use super::{Change, Networks};
use engine_error::{Error, Result};

impl Networks {
    /// Has packets of connections that are under way go where they belong after an applied change.
    /// The kernel looks at its whole table for that, some milliseconds; whoever can does something
    /// else meanwhile.
    pub(crate) fn redirect_flows(&self, change: &Change) {
        // A port may lead to another address when networks come and go.
        let ports = [change.moved.as_slice(), &change.withdrawn].concat();
        self.forget(change, &ports);
    }

    /// The same, but what uses the withdrawn ports goes on using them for a while.
    pub(crate) fn redirect_other_flows(&self, change: &Change) {
        self.forget(change, &change.moved);
    }

    fn forget(&self, change: &Change, ports: &[PortBinding]) {
        let ports = self.kernel.flush_ports(ports);
        let addresses = self.kernel.flush_addresses(&change.left);
        for error in [ports, addresses].into_iter().filter_map(Result::err) {
            let (sandbox, error) = (change.sandbox.id.short(), Error::from(error).chain());
            tracing::error!(sandbox, error, "connections go on where they went before");
        }
    }

    /// Ends the connections by ways that are closed.
    pub(crate) fn cut_flows(&self, ways: &[Way]) -> Result<()> {
        Ok(self.kernel.cut(ways)?)
    }

    /// Forgets all connections of a sandbox that is gone.
    pub(super) fn forget_flows(&self, sandbox: &Sandbox, endpoints: &[Arc<Endpoint>]) {
        let flushed =
            if sandbox.ports.is_empty() { Ok(()) } else { self.kernel.flush_ports(&sandbox.ports) };
        let addresses: Vec<IpAddr> =
            endpoints.iter().flat_map(|e| &e.addresses).map(ipnetwork::IpNetwork::ip).collect();
        if let Err(error) = flushed.and_then(|()| self.kernel.flush_addresses(&addresses)) {
            tracing::warn!(error = Error::from(error).chain(), "cannot forget connections");
        }
    }
}

/// Where a state of the kernel leads what is sent to a published port; nowhere if it does not
/// translate it, or does not let it pass.
pub(super) fn way(state: &State, binding: &PortBinding) -> Option<Way> {
    let PortBinding { host, host_port, protocol, port } = *binding;
    if host_port > 0 {
        let element = Element::Published { host, protocol, port: host_port };
        let Some(Value::Target { address, port }) = state.get(&Key::Element(element)) else {
            return None;
        };
        return Some(Way { protocol, host_port, to: *address, port: *port });
    }
    // It is open at the endpoint's own address.
    state.iter().find_map(|(key, _)| match key {
        Key::Element(Element::Open { address, protocol: open, port: at })
            if (*open, *at) == (protocol, port) && address.is_ipv4() == host.is_ipv4() =>
        {
            Some(Way { protocol, host_port: port, to: *address, port })
        }
        _ => None,
    })
}
