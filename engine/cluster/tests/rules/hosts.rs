//! Hosts of a cluster in memory, which die and come back as a test says.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use cluster::record::{EndpointRecord, NetworkRecord};
use cluster::{Choose, Cluster, ClusterStore, Draft, Memory, Options, Publication};
use cnm::store::Durability;
use cnm::{EndpointId, Mac, NetworkId, Store};
use ipnetwork::IpNetwork;
use tokio::runtime::Handle;

/// A host with what it keeps on its disk.
pub(crate) struct Host {
    pub(crate) store: Arc<dyn ClusterStore>,
    pub(crate) local: Arc<dyn Store>,
    pub(crate) options: Options,
    pub(crate) cluster: Arc<Cluster>,
    /// What lives on it, as its engine knows.
    pub(crate) alive: BTreeMap<EndpointId, (NetworkId, EndpointRecord)>,
}

/// Waits, in a time that is not real, until something is so.
pub(crate) async fn until(what: &str, mut so: impl FnMut() -> bool) {
    for _ in 0..30_000 {
        if so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}

pub(crate) fn options(number: u8) -> Options {
    Options {
        cluster: "test".to_owned(),
        name: format!("h{number}"),
        address: IpAddr::from([192, 0, 2, number]),
        found: true,
        mtu: 1500,
        release: "1".to_owned(),
        labels: BTreeMap::new(),
        boot: "first".to_owned(),
        instance: format!("daemon of h{number}"),
        evict_after: None,
        wireguard: None,
    }
}

impl Host {
    pub(crate) fn new(store: &Memory, number: u8) -> Self {
        Self::with(store, options(number))
    }

    pub(crate) fn with(store: &Memory, options: Options) -> Self {
        Self::over(Arc::new(store.clone()), Arc::new(cnm::store::Memory::new()), options)
    }

    /// The same by another way to the store, and with another disk.
    pub(crate) fn over(
        store: Arc<dyn ClusterStore>,
        local: Arc<dyn Store>,
        options: Options,
    ) -> Self {
        let cluster = begin(&store, &local, &options);
        cluster.reconcile(&[], &BTreeSet::new()).unwrap();
        Self { store, local, options, cluster, alive: BTreeMap::new() }
    }

    pub(crate) async fn joined(store: &Memory, number: u8) -> Self {
        let host = Self::new(store, number);
        host.cluster.joined().await.unwrap();
        until("a host sees itself", || host.cluster.view().complete).await;
        host
    }

    /// Its daemon dies, and another one begins with what is on its disk.
    pub(crate) fn restart(&mut self) {
        self.kill();
        self.begin_again();
    }

    pub(crate) fn kill(&self) {
        self.cluster.stop();
    }

    pub(crate) fn begin_again(&mut self) {
        self.begin_again_with(&BTreeSet::new());
    }

    /// The same with containers that are there and do not run.
    pub(crate) fn begin_again_with(&mut self, stopped: &BTreeSet<String>) {
        self.cluster = begin(&self.store, &self.local, &self.options);
        let own = self.alive.iter().map(|(endpoint, (network, record))| Publication {
            network: network.clone(),
            endpoint: endpoint.clone(),
            record: record.clone(),
        });
        let own: Vec<_> = own.collect();
        let owners = own.iter().map(|one| one.record.container.clone());
        let owners = owners.chain(stopped.iter().cloned()).collect();
        self.cluster.reconcile(&own, &owners).unwrap();
        for publication in &own {
            self.cluster.follow(&publication.network);
        }
    }

    pub(crate) async fn network(&self, name: &str) -> NetworkId {
        self.draft(&draft(name)).await
    }

    pub(crate) async fn draft(&self, draft: &Draft) -> NetworkId {
        self.cluster.create_network(draft).await.unwrap();
        until("a network is seen where it was made", || {
            self.cluster.view().networks.contains_key(&draft.id)
        })
        .await;
        draft.id.clone()
    }

    /// What a network's record says.
    pub(crate) fn record(&self, network: &NetworkId) -> Arc<NetworkRecord> {
        Arc::clone(&self.cluster.view().networks[network])
    }

    /// An endpoint begins, as the engine has it: claimed, made, committed, told.
    pub(crate) async fn start(&mut self, network: &NetworkId, owner: &str) -> EndpointId {
        let addresses = self.cluster.claim_addresses(network, owner, &[]).await.unwrap();
        self.commit(network, owner, addresses)
    }

    /// The same where nobody may be asked.
    pub(crate) fn start_alone(&mut self, network: &NetworkId, owner: &str) -> Option<EndpointId> {
        let addresses = self.cluster.claim_spares(network, owner, &[]).unwrap()?;
        Some(self.commit(network, owner, addresses))
    }

    pub(crate) fn commit(
        &mut self,
        network: &NetworkId,
        owner: &str,
        addresses: Vec<IpNetwork>,
    ) -> EndpointId {
        let (id, record) = (endpoint_id(), record(owner, addresses));
        let batch = self.cluster.publish(network, &id, record.clone()).unwrap();
        self.local.commit(&batch, Durability::Immediate).unwrap();
        self.alive.insert(id.clone(), (network.clone(), record));
        self.cluster.follow(network);
        self.cluster.wake();
        id
    }

    pub(crate) fn end(&mut self, endpoint: &EndpointId, keep: bool) {
        let (network, record) = self.alive.remove(endpoint).unwrap();
        let addresses: Vec<_> = record.addresses.iter().map(IpNetwork::ip).collect();
        let batch = self.cluster.withdraw(&network, endpoint, &addresses, keep).unwrap();
        self.local.commit(&batch, Durability::Immediate).unwrap();
        self.cluster.wake();
    }

    /// Whether this host knows of an endpoint.
    pub(crate) fn sees(&self, network: &NetworkId, endpoint: &EndpointId) -> bool {
        let view = self.cluster.view();
        view.endpoints.get(network).is_some_and(|all| all.contains_key(endpoint))
    }

    pub(crate) fn sees_live(&self, other: &Self) -> Option<bool> {
        self.cluster.view().nodes.get(other.cluster.id()).map(|node| node.live)
    }

    /// Nothing is owed any more.
    pub(crate) async fn settled(&self) {
        for _ in 0..30_000 {
            if self.cluster.pending().unwrap().is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("not all is published: {:?}", self.cluster.status());
    }
}

fn begin(store: &Arc<dyn ClusterStore>, local: &Arc<dyn Store>, options: &Options) -> Arc<Cluster> {
    let (store, local) = (Arc::clone(store), Arc::clone(local));
    Cluster::start(store, local, options.clone(), &Handle::current()).unwrap()
}

pub(crate) fn random_id() -> [u8; 32] {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).unwrap();
    bytes
}

pub(crate) fn endpoint_id() -> EndpointId {
    EndpointId::from_random(random_id())
}

pub(crate) fn record(owner: &str, addresses: Vec<IpNetwork>) -> EndpointRecord {
    EndpointRecord {
        version: 0,
        node: String::new(),
        epoch: 0,
        mac: "02:00:00:00:00:01".parse::<Mac>().unwrap(),
        addresses,
        name: owner.to_owned(),
        container: owner.to_owned(),
        aliases: Vec::new(),
    }
}

/// A network of both families with pools of the cluster's own.
pub(crate) fn draft(name: &str) -> Draft {
    Draft {
        id: NetworkId::from_random(random_id()),
        name: name.to_owned(),
        driver: "overlay".to_owned(),
        vni: None,
        port: 4789,
        created: 1,
        pools: Vec::new(),
        choose: vec![Choose { ipv6: false, prefix: None }, Choose { ipv6: true, prefix: None }],
        avoid: Vec::new(),
        supernets: Vec::new(),
        options: BTreeMap::new(),
        labels: BTreeMap::new(),
        ipv4: true,
        ipv6: true,
        internal: false,
        attachable: true,
    }
}

/// A network with one IPv4 subnet.
pub(crate) fn small(name: &str, subnet: &str) -> Draft {
    let subnet: IpNetwork = subnet.parse().unwrap();
    let gateway = subnet.iter().nth(1);
    let pool =
        cnm::Pool { subnet, range: None, gateway, auxiliary: BTreeMap::new(), automatic: false };
    Draft { pools: vec![pool], choose: Vec::new(), ipv6: false, ..draft(name) }
}
