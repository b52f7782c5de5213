//! What a host remembers of its cluster in its own store, so that it needs no other one to begin.
//!
//! Who it is; all that it has seen (the mirror); which addresses are its own; its own endpoints, and
//! which of those are still to be published or withdrawn.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use cnm::store::{Batch, Durability};
use cnm::{EndpointId, Mac, NetworkId, Store};
use engine_error::Result;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::record::{EndpointRecord, VERSION, read, write};
use crate::store::Revision;
use crate::view::lock;

/// What all of it is below.
const ROOT: &str = "cluster/";
const SELF: &str = "cluster/self";
const MIRROR: &str = "cluster/mirror/";
const ADDRESSES: &str = "cluster/address/";
const OWN: &str = "cluster/own/";
const OWED: &str = "cluster/owed/";
const MACS: &str = "cluster/mac/";

/// Who this host is (`cluster/self`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SelfRecord {
    pub(crate) version: u32,
    /// The cluster's name, once there is one.
    #[serde(default)]
    pub(crate) cluster: String,
    /// This host's id.
    pub(crate) node: String,
    /// How often it has booted since it has the id.
    #[serde(default)]
    pub(crate) epoch: u64,
    /// The boot that it was last seen in.
    #[serde(default)]
    pub(crate) boot: String,
    /// Its number, once it has joined.
    #[serde(default)]
    pub(crate) number: Option<u32>,
    /// The cluster's identity, as it was first seen.
    #[serde(default)]
    pub(crate) identity: Option<String>,
    #[serde(default)]
    pub(crate) generation: u64,
    /// The store's own identity.
    #[serde(default)]
    pub(crate) store: u64,
    /// The last revision that was seen.
    #[serde(default)]
    pub(crate) revision: Revision,
    /// Whether the store went back to an earlier state, and nobody has said since that it counts. It
    /// may reach the revision again that this host has seen, and has lost what it lost all the same.
    #[serde(default)]
    pub(crate) doubted: bool,
    /// Whether the mirror has everything that there was at one time.
    #[serde(default)]
    pub(crate) complete: bool,
}

/// An endpoint of this host (`cluster/own/<network>/<id>`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OwnRecord {
    pub(crate) version: u32,
    /// What others are to know; nothing once it is gone here.
    #[serde(default)]
    pub(crate) record: Option<EndpointRecord>,
    /// The addresses that it had.
    #[serde(default)]
    pub(crate) addresses: Vec<IpAddr>,
}

/// This host's own store.
#[derive(Debug)]
pub(crate) struct Local {
    store: Arc<dyn Store>,
    /// What is to be written when there is time: it could all be asked for again.
    dirty: Mutex<BTreeMap<String, Option<Vec<u8>>>>,
    waiting: Notify,
    /// Held by whoever writes what was noted: what is older is written before what is newer.
    writing: Mutex<()>,
}

/// This host's id in its cluster: a new one, if it has none.
pub fn node_id(local: &dyn Store) -> Result<String> {
    Ok(myself(local)?.node)
}

/// Has this host, which is in no cluster, be the one with this id.
pub fn become_node(local: &dyn Store, node: &str) -> Result<()> {
    begin_as(local, node.to_owned()).map(|_| ())
}

/// Forgets the cluster: the next one is joined as another host.
pub fn forget(local: &dyn Store) -> Result<()> {
    Ok(local.commit(&forgetting(local)?, Durability::Immediate)?)
}

/// What is to be written to forget the cluster.
pub fn forgetting(local: &dyn Store) -> Result<Batch> {
    let mut batch = Batch::default();
    for (key, _) in local.list(ROOT)? {
        batch.delete(key);
    }
    Ok(batch)
}

fn myself(local: &dyn Store) -> Result<SelfRecord> {
    let known = local.get(SELF)?;
    if let Some(record) = known.and_then(|value| read(&value).ok()) {
        return Ok(record);
    }
    begin_as(local, random())
}

fn begin_as(local: &dyn Store, node: String) -> Result<SelfRecord> {
    let record = SelfRecord { version: VERSION, node, ..SelfRecord::default() };
    let mut batch = Batch::default();
    batch.put(SELF, write(&record));
    local.commit(&batch, Durability::Immediate)?;
    Ok(record)
}

