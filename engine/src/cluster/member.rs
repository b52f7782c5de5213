//! This host as a member of a cluster: what it is there, and what goes on for it.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use cluster::{Changes, Cluster, Etcd, Options, Place, Publication, Status};
use cnm::controller::Entropy;
use cnm::store::Durability;
use cnm::{Kind, NetworkId, Store};
use ipnetwork::IpNetwork;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::address::{self, Advertised};
use super::encryption::{self, Standing};
use super::instance_file;
use super::nodes::{self, NodeView};
use super::record::Joined;
use super::sharing::Shared;
use super::told::Told;
use crate::container::Containers;
use crate::network::{Chance, Networks, Sharing};
use crate::settings::Settings;
use engine_error::{Error, Result};
use swarm::NetworkDefaults;
use swarm::record::Register;

/// How long one call of the store may take.
const LIMIT: Duration = Duration::from_secs(5);

/// What the room stands on.
#[derive(Clone, Debug)]
pub(super) struct Below {
    pub(super) settings: Arc<Settings>,
    pub(super) networks: Arc<Networks>,
    pub(super) containers: Arc<Containers>,
    pub(super) store: Arc<dyn Store>,
    pub(super) runtime: Handle,
}

/// This host in a cluster.
#[derive(Debug)]
pub struct Member {
    pub(super) below: Below,
    pub(super) cluster: Arc<Cluster>,
    etcd: Arc<Etcd>,
    place: Mutex<Place>,
    /// The address for the others, as the user named it.
    advertise: Option<String>,
    here: Mutex<Advertised>,
    /// What the others are told of this host's part in what is encrypted.
    standing: Mutex<Standing>,
    /// Held while it takes another key.
    pub(super) rekeying: Mutex<()>,
    /// What of other hosts has been made true here.
    pub(super) told: Mutex<Told>,
    /// What changes of the cluster since its beginning here, until somebody follows it.
    pub(super) changes: Mutex<Option<Changes>>,
    /// Who makes true here what others do.
    pub(super) follower: Mutex<Option<JoinHandle<()>>>,
    /// When nothing of it is to go on.
    pub(super) over: CancellationToken,
}

impl Member {
    /// Begins to be one: what is known of the cluster is there at once, everything else comes when
    /// the store answers.
    pub(super) fn begin(below: Below, joined: &Joined) -> Result<Arc<Self>> {
        let here = here(&below, joined)?;
        let etcd = Arc::new(Etcd::open(&joined.place, LIMIT)?);
        let standing = encryption::begin(&below, &joined.place);
        if let Err(why) = &standing {
            tracing::info!(why, "this host cannot have encrypted networks");
        }
        let options = Options {
            cluster: joined.place.cluster.clone(),
            name: joined.place.node.clone().unwrap_or_else(host_name),
            address: here.address,
            found: here.found,
            mtu: here.mtu,
            release: env!("CARGO_PKG_VERSION").to_owned(),
            wireguard: standing.clone().ok(),
            labels: std::collections::BTreeMap::new(),
            boot: boot()?,
            instance: instance(&below.settings)?,
            evict_after: eviction(&joined.place),
        };
        let store = below.store.clone();
        let cluster = Cluster::start(etcd.clone(), store, options, &below.runtime)?;
        // What goes after the first look at what is known must not be missed.
        let changes = Mutex::new(Some(cluster.changes()));
        Ok(Arc::new(Self {
            below,
            cluster,
            changes,
            etcd,
            place: Mutex::new(joined.place.clone()),
            advertise: joined.advertise.clone(),
            here: Mutex::new(here),
            standing: Mutex::new(standing),
            rekeying: Mutex::default(),
            told: Mutex::default(),
            follower: Mutex::default(),
            over: CancellationToken::new(),
        }))
    }

