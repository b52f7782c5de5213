//! Published ports: where a host port leads, by translation or by whoever holds its socket.
//!
//! This is the one place that decides whether a port can be reached. A family without a gateway,
//! as on internal networks, is published by nothing here.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use cnm::driver::Reach;
use cnm::sandbox::{Attachment, gateway};
use cnm::{Element, Key, PortBinding, Protocol, Sandbox, Value};

/// The elements of all published ports. A port is published in the families in which the sandbox
/// has a gateway: a sandbox with internal networks only publishes nothing.
pub(crate) fn elements(sandbox: &Sandbox, attachments: &[Attachment<'_>]) -> Vec<(Key, Value)> {
    let gateways = [false, true].map(|ipv6| gateway(attachments, ipv6));
    let element = |binding: &PortBinding| {
        let attachment = gateways[usize::from(binding.host.is_ipv6())]?;
        attachment.network.driver.publish(binding, attachment)
    };
    sandbox.open_ports().filter_map(element).collect()
}

/// Where what the kernel does not translate is carried: what comes from `::1`, and what comes by a
/// family that the sandbox has no gateway of, to the gateway endpoint of the other one.
pub(crate) fn carried(
    sandbox: &Sandbox,
    attachments: &[Attachment<'_>],
) -> BTreeMap<PortBinding, SocketAddr> {
    let gateways = [false, true].map(|ipv6| gateway(attachments, ipv6));
    let target = |binding: &PortBinding| {
        let own = binding.host.is_ipv6();
        let (ipv6, attachment) =
            [own, !own].into_iter().find_map(|ipv6| Some((ipv6, gateways[usize::from(ipv6)]?)))?;
        let translates = attachment.network.profile().reach(ipv6) == Reach::Translated;
        let address = attachment.endpoint.address(ipv6).filter(|_| translates)?.ip();
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
