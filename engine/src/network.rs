//! Networks of the engine: the controller, the kernel, the resolver and the store put together.
//!
//! Every change goes the same way: what it needs of the host is claimed, the controller decides
//! under its lock, the intent is made durable, the difference is applied, names are published, and
//! the change is committed. No lock is held over I/O, and nobody waits for somebody else's change:
//! healing goes by networks and sandboxes, and leaves those alone that are being changed.

mod brief;
mod chance;
mod change;
mod claims;
mod difference;
mod flows;
mod heal;
mod journal;
mod leases;
mod offer;
mod on_host;
mod operations;
mod overlaps;
mod ports;
mod predefined;
mod recovery;
mod remote;
mod resolver;
mod shared;
mod turns;
mod update;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use cnm::controller::{
    Claims, ControllerConfig, ControllerError, FirstJoin, HostFacts, JoinSpec, PortSpec,
    PortsChange, SandboxSpec, Subject,
};
use cnm::sandbox::Passage;
use cnm::store::{Batch, Durability};
use cnm::{
    Controller, Endpoint, Network, NetworkId, Plan, Sandbox, SandboxId, Store, Transaction, diff,
};
use drivers::kernel::{Announcements, Host, Linux, LinuxConfig, UserNamespace};

use crate::events::Events;
use crate::plugins::Plugins;
use crate::settings::Settings;
use brief::Brief;
pub(crate) use chance::Chance;
pub(crate) use change::Change;
use change::Connections;
use claims::Claimed;
use engine_error::{Error, Result};
use journal::Journal;
use leases::Leases;
use offer::Offer;
pub(crate) use on_host::HostNames;
pub use operations::Filters;
pub(crate) use overlaps::Overlap;
use ports::{ephemeral_ports, held, ports_of};
use remote::{Asking, Remote};
use resolver::Resolver;
pub(crate) use resolver::{NetworkNames, SandboxNames};
pub(crate) use shared::{Draft, Published, Sharing};
use turns::Turns;
pub(crate) use update::Updated;

/// The networks of one daemon.
#[derive(Debug)]
pub struct Networks {
    controller: Mutex<Controller>,
    journal: Journal,
    kernel: Arc<dyn Host>,
    resolver: Resolver,
    events: Arc<Events>,
    turns: Turns,
    update_ends: update::Ends,
    /// Plugins, and what they hold for us.
    remote: Remote,
    /// What DHCP servers lend.
    leases: Leases,
    /// Who shares networks with other hosts, if somebody does.
    sharing: Mutex<Option<Arc<dyn Sharing>>>,
    /// Held while one of those networks appears on this host, or goes.
    appearing: Mutex<()>,
    overlaps_told: Mutex<overlaps::Told>,
    /// Whether nothing is to be in the kernel any more.
    at_rest: AtomicBool,
    /// Whether records could not be read: what the kernel has and no record tells of may be theirs.
    doubted: bool,
    /// What could not be healed last.
    ill: Mutex<Vec<heal::Ill>>,
    /// Containers in the host's namespace that run, by their ids.
    on_host: Mutex<BTreeMap<String, HostNames>>,
}

/// A network that is being created.
type Begun = (Arc<Network>, Transaction);

impl Networks {
    /// Opens the model and the kernel, and takes up the resolver that an earlier daemon left.
    pub(crate) fn open(
        settings: &Settings,
        store: Arc<dyn Store>,
        events: Arc<Events>,
    ) -> Result<Self> {
        let socket = settings.exec_root.join("dns.sock");
        let kernel = Linux::open(LinuxConfig {
            namespaces: settings.pins(),
            table: settings.table.clone(),
            tag: settings.tag.clone(),
            owner: resolver::take_owner(&socket)?.map(Arc::new),
            ownership: drivers::kernel::nft::Ownership::Preferred,
            forwarding: settings.forwarding(),
        })?;
        Self::on(Arc::new(kernel), settings, store, events)
    }

