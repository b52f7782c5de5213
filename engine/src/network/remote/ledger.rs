//! What plugins hold for us, as it is written down before they are asked for it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use cnm::store::Batch;
use cnm::{EndpointId, NetworkId, SandboxId, Store};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use engine_error::Result;

/// The form that is written.
const VERSION: u32 = 1;

const NETWORK: &str = "plugin/network/";
const ENDPOINT: &str = "plugin/endpoint/";

/// A network that a plugin makes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct NetworkEntry {
    #[serde(default)]
    version: u32,
    /// Who makes it.
    #[serde(default)]
    pub(super) driver: Option<String>,
    /// Who gave its pools.
    #[serde(default)]
    pub(super) ipam: Option<String>,
    #[serde(default)]
    pub(super) pools: Vec<PoolEntry>,
}

/// A pool that a plugin gave.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct PoolEntry {
    /// What the plugin calls it.
    pub(super) pool: String,
    /// The gateway, and what the user set aside.
    #[serde(default)]
    pub(super) addresses: Vec<IpAddr>,
}

/// An address that a plugin gave.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Address {
    /// What the plugin calls the pool.
    pub(super) pool: String,
    pub(super) address: IpAddr,
}

/// An endpoint that a plugin makes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct EndpointEntry {
    #[serde(default)]
    version: u32,
    pub(super) network: NetworkId,
    /// Who makes it.
    #[serde(default)]
    pub(super) driver: Option<String>,
    /// Who gave its addresses.
    #[serde(default)]
    pub(super) ipam: Option<String>,
    #[serde(default)]
    pub(super) addresses: Vec<Address>,
    /// Whether it may be there.
    #[serde(default)]
    pub(super) created: bool,
    /// Whether its link may have been handed over.
    #[serde(default)]
    pub(super) joined: bool,
    /// Whether it may lead outside.
    #[serde(default)]
    pub(super) external: bool,
    /// What the plugin was told of it.
    #[serde(default)]
    pub(super) options: Map<String, Value>,
}

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) networks: BTreeMap<NetworkId, NetworkEntry>,
    pub(super) endpoints: BTreeMap<EndpointId, EndpointEntry>,
    /// Those that plugins are being asked for, by their keys: the model does not know them yet.
    pub(super) asking: BTreeSet<String>,
    /// Namespaces that were made ahead, because plugins are told of them.
    pub(super) ahead: BTreeSet<SandboxId>,
    /// IPAM plugins that were told what an earlier daemon asked them for.
    pub(super) told: BTreeSet<String>,
    /// Those that are being given back, by their keys.
    pub(super) paying: BTreeSet<String>,
}

impl NetworkEntry {
    /// One that is to get pools.
    pub(super) fn with_pools_of(ipam: &str) -> Self {
        Self { ipam: Some(ipam.to_owned()), ..Self::new(None) }
    }

    pub(super) fn new(driver: Option<&str>) -> Self {
        let (ipam, pools) = Default::default();
        Self { version: VERSION, driver: driver.map(str::to_owned), ipam, pools }
    }
}

impl NetworkEntry {
    /// Who is to have it back, in words.
    pub(super) fn creditors(&self) -> String {
        creditors(self.driver.as_deref(), self.ipam.as_deref())
    }
}

impl EndpointEntry {
    /// One about which nothing was asked yet.
    pub(super) fn new(network: &NetworkId, driver: Option<&str>, ipam: Option<&str>) -> Self {
        let [driver, ipam] = [driver, ipam].map(|name| name.map(str::to_owned));
        let (addresses, created, joined, external, options) = Default::default();
        let (version, network) = (VERSION, network.clone());
        Self { version, network, driver, ipam, addresses, created, joined, external, options }
    }

    /// Who is to have it back, in words.
    pub(super) fn creditors(&self) -> String {
        creditors(self.driver.as_deref(), self.ipam.as_deref())
    }

    /// As it may be when nobody knows how far the asking came.
    fn at_worst(&self) -> Self {
        let made = self.driver.is_some();
        Self { created: made, joined: made, external: made, ..self.clone() }
    }
}

impl Ledger {
    /// Reads what was written down. What cannot be read stays where it is.
    pub(super) fn read(store: &dyn Store) -> Result<Self> {
        let networks = entries(store, NETWORK, |entry: &NetworkEntry| entry.version)?;
        let endpoints = entries(store, ENDPOINT, |entry: &EndpointEntry| entry.version)?;
        Ok(Self { networks, endpoints, ..Self::default() })
    }

    /// The record of an endpoint that a plugin is about to be asked for.
    pub(super) fn asked(id: &EndpointId, entry: &EndpointEntry) -> Batch {
        let mut batch = Batch::default();
        batch.put(endpoint_key(id), json(&entry.at_worst()));
        batch
    }

    /// The records of endpoints, as things are.
    pub(super) fn records<'a>(&self, ids: impl IntoIterator<Item = &'a EndpointId>) -> Batch {
        let mut batch = Batch::default();
        for id in ids {
            if let Some(entry) = self.endpoints.get(id) {
                batch.put(endpoint_key(id), json(entry));
            }
        }
        batch
    }

    /// The record of a network that a plugin is about to be asked for.
    pub(super) fn asked_network(id: &NetworkId, entry: &NetworkEntry) -> Batch {
        let mut batch = Batch::default();
        batch.put(network_key(id), json(entry));
        batch
    }
}

fn creditors(driver: Option<&str>, ipam: Option<&str>) -> String {
    let mut names: Vec<_> = driver.into_iter().chain(ipam).collect();
    names.dedup();
    names.join(" and ")
}

pub(super) fn endpoint_key(id: &EndpointId) -> String {
    format!("{ENDPOINT}{id}")
}

pub(super) fn network_key(id: &NetworkId) -> String {
    format!("{NETWORK}{id}")
}

fn entries<I: std::str::FromStr + Ord, T: DeserializeOwned>(
    store: &dyn Store,
    prefix: &str,
    version: impl Fn(&T) -> u32,
) -> Result<BTreeMap<I, T>> {
    let mut entries = BTreeMap::new();
    for (key, value) in store.list(prefix)? {
        let id = key.strip_prefix(prefix).and_then(|id| id.parse().ok());
        let entry = serde_json::from_slice::<T>(&value).ok();
        let entry = entry.filter(|entry| version(entry) <= VERSION);
        if let (Some(id), Some(entry)) = (id, entry) {
            entries.insert(id, entry);
        } else {
            tracing::error!(key, "what a plugin holds for us cannot be read, and stays there");
        }
    }
    Ok(entries)
}

/// Entries are plain data, of which JSON can express all.
fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_else(|error| unreachable!("{error}"))
}
