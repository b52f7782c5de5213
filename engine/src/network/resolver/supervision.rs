//! Keeps a process `rnet-dns` that serves: one thread finds it, starts it, watches it, and replaces
//! it when it ends or hangs.
//!
//! Requests say what they want to the process that is there. One that meets none, or one that does
//! not answer, waits until the thread has told everything to the next: that includes the request,
//! for what is desired was changed first. No lock is held while a process is waited for.

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cnm::SandboxId;
use dns::client::{Client, ClientError};
use drivers::kernel::Host;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::desired::{Desired, Remote, SandboxNames, Services};
use super::process::{Process, Program};
use super::{names, ports};
use engine_error::{Error, Result};

/// How often a process that nobody talks to is asked whether it answers, in milliseconds.
const ASK_EVERY: u16 = 2000;

/// How long to wait after a start that failed, in milliseconds.
const AFTER_FAILURE: u16 = 1000;

/// How long a request waits for the next process: its predecessor's end, its start, and the telling.
const REQUEST_LIMIT: Duration = Duration::from_secs(20);

/// Who keeps the process.
#[derive(Debug)]
pub(super) struct Supervisor {
    program: Program,
    resolv_conf: PathBuf,
    kernel: Arc<dyn Host>,
    state: Mutex<State>,
    /// Told when a process serves, when none could be had, and when none is wanted any more.
    changed: Condvar,
    /// Rung for the thread.
    bell: EventFd,
}

/// What is desired, and who has been told.
#[derive(Debug, Default)]
struct State {
    desired: Desired,
    /// The process that knows all that is desired, if there is one.
    client: Option<Arc<Client>>,
    /// How many processes were told everything.
    generation: u64,
    /// How many attempts to have one came to nothing, and what the last one met.
    failures: u64,
    failure: String,
    /// Whether a process is wanted.
    wanted: bool,
}

/// What the watching thread met.
enum Event {
    Ended,
    Hangs(ClientError),
    Unwanted,
}

impl Supervisor {
    pub(super) fn new(
        socket: PathBuf,
        program: PathBuf,
        resolv_conf: PathBuf,
        kernel: Arc<dyn Host>,
    ) -> Result<Self> {
        let bell = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(|error| Error::internal("cannot watch rnet-dns", error))?;
        let program = Program::new(socket, program);
        let (state, changed) = (Mutex::default(), Condvar::new());
        Ok(Self { program, resolv_conf, kernel, state, changed, bell })
    }

    pub(super) fn kernel(&self) -> &dyn Host {
        self.kernel.as_ref()
    }

    /// Has a process serve this. It is to be watched from now on.
    pub(super) fn begin(&self, services: Services) -> Result<Process> {
        let mut state = self.lock();
        state.wanted = true;
        state.desired.replace(services);
        drop(state);
        // One that was there and did not take everything is replaced by one that knows nothing.
        self.revive().or_else(|error| {
            tracing::warn!(error = error.chain(), "rnet-dns is started again");
            self.revive()
        })
    }

    /// What a sandbox sees and is called.
    pub(super) fn names(&self, sandbox: &SandboxId) -> Option<SandboxNames> {
        self.lock().desired.names(sandbox)
    }

    /// Changes what is desired, and says so to the process. If that is gone or hangs, the next one
    /// is told everything, this too.
    pub(super) fn change<T>(
        &self,
        decide: impl FnOnce(&mut Desired) -> T,
        say: impl FnOnce(T, &Client) -> Result<(), ClientError>,
    ) -> Result<()> {
        let mut state = self.lock();
        let decided = decide(&mut state.desired);
        let (generation, failures) = (state.generation, state.failures);
        let client = state.client.clone();
        drop(state);
        let said = match client {
            Some(client) => say(decided, &client),
            None => Err(ClientError::Disconnected),
        };
        match said {
            Ok(()) => Ok(()),
            Err(error @ ClientError::Refused { .. }) => Err(error.into()),
            Err(error) => self.wait_for_next(generation, failures, error),
        }
    }