    /// Opens the model over a kernel.
    pub(crate) fn on(
        kernel: Arc<dyn Host>,
        settings: &Settings,
        store: Arc<dyn Store>,
        events: Arc<Events>,
    ) -> Result<Self> {
        let planner = Arc::new(drivers::Drivers);
        let controller = Controller::load(store.as_ref(), planner, controller_config(settings))?;
        let resolver = Resolver::new(
            settings.exec_root.join("dns.sock"),
            settings.binary("rnet-dns"),
            settings.resolv_conf.clone(),
            kernel.clone(),
        )?;
        let doubted = !controller.unreadable().is_empty()
            || !cnm::store::record::set_aside_in(store.as_ref())?.is_empty();
        let remote = Remote::open(settings, store.as_ref())?;
        let networks = Self {
            controller: Mutex::new(controller),
            remote,
            doubted,
            leases: Leases::read(store.as_ref())?,
            overlaps_told: Mutex::default(),
            sharing: Mutex::default(),
            appearing: Mutex::default(),
            journal: Journal::new(store),
            kernel,
            resolver,
            events,
            turns: Turns::default(),
            update_ends: update::Ends::default(),
            at_rest: AtomicBool::default(),
            ill: Mutex::default(),
            on_host: Mutex::default(),
        };
        networks.follow_egress();
        Ok(networks)
    }

    /// The plugins of this machine, whatever they are good for.
    pub(crate) fn plugins(&self) -> Arc<Plugins> {
        self.remote.plugins()
    }

    /// The kernel below.
    pub(crate) fn kernel(&self) -> &dyn Host {
        self.kernel.as_ref()
    }

    /// The model.
    pub(crate) fn controller(&self) -> MutexGuard<'_, Controller> {
        self.controller.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The network with this full id, name or unique id prefix.
    pub fn network(&self, key: &str) -> Result<Arc<Network>> {
        let found = self.controller().network(key);
        match found {
            Err(error) if cnm::HasKind::kind(&error) == cnm::Kind::NotFound => {
                Err(self.missing(key).unwrap_or_else(|| error.into()))
            }
            found => Ok(found?),
        }
    }

    // === Sandboxes ===

    /// Decides on a sandbox with its endpoints and ports. Host ports are bound when this returns.
    ///
    /// Its namespace is new, or the one that is handed over: that belongs to a user namespace.
    pub(crate) fn begin_open(
        &self,
        spec: &SandboxSpec,
        owned: Option<UserNamespace>,
    ) -> Result<Change> {
        let SandboxSpec { owner, sysctls, joins, ports, .. } = spec;
        let offer = &Offer::new(owned);
        self.claim_macs(joins, owner)?;
        let asked = self.ask(&Asking { sandbox: None, owner, sysctls, joins, ports, offer })?;
        let ((_, mut transaction), claimed) = self.decide(asked, |model, claims| {
            model.begin_create_sandbox(spec, claims, &mut Chance, now())
        })?;
        self.found_ahead(&claimed, &mut transaction);
        let change = Change::of(transaction, claimed)?;
        if let Some(owned) = offer.take() {
            self.kernel.offer(&change.sandbox.id, Some(owned));
        }
        Ok(change)
    }

    /// Decides that a sandbox joins one more network. With its first one it gets these ports, which
    /// are bound when this returns.
    pub(crate) fn begin_join(
        &self,
        sandbox: &SandboxId,
        join: &JoinSpec,
        ports: &[PortSpec],
    ) -> Result<Change> {
        let (known, endpoints) = self.sandbox(sandbox)?;
        let is_first = endpoints.is_empty();
        let (owner, sysctls, joins) = (&known.owner, &known.sysctls, std::slice::from_ref(join));
        self.claim_macs(joins, owner)?;
        let offer = &Offer::default();
        let asking = Asking { sandbox: Some(sandbox), owner, sysctls, joins, ports, offer };
        let asked = self.ask(&asking)?;
        let (transaction, claimed) = self.decide(asked, |model, claims| {
            if is_first {
                let first = FirstJoin { join, ports };
                return model.begin_first_join(sandbox, &first, claims, &mut Chance, now());
            }
            model.begin_join(sandbox, join, claims, &mut Chance, now())
        })?;
        Change::of(transaction, claimed)
    }

