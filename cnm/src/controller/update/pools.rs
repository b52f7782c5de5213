//! Changing the subnets of a network that is there: more of them and fewer, another family.
//!
//! Nobody loses an address: what would take one from somebody is refused, and who is on the network when it gets another
//! family has an address of that as soon as it joins anew.

use ipnetwork::IpNetwork;

use super::super::subnet::{Subnet, disabled, pool};
use super::super::{Controller, ControllerError, Entropy, HostFacts};
use super::NetworkUpdate;
use crate::ipam::short;
use crate::network::{Addressing, PoolSpec};
use crate::{Network, Pool};

const FAMILIES: [&str; 2] = ["IPv4", "IPv6"];

impl Controller {
    /// The subnets of a network as an update wants them; returns what the user should know.
    pub(super) fn change_pools(
        &mut self,
        after: &mut Network,
        update: &NetworkUpdate,
        host: &HostFacts,
        entropy: &mut dyn Entropy,
    ) -> Result<Vec<String>, ControllerError> {
        if after.addressing != Addressing::Pools || !after.driver.traits().addresses {
            let name = &after.name;
            let message = format!("network {name} takes no subnets: its addresses are not ours");
            return Err(ControllerError::invalid(message));
        }
        let mut warnings = Vec::new();
        for (ipv6, wanted) in [(false, update.ipv4), (true, update.ipv6)] {
            if has(after, ipv6) && wanted == Some(false) {
                return Err(loses_family(after, ipv6));
            }
            if !has(after, ipv6) && wanted == Some(true) {
                *(if ipv6 { &mut after.ipv6 } else { &mut after.ipv4 }) = true;
                warnings.extend(self.without_address(after, ipv6));
            }
        }
        let had = [false, true].map(|ipv6| has_pool(after, ipv6));
        for text in &update.without {
            let at = named(after, text)?;
            self.check_subnet_unused(after, after.pools[at].subnet)?;
            after.pools.remove(at);
        }
        for spec in &update.subnets {
            let pool = self.another_pool(after, spec, host, entropy)?;
            after.pools.push(pool);
        }
        for (ipv6, had) in [false, true].into_iter().zip(had) {
            if has_pool(after, ipv6) || !has(after, ipv6) {
                continue;
            }
            if had {
                return Err(without_subnet(after, ipv6));
            }
            self.first_pool(after, ipv6, host, entropy)?;
        }
        Ok(warnings)
    }

    /// A subnet of a family that a network has only now, from the default pools.
    fn first_pool(
        &mut self,
        after: &mut Network,
        ipv6: bool,
        host: &HostFacts,
        entropy: &mut dyn Entropy,
    ) -> Result<(), ControllerError> {
        let subnet = self.free_subnet(ipv6, None, &after.pools, host, entropy)?;
        let pool = pool(after, subnet, &PoolSpec::default())?;
        after.pools.push(pool);
        Ok(())
    }

    /// Who is on the network and has no address of a family.
    fn without_address(&self, network: &Network, ipv6: bool) -> Option<String> {
        let members = self.members.get(&network.id)?;
        let without = members.values().filter(|endpoint| endpoint.address(ipv6).is_none());
        let owners = without.filter_map(|endpoint| self.sandboxes.get(&endpoint.sandbox));
        let owners: Vec<_> = owners.map(|live| short(&live.sandbox.owner)).collect();
        (!owners.is_empty()).then(|| {
            format!(
                "who is on network {} has no {} address until it is started again, or disconnected \
                 and connected: {}",
                network.name,
                FAMILIES[usize::from(ipv6)],
                owners.join(", ")
            )
        })
    }

    /// Fails if somebody has an address of a subnet, or one is kept for somebody.
    fn check_subnet_unused(
        &self,
        network: &Network,
        subnet: IpNetwork,
    ) -> Result<(), ControllerError> {
        let refuse = |why: String| {
            let message = format!("subnet {subnet} of network {} is in use: {why}", network.name);
            Err(ControllerError::forbidden(message))
        };
        let members = self.members.get(&network.id).into_iter().flatten();
        for endpoint in members.map(|(_, endpoint)| endpoint) {
            if let Some(own) = endpoint.addresses.iter().find(|own| subnet.contains(own.ip())) {
                let live = self.sandboxes.get(&endpoint.sandbox);
                let owner = live.map_or(endpoint.id.short(), |live| short(&live.sandbox.owner));
                let address = own.ip();
                return refuse(format!("{owner} has {address}; disconnect it first"));
            }
        }
        let leased = self.ipam.leased(&network.id).filter(|address| subnet.contains(*address));
        for address in leased {
            let Some(lease) = self.ipam.lease(&network.id, address) else { continue };
            if lease.is_kept() || lease.released.is_none() {
                let owner = short(&lease.owner);
                return refuse(format!("{address} is kept for {owner}; remove that first"));
            }
        }
        match self.ipam.unread_in(&network.id, subnet) {
            Some(address) => refuse(format!(
                "{address} has a record that cannot be read (see `rnet system check`)"
            )),
            None => Ok(()),
        }
    }

    fn another_pool(
        &mut self,
        network: &Network,
        spec: &PoolSpec,
        host: &HostFacts,
        entropy: &mut dyn Entropy,
    ) -> Result<Pool, ControllerError> {
        if spec.subnet.is_none() {
            return Err(ControllerError::invalid("no subnet to add is named"));
        }
        let subnet = Subnet::parse(spec)?;
        if subnet.is_ipv6() && !network.ipv6 || !subnet.is_ipv6() && !network.ipv4 {
            return Err(disabled(spec));
        }
        let subnet = match subnet {
            Subnet::This(subnet) => self.check_free(subnet, &network.pools)?,
            Subnet::Any { ipv6, prefix } => {
                self.free_subnet(ipv6, prefix, &network.pools, host, entropy)?
            }
        };
        pool(network, subnet, spec)
    }
}

fn has(network: &Network, ipv6: bool) -> bool {
    if ipv6 { network.ipv6 } else { network.ipv4 }
}

fn has_pool(network: &Network, ipv6: bool) -> bool {
    network.pools.iter().any(|pool| pool.subnet.is_ipv6() == ipv6)
}

fn without_subnet(network: &Network, ipv6: bool) -> ControllerError {
    ControllerError::forbidden(format!(
        "network {} has no other {} subnet: add one in its place, or make another network",
        network.name,
        FAMILIES[usize::from(ipv6)]
    ))
}

fn loses_family(network: &Network, ipv6: bool) -> ControllerError {
    ControllerError::forbidden(format!(
        "{} of network {} cannot be switched off while the network exists, for its containers have \
         addresses: make another network, and connect them to that",
        FAMILIES[usize::from(ipv6)],
        network.name
    ))
}

/// Which of the network's pools has a subnet.
fn named(network: &Network, text: &str) -> Result<usize, ControllerError> {
    let is_it = |subnet: IpNetwork| network.pools.iter().position(|pool| pool.subnet == subnet);
    text.parse().ok().and_then(is_it).ok_or_else(|| {
        let (name, all) = (&network.name, network.subnets());
        ControllerError::invalid(format!("network {name} has no subnet {text}: it has {all}"))
    })
}
