//! Changing a network that is there, with everybody on it.
//!
//! A network and the sandboxes on it change together: one intent, one plan for each of them. What would
//! take a link away from somebody is refused, whatever the driver.

mod pools;

use std::collections::BTreeMap;
use std::sync::Arc;

use super::draft::Draft;
use super::intent::{Change, Live, Transition};
use super::{Controller, ControllerError, Entropy, HostFacts, Subject, Transaction};
use crate::network::{DNS, PoolSpec, own_options, resolvers};
use crate::{Key, Network, NetworkId, SandboxId, State, Step, diff};

/// What is to change about a network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkUpdate {
    /// Labels to set, and those to remove.
    pub labels: BTreeMap<String, Option<String>>,
    /// Options to set, and those to have their default again.
    pub options: BTreeMap<String, Option<String>>,
    /// Whether it is to be internal.
    pub internal: Option<bool>,
    /// Subnets that it is to have as well.
    pub subnets: Vec<PoolSpec>,
    /// Subnets that it is to have no longer.
    pub without: Vec<String>,
    /// Whether it is to have IPv4.
    pub ipv4: Option<bool>,
    /// Whether it is to have IPv6.
    pub ipv6: Option<bool>,
}

impl NetworkUpdate {
    /// Whether it is about the addresses of the network.
    pub fn is_of_addresses(&self) -> bool {
        let subnets = !self.subnets.is_empty() || !self.without.is_empty();
        subnets || self.ipv4.is_some() || self.ipv6.is_some()
    }
}

/// What a change does to one network or sandbox.
#[derive(Clone, Debug)]
pub struct Part {
    /// Which.
    pub subject: Subject,
    /// Its kernel state before.
    pub before: State,
    /// Its kernel state after.
    pub after: State,
}

impl Controller {
    /// Begins to change a network and what its endpoints have of it. Until the end nobody can join or
    /// leave it, nor change a sandbox that is on it; see [`ControllerError::is_passing`].
    pub fn begin_update_network(
        &mut self,
        id: &NetworkId,
        update: &NetworkUpdate,
        host: &HostFacts,
        entropy: &mut dyn Entropy,
        now: u64,
    ) -> Result<(Vec<Part>, Transaction), ControllerError> {
        let before = self.networks.get(id).cloned();
        let before = before.ok_or_else(|| ControllerError::not_found("network", id))?;
        if before.predefined {
            return Err(ControllerError::forbidden(format!(
                "network {} is as the daemon's options say, and cannot be changed: change those",
                before.name
            )));
        }
        self.check_idle(&Subject::Network(id.clone()))?;
        self.check_members_idle(&before)?;
        refuse_to_plugins(&before, update)?;
        let (mut after, mut warnings) = changed(&before, update)?;
        if update.is_of_addresses() {
            warnings.extend(self.change_pools(&mut after, update, host, entropy)?);
        }
        after.driver.check(&after)?;
        let (before, after) = (Arc::clone(&before), Arc::new(after));
        let parts = self.parts(&before, &after)?;
        refuse_cuts(&after, &parts)?;
        let mut draft = Draft::new(self);
        draft.warnings = warnings;
        let change = Change::Network(Transition::Change { before, after });
        Ok((parts, draft.open(change, now)?))
    }

    /// What a change of a network does to it and to each sandbox on it.
    fn parts(&self, before: &Network, after: &Network) -> Result<Vec<Part>, ControllerError> {
        let mut parts = vec![Part {
            subject: Subject::Network(before.id.clone()),
            before: self.plan_network(before)?,
            after: self.plan_network(after)?,
        }];
        for live in self.members_of(&before.id) {
            parts.push(Part {
                subject: Subject::Sandbox(live.sandbox.id.clone()),
                before: self.plan_sandbox_on(live, before)?,
                after: self.plan_sandbox_on(live, after)?,
            });
        }
        Ok(parts)
    }

    /// The kernel state of a sandbox where one of its networks is like this.
    pub(super) fn plan_sandbox_on(
        &self,
        live: &Live,
        network: &Network,
    ) -> Result<State, ControllerError> {
        let mut attachments = self.attachments(&live.endpoints)?;
        for attachment in attachments.iter_mut().filter(|of| of.network.id == network.id) {
            attachment.network = network;
        }
        Ok(self.planner.sandbox(&live.sandbox, &attachments)?)
    }

    /// The sandboxes on a network.
    pub(super) fn members_of(&self, network: &NetworkId) -> impl Iterator<Item = &Live> {
        let endpoints = self.members.get(network).into_iter().flat_map(BTreeMap::values);
        endpoints.filter_map(|endpoint| self.sandboxes.get(&endpoint.sandbox))
    }