    /// Decides that a sandbox leaves a network.
    pub(crate) fn begin_leave(&self, sandbox: &SandboxId, network: &NetworkId) -> Result<Change> {
        let leave = |model: &mut Controller| model.begin_leave(sandbox, network, now());
        let transaction = self.once_settled(leave)?;
        Change::of(transaction, Claimed::default())
    }

    /// Decides that a sandbox publishes, withdraws, opens and closes ports. Those that are new are bound when this
    /// returns.
    pub(crate) fn begin_change_ports(
        &self,
        sandbox: &SandboxId,
        change: &PortsChange<'_>,
    ) -> Result<Change> {
        let begin = |model: &mut Controller, claims: &Claims| {
            model.begin_change_ports(sandbox, change, claims)
        };
        let (transaction, claimed) = self.decide(Claimed::default(), begin)?;
        let before = transaction.sandbox_before();
        let carried = before.map(|b| self.controller().carried(&b.sandbox, &b.endpoints));
        let mut change = Change::of(transaction, claimed)?;
        let withdrawn: BTreeSet<_> = change.withdrawn.iter().collect();
        let carried = carried.into_iter().flatten().filter(|(port, _)| withdrawn.contains(port));
        change.carried = carried.collect();
        Ok(change)
    }

    /// Decides what a sandbox may talk to where neighbours do not talk; nothing if it may already.
    pub(crate) fn begin_change_passages(
        &self,
        sandbox: &SandboxId,
        passages: &[Passage],
    ) -> Result<Option<Change>> {
        if self.sandbox(sandbox)?.0.passages == passages {
            return Ok(None);
        }
        let change =
            |model: &mut Controller| model.begin_change_passages(sandbox, passages.to_vec(), now());
        let transaction = self.once_settled(change)?;
        Change::of(transaction, Claimed::default()).map(Some)
    }

    /// Makes a decided change true: the intent becomes durable, the kernel follows, and names are
    /// answered when this returns. After an error nothing of it is left in the kernel, and the
    /// change is to be [abandoned](Self::abandon). Neighbours are still to be told, and
    /// [flows](Self::redirect_flows) to be led where they belong.
    ///
    /// `made` is called when the namespace of the change is there, and before anything is in it.
    pub(crate) fn apply(
        &self,
        change: &Change,
        served: &SandboxNames,
        made: &(dyn Fn() + Sync),
    ) -> Result<Announcements> {
        let transaction = &change.transaction;
        let mut intent = self.controller().intent(transaction);
        // What is lent is given back whatever happens from here on.
        intent.extend(leases::records(&change.endpoints, &change.lent));
        self.write_ahead(intent)?;
        let plan = diff(&transaction.before, &transaction.after);
        let sandbox = change.sandbox.id.short();
        tracing::debug!(sandbox, plan = %Brief(&plan), "apply");
        let begun = Instant::now();
        let turn = self.turns.take(&transaction.subject);
        let applied =
            self.kernel.apply_ahead(&plan, &transaction.probes, made).map_err(Error::from);
        // Others are not to wait for the resolver's process.
        drop(turn);
        let applied = applied.and_then(|announced| {
            tracing::debug!(sandbox, elapsed = ?begun.elapsed(), "applied");
            let carried = self.controller().carried(&change.sandbox, &change.endpoints);
            let all = ports_of(&change.sandbox, &carried);
            self.resolver.serve(served, &all, &held(change, &carried), change.connections)?;
            Ok(announced)
        });
        tracing::debug!(sandbox, elapsed = ?begun.elapsed(), "served");
        let applied = applied.and_then(|announced| self.lead_outside(change).map(|()| announced));
        applied.inspect_err(|_| self.undo(change))
    }

