//! A plan, sorted by where its steps go.

use std::collections::{BTreeMap, BTreeSet};

use cnm::{Key, LinkName, Ns, Plan, SandboxId, Step, Value};

use super::apply::sandbox_of;
use crate::kernel::sysctl;

/// The steps of a plan. Apart from the removals, they are additions and changes.
#[derive(Debug, Default)]
pub(super) struct Parts<'p> {
    /// What goes first.
    pub(super) removals: Removals<'p>,
    /// New namespaces.
    pub(super) namespaces: Vec<&'p Step>,
    /// Bridges.
    pub(super) bridges: Vec<&'p Step>,
    /// Pairs.
    pub(super) veths: Vec<&'p Step>,
    /// Ports of bridges, by their links.
    pub(super) ports: BTreeMap<&'p LinkName, &'p Step>,
    /// Sysctls, addresses and routes of the host.
    pub(super) host: Vec<&'p Step>,
    /// What happens inside the sandboxes.
    pub(super) sandboxes: BTreeMap<SandboxId, SandboxPart<'p>>,
    /// Elements, with the removals of those that get another value in the same transaction.
    pub(super) elements: Vec<&'p Step>,
}

/// The removals of a plan, without those of things that vanish with others.
#[derive(Debug, Default)]
pub(super) struct Removals<'p> {
    /// Elements.
    pub(super) elements: Vec<&'p Step>,
    /// What happens inside the sandboxes that stay.
    pub(super) sandboxes: BTreeMap<SandboxId, Vec<&'p Step>>,
    /// Sysctls, addresses and routes of the host.
    pub(super) host: Vec<&'p Step>,
    /// Ports, pairs and bridges.
    pub(super) links: Vec<&'p Step>,
    /// Namespaces.
    pub(super) namespaces: Vec<&'p Step>,
}

/// What happens inside one sandbox.
#[derive(Debug, Default)]
pub(super) struct SandboxPart<'p> {
    /// The pairs whose other ends are in it.
    pub(super) veths: Vec<&'p Step>,
    /// Its sysctls, addresses, routes and resolver.
    pub(super) steps: Vec<&'p Step>,
}

impl<'p> Parts<'p> {
    /// Sorts a plan.
    pub(super) fn of(plan: &'p Plan) -> Self {
        let mut parts = Self::default();
        let doomed = Doomed::of(plan);
        for step in plan.steps() {
            match step {
                Step::Remove(key, _) if doomed.replaced.contains(key) => parts.elements.push(step),
                Step::Remove(..) => parts.removals.take(step, &doomed),
                Step::Add(..) | Step::Change { .. } => parts.take(step),
            }
        }
        parts
    }

    /// Whether no step needs anything but the nf_tables table.
    pub(super) fn only_elements(&self) -> bool {
        let Self { removals, namespaces, bridges, veths, ports, host, sandboxes, elements: _ } =
            self;
        let steps = [namespaces, bridges, veths, host];
        steps.iter().all(|steps| steps.is_empty())
            && ports.is_empty()
            && sandboxes.is_empty()
            && removals.sandboxes.is_empty()
            && [&removals.host, &removals.links, &removals.namespaces].iter().all(|s| s.is_empty())
    }

    fn take(&mut self, step: &'p Step) {
        match step.key() {
            Key::Namespace { .. } => self.namespaces.push(step),
            Key::Bridge { .. } => self.bridges.push(step),
            Key::Veth { sandbox, .. } => {
                self.veths.push(step);
                self.sandboxes.entry(sandbox.clone()).or_default().veths.push(step);
            }
            Key::Port { link } => {
                self.ports.insert(link, step);
            }
            Key::Element(_) => self.elements.push(step),
            Key::Sysctl { .. } | Key::Address { .. } | Key::Route { .. } | Key::Resolver { .. } => {
                match sandbox_of(step) {
                    Some(sandbox) => {
                        self.sandboxes.entry(sandbox.clone()).or_default().steps.push(step);
                    }
                    None => self.host.push(step),
                }
            }
        }
    }
}

impl<'p> Removals<'p> {
    fn take(&mut self, step: &'p Step, doomed: &Doomed<'_>) {
        if doomed.takes_along(step) {
            return;
        }
        match step.key() {
            Key::Element(_) => self.elements.push(step),
            Key::Namespace { .. } => self.namespaces.push(step),
            Key::Bridge { .. } | Key::Veth { .. } | Key::Port { .. } => self.links.push(step),
            Key::Sysctl { .. } | Key::Address { .. } | Key::Route { .. } | Key::Resolver { .. } => {
                match sandbox_of(step) {
                    Some(sandbox) => self.sandboxes.entry(sandbox.clone()).or_default().push(step),
                    None => self.host.push(step),
                }
            }
        }
    }
}

impl SandboxPart<'_> {
    /// Whether an observation reports the sysctl anyway, because it is on the list of an
    /// interface that is made here.
    pub(super) fn lists(&self, path: &str) -> bool {
        self.veths.iter().any(|step| match step.key() {
            Key::Veth { interface, .. } => {
                sysctl::of_interface(interface).iter().any(|p| p == path)
            }
            _ => false,
        })
    }
}

/// What a plan removes that takes other things along.
#[derive(Debug, Default)]
struct Doomed<'p> {
    sandboxes: BTreeSet<&'p SandboxId>,
    links: BTreeSet<(Ns, &'p LinkName)>,
    /// Elements that come back in the same plan.
    replaced: BTreeSet<&'p Key>,
}

impl<'p> Doomed<'p> {
    fn of(plan: &'p Plan) -> Self {
        let mut doomed = Self::default();
        for step in plan.steps() {
            match (step, step.key()) {
                (Step::Remove(..), Key::Namespace { sandbox }) => {
                    doomed.sandboxes.insert(sandbox);
                }
                (Step::Remove(..), Key::Bridge { name }) => {
                    doomed.links.insert((Ns::Host, name));
                }
                (Step::Remove(..), Key::Veth { name, sandbox, interface }) => {
                    doomed.links.insert((Ns::Host, name));
                    doomed.links.insert((Ns::Sandbox(sandbox.clone()), interface));
                }
                (Step::Add(..), key @ Key::Element(_)) => {
                    doomed.replaced.insert(key);
                }
                _ => {}
            }
        }
        doomed
    }

    /// Whether a thing vanishes with something else.
    fn takes_along(&self, step: &Step) -> bool {
        if sandbox_of(step).is_some_and(|sandbox| self.sandboxes.contains(sandbox)) {
            return true;
        }
        let Step::Remove(key, value) = step else { return false };
        match (key, value) {
            (Key::Port { link }, _) => self.has(&Ns::Host, link),
            (Key::Address { ns, link, .. }, _)
            | (Key::Route { ns, .. }, Value::Route { link, .. }) => self.has(ns, link),
            (Key::Sysctl { ns, path }, _) => {
                let link = path.split('/').nth(3).and_then(|name| name.parse().ok());
                link.is_some_and(|link| self.has(ns, &link))
            }
            _ => false,
        }
    }

    fn has(&self, ns: &Ns, link: &LinkName) -> bool {
        self.links.contains(&(ns.clone(), link))
    }
}
