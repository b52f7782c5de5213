//! Networks that are on a link of the host, which several of them may share.

use super::{Change, Controller, ControllerError, HostFacts, Transition};
use crate::driver::Reach;
use crate::{Kind, LinkName, Network, Pool, State};

impl Controller {
    /// Puts a new network on its parent, if its driver wants one. Returns what the user should know.
    pub(super) fn place(
        &self,
        network: &mut Network,
        host: &HostFacts,
    ) -> Result<Vec<String>, ControllerError> {
        let Some((parent, warnings)) = network.driver.parent(network, host)? else {
            return Ok(Vec::new());
        };
        let link = parent.link.clone();
        network.parent = Some(parent);
        for other in self.all_networks() {
            if other.parent.as_ref().is_some_and(|held| held.link == link) {
                self.check_stays(other, &link)?;
                network.driver.check_beside(network, other)?;
            }
        }
        Ok(warnings)
    }

    /// A link of ours that is just being removed with its last network cannot be had.
    fn check_stays(&self, other: &Network, link: &LinkName) -> Result<(), ControllerError> {
        if other.made_parent().is_none() || !self.is_going(other) {
            return Ok(());
        }
        let message = format!(
            "parent interface {link} is being removed with network {}: try again when it is gone",
            other.name
        );
        Err(ControllerError::new(Kind::Conflict, message))
    }

    fn is_going(&self, network: &Network) -> bool {
        self.open_changes().any(|change| match change {
            Change::Network(Transition::Remove(going)) => going.id == network.id,
            _ => false,
        })
    }

    /// What of the kernel state of networks before and after a change others want as well: it is
    /// there before, and stays.
    pub(super) fn keep_shared(&self, network: &Network, before: &mut State, after: &mut State) {
        let Some(parent) = network.made_parent() else { return };
        let others = self.all_networks().filter(|other| {
            other.id != network.id && other.made_parent() == Some(parent) && !self.is_going(other)
        });
        let shared: Vec<_> = others.filter_map(|other| self.plan_network(other).ok()).collect();
        for (key, value) in shared.into_iter().flatten() {
            if before.get(&key).or(after.get(&key)) == Some(&value) {
                before.insert(key.clone(), value.clone());
                after.insert(key, value);
            }
        }
    }
}

/// What the user should know of the pools of a network whose gateway is not ours to choose.
pub(super) fn gateway_warnings(network: &Network) -> Vec<String> {
    let profile = network.profile();
    let lacks = |pool: &&Pool| {
        let attached = profile.reach(pool.subnet.is_ipv6()) == Reach::Attached;
        attached && !network.internal && pool.leads_via().is_none()
    };
    let warning = |pool: &Pool| {
        format!(
            "no gateway is given for subnet {}: its containers reach nothing beyond it; name the \
             router of that network with --gateway",
            pool.subnet
        )
    };
    network.pools.iter().filter(lacks).map(warning).collect()
}