/// 16 random bytes in hexadecimal.
pub(crate) fn random() -> String {
    use std::fmt::Write;
    let mut bytes = [0; 16];
    // Without the system's randomness nothing else works either; equal ids are refused when joining.
    let _ = getrandom::fill(&mut bytes);
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

impl Local {
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        Self { store, dirty: Mutex::default(), waiting: Notify::new(), writing: Mutex::default() }
    }

    /// Who this host is, in this boot.
    pub(crate) fn begin(&self, cluster: &str, boot: &str) -> Result<SelfRecord> {
        let mut me = myself(&*self.store)?;
        if !me.cluster.is_empty() && me.cluster != cluster {
            forget(&*self.store)?;
            me = myself(&*self.store)?;
        }
        cluster.clone_into(&mut me.cluster);
        if me.boot != boot || me.epoch == 0 {
            boot.clone_into(&mut me.boot);
            me.epoch += 1;
        }
        self.note_self(&me);
        self.flush()?;
        Ok(me)
    }

    /// Notes who this host is: called with the lock of what is noted, so that the last word is the
    /// newest. Who relies on it calls [`Self::flush`] then.
    pub(crate) fn note_self(&self, me: &SelfRecord) {
        self.note(SELF.to_owned(), Some(write(me)));
    }

    /// The mirror: keys of the cluster's store without their root, and the values.
    pub(crate) fn mirror(&self) -> Result<Vec<(String, Vec<u8>)>> {
        let all = self.store.list(MIRROR)?.into_iter();
        Ok(all.map(|(key, value)| (key[MIRROR.len()..].to_owned(), value)).collect())
    }

    pub(crate) fn note_mirror(&self, key: &str, value: Option<&[u8]>) {
        self.note(format!("{MIRROR}{key}"), value.map(<[u8]>::to_vec));
    }

    /// The addresses that were this host's, with their records.
    pub(crate) fn addresses(&self) -> Result<Vec<(NetworkId, IpAddr, Vec<u8>)>> {
        let all = self.store.list(ADDRESSES)?.into_iter();
        let parsed = all.filter_map(|(key, value)| {
            let (network, address) = key[ADDRESSES.len()..].split_once('/')?;
            Some((network.parse().ok()?, address.parse().ok()?, value))
        });
        Ok(parsed.collect())
    }

    /// That addresses are not this host's any more has to be on its disk before others can have them.
    pub(crate) fn forget_addresses(
        &self,
        network: &NetworkId,
        addresses: impl Iterator<Item = IpAddr>,
    ) -> Result<()> {
        let mut batch = Batch::default();
        addresses.for_each(|address| batch.delete(format!("{ADDRESSES}{network}/{address}")));
        Ok(self.store.commit(&batch, Durability::Immediate)?)
    }

    /// That an address is this host's has to be known before it is used.
    pub(crate) fn write_addresses(
        &self,
        network: &NetworkId,
        addresses: &[(IpAddr, Option<Vec<u8>>)],
    ) -> Result<()> {
        let mut batch = Batch::default();
        for (address, record) in addresses {
            batch.writes.push((format!("{ADDRESSES}{network}/{address}"), record.clone()));
        }
        Ok(self.store.commit(&batch, Durability::Eventual)?)
    }

    /// What is to be written with an endpoint's own records.
    pub(crate) fn owe(network: &NetworkId, endpoint: &EndpointId, own: &OwnRecord) -> Batch {
        let mut batch = Batch::default();
        batch.put(format!("{OWN}{network}/{endpoint}"), write(own));
        batch.put(format!("{OWED}{network}/{endpoint}"), Vec::new());
        batch
    }

    pub(crate) fn commit(&self, batch: &Batch) -> Result<()> {
        Ok(self.store.commit(batch, Durability::Eventual)?)
    }

    /// Endpoints that are to be published or withdrawn.
    pub(crate) fn owed(&self) -> Result<Vec<(NetworkId, EndpointId)>> {
        self.endpoints_below(OWED)
    }

    /// Endpoints of this host that were published, are to be, or are to be withdrawn.
    pub(crate) fn own(&self) -> Result<Vec<(NetworkId, EndpointId)>> {
        self.endpoints_below(OWN)
    }

    fn endpoints_below(&self, prefix: &str) -> Result<Vec<(NetworkId, EndpointId)>> {
        let all = self.store.list(prefix)?.into_iter();
        let parsed = all.filter_map(|(key, _)| {
            let (network, endpoint) = key[prefix.len()..].split_once('/')?;
            Some((network.parse().ok()?, endpoint.parse().ok()?))
        });
        Ok(parsed.collect())
    }

    pub(crate) fn own_record(
        &self,
        network: &NetworkId,
        endpoint: &EndpointId,
    ) -> Result<Option<OwnRecord>> {
        let value = self.store.get(&format!("{OWN}{network}/{endpoint}"))?;
        Ok(value.and_then(|value| read(&value).ok()))
    }

    /// What an endpoint is, is owed again, whatever it is by then.
    pub(crate) fn owe_again(&self, network: &NetworkId, endpoint: &EndpointId) -> Result<()> {
        let mut batch = Batch::default();
        batch.put(format!("{OWED}{network}/{endpoint}"), Vec::new());
        self.commit(&batch)
    }

    /// Nothing is known of what is owed.
    pub(crate) fn forget_owed(&self, network: &NetworkId, endpoint: &EndpointId) -> Result<()> {
        let mut batch = Batch::default();
        batch.delete(format!("{OWED}{network}/{endpoint}"));
        self.commit(&batch)
    }

    /// What was owed is done; of an endpoint that is gone nothing remains. Whether that was all: others
    /// may have written what is new of it meanwhile, and that is owed.
    pub(crate) fn settle(
        &self,
        network: &NetworkId,
        endpoint: &EndpointId,
        told: &OwnRecord,
    ) -> Result<bool> {
        self.forget_owed(network, endpoint)?;
        if self.own_record(network, endpoint)?.is_some_and(|own| own != *told) {
            self.owe_again(network, endpoint)?;
            return Ok(false);
        }
        if told.record.is_none() {
            let mut batch = Batch::default();
            batch.delete(format!("{OWN}{network}/{endpoint}"));
            self.commit(&batch)?;
        }
        Ok(true)
    }

    /// A hardware address is to be given back, which somebody had.
    pub(crate) fn owe_mac(&self, network: &NetworkId, mac: Mac, owner: &str) -> Result<()> {
        let mut batch = Batch::default();
        batch.put(format!("{MACS}{network}/{mac}/{owner}"), Vec::new());
        self.commit(&batch)
    }

    /// It is given back, or is to be his again.
    pub(crate) fn settle_mac(&self, network: &NetworkId, mac: Mac, owner: &str) -> Result<()> {
        let mut batch = Batch::default();
        batch.delete(format!("{MACS}{network}/{mac}/{owner}"));
        self.commit(&batch)
    }

    /// The hardware addresses that are to be given back, and who had them.
    pub(crate) fn owed_macs(&self) -> Result<Vec<(NetworkId, Mac, String)>> {
        let all = self.store.list(MACS)?.into_iter();
        let parsed = all.filter_map(|(key, _)| {
            let (network, rest) = key[MACS.len()..].split_once('/')?;
            let (mac, owner) = rest.split_once('/')?;
            Some((network.parse().ok()?, mac.parse().ok()?, owner.to_owned()))
        });
        Ok(parsed.collect())
    }

    fn note(&self, key: String, value: Option<Vec<u8>>) {
        lock(&self.dirty).insert(key, value);
        self.waiting.notify_one();
    }

    /// Waits until there is something to write.
    pub(crate) async fn noted(&self) {
        self.waiting.notified().await;
    }

    /// Writes what was noted. All that was noted before is written when it returns.
    pub(crate) fn flush(&self) -> Result<()> {
        let _writing = lock(&self.writing);
        let dirty = std::mem::take(&mut *lock(&self.dirty));
        if dirty.is_empty() {
            return Ok(());
        }
        let batch = Batch { writes: dirty.clone().into_iter().collect() };
        let written = self.store.commit(&batch, Durability::Immediate);
        if written.is_err() {
            // What has changed again meanwhile is newer.
            let mut later = lock(&self.dirty);
            for (key, value) in dirty {
                later.entry(key).or_insert(value);
            }
        }
        Ok(written?)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn an_end_that_is_written_while_a_beginning_is_told_is_owed() {
        let (network, endpoint) =
            ("1".repeat(64).parse().unwrap(), "2".repeat(64).parse().unwrap());
        let local = Local::new(Arc::new(cnm::store::Memory::new()));
        let own = |address: [u8; 4]| OwnRecord {
            version: VERSION,
            record: None,
            addresses: vec![address.into()],
        };
        let (told, ended) = (own([10, 0, 0, 2]), own([10, 0, 0, 3]));
        local.commit(&Local::owe(&network, &endpoint, &told)).unwrap();
        local.commit(&Local::owe(&network, &endpoint, &ended)).unwrap();
        assert!(!local.settle(&network, &endpoint, &told).unwrap());
        assert_eq!(local.owed().unwrap().len(), 1, "the end is told later");
        assert!(local.settle(&network, &endpoint, &ended).unwrap());
        assert!(local.owed().unwrap().is_empty() && local.own().unwrap().is_empty());
    }
}
