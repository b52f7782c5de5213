//! This node of a swarm: brought in, kept as it is to be, and taken out.
//!
//! What it is to be is written down before anything is done for it: its state on disk, and its record
//! in the store. `Node::settle` does what is missing, after a beginning, a restart, a promotion or a
//! crash alike.

mod departure;
mod keep;
mod manage;
mod operations;
mod ways;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime};

use engine_error::{Error, Kind, Result};
use tokio::sync::{Mutex, Notify, watch};
use tokio::task::JoinHandle;

use crate::authority::{Authority, Subject};
use crate::certificate::{Holder, KeyAndRequest};
use crate::client::{self, Identity};
use crate::files::{self, Files, Phase, State};
use crate::joining::{self, Joining};
use crate::member::{self, EtcdProcess};
use crate::protocol::{Admission, Description, Join, Request};
use crate::record::{Availability, SwarmRecord};
use crate::server::Lock;
use crate::standing::{Enrolment, Standing, place};
use crate::token::{Role, Token};
use ways::Ways;

pub use operations::{Listed, ManagerStatus, NodeChange, OUT, Rotate, WORKER};

/// How long it may take until a node is all that it is to be.
const SETTLES: Duration = Duration::from_secs(60);

/// How long the store may take for an answer.
const LIMIT: Duration = Duration::from_secs(5);

/// How long to wait between two attempts at it.
const MOMENT: Duration = Duration::from_millis(100);

/// This node, whether it is in a swarm or not.
#[derive(Debug)]
pub struct Node {
    files: Files,
    log: PathBuf,
    works: Mutex<Works>,
    ways: std::sync::Mutex<Ways>,
    standing: watch::Sender<Standing>,
    nudge: Notify,
}

/// What runs for it. Whoever holds it is the only one to change what this node is.
#[derive(Debug, Default)]
struct Works {
    member: Option<EtcdProcess>,
    door: Option<Open>,
}

impl Works {
    /// No member of the store runs here any more.
    async fn end_member(&mut self, files: &Files) -> Result<()> {
        match self.member.take() {
            Some(member) => member.end().await,
            None => member::end(&files.path("data")).await,
        }
    }

    /// Why something failed, where the reason is that there is no member of the store here.
    fn explain(&self, error: Error) -> Error {
        match self.member.as_ref().and_then(EtcdProcess::problem) {
            None => error,
            Some(why) => {
                let message = format!("the member of etcd here ended, {why}: {}", error.chain());
                Error::new(error.kind(), message)
            }
        }
    }
}

/// The managers' port, open.
#[derive(Debug)]
struct Open {
    lock: Lock,
    task: JoinHandle<()>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Who this node is to be.
#[derive(Clone, Debug)]
pub struct Own {
    /// Its identity.
    pub node: String,
    /// Its name.
    pub name: String,
    /// Where the others reach it.
    pub address: IpAddr,
    /// Where it lets others in, if it is a manager.
    pub listen: SocketAddr,
    /// Under which port of its address the others find that.
    pub port: u16,
    /// What it is to be used for.
    pub availability: Availability,
    /// What it is.
    pub description: Description,
}

impl Own {
    fn state(&self, cluster: &str) -> State {
        State {
            version: files::VERSION,
            cluster: cluster.to_owned(),
            node: self.node.clone(),
            name: self.name.clone(),
            address: self.address,
            listen: self.listen,
            port: self.port,
            phase: Phase::In,
            beginning: None,
            managers: Vec::new(),
            availability: self.availability,
            alone: None,
            description: self.description.clone(),
        }
    }
}

impl Node {
    /// What an earlier daemon left in a directory. `log` is where the member of the store complains.
    /// That it cannot be read is the standing's problem.
    pub fn open(directory: PathBuf, log: PathBuf) -> Arc<Self> {
        let files = Files::new(directory);
        let node = Self {
            files,
            log,
            works: Mutex::default(),
            ways: std::sync::Mutex::default(),
            standing: watch::channel(Standing::default()).0,
            nudge: Notify::new(),
        };
        node.tell(None);
        Arc::new(node)
    }

    /// Where what it keeps on disk is.
    pub fn directory(&self) -> &std::path::Path {
        self.files.directory()
    }

