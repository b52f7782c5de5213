//! What lives on this host is told to the others, and what does not any more is withdrawn.
//!
//! What is to be told is written down with the change that it follows from, and told when the store
//! answers. So it may come late; it never gets lost, whichever of the two dies between.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use cnm::store::Batch;
use cnm::{EndpointId, NetworkId};
use engine_error::Result;
use ipnetwork::IpNetwork;

use crate::cluster::Cluster;
use crate::follow::Pauses;
use crate::knowledge::Part;
use crate::local::{Local, OwnRecord};
use crate::record::{AddressRecord, EndpointRecord, VERSION, read, write};
use crate::restore::kept;
use crate::store::{Compare, Snapshot, StoreError, Write};
use crate::view::{Delta, lock};

/// What was said is written down after so many milliseconds, or came to nothing.
const COMMITTED: u64 = 60_000;

/// How many endpoints go into one transaction.
const BATCH: usize = 30;

/// How often a transaction that lost a race is tried again.
const TRIES: usize = 5;

/// An endpoint that lives on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// Its network.
    pub network: NetworkId,
    /// Its id.
    pub endpoint: EndpointId,
    /// What the others are to know; version, host and epoch are filled in.
    pub record: EndpointRecord,
}

/// What was said of an endpoint last, and when, in milliseconds. It may not be written down yet.
#[derive(Clone, Debug)]
pub(crate) struct Said {
    own: OwnRecord,
    last: u64,
}

impl Said {
    /// Those that the endpoint has, or had.
    pub(crate) fn addresses(&self) -> &[IpAddr] {
        &self.own.addresses
    }
}

/// An endpoint whose record is to be put or deleted.
#[derive(Clone, Debug)]
struct Owed {
    network: NetworkId,
    endpoint: EndpointId,
    own: OwnRecord,
}

/// What an address is to be in the same transaction.
#[derive(Clone, Debug)]
struct Holding {
    network: NetworkId,
    address: IpAddr,
    before: Option<Vec<u8>>,
    after: Vec<u8>,
    holder: Option<String>,
}

impl Cluster {
    /// What is to be written with the commit of an endpoint, so that the others hear of it: call
    /// [`Cluster::wake`] after that.
    pub fn publish(
        &self,
        network: &NetworkId,
        endpoint: &EndpointId,
        record: EndpointRecord,
    ) -> Result<Batch> {
        let record = EndpointRecord {
            version: VERSION,
            node: self.node.clone(),
            epoch: self.epoch,
            ..record
        };
        let addresses = record.addresses.iter().map(IpNetwork::ip).collect();
        let own = OwnRecord { version: VERSION, record: Some(record), addresses };
        self.say(network, endpoint, &own);
        Ok(Local::owe(network, endpoint, &own))
    }

    /// The same when an endpoint ended; whether its owner, who is stopped only, keeps the addresses.
    pub fn withdraw(
        &self,
        network: &NetworkId,
        endpoint: &EndpointId,
        addresses: &[IpAddr],
        keep: bool,
    ) -> Result<Batch> {
        let now = self.now();
        let mut state = lock(&self.state);
        if let Some(living) = state.living.get_mut(network) {
            living.retain(|(address, _)| !addresses.contains(address));
        }
        if let Some(all) = state.addresses.get_mut(network) {
            for address in addresses {
                all.release(*address, Some(keep), now);
            }
        }
        drop(state);
        let own = OwnRecord { version: VERSION, record: None, addresses: addresses.to_vec() };
        self.say(network, endpoint, &own);
        Ok(Local::owe(network, endpoint, &own))
    }

    /// Something that is owed is written down: it can be told.
    pub fn wake(&self) {
        self.owed.notify_one();
        self.refill.notify_one();
    }

    /// Endpoints that the others do not know of yet, or still know of.
    pub fn pending(&self) -> Result<BTreeSet<(NetworkId, EndpointId)>> {
        Ok(self.local.owed()?.into_iter().collect())
    }

