//! The resolver's process, `rnet-dns`: kept alive, and told what to answer.
//!
//! What it is to serve is known here, too: when the process dies, the next one is told everything
//! again. It outlives the daemon; the next daemon tells it only what changed.

use std::collections::{BTreeMap, HashSet};
use std::fs::OpenOptions;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cnm::{NetworkId, PortBinding, SandboxId};
use dns::client::{Client, ClientError};
use dns::protocol::{EndpointNames, HeldPort, SandboxView};
use drivers::kernel::{HostPorts, Linux};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::Kept;
use engine_error::{Error, Result};

/// How long a new process may take until it listens.
const GIVE_UP: Duration = Duration::from_secs(5);

/// How long a process may take to end.
const PATIENCE: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };

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
pub(crate) struct Held<'a> {
    pub(crate) port: HeldPort,
    pub(crate) socket: BorrowedFd<'a>,
}

/// The resolver of one daemon.
#[derive(Debug)]
pub(crate) struct Resolver {
    shared: Arc<Shared>,
    /// Closed when the process is not ours to watch any more.
    alive: Mutex<Option<UnixStream>>,
}

#[derive(Debug)]
struct Shared {
    socket: PathBuf,
    program: PathBuf,
    resolv_conf: PathBuf,
    kernel: Arc<Linux>,
    state: Mutex<State>,
}

/// What is to be served, and by whom.
#[derive(Debug, Default)]
struct State {
    entries: BTreeMap<SandboxId, Entry>,
    client: Option<Arc<Client>>,
    /// How often a process was told everything.
    generation: u64,
    /// The process, if it is our child and not only known to us.
    child: Option<Child>,
    /// Whether a process is wanted.
    wanted: bool,
}

/// What is to be served for one sandbox.
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

impl Resolver {
    pub(super) fn new(
        socket: PathBuf,
        program: PathBuf,
        resolv_conf: PathBuf,
        kernel: Arc<Linux>,
    ) -> Self {
        let state = Mutex::default();
        let shared = Arc::new(Shared { socket, program, resolv_conf, kernel, state });
        Self { shared, alive: Mutex::default() }
    }

    /// Takes up the process that is there, or starts one, and watches it from now on.
    pub(super) fn start(&self, served: Vec<(Served, Vec<HeldPort>)>) -> Result<()> {
        let mut state = self.shared.lock();
        state.wanted = true;
        state.entries = served
            .into_iter()
            .map(|(served, ports)| (served.view.sandbox.clone(), Entry { served, ports }))
            .collect();
        let process = self.shared.revive(&mut state)?;
        drop(state);
        let (ours, theirs) =
            UnixStream::pair().map_err(|error| Error::internal("cannot watch rnet-dns", error))?;
        *self.alive.lock().unwrap_or_else(PoisonError::into_inner) = Some(ours);
        let shared = self.shared.clone();
        std::thread::Builder::new()
            .name("rnet-dns watch".to_owned())
            .spawn(move || shared.watch(process, &theirs))
            .map_err(|error| Error::internal("cannot watch rnet-dns", error))?;
        Ok(())
    }

