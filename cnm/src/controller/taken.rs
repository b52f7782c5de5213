//! What networks have that no two of them may: names, devices, subnets. It is looked up, however many
//! networks there are.

use std::collections::BTreeMap;

use ipnetwork::IpNetwork;

use crate::ipam::range::{Spans, overlap, span};
use crate::{LinkName, Network, NetworkId};

/// What the networks have, those being created and removed included.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) names: BTreeMap<String, NetworkId>,
    devices: BTreeMap<LinkName, (NetworkId, String)>,
    /// By family and first address, with the network's name. They are disjoint.
    subnets: BTreeMap<(bool, u128), (IpNetwork, String)>,
    /// The addresses of all subnets, by family.
    spans: [Spans; 2],
}

impl Taken {
    pub(super) fn add(&mut self, network: &Network) {
        self.names.insert(network.name.clone(), network.id.clone());
        if let Some(device) = network.profile().device {
            self.devices.insert(device, (network.id.clone(), network.name.clone()));
        }
        for pool in &network.pools {
            let (first, last) = span(pool.subnet).into_inner();
            let ipv6 = pool.subnet.is_ipv6();
            self.subnets.insert((ipv6, first), (pool.subnet, network.name.clone()));
            self.spans[usize::from(ipv6)].insert(first, last);
        }
    }

    pub(super) fn remove(&mut self, network: &Network) {
        self.names.remove(&network.name);
        if let Some(device) = network.profile().device {
            self.devices.remove(&device);
        }
        for pool in &network.pools {
            let (first, last) = span(pool.subnet).into_inner();
            let ipv6 = pool.subnet.is_ipv6();
            self.subnets.remove(&(ipv6, first));
            self.spans[usize::from(ipv6)].remove(first, last);
        }
    }

    /// The network that has a device, by id and name.
    pub(super) fn device(&self, device: &LinkName) -> Option<&(NetworkId, String)> {
        self.devices.get(device)
    }

    /// A subnet that overlaps this one, with the name of its network.
    pub(super) fn overlapping(&self, subnet: IpNetwork) -> Option<&(IpNetwork, String)> {
        let ipv6 = subnet.is_ipv6();
        let last = *span(subnet).end();
        // Disjoint ones are in the order of their ends as well.
        let (_, found) = self.subnets.range((ipv6, 0)..=(ipv6, last)).next_back()?;
        overlap(found.0, subnet).then_some(found)
    }

    /// The addresses of all subnets of a family.
    pub(super) fn spans(&self, ipv6: bool) -> &Spans {
        &self.spans[usize::from(ipv6)]
    }
}
