//! Addresses: claimed ahead in the store, so that a start asks nobody.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use cnm::{Mac, NetworkId};
use engine_error::{Error, Kind, Result};
use ipnetwork::IpNetwork;

use crate::addresses::{Addresses, Holder, LOW};
use crate::cluster::{Cluster, State};
use crate::follow::Pauses;
use crate::record::{AddressRecord, VERSION, read, write};
use crate::restore::kept;
use crate::store::{Compare, StoreError, Write};
use crate::view::lock;

/// How often a claim that lost a race is tried again.
const TRIES: usize = 16;

/// An address that somebody had so recently is not given to another host.
const QUARANTINE: Duration = Duration::from_secs(60);

/// How often it is looked whether there are too many or too few.
const ROUND: Duration = Duration::from_secs(60);

impl Cluster {
    /// Gives an owner one address of each family of a network, or those that are wanted, out of what is
    /// this host's already. Nothing if the store has to be asked.
    pub fn claim_spares(
        &self,
        network: &NetworkId,
        owner: &str,
        wanted: &[IpAddr],
    ) -> Result<Option<Vec<IpNetwork>>> {
        let now = self.now();
        let mut state = lock(&self.state);
        let addresses = self.addresses_of(&mut state, network)?;
        for wanted in wanted {
            addresses.check(*wanted)?;
        }
        let before = addresses.clone();
        let mut claimed = Vec::new();
        for ipv6 in before.families() {
            let wanted = wanted.iter().find(|wanted| wanted.is_ipv6() == ipv6).copied();
            let Some(address) = addresses.take(owner, ipv6, wanted) else {
                for address in claimed.iter().map(IpNetwork::ip) {
                    addresses.unclaim(address, now);
                }
                return Ok(None);
            };
            claimed.push(addresses.with_prefix(address));
        }
        drop(state);
        self.refill.notify_one();
        Ok(Some(claimed))
    }

    /// The same; what is not there is asked for.
    pub async fn claim_addresses(
        &self,
        network: &NetworkId,
        owner: &str,
        wanted: &[IpAddr],
    ) -> Result<Vec<IpNetwork>> {
        for _ in 0..TRIES {
            if let Some(claimed) = self.claim_spares(network, owner, wanted)? {
                return Ok(claimed);
            }
            let families: Vec<_> = {
                let mut state = lock(&self.state);
                self.addresses_of(&mut state, network)?.families().collect()
            };
            for ipv6 in families {
                match wanted.iter().find(|wanted| wanted.is_ipv6() == ipv6) {
                    Some(wanted) => self.obtain(network, owner, *wanted).await?,
                    None => self.obtain_any(network, ipv6).await?,
                }
            }
        }
        Err(Error::new(
            Kind::Unavailable,
            "cannot claim an address in the cluster: others claim all the time; try again",
        ))
    }

    /// Has the store give this host one certain address, for an owner.
    async fn obtain(&self, network: &NetworkId, owner: &str, address: IpAddr) -> Result<()> {
        let known = {
            let mut state = lock(&self.state);
            let all = self.addresses_of(&mut state, network)?;
            let holder = all.mine().get(&address).map(|mine| mine.holder.clone());
            holder.map(|holder| match holder.owner() {
                Some(other) if other != owner => Err(all.taken(address, &used_by(other))),
                _ => Ok(()),
            })
        };
        if let Some(known) = known {
            return Ok(known?);
        }
        self.check_trust()?;
        let key = self.keys.address(network, address);
        let record = self.address_record(Some(owner));
        let when = vec![Compare::Absent(key.clone()), Compare::Present(self.keys.network(network))];
        let done = self.done(when, vec![Write::put(key.clone(), record.clone())]).await;
        let error = |error: StoreError| {
            let kind = cnm::HasKind::kind(&error);
            Error::caused(kind, format!("cannot claim address {address} in the cluster"), error)
        };
        if matches!(done, Ok(true)) {
            return Ok(self.note_own(network, &[(address, record, Some(owner.to_owned()))])?);
        }
        if let Err(failed) = done
            && !matches!(failed, StoreError::Unknown(_))
        {
            return Err(error(failed));
        }
        let Some(entry) = self.entry(&key).await.map_err(error)? else { return Ok(()) };
        match read::<AddressRecord>(&entry.value).ok() {
            Some(found) if found.node == self.node => {
                Ok(self.note_own(network, &[(address, entry.value, found.holder)])?)
            }
            found => {
                let host = found.map(|found| self.host_name(&found.node)).unwrap_or_default();
                let mut state = lock(&self.state);
                let all = self.addresses_of(&mut state, network)?;
                Err(all.taken(address, &format!("is claimed by host {host}")).into())
            }
        }
    }

