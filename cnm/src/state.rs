//! Kernel state as data.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use crate::element::Element;
use crate::lead::Lead;
use crate::link::{Damage, Link};
use crate::wireguard::{PublicKey, Remote};
use crate::{LinkName, Mac, SandboxId};

/// A set of kernel objects, each stored under the key that identifies it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State(BTreeMap<Key, Value>);

/// Identifies one kernel object.
///
/// The order of the variants is the order of creation: an object may rest only on objects of the
/// variants above it, and links on other links ([`State::in_order`]). Removal runs in the opposite
/// order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Key {
    /// A pinned network namespace with its loopback up. Value: [`Value::Present`].
    Namespace {
        /// The sandbox it is.
        sandbox: SandboxId,
    },
    /// A network interface. Value: [`Value::Link`].
    Link {
        /// The namespace.
        ns: Ns,
        /// The interface.
        name: LinkName,
    },
    /// A host link as a port of a bridge. Value: [`Value::Port`].
    Port {
        /// The host link.
        link: LinkName,
    },
    /// A sysctl that differs from the kernel's default. Value: [`Value::Text`].
    Sysctl {
        /// The namespace.
        ns: Ns,
        /// The path below `/proc/sys`, such as `net/ipv4/conf/eth0/forwarding`.
        path: String,
    },
    /// An address on a link. Value: [`Value::Present`].
    Address {
        /// The namespace.
        ns: Ns,
        /// The link.
        link: LinkName,
        /// The address with its prefix length.
        address: IpNetwork,
    },
    /// A route in the main table. Value: [`Value::Route`] or [`Value::HostRoute`].
    Route {
        /// The namespace.
        ns: Ns,
        /// The destination; `0.0.0.0/0` and `::/0` are the default routes.
        destination: IpNetwork,
    },
    /// Whom a link that encrypts sends to. Value: [`Value::Remote`].
    Peer {
        /// The link.
        link: LinkName,
        /// The peer's key.
        key: PublicKey,
    },
    /// A way to the end of tunnels on another host, or a group of such ways. The group of one way
    /// stays where the way is changed, with all that leads to it. Value: [`Value::Nexthop`] or
    /// [`Value::NexthopGroup`].
    Nexthop {
        /// Its number in the kernel.
        id: u32,
    },
    /// A neighbour that nobody has to ask for, or that the link answers for. Value:
    /// [`Value::Neighbour`] or [`Value::Proxied`].
    Neighbour {
        /// The namespace.
        ns: Ns,
        /// The link it is reached by.
        link: LinkName,
        /// Its address.
        address: IpAddr,
    },
    /// Where a tunnel of the host sends frames for a hardware address. Value: [`Value::Via`].
    Fdb {
        /// The tunnel.
        link: LinkName,
        /// The hardware address.
        mac: Mac,
    },
    /// A hardware address that is behind a port of a bridge for good: the bridge need not learn it,
    /// nor believe anybody who uses it elsewhere. Value: [`Value::Present`].
    Station {
        /// The port's link.
        port: LinkName,
        /// The hardware address.
        mac: Mac,
    },
    /// A program that leads frames between the endpoints of a network on different hosts past the bridge:
    /// where they come in by the network's tunnel, or by a port. The tunnel's comes first. Value:
    /// [`Value::Present`].
    Shortcut {
        /// The tunnel.
        tunnel: LinkName,
        /// The port; the tunnel itself if absent.
        port: Option<LinkName>,
    },
    /// What the programs of a network know. Value: [`Value::Present`] or [`Value::Behind`].
    Lead {
        /// The network's tunnel.
        tunnel: LinkName,
        /// What it is about.
        lead: Lead,
    },
    /// The redirection of port 53 of 127.0.0.11 to the resolver's port. Value: [`Value::Present`].
    Resolver {
        /// The sandbox it is in.
        sandbox: SandboxId,
    },
    /// An element of a set or map of the table `inet rnet` of the host.
    Element(Element),
}