    /// Serves a sandbox, or serves it anew; it is answered when this returns. Of all its ports some
    /// come with the sockets that reserve them; the others are held already.
    pub(super) fn serve(
        &self,
        served: &Served,
        all: Vec<HeldPort>,
        held: &[Held<'_>],
    ) -> Result<()> {
        let mut state = self.shared.lock();
        let id = served.view.sandbox.clone();
        let old = state.entries.get(&id).cloned();
        let moved = old.as_ref().map_or_else(Vec::new, |old| moved(&old.ports, &all));
        state.entries.insert(id.clone(), Entry { served: served.clone(), ports: all });
        self.shared.tell(state, |client| {
            let known = old.as_ref().map_or(&[][..], |entry| &entry.served.names);
            for gone in known.iter().filter(|publication| !served.has(publication)) {
                client.withdraw(&gone.network, std::slice::from_ref(&gone.names.endpoint))?;
            }
            match (old.as_ref().is_some_and(|old| old.served.resolver), served.resolver) {
                (true, true) => client.update(served.view.clone())?,
                (false, true) => self.shared.serve(client, &served.view)?,
                (true, false) => client.release(&id)?,
                (false, false) => {}
            }
            for publication in &served.names {
                let names = std::slice::from_ref(&publication.names);
                client.publish(&publication.network, &publication.network_name, names)?;
            }
            client.lead(&moved)?;
            let with_sockets: Vec<_> =
                held.iter().map(|held| (held.port.clone(), held.socket)).collect();
            client.hold(&with_sockets)
        })
    }

    /// Nobody is told a sandbox's names any more, and nothing is answered in it.
    pub(super) fn withdraw(&self, sandbox: &SandboxId) {
        let mut state = self.shared.lock();
        let Some(entry) = state.entries.get_mut(sandbox) else { return };
        let names = std::mem::take(&mut entry.served.names);
        let resolver = std::mem::take(&mut entry.served.resolver);
        let told = self.shared.tell(state, |client| {
            for publication in &names {
                client.withdraw(
                    &publication.network,
                    std::slice::from_ref(&publication.names.endpoint),
                )?;
            }
            if resolver { client.release(sandbox) } else { Ok(()) }
        });
        if let Err(error) = told {
            tracing::warn!(error = error.chain(), "cannot withdraw names");
        }
    }

    /// Forgets a sandbox, its ports included.
    pub(super) fn release(&self, sandbox: &SandboxId) {
        self.withdraw(sandbox);
        let mut state = self.shared.lock();
        let Some(entry) = state.entries.remove(sandbox) else { return };
        let ports: Vec<_> = entry.ports.iter().flat_map(HeldPort::bindings).collect();
        if ports.is_empty() {
            return;
        }
        if let Err(error) = self.shared.tell(state, |client| client.drop_ports(&ports)) {
            tracing::warn!(error = error.chain(), "cannot drop ports");
        }
    }

    /// Ends the process.
    pub(super) fn end(&self) {
        let mut state = self.shared.lock();
        state.wanted = false;
        state.entries.clear();
        let client =
            state.client.take().or_else(|| Client::connect(&self.shared.socket).ok().map(Arc::new));
        let Some(client) = client else { return };
        let process = client.status().ok().and_then(|status| self.shared.process(status.pid).ok());
        if let Err(error) = client.shutdown() {
            tracing::warn!(error = Error::from(error).chain(), "cannot end rnet-dns");
        }
        if let Some(process) = process {
            let _ = poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&PATIENCE));
        }
        if let Some(mut child) = state.child.take() {
            let _ = child.wait();
        }
    }
}

/// The ports that were there before, and lead elsewhere now.
fn moved(before: &[HeldPort], after: &[HeldPort]) -> Vec<HeldPort> {
    let apart = |ports: &[HeldPort]| -> BTreeMap<PortBinding, HeldPort> {
        let all = ports.iter().flat_map(HeldPort::apart);
        all.map(|port| (port.binding.clone(), port)).collect()
    };
    let before = apart(before);
    let elsewhere = |port: &HeldPort| before.get(&port.binding).is_some_and(|old| old != port);
    apart(after).into_values().filter(elsewhere).collect()
}

