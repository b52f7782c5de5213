//! Networks that all hosts have: made, changed and removed in one transaction each.

use std::collections::{BTreeMap, BTreeSet};

use cnm::ipam::pools::free_subnet;
use cnm::ipam::range::{address, overlap, span, usable};
use cnm::{EndpointId, NetworkId, Pool};
use engine_error::{Error, Kind, Result};
use ipnetwork::IpNetwork;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::cluster::Cluster;
use crate::record::{EndpointRecord, NetworkRecord, Read, VERSION, read, write};
use crate::store::{Compare, Entry, StoreError, Write};
use crate::view::lock;

/// The first number of tunnels: those below are Windows' own.
const FIRST_VNI: u32 = 4096;

/// The last number that VXLAN has.
const LAST_VNI: u32 = (1 << 24) - 1;

/// How often a transaction that lost a race is tried again.
const TRIES: usize = 16;

/// A network to be made.
#[expect(clippy::struct_excessive_bools, reason = "independent properties, as users set them")]
#[derive(Clone, Debug)]
pub struct Draft {
    /// Its id.
    pub id: NetworkId,
    /// Its name.
    pub name: String,
    /// The driver's name.
    pub driver: String,
    /// The number of its tunnels, where somebody wants a certain one.
    pub vni: Option<u32>,
    /// The tunnels' UDP port.
    pub port: u16,
    /// When it was asked for, in nanoseconds since the Unix epoch.
    pub created: u64,
    /// Its pools, as far as somebody wants certain ones.
    pub pools: Vec<Pool>,
    /// Pools that are to be chosen.
    pub choose: Vec<Choose>,
    /// What they shall not overlap, of this host's.
    pub avoid: Vec<IpNetwork>,
    /// What they are cut from, with the usual prefix lengths; the cluster's own where nothing is of
    /// a family.
    pub supernets: Vec<(IpNetwork, u8)>,
    /// The options as they were given.
    pub options: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Whether endpoints get IPv4 addresses.
    pub ipv4: bool,
    /// Whether endpoints get IPv6 addresses.
    pub ipv6: bool,
    /// Whether it is cut off from everything outside it.
    pub internal: bool,
    /// Whether single containers may join it.
    pub attachable: bool,
}

/// What pools of IPv4 are cut from where nobody says otherwise, and how large they are.
pub fn ipv4_supernet() -> Option<(IpNetwork, u8)> {
    IpNetwork::new(std::net::Ipv4Addr::new(10, 128, 0, 0).into(), 9).ok().map(|net| (net, 20))
}

/// A pool to be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choose {
    /// Its family.
    pub ipv6: bool,
    /// Its size, if not the usual one.
    pub prefix: Option<u8>,
}

/// What is needed of a network's record, whichever release wrote it.
#[derive(Debug, Default, Deserialize)]
struct Outline {
    #[serde(default)]
    name: String,
    #[serde(default)]
    pools: Vec<PoolOutline>,
}

#[derive(Debug, Deserialize)]
struct PoolOutline {
    subnet: IpNetwork,
}

impl Cluster {
    /// Makes a network, unless another one has its name or overlaps it.
    pub async fn create_network(&self, draft: &Draft) -> Result<NetworkRecord> {
        self.check_trust()?;
        let mut unknown = None;
        for _ in 0..TRIES {
            match self.try_create(draft).await {
                Ok(Some(record)) => return Ok(record),
                Ok(None) => {}
                // Whether it happened shows when it is tried again.
                Err(Failure::Store(StoreError::Unknown(why))) => unknown = Some(why),
                Err(Failure::Store(error)) => {
                    return Err(unsure("create", &draft.name, error, unknown.is_some()));
                }
                Err(Failure::Refused(error)) => return Err(error),
            }
        }
        Err(busy("create", &draft.name, unknown))
    }

