//! Which networks may talk to whom: elements of the sets that the table's constant rules ask.
//!
//! Networks are isolated by default: what arrives for a bridge of ours from elsewhere needs a
//! permission, and a connection that was made to a published port is one.

use cnm::sandbox::{Attachment, Passage};
use cnm::{Element, Key, LinkName, Network, Sandbox, Value};

use crate::bridge::{BridgeOptions, GatewayMode, gateway_address, translates};

/// The permissions of a bridge network.
pub(crate) fn elements(
    network: &Network,
    link: &LinkName,
    options: &BridgeOptions,
) -> Vec<(Key, Value)> {
    let mut elements = vec![Element::Bridge { link: link.clone() }];
    if network.internal {
        elements.push(Element::Internal { link: link.clone() });
    }
    if !options.icc {
        elements.push(Element::Apart { link: link.clone() });
    }
    for pool in &network.pools {
        let ipv6 = pool.subnet.is_ipv6();
        if options.masquerade && translates(network, options, ipv6) {
            elements.push(Element::Masquerade { subnet: pool.subnet });
        }
        if !network.internal && options.gateway_mode(ipv6) == GatewayMode::NatUnprotected {
            elements.push(Element::Unprotected { link: link.clone(), ipv6 });
        } else if let Some(address) = gateway_address(pool, options) {
            elements.push(Element::Gateway { address: address.ip() });
        }
    }
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
