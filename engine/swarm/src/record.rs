//! What a swarm keeps in its store beside what every cluster keeps there: itself, its nodes with their
//! roles, and where its managers are. Nodes may read all of it, and only managers may write it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cluster::{ClusterStore, Compare, Entry, Outcome, Revision, Snapshot, Txn, Write};
use engine_error::{Error, Kind, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::authority::NODE_LIFE;
use crate::defaults::{NetworkDefaults, Upkeep};
use crate::protocol::{Description, Manager};
use crate::token::{Generations, Role};

/// What all keys begin with.
pub const ROOT: &str = "/rnet/swarm/";

/// The version of the records that this program writes.
pub const VERSION: u32 = 1;

/// How often a change is tried again that somebody else was quicker than.
pub(crate) const TRIES: usize = 8;

/// The swarm (`cluster`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwarmRecord {
    /// See [`VERSION`].
    pub version: u32,
    /// Its identity.
    pub id: String,
    /// When it was made, in nanoseconds since the Unix epoch.
    pub created: u64,
    /// When it was last changed.
    pub updated: u64,
    /// Which tokens are good.
    pub tokens: Generations,
    /// Labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// How long certificates of nodes are good for, in seconds.
    #[serde(default = "node_life")]
    pub node_life: u64,
    /// What networks are made of where nobody says otherwise.
    #[serde(default)]
    pub networks: NetworkDefaults,
    /// What it was told of snapshots, heartbeats and tasks.
    #[serde(default)]
    pub upkeep: Upkeep,
}

fn node_life() -> u64 {
    NODE_LIFE.as_secs()
}

impl SwarmRecord {
    /// A new swarm's.
    pub fn new() -> std::io::Result<Self> {
        let now = now();
        Ok(Self {
            version: VERSION,
            id: crate::random_id()?,
            created: now,
            updated: now,
            tokens: Generations::new()?,
            labels: BTreeMap::new(),
            node_life: node_life(),
            networks: NetworkDefaults::default(),
            upkeep: Upkeep::default(),
        })
    }

    /// How long certificates of nodes are good for.
    pub fn life(&self) -> Duration {
        Duration::from_secs(self.node_life)
    }
}

/// A node (`nodes/<id>`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// See [`VERSION`].
    pub version: u32,
    /// When it joined, in nanoseconds since the Unix epoch.
    pub created: u64,
    /// When it was last changed.
    pub updated: u64,
    /// What it is to do.
    pub role: Role,
    /// Its name.
    pub name: String,
    /// Where the others reach it.
    pub address: IpAddr,
    /// What tells its key from every other one.
    pub key: String,
    /// Labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// What it is to be used for.
    #[serde(default)]
    pub availability: Availability,
    /// What it is.
    #[serde(default)]
    pub description: Description,
}

/// What a node is to be used for: a word for whoever places services, which nobody does here.
/// Containers that a user runs on a node are left alone, as Docker leaves them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Availability {
    /// All there is.
    #[default]
    Active,
    /// What it has, and nothing new.
    Pause,
    /// Nothing.
    Drain,
}

impl Availability {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Active, Self::Pause, Self::Drain];

    /// Docker's word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Pause => "pause",
            Self::Drain => "drain",
        }
    }
}

/// A record, and when it was last changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct At<T> {
    /// The record.
    pub record: T,
    /// The revision.
    pub revision: Revision,
}

/// All that the store has of a swarm.
#[derive(Clone, Debug, Default)]
pub struct Records {
    /// Itself.
    pub swarm: Option<At<SwarmRecord>>,
    /// Its nodes.
    pub nodes: BTreeMap<String, At<NodeRecord>>,
    /// Where its managers are.
    pub managers: BTreeMap<String, Manager>,
    /// Until where this is what there is.
    pub revision: Revision,
}

impl Records {
    fn of(snapshot: Snapshot) -> Self {
        let mut records = Self { revision: snapshot.revision, ..Self::default() };
        for entry in snapshot.entries {
            let Some(place) = entry.key.strip_prefix(ROOT) else { continue };
            match place.split_once('/') {
                None if place == "cluster" => records.swarm = read(&entry),
                Some(("nodes", id)) => {
                    records.nodes.extend(read(&entry).map(|node| (id.to_owned(), node)));
                }
                Some(("managers", id)) => {
                    let manager = read::<Manager>(&entry).map(|manager| manager.record);
                    records.managers.extend(manager.map(|manager| (id.to_owned(), manager)));
                }
                _ => {}
            }
        }
        records
    }

    /// The swarm itself.
    pub fn swarm(&self) -> Result<&At<SwarmRecord>> {
        self.swarm.as_ref().ok_or_else(|| {
            Error::new(Kind::Unavailable, "the store has no record of the swarm that it can read")
        })
    }

    /// A node.
    pub fn node(&self, id: &str) -> Result<&At<NodeRecord>> {
        self.nodes.get(id).ok_or_else(|| Error::not_found(format!("node {id} not found")))
    }
}

