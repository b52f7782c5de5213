//! Sandboxes that outlive the run of their container, because others live in them.
//!
//! A container on `--network container:X` is a lodger in the sandbox of X. When X ends, the sandbox stays
//! as long as there are lodgers, with its addresses, its ports and its names; the next start of X goes
//! into it. When X is removed, its ports and names go with it, and what is left goes with the last
//! lodger (`docs/adr/0053`).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use chrono::Utc;
use cnm::SandboxId;
use cnm::controller::PortsChange;
use cnm::store::{Batch, Durability};
use dns::protocol::{HeldPort, SandboxView};

use super::join::{Place, TTL};
use super::live::Live;
use super::monitor::forget_networks;
use super::run_spec::Connectivity;
use super::{Container, ContainerId, Containers};
use crate::network::SandboxNames;
use crate::runner::Failure;
use engine_error::Result;
use runtime::spec::Namespace;

impl Containers {
    /// Whether a running container lives in the sandbox of another one.
    pub(super) fn has_lodgers(&self, sandbox: &SandboxId) -> bool {
        let lives_in = |container: &Container| {
            container.state.has_process() && container.joined.as_ref() == Some(sandbox)
        };
        self.registry.all().iter().any(|live| lives_in(&live.get()))
    }

    /// The sandbox of an earlier run that a container's next run goes into.
    pub(super) fn kept_sandbox(&self, container: &Container) -> Option<SandboxId> {
        container.sandbox.clone().filter(|id| self.networks.sandbox(id).is_ok())
    }

    /// Runs a container in the sandbox that its lodgers have kept.
    pub(super) fn run_again(
        &self,
        live: &Arc<Live>,
        container: &Container,
        id: &SandboxId,
    ) -> Result<(), Failure> {
        let (sandbox, endpoints) = self.networks.sandbox(id)?;
        self.networks.publish(&self.sandbox_names(container, &sandbox, &endpoints)?)?;
        let namespace = self.networks.kernel().namespace_path(id);
        let own = Namespace::Path(namespace.clone());
        let user = self.user_namespace(container, &own, Some(id))?;
        self.check_joined_users(container, user.as_ref())?;
        let addresses = endpoints.iter().flat_map(|endpoint| &endpoint.addresses);
        let connectivity = Connectivity {
            place: Place::Own,
            namespace: own,
            user,
            addresses: addresses.map(ipnetwork::IpNetwork::ip).collect(),
            resolver: sandbox.resolver,
        };
        let views = self.endpoint_views(container, &endpoints)?;
        let prepared = self.runner.prepare(self.run_spec(container, &connectivity)?)?;
        let pid = self.runner.begin(prepared, live.take_early())?.run()?.pid;
        let (container, ()) = live.change(|container| {
            container.state.start(pid, Utc::now());
            container.sandbox_key = namespace;
            container.endpoints = views;
            container.ports.clone_from(&sandbox.ports);
        });
        self.note(&container, Durability::Immediate);
        self.started(live, &container);
        Ok(())
    }

    /// A lodger has ended: with the last one goes a sandbox whose container does not run. The caller has
    /// the lodger's turn.
    pub(super) fn leave_lodging(&self, sandbox: &SandboxId) {
        let Ok((model, _)) = self.networks.sandbox(sandbox) else { return };
        let id = sandbox.clone();
        match self.registry.find(&model.owner) {
            Ok(owner) => self.in_turn(owner, move |containers, owner| {
                let container = owner.get();
                let is_empty = !container.state.has_process() && !containers.has_lodgers(&id);
                if container.sandbox.as_ref() == Some(&id) && is_empty {
                    let (container, ()) = owner.change(forget_networks);
                    containers.close_lodging(&id, Self::record(&container));
                }
            }),
            Err(_) if !self.has_lodgers(sandbox) => self.close_lodging(&id, Batch::default()),
            Err(_) => {}
        }
    }

