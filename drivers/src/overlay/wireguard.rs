//! What encrypts: one link of the host, whose peers are the cluster's other hosts.
//!
//! Tunnels of encrypted networks lead from this host's address on the link to those of the others. A peer may send from its
//! own address and no other, so who has sent a frame is known for certain. What comes or leaves by another link is dropped by
//! the ruleset ([`cnm::Element::Encrypted`]), whether the link is there or not.

use std::net::SocketAddr;

use cnm::driver::{Encryption, Node};
use cnm::wireguard::{self, PublicKey, Remote};
use cnm::{Element, Key, Link, LinkKind, Ns, State, Value, WireGuard};
use ipnetwork::{IpNetwork, Ipv6Network};

use crate::kernel::link::DEFAULT_MTU;
use crate::kernel::sysctl;

/// The number of the way to the host with the number 0: `ro` and two bytes more.
const FIRST_WAY: u32 = 0x726f_0000;

/// How much of an address inside all hosts have in common.
const PREFIX: u8 = 64;

/// Such a link, whatever its key is.
pub(super) fn any() -> LinkKind {
    LinkKind::WireGuard { key: PublicKey::from([0; 32]), port: wireguard::PORT }
}

/// The numbers of the encrypted way to a host, and of the group of it.
pub(super) fn way(node: u32) -> (u32, u32) {
    let way = FIRST_WAY.wrapping_add(node.wrapping_mul(2));
    (way, way.wrapping_add(1))
}

/// The link, and the ways by it to hosts that can encrypt.
pub(super) fn cluster(nodes: &[Node], encryption: &Encryption) -> State {
    let Encryption { own, mtu } = *encryption;
    let link = wireguard::link();
    let value = Link {
        kind: LinkKind::WireGuard { key: own.key, port: own.port },
        mac: None,
        mtu: Some(mtu).filter(|mtu| *mtu != DEFAULT_MTU),
        up: true,
        tag: "wireguard/cluster".to_owned(),
    };
    let mut state = State::default();
    state.insert(Key::Link { ns: Ns::Host, name: link.clone() }, Value::Link(value));
    let element = Element::Encrypting { link: link.clone() };
    state.insert(Key::Element(element), Value::Present);
    let on = Value::Text("0".to_owned());
    let sysctls = sysctl::of_wireguard(&link);
    state.extend(sysctls.map(|path| (Key::Sysctl { ns: Ns::Host, path }, on.clone())));
    let address = Ipv6Network::new(own.address, PREFIX).map(IpNetwork::from);
    state.extend(address.ok().map(|address| {
        (Key::Address { ns: Ns::Host, link: link.clone(), address }, Value::Present)
    }));
    for node in nodes {
        let Some(WireGuard { key, port, address }) = node.wireguard else { continue };
        let endpoint = SocketAddr::new(node.address, port);
        let peer = Key::Peer { link: link.clone(), key };
        state.insert(peer, Value::Remote(Remote { endpoint, address }));
        let (id, group) = way(node.number);
        state.insert(Key::Nexthop { id }, Value::Nexthop { via: address.into() });
        state.insert(Key::Nexthop { id: group }, Value::NexthopGroup { of: id });
    }
    state
}
