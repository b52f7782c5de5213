//! What the host has by itself, which decisions go by.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::LinkName;

/// What the host already uses, to be avoided by the default pools.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// Destinations of all routes in all tables, default routes left out.
    pub routes: Vec<IpNetwork>,
    /// The addresses of the host's resolvers.
    pub resolvers: Vec<IpAddr>,
    /// The host's links.
    pub links: BTreeMap<LinkName, HostLink>,
}

/// A link that the host has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostLink {
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Whether it is switched on.
    pub up: bool,
    /// Whether it is a loopback device.
    pub loopback: bool,
    /// Whether it is a port of a bridge, or of anything like that.
    pub port: bool,
    /// Whose it is, if it is one of ours: see [`crate::Link::tag`].
    pub tag: Option<String>,
}