    fn close_lodging(&self, sandbox: &SandboxId, records: Batch) {
        if let Err(error) = self.networks.close(sandbox, records) {
            let (sandbox, error) = (sandbox.short(), error.chain());
            tracing::error!(sandbox, error, "cannot remove a sandbox that nobody lives in");
        }
    }

    /// A container is removed whose lodgers stay: others may have its ports and its names.
    pub(super) fn leave_to_lodgers(&self, container: &Container) {
        let Some(id) = self.kept_sandbox(container) else { return };
        if !self.has_lodgers(&id) {
            return self.close_lodging(&id, Batch::default());
        }
        let withdrawn = self.networks.sandbox(&id).and_then(|(sandbox, _)| {
            let change = PortsChange { add: &[], remove: &sandbox.ports, closed: None };
            self.networks.begin_change_ports(&id, &change)
        });
        let applied = withdrawn.and_then(|change| {
            let names = self.names_of_nobody(&id, &change.endpoints);
            if let Err(error) = self.networks.apply(&change, &names, &|| ()) {
                self.networks.abandon(change);
                return Err(error);
            }
            self.networks.redirect_flows(&change);
            self.networks.finish(change, Batch::default());
            Ok(())
        });
        if let Err(error) = applied {
            let (container, error) = (container.short_id(), error.chain());
            tracing::error!(container, error, "its ports and names stay with those who stay in it");
        }
    }

    /// What the resolver is to answer in a sandbox whose container is gone.
    fn names_of_nobody(
        &self,
        sandbox: &SandboxId,
        endpoints: &[Arc<cnm::Endpoint>],
    ) -> SandboxNames {
        let networks =
            endpoints.iter().filter_map(|e| self.networks.network(e.network.as_str()).ok());
        let networks: Vec<_> = networks.collect();
        let view = SandboxView {
            sandbox: sandbox.clone(),
            networks: networks.iter().map(|network| network.id.clone()).collect(),
            private: BTreeMap::new(),
            upstreams: self.settings.dns.clone(),
            forward: networks.iter().any(|network| !network.internal),
            ttl: TTL,
        };
        SandboxNames { view, resolver: !networks.is_empty(), endpoints: Vec::new() }
    }

    // === After a daemon ===

    /// The sandboxes that running containers live in beside their own ones, with a process of each.
    pub(super) fn lodgings(&self, alive: &HashMap<ContainerId, i32>) -> HashMap<SandboxId, i32> {
        let lodging = |(id, pid): (&ContainerId, &i32)| {
            let lodger = self.registry.find(id).ok()?.get();
            Some((lodger.joined.clone()?, *pid))
        };
        alive.iter().filter_map(lodging).collect()
    }

    /// What the resolver is to serve for sandboxes that only lodgers live in.
    pub(super) fn serve_lodgings(
        &self,
        alive: &HashMap<ContainerId, i32>,
    ) -> Vec<(SandboxNames, Vec<HeldPort>)> {
        let serve = |id: &SandboxId| {
            let (sandbox, endpoints) = self.networks.sandbox(id).ok()?;
            if alive.contains_key(sandbox.owner.as_str()) {
                return None;
            }
            let owner = self.registry.find(&sandbox.owner).ok();
            let names = owner.and_then(|o| self.sandbox_names(&o.get(), &sandbox, &endpoints).ok());
            let names = names.unwrap_or_else(|| self.names_of_nobody(id, &endpoints));
            Some((names, self.networks.held_ports(id)))
        };
        self.lodgings(alive).keys().filter_map(serve).collect()
    }

    /// Containers that do not run forget sandboxes that are gone.
    pub(super) fn forget_lost_sandboxes(&self, alive: &HashMap<ContainerId, i32>) {
        for live in self.registry.all() {
            let container = live.get();
            let lost = container.sandbox.is_some() && self.kept_sandbox(&container).is_none();
            if lost && !container.state.has_process() && !alive.contains_key(&container.id) {
                live.change(forget_networks);
            }
        }
    }
}
