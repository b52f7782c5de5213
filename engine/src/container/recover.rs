//! Taking up what an earlier daemon left, whichever instruction it ended at.
//!
//! What runs is known by its shim, not by the records: the shim is asked. Everything else follows.
//! Unfinished changes are decided, sandboxes that nobody lives in are removed, the kernel is made
//! what the model says, and the containers that ended meanwhile end now.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use cnm::store::record::Unreadable;
use cnm::store::{Batch, Durability};
use cnm::{Controller, Endpoint, Sandbox, Store};
use dns::protocol::HeldPort;
use futures_util::StreamExt;

use super::join::{Place, host_names};
use super::live::Live;
use super::monitor::{is_gone, of_protocol};
use super::record::Stored;
use super::remove::is_removed;
use super::state::{Exit, Next};
use super::{Container, ContainerId, Containers, Status};
use crate::network::SandboxNames;
use engine_error::{Error, Result};
use runtime::spec::Namespace;
use shim::client::{self, ShimClient, ShimError};

/// How many shims are asked at once.
const SHIMS_AT_ONCE: usize = 64;
/// How long a shim may take to say how its container is.
const SHIM_PATIENCE: Duration = Duration::from_secs(10);
/// The same where nothing else tells whether its container runs: one whose start was not written down
/// before the daemon was killed, on a machine whose disk is busy.
const LAST_PATIENCE: Duration = Duration::from_secs(60);

impl Containers {
    /// Takes up what is there, and tells of the records that it cannot read. Blocks.
    pub(crate) fn recover(self: &Arc<Self>, store: &dyn Store) -> Result<Vec<Unreadable>> {
        let Stored { containers, lost, unreadable } = Stored::read(store)?;
        self.load(containers);
        self.adopt_links();
        for id in &lost {
            self.images.doubt(format!("container {id} cannot be read"));
            self.volumes.doubt(format!("container {id} cannot be read"));
        }
        let alive = self.living();
        // What runs may not lose its network because its record cannot be read.
        let unknown = |owner: &str| lost.contains(owner) && self.settings.shim_dir(owner).is_dir();
        let lives = |owner: &str| alive.contains_key(owner) || unknown(owner);
        self.networks.settle_intents(lives);
        let lodgings = self.lodgings(&alive);
        self.close_abandoned(|sandbox| lives(&sandbox.owner) || lodgings.contains_key(&sandbox.id));
        self.forget_lost_sandboxes(&alive);
        self.networks.predefine(&self.settings)?;
        self.networks.pin_again(|sandbox| {
            let own = alive.get(sandbox.owner.as_str());
            own.or_else(|| lodgings.get(&sandbox.id)).copied()
        });
        self.networks.heal();
        self.adopt(&alive)?;
        self.bury(&alive);
        self.take_up_volumes(alive.keys());
        self.sweep_shared_memory();
        self.sweep(&lost);
        self.networks.keep_healed()?;
        self.networks.watch_overlaps()?;
        let containers = Arc::downgrade(self);
        self.networks.keep_leases(Box::new(move |sandbox, network, lent| {
            let containers = containers.upgrade();
            containers.map_or(Ok(()), |containers| containers.renumber(sandbox, network, lent))
        }))?;
        self.tasks.spawn(self.networks.keep_paying());
        self.networks.keep_paying_plugins()?;
        self.runner.prepare_next_shim();
        Ok(unreadable)
    }

    fn load(&self, containers: Vec<(String, Container)>) {
        for (key, mut container) in containers {
            if is_removed(&container) {
                tracing::info!(container = container.short_id(), "finish a removal");
                let mut records = Batch::default();
                records.delete(key);
                let forget = |model: &mut Controller| model.forget_owner(&container.id);
                self.networks.note(forget, records, Durability::Immediate);
            } else {
                self.keep_mounts(&key, &container);
                // Earlier releases noted nothing of a root that is a copy.
                if container.graph_data.is_empty()
                    && let Ok(image) = self.images.find(&container.image)
                {
                    container.graph_data = self.images.driver_data(&image);
                }
                match container.image.parse() {
                    Ok(image) => self.images.keep(&container.id, image, &container.graph_data),
                    Err(error) => self.images.doubt(format!("{key}: {error}")),
                }
                self.registry.insert(Arc::new(Live::new(container)));
            }
        }
    }

