//! Building images: the steps of a Dockerfile, each on what the one before it left.
//!
//! A step that runs something is a container like any other; one that copies works on a root file
//! system that nothing runs in. What a step leaves is an image, so every step can be run, looked at
//! and taken again: the cache is a table of keys and images made here, and nothing else is believed
//! (`build/cache.rs`). Builds block: a front end calls them on a thread that may.

mod base;
mod cache;
mod caches;
mod commit;
mod context;
mod copy;
mod documents;
mod handed;
mod job;
mod mounts;
mod output;
mod owner;
mod places;
mod remote;
mod request;
mod run;
mod sealed;
mod sessions;
mod sources;
mod squash;
mod stage;
mod sweep;
mod transfer;
mod wanted;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::container::Containers;
use crate::events::Events;
use crate::settings::Settings;
use cache::Cache;
use caches::Caches;
use engine_error::{Error, Result};
use image::Images;

pub use output::{Failure, Line, cancelled};
pub use request::{Request, Source};
pub use sessions::{Handover, LARGEST_OF_ALL, Secret, Session, Sessions};
pub use sweep::Freed;

/// The builds of one engine.
#[derive(Debug)]
pub struct Builds {
    events: Arc<Events>,
    images: Arc<Images>,
    containers: Arc<Containers>,
    cache: Cache,
    caches: Caches,
    /// What clients hand over for builds.
    pub sessions: Sessions,
    tasks: Handle,
    /// `data_root/build`.
    root: PathBuf,
    next: AtomicU64,
    /// Those under way that can be cancelled by a name that their clients chose.
    named: Arc<Mutex<NamedBuilds>>,
    /// All under way, and what ends them.
    under_way: TaskTracker,
    over: CancellationToken,
}

/// How long builds that were cancelled may take to clean up.
const FAREWELL: Duration = Duration::from_secs(10);

/// What builds are put together from.
#[derive(Debug)]
pub(crate) struct Below {
    pub(crate) settings: Arc<Settings>,
    pub(crate) events: Arc<Events>,
    pub(crate) images: Arc<Images>,
    pub(crate) containers: Arc<Containers>,
    pub(crate) tasks: Handle,
}

impl Builds {
    /// Makes the directories, empty of what an earlier daemon was doing.
    pub(crate) fn open(below: Below) -> Result<Self> {
        let Below { settings, events, images, containers, tasks } = below;
        let root = settings.data_root.join("build");
        let failed = |error| Error::internal(format!("cannot open {}", root.display()), error);
        if let Err(error) = sweep::clear(&root.join("tmp")) {
            // Room is lost, and nothing else.
            tracing::warn!(%error, dir = %root.display(), "files of an earlier build stay");
        }
        for directory in ["cache", "kept", "mounts", "tmp"] {
            fs::create_dir_all(root.join(directory)).map_err(failed)?;
        }
        rustix::fs::chmod(&root, rustix::fs::Mode::from_raw_mode(0o700))
            .map_err(|error| failed(error.into()))?;
        let cache = Cache::new(root.join("cache"));
        Ok(Self {
            events,
            images,
            containers,
            cache,
            caches: Caches::new(root.join("mounts")),
            sessions: Sessions::default(),
            tasks,
            root,
            next: AtomicU64::new(0),
            named: Arc::default(),
            under_way: TaskTracker::new(),
            over: CancellationToken::new(),
        })
    }

    /// What cancels a build; the end of the daemon does too.
    pub fn token(&self) -> CancellationToken {
        self.over.child_token()
    }

    /// Cancels all builds, and those that are yet to begin.
    pub fn stop(&self) {
        self.over.cancel();
    }

    /// Waits until no build is under way, but not for ever.
    pub(crate) async fn close(&self) {
        self.stop();
        self.under_way.close();
        if tokio::time::timeout(FAREWELL, self.under_way.wait()).await.is_err() {
            tracing::warn!(left = self.under_way.len(), "builds did not end in time");
        }
    }

    /// Builds an image and tells how it goes. Blocks; it ends soon after it is cancelled.
    pub fn build(
        &self,
        request: Request,
        source: Source,
        lines: tokio::sync::mpsc::Sender<Line>,
        cancel: &CancellationToken,
    ) -> Result<(), Failure> {
        let _under_way = self.under_way.token();
        job::build(self, request, source, lines, cancel)
    }

    /// Notes under which name a client may cancel a build, from before it has its turn until this is
    /// dropped.
    pub fn named(&self, id: &str, cancel: &CancellationToken) -> Named {
        let key = (id.to_owned(), self.next.fetch_add(1, Ordering::Relaxed));
        if !id.is_empty() {
            locked(&self.named).insert(key.clone(), cancel.clone());
        }
        Named { key, builds: Arc::clone(&self.named) }
    }

    /// Cancels what a client named so.
    pub fn cancel(&self, id: &str) {
        for (_, cancel) in locked(&self.named).iter().filter(|((name, _), _)| name == id) {
            cancel.cancel();
        }
    }

    /// A directory of a build, gone when it is dropped.
    fn workshop(&self) -> Result<Workshop> {
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let path = self.root.join("tmp").join(number.to_string());
            match fs::create_dir(&path) {
                // What stayed of an earlier daemon.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => {
                    return Err(Error::internal(format!("cannot make {}", path.display()), error));
                }
                Ok(()) => return Ok(Workshop { path, next: AtomicU64::new(0) }),
            }
        }
    }
}

/// Builds by the names that their clients chose; several may have chosen the same.
type NamedBuilds = BTreeMap<(String, u64), CancellationToken>;

fn locked(builds: &Mutex<NamedBuilds>) -> MutexGuard<'_, NamedBuilds> {
    builds.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A build that can be cancelled by its name until this is dropped.
#[derive(Debug)]
pub struct Named {
    key: (String, u64),
    builds: Arc<Mutex<NamedBuilds>>,
}

impl Drop for Named {
    fn drop(&mut self) {
        locked(&self.builds).remove(&self.key);
    }
}

/// Where a build keeps what is needed only while it goes on.
#[derive(Debug)]
struct Workshop {
    path: PathBuf,
    next: AtomicU64,
}

impl Workshop {
    /// A name in it that nothing has.
    fn place(&self) -> PathBuf {
        self.path.join(self.next.fetch_add(1, Ordering::Relaxed).to_string())
    }

    /// A new directory in it.
    fn directory(&self) -> Result<PathBuf> {
        let path = self.place();
        fs::create_dir(&path)
            .map_err(|error| Error::internal(format!("cannot make {}", path.display()), error))?;
        Ok(path)
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        if let Err(error) = sweep::clear(&self.path) {
            tracing::warn!(%error, dir = %self.path.display(), "a build's files stay");
        }
    }
}
