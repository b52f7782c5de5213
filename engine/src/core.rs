//! The engine: the owners of containers, networks, images and events, put together.
//!
//! What is done to one of them, its owner does. Here is only what is about all of them: to open, to
//! close and to reset.

pub mod check;
mod directories;
pub mod figures;
mod reset;
mod unmanaged;
pub mod usage;
mod users;

use std::sync::Arc;
use std::time::{Duration, Instant};

use cnm::store::Disk;
use cnm::store::record::Unreadable;
use cnm::{Kind, Store};
use nix::mount::{MntFlags, umount2};
use tokio::runtime::Handle;

use crate::build::{self, Builds};
use crate::cluster::Membership;
use crate::container::{Below, Containers, init};
use crate::events::Events;
use crate::file_systems::FileSystems;
use crate::network::Networks;
use crate::plugins::Trade;
use crate::plugins::volume::VolumePlugins;
use crate::runner::Runner;
use crate::settings::Settings;
use crate::swarm::Swarm;
use crate::tasks::Tasks;
use engine_error::{Error, Result};
use image::{Images, builtin};
use runtime::Host;
use tree::IdMap;
use volume::{LOCAL, Volumes};

/// The engine of one daemon.
#[derive(Debug)]
pub struct Engine {
    /// What it was opened with.
    pub settings: Arc<Settings>,
    /// What this host is able to give.
    pub host: Arc<Host>,
    /// What has happened.
    pub events: Arc<Events>,
    /// The images.
    pub images: Arc<Images>,
    /// The volumes.
    pub volumes: Arc<Volumes>,
    /// The networks.
    pub networks: Arc<Networks>,
    /// Those of strangers, which may not answer.
    pub file_systems: FileSystems,
    /// The containers.
    pub containers: Arc<Containers>,
    /// The builds of images.
    pub builds: Builds,
    /// The cluster that this host is in.
    pub membership: Arc<Membership>,
    /// The swarm that is that cluster, if it is one.
    pub swarm: Arc<Swarm>,
    store: Arc<dyn Store>,
    /// Records that cannot be read and are where they were.
    stayed: Vec<Unreadable>,
    tasks: Arc<Tasks>,
}

impl Engine {
    /// Opens the engine: takes up what an earlier one left, running containers included.
    pub async fn open(settings: Settings) -> Result<Arc<Self>> {
        let mounted = directories::make(&settings)?;
        unmanaged::declare(&settings);
        let opened = Self::open_in_place(settings).await;
        if opened.is_err() {
            for directory in mounted {
                if let Err(error) = umount2(&directory, MntFlags::MNT_DETACH) {
                    tracing::warn!(%error, dir = %directory.display(), "cannot unmount");
                }
            }
        }
        opened
    }

    async fn open_in_place(settings: Settings) -> Result<Arc<Self>> {
        let tasks = Arc::new(Tasks::new(Handle::current()));
        init::unpack(&settings.init_program())?;
        let store = patiently(|| Ok(Disk::open(&settings.data_root.join("store.redb"))?)).await?;
        let root = settings.data_root.join("images");
        let images = patiently(|| Images::open_with(&root, settings.images.clone())).await?;
        let images = users::remapped(&settings, images)?;
        let open = move || {
            let store: Arc<dyn Store> = Arc::new(store);
            let mut engine = Self::assemble(settings, store, images, tasks)?;
            let mut unreadable = engine.networks.controller().unreadable().to_vec();
            // What other hosts have is known before anything is healed or answered.
            engine.membership.open()?;
            unreadable.extend(engine.containers.recover(engine.store.as_ref())?);
            engine.membership.go_on()?;
            engine.swarm.go_on(&engine.tasks);
            engine.containers.resume();
            engine
                .stayed
                .extend(unreadable.into_iter().filter(|record| record.place == record.key));
            // Not before it is known what containers are made of.
            engine.images.sweep();
            engine.tasks.handle().block_on(engine.builds.sweep());
            let engine = Arc::new(engine);
            for record in engine.unreadable()? {
                tracing::error!(record = record.key, place = record.place, "{}", record.why);
            }
            if let Err(error) = builtin::renew(&engine.images) {
                tracing::warn!(error = error.chain(), "the built-in image is an old one");
            }
            Ok(engine)
        };
        tokio::task::spawn_blocking(open)
            .await
            .map_err(|error| Error::internal("cannot open the engine", error))?
    }

