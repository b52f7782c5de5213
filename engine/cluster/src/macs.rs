//! Hardware addresses that users chose: one owner each, and given back whatever becomes of a reply.

use cnm::{Mac, NetworkId};
use engine_error::{Error, Result};

use crate::cluster::Cluster;
use crate::record::{AddressRecord, VERSION, read, write};
use crate::restore::kept;
use crate::store::{Compare, StoreError, Write};
use crate::view::lock;

impl Cluster {
    /// Claims a hardware address that somebody chose, for an owner.
    pub async fn claim_mac(&self, network: &NetworkId, mac: Mac, owner: &str) -> Result<()> {
        self.check_trust()?;
        let key = self.keys.mac(network, mac);
        let value = write(&self.mac_record(owner));
        let when = vec![Compare::Absent(key.clone()), Compare::Present(self.keys.network(network))];
        // Whoever looks at what is this host's from here on leaves it alone.
        let claim = (network.clone(), mac, owner.to_owned());
        lock(&self.state).macs.insert(claim.clone());
        self.local.settle_mac(network, mac, owner)?;
        let done = self.sure(network, self.done(when, vec![Write::put(key.clone(), value)]).await);
        if matches!(done, Ok(true)) {
            return Ok(());
        }
        let found =
            self.entry(&key).await?.and_then(|entry| read::<AddressRecord>(&entry.value).ok());
        let refusal = match found {
            Some(found) if found.holder.as_deref() == Some(owner) => return Ok(()),
            Some(found) => Error::conflict(format!(
                "hardware address {mac} is in use on host {}: choose another",
                self.host_name(&found.node)
            )),
            None => done.err().unwrap_or(StoreError::Unavailable("try again".to_owned())).into(),
        };
        lock(&self.state).macs.remove(&claim);
        Err(refusal)
    }

    /// Gives a hardware address back that an owner had. What fails is tried again until it is done.
    pub async fn release_mac(&self, network: &NetworkId, mac: Mac, owner: &str) -> Result<()> {
        lock(&self.state).macs.remove(&(network.clone(), mac, owner.to_owned()));
        self.local.owe_mac(network, mac, owner)?;
        let given = self.give_mac_back(network, mac, owner).await;
        if given.is_err() {
            self.refill.notify_one();
        }
        Ok(given?)
    }

    async fn give_mac_back(
        &self,
        network: &NetworkId,
        mac: Mac,
        owner: &str,
    ) -> Result<(), StoreError> {
        let key = self.keys.mac(network, mac);
        let when = vec![Compare::Is(key.clone(), write(&self.mac_record(owner)))];
        self.done(when, vec![Write::Delete(key)]).await?;
        self.local.settle_mac(network, mac, owner).map_err(kept)
    }

    /// Gives back what was not given back when it should have been; whether that was all.
    pub(crate) async fn give_macs_back(&self) -> Result<bool, StoreError> {
        for (network, mac, owner) in self.local.owed_macs().map_err(kept)? {
            self.give_mac_back(&network, mac, &owner).await?;
        }
        Ok(true)
    }

    /// Gives back what the store has for somebody on this host who is not there.
    pub(crate) async fn look_at_macs(&self, network: &NetworkId) -> Result<(), StoreError> {
        let prefix = self.keys.macs(network);
        for entry in self.store.range(&prefix).await?.entries {
            let mac = entry.key.strip_prefix(&prefix).and_then(|mac| mac.parse::<Mac>().ok());
            let record = read::<AddressRecord>(&entry.value).ok();
            let (Some(mac), Some(record)) = (mac, record) else { continue };
            let Some(owner) = record.holder.filter(|_| record.node == self.node) else { continue };
            let lives = {
                let state = lock(&self.state);
                let claimed = (network.clone(), mac, owner.clone());
                state.owners.contains(&owner) || state.macs.contains(&claimed)
            };
            if !lives {
                let when = vec![Compare::ModifiedAt(entry.key.clone(), entry.modified)];
                self.done(when, vec![Write::Delete(entry.key)]).await?;
            }
        }
        Ok(())
    }

    fn mac_record(&self, owner: &str) -> AddressRecord {
        let (node, holder) = (self.node.clone(), Some(owner.to_owned()));
        AddressRecord { version: VERSION, node, epoch: 0, holder, wished: false }
    }
}
