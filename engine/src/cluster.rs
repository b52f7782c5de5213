//! The cluster that this host is in, if it is in one.
//!
//! [`Membership`] joins and leaves, and remembers over restarts what was joined. While this host is a
//! [`Member`], its networks are shared by way of the cluster's store (`sharing`), and what other
//! hosts do there is followed (`follow`).

pub(crate) mod address;
mod check;
mod encryption;
mod follow;
mod member;
mod names;
mod nodes;
mod record;
mod sharing;
mod told;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cnm::controller::HostLink;
use cnm::store::{Batch, Durability};
use cnm::{Kind, LinkName, Store};

use crate::container::Containers;
use crate::network::Networks;
use crate::settings::Settings;
use crate::tasks::Tasks;
pub use address::Advertised;
pub use check::{Finding, Outcome, Stage, Trouble};
use cluster::Place;
use engine_error::{Error, Result};
pub use member::{Member, Removal};
pub use nodes::NodeView;
use record::Joined;

/// How long a user who joins waits for the store to let this host in.
const PATIENCE: Duration = Duration::from_secs(15);

/// What this host is a member of.
#[derive(Debug)]
pub struct Membership {
    settings: Arc<Settings>,
    networks: Arc<Networks>,
    containers: Arc<Containers>,
    store: Arc<dyn Store>,
    tasks: Arc<Tasks>,
    member: Mutex<Option<Arc<Member>>>,
    /// Why what was joined could not be taken up.
    failure: Mutex<Option<String>>,
    /// Held while this host joins or leaves.
    changing: Mutex<()>,
}

impl Membership {
    /// This host is in no cluster yet.
    pub fn new(
        settings: Arc<Settings>,
        networks: Arc<Networks>,
        containers: Arc<Containers>,
        store: Arc<dyn Store>,
        tasks: Arc<Tasks>,
    ) -> Self {
        let (member, failure, changing) = Default::default();
        Self { settings, networks, containers, store, tasks, member, failure, changing }
    }

    /// What this host is a member of, if of anything.
    pub fn member(&self) -> Option<Arc<Member>> {
        self.lock().clone()
    }

    /// The links of this host.
    pub(crate) fn links(&self) -> Result<Arc<BTreeMap<LinkName, HostLink>>> {
        Ok(self.networks.kernel().host_facts()?.links)
    }

    /// The same where nothing can be done without.
    pub fn required(&self) -> Result<Arc<Member>> {
        self.member().ok_or_else(|| {
            let why = self.failure().unwrap_or_else(|| {
                "this host is in no cluster: `rnet cluster join etcd://host:2379` joins one"
                    .to_owned()
            });
            Error::new(Kind::Unavailable, why)
        })
    }