/// What the kernel object under a [`Key`] looks like.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Value {
    /// It is there; the key says everything.
    Present,
    /// A network interface.
    Link(Link),
    /// A network interface that is not what it was made as: observed, never desired.
    Damaged(Damage),
    /// A port of a bridge.
    Port {
        /// The bridge.
        bridge: LinkName,
        /// Whether it may only talk to ports that are not isolated (inter-container
        /// communication off).
        isolated: bool,
        /// Whether frames may leave through the port they came in by.
        hairpin: bool,
        /// Whether it leads to other hosts: the bridge learns nothing from it, and answers itself for
        /// the neighbours that it knows there.
        tunnel: bool,
    },
    /// The value of a sysctl, without the line feed.
    Text(String),
    /// A route.
    Route {
        /// The link it leaves by.
        link: LinkName,
        /// The gateway; directly connected if absent.
        via: Option<IpAddr>,
    },
    /// A route to an endpoint behind a link of the host, by which the host itself sends from one of
    /// its addresses.
    HostRoute {
        /// The link.
        link: LinkName,
        /// The host's address.
        source: IpAddr,
    },
    /// A neighbour.
    Neighbour {
        /// Its hardware address.
        mac: Mac,
    },
    /// A way to the end of tunnels at an address.
    Nexthop {
        /// The address.
        via: IpAddr,
    },
    /// A group of one way.
    NexthopGroup {
        /// The number of the way.
        of: u32,
    },
    /// Where a peer is.
    Remote(Remote),
    /// By a group of ways.
    Via {
        /// The number of the group.
        group: u32,
    },
    /// By a port.
    Behind {
        /// The port's link.
        port: LinkName,
    },
    /// As nothing of ours is: a tunnel's entry that leads to addresses, a station that is at a port for
    /// now only, a way that leads to no host, a program of another version, a peer that may send from elsewhere. Observed, never desired.
    Astray,
    /// A neighbour that the link answers for, with its own hardware address, so that what is sent
    /// to it comes to the host.
    Proxied,
    /// The address that packets leave with.
    Source {
        /// The host's address.
        address: IpAddr,
    },
    /// Where a published port leads.
    Target {
        /// The endpoint's address.
        address: IpAddr,
        /// The endpoint's port.
        port: u16,
    },
}

/// The network namespace an object lives in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Ns {
    /// The daemon's own.
    Host,
    /// That of a sandbox.
    Sandbox(SandboxId),
}

impl State {
    /// Adds or replaces an object.
    pub fn insert(&mut self, key: Key, value: Value) {
        self.0.insert(key, value);
    }

    /// Takes an object out.
    pub fn remove(&mut self, key: &Key) -> Option<Value> {
        self.0.remove(key)
    }

    /// The object under a key.
    pub fn get(&self, key: &Key) -> Option<&Value> {
        self.0.get(key)
    }

    /// All objects in the order in which they can be made.
    pub fn in_order(&self) -> Vec<(&Key, &Value)> {
        let mut objects: Vec<_> = self.0.iter().collect();
        // All but links and routes have their place by their keys already.
        objects.sort_by_cached_key(|(key, value)| match (key, value) {
            (Key::Namespace { .. }, _) => (0, 0),
            (Key::Link { .. }, _) => (1, self.depth(value)),
            (Key::Port { .. } | Key::Sysctl { .. } | Key::Address { .. }, _) => (2, 0),
            // A gateway may be reached by a route itself.
            (Key::Route { .. }, Value::Route { via: Some(_), .. }) => (3, 1),
            (Key::Route { .. }, _) => (3, 0),
            _ => (4, 0),
        });
        objects
    }

    /// On how many other links of the state a link is.
    fn depth(&self, value: &Value) -> usize {
        let mut depth = 0;
        let mut parent = value.link().and_then(|link| link.kind.parent());
        while let Some(name) = parent {
            let key = Key::Link { ns: Ns::Host, name: name.clone() };
            let Some(value) = self.get(&key) else { break };
            depth += 1;
            // A circle cannot be made, in whatever order.
            parent = value.link().and_then(|link| link.kind.parent()).filter(|_| depth < 8);
        }
        depth
    }

    /// All objects in the order of their keys.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&Key, &Value)> {
        self.0.iter()
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no object.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Key {
    /// The sandbox that the object is in, or that it is.
    pub fn sandbox(&self) -> Option<&SandboxId> {
        let ns = match self {
            Self::Namespace { sandbox } | Self::Resolver { sandbox } => return Some(sandbox),
            Self::Link { ns, .. }
            | Self::Sysctl { ns, .. }
            | Self::Address { ns, .. }
            | Self::Route { ns, .. }
            | Self::Neighbour { ns, .. } => ns,
            Self::Port { .. }
            | Self::Peer { .. }
            | Self::Nexthop { .. }
            | Self::Fdb { .. }
            | Self::Station { .. }
            | Self::Shortcut { .. }
            | Self::Lead { .. }
            | Self::Element(_) => return None,
        };
        match ns {
            Ns::Sandbox(sandbox) => Some(sandbox),
            Ns::Host => None,
        }
    }
}

impl Value {
    /// The link, if it is one and whole.
    pub fn link(&self) -> Option<&Link> {
        match self {
            Self::Link(link) => Some(link),
            _ => None,
        }
    }

