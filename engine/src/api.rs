//! The Docker Engine API over HTTP.
//!
//! [`server`] accepts connections, [`route`] finds the operation, the modules named after nouns
//! parse, call the engine and reply. Every request runs in a task of its own that the connection
//! only waits for: a client that hangs up does not leave half of an operation behind.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use nix::sys::resource::{Resource, getrlimit};
use tokio::sync::{Semaphore, watch};

use crate::config::Config;
use crate::core::Engine;
use transfer::places::Transfers;

pub mod archive;
pub mod body;
pub mod build;
pub mod buildkit;
pub mod cluster;
pub mod containers;
pub mod error;
pub mod events;
pub mod exec;
pub mod filters;
pub mod hijack;
pub mod images;
pub mod listener;
pub mod logs;
pub mod networks;
pub mod nodes;
pub mod ports;
pub mod query;
pub mod registries;
pub mod request;
pub mod route;
pub mod server;
pub mod stats;
pub mod swarm;
pub mod system;
pub mod tls;
pub mod transfer;
pub mod transport;
pub mod version;
pub mod volumes;
pub mod waiting;
pub mod websocket;
pub mod wire;

/// How many requests walk through directories at the same time.
const WALKS: usize = 4;
/// How many samples of containers are taken at the same time.
const SAMPLES: usize = 4;

/// What every request sees.
#[derive(Debug)]
pub struct Api {
    /// The engine.
    pub engine: Arc<Engine>,
    /// How the daemon is configured; a reload changes it.
    config: ArcSwap<Config>,
    /// Versions of OCI runtimes by their programs, once somebody asked.
    pub runtime_versions: Mutex<BTreeMap<PathBuf, String>>,
    /// Who may walk through directories.
    pub walks: Arc<Semaphore>,
    /// Who may take samples of what containers use.
    pub samples: Arc<Semaphore>,
    /// Who may move archives.
    pub transfers: Transfers,
    /// Places for connections, of all listeners together.
    pub connections: Arc<Semaphore>,
    /// Ends the daemon.
    pub stop: watch::Sender<bool>,
}

impl Api {
    /// An API over an engine.
    pub fn new(engine: Arc<Engine>, config: Config) -> Arc<Self> {
        let (stop, _) = watch::channel(false);
        let walks = Arc::new(Semaphore::new(WALKS));
        let samples = Arc::new(Semaphore::new(SAMPLES));
        // Without a limit there is nothing to share out.
        let (descriptors, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((u64::MAX, u64::MAX));
        let connections = Arc::new(Semaphore::new(server::places(descriptors)));
        let runtime_versions = Mutex::default();
        Arc::new(Self {
            engine,
            config: ArcSwap::from_pointee(config),
            runtime_versions,
            walks,
            samples,
            transfers: Transfers::default(),
            connections,
            stop,
        })
    }

    /// How the daemon is configured at the moment.
    pub fn config(&self) -> Arc<Config> {
        self.config.load_full()
    }

    /// Has whoever asks from now on find another configuration.
    pub fn reconfigure(&self, config: Config) {
        self.config.store(Arc::new(config));
    }
}
