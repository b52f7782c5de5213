//! Networks that hosts of a cluster share.
//!
//! What a cluster is, nobody here knows. Somebody else ([`Sharing`]) has names, numbers, subnets and
//! addresses that no two hosts may have, and is told of the endpoints that are here: in the claim step
//! before a decision, and in the commit after it. What other hosts do comes from there, too: networks
//! that appear and go, where endpoints are, what they are called.

mod endpoints;
mod others;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, MutexGuard, PoisonError};

use cnm::controller::{HostFacts, NetworkUpdate, WantedAddress};
use cnm::driver::Scope;
use cnm::network::Tunnel;
use cnm::store::Batch;
use cnm::{Controller, EndpointId, Kind, Mac, Network, NetworkId, NetworkSpec, Planner};
use ipnetwork::IpNetwork;

use super::{Chance, Networks, now};
pub(super) use endpoints::Claim;
use engine_error::{Error, Result};

/// Who sees to it that hosts do not get into each other's way. Every call of it has a limit.
pub(crate) trait Sharing: fmt::Debug + Send + Sync {
    /// Has a network made known to all hosts; says what it is like on this one.
    fn create(&self, draft: &Draft) -> Result<NetworkSpec>;

    /// Has a network made unknown to all hosts. Fails while somebody is on it, on whichever host.
    fn remove(&self, network: &Network) -> Result<()>;

    /// Has a network changed on all hosts.
    fn update(&self, network: &Network, update: &NetworkUpdate) -> Result<()>;

    /// Addresses of a network for one who is about to be on it, one of each family that it has.
    fn claim(&self, wanted: &WantedAddress) -> Result<Vec<IpNetwork>>;

    /// Gives back addresses that came to nothing.
    fn unclaim(&self, network: &NetworkId, addresses: &[IpAddr]);

    /// Has other hosts told of an endpoint: the records are written with those that it becomes true
    /// by, and then [sent](Self::wake).
    fn publish(&self, endpoint: &Published) -> Result<Batch>;

    /// The same of one that is gone. What is kept for its owner stays so.
    fn withdraw(
        &self,
        network: &NetworkId,
        endpoint: &EndpointId,
        addresses: &[IpAddr],
        kept: bool,
    ) -> Result<Batch>;

    /// Claims a hardware address that a user chose. Fails if somebody else has it on the network.
    fn claim_mac(&self, network: &NetworkId, mac: Mac, owner: &str) -> Result<()>;

    /// Lets go of what is kept for somebody on a network, the hardware address that he chose, too.
    fn forget(&self, network: &NetworkId, owner: &str, mac: Option<Mac>);

    /// There may be records to be sent.
    fn wake(&self);

    /// Why a network of this name or id is not on this host, if the cluster has one.
    fn missing(&self, key: &str) -> Option<String>;

    /// Links, addresses or routes of this host have changed.
    fn host_changed(&self);
}

/// A network that is to be made known.
#[derive(Debug)]
pub(crate) struct Draft {
    /// The network as it would be if this host were alone.
    pub(crate) network: Arc<Network>,
    /// What its subnets must not overlap on this host, where they are to be chosen.
    pub(crate) avoid: Vec<IpNetwork>,
}

/// An endpoint as other hosts are to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Published {
    pub(crate) network: NetworkId,
    pub(crate) endpoint: EndpointId,
    /// The container.
    pub(crate) owner: String,
    pub(crate) mac: Mac,
    pub(crate) addresses: Vec<IpNetwork>,
    /// What it is called; the first name is what its addresses are called.
    pub(crate) names: Vec<String>,
}

impl Networks {
    /// From now on networks are shared by this, or by nobody.
    pub(crate) fn share_by(&self, sharing: Option<Arc<dyn Sharing>>) {
        *self.sharing.lock().unwrap_or_else(PoisonError::into_inner) = sharing;
    }

