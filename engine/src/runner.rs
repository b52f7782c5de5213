//! What runs processes: runtimes, the shims over them, and what is kept ready for the next start.

pub(crate) mod sources;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;

use crate::settings::Settings;
use engine_error::{Error, Result};
use runtime::cgroup::{self, Moves};
use runtime::spec::Seccomp;
use runtime::{Host, Stages};
use shim::client::Shims;
use sources::Sources;

/// How long a stage is kept that nobody needs.
const STAGED_FOR: Duration = Duration::from_secs(5);
/// How long nothing is started before what can wait is done.
const LULL: Duration = Duration::from_millis(20);

/// Runs the processes of one engine.
#[derive(Debug)]
pub(crate) struct Runner {
    pub(crate) shims: Arc<Shims>,
    pub(crate) stages: Arc<Stages>,
    /// How many containers were started so far.
    pub(crate) starts: Arc<AtomicU64>,
    pub(crate) moves: Moves,
    pub(crate) host: Arc<Host>,
    /// The seccomp profile of containers that choose none.
    pub(crate) seccomp: Seccomp,
    /// What is asked about the sources of binds.
    pub(crate) sources: Sources,
    tasks: Handle,
}

impl Runner {
    pub(crate) fn new(settings: &Settings, host: Arc<Host>, tasks: Handle) -> Result<Self> {
        let moves =
            Moves::new().map_err(|error| Error::internal("cannot start a thread", error))?;
        if let Err(error) = cgroup::hand_down_cpuset(settings.cgroup_parent()) {
            tracing::warn!(%error, "starts are slower: cannot prepare the cpuset cgroup");
        }
        Ok(Self {
            shims: Arc::new(Shims::new(settings.binary("rnet-shim"))),
            stages: Arc::new(Stages::new(settings.pins())),
            starts: Arc::default(),
            moves,
            host,
            seccomp: seccomp(settings)?,
            sources: Sources::default(),
            tasks,
        })
    }

    /// Has a shim ready for the next start, without anybody waiting for it.
    pub(crate) fn prepare_next_shim(&self) {
        let shims = self.shims.clone();
        self.tasks.spawn_blocking(move || {
            if let Err(error) = shims.prepare() {
                tracing::warn!(%error, "cannot start a shim ahead");
            }
        });
    }

    /// Lets go of the last stage when it has not been used for a while.
    pub(crate) fn rest_stages(&self) {
        let stages = self.stages.clone();
        self.tasks.spawn(async move {
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
