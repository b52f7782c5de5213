//! What the host has by itself, which decisions go by.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;

use super::Controller;
use crate::network::Tunnel;
use crate::{LinkName, Network};

/// What the host already uses, to be avoided by the default pools.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// Destinations of all routes in all tables, default routes left out.
    pub routes: Vec<IpNetwork>,
    /// The addresses of the host's resolvers.
    pub resolvers: Vec<IpAddr>,
    /// The host's links.
    pub links: Arc<BTreeMap<LinkName, HostLink>>,
    /// The smallest MTU of the links that default routes leave by.
    pub egress_mtu: Option<u32>,
}

/// A link that the host has.
#[expect(clippy::struct_excessive_bools, reason = "independent properties")]
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
    /// Whether it is a bridge.
    pub bridge: bool,
    /// Whose it is, if it is one of ours: see [`crate::Link::tag`].
    pub tag: Option<String>,
}

impl Controller {
    /// Notes the MTU of the host's way out, which networks have that were given none. What the kernel
    /// has is then to be healed. Returns whether it is another one.
    pub fn tell_egress_mtu(&mut self, mtu: Option<u32>) -> bool {
        if self.egress_mtu == mtu {
            return false;
        }
        self.egress_mtu = mtu;
        self.follow_ways();
        true
    }

    /// A network as it is with the host's way out, and its ways to other hosts.
    pub(super) fn on_its_way_out(&self, network: &Arc<Network>) -> Arc<Network> {
        let mut network = Arc::clone(network);
        if network.egress_mtu != self.egress_mtu {
            Arc::make_mut(&mut network).egress_mtu = self.egress_mtu;
        }
        let (mtu, local) = (self.tunnel_mtu, self.tunnel_local);
        let of = |tunnel: Tunnel| Tunnel { mtu, local: local.unwrap_or(tunnel.local), ..tunnel };
        let tunnel = network.tunnel.map(of);
        if network.tunnel != tunnel {
            Arc::make_mut(&mut network).tunnel = tunnel;
        }
        network
    }
}
