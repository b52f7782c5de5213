//! What runs programs: runtimes, the shims over them, and what is kept ready for the next start.
//!
//! A [`RunSpec`] says all of what is to run and how, and nothing of whose it is: a container's program
//! comes here, and so does whatever else is run by a runtime.

pub mod run;
pub mod spec;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;

use crate::settings::Settings;
use drivers::kernel::{Netns, UserNamespace};
use engine_error::{Error, Result};
pub use run::{Failure, Made, Prepared, Running};
use runtime::cgroup::{self, GracePeriods};
use runtime::spec::Seccomp;
use runtime::{Host, MountNamespaces, Runtime};
use shim::client::Shims;
use shim::namespaces::{self, Origin};
pub use spec::{RunRoot, RunSpec, StreamClient};

/// How long a mount namespace is kept that nobody needs.
const KEPT_FOR: Duration = Duration::from_secs(5);
/// How long nothing is started before what can wait is done.
const LULL: Duration = Duration::from_millis(20);

/// Runs the programs of one engine.
#[derive(Debug)]
pub struct Runner {
    settings: Arc<Settings>,
    shims: Arc<Shims>,
    mount_namespaces: Arc<MountNamespaces>,
    /// How many containers were started so far.
    starts: Arc<AtomicU64>,
    grace_periods: GracePeriods,
    pub(crate) host: Arc<Host>,
    /// The seccomp profile of containers that choose none.
    pub(crate) seccomp: Seccomp,
    tasks: Handle,
}

impl Runner {
    /// Runs what these settings say, on this host; what is done beside it is done on `tasks`.
    pub fn new(settings: Arc<Settings>, host: Arc<Host>, tasks: Handle) -> Result<Self> {
        let grace_periods =
            GracePeriods::new().map_err(|error| Error::internal("cannot start a thread", error))?;
        if let Err(error) = cgroup::hand_down_cpuset(settings.cgroup_parent()) {
            tracing::warn!(%error, "starts are slower: cannot prepare the cpuset cgroup");
        }
        if let Some(warning) = host.apparmor.warning() {
            tracing::warn!("{warning}");
        }
        let apparmor = host.apparmor.clone();
        // One of an earlier release may be there. Who starts first and finds none loads it too.
        tasks.spawn_blocking(move || apparmor.load().inspect_err(|error| tracing::warn!(%error)));
        Ok(Self {
            shims: Arc::new(Shims::new(settings.binary("rnet-shim"))),
            mount_namespaces: Arc::new(MountNamespaces::new(settings.pins())),
            starts: Arc::default(),
            grace_periods,
            host,
            seccomp: seccomp(&settings)?,
            tasks,
            settings,
        })
    }

    /// The runtime of a name; the daemon's default one if there is none, or it is empty.
    pub fn runtime(&self, name: Option<&str>) -> Result<Arc<dyn Runtime>> {
        let name = name.filter(|name| !name.is_empty());
        let known = self.settings.runtimes.now();
        Ok(runtime::find(name.unwrap_or(&known.default), &known.programs)?)
    }

    /// The cgroup of a run below this one; below the daemon's own choice if that is empty.
    pub(crate) fn cgroup(&self, parent: &str, id: &str) -> String {
        let parent = match parent {
            "" => self.settings.cgroup_parent(),
            own => own.trim_matches('/'),
        };
        format!("/{parent}/{id}")
    }

    /// Makes a network namespace that belongs to a user namespace. Blocks, but not for long.
    pub(crate) fn own_namespaces(&self, origin: Origin<'_>) -> Result<UserNamespace> {
        let made = namespaces::make(&self.settings.binary("rnet-shim"), origin);
        let made = made.map_err(|error| Error::internal("cannot make a user namespace", error))?;
        Ok(UserNamespace { user: made.user, network: Netns::from(made.network) })
    }

    /// Something is likely to be run soon. Does not block.
    pub(crate) fn expect_start(&self) {
        self.grace_periods.begin();
    }

    /// A container is being started.
    pub(crate) fn count_start(&self) {
        self.expect_start();
        self.starts.fetch_add(1, Ordering::Relaxed);
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

    /// Lets go of the last mount namespace when it has not been used for a while.
    pub(crate) fn rest(&self) {
        let namespaces = self.mount_namespaces.clone();
        self.tasks.spawn(async move {
            tokio::time::sleep(KEPT_FOR).await;
            tokio::task::spawn_blocking(move || namespaces.rest(KEPT_FOR)).await
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
