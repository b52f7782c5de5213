//! Changes in the making: what they have taken so far, and how it is given back.

use ipnetwork::IpNetwork;

use super::intent::{Change, Intent, Open, Previous};
use super::{Claims, Controller, ControllerError, Decision, Transaction, Unclaimed};
use crate::ipam::Taken;
use crate::ports::{Allocation, Offers};
use crate::{LinkName, NetworkId, PortBinding};

/// A change in the making. It takes what it needs from the controller and gives all of it back
/// when it is dropped, unless it has become a transaction.
#[derive(Debug)]
pub(super) struct Draft<'a> {
    pub(super) controller: &'a mut Controller,
    pub(super) claims: &'a Claims,
    pub(super) warnings: Vec<String>,
    pub(super) previous: Vec<Previous>,
    ports: Vec<PortBinding>,
    links: Vec<LinkName>,
    /// The claimed ports that nothing has been given yet.
    pub(super) offers: Offers,
    /// What must be claimed before it can be decided.
    pub(super) unclaimed: Unclaimed,
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        let previous = std::mem::take(&mut self.previous);
        self.controller.give_back(previous, &self.ports, &self.links);
    }
}

impl<'a> Draft<'a> {
    /// A change that needs nothing from outside.
    pub(super) fn new(controller: &'a mut Controller) -> Self {
        const NOTHING: &Claims = &Claims::none();
        Self::with(controller, NOTHING)
    }

    /// A change for which some things were claimed.
    pub(super) fn with(controller: &'a mut Controller, claims: &'a Claims) -> Self {
        let (warnings, previous, ports, links, unclaimed) = Default::default();
        let offers = Offers::of(claims);
        Self { controller, claims, warnings, previous, ports, links, offers, unclaimed }
    }

    /// Notes an address that was taken.
    pub(super) fn took_address(&mut self, network: &NetworkId, taken: Taken) -> IpNetwork {
        let (network, address) = (network.clone(), taken.address.ip());
        self.previous.push(Previous { network, address, lease: taken.previous });
        taken.address
    }

    /// Notes ports that were taken, and those of them that are still to be claimed.
    pub(super) fn took_ports(&mut self, allocation: Allocation) -> Vec<PortBinding> {
        let Allocation { ports, unclaimed } = allocation;
        self.ports.extend_from_slice(&ports);
        self.unclaimed.ports.extend((!unclaimed.is_empty()).then_some(unclaimed));
        ports
    }

    /// Takes the name of a host link; tells whether it was free.
    pub(super) fn take_link(&mut self, link: LinkName) -> bool {
        let free = self.controller.links.insert(link.clone());
        if free {
            self.links.push(link);
        }
        free
    }

    /// Makes it a transaction, if all is claimed that it needs.
    pub(super) fn decide(
        mut self,
        change: Change,
        now: u64,
    ) -> Result<Decision<Transaction>, ControllerError> {
        let unclaimed = std::mem::take(&mut self.unclaimed);
        if unclaimed.is_empty() {
            return self.open(change, now).map(Decision::Made);
        }
        Ok(Decision::Unclaimed(unclaimed))
    }

    /// Makes it a transaction.
    pub(super) fn open(mut self, change: Change, now: u64) -> Result<Transaction, ControllerError> {
        let (before, after) = self.controller.plan(&change)?;
        let new = change.new_endpoints();
        let probes = self.controller.attachments(&new)?.into_iter();
        let probes = probes.filter_map(|of| of.network.driver.probe(of)).collect();
        self.ports.clear();
        self.links.clear();
        let previous = std::mem::take(&mut self.previous);
        let warnings = std::mem::take(&mut self.warnings);
        let intent = Intent { kind: change.kind(), subject: change.subject(), change, now };
        let number = self.controller.next;
        self.controller.next += 1;
        let mut transaction = self.controller.transaction(number, &intent, before, after);
        transaction.warnings = warnings;
        transaction.probes = probes;
        transaction.moves_address = previous.iter().any(|previous| {
            // A reservation may have taken the place of what was known of the last owner.
            let lease = self.controller.ipam.lease(&previous.network, previous.address);
            previous.lease.as_ref().is_some_and(|last| last.mac != lease.and_then(|now| now.mac))
        });
        self.controller.open.insert(number, Open { intent, previous });
        Ok(transaction)
    }
}
