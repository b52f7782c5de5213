//! The engine's operations, as the API and the daemon call them.
//!
//! Operations that are not `async` block: a front end calls them on a blocking thread, in a task
//! that owns them, so that a client that hangs up does not leave half of an operation behind. The
//! operations on containers stand in [`crate::container`], one file each.

mod networks;
mod recover;
mod reset;
pub mod settings;
mod tell;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use cnm::store::{Batch, Disk, Durability};
use cnm::{Kind, Store};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::container::exec::Execs;
use crate::container::init;
use crate::container::registry::Registry;
use crate::container::remove::record_key;
use crate::container::{Container, EndpointView};
use crate::events::Events;
use crate::network::Networks;
use engine_error::{Error, Result};
use image::Images;
use runtime::cgroup::{self, Moves};
use runtime::spec::Seccomp;
use runtime::{Host, Stages};
pub use settings::{DefaultBridge, Settings};
use shim::client::Shims;

/// The engine: containers, networks and images of one daemon.
#[derive(Debug)]
pub struct Engine {
    settings: Settings,
    events: Events,
    images: Images,
    pub(crate) networks: Arc<Networks>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) registry: Registry,
    pub(crate) execs: Execs,
    pub(crate) shims: Arc<Shims>,
    pub(crate) stages: Arc<Stages>,
    /// How many containers were started so far.
    pub(crate) starts: Arc<AtomicU64>,
    pub(crate) moves: Moves,
    pub(crate) host: Host,
    /// The seccomp profile of containers that choose none.
    pub(crate) seccomp: Seccomp,
    me: Weak<Self>,
    runtime: Handle,
    tasks: TaskTracker,
    over: CancellationToken,
}