    fn assemble(
        settings: Settings,
        store: Arc<dyn Store>,
        images: Images,
        tasks: Arc<Tasks>,
    ) -> Result<Self> {
        let (settings, images) = (Arc::new(settings), Arc::new(images));
        let (events, host) = (Arc::new(Events::default()), Arc::new(Host::probe()));
        let networks = Arc::new(Networks::open(&settings, store.clone(), events.clone())?);
        let drivers = Arc::new(VolumePlugins(networks.plugins()));
        let volumes = Volumes::open_with(settings.data_root.join("volumes"), drivers)?;
        let volumes = volumes.owned_by(settings.remap.as_ref().map(IdMap::root));
        let volumes = Arc::new(volumes);
        let runner = Runner::new(settings.clone(), host.clone(), tasks.handle().clone())?;
        let file_systems = FileSystems::default();
        let containers = Containers::new(Below {
            settings: settings.clone(),
            events: events.clone(),
            images: images.clone(),
            volumes: volumes.clone(),
            networks: networks.clone(),
            file_systems: file_systems.clone(),
            runner,
            tasks: tasks.clone(),
        });
        let builds = Builds::open(build::Below {
            settings: settings.clone(),
            events: events.clone(),
            images: images.clone(),
            containers: containers.clone(),
            tasks: tasks.handle().clone(),
        })?;
        let membership = Arc::new(Membership::new(
            settings.clone(),
            networks.clone(),
            containers.clone(),
            store.clone(),
            tasks.clone(),
        ));
        let swarm = Arc::new(Swarm::open(&settings, store.clone(), membership.clone()));
        let stayed = Vec::new();
        Ok(Self {
            settings,
            host,
            events,
            images,
            volumes,
            networks,
            file_systems,
            containers,
            builds,
            membership,
            swarm,
            store,
            stayed,
            tasks,
        })
    }

    /// The drivers of volumes: plugins as far as they were asked for something already.
    pub fn volume_drivers(&self) -> Vec<String> {
        let plugins = self.networks.plugins().names(Trade::Volume);
        std::iter::once(LOCAL.to_owned()).chain(plugins).collect()
    }

    /// Ends the engine's tasks and writes what is not on disk yet. Containers go on; where there are
    /// none, nothing of ours stays in the kernel, mounts included.
    pub async fn close(&self) {
        self.builds.close().await;
        self.tasks.end().await;
        let membership = self.membership.clone();
        // That blocks.
        let _ = tokio::task::spawn_blocking(move || membership.close()).await;
        let (networks, settings) = (self.networks.clone(), self.settings.clone());
        // One with the host's network has no sandbox.
        let runs = self.containers.list().iter().any(|container| container.state.has_process());
        let rest = tokio::task::spawn_blocking(move || {
            if networks.rest()? && !runs { directories::unmount(&settings) } else { Ok(()) }
        });
        let rest = rest.await;
        let rest = rest.map_err(|error| Error::internal("cannot come to rest", error)).flatten();
        if let Err(error) = rest {
            tracing::warn!(error = error.chain(), "something is left in the kernel");
        }
        if let Err(error) = self.networks.pay() {
            tracing::error!(error = error.chain(), "cannot write the last records");
        }
    }
}

/// How long files may go on to be in use. A daemon that was killed takes a moment to be gone, and so
/// does a child that it was just making.
const HANDOVER: Duration = Duration::from_secs(3);

/// Opens something that another process may be about to let go.
async fn patiently<T>(mut open: impl FnMut() -> Result<T>) -> Result<T> {
    let patience = Instant::now() + HANDOVER;
    loop {
        match open() {
            Err(error) if error.kind() == Kind::Unavailable && Instant::now() < patience => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            outcome => return outcome,
        }
    }
}