    /// The containers that run, with their processes.
    fn living(&self) -> HashMap<ContainerId, i32> {
        let asked = self.registry.all().into_iter().filter_map(|live| {
            let container = live.get();
            let directory = self.settings.shim_dir(&container.id);
            directory.is_dir().then(|| process_of(container, ShimClient::new(directory)))
        });
        // One that hangs costs the others nothing.
        let asked = futures_util::stream::iter(asked).buffer_unordered(SHIMS_AT_ONCE);
        let alive = asked.filter_map(std::future::ready).collect();
        self.tasks.handle().block_on(alive)
    }

    /// Removes the sandboxes whose owners do not run.
    fn close_abandoned(&self, is_used: impl Fn(&Sandbox) -> bool) {
        let sandboxes = self.networks.controller().sandboxes();
        for sandbox in sandboxes.iter().filter(|sandbox| !is_used(sandbox)) {
            if let Err(error) = self.networks.close(&sandbox.id, Batch::default()) {
                let (sandbox, error) = (sandbox.id.short(), error.chain());
                tracing::error!(sandbox, error, "cannot remove the sandbox of an ended container");
            }
        }
    }

    /// Goes on with the containers that run: their networks, their names, the watch over them. One
    /// that cannot be taken up as it was runs on and says why; the others do not suffer.
    fn adopt(&self, alive: &HashMap<ContainerId, i32>) -> Result<()> {
        let lodgings = self.serve_lodgings(alive);
        let mut alive: Vec<_> = alive
            .iter()
            .filter_map(|(id, pid)| Some((self.registry.find(id).ok()?, *pid)))
            .collect();
        // Who shares another's sandbox comes after it.
        alive.sort_by_key(|(live, _)| live.get().spec.network_mode().container().is_some());
        for (live, pid) in &alive {
            self.adopt_process(live, *pid);
        }
        let mut served = lodgings;
        for (live, _) in &alive {
            match self.adopt_networks(live) {
                Ok(own) => served.extend(own),
                Err(error) => {
                    let text = format!("cannot take up its networks: {}", error.chain());
                    tracing::error!(container = live.get().short_id(), "{text}");
                    live.change(|container| container.state.error = text);
                }
            }
        }
        self.networks.start_resolver(served)?;
        // All of them are known only now.
        self.follow_all();
        for (live, _) in alive {
            let shim = Arc::new(ShimClient::new(self.settings.shim_dir(&live.get().id)));
            live.set_shim(shim.clone());
            self.monitor(live.clone(), shim);
            self.finish_update(&live);
            self.watch_health(&live);
            self.watch_readiness(&live);
            self.drain(&live);
        }
        Ok(())
    }

    /// A container runs, whatever its record says.
    fn adopt_process(&self, live: &Live, pid: i32) {
        live.change(|container| {
            if !container.state.has_process() {
                // It was started, and the daemon ended before it had written that down.
                let started = client::started(&self.settings.shim_dir(&container.id));
                container.state.start(pid, started.map_or_else(Utc::now, DateTime::from));
            }
            container.state.pid = pid;
        });
        live.progress.send_modify(|progress| progress.running = true);
    }

    /// What a running container has of networks, as the model knows it; returns what the resolver
    /// is to serve for it, if it has a sandbox of its own.
    fn adopt_networks(&self, live: &Live) -> Result<Option<(SandboxNames, Vec<HeldPort>)>> {
        let mut container = Container::clone(&live.get());
        let mut served = None;
        // The container that it lodges with may be gone.
        if let Some(id) = container.joined.as_ref().filter(|id| self.networks.sandbox(id).is_ok()) {
            let key = self.networks.kernel().namespace_path(id);
            live.change(|container| container.sandbox_key = key);
            return Ok(None);
        }
        match self.place(&container)? {
            Place::Own => {
                let (sandbox, endpoints) = self.sandbox_of(&container.id)?;
                container.sandbox = Some(sandbox.id.clone());
                container.sandbox_key = self.networks.kernel().namespace_path(&sandbox.id);
                container.ports.clone_from(&sandbox.ports);
                container.endpoints = self.endpoint_views(&container, &endpoints)?;
                let held = self.networks.held_ports(&sandbox.id);
                served = Some((self.sandbox_names(&container, &sandbox, &endpoints)?, held));
            }
            Place::Shared(other) => {
                let (namespace, sandbox) = self.shared_sandbox(&other)?;
                container.joined = sandbox;
                if let Namespace::Path(path) = namespace {
                    container.sandbox_key = path;
                }
            }
            Place::Host => {
                served = Some(self.networks.adopt_on_host(host_names(&container))?);
            }
        }
        self.note(&container, Durability::Eventual);
        live.change(|known| *known = container);
        Ok(served)
    }

