//! The model, the store and the kernel, for the length of one call and for nobody else.
//!
//! A lock makes calls wait for each other. What a call that was killed left unfinished is settled
//! by the next one: nobody was told that it was done, so what was to come is given up, and what
//! was to go goes.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use cnm::controller::{
    ChangeKind, Claims, ControllerConfig, Decision, Entropy, SandboxSpec, Transaction,
};
use cnm::store::{Batch, Disk, Durability, Store};
use cnm::{
    Controller, Endpoint, Key, Network, NetworkSpec, PortBinding, Sandbox, SandboxId, State, Value,
    diff,
};
use drivers::kernel::nft::Ownership;
use drivers::kernel::{Forwarding, Kernel, KernelError, Linux, LinuxConfig, Netns};
use ipnetwork::IpNetwork;

use crate::result::{Code, Failure};

/// The nf_tables table, which no daemon has.
pub(crate) const TABLE: &str = "rnet_cni";

/// The mark of links, which no daemon has.
pub(crate) const TAG: &str = "rnet-cni";

/// The record that says in which run of the machine the others were written.
const BOOT_KEY: &str = "meta/boot";

/// All that one call works with.
#[derive(Debug)]
pub(crate) struct Standalone {
    pub(crate) controller: Controller,
    pub(crate) kernel: Linux,
    store: Disk,
    /// Let go of last.
    _lock: File,
}

/// The chance of the operating system.
#[derive(Debug)]
struct Chance;

impl Entropy for Chance {
    fn bytes(&mut self) -> [u8; 32] {
        let mut bytes = [0; 32];
        // Every Linux that has what else is needed here has getrandom(2).
        getrandom::fill(&mut bytes).unwrap_or_else(|error| unreachable!("{error}"));
        bytes
    }
}

impl Standalone {
    /// Waits for other calls to end, and takes up what they left.
    pub(crate) fn open(directory: &Path) -> Result<Self, Failure> {
        let lock = lock(directory)?;
        let path = directory.join("store.redb");
        let store = Disk::open(&path)?;
        let rebooted = forget_earlier_boots(&store)?;
        let controller =
            Controller::load(&store, Arc::new(drivers::Drivers), ControllerConfig::default())?;
        let kernel = Linux::open(kernel_config(directory))?;
        let mut standalone = Self { controller, kernel, store, _lock: lock };
        let settled = standalone.settle()?;
        if rebooted || settled {
            standalone.heal()?;
        }
        Ok(standalone)
    }

    // === Networks ===

    /// The network with this name, made if there is none.
    pub(crate) fn network(
        &mut self,
        name: &str,
        spec: impl FnOnce(&str) -> NetworkSpec,
    ) -> Result<Arc<Network>, Failure> {
        self.heal_if_damaged()?;
        let name = network_name(name);
        if let Ok(network) = self.controller.network(&name) {
            if !self.controller.endpoints_of(&network.id).is_empty() {
                return Ok(network);
            }
            // A killed ADD made it, perhaps with a configuration that has changed since.
            self.remove_network(&network)?;
        }
        let facts = self.kernel.host_facts()?;
        let (network, transaction) =
            self.controller.begin_create_network(&spec(&name), &facts, &mut Chance, now())?;
        self.write_intent(&transaction)?;
        let plan = diff(&transaction.before, &transaction.after);
        if let Err(error) = self.kernel.apply(&plan) {
            self.undo(transaction)?;
            return Err(error.into());
        }
        self.commit(transaction)?;
        Ok(network)
    }

    /// The network with this name.
    pub(crate) fn known_network(&self, name: &str) -> Option<Arc<Network>> {
        self.controller.network(&network_name(name)).ok()
    }

    /// Removes what nobody uses: the network, if nobody is attached to it any more, and with the
    /// last network the table.
    pub(crate) fn tidy(&mut self, network: Option<&Network>) -> Result<(), Failure> {
        if let Some(network) = network
            && self.controller.endpoints_of(&network.id).is_empty()
        {
            self.remove_network(network)?;
        }
        if self.controller.networks().is_empty() {
            self.kernel.remove_table()?;
        }
        Ok(())
    }

    fn remove_network(&mut self, network: &Network) -> Result<(), Failure> {
        let transaction = self.controller.begin_remove_network(&network.id)?;
        self.write_intent(&transaction)?;
        self.dismantle(&transaction.before, &transaction.after)?;
        self.commit(transaction)
    }

    // === Sandboxes ===

