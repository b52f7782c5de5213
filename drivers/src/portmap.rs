//! Published ports: elements that lead a host port to the sandbox's gateway endpoint.

use std::net::IpAddr;

use cnm::options::{DriverOptions, GatewayMode};
use cnm::sandbox::{Attachment, gateway};
use cnm::{Element, Key, PortBinding, Sandbox, Value};

use crate::bridge::gateway_mode;

/// The elements of all published ports. A port is published in the families in which the sandbox
/// has a gateway: a sandbox with internal networks only publishes nothing.
pub(crate) fn elements(sandbox: &Sandbox, attachments: &[Attachment<'_>]) -> Vec<(Key, Value)> {
    let gateways = [false, true].map(|ipv6| gateway(attachments, ipv6));
    let element = |binding: &PortBinding| {
        let attachment = gateways[usize::from(binding.host.is_ipv6())]?;
        element(binding, attachment)
    };
    sandbox.ports.iter().filter_map(element).collect()
}

fn element(binding: &PortBinding, attachment: Attachment<'_>) -> Option<(Key, Value)> {
    let PortBinding { host, host_port, protocol, port } = *binding;
    let DriverOptions::Bridge(options) = &attachment.network.driver else { return None };
    let address = attachment.endpoint.address(host.is_ipv6())?.ip();
    match gateway_mode(options, host.is_ipv6()) {
        // Nothing that comes from `::1` can leave the host, so that translation is no way to a
        // sandbox; who holds the port's socket carries the data.
        GatewayMode::Nat | GatewayMode::NatUnprotected if is_loopback_v6(host) => None,
        GatewayMode::Nat | GatewayMode::NatUnprotected => {
            let element = Element::Published { host, protocol, port: host_port };
            Some((Key::Element(element), Value::Target { address, port }))
        }
        GatewayMode::Routed => {
            Some((Key::Element(Element::Open { address, protocol, port }), Value::Present))
        }
        GatewayMode::Isolated => None,
    }
}

fn is_loopback_v6(host: IpAddr) -> bool {
    host.is_ipv6() && host.is_loopback()
}
