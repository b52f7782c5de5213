//! Which networks may talk to whom: elements of the sets that the table's constant rules ask.
//!
//! Networks are isolated by default: what arrives for a bridge of ours from elsewhere needs a
//! permission, and a connection that was made to a published port is one.

use cnm::{Element, Key, LinkName, Network, Value};

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