    /// Says something to the process that is there. To the next one it would mean nothing.
    pub(super) fn mention(
        &self,
        say: impl FnOnce(&Client) -> Result<(), ClientError>,
    ) -> Result<()> {
        let client = self.lock().client.clone();
        match client.map_or(Ok(()), |client| say(&client)) {
            // One from before an upgrade does not know it, and has nothing that it is about.
            Ok(()) | Err(ClientError::Refused { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn wait_for_next(&self, generation: u64, failures: u64, error: ClientError) -> Result<()> {
        let mut state = self.lock();
        if state.generation == generation && state.client.take().is_some() {
            tracing::warn!(error = Error::from(error).chain(), "rnet-dns does not answer");
        }
        self.ring();
        let none = |state: &mut State| {
            state.wanted && state.generation == generation && state.failures == failures
        };
        let waited = self.changed.wait_timeout_while(state, REQUEST_LIMIT, none);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if !state.wanted || state.generation != generation {
            return Ok(());
        }
        let because = if state.failures == failures { "it takes too long" } else { &state.failure };
        let message = format!("cannot have names answered and ports held by rnet-dns: {because}");
        Err(Error::new(cnm::Kind::Unavailable, message))
    }

    /// Watches a process and its successors until none is wanted; returns the last one.
    pub(super) fn watch(&self, mut process: Process) -> Option<Process> {
        loop {
            match self.next_event(&process) {
                Event::Unwanted => return Some(process),
                Event::Ended => tracing::warn!("rnet-dns ended: starting it again"),
                Event::Hangs(error) => {
                    let error = Error::from(error).chain();
                    tracing::warn!(error, "rnet-dns hangs: replacing it");
                }
            }
            self.lock().client = None;
            if let Err(error) = self.program.kill(&process) {
                tracing::error!(error = error.chain(), "names are not answered");
            }
            process = self.revive_at_last()?;
            tracing::info!("names are answered and ports are held again");
        }
    }

    /// Nobody wants a process any more. It goes on serving what it knows.
    pub(super) fn give_up(&self) {
        let mut state = self.lock();
        state.wanted = false;
        state.client = None;
        drop(state);
        self.changed.notify_all();
        self.ring();
    }

    /// Ends the process that was there last, or whoever listens.
    pub(super) fn end(&self, last: Option<Process>) {
        self.lock().desired.replace(Services::new());
        if let Err(error) = self.program.end(last) {
            tracing::warn!(error = error.chain(), "cannot end rnet-dns");
        }
    }

    fn next_event(&self, process: &Process) -> Event {
        loop {
            let mut both = [
                PollFd::new(process.descriptor(), PollFlags::POLLIN),
                PollFd::new(self.bell.as_fd(), PollFlags::POLLIN),
            ];
            let ready = poll(&mut both, PollTimeout::from(ASK_EVERY));
            let [ended, rung] = both.map(|one| one.any().unwrap_or(false));
            if rung {
                let _ = self.bell.read();
            }
            let state = self.lock();
            let (wanted, client) = (state.wanted, state.client.clone());
            drop(state);
            match (client, ready) {
                _ if !wanted => return Event::Unwanted,
                _ if ended => return Event::Ended,
                (None, _) => return Event::Hangs(ClientError::Disconnected),
                (Some(client), Ok(0)) => {
                    if let Err(error) = client.greet() {
                        return Event::Hangs(error);
                    }
                }
                (Some(_), _) => {}
            }
        }
    }

    /// Tries until there is a process, or none is wanted.
    fn revive_at_last(&self) -> Option<Process> {
        loop {
            if !self.lock().wanted {
                return None;
            }
            let error = match self.revive() {
                Ok(process) => return Some(process),
                Err(error) => error.chain(),
            };
            tracing::error!(error, "names are not answered");
            let mut state = self.lock();
            state.failures += 1;
            state.failure = error;
            drop(state);
            self.changed.notify_all();
            // Those who ask meanwhile want it tried at once; one after the other is often enough.
            let mut nothing = [PollFd::new(self.bell.as_fd(), PollFlags::empty())];
            let _ = poll(&mut nothing, PollTimeout::from(AFTER_FAILURE));
        }
    }

    /// Takes up the process that is there, or starts one, and tells it everything, until nothing
    /// was changed meanwhile.
    fn revive(&self) -> Result<Process> {
        let (client, process) = self.program.find_or_start()?;
        let client = Arc::new(client);
        loop {
            let (version, services, remote) = self.lock().desired.all();
            if let Err(error) = self.synchronise(&client, &services, &remote) {
                // One that refuses is not to blame for long: the next one starts from nothing.
                self.program.kill(&process)?;
                return Err(error.into());
            }
            let mut state = self.lock();
            if state.desired.is(version) {
                state.client = Some(client);
                state.generation += 1;
                drop(state);
                self.changed.notify_all();
                return Ok(process);
            }
        }
    }

    /// Tells a process what it does not know yet, and takes away what it should not know.
    fn synchronise(
        &self,
        client: &Client,
        services: &Services,
        remote: &Remote,
    ) -> Result<(), ClientError> {
        client.follow_host(&self.resolv_conf)?;
        if let Some(owner) = self.kernel.table_owner() {
            client.keep_owner(owner.as_fd())?;
        }
        let known = client.status()?;
        names::synchronise(self.kernel(), client, (services, remote), &known.sandboxes)?;
        ports::synchronise(self.kernel(), client, services, &known.ports)
    }

    fn ring(&self) {
        // One that rings already is heard.
        let _ = self.bell.write(1);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
