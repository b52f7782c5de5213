//! Connections that are under way when something changes: those that lead elsewhere now are led there,
//! those by a way that is closed end, and no others notice anything.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use cnm::{Element, Endpoint, Key, PortBinding, Protocol, Sandbox, State, Value};
use dns::protocol::HeldPort;
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
        let carried = self.resolver.cut_to(&change.left);
        let translated = [ports, addresses].map(|done| done.map_err(Error::from));
        for error in translated.into_iter().chain([carried]).filter_map(Result::err) {
            let (sandbox, error) = (change.sandbox.id.short(), error.chain());
            tracing::error!(sandbox, error, "connections go on where they went before");
        }
    }

    /// Ends the connections by ways that are closed, and those from withdrawn ports that are carried.
    pub(crate) fn cut_flows(&self, ways: &[Way], carried: &[HeldPort]) -> Result<()> {
        let cut = self.kernel.cut(ways).map_err(Error::from);
        self.resolver.cut(carried).and(cut)
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
        if let Err(error) = self.resolver.cut_to(&addresses) {
            tracing::warn!(error = error.chain(), "connections to nobody go on");
        }
    }
}

/// Where a state of the kernel leads what is sent to published ports.
#[derive(Debug)]
pub(super) struct Ways<'a> {
    state: &'a State,
    /// Neighbouring ports that lead to the same ones: on which host, of which protocol, from where to where,
    /// and to whom.
    ranges: Vec<(IpAddr, Protocol, RangeInclusive<u16>, IpAddr)>,
    /// Ports that are open at endpoints' own addresses, by protocol, number, and whether it is IPv6.
    open: BTreeMap<(Protocol, u16, bool), IpAddr>,
}

impl<'a> Ways<'a> {
    pub(super) fn of(state: &'a State) -> Self {
        let mut ways = Self { state, ranges: Vec::new(), open: BTreeMap::new() };
        for (key, value) in state.iter() {
            match (key, value) {
                (
                    Key::Element(Element::PublishedRange { host, protocol, first, last }),
                    Value::Target { address, .. },
                ) => ways.ranges.push((*host, *protocol, *first..=*last, *address)),
                (Key::Element(Element::Open { address, protocol, port }), _) => {
                    ways.open.insert((*protocol, *port, address.is_ipv6()), *address);
                }
                _ => {}
            }
        }
        ways
    }

    /// Where one of them leads; nowhere if the kernel does not translate it, or does not let it pass.
    pub(super) fn way(&self, binding: &PortBinding) -> Option<Way> {
        let PortBinding { host, host_port, protocol, port } = *binding;
        if host_port == 0 {
            // It is open at the endpoint's own address.
            let to = *self.open.get(&(protocol, port, host.is_ipv6()))?;
            return Some(Way { protocol, host_port: port, to, port });
        }
        let element = Element::Published { host, protocol, port: host_port };
        if let Some(Value::Target { address, port }) = self.state.get(&Key::Element(element)) {
            return Some(Way { protocol, host_port, to: *address, port: *port });
        }
        let (.., to) = self.ranges.iter().find(|(at, of, ports, _)| {
            (*at, *of) == (host, protocol) && ports.contains(&host_port)
        })?;
        Some(Way { protocol, host_port, to: *to, port: host_port })
    }
}

/// Those of some ports that lead elsewhere in one state than in another.
pub(super) fn moved(ports: &[PortBinding], before: &State, after: &State) -> Vec<PortBinding> {
    let (before, after) = (Ways::of(before), Ways::of(after));
    ports.iter().filter(|port| before.way(port) != after.way(port)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn port(number: u16) -> PortBinding {
        let (host, protocol) = (address("0.0.0.0"), Protocol::Udp);
        PortBinding { host, host_port: number, protocol, port: number }
    }

    /// Ports that lead to the same ports of an address, one by one or as a range.
    fn state(ports: RangeInclusive<u16>, as_range: bool) -> State {
        let (host, protocol) = (address("0.0.0.0"), Protocol::Udp);
        let (first, last) = (*ports.start(), *ports.end());
        let target = |port| Value::Target { address: address("10.0.0.2"), port };
        let range = Element::PublishedRange { host, protocol, first, last };
        let one = |port| (Key::Element(Element::Published { host, protocol, port }), target(port));
        if as_range {
            return State::from_iter([(Key::Element(range), target(first))]);
        }
        ports.map(one).collect()
    }

    #[test]
    fn a_port_leads_where_it_did_when_a_range_becomes_single_ports() {
        let (whole, singles) = (state(8000..=8009, true), state(8001..=8009, false));
        let ports: Vec<_> = (8000..=8009).map(port).collect();
        assert_eq!(moved(&ports, &whole, &singles), [port(8000)]);
        assert_eq!(Ways::of(&whole).way(&port(8009)), Ways::of(&singles).way(&port(8009)));
        assert_eq!(Ways::of(&whole).way(&port(8010)), None);
    }
}