    /// What lives on this host after a start, and the owners that are there and may be stopped: nobody
    /// has an address but these, and what was published besides is withdrawn.
    pub fn reconcile(&self, own: &[Publication], owners: &BTreeSet<String>) -> Result<()> {
        let now = self.now();
        let mut state = lock(&self.state);
        for publication in own {
            let owner = &publication.record.container;
            for address in publication.record.addresses.iter().map(IpNetwork::ip) {
                // If the store does not know that it is this host's, it is told with the endpoint.
                if let Ok(all) = self.addresses_of(&mut state, &publication.network) {
                    all.adopt(address, owner);
                } else {
                    // The network is heard of later.
                    let living = state.living.entry(publication.network.clone()).or_default();
                    living.push((address, owner.clone()));
                }
            }
        }
        for all in state.addresses.values_mut() {
            all.forget(|owner| !owners.contains(owner), now);
        }
        state.owners.clone_from(owners);
        drop(state);
        let alive: BTreeSet<_> =
            own.iter().map(|one| (one.network.clone(), one.endpoint.clone())).collect();
        for (network, endpoint) in self.local.own()? {
            if !alive.contains(&(network.clone(), endpoint.clone())) {
                self.withdraw_lost(&network, &endpoint)?;
            }
        }
        for publication in own {
            self.publish_missing(publication)?;
        }
        // Whoever compares this with the store does not do it half-way.
        lock(&self.state).reconciled = true;
        self.wake();
        Ok(())
    }

    fn withdraw_lost(&self, network: &NetworkId, endpoint: &EndpointId) -> Result<()> {
        let known = self.local.own_record(network, endpoint)?;
        let addresses = known.map(|own| own.addresses).unwrap_or_default();
        let own = OwnRecord { version: VERSION, record: None, addresses };
        self.say(network, endpoint, &own);
        self.local.commit(&Local::owe(network, endpoint, &own))
    }

    fn publish_missing(&self, publication: &Publication) -> Result<()> {
        let (network, endpoint) = (&publication.network, &publication.endpoint);
        let known = self.local.own_record(network, endpoint)?.and_then(|own| own.record);
        let record = EndpointRecord {
            version: VERSION,
            node: self.node.clone(),
            epoch: self.epoch,
            ..publication.record.clone()
        };
        if known.as_ref() == Some(&record) {
            return Ok(());
        }
        let batch = self.publish(network, endpoint, record)?;
        self.local.commit(&batch)
    }

    /// What this host owes for an endpoint is told again. That it is owed is written at once, so nobody
    /// has to be told that it will be.
    pub(crate) fn owe_again(&self, network: &NetworkId, endpoint: &EndpointId) -> Result<()> {
        self.local.owe_again(network, endpoint)
    }

    /// Of a network that was read whole: what is there of this host and does not live here is withdrawn,
    /// what lives here and is not there is told.
    pub(crate) fn audit_own(&self, part: &Part, snapshot: &Snapshot) {
        let Part::Endpoints(network) = part else { return };
        if !lock(&self.state).reconciled {
            return;
        }
        let prefix = self.keys.endpoints(network);
        let there = snapshot.entries.iter().filter_map(|entry| {
            let id: EndpointId = entry.key.strip_prefix(&prefix)?.parse().ok()?;
            let record = read::<EndpointRecord>(&entry.value).ok()?;
            (record.node == self.node).then_some((id, record))
        });
        let there: BTreeMap<_, _> = there.collect();
        let audited = || -> Result<()> {
            let own = self.local.own()?.into_iter().filter(|(of, _)| of == network);
            let own: BTreeSet<EndpointId> = own.map(|(_, id)| id).collect();
            for id in there.keys().filter(|id| !own.contains(id)) {
                self.withdraw_lost(network, id)?;
            }
            for id in &own {
                let known = self.local.own_record(network, id)?.and_then(|own| own.record);
                if known.as_ref() != there.get(id) {
                    self.owe_again(network, id)?;
                }
            }
            Ok(())
        };
        if let Err(error) = audited() {
            tracing::warn!(%error, "this host's endpoints were not compared with the cluster's");
        }
        self.owed.notify_one();
    }

    /// Something new is owed for an endpoint.
    fn say(&self, network: &NetworkId, endpoint: &EndpointId, own: &OwnRecord) {
        let said = Said { own: own.clone(), last: self.now() };
        lock(&self.state).owing.insert((network.clone(), endpoint.clone()), said);
    }

