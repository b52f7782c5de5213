//! The resolver's process, `rnet-dns`: kept alive, and told what to answer.
//!
//! What it is to serve is known here, too: when the process dies, the next one is told everything
//! again. It outlives the daemon; the next daemon tells it only what changed.

use std::collections::{BTreeMap, HashSet};
use std::fs::OpenOptions;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cnm::{NetworkId, PortBinding, SandboxId};
use dns::client::{Client, ClientError};
use dns::protocol::{EndpointNames, HeldPort, SandboxView};
use drivers::kernel::Linux;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::Kept;
use crate::error::{Error, Result};

/// How long a new process may take until it listens.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long to wait between two looks whether it listens.
const MOMENT: Timespec = Timespec { tv_sec: 0, tv_nsec: 2_000_000 };

/// What is served in one sandbox.
#[derive(Clone, Debug)]
pub(crate) struct Served {
    /// What the sandbox sees.
    pub(crate) view: SandboxView,
    /// Whether there is a resolver in it.
    pub(crate) resolver: bool,
    /// The names of its endpoints.
    pub(crate) names: Vec<Publication>,
}

/// The names of one endpoint.
#[derive(Clone, Debug)]
pub(crate) struct Publication {
    /// The network.
    pub(crate) network: NetworkId,
    /// The network's name.
    pub(crate) network_name: String,
    /// The names.
    pub(crate) names: EndpointNames,
}

/// A host port with the socket that reserves it.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) port: HeldPort,
    pub(crate) socket: OwnedFd,
}

/// The resolver of one daemon.
#[derive(Debug)]
pub(crate) struct Resolver {
    shared: Arc<Shared>,
    /// Closed when the resolver is not ours to watch any more.
    _alive: UnixStream,
    watched: Mutex<Option<UnixStream>>,
}

#[derive(Debug)]
struct Shared {
    socket: PathBuf,
    program: PathBuf,
    resolv_conf: PathBuf,
    kernel: Arc<Linux>,
    state: Mutex<Served2>,
}

/// What is served, and by whom.
#[derive(Debug, Default)]
struct Served2 {
    sandboxes: BTreeMap<SandboxId, Entry>,
    client: Option<Arc<Client>>,
    /// How often a process was told everything.
    generation: u64,
    child: Option<Child>,
    /// No process is wanted any more.
    over: bool,
}

#[derive(Clone, Debug)]
struct Entry {
    served: Served,
    ports: Vec<HeldPort>,
}

/// The owner socket of the table that an earlier daemon left with the resolver.
pub(super) fn take_owner(socket: &Path) -> Option<OwnedFd> {
    let client = Client::connect(socket).ok()?;
    client.take_owner().ok().flatten()
}