    /// Makes an applied change part of the model, together with records of the caller's.
    pub(crate) fn finish(&self, mut change: Change, mut records: Batch) {
        records.extend(self.ledger_of(&change));
        let lent = std::mem::take(&mut change.lent);
        self.keep_lent(&change.endpoints, lent);
        records.extend(self.return_left(&change.gone));
        let told = self.tell_change(&change);
        records.extend(told.clone());
        self.note(|model| model.commit(change.transaction), records, Durability::Eventual);
        self.send(&told);
        self.give_back(&change.gone);
    }

    /// Gives up a change that was applied; the kernel and the resolver forget it.
    pub(crate) fn undo(&self, change: &Change) {
        if self.sandbox(&change.sandbox.id).is_err() {
            self.resolver.release(&change.sandbox.id);
        }
        let Transaction { subject, before, after, .. } = &change.transaction;
        self.take_down(subject, &diff(after, before));
    }

    /// Gives back what a change took from the model.
    pub(crate) fn abandon(&self, change: Change) {
        self.kernel.offer(&change.sandbox.id, None);
        self.take_back_from(&change.transaction);
        let mut records = Batch::default();
        for (key, _) in leases::records(&change.endpoints, &change.lent).writes {
            records.delete(key);
        }
        change.lent.iter().for_each(|holding| self.return_lease(holding));
        self.unclaim_shared(&change.claimed);
        let forget = |model: &mut Controller| model.abort(change.transaction);
        self.note(forget, records, Durability::Eventual);
        self.give_back(change.endpoints.iter().map(|endpoint| &endpoint.id));
    }

    /// Removes a sandbox whose processes are gone. `records` become durable with the intent, before
    /// anything happens. If they cannot, it is removed all the same and they are owed: until they
    /// are written, a restart finds a sandbox that nobody lives in, and removes it.
    pub(crate) fn close(&self, sandbox: &SandboxId, records: Batch) -> Result<()> {
        let Ok((old, endpoints)) = self.sandbox(sandbox) else {
            self.note(|_| Batch::default(), records, Durability::Immediate);
            return Ok(());
        };
        let remove = |model: &mut Controller| model.begin_remove_sandbox(sandbox, now());
        let transaction = self.once_settled(remove)?;
        let mut intent = self.controller().intent(&transaction);
        intent.extend(records.clone());
        let (mut owed, durability) = match self.write_ahead(intent) {
            Ok(()) => (Batch::default(), Durability::Eventual),
            Err(error) => {
                tracing::warn!(sandbox = sandbox.short(), error = error.chain(), "no intent");
                (records, Durability::Immediate)
            }
        };
        self.resolver.withdraw(sandbox);
        owed.extend(self.return_leases(sandbox, &endpoints));
        let told = self.tell_gone(&old, &endpoints);
        owed.extend(told.clone());
        let plan = diff(&transaction.before, &transaction.after);
        self.take_down(&transaction.subject, &plan);
        self.resolver.release(sandbox);
        self.forget_flows(&old, &endpoints);
        self.note(|model| model.commit(transaction), owed, durability);
        self.send(&told);
        self.give_back(endpoints.iter().map(|endpoint| &endpoint.id));
        Ok(())
    }

    /// Replaces what the resolver answers for a sandbox: after a rename.
    pub(crate) fn publish(&self, served: &SandboxNames) -> Result<()> {
        let ports = self.held_ports(&served.view.sandbox);
        self.resolver.serve(served, &ports, &[], Connections::End)?;
        self.tell_names(&served.view.sandbox);
        Ok(())
    }