impl Engine {
    /// Opens the engine: takes up what an earlier one left, running containers included.
    pub async fn open(settings: Settings) -> Result<Arc<Self>> {
        let mounted = make_directories(&settings)?;
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
        let runtime = Handle::current();
        init::unpack(&settings.init_program())?;
        let store = patiently(|| Ok(Disk::open(&settings.data_root.join("store.redb"))?)).await?;
        let root = settings.data_root.join("images");
        let images = patiently(|| Images::open_with(&root, settings.images.clone())).await?;
        let open = move || {
            let engine = Self::assemble(settings, Arc::new(store), images, runtime)?;
            engine.recover()?;
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
        runtime: Handle,
    ) -> Result<Arc<Self>> {
        let networks = Arc::new(Networks::open(&settings, store.clone())?);
        let seccomp = seccomp(&settings)?;
        let shims = Arc::new(Shims::new(settings.binary("rnet-shim")));
        let moves =
            Moves::new().map_err(|error| Error::internal("cannot start a thread", error))?;
        if let Err(error) = cgroup::hand_down_cpuset(settings.cgroup_parent()) {
            tracing::warn!(%error, "starts are slower: cannot prepare the cpuset cgroup");
        }
        Ok(Arc::new_cyclic(|me| Self {
            events: Events::default(),
            images,
            networks,
            store,
            registry: Registry::default(),
            execs: Execs::default(),
            shims,
            stages: Arc::new(Stages::new(settings.pins())),
            starts: Arc::default(),
            moves,
            host: Host::probe(),
            seccomp,
            me: me.clone(),
            runtime,
            tasks: TaskTracker::new(),
            over: CancellationToken::new(),
            settings,
        }))
    }

    /// Ends the engine's tasks and writes what is not on disk yet. Containers go on.
    pub async fn close(&self) {
        self.over.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        if let Err(error) = self.networks.pay() {
            tracing::error!(error = error.chain(), "cannot write the last records");
        }
    }

    /// The settings it was opened with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What this host is able to give.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The event bus.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// The images.
    pub fn images(&self) -> &Images {
        &self.images
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

    /// A container's record.
    pub(crate) fn record(container: &Container) -> Result<Batch> {
        let value = serde_json::to_vec(container)
            .map_err(|error| Error::internal("cannot encode a container", error))?;
        let mut batch = Batch::default();
        batch.put(record_key(&container.id), value);
        Ok(batch)
    }

    /// Writes a container's record. After an error it is as it was before.
    pub(crate) fn save(&self, container: &Container, durability: Durability) -> Result<()> {
        self.networks.write(|_| Ok(Batch::default()), Self::record(container)?, durability)
    }

    /// Writes down what has become of a container, if not now then later.
    pub(crate) fn note(&self, container: &Container, durability: Durability) {
        match Self::record(container) {
            Ok(record) => {
                self.networks.note(|_| Batch::default(), record, durability);
            }
            Err(error) => tracing::error!(error = error.chain(), "a container has no record"),
        }
    }

    /// Tells an event of a container.
    pub(crate) fn tell(&self, container: &Container, action: &str, attributes: &[(&str, &str)]) {
        let mut all = container.resolved.labels.clone();
        all.insert("image".to_owned(), container.spec.image.clone());
        all.insert("name".to_owned(), container.name.clone());
        all.extend(attributes.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        self.events.publish("container", action, &container.id, all);
    }

    /// Tells an event of a container on a network.
    pub(crate) fn tell_network(
        &self,
        action: &str,
        endpoint: &EndpointView,
        container: &Container,
    ) {
        let Some(id) = &endpoint.network_id else { return };
        let kind = self.networks.network(id.as_str()).map_or("bridge", |n| n.kind().as_str());
        let attributes = BTreeMap::from([
            ("container".to_owned(), container.id.clone()),
            ("name".to_owned(), endpoint.network.clone()),
            ("type".to_owned(), kind.to_owned()),
        ]);
        self.events.publish("network", action, id.as_str(), attributes);
    }

    /// The engine, for a task that may outlive it.
    pub(crate) fn weak(&self) -> Weak<Self> {
        self.me.clone()
    }

    /// The engine, for a task that works for it.
    pub(crate) fn strong(&self) -> Result<Arc<Self>> {
        let gone = || Error::new(Kind::Unavailable, "the daemon is ending");
        self.me.upgrade().ok_or_else(gone)
    }

    /// Runs a task until it is done, or the engine is closed.
    pub(crate) fn spawn_task(&self, task: impl Future<Output = ()> + Send + 'static) {
        let over = self.over.clone();
        let task = async move {
            tokio::select! {
                () = over.cancelled() => {}
                () = task => {}
            }
        };
        self.tasks.spawn_on(task, &self.runtime);
    }

    /// Has a shim ready for the next start, without anybody waiting for it.
    pub(crate) fn prepare_next_shim(&self) {
        let shims = self.shims.clone();
        self.runtime.spawn_blocking(move || {
            if let Err(error) = shims.prepare() {
                tracing::warn!(%error, "cannot start a shim ahead");
            }
        });
    }

    /// Lets go of the last stage when it has not been used for a while.
    pub(crate) fn rest_stages(&self) {
        let stages = self.stages.clone();
        self.runtime.spawn(async move {
            tokio::time::sleep(STAGED_FOR).await;
            tokio::task::spawn_blocking(move || stages.rest(STAGED_FOR)).await
        });
    }

    /// Waits until nothing has been started for a moment, but not for long.
    pub(crate) fn lull(&self) -> impl Future<Output = ()> + use<> {
        let starts = self.starts.clone();
        async move {
            for _ in 0..10 {
                let before = starts.load(Ordering::Relaxed);
                tokio::time::sleep(LULL).await;
                if starts.load(Ordering::Relaxed) == before {
                    break;
                }
            }
        }
    }

    /// The runtime that the engine's tasks run on.
    pub(crate) fn handle(&self) -> &Handle {
        &self.runtime
    }
}

/// How long a stage is kept that nobody needs.
const STAGED_FOR: Duration = Duration::from_secs(5);
/// How long nothing is started before what can wait is done.
const LULL: Duration = Duration::from_millis(20);

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

/// Returns the directories that were made mounts and had not been.
fn make_directories(settings: &Settings) -> Result<Vec<PathBuf>> {
    use std::os::unix::fs::DirBuilderExt;
    let (data, exec) = (&settings.data_root, &settings.exec_root);
    let all = [
        data.clone(),
        data.join("containers"),
        data.join("volumes"),
        exec.clone(),
        settings.pins(),
        exec.join("shim"),
        exec.join("runtime"),
        settings.view_dir(),
        settings.view_of_root(),
    ];
    for directory in all {
        // Nobody but us: container files keep their owners and modes (set-user-id among them).
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory).map_err(
            |error| Error::internal(format!("cannot make {}", directory.display()), error),
        )?;
    }
    let mut mounted = Vec::new();
    for directory in [settings.pins(), settings.view_dir()] {
        let new = keep_private(&directory).map_err(|error| {
            Error::internal(format!("cannot mount {}", directory.display()), error)
        })?;
        mounted.extend(new.then_some(directory));
    }
    let network = settings.view_of_network();
    let made = std::fs::OpenOptions::new().create(true).append(true).open(&network);
    made.map(|_| mounted)
        .map_err(|error| Error::internal(format!("cannot make {}", network.display()), error))
}

/// Makes a directory a mount of its own whose mounts do not spread to other mount namespaces. Returns
/// whether it was none before.
fn keep_private(directory: &Path) -> nix::Result<bool> {
    let nothing = None::<&str>;
    let make = || mount(nothing, directory, nothing, MsFlags::MS_PRIVATE, nothing);
    match make() {
        // It is no mount yet.
        Err(Errno::EINVAL) => {
            mount(Some(directory), directory, nothing, MsFlags::MS_BIND, nothing)?;
            make().map(|()| true)
        }
        done => done.map(|()| false),
    }
}

fn seccomp(settings: &Settings) -> Result<Seccomp> {
    match settings.seccomp_profile.as_deref() {
        None | Some("" | "builtin") => Ok(Seccomp::Default),
        Some("unconfined") => Ok(Seccomp::Unconfined),
        Some(path) => std::fs::read_to_string(path)
            .map(Seccomp::Profile)
            .map_err(|error| Error::internal(format!("cannot read the profile {path}"), error)),
    }
}
