//! Sandboxes: network namespaces with endpoints in them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::driver::Reach;
use crate::endpoint::StaticRoute;
use crate::{Endpoint, LinkName, Network, PortBinding, Protocol, SandboxId};

/// A network namespace of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sandbox {
    /// Its identity.
    pub id: SandboxId,
    /// Who it was made for: a container's id, or a CNI attachment; for people and for recovery.
    pub owner: String,
    /// Published ports, allocated. They follow the endpoint that is the gateway of their family.
    pub ports: Vec<PortBinding>,
    /// The ports inside that are not to be reached for now, though they are published: by nobody who
    /// is not on the same network.
    pub closed: BTreeSet<(Protocol, u16)>,
    /// Whether the resolver answers inside, at 127.0.0.11.
    pub resolver: bool,
    /// Sysctls of the namespace, `net/...` paths with their values.
    pub sysctls: Vec<(String, String)>,
    /// What it may talk to on networks whose endpoints do not talk to each other.
    pub passages: Vec<Passage>,
}

impl Sandbox {
    /// The published ports that are to be reached.
    pub fn open_ports(&self) -> impl Iterator<Item = &PortBinding> {
        self.ports.iter().filter(|port| !self.closed.contains(&(port.protocol, port.port)))
    }
}

/// A port of a neighbour that a sandbox may talk to, whether or not its network lets neighbours
/// talk.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Passage {
    /// The neighbour's address.
    pub to: IpAddr,
    /// The protocol.
    pub protocol: Protocol,
    /// The neighbour's port.
    pub port: u16,
}

/// An endpoint together with its network.
#[derive(Clone, Copy, Debug)]
pub struct Attachment<'a> {
    /// The network.
    pub network: &'a Network,
    /// The endpoint on it.
    pub endpoint: &'a Endpoint,
}

impl Attachment<'_> {
    /// The gateway of a family: the one that was handed over with the link or came with the endpoint's
    /// address, or its pool's.
    pub fn gateway(&self, ipv6: bool) -> Option<IpAddr> {
        let of_family = |gateways: &[IpAddr]| {
            gateways.iter().copied().find(|gateway| gateway.is_ipv6() == ipv6)
        };
        if let Some(handover) = &self.endpoint.handover {
            return of_family(&handover.gateways);
        }
        let address = self.endpoint.address(ipv6)?;
        let lent = of_family(&self.endpoint.gateways);
        lent.or_else(|| self.network.pool_of(address.ip())?.leads_via())
    }

    /// The gateway of a route through the endpoint.
    pub fn gateway_of(&self, route: &StaticRoute) -> Option<IpAddr> {
        route.via.or_else(|| self.gateway(route.destination.is_ipv6()))
    }
}

/// What sysctls say of a property of an interface: of it by name, of all interfaces, or of those to
/// come; in that order, for the most particular wish is the one that is meant.
pub fn wish<'a>(
    sysctls: &'a [(String, String)],
    family: &str,
    interface: &LinkName,
    leaf: &str,
) -> Option<&'a str> {
    [interface.as_str(), "all", "default"].into_iter().find_map(|link| {
        let path = format!("net/{family}/conf/{link}/{leaf}");
        let named = sysctls.iter().rev().find(|(known, _)| *known == path);
        named.map(|(_, value)| value.trim())
    })
}

/// Whether sysctls switch IPv6 off on an interface.
pub fn lacks_ipv6(sysctls: &[(String, String)], interface: &LinkName) -> bool {
    wish(sysctls, "ipv6", interface, "disable_ipv6").is_some_and(|value| value != "0")
}

/// The attachment that provides the default route of a family: the highest gateway priority,
/// then networks that are not internal, then dual-stack ones, then the network's name
/// (libnetwork's `Endpoint.Less`). `None` where no attachment has a gateway of that family.
pub fn gateway<'a>(attachments: &[Attachment<'a>], ipv6: bool) -> Option<Attachment<'a>> {
    let leads = |a: &Attachment<'_>| {
        let on_link = a.network.profile().reach(ipv6) == Reach::OnLink;
        a.gateway(ipv6).is_some() || on_link && a.endpoint.address(ipv6).is_some()
    };
    let candidates = attachments.iter().copied();
    let candidates = candidates.filter(|a| !a.network.internal && leads(a));
    candidates.min_by_key(|a| {
        let dual_stack = a.endpoint.addresses.len() > 1;
        (-i64::from(a.endpoint.gateway_priority), !dual_stack, a.network.name.clone())
    })
}

#[cfg(test)]
mod tests;