    /// The links to be removed where an object with this key and value is.
    pub fn remains(&self, key: &Key) -> Vec<(Ns, LinkName)> {
        match (key, self) {
            (_, Self::Damaged(damage)) => damage.remains.clone(),
            (Key::Link { ns, name }, Self::Link(link)) => {
                let near = link.kind.peer().map(|peer| (Ns::Host, peer.clone()));
                vec![near.unwrap_or_else(|| (ns.clone(), name.clone()))]
            }
            _ => Vec::new(),
        }
    }
}

impl FromIterator<(Key, Value)> for State {
    fn from_iter<I: IntoIterator<Item = (Key, Value)>>(iter: I) -> Self {
        Self(iter.into_iter().collect())
    }
}

impl IntoIterator for State {
    type Item = (Key, Value);
    type IntoIter = std::collections::btree_map::IntoIter<Key, Value>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl Extend<(Key, Value)> for State {
    fn extend<I: IntoIterator<Item = (Key, Value)>>(&mut self, iter: I) {
        self.0.extend(iter);
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Namespace { sandbox } => write!(f, "namespace {}", sandbox.short()),
            Self::Link { ns, name } => write!(f, "link {name} in {ns}"),
            Self::Port { link } => write!(f, "port {link}"),
            Self::Sysctl { ns, path } => write!(f, "sysctl {path} in {ns}"),
            Self::Address { ns, link, address } => write!(f, "addr {address} dev {link} in {ns}"),
            Self::Route { ns, destination } => write!(f, "route {destination} in {ns}"),
            Self::Neighbour { ns, link, address } => {
                write!(f, "neighbour {address} dev {link} in {ns}")
            }
            Self::Peer { link, key } => write!(f, "peer {key} of {link}"),
            Self::Nexthop { id } => write!(f, "nexthop {id}"),
            Self::Fdb { link, mac } => write!(f, "fdb {mac} dev {link}"),
            Self::Station { port, mac } => write!(f, "station {mac} port {port}"),
            Self::Shortcut { tunnel, port: None } => write!(f, "shortcut of {tunnel}"),
            Self::Shortcut { tunnel, port: Some(port) } => {
                write!(f, "shortcut from {port} to {tunnel}")
            }
            Self::Lead { tunnel, lead } => write!(f, "lead {lead} of {tunnel}"),
            Self::Resolver { sandbox } => write!(f, "resolver in {}", sandbox.short()),
            Self::Element(element) => write!(f, "element {element}"),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Present => Ok(()),
            Self::Link(link) => link.fmt(f),
            Self::Damaged(damage) => write!(f, " damaged: {}", damage.what),
            Self::Neighbour { mac } => write!(f, " mac {mac}"),
            Self::Proxied => f.write_str(" proxied"),
            Self::Nexthop { via } => write!(f, " via {via}"),
            Self::NexthopGroup { of } => write!(f, " group of {of}"),
            Self::Remote(Remote { endpoint, address }) => write!(f, " {address} at {endpoint}"),
            Self::Via { group } => write!(f, " via group {group}"),
            Self::Behind { port } => write!(f, " behind {port}"),
            Self::Astray => f.write_str(" astray"),
            Self::Port { bridge, isolated, hairpin, tunnel } => {
                write!(f, " of {bridge}")?;
                f.write_str(if *isolated { " isolated" } else { "" })?;
                f.write_str(if *hairpin { " hairpin" } else { "" })?;
                f.write_str(if *tunnel { " tunnel" } else { "" })
            }
            Self::Text(text) => write!(f, " = {text}"),
            Self::Route { link, via: Some(via) } => write!(f, " via {via} dev {link}"),
            Self::Route { link, via: None } => write!(f, " dev {link}"),
            Self::HostRoute { link, source } => write!(f, " dev {link} from {source}"),
            Self::Source { address } => write!(f, " as {address}"),
            Self::Target { address: IpAddr::V4(ip), port } => write!(f, " to {ip}:{port}"),
            Self::Target { address: IpAddr::V6(ip), port } => write!(f, " to [{ip}]:{port}"),
        }
    }
}

impl fmt::Display for Ns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("host"),
            Self::Sandbox(id) => f.write_str(id.short()),
        }
    }
}
