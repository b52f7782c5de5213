//! What an object rests on: said here once, for plans, for the real kernel and for the fake.
//!
//! The kernel removes with an object what rests on it, and refuses to make an object before what
//! it rests on is there.

use std::collections::BTreeSet;

use crate::{Key, LinkName, Ns, Value};

/// Something that others rest on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ground {
    /// A namespace.
    Namespace(Ns),
    /// A link in a namespace.
    Link(Ns, LinkName),
    /// A host link as a port of a bridge.
    Port(LinkName),
    /// A way to other hosts, or a group of such.
    Nexthop(u32),
    /// The program of a tunnel that leads frames past the bridge. Where it runs for ports, it goes on
    /// without the tunnel.
    Shortcut(LinkName),
    /// An address of a family on a link, which routes lead through. The kernel does not take every
    /// such route along.
    Address {
        /// The namespace.
        ns: Ns,
        /// The link.
        link: LinkName,
        /// The family.
        ipv6: bool,
    },
}

/// What must be there for an object to be there.
pub fn rests_on(key: &Key, value: &Value) -> Vec<Ground> {
    let inside = |ns: &Ns| Ground::Namespace(ns.clone());
    let on = |ns: &Ns, link: &LinkName| Ground::Link(ns.clone(), link.clone());
    let host = |link: &LinkName| Ground::Link(Ns::Host, link.clone());
    match key {
        Key::Namespace { .. } | Key::Element(_) => Vec::new(),
        Key::Link { ns, .. } => {
            let parent = value.link().and_then(|link| link.kind.parent());
            [inside(ns)].into_iter().chain(parent.map(host)).collect()
        }
        Key::Port { link } => match value {
            Value::Port { bridge, .. } => vec![host(link), host(bridge)],
            _ => vec![host(link)],
        },
        Key::Sysctl { ns, path } => {
            let link = link_of(path);
            [inside(ns)].into_iter().chain(link.map(|link| on(ns, &link))).collect()
        }
        Key::Address { ns, link, .. } | Key::Neighbour { ns, link, .. } => {
            vec![inside(ns), on(ns, link)]
        }
        Key::Peer { link, .. } => vec![host(link)],
        Key::Nexthop { .. } => match value {
            Value::NexthopGroup { of } => vec![Ground::Nexthop(*of)],
            _ => Vec::new(),
        },
        Key::Fdb { link, .. } => match value {
            Value::Via { group } => vec![host(link), Ground::Nexthop(*group)],
            _ => vec![host(link)],
        },
        Key::Station { port, .. } => vec![host(port), Ground::Port(port.clone())],
        Key::Shortcut { tunnel, port: None } => vec![host(tunnel)],
        Key::Shortcut { tunnel, port: Some(port) } => {
            vec![host(port), Ground::Shortcut(tunnel.clone())]
        }
        // The number of the port that it tells of is another one if that is made anew.
        Key::Lead { tunnel, .. } => {
            let port = match value {
                Value::Behind { port } => Some(host(port)),
                _ => None,
            };
            [Ground::Shortcut(tunnel.clone())].into_iter().chain(port).collect()
        }
        Key::Route { ns, destination } => match value {
            Value::Route { link, .. } => {
                let (ns_, link_, ipv6) = (ns.clone(), link.clone(), destination.is_ipv6());
                vec![inside(ns), on(ns, link), Ground::Address { ns: ns_, link: link_, ipv6 }]
            }
            Value::HostRoute { link, .. } => vec![inside(ns), on(ns, link)],
            _ => vec![inside(ns)],
        },
        Key::Resolver { sandbox } => vec![Ground::Namespace(Ns::Sandbox(sandbox.clone()))],
    }
}

/// What others can rest on where an object is.
pub fn provides(key: &Key, value: &Value) -> Vec<Ground> {
    match key {
        Key::Namespace { sandbox } => vec![Ground::Namespace(Ns::Sandbox(sandbox.clone()))],
        Key::Link { ns, name } => {
            let mut links = vec![Ground::Link(ns.clone(), name.clone())];
            let peer = value.link().and_then(|link| link.kind.peer());
            links.extend(peer.map(|peer| Ground::Link(Ns::Host, peer.clone())));
            if let Value::Damaged(damage) = value {
                let remains = damage.remains.iter();
                links.extend(remains.map(|(ns, name)| Ground::Link(ns.clone(), name.clone())));
            }
            links
        }
        Key::Nexthop { id } => vec![Ground::Nexthop(*id)],
        Key::Port { link } => vec![Ground::Port(link.clone())],
        Key::Shortcut { tunnel, port: None } => vec![Ground::Shortcut(tunnel.clone())],
        Key::Address { ns, link, address } => {
            let (ns, link, ipv6) = (ns.clone(), link.clone(), address.is_ipv6());
            vec![Ground::Address { ns, link, ipv6 }]
        }
        _ => Vec::new(),
    }
}

/// The link in `net/ipv4/conf/<link>/...`.
pub fn link_of(path: &str) -> Option<LinkName> {
    let parts: Vec<_> = path.split('/').collect();
    match parts[..] {
        ["net", "ipv4" | "ipv6", "conf" | "neigh", "all" | "default", _] => None,
        ["net", "ipv4" | "ipv6" | "mpls", "conf" | "neigh", link, _] => link.parse().ok(),
        _ => None,
    }
}

/// Ground that is lost.
#[derive(Clone, Debug, Default)]
pub struct Lost(BTreeSet<Ground>);

impl Lost {
    /// Takes away what an object provides.
    pub fn add(&mut self, key: &Key, value: &Value) {
        self.0.extend(provides(key, value));
    }

    /// Whether it is what an object itself provides that is lost.
    pub fn holds(&self, key: &Key, value: &Value) -> bool {
        provides(key, value).iter().any(|ground| self.0.contains(ground))
    }

    /// Whether an object has lost something that it rests on.
    pub fn takes_along(&self, key: &Key, value: &Value) -> bool {
        !self.0.is_empty() && rests_on(key, value).iter().any(|ground| self.0.contains(ground))
    }

    /// As [`Lost::takes_along`], but only where the kernel is certain to do it by itself.
    pub fn surely_takes_along(&self, key: &Key, value: &Value) -> bool {
        let sure =
            |ground: &Ground| !matches!(ground, Ground::Address { .. } | Ground::Shortcut(_));
        !matches!(key, Key::Lead { .. })
            && !self.0.is_empty()
            && rests_on(key, value).iter().any(|ground| sure(ground) && self.0.contains(ground))
    }
}