    /// How it stands now.
    pub fn standing(&self) -> Standing {
        self.standing.borrow().clone()
    }

    /// How it stands, and when that changes.
    pub fn watch(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// Makes a swarm with this node as its first manager. `life` is how long certificates of its nodes
    /// are good for, if it is not as long as usual.
    pub async fn init(&self, own: &Own, swarm: SwarmRecord) -> Result<()> {
        let mut works = self.works.lock().await;
        self.must_be_out()?;
        self.clear().await?;
        member::program()?;
        let (authority, keys) = (Authority::create()?, KeyAndRequest::new()?);
        let addresses = [own.address];
        let subject = Subject {
            cluster: &swarm.id,
            node: &own.node,
            role: Role::Manager,
            addresses: &addresses,
        };
        let certificate = authority.certify(&keys.request, &subject, swarm.life())?;
        let identity =
            Identity { certificate, key: keys.key, authority: authority.certificate().to_owned() };
        self.files.put_identity(&identity)?;
        self.files.write("authority.key", authority.key())?;
        let state = own.state(&swarm.id);
        self.files.put_state(&State { beginning: Some(swarm), ..state })?;
        self.settle_or_undo(&mut works).await
    }

    /// As which node this host may have been let in by a token already, and does not know it. Whoever asks
    /// as this node again is no second one.
    pub fn joining(&self, token: &str) -> Option<String> {
        Joining::begun_with(&self.files, token).map(|joining| joining.node)
    }

    /// Has managers let this node in, by a token.
    pub async fn join(&self, own: &Own, token: &str, managers: &[String]) -> Result<()> {
        let mut works = self.works.lock().await;
        self.must_be_out()?;
        self.sweep_up().await?;
        let parsed: Token =
            token.parse().map_err(|error: crate::NoToken| Error::invalid(error.to_string()))?;
        let begun = Joining::begun_with(&self.files, token);
        let joining = match begun.filter(|joining| joining.node == own.node) {
            Some(begun) => begun,
            None => Joining::begin(&self.files, token, &own.node)?,
        };
        let keys = KeyAndRequest::of(&joining.key)?;
        let join = Join {
            token: token.trim().to_owned(),
            request: keys.request,
            node: own.node.clone(),
            name: own.name.clone(),
            address: own.address,
            availability: own.availability,
            description: own.description.clone(),
        };
        let request = Request::Join(Box::new(join));
        let admission = match client::ask(managers, parsed.digest, None, &request).await {
            Ok(admission) => admission,
            Err(error) if error.kind() == Kind::Unavailable => return Err(error),
            Err(refused) => {
                self.files.clear()?;
                return Err(refused);
            }
        };
        self.take(&admission, &keys.key)?;
        let state = State { managers: admission.managers, ..own.state(&admission.cluster) };
        self.files.put_state(&state)?;
        self.files.remove(joining::FILE)?;
        if admission.role == Role::Manager
            && let Err(error) = member::program()
        {
            return Err(self.undo(&mut works, error).await);
        }
        self.settle_or_undo(&mut works).await
    }

    /// Keeps what a manager gave.
    fn take(&self, admission: &Admission, key: &str) -> Result<()> {
        if let Some(authority_key) = &admission.authority_key {
            self.files.write("authority.key", authority_key)?;
        }
        self.files.put_identity(&Identity {
            certificate: admission.certificate.clone(),
            key: key.to_owned(),
            authority: admission.authority.clone(),
        })
    }

    fn must_be_out(&self) -> Result<()> {
        if self.files.state()?.is_some() {
            return Err(Error::new(Kind::Unavailable, IN_ALREADY));
        }
        Ok(())
    }

    /// What is left of an attempt that a crash ended is of no swarm.
    async fn clear(&self) -> Result<()> {
        member::end(&self.files.path("data")).await?;
        self.files.clear()
    }

    /// The same, but for what is needed to make the attempt again.
    async fn sweep_up(&self) -> Result<()> {
        member::end(&self.files.path("data")).await?;
        match Joining::begun(&self.files) {
            Some(_) => self.files.clear_but(joining::FILE),
            None => self.files.clear(),
        }
    }

    async fn settle_or_undo(&self, works: &mut Works) -> Result<()> {
        match self.settle_in_time(works).await {
            Ok(()) => {
                self.nudge.notify_one();
                Ok(())
            }
            Err(error) => Err(self.undo(works, error).await),
        }
    }

    /// Out again, because of an error.
    async fn undo(&self, works: &mut Works, error: Error) -> Error {
        if let Err(undo) = self.depart(works).await {
            tracing::warn!(error = undo.chain(), "something is left of a swarm");
        }
        error
    }

    /// Tries until it is done, cannot be done, or the time is over.
    async fn settle_in_time(&self, works: &mut Works) -> Result<()> {
        let last = std::sync::Mutex::new(None);
        let attempts = async {
            while let Err(error) = self.settle(works).await {
                let error = works.explain(error);
                tracing::debug!(error = error.chain(), "not all that it is to be yet");
                *last.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                if works.member.as_ref().is_some_and(EtcdProcess::keeps_ending) {
                    return false;
                }
                tokio::time::sleep(MOMENT).await;
            }
            true
        };
        if tokio::time::timeout(SETTLES, attempts).await == Ok(true) {
            return Ok(());
        }
        let last = last.into_inner().unwrap_or_else(PoisonError::into_inner);
        Err(last.unwrap_or_else(|| Error::new(Kind::Unavailable, "the swarm does not answer")))
    }

    /// Does what is missing for this node to be what it is to be.
    async fn settle(&self, works: &mut Works) -> Result<()> {
        let Some(state) = self.files.state()? else {
            self.tell(None);
            return Ok(());
        };
        if state.phase == Phase::Leaving {
            return self.depart(works).await;
        }
        let identity = self.files.identity()?;
        let role = files::role(&identity)?;
        let done = match role {
            Role::Manager => self.manage(works, state, &identity).await,
            Role::Worker => self.work(works, &state).await,
        };
        let done = done.map_err(|error| self.told_out(error));
        self.tell(done.as_ref().err());
        done
    }

    /// A worker has nothing that managers have.
    async fn work(&self, works: &mut Works, state: &State) -> Result<()> {
        works.door = None;
        works.end_member(&self.files).await?;
        self.files.forget_manager()?;
        self.register(state, Role::Worker)?.read().await.map(|_| ())
    }

    /// What it means that the store lets this node in no more: it is not found in its swarm.
    fn told_out(&self, error: Error) -> Error {
        if error.kind() != Kind::Forbidden {
            return error;
        }
        let identity = self.files.identity();
        let holder = identity.and_then(|identity| Holder::of_pem(&identity.certificate));
        let message = if holder.is_ok_and(|holder| holder.until < SystemTime::now()) {
            "this node was away for longer than its certificate was good for: `docker swarm \
             leave`, and join again"
                .to_owned()
        } else {
            format!("{REMOVED} ({})", error.chain())
        };
        Error::new(Kind::NotFound, message)
    }

    /// Says how this node stands.
    fn tell(&self, error: Option<&Error>) {
        let shut_out = error.is_some_and(|error| error.kind() == Kind::NotFound);
        let problem = error.map(Error::chain);
        let standing = match self.enrolment(problem.is_none()) {
            Ok(enrolment) => Standing { enrolment, problem, unreadable: false, shut_out },
            Err(error) => {
                let problem = error.chain();
                if !self.standing.borrow().unreadable {
                    tracing::error!(problem, "it cannot be told what this node is in a swarm");
                }
                Standing { problem: Some(problem), unreadable: true, ..Standing::default() }
            }
        };
        self.standing.send_replace(standing);
    }

    /// What this node is, as its files say.
    fn enrolment(&self, well: bool) -> Result<Option<Enrolment>> {
        let state = self.files.state()?.filter(|state| state.phase == Phase::In);
        let Some(state) = state else { return Ok(None) };
        let role = files::role(&self.files.identity()?)?;
        let place = place(&self.files, &state, role);
        let ways = self.ways();
        let (settled, renewals) = (ways.are_open() && well, ways.renewals);
        Ok(Some(Enrolment { state, role, place, renewals, settled }))
    }
}

const REMOVED: &str = "this node was removed from its swarm: `docker swarm leave`";

/// Docker's words.
pub const IN_ALREADY: &str = "This node is already part of a swarm. Use \"docker swarm leave\" to leave \
                          this swarm and join another one.";