impl Served {
    fn has(&self, publication: &Publication) -> bool {
        self.names.iter().any(|own| own.names.endpoint == publication.names.endpoint)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says something to the process. If it is gone, the next one is told everything, this too:
    /// the state knows it already.
    fn tell(
        &self,
        state: MutexGuard<'_, State>,
        say: impl FnOnce(&Client) -> Result<(), ClientError>,
    ) -> Result<()> {
        let (generation, client) = (state.generation, state.client.clone());
        drop(state);
        let said = match &client {
            Some(client) => say(client),
            None => Err(ClientError::Disconnected),
        };
        match said {
            Ok(()) => Ok(()),
            Err(error @ ClientError::Refused { .. }) => Err(error.into()),
            Err(error) => {
                let mut state = self.lock();
                if state.generation == generation && state.wanted {
                    tracing::warn!(error = Error::from(error).chain(), "rnet-dns is gone");
                    self.revive(&mut state)?;
                }
                Ok(())
            }
        }
    }

    /// Restarts the process whenever it ends, until `alive` is closed.
    fn watch(&self, mut process: OwnedFd, alive: &UnixStream) {
        loop {
            let generation = self.lock().generation;
            let mut both =
                [PollFd::new(&process, PollFlags::IN), PollFd::new(alive, PollFlags::IN)];
            if poll(&mut both, None).is_err() {
                continue;
            }
            if !both[1].revents().is_empty() {
                return;
            }
            let mut state = self.lock();
            if !state.wanted {
                return;
            }
            tracing::warn!("rnet-dns ended: starting it again");
            let revived = if state.generation == generation {
                self.revive(&mut state)
            } else {
                // A request met the gap first.
                self.current(&state)
            };
            match revived {
                Ok(next) => process = next,
                Err(error) => {
                    tracing::error!(error = error.chain(), "names are not answered");
                    drop(state);
                    // Waits, but not longer than the daemon lives.
                    let pause = Timespec { tv_sec: 1, tv_nsec: 0 };
                    let _ = poll(&mut [PollFd::new(alive, PollFlags::IN)], Some(&pause));
                }
            }
        }
    }

    /// Connects to the process, starting one if none answers, and tells it everything.
    fn revive(&self, state: &mut State) -> Result<OwnedFd> {
        let client = match Client::connect(&self.socket) {
            Ok(client) => client,
            Err(_) => self.spawn(state)?,
        };
        self.synchronise(&client, &state.entries)?;
        let process = self.process(client.status()?.pid)?;
        state.client = Some(Arc::new(client));
        state.generation += 1;
        Ok(process)
    }

    fn current(&self, state: &State) -> Result<OwnedFd> {
        let client = state.client.as_ref().ok_or(ClientError::Disconnected)?;
        self.process(client.status()?.pid)
    }

    fn process(&self, pid: u32) -> Result<OwnedFd> {
        let failed = || format!("cannot watch rnet-dns at {}", self.socket.display());
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| Error::new(cnm::Kind::Internal, failed()))?;
        pidfd_open(pid, PidfdFlags::empty()).map_err(|error| Error::internal(failed(), error))
    }

