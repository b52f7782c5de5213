//! Networks are shared by way of the cluster's store.

use std::net::IpAddr;
use std::sync::{Arc, Weak};

use cluster::record::{EndpointRecord, NetworkRecord};
use cluster::{Choose, Publication};
use cnm::controller::{NetworkUpdate, WantedAddress};
use cnm::network::{PoolSpec, Tunnel, own_options};
use cnm::store::Batch;
use cnm::{EndpointId, Kind, Mac, Network, NetworkId, NetworkSpec, Planner, Pool, wireguard};
use ipnetwork::IpNetwork;

use super::member::Member;
use crate::network::{Draft, Published, Sharing};
use engine_error::{Error, Result};

/// A member, as networks see it. It does not keep it alive.
#[derive(Debug)]
pub(super) struct Shared(pub(super) Weak<Member>);

impl Shared {
    fn member(&self) -> Result<Arc<Member>> {
        self.0.upgrade().ok_or_else(|| Error::new(Kind::Unavailable, "this host left its cluster"))
    }

    /// An endpoint as the cluster is told of it.
    pub(super) fn publication(published: &Published) -> Publication {
        let mut names = published.names.iter().cloned();
        Publication {
            network: published.network.clone(),
            endpoint: published.endpoint.clone(),
            record: EndpointRecord {
                version: cluster::record::VERSION,
                node: String::new(),
                epoch: 0,
                mac: published.mac,
                addresses: published.addresses.clone(),
                name: names.next().unwrap_or_default(),
                container: published.owner.clone(),
                aliases: names.collect(),
            },
        }
    }
}

impl Sharing for Shared {
    fn create(&self, draft: &Draft) -> Result<NetworkSpec> {
        let member = self.member()?;
        let Draft { network, avoid } = draft;
        let (chosen, named): (Vec<_>, Vec<_>) =
            network.pools.iter().partition(|pool| pool.automatic);
        let choose = |pool: &Pool| Choose { ipv6: pool.subnet.is_ipv6(), prefix: None };
        let reading = network.driver.read(&own_options(&network.given_options))?;
        let defaults = member.network_defaults()?;
        let usual = if reading.encrypted {
            // Before anybody is told of it.
            member.wireguard()?;
            wireguard::TUNNELS
        } else {
            defaults.tunnels()
        };
        let wanted = cluster::Draft {
            id: network.id.clone(),
            name: network.name.clone(),
            driver: network.driver.name().to_owned(),
            vni: reading.vni,
            port: reading.port.unwrap_or(usual),
            pools: named.into_iter().cloned().collect(),
            choose: chosen.into_iter().map(choose).collect(),
            avoid: avoid.clone(),
            supernets: defaults.supernets(),
            options: network.given_options.clone(),
            labels: network.labels.clone(),
            ipv4: network.ipv4,
            ipv6: network.ipv6,
            internal: network.internal,
            attachable: network.attachable,
            created: network.created,
        };
        let created = member.cluster.create_network(&wanted);
        let record = member.below.runtime.block_on(created)?;
        spec_of(&network.id, &record, &member)
    }

    fn remove(&self, network: &Network) -> Result<()> {
        let member = self.member()?;
        member.below.runtime.block_on(member.cluster.remove_network(&network.id))
    }

    fn update(&self, network: &Network, update: &NetworkUpdate) -> Result<()> {
        if update.is_of_addresses() {
            return Err(Error::invalid(format!(
                "network {} is a cluster's: its subnets stay as they are; make another \
                 network",
                network.name
            )));
        }
        let member = self.member()?;
        let change = |record: &mut NetworkRecord| {
            put_all(&mut record.labels, &update.labels);
            put_all(&mut record.options, &update.options);
            record.internal = update.internal.unwrap_or(record.internal);
        };
        let changed = member.cluster.update_network(&network.id, &change);
        member.below.runtime.block_on(changed).map(drop)
    }

    fn claim(&self, wanted: &WantedAddress) -> Result<Vec<IpNetwork>> {
        let member = self.member()?;
        let WantedAddress { network, owner, wanted: addresses, ipv4, ipv6, .. } = wanted;
        // Whoever is about to be on it wants to know where the others are.
        member.follow_network(network);
        let spares = member.cluster.claim_spares(network, owner, addresses)?;
        let claimed = if let Some(claimed) = spares {
            claimed
        } else {
            let asked = member.cluster.claim_addresses(network, owner, addresses);
            member.below.runtime.block_on(asked)?
        };
        let is_needed = |address: &IpNetwork| if address.is_ipv6() { *ipv6 } else { *ipv4 };
        let (needed, rest): (Vec<_>, Vec<_>) = claimed.into_iter().partition(is_needed);
        if !rest.is_empty() {
            let rest: Vec<_> = rest.iter().map(IpNetwork::ip).collect();
            member.cluster.unclaim(network, &rest);
        }
        Ok(needed)
    }

