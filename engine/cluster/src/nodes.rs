//! The other hosts: labelled, removed by somebody's word, or after a long time without a sign of life.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use engine_error::{Error, Kind, Result};
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::record::{AddressRecord, EndpointRecord, KeyRecord, NodeRecord, Read, read, write};
use crate::store::{Compare, StoreError, Write};
use crate::view::lock;

/// How often it is looked who has been away for too long.
const ROUND: Duration = Duration::from_secs(30);

/// How many keys are deleted at a time.
const BATCH: usize = 100;

/// How often a transaction that lost a race is tried again.
const TRIES: usize = 8;

impl Cluster {
    /// Leaves: what this host has in the store goes with it.
    pub async fn leave(&self) -> Result<()> {
        self.purge(&self.node).await?;
        self.stop();
        Ok(())
    }

    /// Removes a host with all that it has; one that is there only if it is forced.
    pub async fn remove_node(&self, id: &str, force: bool) -> Result<()> {
        self.check_trust()?;
        let live = self.entry(&self.keys.live(id)).await?.is_some();
        if live && !force {
            let name = self.host_name(id);
            return Err(Error::conflict(format!(
                "host {name} is there and can't be removed: have it leave (rnet cluster leave), or \
                 force it"
            )));
        }
        if self.entry(&self.keys.node(id)).await?.is_none() {
            return Err(Error::not_found(format!("node {id} not found")));
        }
        Ok(self.purge(id).await?)
    }

    /// Deletes a host: first what it has, then itself, so that what was begun can be ended.
    async fn purge(&self, id: &str) -> Result<(), StoreError> {
        self.check_trust()?;
        let endpoints = self.keys.all_endpoints();
        let is_its = |value: &[u8]| {
            read::<EndpointRecord>(value).ok().is_some_and(|record| record.node == id)
        };
        self.delete_all(&endpoints, &is_its).await?;
        let is_its = |value: &[u8]| {
            read::<AddressRecord>(value).ok().is_some_and(|record| record.node == id)
        };
        self.delete_all(&self.keys.all_addresses(), &is_its).await?;
        self.delete_all(&self.keys.all_macs(), &is_its).await?;
        let record = self.entry(&self.keys.node(id)).await?;
        let record = record.and_then(|entry| read::<NodeRecord>(&entry.value).ok());
        let mut then = vec![Write::Delete(self.keys.node(id)), Write::Delete(self.keys.live(id))];
        let mut when = Vec::new();
        if let Some(record) = record {
            let number = self.keys.number(record.number);
            when.push(Compare::Is(number.clone(), id.as_bytes().to_vec()));
            then.push(Write::Delete(number));
        }
        if !self.done_in_the_end(when, then.clone()).await? {
            then.truncate(2);
            self.done_in_the_end(Vec::new(), then).await?;
        }
        Ok(())
    }

    /// Does what may be done twice until it is known that it is done.
    async fn done_in_the_end(
        &self,
        when: Vec<Compare>,
        then: Vec<Write>,
    ) -> Result<bool, StoreError> {
        for _ in 1..TRIES {
            match self.done(when.clone(), then.clone()).await {
                Err(StoreError::Unknown(_)) => {}
                known => return known,
            }
        }
        self.done(when, then).await
    }

    async fn delete_all(
        &self,
        prefix: &str,
        chosen: &(dyn Fn(&[u8]) -> bool + Sync),
    ) -> Result<(), StoreError> {
        let entries = self.store.range(prefix).await?.entries;
        let keys: Vec<String> = entries
            .into_iter()
            .filter(|entry| chosen(&entry.value))
            .map(|entry| entry.key)
            .collect();
        for part in keys.chunks(BATCH) {
            let then = part.iter().cloned().map(Write::Delete).collect();
            self.done_in_the_end(Vec::new(), then).await?;
        }
        Ok(())
    }

    /// This host has another key from here on.
    pub fn describe_key(&self, key: KeyRecord) {
        lock(&self.options).wireguard = Some(key);
        self.described.notify_one();
    }

    /// Changes the labels of a host.
    pub async fn label_node(
        &self,
        id: &str,
        change: &(dyn Fn(&mut BTreeMap<String, String>) + Send + Sync),
    ) -> Result<NodeRecord> {
        self.check_trust()?;
        for _ in 0..TRIES {
            let found = self.entry(&self.keys.node(id)).await?;
            let entry = found.ok_or_else(|| Error::not_found(format!("node {id} not found")))?;
            let Read::Record(mut record) = read::<NodeRecord>(&entry.value) else {
                let message = format!("node {id} is left alone: its record cannot be read");
                return Err(Error::new(Kind::NotImplemented, message));
            };
            change(&mut record.labels);
            let when = vec![Compare::ModifiedAt(entry.key.clone(), entry.modified)];
            match self.done(when, vec![Write::put(entry.key, write(&record))]).await {
                Ok(true) => return Ok(record),
                Ok(false) | Err(StoreError::Unknown(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::new(Kind::Unavailable, format!("cannot label node {id}: try again")))
    }

    /// Removes hosts that give no sign of life for longer than anybody wants to wait.
    pub(crate) async fn evict(self: Arc<Self>) {
        self.wait_until_joined().await;
        let mut away: BTreeMap<String, Instant> = BTreeMap::new();
        loop {
            let Some(limit) = lock(&self.options).evict_after else { return };
            tokio::time::sleep(ROUND.min(limit)).await;
            let connected = lock(&self.state).connected;
            let view = self.view();
            let dead: BTreeMap<_, _> =
                view.nodes.iter().filter(|(_, node)| !node.live && connected).collect();
            // While the store is away nobody knows who is there.
            away.retain(|id, _| dead.contains_key(id));
            for (id, node) in dead {
                let since = away.entry(id.clone()).or_insert_with(Instant::now);
                if since.elapsed() < limit || *id == self.node {
                    continue;
                }
                tracing::warn!(host = node.record.name, "is removed: it was away for too long");
                if let Err(error) = self.remove_node(id, false).await {
                    tracing::warn!(
                        host = node.record.name,
                        error = error.chain(),
                        "is not removed"
                    );
                }
            }
        }
    }
}