    /// Fails while a sandbox on the network, or one that is about to be, is being changed.
    fn check_members_idle(&self, network: &Network) -> Result<(), ControllerError> {
        let is_on = |live: Option<&Live>| {
            live.is_some_and(|live| live.endpoints.iter().any(|e| e.network == network.id))
        };
        let changing = self.open_changes().any(|change| {
            let (before, after) = change.sandboxes();
            is_on(before) || is_on(after)
        });
        if changing { Err(ControllerError::passing(&network.name)) } else { Ok(()) }
    }

    /// Fails while a network that the sandbox is on is being changed.
    pub(super) fn check_networks_settled(&self, id: &SandboxId) -> Result<(), ControllerError> {
        let Some(live) = self.sandboxes.get(id) else { return Ok(()) };
        let updated = self.open_changes().find_map(|change| match change {
            Change::Network(Transition::Change { before, .. }) => {
                live.endpoints.iter().any(|e| e.network == before.id).then_some(&before.name)
            }
            _ => None,
        });
        updated.map_or(Ok(()), |name| Err(ControllerError::passing(name)))
    }

    /// Whether a network is being changed.
    pub(super) fn is_updated(&self, id: &NetworkId) -> bool {
        self.open_changes().any(|change| {
            matches!(change, Change::Network(Transition::Change { before, .. }) if before.id == *id)
        })
    }
}

/// A network with other properties, and what its driver warns of.
fn changed(
    before: &Network,
    update: &NetworkUpdate,
) -> Result<(Network, Vec<String>), ControllerError> {
    let mut after = before.clone();
    for (label, value) in &update.labels {
        match value {
            Some(value) => drop(after.labels.insert(label.clone(), value.clone())),
            None => drop(after.labels.remove(label)),
        }
    }
    for (option, value) in &update.options {
        for name in same_option(before, option)? {
            after.given_options.remove(name);
        }
        if let Some(value) = value {
            after.given_options.insert(option.clone(), value.clone());
        }
    }
    resolvers(&after.given_options)?;
    let reading = after.driver.read(&own_options(&after.given_options))?;
    after.internal = update.internal.unwrap_or(after.internal);
    Ok((after, reading.warnings))
}

/// A plugin was told of the network when it was made, and there is no way to tell it of a change.
fn refuse_to_plugins(network: &Network, update: &NetworkUpdate) -> Result<(), ControllerError> {
    let (maker, giver) = (network.driver.plugin(), network.ipam.as_ref().map(|ipam| &*ipam.name));
    let closes = update.internal.is_some_and(|internal| internal != network.internal);
    let what = match (maker, maker.or(giver)) {
        (Some(plugin), _) if closes => Some(("whether it is internal", plugin)),
        (_, Some(plugin)) if update.is_of_addresses() => Some(("its subnets", plugin)),
        _ => None,
    };
    what.map_or(Ok(()), |(what, plugin)| {
        Err(ControllerError::invalid(format!(
            "{what} cannot be changed while network {} exists: plugin {plugin} cannot be told of it; \
             make another network",
            network.name
        )))
    })
}

/// All names of an option that can be changed.
fn same_option<'a>(network: &Network, option: &'a str) -> Result<Vec<&'a str>, ControllerError> {
    if option == DNS {
        return Ok(vec![option]);
    }
    let changeable = network.driver.changeable();
    if let Some(names) = changeable.iter().find(|names| names.contains(&option)) {
        return Ok(names.to_vec());
    }
    let proper = changeable.iter().filter_map(|names| names.first().copied());
    let known: Vec<_> = proper.chain([DNS]).collect();
    Err(ControllerError::invalid(format!(
        "option {option} of network {} cannot be changed while the network exists, only {} can: make \
         another network with it, and connect its containers to that",
        network.name,
        known.join(", ")
    )))
}

/// Nobody loses a link, whatever a driver would make of a change.
fn refuse_cuts(network: &Network, parts: &[Part]) -> Result<(), ControllerError> {
    for Part { before, after, .. } in parts {
        let plan = diff(before, after);
        let lost = plan.steps().iter().find_map(|step| match step {
            Step::Remove(key @ (Key::Link { .. } | Key::Namespace { .. }), _) => Some(key),
            _ => None,
        });
        if let Some(lost) = lost {
            return Err(ControllerError::forbidden(format!(
                "network {} cannot be changed so while it is in use: {lost} would have to be made \
                 anew; disconnect its containers and remove it, or make another network",
                network.name
            )));
        }
    }
    Ok(())
}
