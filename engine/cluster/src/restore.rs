//! A store that lost data: it was emptied, or an old snapshot was restored.
//!
//! Nothing of it is believed then, and nothing written. When somebody says that it is the right store,
//! the hosts tell it what they know: the one that was asked first, then each of the others as
//! soon as it sees that.

use std::collections::{BTreeMap, BTreeSet};

use engine_error::{Error, Result};

use crate::addresses::Addresses;
use crate::cluster::{Cluster, Joined};
use crate::local::Local;
use crate::record::{
    AddressRecord, EndpointRecord, IdentityRecord, SchemaRecord, VERSION, read, write,
};
use crate::store::{Compare, Snapshot, StoreError, Write};
use crate::view::{Delta, lock};

/// How many keys are written at a time.
const BATCH: usize = 60;

/// How often it is looked what is still missing.
const TRIES: usize = 5;

impl Cluster {
    /// Fails if the store is not the one that this host knows, or has lost something. If somebody said
    /// that the hosts know better, this one tells what it knows.
    pub(crate) async fn recognise(&self) -> Result<(), StoreError> {
        // What is seen while the store is asked may be younger than its answer.
        let known = lock(&self.me).clone();
        let meta = self.store.range(&self.keys.meta()).await?;
        let found = self.identity_of(&meta);
        let Some(found) = found.filter(|found| Some(&found.id) == known.identity.as_ref()) else {
            return Err(self.lost_data("it is another cluster's, or it is empty"));
        };
        if found.generation > known.generation {
            return self.fill(&meta, found.generation).await;
        }
        if known.doubted {
            return Err(self.still_doubted());
        }
        if found.generation < known.generation || meta.cluster != known.store {
            return Err(self.disbelieve(known.generation, "it was set up anew from a copy").await);
        }
        if meta.revision < known.revision {
            let (there, here) = (meta.revision, known.revision);
            let why = format!("it is at revision {there}, and this host has seen {here}");
            return Err(self.disbelieve(known.generation, &why).await);
        }
        lock(&self.state).restored = false;
        Ok(())
    }

    fn identity_of(&self, meta: &Snapshot) -> Option<IdentityRecord> {
        let key = self.keys.identity();
        let entry = meta.entries.iter().find(|entry| entry.key == key)?;
        read(&entry.value).ok()
    }

    /// Notes that the store is not to be believed before somebody says so, over restarts: unless it was
    /// adopted since it was looked at.
    async fn disbelieve(&self, generation: u64, why: &str) -> StoreError {
        {
            let mut me = lock(&self.me);
            if me.generation != generation {
                return StoreError::Unavailable("it was adopted while it was looked at".to_owned());
            }
            me.doubted = true;
            self.local.note_self(&me);
        }
        // Nobody here writes to it from now on, whether that can be written down or not.
        let lost = self.lost_data(why);
        self.on_disk(Local::flush).await.map_or_else(|failed| failed, |()| lost)
    }

    /// What the last look said holds until somebody adopts the store.
    pub(crate) fn still_doubted(&self) -> StoreError {
        self.lost_data("it went back to an earlier state")
    }

    /// Notes that the store is not to be believed.
    pub(crate) fn lost_data(&self, why: &str) -> StoreError {
        let error = StoreError::Refused(format!(
            "it has lost what this host knows: {why}. Nothing in it is believed and nothing here is \
             changed. If it is the right store, have the hosts tell it what they know: rnet cluster adopt"
        ));
        let mut state = lock(&self.state);
        let changed = !state.restored;
        state.restored = true;
        state.problem = Some(error.to_string());
        drop(state);
        if changed {
            self.told(&Delta { status: true, ..Delta::default() });
        }
        error
    }

    /// Fails while the store is not to be believed, or this host is not in the cluster.
    pub(crate) fn check_trust(&self) -> Result<(), StoreError> {
        if let Joined::Refused(_, why) = &*self.joined.borrow() {
            return Err(StoreError::Refused(why.clone()));
        }
        let state = lock(&self.state);
        match &state.problem {
            Some(problem) if state.restored => Err(StoreError::Refused(problem.clone())),
            _ => Ok(()),
        }
    }

    /// Has the hosts tell a store that lost data what they know: this one now, the others when
    /// they see it.
    pub async fn adopt(&self) -> Result<()> {
        let meta = self.store.range(&self.keys.meta()).await?;
        let known = lock(&self.me).clone();
        let found = self.identity_of(&meta);
        let (Some(id), true) = (known.identity, lock(&self.state).restored) else {
            return Err(Error::conflict(
                "the cluster's store has lost nothing that this host knows: there is nothing to adopt",
            ));
        };
        let stranger = found.as_ref().filter(|found| found.id != id);
        if stranger.is_some() {
            return Err(Error::conflict(
                "the store has another cluster of this name: leave this one (rnet cluster leave \
                 --force) and join that one",
            ));
        }
        let generation = found.map_or(0, |found| found.generation).max(known.generation) + 1;
        let identity = IdentityRecord { version: VERSION, id, generation };
        let key = self.keys.identity();
        let when = match meta.entries.iter().find(|entry| entry.key == key) {
            Some(entry) => Compare::ModifiedAt(key.clone(), entry.modified),
            None => Compare::Absent(key.clone()),
        };
        let schema = SchemaRecord { version: VERSION, least: VERSION };
        let then =
            vec![Write::put(key, write(&identity)), Write::put(self.keys.schema(), write(&schema))];
        if !self.done(vec![when], then).await? {
            return Err(Error::conflict("another host is adopting at the same time: try again"));
        }
        Ok(self.fill(&meta, generation).await?)
    }

