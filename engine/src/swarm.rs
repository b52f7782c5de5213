//! Docker's swarm mode: a cluster that keeps its own store.
//!
//! The node itself, with its certificate, its door and its member of the store, is the business of the
//! crate `swarm`. Here it is brought together with the cluster that this host is in: while it is a
//! node, the cluster's store is the swarm's.

mod address;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cnm::{Kind, Store};
use tokio::sync::Mutex;

use crate::cluster::{Leave, Membership};
use crate::settings::Settings;
use crate::tasks::Tasks;
use address::Addresses;
use cluster::Place;
use engine_error::{Error, Result};
use swarm::node::Own;
use swarm::protocol::Description;
use swarm::{Node, Standing};

/// How long to wait before a node is made a host of its cluster again, if that failed.
const AGAIN: Duration = Duration::from_secs(5);

/// This host in a swarm, or in none.
#[derive(Debug)]
pub struct Swarm {
    /// The node.
    pub node: Arc<Node>,
    membership: Arc<Membership>,
    store: Arc<dyn Store>,
    /// Held while the swarm is joined or left, or the cluster follows it.
    turn: Mutex<()>,
}

/// A swarm to be made.
#[derive(Clone, Debug, Default)]
pub struct Beginning {
    /// Where managers listen.
    pub listen: String,
    /// The address for the others; found if it is empty.
    pub advertise: String,
    /// How long certificates of nodes are good for, if not as long as usual.
    pub node_life: Option<Duration>,
    /// The swarm's labels.
    pub labels: BTreeMap<String, String>,
}

/// A swarm to be joined.
#[derive(Clone, Debug, Default)]
pub struct Joining {
    /// Where this node listens, if it is a manager.
    pub listen: String,
    /// The address for the others; found if it is empty.
    pub advertise: String,
    /// What lets this node in.
    pub token: String,
    /// Where managers are.
    pub managers: Vec<String>,
}

impl Swarm {
    /// What an earlier daemon left.
    pub fn open(
        settings: &Settings,
        store: Arc<dyn Store>,
        membership: Arc<Membership>,
    ) -> Result<Self> {
        let log = settings.exec_root.join("etcd.log");
        let node = Node::open(settings.data_root.join("swarm"), log)?;
        Ok(Self { node, membership, store, turn: Mutex::default() })
    }

    /// From now on the node is kept as it is to be, and the cluster follows it.
    pub(crate) fn go_on(self: &Arc<Self>, tasks: &Tasks) {
        tasks.spawn(self.node.clone().keep());
        tasks.spawn(self.clone().follow());
    }

    /// How this host stands to a swarm.
    pub fn standing(&self) -> Standing {
        self.node.standing()
    }

    /// Makes a swarm, with this host as its first manager. Returns the node's identity.
    pub async fn init(&self, wanted: &Beginning) -> Result<String> {
        let _alone = self.turn.lock().await;
        let own = self.own(&wanted.listen, &wanted.advertise, &[])?;
        self.node.init(&own, wanted.node_life, wanted.labels.clone()).await?;
        self.be_a_host(&own).await?;
        Ok(own.node)
    }

    /// Joins one.
    pub async fn join(&self, wanted: &Joining) -> Result<()> {
        let _alone = self.turn.lock().await;
        let own = self.own(&wanted.listen, &wanted.advertise, &wanted.managers)?;
        self.node.join(&own, &wanted.token, &wanted.managers).await?;
        self.be_a_host(&own).await
    }

    /// Leaves it.
    pub async fn leave(&self, force: bool) -> Result<()> {
        let _alone = self.turn.lock().await;
        self.node.may_leave(force)?;
        let how = if force { Leave::Forced } else { Leave::Orderly };
        self.leave_cluster(how).await?;
        self.node.leave(true).await
    }

    /// Everything of a swarm goes.
    pub async fn reset(&self) -> Result<()> {
        let _alone = self.turn.lock().await;
        if self.node.standing().membership.is_some()
            && let Err(error) = self.leave_cluster(Leave::Forced).await
        {
            tracing::warn!(error = error.chain(), "the cluster is not left in order");
        }
        self.node.reset().await
    }