    fn unclaim(&self, network: &NetworkId, addresses: &[IpAddr]) {
        if let Ok(member) = self.member() {
            member.cluster.unclaim(network, addresses);
        }
    }

    fn publish(&self, endpoint: &Published) -> Result<Batch> {
        let member = self.member()?;
        let Publication { network, endpoint, record } = Self::publication(endpoint);
        member.cluster.publish(&network, &endpoint, record)
    }

    fn withdraw(
        &self,
        network: &NetworkId,
        endpoint: &EndpointId,
        addresses: &[IpAddr],
        kept: bool,
    ) -> Result<Batch> {
        self.member()?.cluster.withdraw(network, endpoint, addresses, kept)
    }

    fn claim_mac(&self, network: &NetworkId, mac: Mac, owner: &str) -> Result<()> {
        let member = self.member()?;
        member.below.runtime.block_on(member.cluster.claim_mac(network, mac, owner))
    }

    fn forget(&self, network: &NetworkId, owner: &str, mac: Option<Mac>) {
        let Ok(member) = self.member() else { return };
        member.cluster.forget(network, owner);
        let released = mac.map(|mac| {
            member.below.runtime.block_on(member.cluster.release_mac(network, mac, owner))
        });
        if let Some(Err(error)) = released {
            let (network, error) = (network.short(), error.chain());
            tracing::warn!(network, error, "a hardware address is given back later");
        }
    }

    fn wake(&self) {
        if let Ok(member) = self.member() {
            member.cluster.wake();
        }
    }

    fn missing(&self, key: &str) -> Option<String> {
        self.member().ok()?.missing(key)
    }

    fn host_changed(&self) {
        if let Ok(member) = self.member() {
            member.look_around();
        }
    }
}

/// A network of the cluster as this host is to have it. One that is encrypted cannot be on one that cannot.
pub(super) fn spec_of(
    id: &NetworkId,
    record: &NetworkRecord,
    member: &Member,
) -> Result<NetworkSpec> {
    let encrypted = is_encrypted(record);
    let mut local = member.address();
    if encrypted {
        let own = member.wireguard()?;
        member.below.networks.tell_wireguard(Some(own))?;
        local = own.address.into();
    }
    let tunnel = Tunnel { vni: record.vni, port: record.port, local, encrypted, mtu: None };
    Ok(NetworkSpec {
        name: record.name.clone(),
        driver: record.driver.clone(),
        id: Some(id.clone()),
        tunnel: Some(tunnel),
        options: record.options.clone(),
        pools: record.pools.iter().map(pool_spec).collect(),
        ipv4: Some(record.ipv4),
        ipv6: Some(record.ipv6),
        internal: record.internal,
        attachable: record.attachable,
        labels: record.labels.clone(),
        ..NetworkSpec::default()
    })
}

/// Whether what a network of the cluster sends from host to host is encrypted.
pub(super) fn is_encrypted(record: &NetworkRecord) -> bool {
    let planner: &dyn Planner = &drivers::Drivers;
    let reading = planner
        .driver(&record.driver)
        .and_then(|driver| driver.read(&own_options(&record.options)).ok());
    reading.is_some_and(|reading| reading.encrypted)
}

fn pool_spec(pool: &Pool) -> PoolSpec {
    let auxiliary = pool.auxiliary.iter().map(|(name, ip)| (name.clone(), ip.to_string()));
    PoolSpec {
        subnet: Some(pool.subnet.to_string()),
        range: pool.range.map(|range| range.to_string()),
        gateway: pool.gateway.map(|gateway| gateway.to_string()),
        auxiliary: auxiliary.collect(),
    }
}

/// What has to change for a network to be as the cluster has it.
pub(super) fn difference(network: &Network, record: &NetworkRecord) -> NetworkUpdate {
    let internal = (network.internal != record.internal).then_some(record.internal);
    NetworkUpdate {
        labels: changes(&network.labels, &record.labels),
        options: changes(&network.given_options, &record.options),
        internal,
        ..NetworkUpdate::default()
    }
}

type Texts = std::collections::BTreeMap<String, String>;
type Changes = std::collections::BTreeMap<String, Option<String>>;

fn changes(before: &Texts, after: &Texts) -> Changes {
    let gone = before.keys().filter(|name| !after.contains_key(*name));
    let gone = gone.map(|name| (name.clone(), None));
    let put = after.iter().filter(|(name, value)| before.get(*name) != Some(value));
    gone.chain(put.map(|(name, value)| (name.clone(), Some(value.clone())))).collect()
}

fn put_all(texts: &mut Texts, changes: &Changes) {
    for (name, value) in changes {
        match value {
            Some(value) => drop(texts.insert(name.clone(), value.clone())),
            None => drop(texts.remove(name)),
        }
    }
}