    async fn try_create(&self, draft: &Draft) -> Result<Option<NetworkRecord>, Failure> {
        // The guard first: whatever is made after this look changes it.
        let guard = self.entry(&self.keys.subnets()).await?;
        let networks = self.store.range(&self.keys.networks()).await?.entries;
        let key = self.keys.network(&draft.id);
        if let Some(entry) = networks.iter().find(|entry| entry.key == key) {
            return Ok(read(&entry.value).ok());
        }
        let outlines: Vec<Outline> =
            networks.iter().filter_map(|e| serde_json::from_slice(&e.value).ok()).collect();
        if outlines.iter().any(|other| other.name == draft.name) {
            let message = format!("network with name {} already exists", draft.name);
            return Err(Error::conflict(message).into());
        }
        let pools = self.pools(draft, &outlines)?;
        let vni = self.vni(draft).await?;
        let record = record(draft, pools, vni);
        let id = draft.id.as_str().as_bytes().to_vec();
        let when = vec![
            guard_of(&self.keys.subnets(), guard.as_ref()),
            Compare::Absent(key.clone()),
            Compare::Absent(self.keys.network_name(&draft.name)),
            Compare::Absent(self.keys.vni(vni)),
        ];
        let then = vec![
            Write::put(self.keys.subnets(), id.clone()),
            Write::put(key, write(&record)),
            Write::put(self.keys.network_name(&draft.name), id.clone()),
            Write::put(self.keys.vni(vni), id),
        ];
        Ok(self.done(when, then).await?.then_some(record))
    }

    /// A number that no tunnels have.
    async fn vni(&self, draft: &Draft) -> Result<u32, Failure> {
        let prefix = self.keys.vnis();
        let entries = self.store.range(&prefix).await?.entries;
        let taken: BTreeSet<u32> = entries
            .iter()
            .filter_map(|entry| entry.key.strip_prefix(&prefix)?.parse().ok())
            .collect();
        if let Some(wanted) = draft.vni {
            if taken.contains(&wanted) {
                let message = format!(
                    "cannot create network {}: tunnel number {wanted} is another network's",
                    draft.name
                );
                return Err(Error::conflict(message).into());
            }
            return Ok(wanted);
        }
        (FIRST_VNI..=LAST_VNI).find(|vni| !taken.contains(vni)).ok_or_else(|| {
            Error::conflict("all tunnel numbers are in use: remove unused networks").into()
        })
    }

    /// The pools that were asked for, unless they overlap others, and those to be chosen.
    fn pools(&self, draft: &Draft, others: &[Outline]) -> Result<Vec<Pool>, Failure> {
        let mut pools = draft.pools.clone();
        for pool in &pools {
            let overlapping = others.iter().find_map(|other| {
                let found = other.pools.iter().find(|taken| overlap(taken.subnet, pool.subnet))?;
                Some((found.subnet, &other.name))
            });
            if let Some((taken, name)) = overlapping {
                return Err(Error::new(
                    Kind::Forbidden,
                    format!(
                        "Pool overlaps with other one on this address space: {} overlaps {taken} of \
                         network {name}; choose another --subnet",
                        pool.subnet
                    ),
                )
                .into());
            }
        }
        let taken = others.iter().flat_map(|other| other.pools.iter().map(|pool| pool.subnet));
        let mut taken: Vec<IpNetwork> = taken.chain(draft.avoid.iter().copied()).collect();
        for choice in &draft.choose {
            taken.extend(pools.iter().map(|pool| pool.subnet));
            pools.push(self.choose(draft, *choice, &taken)?);
        }
        Ok(pools)
    }