    /// Who this host is to be in a swarm. What it was in another one is forgotten.
    fn own(&self, listen: &str, advertise: &str, managers: &[String]) -> Result<Own> {
        if self.node.standing().membership.is_some() {
            return Err(Error::new(Kind::Unavailable, swarm::node::IN_ALREADY));
        }
        if let Some(member) = self.membership.member() {
            return Err(Error::conflict(format!(
                "this host is in cluster {} already: `rnet cluster leave` leaves it",
                member.place()
            )));
        }
        let addresses = Addresses::find(listen, advertise, managers)?;
        cluster::forget(self.store.as_ref())?;
        Ok(Own {
            node: cluster::node_id(self.store.as_ref())?,
            name: host_name(),
            address: addresses.advertised,
            listen: addresses.listen,
            port: addresses.port,
            description: description(),
        })
    }

    /// A node is a host of the cluster in the swarm's store, or it is no node either.
    async fn be_a_host(&self, own: &Own) -> Result<()> {
        let Err(error) = self.join_cluster().await else { return Ok(()) };
        if let Err(undo) = self.node.leave(true).await {
            tracing::warn!(error = undo.chain(), node = own.node, "the swarm is not left again");
        }
        Err(error)
    }

    async fn join_cluster(&self) -> Result<()> {
        let Some(node) = self.node.standing().membership else { return Ok(()) };
        let (membership, address) = (self.membership.clone(), node.state.address.to_string());
        blocking(move || membership.join(&node.place, Some(&address))).await
    }

    async fn leave_cluster(&self, how: Leave) -> Result<()> {
        if self.membership.member().is_none() {
            return Ok(());
        }
        let membership = self.membership.clone();
        blocking(move || membership.leave(how)).await
    }

    /// Has the cluster know where the swarm's store is, after every change of it.
    async fn follow(self: Arc<Self>) {
        let mut standing = self.node.watch();
        let mut renewals = 0;
        loop {
            let followed = {
                let _alone = self.turn.lock().await;
                let now = standing.borrow_and_update().membership.clone();
                self.follow_once(now.as_ref().map(|now| (&now.place, now.renewals)), &mut renewals)
                    .await
            };
            match followed {
                Ok(()) => {
                    if standing.changed().await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    tracing::warn!(error = error.chain(), "the cluster does not follow the swarm");
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    }

    async fn follow_once(&self, now: Option<(&Place, u64)>, renewals: &mut u64) -> Result<()> {
        match (now, self.membership.member()) {
            // A crash came between two halves of an operation: the swarm decides.
            (None, Some(member)) if self.is_own(&member.place()) => {
                self.leave_cluster(Leave::Forced).await
            }
            (None, _) => Ok(()),
            (Some(_), None) => self.join_cluster().await,
            (Some((place, number)), Some(member)) => {
                let before = member.place();
                if before.endpoints == place.endpoints && number == *renewals {
                    return Ok(());
                }
                let place = Place { endpoints: place.endpoints.clone(), ..before };
                let membership = self.membership.clone();
                blocking(move || membership.reopen(&place)).await?;
                *renewals = number;
                Ok(())
            }
        }
    }

    /// Whether a place is the store of a swarm that this host was in.
    fn is_own(&self, place: &Place) -> bool {
        let authority = place.tls.as_ref().and_then(|tls| tls.authority.as_ref());
        authority.is_some_and(|file| file.starts_with(self.node.directory()))
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Error::internal("the operation ended unexpectedly", error))?
}

fn host_name() -> String {
    let name = nix::unistd::gethostname().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// What this host is, for lists of nodes.
fn description() -> Description {
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = memory.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kibibytes = memory.and_then(|text| text.trim().trim_end_matches(" kB").parse::<u64>().ok());
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Description {
        architecture: std::env::consts::ARCH.to_owned(),
        processors: u64::try_from(processors).unwrap_or(1),
        memory: kibibytes.unwrap_or_default() * 1024,
        release: env!("CARGO_PKG_VERSION").to_owned(),
    }
}
