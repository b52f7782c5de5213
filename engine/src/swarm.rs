//! Docker's swarm mode: a cluster that keeps its own store.
//!
//! The node itself, with its certificate, its door and its member of the store, is the business of the
//! crate `swarm`. Here it is brought together with the cluster that this host is in: while it is a
//! node, the cluster's store is the swarm's.

mod address;
mod nodes;

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
use swarm::record::{Availability, SwarmRecord};
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
#[derive(Clone, Debug)]
pub struct Beginning {
    /// Where managers listen.
    pub listen: String,
    /// The address for the others; found if it is empty.
    pub advertise: String,
    /// What the swarm is to be.
    pub swarm: SwarmRecord,
    /// What this node is to be used for.
    pub availability: Availability,
    /// Whether a manager that is in a swarm goes on without the others.
    pub anew: bool,
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
    /// What this node is to be used for.
    pub availability: Availability,
}

impl Swarm {
    /// What an earlier daemon left.
    pub fn open(settings: &Settings, store: Arc<dyn Store>, membership: Arc<Membership>) -> Self {
        let log = settings.exec_root.join("etcd.log");
        let node = Node::open(settings.swarm(), log);
        Self { node, membership, store, turn: Mutex::default() }
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
        if wanted.anew && !self.standing().is_out() {
            return self.begin_anew(wanted).await;
        }
        let own = self.own(&wanted.listen, &wanted.advertise, &[], None)?;
        let own = Own { availability: wanted.availability, ..own };
        self.node.init(&own, wanted.swarm.clone()).await?;
        self.be_a_host(&own).await?;
        Ok(own.node)
    }

    /// Joins one.
    pub async fn join(&self, wanted: &Joining) -> Result<()> {
        let _alone = self.turn.lock().await;
        let begun = self.node.joining(&wanted.token);
        let own = self.own(&wanted.listen, &wanted.advertise, &wanted.managers, begun)?;
        let own = Own { availability: wanted.availability, ..own };
        self.node.join(&own, &wanted.token, &wanted.managers).await?;
        self.be_a_host(&own).await
    }

    /// Leaves it.
    pub async fn leave(&self, force: bool) -> Result<()> {
        let _alone = self.turn.lock().await;
        // Who is not let in any more can tell nobody that he leaves.
        let alone = force || self.standing().shut_out;
        let how = if alone { Leave::Forced } else { Leave::Orderly };
        self.node.leave(force, self.leave_cluster(how)).await
    }

    /// Joins a cluster whose store is somebody else's.
    pub async fn join_other(&self, place: Place, advertise: Option<String>) -> Result<()> {
        let _alone = self.turn.lock().await;
        if !self.standing().is_out() {
            return Err(Error::conflict(
                "this host is a node of a swarm, which is its cluster: `docker swarm leave` leaves it \
                 before it joins another one",
            ));
        }
        let membership = self.membership.clone();
        blocking(move || membership.join(&place, advertise.as_deref())).await
    }

    /// Leaves it again.
    pub async fn leave_other(&self, how: Leave) -> Result<()> {
        let _alone = self.turn.lock().await;
        let of_swarm = |place: &Place| self.membership.is_of_swarm(place);
        let own = self.membership.member().is_none_or(|member| of_swarm(&member.place()));
        if own && !self.standing().is_out() {
            return Err(Error::conflict(
                "this host's cluster is that of its swarm: `docker swarm leave` leaves both",
            ));
        }
        let membership = self.membership.clone();
        blocking(move || membership.leave(how)).await
    }

    /// Everything of a swarm goes.
    pub async fn reset(&self) -> Result<()> {
        let _alone = self.turn.lock().await;
        let is_out = self.standing().is_out();
        let leave = async {
            if !is_out && let Err(error) = self.leave_cluster(Leave::Forced).await {
                tracing::warn!(error = error.chain(), "the cluster is not left in order");
            }
        };
        self.node.reset(leave).await
    }