    /// A sandbox with its endpoints.
    pub(crate) fn sandbox(&self, id: &SandboxId) -> Result<(Arc<Sandbox>, Vec<Arc<Endpoint>>)> {
        let missing = || Error::not_found(format!("sandbox {id} not found"));
        self.controller().sandbox(id).ok_or_else(missing)
    }

    // === Networks ===

    fn create_by(
        &self,
        begin: impl FnOnce(&mut Controller, &HostFacts) -> Result<Begun, ControllerError>,
    ) -> Result<(Arc<Network>, Vec<String>)> {
        let facts = self.kernel.host_facts()?;
        let decided = begin(&mut self.controller(), &facts);
        // As long as somebody has it, the next change of the host copies it, and all links with it.
        drop(facts);
        let (network, transaction) = decided?;
        let (none, durability) = (Batch::default(), Durability::Immediate);
        if let Err(error) = self.kernel.supports(&network.driver.kinds(&network)) {
            self.note(|model| model.abort(transaction), none, Durability::Eventual);
            return Err(error.into());
        }
        let warnings = transaction.warnings.clone();
        let intent = self.controller().intent(&transaction);
        let plan = diff(&transaction.before, &transaction.after);
        tracing::debug!(network = network.name, %plan, "apply");
        let stored = self.write_ahead(intent);
        let turn = self.turns.take(&transaction.subject);
        let applied = stored.and_then(|()| self.kernel.apply(&plan).map_err(Error::from));
        drop(turn);
        let applied = applied.and_then(|()| self.have_network_made(&network));
        if let Err(error) = applied {
            let undo = diff(&transaction.after, &transaction.before);
            self.take_down(&transaction.subject, &undo);
            self.note(|model| model.abort(transaction), none, durability);
            self.give_back_network(&network.id);
            return Err(error);
        }
        let undo = diff(&transaction.after, &transaction.before);
        let written = self.write(|model| Ok(model.commit(transaction)), none, durability);
        if let Err(error) = written {
            // The next start would give it up: so nobody may use it now.
            let removal = self.controller().begin_remove_predefined(&network.id)?;
            self.take_down(&removal.subject, &undo);
            self.note(|model| model.commit(removal), Batch::default(), durability);
            self.give_back_network(&network.id);
            return Err(error);
        }
        Ok((network, warnings))
    }

    fn remove_by(
        &self,
        begin: impl FnMut(&mut Controller) -> Result<Transaction, ControllerError>,
    ) -> Result<()> {
        let transaction = self.once_settled(begin)?;
        let intent = self.controller().intent(&transaction);
        let none = Batch::default();
        if let Err(error) = self.write_ahead(intent) {
            self.note(|model| model.abort(transaction), none, Durability::Eventual);
            return Err(error);
        }
        let plan = diff(&transaction.before, &transaction.after);
        self.take_down(&transaction.subject, &plan);
        self.note(|model| model.commit(transaction), none, Durability::Immediate);
        Ok(())
    }

    /// Removes objects of the kernel's for a network or sandbox, as far as that goes.
    fn take_down(&self, subject: &Subject, plan: &Plan) {
        let _turn = self.turns.take(subject);
        self.dismantle(plan);
    }

    /// Removes objects of the kernel's, as far as that goes. The caller has the turn.
    fn dismantle(&self, plan: &Plan) {
        tracing::debug!(plan = %Brief(plan), "dismantle");
        for error in self.kernel.dismantle(plan) {
            tracing::warn!(error = Error::from(error).chain(), "cannot dismantle");
        }
    }
}

fn controller_config(settings: &Settings) -> ControllerConfig {
    let mut config = ControllerConfig {
        default_options: settings.default_network_options.clone(),
        ephemeral_ports: ephemeral_ports(),
        ..ControllerConfig::default()
    };
    if !settings.default_pools.is_empty() {
        config.default_pools.clone_from(&settings.default_pools);
    }
    config
}

/// Nanoseconds since the Unix epoch.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
