//! Which networks may talk to whom: elements of the sets that the table's constant rules ask.
//!
//! Networks are isolated by default: what arrives for a bridge of ours from elsewhere needs a
//! permission, and a connection that was made to a published port is one.

use cnm::sandbox::{Attachment, Passage};
use cnm::{Element, Key, LinkName, Network, Sandbox, Value};

use crate::bridge::{BridgeOptions, GatewayMode, Topology, gateway_address, translates};

/// The permissions of a network as such: of its subnets, and of the host's addresses in them.
pub(crate) fn of_network(network: &Network, options: &BridgeOptions) -> Vec<(Key, Value)> {
    let mut elements = Vec::new();
    for pool in &network.pools {
        let ipv6 = pool.subnet.is_ipv6();
        if options.masquerade && translates(network, options, ipv6) {
            let subnet = pool.subnet;
            elements.push((Element::Masquerade { subnet }, Value::Present));
            let outbound = options.outbound[usize::from(ipv6)];
            let outbound = outbound.map(|address| Value::Source { address });
            elements.extend(outbound.map(|value| (Element::Outbound { subnet }, value)));
        }
        let unprotected =
            !network.internal && options.gateway_mode(ipv6) == GatewayMode::NatUnprotected;
        let gateway = gateway_address(pool, options).filter(|_| !unprotected);
        let gateway = gateway.map(|address| Element::Gateway { address: address.ip() });
        elements.extend(gateway.map(|element| (element, Value::Present)));
    }
    elements.into_iter().map(|(element, value)| (Key::Element(element), value)).collect()
}

/// The permissions of a link that leads to endpoints of a network: of the bridge that all are
/// behind, or of the link to one of them.
pub(crate) fn of_link(
    network: &Network,
    link: &LinkName,
    options: &BridgeOptions,
) -> Vec<(Key, Value)> {
    let mut elements = vec![Element::Bridge { link: link.clone() }];
    if network.internal {
        elements.push(Element::Internal { link: link.clone() });
    }
    if !options.icc && options.topology == Topology::Bridge {
        elements.push(Element::Apart { link: link.clone() });
    }
    let families = [(false, network.ipv4), (true, network.ipv6)].into_iter();
    for ipv6 in families.filter(|(_, has)| *has).map(|(ipv6, _)| ipv6) {
        if !network.internal && options.gateway_mode(ipv6) == GatewayMode::NatUnprotected {
            elements.push(Element::Unprotected { link: link.clone(), ipv6 });
        }
    }
    let trusted = options.trusted.iter().filter(|_| !network.internal);
    let trusted = trusted.map(|from| Element::Trusted { from: from.clone(), to: link.clone() });
    elements.extend(trusted);
    elements.into_iter().map(|element| (Key::Element(element), Value::Present)).collect()
}

/// What an endpoint may talk to on a network whose endpoints do not talk to each other.
pub(crate) fn passages(sandbox: &Sandbox, of: Attachment<'_>) -> Vec<(Key, Value)> {
    let passage = |passage: &Passage| {
        let Passage { to, protocol, port } = *passage;
        let own = of.endpoint.address(to.is_ipv6())?;
        of.network
            .pool_of(to)
            .map(|pool| pool.subnet)
            .or(Some(own))
            .filter(|net| net.contains(to))?;
        let from = own.ip();
        Some((Key::Element(Element::Passage { from, to, protocol, port }), Value::Present))
    };
    sandbox.passages.iter().filter_map(passage).collect()
}
