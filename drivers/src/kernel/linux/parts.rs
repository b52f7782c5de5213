//! A plan, sorted by where its steps go.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use cnm::ground::Lost;
use cnm::{Key, LinkName, Ns, Plan, SandboxId, Step};

use super::apply::wanted;
use crate::kernel::sysctl;

/// The steps of a plan. Apart from the removals, they are additions and changes.
#[derive(Debug, Default)]
pub(super) struct Parts<'p> {
    /// What goes first.
    pub(super) removals: Removals<'p>,
    /// New namespaces.
    pub(super) namespaces: Vec<&'p Step>,
    /// Links of the host and of the sandboxes.
    pub(super) links: Vec<&'p Step>,
    /// Ports of bridges, by their links.
    pub(super) ports: BTreeMap<&'p LinkName, &'p Step>,
    /// Sysctls, addresses, routes and neighbours of the host.
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
    /// Addresses that sandboxes lose which stay.
    pub(super) addresses: BTreeMap<SandboxId, Vec<IpAddr>>,
    /// What happens inside the sandboxes that stay.
    pub(super) sandboxes: BTreeMap<SandboxId, Vec<&'p Step>>,
    /// Sysctls, addresses, routes and neighbours of the host.
    pub(super) host: Vec<&'p Step>,
    /// Ports, and links with an end on the host.
    pub(super) links: Vec<&'p Step>,
    /// Namespaces.
    pub(super) namespaces: Vec<&'p Step>,
}

/// What happens inside one sandbox.
#[derive(Debug, Default)]
pub(super) struct SandboxPart<'p> {
    /// Its links.
    pub(super) links: Vec<&'p Step>,
    /// Its sysctls, addresses, routes, neighbours and resolver.
    pub(super) steps: Vec<&'p Step>,
}

impl<'p> Parts<'p> {
    /// Sorts a plan.
    pub(super) fn of(plan: &'p Plan) -> Self {
        let mut parts = Self::default();
        let doomed = Doomed::of(plan);
        for step in plan.steps() {
            if let Step::Remove(Key::Address { ns: Ns::Sandbox(sandbox), address, .. }, _) = step
                && !doomed.goes(sandbox)
                && !doomed.comes_back(step.key())
            {
                let lost = parts.removals.addresses.entry(sandbox.clone()).or_default();
                lost.push(address.ip());
            }
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
        let Self { removals, namespaces, links, ports, host, sandboxes, elements: _ } = self;
        let steps = [namespaces, links, host];
        steps.iter().all(|steps| steps.is_empty())
            && ports.is_empty()
            && sandboxes.is_empty()
            && removals.sandboxes.is_empty()
            && [&removals.host, &removals.links, &removals.namespaces].iter().all(|s| s.is_empty())
    }

    fn take(&mut self, step: &'p Step) {
        match step.key() {
            Key::Namespace { .. } => self.namespaces.push(step),
            Key::Link { ns, .. } => {
                self.links.push(step);
                if let Ns::Sandbox(sandbox) = ns {
                    self.sandboxes.entry(sandbox.clone()).or_default().links.push(step);
                }
            }
            Key::Port { link } => {
                self.ports.insert(link, step);
            }
            Key::Element(_) => self.elements.push(step),
            key => match key.sandbox() {
                Some(sandbox) => {
                    self.sandboxes.entry(sandbox.clone()).or_default().steps.push(step);
                }
                None => self.host.push(step),
            },
        }
    }
}

impl<'p> Removals<'p> {
    fn take(&mut self, step: &'p Step, doomed: &Doomed<'_>) {
        let mut inside = |sandbox: &SandboxId| {
            self.sandboxes.entry(sandbox.clone()).or_default().push(step);
        };
        match step.key() {
            Key::Element(_) => self.elements.push(step),
            Key::Namespace { .. } => self.namespaces.push(step),
            // A namespace takes its time to go, and one that others hold does not go.
            key @ Key::Link { .. } => {
                let remains = wanted(step).remains(key);
                for (ns, _) in &remains {
                    if let Ns::Sandbox(sandbox) = ns {
                        inside(sandbox);
                    }
                }
                if remains.iter().any(|(ns, _)| *ns == Ns::Host) {
                    self.links.push(step);
                }
            }
            key if doomed.lost.surely_takes_along(key, wanted(step)) => {}
            Key::Port { .. } => self.links.push(step),
            key => match key.sandbox() {
                Some(sandbox) => inside(sandbox),
                None => self.host.push(step),
            },
        }
    }
}

impl SandboxPart<'_> {
    /// Whether neighbours on a link are known that nobody has to ask for. They know the link as well,
    /// and an announcement would have the kernel forget them.
    pub(super) fn knows_neighbours_of(&self, link: &Step) -> bool {
        let Key::Link { name, .. } = link.key() else { return false };
        let on = |step: &&Step| matches!(step.key(), Key::Neighbour { link, .. } if link == name);
        self.steps.iter().any(on)
    }

    /// Whether an observation reports the sysctl anyway, because it is on the list of an
    /// interface that is made here.
    pub(super) fn lists(&self, path: &str) -> bool {
        self.links.iter().any(|step| match step.key() {
            Key::Link { name, .. } => sysctl::of_interface(name).iter().any(|p| p == path),
            _ => false,
        })
    }
}

/// What a plan removes that takes other things along.
#[derive(Debug, Default)]
struct Doomed<'p> {
    lost: Lost,
    /// Sandboxes that go.
    sandboxes: BTreeSet<&'p SandboxId>,
    /// Elements that come back in the same plan.
    replaced: BTreeSet<&'p Key>,
    /// Addresses that do.
    again: BTreeSet<&'p Key>,
}

impl<'p> Doomed<'p> {
    fn of(plan: &'p Plan) -> Self {
        let mut doomed = Self::default();
        for step in plan.steps() {
            match step {
                Step::Remove(key, value) => {
                    doomed.lost.add(key, value);
                    if let Key::Namespace { sandbox } = key {
                        doomed.sandboxes.insert(sandbox);
                    }
                }
                Step::Add(key @ Key::Address { .. }, _) => {
                    doomed.again.insert(key);
                }
                Step::Add(key @ Key::Element(_), _) => {
                    doomed.replaced.insert(key);
                }
                Step::Add(..) | Step::Change { .. } => {}
            }
        }
        doomed
    }

    /// Whether a sandbox goes.
    fn goes(&self, sandbox: &SandboxId) -> bool {
        self.sandboxes.contains(sandbox)
    }

    /// Whether an address that is removed is added again.
    fn comes_back(&self, address: &Key) -> bool {
        self.again.contains(address)
    }
}