    fn sharing(&self) -> Option<Arc<dyn Sharing>> {
        self.sharing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why there is no network of this name or id here, where the cluster has one.
    pub(super) fn missing(&self, key: &str) -> Option<Error> {
        let why = self.sharing()?.missing(key)?;
        let text = format!("network {key} of the cluster is not on this host: {why}");
        Some(Error::new(Kind::Unavailable, text))
    }

    /// Who shares networks, or what to do for there to be somebody.
    pub(super) fn shared_by(&self) -> Result<Arc<dyn Sharing>> {
        self.sharing().ok_or_else(no_cluster)
    }

    /// Makes a network known to all hosts, and makes it here.
    pub(super) fn create_shared(&self, spec: &NetworkSpec) -> Result<(Arc<Network>, Vec<String>)> {
        let sharing = self.shared_by()?;
        let facts = self.kernel.host_facts()?;
        let (network, warnings) = self.rehearse_create(spec, &facts)?;
        self.kernel.supports(&network.driver.kinds(&network))?;
        let created = network.created;
        let shared = sharing.create(&Draft { network, avoid: facts.routes })?;
        match self.appear(&shared, created) {
            Ok(network) => Ok((network, warnings)),
            Err(error) => {
                if let Ok((network, _)) = self.rehearse_create(&shared, &HostFacts::default())
                    && let Err(kept) = sharing.remove(&network)
                {
                    let (network, error) = (&network.name, kept.chain());
                    tracing::error!(network, error, "a network that cannot be made stays known");
                }
                Err(error)
            }
        }
    }

    /// What a network would be like, with what is odd about it. Nothing of it stays.
    fn rehearse_create(
        &self,
        spec: &NetworkSpec,
        facts: &HostFacts,
    ) -> Result<(Arc<Network>, Vec<String>)> {
        // Which tunnel it gets is not known before it is known to all.
        let local = Ipv4Addr::LOCALHOST.into();
        let nowhere = Tunnel { vni: 1, port: 4789, local, encrypted: false, mtu: None };
        let spec = NetworkSpec { tunnel: spec.tunnel.or(Some(nowhere)), ..spec.clone() };
        let mut model = self.controller();
        let (network, transaction) =
            model.begin_create_network(&spec, facts, &mut Chance, now())?;
        let warnings = transaction.warnings.clone();
        // Nothing of it was written.
        let _ = model.abort(transaction);
        Ok((network, warnings))
    }

    /// Makes a network unknown to all hosts, if nobody is on it.
    pub(super) fn remove_from_all(&self, network: &Network) -> Result<()> {
        let sharing = self.shared_by()?;
        // Whoever is on it here says so in words of his own.
        let alone = self.once_settled(|model| model.begin_remove_network(&network.id))?;
        let _ = self.controller().abort(alone);
        sharing.remove(network)
    }

    /// A network of the cluster's is to be on this host. One that is here already is given back.
    pub(crate) fn appear(&self, spec: &NetworkSpec, created: u64) -> Result<Arc<Network>> {
        let _alone = self.appearing();
        if let Some(id) = &spec.id
            && let Ok(known) = self.network(id.as_str())
        {
            return Ok(known);
        }
        let begin = |model: &mut Controller, facts: &HostFacts| {
            model.begin_create_network(spec, facts, &mut Chance, created)
        };
        if spec.tunnel.is_some_and(|tunnel| tunnel.encrypted) {
            self.encrypt(true)?;
        }
        let made = self.create_by(begin);
        if made.is_err() {
            self.encrypt_no_more();
        }
        let (network, _) = made?;
        self.name_on_host(&network);
        self.tell_of(&network, "create");
        Ok(network)
    }

    /// A network of the cluster's is not to be on this host any more. It is no matter if it is not.
    pub(crate) fn vanish(&self, id: &NetworkId) -> Result<()> {
        let _alone = self.appearing();
        let Ok(network) = self.network(id.as_str()) else { return Ok(()) };
        self.remove_by(|model| model.begin_remove_network(id))?;
        self.encrypt_no_more();
        self.resolver.forget_remote(id);
        self.unname_on_host(&network);
        self.tell_of(&network, "destroy");
        Ok(())
    }

    /// Links, addresses or routes of this host have changed.
    pub(super) fn tell_host_changed(&self) {
        if let Some(sharing) = self.sharing() {
            sharing.host_changed();
        }
    }

    /// The networks of the cluster's that are here.
    pub(crate) fn shared_networks(&self) -> Vec<Arc<Network>> {
        self.all().into_iter().filter(|network| is_shared(network)).collect()
    }

    fn appearing(&self) -> MutexGuard<'_, ()> {
        self.appearing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was noted is sent, if it is anything: who sends it reads what is written.
    pub(super) fn send(&self, noted: &Batch) {
        if noted.writes.is_empty() {
            return;
        }
        self.journal.settle();
        if let Some(sharing) = self.sharing() {
            sharing.wake();
        }
    }
}

/// Whether networks of a driver are a cluster's.
pub(super) fn is_of_cluster(driver: &str) -> bool {
    let planner: &dyn Planner = &drivers::Drivers;
    planner.driver(driver).is_some_and(|driver| driver.traits().scope == Scope::Cluster)
}

/// Whether a network is a cluster's.
pub(super) fn is_shared(network: &Network) -> bool {
    network.tunnel.is_some()
}

fn no_cluster() -> Error {
    Error::new(
        Kind::Forbidden,
        "this host is in no cluster, which networks over several hosts need: `rnet cluster join \
         etcd://host:2379` joins one, or `rnet daemon --cluster etcd://host:2379`",
    )
}