    /// Starts the process in a group of its own, so that what ends the daemon does not end it.
    fn spawn(&self, state: &mut State) -> Result<Client> {
        if let Some(mut old) = state.child.take() {
            // A child that does not answer is replaced, whatever keeps it.
            let _ = old.kill();
            let _ = old.wait();
        }
        let failed =
            |error| Error::internal(format!("cannot start {}", self.program.display()), error);
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.socket.with_extension("log"))
            .map_err(failed)?;
        let child = Command::new(&self.program)
            .env_remove("NOTIFY_SOCKET")
            .arg("--socket")
            .arg(&self.socket)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        let process = self.process(child.id())?;
        state.child = Some(child);
        let begun = Instant::now();
        loop {
            let error = match Client::connect(&self.socket) {
                Ok(client) => return Ok(client),
                Err(error) => error,
            };
            let ended = poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&MOMENT));
            if ended.is_ok_and(|count| count > 0) || begun.elapsed() > GIVE_UP {
                return Err(error.into());
            }
        }
    }

    /// Tells a process what it does not know yet, and takes away what it should not know.
    fn synchronise(
        &self,
        client: &Client,
        entries: &BTreeMap<SandboxId, Entry>,
    ) -> Result<(), ClientError> {
        client.follow_host(&self.resolv_conf)?;
        if let Some(owner) = self.kernel.table_owner() {
            client.keep_owner(owner.as_fd())?;
        }
        let known = client.status()?;
        let served: HashSet<&SandboxId> = known.sandboxes.iter().collect();
        let held: HashSet<&PortBinding> = known.ports.iter().collect();
        for (id, entry) in entries {
            let view = &entry.served.view;
            match (entry.served.resolver, served.contains(id)) {
                (true, true) => client.update(view.clone())?,
                (true, false) => self.serve(client, view)?,
                (false, _) => {}
            }
            self.hold(client, &entry.ports, &held)?;
        }
        Self::publish_all(client, entries)?;
        let wanted = |id: &SandboxId| entries.get(id).is_some_and(|entry| entry.served.resolver);
        for id in known.sandboxes.iter().filter(|id| !wanted(id)) {
            client.release(id)?;
        }
        let wanted: HashSet<PortBinding> =
            entries.values().flat_map(|entry| &entry.ports).flat_map(HeldPort::bindings).collect();
        let stale: Vec<_> =
            known.ports.iter().filter(|port| !wanted.contains(port)).cloned().collect();
        if stale.is_empty() { Ok(()) } else { client.drop_ports(&stale) }
    }

    fn publish_all(
        client: &Client,
        entries: &BTreeMap<SandboxId, Entry>,
    ) -> Result<(), ClientError> {
        let mut networks: BTreeMap<&NetworkId, (&str, Vec<EndpointNames>)> = BTreeMap::new();
        for publication in entries.values().flat_map(|entry| &entry.served.names) {
            let (_, names) = networks
                .entry(&publication.network)
                .or_insert_with(|| (&publication.network_name, Vec::new()));
            names.push(publication.names.clone());
        }
        let mut kept = Kept::new();
        for (network, (name, endpoints)) in networks {
            client.publish(network, name, &endpoints)?;
            let ids = endpoints.into_iter().map(|names| names.endpoint).collect();
            kept.insert(network.clone(), ids);
        }
        client.retain(kept)
    }

    /// Opens a sandbox's sockets and has them served. A sandbox that is broken is left out: the
    /// others are not to suffer for it.
    fn serve(&self, client: &Client, view: &SandboxView) -> Result<(), ClientError> {
        match self.kernel.resolver_sockets(&view.sandbox) {
            Ok(sockets) => client.serve(view.clone(), sockets.udp.as_fd(), sockets.tcp.as_fd()),
            Err(error) => {
                let (sandbox, error) = (view.sandbox.short(), Error::from(error).chain());
                tracing::error!(sandbox, error, "cannot open the resolver's sockets");
                Ok(())
            }
        }
    }

    /// Binds those host ports again that are not held, and has them held.
    fn hold(
        &self,
        client: &Client,
        ports: &[HeldPort],
        held: &HashSet<&PortBinding>,
    ) -> Result<(), ClientError> {
        let known = ports.iter().flat_map(HeldPort::apart);
        // Where they lead may have changed while nobody could tell it.
        let known: Vec<_> = known.filter(|port| held.contains(&port.binding)).collect();
        client.lead(&known)?;
        let host = self.kernel.host_ports();
        let bound: Vec<_> = ports.iter().flat_map(|port| bind(&host, port, held)).collect();
        let held: Vec<_> =
            bound.iter().map(|(port, socket)| (port.clone(), socket.as_fd())).collect();
        client.hold(&held)
    }
}

/// Binds what is not held of a port: by one socket, if it is of both families and can be had so.
fn bind(
    host: &HostPorts<'_>,
    port: &HeldPort,
    held: &HashSet<&PortBinding>,
) -> Vec<(HeldPort, OwnedFd)> {
    let missing: Vec<_> = port.apart().filter(|single| !held.contains(&single.binding)).collect();
    let bindings: Vec<_> = missing.iter().map(|single| single.binding.clone()).collect();
    if let Some(socket) = host.reserve_pair(&bindings) {
        return vec![(port.clone(), socket)];
    }
    let bind = |single: HeldPort| match host.reserve(&single.binding) {
        Ok(Some(socket)) => Some((single, socket)),
        Ok(None) => {
            tracing::warn!(port = single.binding.host_port, "a published port was taken");
            None
        }
        Err(error) => {
            let error = Error::from(error).chain();
            tracing::warn!(port = single.binding.host_port, error, "cannot bind a port");
            None
        }
    };
    missing.into_iter().filter_map(bind).collect()
}