    /// The attachment of an owner to a network.
    pub(crate) fn find(
        &self,
        network: &Network,
        owner: &str,
    ) -> Option<(Arc<Sandbox>, Arc<Endpoint>)> {
        self.attached(network).into_iter().find(|(sandbox, _)| sandbox.owner == owner)
    }

    /// All attachments to a network.
    pub(crate) fn attached(&self, network: &Network) -> Vec<(Arc<Sandbox>, Arc<Endpoint>)> {
        let endpoints = self.controller.endpoints_of(&network.id).into_iter();
        let with_sandbox = |endpoint: Arc<Endpoint>| {
            let (sandbox, _) = self.controller.sandbox(&endpoint.sandbox)?;
            Some((sandbox, endpoint))
        };
        endpoints.filter_map(with_sandbox).collect()
    }

    /// Makes a sandbox of a namespace that is there: all of it, or nothing.
    pub(crate) fn attach(
        &mut self,
        spec: &SandboxSpec,
        netns: &Netns,
    ) -> Result<(SandboxId, State), Failure> {
        let mut sockets = Vec::new();
        let host = self.kernel.host_ports();
        // A port is bound for as long as it takes: that shows whether somebody else has it.
        let mut one = |binding: &PortBinding| match host.reserve(binding) {
            Ok(socket) => {
                let free = socket.is_some();
                sockets.extend(socket);
                Ok(free)
            }
            Err(KernelError::Step { source, .. }) => Err(source),
            Err(error) => Err(std::io::Error::other(error)),
        };
        let mut bind = |bindings: &[PortBinding]| bindings.iter().map(&mut one).collect();
        let mut claims = Claims::default();
        let (id, transaction) = loop {
            match self.controller.begin_create_sandbox(spec, &claims, &mut Chance, now())? {
                Decision::Made(made) => break made,
                // No network of the adapter's has addresses that somebody lends.
                Decision::Unclaimed(wanted) => claims.claim_ports(&wanted.ports, &mut bind),
            }
        };
        self.write_intent(&transaction)?;
        if let Err(error) = self.realise(&id, &transaction, netns) {
            self.undo(transaction)?;
            return Err(error.into());
        }
        let state = transaction.after.clone();
        self.commit(transaction)?;
        Ok((id, state))
    }

    fn realise(
        &self,
        id: &SandboxId,
        transaction: &Transaction,
        netns: &Netns,
    ) -> Result<(), KernelError> {
        self.kernel.adopt_namespace(id, netns)?;
        // The namespace is there, and so there is nothing to do about it.
        let mut before = transaction.before.clone();
        before.insert(Key::Namespace { sandbox: id.clone() }, Value::Present);
        self.kernel.apply(&diff(&before, &transaction.after))?;
        let published = transaction.sandbox_after().map_or(&[][..], |live| &live.sandbox.ports);
        self.kernel.flush_ports(published)
    }

    /// Removes a sandbox, and leaves its namespace to whoever made it.
    pub(crate) fn detach(&mut self, id: &SandboxId) -> Result<(), Failure> {
        let Some((sandbox, endpoints)) = self.controller.sandbox(id) else { return Ok(()) };
        let transaction = self.controller.begin_remove_sandbox(id, now())?;
        self.write_intent(&transaction)?;
        self.dismantle(&transaction.before, &transaction.after)?;
        let addresses: Vec<IpAddr> =
            endpoints.iter().flat_map(|e| &e.addresses).map(IpNetwork::ip).collect();
        let ports = self.kernel.flush_ports(&sandbox.ports);
        if let Err(error) = ports.and_then(|()| self.kernel.flush_addresses(&addresses)) {
            warn("connections are not forgotten", &error.into());
        }
        self.commit(transaction)
    }

    // === What was left behind ===

    /// Decides every unfinished change; tells whether there was any.
    fn settle(&mut self) -> Result<bool, Failure> {
        let transactions = self.controller.intents();
        let any = !transactions.is_empty();
        for transaction in transactions {
            let subject = format!("{:?} {:?}", transaction.kind, transaction.subject);
            let _ =
                writeln!(std::io::stderr(), "rnet-cni: settling an unfinished change: {subject}");
            let batch = match transaction.kind {
                ChangeKind::Remove => self.controller.commit(transaction),
                ChangeKind::Create | ChangeKind::Change => self.controller.abort(transaction),
            };
            self.store.commit(&batch, Durability::Immediate)?;
        }
        Ok(any)
    }