    fn choose(&self, draft: &Draft, choice: Choose, taken: &[IpNetwork]) -> Result<Pool, Failure> {
        let mut supernets = draft.supernets.clone();
        if !supernets.iter().any(|(net, _)| net.is_ipv6() == choice.ipv6) {
            supernets.extend(self.supernet(choice.ipv6));
        }
        let found = free_subnet(&supernets, taken, choice.ipv6, choice.prefix);
        let subnet = found.ok_or_else(|| {
            let family = supernets.iter().filter(|(net, _)| net.is_ipv6() == choice.ipv6);
            let list: Vec<_> = family.map(|(net, _)| net.to_string()).collect();
            Error::invalid(format!(
                "cannot create network {}: no subnet is free in {}; choose one with --subnet or \
                 remove unused networks",
                draft.name,
                list.join(", ")
            ))
        })?;
        let gateway = address(subnet.ip(), *usable(subnet).start());
        Ok(Pool {
            subnet,
            range: None,
            gateway: Some(gateway),
            auxiliary: BTreeMap::new(),
            automatic: true,
        })
    }

    /// What pools of a family are cut from: the same on all hosts.
    fn supernet(&self, ipv6: bool) -> Option<(IpNetwork, u8)> {
        if !ipv6 {
            return ipv4_supernet();
        }
        let identity = lock(&self.me).identity.clone().unwrap_or_default();
        let hash = Sha256::digest(identity.as_bytes());
        let mut octets = [0_u8; 16];
        octets[0] = 0xfd;
        octets[1..6].copy_from_slice(&hash[..5]);
        let net = IpNetwork::new(std::net::Ipv6Addr::from(octets).into(), 48).ok()?;
        // One of the first addresses, whatever the hash is.
        debug_assert_eq!(*span(net).start(), u128::from_be_bytes(octets));
        Some((net, 64))
    }

    /// Removes a network that has no endpoints on any host.
    pub async fn remove_network(&self, id: &NetworkId) -> Result<()> {
        self.check_trust()?;
        let mut unknown = None;
        let key = self.keys.network(id);
        let mut name = id.short().to_owned();
        for _ in 0..TRIES {
            let found = match self.entry(&key).await {
                Ok(found) => found,
                Err(error) => return Err(unsure("remove", &name, error, unknown.is_some())),
            };
            let Some(entry) = found else { return Ok(()) };
            let record = readable(&entry, id)?;
            name.clone_from(&record.name);
            match self.try_remove(id, &entry, &record).await {
                Ok(true) => return Ok(()),
                Ok(false) => {
                    let endpoints = self.endpoints(id).await?;
                    if !endpoints.is_empty() {
                        return Err(self.in_use(&record, &endpoints));
                    }
                }
                Err(StoreError::Unknown(why)) => unknown = Some(why),
                Err(error) => return Err(unsure("remove", &name, error, unknown.is_some())),
            }
        }
        Err(busy("remove", &name, unknown))
    }

    async fn try_remove(
        &self,
        id: &NetworkId,
        entry: &Entry,
        record: &NetworkRecord,
    ) -> Result<bool, StoreError> {
        let guard = self.entry(&self.keys.subnets()).await?;
        let when = vec![
            Compare::NoneBelow(self.keys.endpoints(id)),
            Compare::ModifiedAt(entry.key.clone(), entry.modified),
            guard_of(&self.keys.subnets(), guard.as_ref()),
        ];
        let then = vec![
            Write::put(self.keys.subnets(), id.as_str().as_bytes().to_vec()),
            Write::Delete(entry.key.clone()),
            Write::Delete(self.keys.network_name(&record.name)),
            Write::Delete(self.keys.vni(record.vni)),
            Write::DeleteBelow(self.keys.addresses(id)),
            Write::DeleteBelow(self.keys.macs(id)),
        ];
        self.done(when, then).await
    }

    fn in_use(
        &self,
        record: &NetworkRecord,
        endpoints: &BTreeMap<EndpointId, EndpointRecord>,
    ) -> Error {
        let view = self.view();
        let host = |node: &String| {
            view.nodes.get(node).map_or_else(|| node.clone(), |node| node.record.name.clone())
        };
        let text = |(id, endpoint): (&EndpointId, &EndpointRecord)| {
            let host = host(&endpoint.node);
            format!("name:\"{}\" id:\"{}\" on host {host}", endpoint.name, id.short())
        };
        let list: Vec<_> = endpoints.iter().map(text).collect();
        Error::new(
            Kind::Forbidden,
            format!(
                "error while removing network: network {} has active endpoints ({})",
                record.name,
                list.join(", ")
            ),
        )
    }

