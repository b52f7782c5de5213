//! The containers of an engine, with what their operations need of the rooms below.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, Weak};

use cnm::store::{Batch, Durability};
use cnm::{Endpoint, Kind, NetworkId};

use super::Container;
use super::execs::Execs;
use super::lent::Lent;
use super::registry::Registry;
use super::turns::StartTurns;
use crate::events::Events;
use crate::file_systems::FileSystems;
use crate::network::Networks;
use crate::runner::Runner;
use crate::settings::Settings;
use crate::tasks::Tasks;
use engine_error::{Error, Result};
use image::Images;
use volume::Volumes;

/// All containers, and the operations on them.
///
/// Operations that are not `async` block: a front end calls them on a blocking thread, in a task
/// that owns them, so that a client that hangs up does not leave half of an operation behind. They
/// stand in the modules beside this one, one file each.
#[derive(Debug)]
pub struct Containers {
    pub(super) settings: Arc<Settings>,
    pub(super) events: Arc<Events>,
    pub(super) images: Arc<Images>,
    pub(super) volumes: Arc<Volumes>,
    pub(super) networks: Arc<Networks>,
    pub(super) file_systems: FileSystems,
    pub(super) runner: Runner,
    pub(super) tasks: Arc<Tasks>,
    pub(super) registry: Registry,
    pub(super) execs: Execs,
    pub(super) starts: StartTurns,
    /// What containers are lent, by their ids.
    pub(super) loans: Mutex<Loans>,
    me: Weak<Self>,
}

/// See [`Containers::lend`].
pub(super) type Loans = BTreeMap<String, Lent>;

/// What containers are put together from.
#[derive(Debug)]
pub(crate) struct Below {
    pub(crate) settings: Arc<Settings>,
    pub(crate) events: Arc<Events>,
    pub(crate) images: Arc<Images>,
    pub(crate) volumes: Arc<Volumes>,
    pub(crate) networks: Arc<Networks>,
    pub(crate) file_systems: FileSystems,
    pub(crate) runner: Runner,
    pub(crate) tasks: Arc<Tasks>,
}

impl Containers {
    /// No containers yet: those of an earlier daemon are [taken up](Self::recover).
    pub(crate) fn new(below: Below) -> Arc<Self> {
        let Below { settings, events, images, volumes, networks, file_systems, runner, tasks } =
            below;
        Arc::new_cyclic(|me| Self {
            settings,
            events,
            images,
            volumes,
            networks,
            file_systems,
            runner,
            tasks,
            registry: Registry::default(),
            execs: Execs::default(),
            starts: StartTurns::default(),
            loans: Mutex::default(),
            me: me.clone(),
        })
    }

    /// The container with this full id, exact name or unique id prefix.
    pub fn find(&self, key: &str) -> Result<Arc<Container>> {
        Ok(self.registry.find(key)?.get())
    }

    /// All containers, the newest first.
    pub fn list(&self) -> Vec<Arc<Container>> {
        let mut all: Vec<_> = self.registry.all().iter().map(|live| live.get()).collect();
        all.sort_by_key(|container| std::cmp::Reverse(container.created));
        all
    }

    /// The endpoints on a network, each with its container (`None` if it has another owner).
    pub fn on_network(&self, network: &NetworkId) -> Vec<(Arc<Endpoint>, Option<Arc<Container>>)> {
        let endpoints = self.networks.controller().endpoints_of(network);
        let with_container = |endpoint: Arc<Endpoint>| {
            let sandbox = self.networks.sandbox(&endpoint.sandbox).ok();
            let container = sandbox.and_then(|(sandbox, _)| self.find(&sandbox.owner).ok());
            (endpoint, container)
        };
        endpoints.into_iter().map(with_container).collect()
    }

    /// Writes a container's record. After an error it is as it was before.
    pub(crate) fn save(&self, container: &Container, durability: Durability) -> Result<()> {
        self.networks.write(|_| Ok(Batch::default()), Self::record(container), durability)
    }

    /// Writes down what has become of a container, if not now then later.
    pub(crate) fn note(&self, container: &Container, durability: Durability) {
        self.networks.note(|_| Batch::default(), Self::record(container), durability);
    }

    /// The containers, for a task that may outlive them.
    pub(crate) fn weak(&self) -> Weak<Self> {
        self.me.clone()
    }

    /// The containers, for a task that works for them.
    pub(crate) fn strong(&self) -> Result<Arc<Self>> {
        let gone = || Error::new(Kind::Unavailable, "the daemon is ending");
        self.me.upgrade().ok_or_else(gone)
    }
}