    /// Has the store give this host addresses, one at least.
    async fn obtain_any(&self, network: &NetworkId, ipv6: bool) -> Result<()> {
        let hosts = self.view().nodes.len();
        let (spares, share, exhausted) = {
            let mut state = lock(&self.state);
            let all = self.addresses_of(&mut state, network)?;
            (all.spares(ipv6), all.share(ipv6, hosts), all.exhausted(ipv6))
        };
        if spares > 0 {
            return Ok(());
        }
        self.check_trust()?;
        match self.claim_more(network, ipv6, share.max(1)).await {
            Ok(0) => Err(exhausted.into()),
            Ok(_) => Ok(()),
            Err(error) => {
                let kind = cnm::HasKind::kind(&error);
                let message =
                    "cannot claim an address in the cluster, and none of this host's is left";
                Err(Error::caused(kind, message, error))
            }
        }
    }

    /// Claims up to so many addresses; how many it got. At first it goes by what it knows; if others
    /// have some of those, by all that is claimed.
    async fn claim_more(
        &self,
        network: &NetworkId,
        ipv6: bool,
        mut count: usize,
    ) -> Result<usize, StoreError> {
        let mut taken = BTreeSet::new();
        for attempt in 0..TRIES {
            let candidates = {
                let mut state = lock(&self.state);
                let Ok(all) = self.addresses_of(&mut state, network) else { return Ok(0) };
                all.candidates(ipv6, count, &taken)
            };
            if candidates.is_empty() {
                if attempt > 0 {
                    return Ok(0);
                }
                taken = self.look_at_claims(network).await?;
                continue;
            }
            let record = self.address_record(None);
            let key = |address: &IpAddr| self.keys.address(network, *address);
            let mut when = vec![Compare::Present(self.keys.network(network))];
            when.extend(candidates.iter().map(|address| Compare::Absent(key(address))));
            let put = |address| Write::put(key(address), record.clone());
            let then = candidates.iter().map(put).collect();
            if self.done(when, then).await? {
                let own: Vec<_> =
                    candidates.iter().map(|address| (*address, record.clone(), None)).collect();
                self.note_own(network, &own)?;
                return Ok(own.len());
            }
            if attempt > 2 {
                count = (count / 2).max(1);
            }
            taken = self.look_at_claims(network).await?;
        }
        Ok(0)
    }

    /// All addresses of a network that are somebody's. Those of this host that it does not know are
    /// taken in: a reply was lost.
    async fn look_at_claims(&self, network: &NetworkId) -> Result<BTreeSet<IpAddr>, StoreError> {
        let prefix = self.keys.addresses(network);
        let mut taken = BTreeSet::new();
        let mut own = Vec::new();
        for entry in self.store.range(&prefix).await?.entries {
            let Some(address) = entry.key.strip_prefix(&prefix).and_then(|a| a.parse().ok()) else {
                continue;
            };
            taken.insert(address);
            if let Some(record) = read::<AddressRecord>(&entry.value).ok()
                && record.node == self.node
            {
                own.push((address, entry.value, record.holder));
            }
        }
        self.note_own(network, &own)?;
        Ok(taken)
    }

    /// Notes what is this host's, here and in its own store.
    pub(crate) fn note_own(
        &self,
        network: &NetworkId,
        own: &[(IpAddr, Vec<u8>, Option<String>)],
    ) -> Result<(), StoreError> {
        let written: Vec<_> =
            own.iter().map(|(address, record, _)| (*address, Some(record.clone()))).collect();
        self.local.write_addresses(network, &written).map_err(kept)?;
        let mut state = lock(&self.state);
        let Ok(all) = self.addresses_of(&mut state, network) else { return Ok(()) };
        for (address, record, holder) in own {
            all.own(*address, record.clone(), holder.clone());
        }
        Ok(())
    }

    /// A claim came to nothing: the addresses are as they were before it.
    pub fn unclaim(&self, network: &NetworkId, addresses: &[IpAddr]) {
        let now = self.now();
        if let Some(all) = lock(&self.state).addresses.get_mut(network) {
            addresses.iter().for_each(|address| all.unclaim(*address, now));
        }
    }

    /// An owner will not come back: nothing is kept for it any more.
    pub fn forget(&self, network: &NetworkId, owner: &str) {
        let now = self.now();
        if let Some(all) = lock(&self.state).addresses.get_mut(network) {
            all.forget(|other| other == owner, now);
        }
        self.refill.notify_one();
    }