    /// A manager goes on without the others, which are lost.
    async fn begin_anew(&self, wanted: &Beginning) -> Result<String> {
        self.node.authority()?;
        let out = || Error::new(Kind::Unavailable, swarm::node::OUT);
        let state = self.standing().enrolment.ok_or_else(out)?.state;
        let advertise = match wanted.advertise.as_str() {
            "" => state.address.to_string(),
            named => named.to_owned(),
        };
        let links = self.membership.links()?;
        let addresses = Addresses::find(&links, &wanted.listen, &advertise, &[])?;
        if addresses.advertised != state.address {
            return Err(Error::invalid(format!(
                "a manager keeps the address by which its member of the store is known: {}",
                state.address
            )));
        }
        self.node.go_on_alone(addresses.listen).await?;
        Ok(state.node)
    }

    /// Who this host is to be in a swarm: `node`, if that is known. What it was in another one is forgotten.
    fn own(
        &self,
        listen: &str,
        advertise: &str,
        managers: &[String],
        node: Option<String>,
    ) -> Result<Own> {
        if !self.node.standing().is_out() {
            return Err(Error::new(Kind::Unavailable, swarm::node::IN_ALREADY));
        }
        if let Some(member) = self.membership.member() {
            return Err(Error::conflict(format!(
                "this host is in cluster {} already: `rnet cluster leave` leaves it",
                member.place()
            )));
        }
        let links = self.membership.links()?;
        let addresses = Addresses::find(&links, listen, advertise, managers)?;
        cluster::forget(self.store.as_ref())?;
        if let Some(node) = node {
            cluster::become_node(self.store.as_ref(), &node)?;
        }
        Ok(Own {
            node: cluster::node_id(self.store.as_ref())?,
            name: host_name(),
            address: addresses.advertised,
            listen: addresses.listen,
            port: addresses.port,
            availability: Availability::default(),
            description: description(),
        })
    }

    /// A node is a host of the cluster in the swarm's store, or it is no node either.
    async fn be_a_host(&self, own: &Own) -> Result<()> {
        let Err(error) = self.join_cluster().await else { return Ok(()) };
        if let Err(undo) = self.node.leave(true, self.leave_cluster(Leave::Forced)).await {
            tracing::warn!(error = undo.chain(), node = own.node, "the swarm is not left again");
        }
        Err(error)
    }

    async fn join_cluster(&self) -> Result<()> {
        let Some(node) = self.node.standing().enrolment else { return Ok(()) };
        let (membership, address) = (self.membership.clone(), node.state.address.to_string());
        blocking(move || membership.join(&node.place, Some(&address))).await
    }

    /// Leaves the cluster that is the swarm's, if this host is in that.
    async fn leave_cluster(&self, how: Leave) -> Result<()> {
        let membership = self.membership.clone();
        blocking(move || match membership.member() {
            Some(member) if membership.is_of_swarm(&member.place()) => membership.leave(how),
            Some(_) => Ok(()),
            None => membership.forget_swarm(),
        })
        .await
    }

    /// Has the cluster know where the swarm's store is, after every change of it.
    async fn follow(self: Arc<Self>) {
        let mut standing = self.node.watch();
        let mut renewals = 0;
        loop {
            let followed = {
                let _alone = self.turn.lock().await;
                let now = standing.borrow_and_update().clone();
                self.follow_once(&now, &mut renewals).await
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

    async fn follow_once(&self, now: &Standing, renewals: &mut u64) -> Result<()> {
        match (&now.enrolment, self.membership.member()) {
            (None, _) if now.unreadable => Ok(()),
            // A crash came between two halves of an operation: the swarm decides.
            (None, _) => self.leave_cluster(Leave::Forced).await,
            (Some(_), None) => self.join_cluster().await,
            (Some(_), Some(member)) if !self.membership.is_of_swarm(&member.place()) => {
                Err(Error::conflict(format!(
                    "this host is a node of a swarm, and in cluster {}: `rnet cluster leave` leaves \
                     that",
                    member.place()
                )))
            }
            (Some(node), Some(member)) => {
                let before = member.place();
                if before.endpoints == node.place.endpoints && node.renewals == *renewals {
                    return Ok(());
                }
                let place = Place { endpoints: node.place.endpoints.clone(), ..before };
                let membership = self.membership.clone();
                blocking(move || membership.reopen(&place)).await?;
                *renewals = node.renewals;
                Ok(())
            }
        }
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
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Description {
        architecture: std::env::consts::ARCH.to_owned(),
        processors: u64::try_from(processors).unwrap_or(1),
        memory: runtime::host::memory(),
        release: env!("CARGO_PKG_VERSION").to_owned(),
    }
}
