//! What plugins hold for us, as it is written down before they are asked for it.

use std::collections::{BTreeMap, BTreeSet};

use cnm::store::Batch;
use cnm::{EndpointId, NetworkId, Store};
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
    pub(super) driver: String,
}

/// An endpoint that a plugin makes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct EndpointEntry {
    #[serde(default)]
    version: u32,
    pub(super) network: NetworkId,
    /// Who makes it.
    pub(super) driver: String,
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
    /// Those that plugins are being asked for: the model does not know them yet.
    pub(super) asking: BTreeSet<EndpointId>,
    /// Those that are being given back, by their keys.
    pub(super) paying: BTreeSet<String>,
}

impl NetworkEntry {
    pub(super) fn new(driver: &str) -> Self {
        Self { version: VERSION, driver: driver.to_owned() }
    }
}

impl EndpointEntry {
    /// One about which nothing was asked yet.
    pub(super) fn new(network: &NetworkId, driver: &str, options: &Map<String, Value>) -> Self {
        let (network, driver, options) = (network.clone(), driver.to_owned(), options.clone());
        let (created, joined, external) = Default::default();
        Self { version: VERSION, network, driver, created, joined, external, options }
    }

    /// As it may be when nobody knows how far the asking came.
    fn at_worst(&self) -> Self {
        Self { created: true, joined: true, external: true, ..self.clone() }
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
        match (id, entry.filter(|entry| version(entry) <= VERSION)) {
            (Some(id), Some(entry)) => {
                entries.insert(id, entry);
            }
            _ => tracing::error!(key, "what a plugin holds for us cannot be read, and stays there"),
        }
    }
    Ok(entries)
}

/// Entries are plain data, of which JSON can express all.
fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_else(|error| unreachable!("{error}"))
}
