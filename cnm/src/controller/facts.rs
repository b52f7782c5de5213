//! What the host has by itself, which decisions go by.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use ipnetwork::IpNetwork;

use super::Controller;
use crate::driver::Reading;
use crate::network::{NetworkSpec, Tunnel};
use crate::wireguard::overhead;
use crate::{LinkName, Network};

/// What links take that nobody said anything else of.
const ETHERNET: u32 = 1500;

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
        let tunnel = network.tunnel.map(|tunnel| self.tunnel_here(tunnel));
        if network.tunnel != tunnel {
            Arc::make_mut(&mut network).tunnel = tunnel;
        }
        network
    }

    /// The tunnel of a network that is to be, if it is to have one.
    pub(super) fn tunnel_of(&self, spec: &NetworkSpec, reading: &Reading) -> Option<Tunnel> {
        let tunnel = spec.tunnel?;
        let encrypted = tunnel.encrypted || reading.encrypted;
        Some(self.tunnel_here(Tunnel { encrypted, ..tunnel }))
    }

    /// A tunnel as it is from where this host is. One that is encrypted is inside of what encrypts it.
    pub(super) fn tunnel_here(&self, tunnel: Tunnel) -> Tunnel {
        let (mtu, local) = (self.ways.mtu, self.ways.local);
        if !tunnel.encrypted {
            return Tunnel { mtu, local: local.unwrap_or(tunnel.local), ..tunnel };
        }
        let inside = self.ways.wireguard.map(|own| own.address.into());
        let mtu = self.way_mtu().saturating_sub(overhead(self.outer()));
        Tunnel { mtu: Some(mtu), local: inside.unwrap_or(tunnel.local), ..tunnel }
    }

    /// The largest packet that the ways to all other hosts take.
    pub(super) fn way_mtu(&self) -> u32 {
        self.ways.mtu.unwrap_or(ETHERNET)
    }

    /// An address of the family that hosts talk; of the one that takes more where nobody told.
    pub(super) fn outer(&self) -> IpAddr {
        self.ways.local.unwrap_or(Ipv6Addr::UNSPECIFIED.into())
    }
}
