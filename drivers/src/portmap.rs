//! Published ports: where a host port leads, by translation or by whoever holds its socket.
//!
//! This is the one place that decides whether a port can be reached. A family without a gateway,
//! as on internal networks, is published by nothing here.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use cnm::driver::Reach;
use cnm::sandbox::{Attachment, gateway};
use cnm::{Element, Key, PortBinding, Protocol, Sandbox, State, Value};

/// How many neighbouring ports are one element. Fewer are looked up faster, and added and removed at
/// less cost, one by one.
const MANY: usize = 8;

/// The elements of all published ports. A port is published in the families in which the sandbox
/// has a gateway: a sandbox with internal networks only publishes nothing.
pub(crate) fn elements(sandbox: &Sandbox, attachments: &[Attachment<'_>]) -> Vec<(Key, Value)> {
    let gateways = [false, true].map(|ipv6| gateway(attachments, ipv6));
    let (v6, v4) = sandbox.open_ports().partition(|binding: &&PortBinding| binding.host.is_ipv6());
    let elements = |(ports, gateway): (Vec<_>, Option<Attachment<'_>>)| {
        gateway.map(|of| of.network.driver.publish(&ports, of)).unwrap_or_default()
    };
    let mut state: State = [v4, v6].into_iter().zip(gateways).flat_map(elements).collect();
    let ranges = ranges(&state);
    for key in ranges.iter().flat_map(|range| &range.members) {
        state.remove(key);
    }
    state.into_iter().chain(ranges.iter().map(Range::element)).collect()
}

/// Neighbouring ports that lead to the same ones of one address.
struct Range {
    /// The elements that they would be.
    members: Vec<Key>,
    host: IpAddr,
    protocol: Protocol,
    first: u16,
    last: u16,
    address: IpAddr,
}

impl Range {
    fn of(key: &Key, value: &Value) -> Option<Self> {
        let Key::Element(Element::Published { host, protocol, port: first }) = *key else {
            return None;
        };
        let Value::Target { address, port } = *value else { return None };
        let members = vec![key.clone()];
        (port == first).then_some(Self { members, host, protocol, first, last: first, address })
    }

    fn goes_on_with(&self, next: &Self) -> bool {
        let of = |range: &Self| (range.host, range.protocol, range.address);
        of(self) == of(next) && self.last.checked_add(1) == Some(next.first)
    }

    fn element(&self) -> (Key, Value) {
        let Self { host, protocol, first, last, address, .. } = *self;
        let element = Element::PublishedRange { host, protocol, first, last };
        (Key::Element(element), Value::Target { address, port: first })
    }
}

/// The ranges among published ports that are worth an element for all of their ports.
fn ranges(published: &State) -> Vec<Range> {
    let mut ranges: Vec<Range> = Vec::new();
    // In the order of their keys neighbours are next to each other.
    for next in published.iter().filter_map(|(key, value)| Range::of(key, value)) {
        match ranges.last_mut().filter(|range| range.goes_on_with(&next)) {
            Some(range) => {
                range.last = next.last;
                range.members.extend(next.members);
            }
            None => ranges.push(next),
        }
    }
    ranges.retain(|range| range.members.len() >= MANY);
    ranges
}

/// Where what the kernel does not translate is carried: what comes from `::1`, and what comes by a
/// family that the sandbox has no gateway of, to the gateway endpoint of the other one.
pub(crate) fn carried(
    sandbox: &Sandbox,
    attachments: &[Attachment<'_>],
) -> BTreeMap<PortBinding, SocketAddr> {
    let gateways = [false, true].map(|ipv6| gateway(attachments, ipv6));
    let targets = [false, true].map(|own| {
        let (ipv6, attachment) =
            [own, !own].into_iter().find_map(|ipv6| Some((ipv6, gateways[usize::from(ipv6)]?)))?;
        let translates = attachment.network.profile().reach(ipv6) == Reach::Translated;
        Some(attachment.endpoint.address(ipv6).filter(|_| translates)?.ip())
    });
    let target = |binding: &PortBinding| {
        let address = targets[usize::from(binding.host.is_ipv6())]?;
        Some((binding.clone(), SocketAddr::new(address, binding.port)))
    };
    // Nobody can carry SCTP.
    let some = sandbox.open_ports().filter(|binding| binding.protocol != Protocol::Sctp);
    some.filter_map(target).collect()
}

/// The element that leads from a host port to an endpoint's.
///
/// Nothing that comes from `::1` can leave the host, so that translation is no way to a sandbox;
/// who holds the port's socket carries the data.
pub(crate) fn translated(binding: &PortBinding, to: Attachment<'_>) -> Option<(Key, Value)> {
    let PortBinding { host, host_port, protocol, port } = *binding;
    let address = to.endpoint.address(host.is_ipv6())?.ip();
    let element = Element::Published { host, protocol, port: host_port };
    let target = (Key::Element(element), Value::Target { address, port });
    (!is_loopback_v6(host)).then_some(target)
}

fn is_loopback_v6(host: IpAddr) -> bool {
    host.is_ipv6() && host.is_loopback()
}