    /// Makes the kernel what the model says. A namespace is never made: one that is not pinned is
    /// gone, with all that was in it, and waits for its DEL.
    pub(crate) fn heal(&self) -> Result<(), Failure> {
        let observed = self.kernel.observe()?;
        let mut desired = self.controller.desired();
        for sandbox in self.controller.sandboxes() {
            if observed.get(&Key::Namespace { sandbox: sandbox.id.clone() }).is_none() {
                for (key, _) in self.controller.desired_of(&sandbox.id) {
                    desired.remove(&key);
                }
            }
        }
        for error in self.kernel.dismantle(&diff(&observed, &desired)) {
            warn("something is not as it should be", &error.into());
        }
        Ok(())
    }

    /// Looks at what the host has, without its sandboxes, and heals everything if that is damaged.
    fn heal_if_damaged(&self) -> Result<(), Failure> {
        let of_host = |state: State| -> State {
            state.into_iter().filter(|(key, _)| is_of_host(key)).collect()
        };
        let observed = of_host(self.kernel.observe_only(&BTreeSet::new())?);
        if observed == of_host(self.controller.desired()) { Ok(()) } else { self.heal() }
    }

    // === Transactions ===

    fn write_intent(&self, transaction: &Transaction) -> Result<(), Failure> {
        let intent = self.controller.intent(transaction);
        Ok(self.store.commit(&intent, Durability::Immediate)?)
    }

    fn commit(&mut self, transaction: Transaction) -> Result<(), Failure> {
        let batch = self.controller.commit(transaction);
        Ok(self.store.commit(&batch, Durability::Immediate)?)
    }

    /// Gives up a change that was begun and did not succeed. If that fails too, the intent stays,
    /// and the next call settles it.
    fn undo(&mut self, transaction: Transaction) -> Result<(), Failure> {
        if let Err(failure) = self.dismantle(&transaction.after, &transaction.before) {
            warn("a failed change is not undone", &failure);
            return Ok(());
        }
        let batch = self.controller.abort(transaction);
        Ok(self.store.commit(&batch, Durability::Immediate)?)
    }

    fn dismantle(&self, before: &State, after: &State) -> Result<(), Failure> {
        let mut failures = self.kernel.dismantle(&diff(before, after)).into_iter();
        failures.next().map_or(Ok(()), |first| Err(first.into()))
    }
}

/// The kernel's configuration. Nobody owns the table: the process that would ends with the call.
pub(crate) fn kernel_config(directory: &Path) -> LinuxConfig {
    LinuxConfig {
        namespaces: directory.join("ns"),
        table: TABLE.to_owned(),
        tag: TAG.to_owned(),
        owner: None,
        ownership: Ownership::Declined,
        // A node forwards: other plugins count on it.
        forwarding: Forwarding::Everybodys,
    }
}

/// Makes the directory and waits until nobody else uses it.
pub(crate) fn lock(directory: &Path) -> Result<File, Failure> {
    let unusable = |error: &std::io::Error, path: PathBuf| {
        Failure::caused(Code::Io, format!("cannot use {}", path.display()), error)
    };
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|error| unusable(&error, directory.to_owned()))?;
    let path = directory.join("lock");
    let lock = File::options().create(true).append(true).open(&path);
    let locked = lock.and_then(|lock| lock.lock().map(|()| lock));
    locked.map_err(|error| unusable(&error, path))
}

/// After a reboot nothing of what the store says is there; tells whether there was one.
fn forget_earlier_boots(store: &Disk) -> Result<bool, Failure> {
    const BOOT: &str = "/proc/sys/kernel/random/boot_id";
    let boot = fs::read(BOOT)
        .map_err(|error| Failure::caused(Code::Io, format!("cannot read {BOOT}"), &error))?;
    let before = store.get(BOOT_KEY)?;
    if before.as_ref() == Some(&boot) {
        return Ok(false);
    }
    let mut batch = Batch::default();
    if before.is_some() {
        for prefix in ["network/", "endpoint/", "sandbox/", "lease/", "intent/"] {
            for (key, _) in store.list(prefix)? {
                batch.delete(key);
            }
        }
    }
    batch.put(BOOT_KEY, boot);
    store.commit(&batch, Durability::Immediate)?;
    Ok(before.is_some())
}

/// A network's name in the model, where some names mean something of their own.
fn network_name(name: &str) -> String {
    format!("cni.{name}")
}

/// What a look at the host alone reports.
fn is_of_host(key: &Key) -> bool {
    key.sandbox().is_none() && !matches!(key, Key::Port { .. })
}

/// Nanoseconds since the Unix epoch.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Tells whoever keeps the plugin's stderr, which the runtimes do.
fn warn(what: &str, failure: &Failure) {
    let _ = writeln!(std::io::stderr(), "rnet-cni: {what}: {failure}");
}