    /// Claims a hardware address that somebody chose, for an owner.
    pub async fn claim_mac(&self, network: &NetworkId, mac: Mac, owner: &str) -> Result<()> {
        self.check_trust()?;
        let key = self.keys.mac(network, mac);
        let value = write(&self.mac_record(owner));
        let when = vec![Compare::Absent(key.clone()), Compare::Present(self.keys.network(network))];
        let done = self.done(when, vec![Write::put(key.clone(), value)]).await;
        if matches!(done, Ok(true)) {
            return Ok(());
        }
        match self.entry(&key).await?.and_then(|entry| read::<AddressRecord>(&entry.value).ok()) {
            Some(found) if found.holder.as_deref() == Some(owner) => Ok(()),
            Some(found) => Err(Error::conflict(format!(
                "hardware address {mac} is in use on host {}: choose another",
                self.host_name(&found.node)
            ))),
            None => {
                Err(done.err().unwrap_or(StoreError::Unavailable("try again".to_owned())).into())
            }
        }
    }

    /// Gives a hardware address back that an owner had.
    pub async fn release_mac(&self, network: &NetworkId, mac: Mac, owner: &str) -> Result<()> {
        let key = self.keys.mac(network, mac);
        let when = vec![Compare::Is(key.clone(), write(&self.mac_record(owner)))];
        self.done(when, vec![Write::Delete(key)]).await?;
        Ok(())
    }

    fn mac_record(&self, owner: &str) -> AddressRecord {
        let (node, holder) = (self.node.clone(), Some(owner.to_owned()));
        AddressRecord { version: VERSION, node, epoch: 0, holder }
    }

    pub(crate) fn host_name(&self, node: &str) -> String {
        let view = self.view();
        view.nodes.get(node).map_or_else(|| node.to_owned(), |node| node.record.name.clone())
    }

    pub(crate) fn address_record(&self, holder: Option<&str>) -> Vec<u8> {
        write(&AddressRecord {
            version: VERSION,
            node: self.node.clone(),
            epoch: self.epoch,
            holder: holder.map(str::to_owned),
        })
    }