    /// Tells what is owed, for ever.
    pub(crate) async fn keep_published(self: Arc<Self>) {
        let mut pauses = Pauses::new();
        self.wait_until_joined().await;
        loop {
            let owed = self.owed.notified();
            match self.tell_owed().await {
                Ok(true) => {
                    pauses.reset();
                    owed.await;
                }
                Ok(false) => pauses.wait().await,
                Err(error) => {
                    tracing::debug!(%error, "endpoints are not told to the cluster");
                    pauses.wait().await;
                }
            }
        }
    }

    /// Tells what is owed now; whether nothing is left that has to be tried again.
    async fn tell_owed(&self) -> Result<bool, StoreError> {
        let owed = self.owed_now()?;
        if owed.is_empty() {
            return Ok(true);
        }
        self.check_trust()?;
        // What is gone first: its addresses may have other owners already.
        let (published, withdrawn): (Vec<_>, Vec<_>) =
            owed.into_iter().partition(|owed| owed.own.record.is_some());
        let mut whole = true;
        for part in withdrawn.chunks(BATCH).chain(published.chunks(BATCH)) {
            match self.tell(part).await {
                Ok(true) => continue,
                // One of them is in the way of the others.
                Ok(false) | Err(StoreError::Refused(_)) => {}
                Err(error) => return Err(error),
            }
            for one in part {
                whole &= self.tell_one(one).await?;
            }
        }
        self.refill.notify_one();
        self.told(&Delta { status: true, ..Delta::default() });
        Ok(whole)
    }

    fn owed_now(&self) -> Result<Vec<Owed>, StoreError> {
        let mut all = Vec::new();
        let owed = self.local.owed().map_err(kept)?;
        self.drop_what_came_to_nothing(&owed.iter().cloned().collect());
        for (network, endpoint) in owed {
            match self.local.own_record(&network, &endpoint).map_err(kept)? {
                Some(own) => all.push(Owed { network, endpoint, own }),
                None => self.local.forget_owed(&network, &endpoint).map_err(kept)?,
            }
        }
        Ok(all)
    }

    /// What was said and came to nothing is not owed; what is being committed still is.
    pub(crate) fn drop_what_came_to_nothing(&self, owed: &BTreeSet<(NetworkId, EndpointId)>) {
        let until = self.now().saturating_sub(COMMITTED);
        lock(&self.state).owing.retain(|key, said| owed.contains(key) || said.last > until);
    }

    /// Tells of some endpoints in one transaction; whether it happened.
    async fn tell(&self, owed: &[Owed]) -> Result<bool, StoreError> {
        let mut when = BTreeSet::new();
        // Of two endpoints that had one address, it is written once: whose it is now.
        let (mut then, mut holdings) = (Vec::new(), BTreeMap::new());
        for one in owed {
            let key = self.keys.endpoint(&one.network, &one.endpoint);
            match &one.own.record {
                Some(record) => {
                    // A host that was removed tells nothing any more.
                    when.insert(self.keys.node(&self.node));
                    when.insert(self.keys.network(&one.network));
                    then.push(Write::put(key, write(record)));
                }
                None => then.push(Write::Delete(key)),
            }
            let own = self.holdings(one).into_iter();
            holdings.extend(own.map(|own| ((own.network.clone(), own.address), own)));
        }
        let mut when: Vec<_> = when.into_iter().map(Compare::Present).collect();
        for holding in holdings.values() {
            let key = self.keys.address(&holding.network, holding.address);
            when.push(match &holding.before {
                Some(before) => Compare::Is(key.clone(), before.clone()),
                None => Compare::Absent(key.clone()),
            });
            then.push(Write::put(key, holding.after.clone()));
        }
        let Some(at) = self.done_at(when, then).await? else { return Ok(false) };
        for holding in holdings.into_values() {
            let (address, holder) = (holding.address, holding.holder);
            self.note_own(&holding.network, &[(address, holding.after, holder)], at)?;
        }
        for one in owed {
            self.settle(one)?;
        }
        Ok(true)
    }