    /// The cluster, as users write it.
    pub fn place(&self) -> Place {
        self.place.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What networks are made of where nobody says otherwise. Only swarms can be told that.
    pub(super) fn network_defaults(&self) -> Result<NetworkDefaults> {
        if !super::is_of_swarm(&self.place(), &self.below.settings) {
            return Ok(NetworkDefaults::default());
        }
        let register = Register::new(self.etcd.clone());
        let records = self.below.runtime.block_on(register.read())?;
        Ok(records.swarm()?.record.networks.clone())
    }

    /// The address that the others know this host by.
    pub fn address(&self) -> IpAddr {
        self.here().address
    }

    /// The largest packet that this host's way to the others takes.
    pub fn mtu(&self) -> u32 {
        self.here().mtu
    }

    /// This host's identity in the cluster.
    pub fn id(&self) -> &str {
        self.cluster.id()
    }

    /// How it stands.
    pub fn status(&self) -> Status {
        self.cluster.status()
    }

    /// What is in the cluster, as far as it is known here.
    pub fn view(&self) -> cluster::View {
        self.cluster.view()
    }

    /// All hosts of the cluster, by name.
    pub fn nodes(&self) -> Vec<NodeView> {
        nodes::all(&self.cluster)
    }

    /// One host, by its id, its name or a prefix of its id.
    pub fn node(&self, key: &str) -> Result<NodeView> {
        nodes::find(&self.nodes(), key)
    }

    /// Removes a host for good, with all that it had. One that is there is not removed, unless that is
    /// wanted all the same. Blocks.
    pub fn remove_node(&self, key: &str, how: Removal) -> Result<NodeView> {
        let node = self.node(key)?;
        if node.own {
            return Err(Error::new(
                Kind::Forbidden,
                format!("node {key} is this host: `rnet cluster leave` takes it out"),
            ));
        }
        if node.live && how == Removal::OfOneAway {
            return Err(Error::new(
                Kind::Forbidden,
                format!(
                    "node {key} is not away and can't be removed: run `rnet cluster leave` on it, \
                     or remove it with --force"
                ),
            ));
        }
        let force = how == Removal::OfAny;
        self.below.runtime.block_on(self.cluster.remove_node(&node.id, force))?;
        Ok(node)
    }

    /// The endpoints here that the others have not been told of yet.
    pub fn pending(&self) -> Vec<(NetworkId, cnm::EndpointId)> {
        self.cluster.pending().unwrap_or_default().into_iter().collect()
    }

    /// What of the cluster could not be made true here: about what, and why.
    pub fn troubles(&self) -> Vec<(String, String)> {
        let view = self.cluster.view();
        let told = self.told();
        let name = |id: &NetworkId| {
            let name = view.networks.get(id).map(|record| record.name.clone());
            format!("network {}", name.unwrap_or_else(|| id.short().to_owned()))
        };
        let networks = told.troubles.iter().map(|(id, why)| (name(id), why.clone()));
        let unpublished = self.cluster.status().unpublished;
        let unpublished = unpublished.iter().map(|((network, endpoint), why)| {
            (format!("endpoint {} of {}", endpoint.short(), name(network)), why.clone())
        });
        let networks = networks.chain(unpublished);
        let unreadable = view.unreadable.iter();
        let unreadable = unreadable.map(|(key, why)| (format!("record {key}"), why.clone()));
        networks.chain(unreadable).collect()
    }

    /// Why a network is not on this host, by its name, or its id or what that begins with.
    pub(super) fn missing(&self, key: &str) -> Option<String> {
        let view = self.cluster.view();
        let told = self.told();
        let is_it = |id: &NetworkId| {
            let named = view.networks.get(id).is_some_and(|record| record.name == key);
            named || (!key.is_empty() && id.as_str().starts_with(key))
        };
        told.troubles.iter().find(|(id, _)| is_it(id)).map(|(_, why)| why.clone())
    }

    /// The hosts that have endpoints on a network, this one included, as far as that is known here.
    pub fn peers(&self, network: &NetworkId) -> Vec<NodeView> {
        let view = self.cluster.view();
        let Some(endpoints) = view.endpoints.get(network) else { return Vec::new() };
        let on: BTreeSet<_> = endpoints.values().map(|record| record.node.as_str()).collect();
        self.nodes().into_iter().filter(|node| on.contains(node.id.as_str())).collect()
    }

    /// Waits until the store has let this host in, or says why not. Blocks.
    pub(super) fn await_joined(&self, patience: Duration) -> Result<()> {
        let place = self.place();
        let joined = async { tokio::time::timeout(patience, self.cluster.joined()).await };
        self.below.runtime.block_on(joined).unwrap_or_else(|_| {
            let why = self.cluster.status().problem;
            let why = why.unwrap_or_else(|| "its store does not answer".to_owned());
            Err(Error::new(Kind::Unavailable, format!("cannot join cluster {place}: {why}")))
        })
    }

    /// Other ways to the store, or other certificates.
    pub(super) fn reopen(&self, place: &Place) -> Result<()> {
        self.etcd.reopen(place)?;
        *self.place.lock().unwrap_or_else(PoisonError::into_inner) = place.clone();
        Ok(())
    }

    /// What this host has is put again into a store that was emptied, or is an old one. Blocks.
    pub fn adopt(&self) -> Result<()> {
        self.below.runtime.block_on(self.cluster.adopt())
    }

    /// How the store itself is, with what to do about it. Blocks.
    pub fn health(&self) -> Result<cluster::Report> {
        self.below.runtime.block_on(self.cluster.health())
    }

    /// Takes this host out of the cluster. Blocks.
    pub(super) fn leave(&self) -> Result<()> {
        self.below.runtime.block_on(self.cluster.leave())
    }

    /// Ends what goes on.
    pub(super) fn stop(&self) {
        self.over.cancel();
        self.cluster.stop();
    }

    /// The same, and nothing that others did is being made true here any more. Blocks.
    pub(super) fn end(&self) {
        self.stop();
        let follower = self.follower.lock().unwrap_or_else(PoisonError::into_inner).take();
        if follower.is_some_and(|follower| follower.join().is_err()) {
            tracing::error!("who followed the cluster ended by a panic");
        }
    }

    /// The cluster learns which endpoints are here, whatever it knew: these.
    pub(super) fn reconcile(&self) -> Result<Vec<Publication>> {
        let published = self.below.networks.published();
        let all: Vec<_> = published.iter().map(Shared::publication).collect();
        self.cluster.reconcile(&all, &self.owners())?;
        Ok(all)
    }

    /// Of those that were here when the cluster learned it, some may have ended before anybody would have
    /// told it.
    pub(super) fn withdraw_ended(&self, told: &[Publication]) -> Result<()> {
        let published = self.below.networks.published();
        let here: BTreeSet<_> = published.iter().map(|one| &one.endpoint).collect();
        for ended in told.iter().filter(|one| !here.contains(&one.endpoint)) {
            let Publication { network, endpoint, record } = ended;
            let addresses: Vec<_> = record.addresses.iter().map(IpNetwork::ip).collect();
            let model = self.below.networks.controller();
            let kept = addresses.iter().any(|ip| model.keeps(network, *ip, &record.container));
            drop(model);
            let records = self.cluster.withdraw(network, endpoint, &addresses, kept)?;
            self.below.store.commit(&records, Durability::Eventual)?;
        }
        self.cluster.wake();
        Ok(())
    }

    /// Who may have addresses here.
    pub(super) fn owners(&self) -> BTreeSet<String> {
        let containers = self.below.containers.list();
        containers.iter().map(|container| container.id.to_string()).collect()
    }

    /// The way by which networks are shared.
    pub(super) fn sharing(self: &Arc<Self>) -> Arc<dyn Sharing> {
        Arc::new(Shared(Arc::downgrade(self)))
    }

    /// Links or addresses of this host have changed: the others are told where it is now.
    pub(super) fn look_around(&self) {
        let Ok(facts) = self.below.networks.kernel().host_facts() else { return };
        let found = address::find(self.advertise.as_deref(), &self.place(), &facts);
        // An interface whose address changes has none of that family for a moment.
        if found.as_ref().is_ok_and(|now| now.address.is_ipv4() != self.address().is_ipv4()) {
            return;
        }
        let now = match found {
            Ok(now) => now,
            // It may come back in a moment.
            Err(error) => {
                tracing::warn!(error = error.chain(), "the others cannot reach this host");
                return;
            }
        };
        let before = std::mem::replace(&mut *self.here(), now);
        if before != now {
            tracing::info!(address = %now.address, mtu = now.mtu, "this host is elsewhere now");
            // What was said from the address that is gone is answered there.
            if before.address != now.address
                && let Err(error) = self.etcd.reopen(&self.place())
            {
                tracing::warn!(error = error.chain(), "cannot open the way to the store anew");
            }
            self.cluster.describe(now.address, now.mtu);
            self.tell_way(&self.cluster.view());
        }
    }

    pub(super) fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn here(&self) -> MutexGuard<'_, Advertised> {
        self.here.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which hosts can be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// Those that have not been heard of.
    OfOneAway,
    /// All.
    OfAny,
}

/// Where this host is. One that was in the cluster before is where it was, as long as nothing better
/// is known.
fn here(below: &Below, joined: &Joined) -> Result<Advertised> {
    let facts = below.networks.kernel().host_facts()?;
    let found = address::find(joined.advertise.as_deref(), &joined.place, &facts);
    match (found, joined.address) {
        (Err(error), Some(address)) => {
            tracing::warn!(error = error.chain(), %address, "the address is the one of last time");
            Ok(Advertised { address, mtu: facts.egress_mtu.unwrap_or(1500), found: false })
        }
        (found, _) => found,
    }
}

/// How long a host may be away before it counts as gone for good.
fn eviction(place: &Place) -> Option<Duration> {
    let hours = place.evict_after.unwrap_or(24);
    (hours > 0).then(|| Duration::from_secs(u64::from(hours) * 3600))
}

fn host_name() -> String {
    let uname = nix::sys::utsname::uname();
    uname.map(|uname| uname.nodename().to_string_lossy().into_owned()).unwrap_or_default()
}

/// What the kernel calls this boot.
fn boot() -> Result<String> {
    const PLACE: &str = "/proc/sys/kernel/random/boot_id";
    let read = fs::read_to_string(PLACE);
    let text = read.map_err(|error| Error::internal(format!("cannot read {PLACE}"), error))?;
    Ok(text.trim().to_owned())
}

/// The word by which a restart of this daemon is known. A reboot loses it, as it loses all processes.
fn instance(settings: &Settings) -> Result<String> {
    let file = instance_file(settings);
    let failed = |error| {
        Error::internal(format!("cannot tell this daemon from others: {}", file.display()), error)
    };
    match fs::read_to_string(&file) {
        Ok(text) if !text.is_empty() => return Ok(text),
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let mut word = [0; 8];
    word.copy_from_slice(&Chance.bytes()[..8]);
    let word = format!("{:016x}", u64::from_be_bytes(word));
    fs::write(&file, &word).map_err(failed)?;
    Ok(word)
}