    /// This host's addresses of a network that there is.
    pub(crate) fn addresses_of<'a>(
        &self,
        state: &'a mut State,
        network: &NetworkId,
    ) -> Result<&'a mut Addresses> {
        let number = self.number().unwrap_or_default();
        let record = state.knowledge.view.networks.get(network);
        let missing = || {
            Error::not_found(format!("network {} is not in the cluster any more", network.short()))
        };
        let record = Arc::clone(record.ok_or_else(missing)?);
        let new = || Addresses::new(&record.name, &record.pools, number);
        Ok(state.addresses.entry(network.clone()).or_insert_with(new))
    }

    /// Sees to it that there are enough addresses and not too many, and that the store knows whose they are.
    pub(crate) async fn keep_addresses(self: Arc<Self>) {
        let mut pauses = Pauses::new();
        self.wait_until_joined().await;
        let mut known = BTreeSet::new();
        loop {
            let refill = self.refill.notified();
            match self.settle_addresses(&mut known).await {
                Ok(()) => {
                    pauses.reset();
                    // Whether something is to be done shows at the latest after a while.
                    let _ = tokio::time::timeout(ROUND, refill).await;
                }
                Err(error) => {
                    tracing::debug!(%error, "addresses are not claimed");
                    pauses.wait().await;
                }
            }
        }
    }

    async fn settle_addresses(&self, known: &mut BTreeSet<NetworkId>) -> Result<(), StoreError> {
        self.check_trust()?;
        let view = self.view();
        if !view.complete {
            return Ok(());
        }
        self.drop_networks(known, &view.networks.keys().cloned().collect())?;
        for network in view.networks.keys() {
            if !known.contains(network) {
                // What the store says is this host's may be more or less than what it remembers.
                self.recount(network).await?;
                known.insert(network.clone());
            }
            self.refill(network, view.nodes.len()).await?;
            self.tell_holders(network).await?;
            self.give_back(network, view.nodes.len()).await?;
        }
        Ok(())
    }

    /// Addresses of networks that are gone are nobody's.
    fn drop_networks(
        &self,
        known: &mut BTreeSet<NetworkId>,
        there: &BTreeSet<NetworkId>,
    ) -> Result<(), StoreError> {
        known.retain(|network| there.contains(network));
        let mut state = lock(&self.state);
        let gone: Vec<_> =
            state.addresses.keys().filter(|id| !there.contains(id)).cloned().collect();
        for network in gone {
            let addresses = state.addresses.remove(&network);
            let all = addresses.iter().flat_map(|all| all.mine().keys());
            let forgotten: Vec<_> = all.map(|address| (*address, None)).collect();
            self.local.write_addresses(&network, &forgotten).map_err(kept)?;
        }
        Ok(())
    }

    async fn recount(&self, network: &NetworkId) -> Result<(), StoreError> {
        self.look_at_claims(network).await?;
        let remembered: Vec<IpAddr> = {
            let state = lock(&self.state);
            let all = state.addresses.get(network);
            all.into_iter().flat_map(|all| all.mine().keys().copied()).collect()
        };
        let prefix = self.keys.addresses(network);
        let there = self.store.range(&prefix).await?.entries;
        let ours = |address: &IpAddr| {
            let key = self.keys.address(network, *address);
            let entry = there.iter().find(|entry| entry.key == key);
            let record = entry.and_then(|entry| read::<AddressRecord>(&entry.value).ok());
            record.is_some_and(|record| record.node == self.node)
        };
        for address in remembered.into_iter().filter(|address| !ours(address)) {
            self.disown_unused(network, address)?;
        }
        Ok(())
    }

    /// An address is not this host's any more. If somebody uses it, its publishing finds out.
    fn disown_unused(&self, network: &NetworkId, address: IpAddr) -> Result<(), StoreError> {
        let mut state = lock(&self.state);
        let Some(all) = state.addresses.get_mut(network) else { return Ok(()) };
        let used =
            all.mine().get(&address).is_some_and(|m| matches!(m.holder, Holder::Used { .. }));
        if !used && all.disown(address).is_some() {
            self.local.write_addresses(network, &[(address, None)]).map_err(kept)?;
        }
        Ok(())
    }

    async fn refill(&self, network: &NetworkId, hosts: usize) -> Result<(), StoreError> {
        let wanted: Vec<(bool, usize)> = {
            let mut state = lock(&self.state);
            let Ok(all) = self.addresses_of(&mut state, network) else { return Ok(()) };
            let lack = |ipv6: bool| {
                let (has, share) = (all.spares(ipv6), all.share(ipv6, hosts));
                (has < LOW.min(share)).then(|| (ipv6, share - has))
            };
            all.families().filter_map(lack).collect()
        };
        for (ipv6, count) in wanted {
            self.claim_more(network, ipv6, count).await?;
        }
        Ok(())
    }

    /// Writes who has an address where the store has somebody else.
    async fn tell_holders(&self, network: &NetworkId) -> Result<(), StoreError> {
        let changed: Vec<(IpAddr, Vec<u8>, Option<String>)> = {
            let state = lock(&self.state);
            // Before it is known who lives here, nobody is taken for gone.
            if state.owners.is_none() {
                return Ok(());
            }
            let all = state.addresses.get(network).into_iter().flat_map(|all| all.mine());
            let differs = all.filter_map(|(address, mine)| {
                let told = read::<AddressRecord>(&mine.record).ok()?;
                let holder = mine.holder.owner().map(str::to_owned);
                (told.holder != holder).then(|| (*address, mine.record.clone(), holder))
            });
            differs.collect()
        };
        for (address, before, holder) in changed {
            let key = self.keys.address(network, address);
            let record = self.address_record(holder.as_deref());
            let when = vec![Compare::Is(key.clone(), before)];
            if self.done(when, vec![Write::put(key, record.clone())]).await? {
                self.note_own(network, &[(address, record, holder)])?;
            } else {
                self.look_at_claims(network).await?;
                self.recount(network).await?;
            }
        }
        Ok(())
    }

    async fn give_back(&self, network: &NetworkId, hosts: usize) -> Result<(), StoreError> {
        let quarantine = u64::try_from(QUARANTINE.as_millis()).unwrap_or(u64::MAX);
        let until = self.now().saturating_sub(quarantine);
        let mut surplus = Vec::new();
        {
            let mut state = lock(&self.state);
            let Some(all) = state.addresses.get_mut(network) else { return Ok(()) };
            for ipv6 in all.clone().families() {
                for address in all.surplus(ipv6, all.share(ipv6, hosts), until) {
                    // From here on nobody gets it.
                    surplus.extend(all.disown(address).map(|mine| (address, mine)));
                }
            }
        }
        for part in surplus.chunks(60) {
            let key = |address: &IpAddr| self.keys.address(network, *address);
            let when =
                part.iter().map(|(a, mine)| Compare::Is(key(a), mine.record.clone())).collect();
            let then = part.iter().map(|(a, _)| Write::Delete(key(a))).collect();
            if !self.done(when, then).await? {
                self.look_at_claims(network).await?;
                continue;
            }
            let gone: Vec<_> = part.iter().map(|(address, _)| (*address, None)).collect();
            self.local.write_addresses(network, &gone).map_err(kept)?;
        }
        Ok(())
    }
}

fn used_by(owner: &str) -> String {
    format!("is in use by container {:.12} on this host", owner)
}