    /// Tells the store all that it lost, and believes it from then on. Before it has everything, what is
    /// not in it is not gone.
    async fn fill(&self, meta: &Snapshot, generation: u64) -> Result<(), StoreError> {
        self.tell_all().await?;
        self.accept(meta, generation).await?;
        self.owed.notify_one();
        self.refill.notify_one();
        Ok(())
    }

    /// What the store has is what counts from here on.
    async fn accept(&self, meta: &Snapshot, generation: u64) -> Result<(), StoreError> {
        {
            let mut me = lock(&self.me);
            me.generation = generation;
            me.store = meta.cluster;
            me.revision = meta.revision;
            me.doubted = false;
            self.local.note_self(&me);
        }
        self.on_disk(Local::flush).await?;
        let mut state = lock(&self.state);
        state.restored = false;
        state.problem = None;
        state.addresses.values_mut().for_each(Addresses::forget_revisions);
        Ok(())
    }

    /// Writes all that this host knows and the store does not; what others know better they write
    /// themselves.
    async fn tell_all(&self) -> Result<(), StoreError> {
        for _ in 0..TRIES {
            let there = self.store.range(self.keys.root()).await?;
            let there: BTreeSet<&str> = there.entries.iter().map(|e| e.key.as_str()).collect();
            let known = self.known();
            let missing: Vec<_> =
                known.into_iter().filter(|(key, _)| !there.contains(key.as_str())).collect();
            if missing.is_empty() {
                break;
            }
            for part in missing.chunks(BATCH) {
                let when = part.iter().map(|(key, _)| Compare::Absent(key.clone())).collect();
                let then = part.iter().map(|(key, value)| Write::put(key, value.clone())).collect();
                self.done(when, then).await?;
            }
        }
        self.give_up_unknown().await?;
        let owned = self.local.own().map_err(kept)?;
        for (network, endpoint) in owned {
            self.owe_again(&network, &endpoint).map_err(kept)?;
        }
        Ok(())
    }

    /// All keys that follow from what this host knows, with their values.
    fn known(&self) -> BTreeMap<String, Vec<u8>> {
        let state = lock(&self.state);
        let view = state.knowledge.view.clone();
        let keys = &self.keys;
        let mut known = BTreeMap::new();
        for (id, node) in &*view.nodes {
            known.insert(keys.node(id), write(&*node.record));
            known.insert(keys.number(node.record.number), id.clone().into_bytes());
        }
        for (id, network) in &*view.networks {
            known.insert(keys.network(id), write(&**network));
            known.insert(keys.network_name(&network.name), id.as_str().as_bytes().to_vec());
            known.insert(keys.vni(network.vni), id.as_str().as_bytes().to_vec());
        }
        for (network, endpoints) in &view.endpoints {
            for (id, endpoint) in &**endpoints {
                known.insert(keys.endpoint(network, id), write(&**endpoint));
                for address in &endpoint.addresses {
                    let key = keys.address(network, address.ip());
                    known.insert(key, write(&address_of(endpoint)));
                }
            }
        }
        for (network, addresses) in &state.addresses {
            for (address, mine) in addresses.mine() {
                if !mine.record.is_empty() {
                    known.insert(keys.address(network, *address), mine.record.clone());
                }
            }
        }
        known
    }

    /// Addresses and endpoints that the store has for this host and this host has not are of the
    /// past: somebody else may have those addresses by now.
    async fn give_up_unknown(&self) -> Result<(), StoreError> {
        let mut gone = Vec::new();
        let prefix = self.keys.all_addresses();
        for entry in self.store.range(&prefix).await?.entries {
            let ours = read::<AddressRecord>(&entry.value).ok();
            let known = network_and_rest(&entry.key, &prefix).is_some_and(|(network, rest)| {
                let state = lock(&self.state);
                let all = state.addresses.get(&network);
                rest.parse().is_ok_and(|ip| all.is_some_and(|all| all.mine().contains_key(&ip)))
            });
            if ours.is_some_and(|record| record.node == self.node) && !known {
                gone.push(entry);
            }
        }
        let own: BTreeSet<_> = self.local.own().map_err(kept)?.into_iter().collect();
        let prefix = self.keys.all_endpoints();
        for entry in self.store.range(&prefix).await?.entries {
            let ours = read::<EndpointRecord>(&entry.value).ok();
            let known = network_and_rest(&entry.key, &prefix).is_some_and(|(network, rest)| {
                rest.parse().is_ok_and(|endpoint| own.contains(&(network, endpoint)))
            });
            if ours.is_some_and(|record| record.node == self.node) && !known {
                gone.push(entry);
            }
        }
        for entry in gone {
            let when = vec![Compare::ModifiedAt(entry.key.clone(), entry.modified)];
            self.done(when, vec![Write::Delete(entry.key)]).await?;
        }
        Ok(())
    }
}

/// The network in a key, and what comes after it.
fn network_and_rest<'a>(key: &'a str, prefix: &str) -> Option<(cnm::NetworkId, &'a str)> {
    let (network, rest) = key.strip_prefix(prefix)?.split_once('/')?;
    Some((network.parse().ok()?, rest))
}

/// Whose the addresses of an endpoint are.
fn address_of(endpoint: &EndpointRecord) -> AddressRecord {
    AddressRecord {
        version: VERSION,
        node: endpoint.node.clone(),
        epoch: endpoint.epoch,
        holder: Some(endpoint.container.clone()),
        wished: false,
    }
}

/// An error of this host's own store, where one of the cluster's is expected.
pub(crate) fn kept(error: impl Into<Error>) -> StoreError {
    StoreError::Refused(format!("cannot keep it on this host: {}", error.into().chain()))
}