    /// Why what was joined could not be taken up at the daemon's start, if it could not.
    pub fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes up what was joined, or what the configuration names. Waits for no store.
    pub(crate) fn open(&self) -> Result<()> {
        let _alone = self.changing();
        let known = record::read(self.store.as_ref())?;
        let is_known = known.is_some();
        let Some(joined) = self.wanted(known)? else { return Ok(()) };
        self.networks.await_others();
        let member = match self.begin(&joined) {
            Ok(member) => member,
            // What runs here needs its daemon, whatever became of the cluster.
            Err(error) if is_known => {
                let (place, error) = (&joined.place, error.chain());
                let why = format!("this host is in cluster {place}, and cannot be: {error}");
                tracing::error!("{why}");
                *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        self.write(&Joined { address: Some(member.address()), ..joined })?;
        member.know_others();
        *self.lock() = Some(member);
        Ok(())
    }

    /// Networks are shared from now on, and other hosts followed. What runs here is known by now.
    pub(crate) fn go_on(&self) -> Result<()> {
        self.member().map_or(Ok(()), |member| self.share(&member))
    }

    /// Joins a cluster, and stays in it over restarts. Blocks until the cluster's store has let this
    /// host in, or says why not.
    pub fn join(&self, place: &Place, advertise: Option<&str>) -> Result<()> {
        let _alone = self.changing();
        if let Some(member) = self.member() {
            return Err(Error::conflict(format!(
                "this host is in cluster {} already: `rnet cluster leave` leaves it",
                member.place()
            )));
        }
        let advertise = advertise.or(self.settings.advertise.as_deref()).map(str::to_owned);
        let joined = Joined { place: place.clone(), advertise, address: None };
        let member = self.begin(&joined)?;
        if let Err(error) = member.await_joined(PATIENCE) {
            member.stop();
            return Err(error);
        }
        let joined = Joined { address: Some(member.address()), ..joined };
        self.write(&joined).inspect_err(|_| member.stop())?;
        member.know_others();
        // At a start this comes by itself.
        self.networks.heal();
        *self.lock() = Some(member.clone());
        self.share(&member)
    }

    /// Leaves the cluster. Fails while containers here are on its networks. Blocks.
    pub fn leave(&self, how: Leave) -> Result<()> {
        let _alone = self.changing();
        let member = self.required()?;
        self.must_be_unused(&member.place())?;
        match member.leave() {
            Err(error) if how == Leave::Orderly => {
                let text = format!(
                    "cannot take this host out of cluster {}: {}; with --force it is only forgotten \
                     here",
                    member.place(),
                    error.chain()
                );
                return Err(Error::new(error.kind(), text));
            }
            Err(error) => tracing::warn!(error = error.chain(), "the others are not told"),
            Ok(()) => {}
        }
        self.part(&member)
    }

    /// Whether a place is the store of the swarm that this host is in, or was in.
    pub fn is_of_swarm(&self, place: &Place) -> bool {
        is_of_swarm(place, &self.settings)
    }

    /// A swarm's cluster that could not be taken up is forgotten: this host is not in it any more.
    pub fn forget_swarm(&self) -> Result<()> {
        let _alone = self.changing();
        let known = record::read(self.store.as_ref())?;
        let of_swarm = known.filter(|known| self.is_of_swarm(&known.place));
        let Some(known) = of_swarm.filter(|_| self.member().is_none()) else { return Ok(()) };
        self.must_be_unused(&known.place)?;
        self.erase()?;
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = None;
        Ok(())
    }

    /// Other ways to the same store, or other certificates: this host stays what it is.
    pub fn reopen(&self, place: &Place) -> Result<()> {
        let _alone = self.changing();
        let member = self.required()?;
        member.reopen(place)?;
        let known = record::read(self.store.as_ref())?;
        let joined = known.map(|known| Joined { place: place.clone(), ..known });
        joined.map_or(Ok(()), |joined| self.write(&joined))
    }

    /// Ends what goes on beside requests. The others see this host go when its lease ends.
    pub(crate) fn close(&self) {
        if let Some(member) = self.member() {
            member.stop();
        }
    }

    /// What is to be a member of: what was joined goes before what is configured.
    fn wanted(&self, known: Option<Joined>) -> Result<Option<Joined>> {
        let advertise = self.settings.advertise.clone();
        Ok(match (known, self.settings.cluster.clone()) {
            (None, None) => None,
            (None, Some(place)) => Some(Joined { place, advertise, address: None }),
            (Some(known), None) => Some(known),
            (Some(known), Some(place)) if known.place.cluster == place.cluster => {
                Some(Joined { place, advertise: advertise.or(known.advertise), ..known })
            }
            (Some(known), Some(place)) => {
                return Err(Error::conflict(format!(
                    "this host is in cluster {} and is told to be in {place}: start the daemon \
                     without --cluster, and `rnet cluster leave` first",
                    known.place
                )));
            }
        })
    }

    fn begin(&self, joined: &Joined) -> Result<Arc<Member>> {
        let below = member::Below {
            settings: self.settings.clone(),
            networks: self.networks.clone(),
            containers: self.containers.clone(),
            store: self.store.clone(),
            runtime: self.tasks.handle().clone(),
        };
        Member::begin(below, joined)
    }

    fn share(&self, member: &Arc<Member>) -> Result<()> {
        let told = member.reconcile()?;
        self.networks.share_by(Some(member.sharing()));
        // From here on each end is told by itself.
        member.withdraw_ended(&told)?;
        member.follow()
    }

    /// This host is in no cluster any more.
    fn part(&self, member: &Arc<Member>) -> Result<()> {
        member.end();
        self.networks.share_by(None);
        *self.lock() = None;
        self.erase()
    }

    /// Fails while containers here are on the cluster's networks.
    fn must_be_unused(&self, place: &Place) -> Result<()> {
        let published = self.networks.published();
        let Some(used) = published.first() else { return Ok(()) };
        let network = self.networks.network(used.network.as_str())?;
        let message = format!(
            "container {} is on network {} of cluster {place}: take it off that network or stop it \
             before this host leaves",
            used.names.first().map_or(used.owner.as_str(), String::as_str),
            network.name
        );
        Err(Error::new(Kind::Forbidden, message))
    }

    /// The cluster's networks go, that this host is in it, and what it knows of it.
    fn erase(&self) -> Result<()> {
        for network in self.networks.shared_networks() {
            self.networks.vanish(&network.id)?;
        }
        if let Err(error) = self.networks.tell_nodes(&[]) {
            tracing::warn!(error = error.chain(), "the ways to the others go when that is mended");
        }
        let mut records = cluster::forgetting(self.store.as_ref())?;
        records.delete(record::KEY);
        Ok(self.store.commit(&records, Durability::Immediate)?)
    }

    fn write(&self, joined: &Joined) -> Result<()> {
        let mut records = Batch::default();
        records.put(record::KEY, record::encode(joined));
        Ok(self.store.commit(&records, Durability::Immediate)?)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Member>>> {
        self.member.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a cluster is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// The others are told, or it fails.
    Orderly,
    /// It is forgotten here, whether the others can be told or not.
    Forced,
}

/// Whether a place is the store of the swarm that this host is in, or was in.
fn is_of_swarm(place: &Place, settings: &Settings) -> bool {
    let authority = place.tls.as_ref().and_then(|tls| tls.authority.as_ref());
    authority.is_some_and(|file| file.starts_with(settings.swarm()))
}

/// The file by which a restart of the daemon is known from another host with the same identity.
fn instance_file(settings: &Settings) -> PathBuf {
    settings.exec_root.join("instance")
}