    /// Changes labels and options of a network.
    pub async fn update_network(
        &self,
        id: &NetworkId,
        change: &(dyn Fn(&mut NetworkRecord) + Send + Sync),
    ) -> Result<NetworkRecord> {
        self.check_trust()?;
        for _ in 0..TRIES {
            let found = self.entry(&self.keys.network(id)).await;
            let found = found.map_err(|error| cannot("change", id.short(), error))?;
            let missing = || Error::not_found(format!("network {} not found", id.short()));
            let entry = found.ok_or_else(missing)?;
            let before = readable(&entry, id)?;
            let mut record = before.clone();
            change(&mut record);
            if record == before {
                return Ok(record);
            }
            let when = vec![Compare::ModifiedAt(entry.key.clone(), entry.modified)];
            match self.done(when, vec![Write::put(entry.key, write(&record))]).await {
                Ok(true) => return Ok(record),
                // Done or not: the next look shows what is there.
                Ok(false) | Err(StoreError::Unknown(_)) => {}
                Err(error) => return Err(cannot("change", &record.name, error)),
            }
        }
        Err(busy("change", id.short(), None))
    }

    /// The endpoints of any network, asked for now.
    pub async fn endpoints(
        &self,
        network: &NetworkId,
    ) -> Result<BTreeMap<EndpointId, EndpointRecord>> {
        let prefix = self.keys.endpoints(network);
        let entries = self.store.range(&prefix).await?.entries;
        let parsed = entries.iter().filter_map(|entry| {
            let id = entry.key.strip_prefix(&prefix)?.parse().ok()?;
            Some((id, read(&entry.value).ok()?))
        });
        Ok(parsed.collect())
    }
}

/// Why a network was not made.
enum Failure {
    Refused(Error),
    Store(StoreError),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

fn record(draft: &Draft, pools: Vec<Pool>, vni: u32) -> NetworkRecord {
    NetworkRecord {
        version: VERSION,
        name: draft.name.clone(),
        driver: draft.driver.clone(),
        vni,
        port: draft.port,
        created: draft.created,
        pools,
        options: draft.options.clone(),
        labels: draft.labels.clone(),
        ipv4: draft.ipv4,
        ipv6: draft.ipv6,
        internal: draft.internal,
        attachable: draft.attachable,
    }
}

fn guard_of(key: &str, guard: Option<&Entry>) -> Compare {
    match guard {
        Some(entry) => Compare::ModifiedAt(key.to_owned(), entry.modified),
        None => Compare::Absent(key.to_owned()),
    }
}

fn readable(entry: &Entry, id: &NetworkId) -> Result<NetworkRecord> {
    match read(&entry.value) {
        Read::Record(record) => Ok(record),
        Read::Not(why) => Err(Error::new(
            Kind::NotImplemented,
            format!("network {} is left alone: its record cannot be read: {why}", id.short()),
        )),
    }
}

fn cannot(verb: &str, name: &str, error: StoreError) -> Error {
    let kind = cnm::HasKind::kind(&error);
    Error::caused(kind, format!("cannot {verb} network {name} in the cluster"), error)
}

/// The same after attempts of which nobody knows what became.
fn unsure(verb: &str, name: &str, error: StoreError, unknown: bool) -> Error {
    if !unknown {
        return cannot(verb, name, error);
    }
    let message = format!(
        "nobody knows whether the cluster did {verb} network {name}: `rnet network ls` shows it when \
         the store answers again"
    );
    Error::caused(Kind::Unavailable, message, error)
}

fn busy(verb: &str, name: &str, unknown: Option<String>) -> Error {
    let why = unknown.unwrap_or_else(|| "others change networks all the time".to_owned());
    let message = format!("cannot {verb} network {name} in the cluster: {why}; try again");
    Error::new(Kind::Unavailable, message)
}