fn read<T: DeserializeOwned>(entry: &Entry) -> Option<At<T>> {
    let read = serde_json::from_slice(&entry.value);
    let read = read.inspect_err(|error| {
        tracing::warn!(%error, key = entry.key, "a record of the swarm cannot be read");
    });
    Some(At { record: read.ok()?, revision: entry.modified })
}

/// Now, as records have it.
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// The records of a swarm in its store.
#[derive(Clone, Debug)]
pub struct Register(Arc<dyn ClusterStore>);

impl Register {
    /// Those in a store.
    pub fn new(store: Arc<dyn ClusterStore>) -> Self {
        Self(store)
    }

    /// The store itself.
    pub fn store(&self) -> &Arc<dyn ClusterStore> {
        &self.0
    }

    /// All of them.
    pub async fn read(&self) -> Result<Records> {
        Ok(Records::of(self.0.range(ROOT).await?))
    }

    /// Writes down a swarm that was just made, with its first node. That this was done already is no
    /// error.
    pub async fn begin(&self, swarm: &SwarmRecord, id: &str, node: &NodeRecord) -> Result<()> {
        let keys = [format!("{ROOT}cluster"), node_key(id)];
        let then = vec![put(&keys[0], swarm)?, put(&keys[1], node)?];
        let when = vec![Compare::Absent(keys[0].clone())];
        self.transact(when, then).await.map(|_| ())
    }

    /// Writes down a node that is new. Whether there was none of that identity.
    pub async fn add(&self, id: &str, node: &NodeRecord) -> Result<bool> {
        let key = node_key(id);
        self.transact(vec![Compare::Absent(key.clone())], vec![put(&key, node)?]).await
    }

    /// Changes the swarm.
    pub async fn change_swarm(
        &self,
        version: Option<Revision>,
        change: impl Fn(&mut SwarmRecord) -> Result<()>,
    ) -> Result<()> {
        for _ in 0..TRIES {
            let records = self.read().await?;
            let At { mut record, revision } = records.swarm()?.clone();
            in_sequence(version, revision)?;
            change(&mut record)?;
            record.updated = now();
            let key = format!("{ROOT}cluster");
            let when = vec![Compare::ModifiedAt(key.clone(), revision)];
            if self.transact(when, vec![put(&key, &record)?]).await? {
                return Ok(());
            }
        }
        Err(busy())
    }

    /// Changes a node. Returns it as it is then.
    pub async fn change_node(
        &self,
        id: &str,
        version: Option<Revision>,
        change: impl Fn(&mut NodeRecord) -> Result<()>,
    ) -> Result<NodeRecord> {
        for _ in 0..TRIES {
            let records = self.read().await?;
            let At { mut record, revision } = records.node(id)?.clone();
            in_sequence(version, revision)?;
            change(&mut record)?;
            record.updated = now();
            let key = node_key(id);
            let mut then = vec![put(&key, &record)?];
            if record.role == Role::Worker {
                then.push(Write::Delete(manager_key(id)));
            }
            let when = vec![Compare::ModifiedAt(key, revision)];
            if self.transact(when, then).await? {
                return Ok(record);
            }
        }
        Err(busy())
    }

    /// Says where a manager is, as long as the node is to be one.
    pub async fn announce(&self, manager: &Manager) -> Result<()> {
        let records = self.read().await?;
        let At { record, revision } = records.node(&manager.node)?;
        let there = records.managers.get(&manager.node) == Some(manager);
        if there || record.role != Role::Manager {
            return Ok(());
        }
        let when = vec![Compare::ModifiedAt(node_key(&manager.node), *revision)];
        // Refused: the node was changed meanwhile, and it is asked again.
        self.transact(when, vec![put(&manager_key(&manager.node), manager)?]).await.map(|_| ())
    }

    /// Forgets a node.
    pub async fn remove(&self, id: &str) -> Result<()> {
        let then = vec![Write::Delete(node_key(id)), Write::Delete(manager_key(id))];
        self.transact(Vec::new(), then).await.map(|_| ())
    }

    async fn transact(&self, when: Vec<Compare>, then: Vec<Write>) -> Result<bool> {
        let outcome = self.0.transact(Txn { when, then }).await?;
        Ok(matches!(outcome, Outcome::Done(_)))
    }
}

fn node_key(id: &str) -> String {
    format!("{ROOT}nodes/{id}")
}

fn manager_key(id: &str) -> String {
    format!("{ROOT}managers/{id}")
}

fn put<T: Serialize>(key: &str, record: &T) -> Result<Write> {
    let value = serde_json::to_vec(record);
    let value = value.map_err(|error| Error::internal(format!("cannot write {key}"), error))?;
    Ok(Write::Put { key: key.to_owned(), value, lease: None })
}

fn in_sequence(version: Option<Revision>, revision: Revision) -> Result<()> {
    if version.is_none_or(|version| version == revision) {
        return Ok(());
    }
    Err(Error::invalid("rpc error: code = Unknown desc = update out of sequence"))
}

pub(crate) fn busy() -> Error {
    Error::new(Kind::Unavailable, "others changed the swarm at the same time: try again")
}