    /// The sandbox that a container has of its own.
    fn sandbox_of(&self, id: &ContainerId) -> Result<(Arc<Sandbox>, Vec<Arc<Endpoint>>)> {
        let sandboxes = self.networks.controller().sandboxes();
        let own = sandboxes.iter().find(|sandbox| sandbox.owner == id.as_str());
        let lost = || Error::not_found(format!("no sandbox belongs to container {id}"));
        self.networks.sandbox(&own.ok_or_else(lost)?.id)
    }

    /// Notes the ends of containers that ran when the daemon before this one ended.
    fn bury(self: &Arc<Self>, alive: &HashMap<ContainerId, i32>) {
        for live in self.registry.all() {
            let container = live.get();
            let directory = self.settings.shim_dir(&container.id);
            let ran = container.state.has_process() || directory.is_dir();
            if alive.contains_key(&container.id) || !ran {
                continue;
            }
            let known = client::exit(&directory).map(|exit| of_protocol(&exit));
            let lost = known.is_none();
            if container.state.has_process() || !lost {
                let exit = known.unwrap_or_else(|| Exit::unseen(Utc::now()));
                let next = self.record_end(&live, exit);
                self.clean_up(&live.get(), lost);
                self.settle_end(&live, next);
            } else {
                // A start that did not come to its end.
                self.clean_up(&container, true);
            }
        }
    }

    /// Removes directories, and what is in them, that no container has, not even one of those whose
    /// records are lost.
    fn sweep(&self, lost: &HashSet<String>) {
        let own: HashSet<ContainerId> =
            self.registry.all().iter().map(|live| live.get().id.clone()).collect();
        let known = |id: &String| own.contains(id.as_str()) || lost.contains(id);
        let root = self.settings.runtime_root();
        let shims = self.settings.exec_root.join("shim");
        for id in names(&shims).chain(names(&root)).filter(|id| !known(id)) {
            tracing::info!(container = id, "remove a run that belongs to no container");
            self.runner.clear(&id, None, true);
        }
        let containers = self.settings.data_root.join("containers");
        for id in names(&containers).filter(|id| !known(id)) {
            remove(&containers.join(&id));
        }
    }

    /// Starts what its policy wants to run, and removes what was to go with its end.
    pub(crate) fn resume(self: &Arc<Self>) {
        for live in self.registry.all() {
            let container = live.get();
            if container.state.starts_with_daemon(container.spec.restart) {
                if container.state.status == Status::Exited {
                    live.change(|container| container.state.status = Status::Restarting);
                }
                self.restart_after(live, container.state.restart_delay);
            } else if container.spec.auto_remove && container.state.status == Status::Exited {
                self.settle_end(&live, Next::Rest);
            }
        }
    }
}

/// The process of a container, asked of its shim. One that is there and does not answer is no reason
/// to take its container for dead.
async fn process_of(container: Arc<Container>, shim: ShimClient) -> Option<(ContainerId, i32)> {
    let id = container.id.clone();
    let patience = if container.state.pid > 0 { SHIM_PATIENCE } else { LAST_PATIENCE };
    match tokio::time::timeout(patience, shim.status()).await {
        Ok(Ok(status)) => status.pid.map(|pid| (id, pid)),
        Ok(Err(ShimError::Gone { source, .. })) if is_gone(&source) => {
            tracing::debug!(container = id.short(), error = %source, "no shim");
            None
        }
        silent => {
            let pid = container.state.pid;
            let runs = pid > 0 && Path::new(&format!("/proc/{pid}")).exists();
            tracing::warn!(container = id.short(), runs, ?silent, "its shim does not answer");
            runs.then_some((id, pid))
        }
    }
}

fn names(directory: &Path) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}

fn remove(directory: &Path) {
    if let Err(error) = fs::remove_dir_all(directory)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(%error, dir = %directory.display(), "cannot remove");
    }
}