    /// What becomes of an endpoint's addresses: they are whose they are now. Those that a withdrawn
    /// one had and this host has not are not its business.
    fn holdings(&self, owed: &Owed) -> Vec<Holding> {
        let state = lock(&self.state);
        let all = state.addresses.get(&owed.network);
        let holding = |address: &IpAddr| {
            let mine = all.and_then(|all| all.mine().get(address));
            let (before, holder) = match (mine, &owed.own.record) {
                (Some(mine), _) => (mine.record.clone(), mine.holder.owner().map(str::to_owned)),
                (None, Some(record)) => (Vec::new(), Some(record.container.clone())),
                (None, None) => return None,
            };
            Some(Holding {
                network: owed.network.clone(),
                address: *address,
                before: (!before.is_empty()).then_some(before),
                after: self.address_record(holder.as_deref(), mine.is_some_and(|mine| mine.wished)),
                holder,
            })
        };
        owed.own.addresses.iter().filter_map(holding).collect()
    }

    /// What was told is not owed any more, unless something else was said meanwhile.
    fn settle(&self, owed: &Owed) -> Result<(), StoreError> {
        let key = (owed.network.clone(), owed.endpoint.clone());
        lock(&self.state).unpublished.remove(&key);
        if !self.local.settle(&owed.network, &owed.endpoint, &owed.own).map_err(kept)? {
            self.owed.notify_one();
            return Ok(());
        }
        let mut state = lock(&self.state);
        // What is the same as what was told is told, however often it was said.
        if state.owing.get(&key).is_some_and(|said| said.own == owed.own) {
            state.owing.remove(&key);
        }
        Ok(())
    }

    /// Tells of one endpoint by itself, after a look at why that was refused; whether it need not be tried
    /// again soon.
    async fn tell_one(&self, owed: &Owed) -> Result<bool, StoreError> {
        for _ in 0..TRIES {
            let refusal = match self.tell(std::slice::from_ref(owed)).await {
                Ok(true) => return Ok(true),
                Ok(false) => self.find_obstacle(owed).await?,
                Err(StoreError::Refused(why)) => Some(why),
                Err(error) => return Err(error),
            };
            if let Some(why) = refusal {
                let key = (owed.network.clone(), owed.endpoint.clone());
                let changed = lock(&self.state).unpublished.insert(key, why.clone());
                if changed.as_ref() != Some(&why) {
                    tracing::warn!(endpoint = owed.endpoint.short(), why, "cannot be published");
                }
                return Ok(false);
            }
        }
        Ok(false)
    }

    /// Why an endpoint cannot be told of; nothing if that may have changed with the look.
    async fn find_obstacle(&self, owed: &Owed) -> Result<Option<String>, StoreError> {
        if self.entry(&self.keys.node(&self.node)).await?.is_none() {
            return Ok(Some("this host was removed from its cluster".to_owned()));
        }
        let network = self.entry(&self.keys.network(&owed.network)).await?;
        if network.is_none() && owed.own.record.is_some() {
            return Ok(Some("its network was removed from the cluster".to_owned()));
        }
        for address in &owed.own.addresses {
            let key = self.keys.address(&owed.network, *address);
            let (found, at) = self.entry_at(&key).await?;
            let record = found.as_ref().and_then(|e| read::<AddressRecord>(&e.value).ok());
            match (found, record) {
                (Some(entry), Some(record)) if record.node == self.node => {
                    let own = [(*address, entry.value, record.holder)];
                    self.note_own(&owed.network, &own, at)?;
                }
                (Some(_), record) if owed.own.record.is_some() => {
                    let node = record.map(|record| record.node).unwrap_or_default();
                    let host = self.host_name(&node);
                    return Ok(Some(format!(
                        "its address {address} was given to host {host}: restart the container"
                    )));
                }
                (None, _) if owed.own.record.is_some() => {
                    // It is claimed with the endpoint.
                    self.unrecord(&owed.network, *address);
                }
                // Somebody else's by now, or nobody's.
                (Some(_) | None, _) => self.lose(&owed.network, *address)?,
            }
        }
        Ok(None)
    }

    /// The store does not know an address to be anybody's.
    fn unrecord(&self, network: &NetworkId, address: IpAddr) {
        if let Some(all) = lock(&self.state).addresses.get_mut(network) {
            all.unrecord(address);
        }
    }

    fn lose(&self, network: &NetworkId, address: IpAddr) -> Result<(), StoreError> {
        if let Some(all) = lock(&self.state).addresses.get_mut(network) {
            all.disown(address);
        }
        self.local.write_addresses(network, &[(address, None)]).map_err(kept)
    }
}
