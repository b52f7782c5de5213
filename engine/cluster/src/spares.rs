//! Spares: addresses that are claimed ahead in the store, so that a start asks nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use cnm::NetworkId;
use engine_error::Result;

use crate::addresses::{Addresses, Holder, LOW, Mine};
use crate::cluster::{Cluster, Look};
use crate::follow::Pauses;
use crate::knowledge::Part;
use crate::local::OwnRecord;
use crate::record::{AddressRecord, read};
use crate::restore::kept;
use crate::store::{Compare, StoreError, Write};
use crate::view::lock;

/// An address that somebody had so recently is not given to another host.
const QUARANTINE: Duration = Duration::from_secs(60);

/// How often it is looked whether there are too many or too few.
const ROUND: Duration = Duration::from_secs(60);

impl Cluster {
    /// Sees to it that there are enough addresses and not too many, and that the store knows whose they are.
    pub(crate) async fn keep_addresses(self: Arc<Self>) {
        let mut pauses = Pauses::new();
        self.wait_until_joined().await;
        let mut generation = None;
        loop {
            let refill = self.refill.notified();
            // What a store that lost data has is looked at anew.
            let now = Some(lock(&self.me).generation);
            if generation != now {
                lock(&self.state).looks.clear();
                generation = now;
            }
            let pause = match self.settle_addresses().await {
                Ok(true) => {
                    pauses.reset();
                    ROUND
                }
                // What could not be done shows soon whether it can.
                Ok(false) => pauses.next(),
                Err(error) => {
                    tracing::debug!(%error, "addresses are not claimed");
                    pauses.wait().await;
                    continue;
                }
            };
            // Whether something is to be done shows at the latest after a while.
            let _ = tokio::time::timeout(pause, refill).await;
        }
    }

    /// Does what is to be done; whether that was all.
    async fn settle_addresses(&self) -> Result<bool, StoreError> {
        self.check_trust()?;
        self.drop_what_came_to_nothing(&self.local.owed().map_err(kept)?.into_iter().collect());
        let view = self.view();
        if !view.complete || !lock(&self.state).reconciled {
            return Ok(false);
        }
        let mut whole = self.give_macs_back().await?;
        self.drop_networks(&view.networks.keys().cloned().collect())?;
        for network in view.networks.keys() {
            match self.settle_network(network, view.nodes.len()).await {
                Ok(done) => whole &= done,
                // The other networks do not wait for that.
                Err(StoreError::Refused(why)) => {
                    tracing::debug!(network = network.short(), why, "addresses are not claimed");
                    whole = false;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(whole)
    }

    async fn settle_network(&self, network: &NetworkId, hosts: usize) -> Result<bool, StoreError> {
        self.look(network).await?;
        self.refill(network, hosts).await?;
        let told = self.tell_holders(network).await?;
        self.owe_what_is_told_otherwise(network).map_err(kept)?;
        Ok(self.give_back(network, hosts).await? && told)
    }

    /// Looks at what the store has for this host, if that may be something else than it remembers.
    async fn look(&self, network: &NetworkId) -> Result<(), StoreError> {
        {
            let (now, mut state) = (self.now(), lock(&self.state));
            let look = state.looks.entry(network.clone()).or_insert(Look::Due);
            *look = match *look {
                // What is on its way may come after the look.
                Look::Due => Look::Again(now + milliseconds(ROUND)),
                Look::Again(at) if at <= now => Look::Done,
                Look::Again(_) | Look::Done => return Ok(()),
            };
        }
        let looked = self.recount(network).await;
        if looked.is_err() {
            self.doubt(network);
        }
        looked
    }

    /// The store may have something else for this host than it remembers.
    pub(crate) fn doubt(&self, network: &NetworkId) {
        lock(&self.state).looks.insert(network.clone(), Look::Due);
        self.refill.notify_one();
    }

    /// Addresses of networks that are gone are nobody's.
    fn drop_networks(&self, there: &BTreeSet<NetworkId>) -> Result<(), StoreError> {
        let gone = {
            let mut state = lock(&self.state);
            state.looks.retain(|network, _| there.contains(network));
            state.macs.retain(|(network, ..)| there.contains(network));
            let addresses = &mut state.addresses;
            let (kept, gone) = std::mem::take(addresses)
                .into_iter()
                .partition::<BTreeMap<_, _>, _>(|(network, _)| there.contains(network));
            *addresses = kept;
            gone
        };
        for (network, addresses) in gone {
            let all = addresses.mine().keys();
            let forgotten: Vec<_> = all.map(|address| (*address, None)).collect();
            self.local.write_addresses(&network, &forgotten).map_err(kept)?;
        }
        Ok(())
    }

    /// Takes in what the store says is this host's, and forgets what it does not. What is there of the past
    /// is withdrawn.
    async fn recount(&self, network: &NetworkId) -> Result<(), StoreError> {
        let found = self.look_at_claims(network).await?;
        let (remembered, ghosts) = {
            let state = lock(&self.state);
            let mine = state.addresses.get(network).into_iter().flat_map(Addresses::mine);
            // What was claimed since then is not among what was found.
            let known = mine.clone().filter(|(_, mine)| mine.seen <= found.revision);
            let remembered: Vec<IpAddr> = known.map(|(address, _)| *address).collect();
            let here: BTreeSet<&str> = mine.filter_map(|(_, mine)| mine.user()).collect();
            let mut told = found.own.values().flatten();
            (remembered, told.any(|holder| !here.contains(holder.as_str())))
        };
        for address in remembered.into_iter().filter(|ip| !found.own.contains_key(ip)) {
            self.disown_unused(network, address)?;
        }
        if ghosts {
            // There may be an endpoint with the address.
            let snapshot = self.store.range(&self.keys.endpoints(network)).await?;
            self.audit_own(&Part::Endpoints(network.clone()), &snapshot);
        }
        self.look_at_macs(network).await
    }

    /// An address is not this host's any more. If somebody uses it, its publishing finds out.
    fn disown_unused(&self, network: &NetworkId, address: IpAddr) -> Result<(), StoreError> {
        let disowned = {
            let mut state = lock(&self.state);
            let Some(all) = state.addresses.get_mut(network) else { return Ok(()) };
            let used =
                all.mine().get(&address).is_some_and(|m| matches!(m.holder, Holder::Used { .. }));
            !used && all.disown(address).is_some()
        };
        if disowned {
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

    /// Writes who has an address where the store has somebody else; whether that was all.
    async fn tell_holders(&self, network: &NetworkId) -> Result<bool, StoreError> {
        let (changed, mut whole) = {
            let state = lock(&self.state);
            let owed = state.owed_addresses(network);
            let all = state.addresses.get(network).into_iter().flat_map(Addresses::mine);
            let unused = all.filter(|(_, mine)| !matches!(mine.holder, Holder::Used { .. }));
            let differs = unused.filter_map(|(address, mine)| {
                let told = read::<AddressRecord>(&mine.record).ok()?;
                let holder = mine.holder.owner().map(str::to_owned);
                (told.holder != holder)
                    .then(|| (*address, mine.record.clone(), holder, mine.wished))
            });
            // What is owed for endpoints says it itself.
            let (later, now): (Vec<_>, Vec<_>) =
                differs.partition(|(address, ..)| owed.contains(address));
            (now, later.is_empty())
        };
        for (address, before, holder, wished) in changed {
            let key = self.keys.address(network, address);
            let record = self.address_record(holder.as_deref(), wished);
            let when = vec![Compare::Is(key.clone(), before)];
            let done = self.done_at(when, vec![Write::put(key, record.clone())]).await;
            if let Some(at) = self.sure(network, done)? {
                self.note_own(network, &[(address, record, holder)], at)?;
            } else {
                self.recount(network).await?;
                whole = false;
            }
        }
        Ok(whole)
    }

    /// An endpoint whose address the store has for somebody else, or for nobody, is told again.
    fn owe_what_is_told_otherwise(&self, network: &NetworkId) -> Result<()> {
        let wrong: BTreeSet<IpAddr> = {
            let state = lock(&self.state);
            let owed = state.owed_addresses(network);
            let all = state.addresses.get(network).into_iter().flat_map(Addresses::mine);
            let settled = all.filter(|(address, _)| !owed.contains(address));
            let wrong = settled.filter(|(_, mine)| {
                let told = read::<AddressRecord>(&mine.record).ok();
                let user = mine.user();
                user.is_some() && told.is_some_and(|told| told.holder.as_deref() != user)
            });
            wrong.map(|(address, _)| *address).collect()
        };
        if wrong.is_empty() {
            return Ok(());
        }
        let owed: BTreeSet<_> = self.local.owed()?.into_iter().collect();
        for (of, endpoint) in self.local.own()?.into_iter().filter(|one| !owed.contains(one)) {
            // A start that is under way has no endpoint yet.
            let own = self.local.own_record(&of, &endpoint)?.filter(|own| own.record.is_some());
            let has = |own: OwnRecord| own.addresses.iter().any(|ip| wrong.contains(ip));
            if of == *network && own.is_some_and(has) {
                self.owe_again(&of, &endpoint)?;
                self.owed.notify_one();
            }
        }
        Ok(())
    }

    /// Gives back what this host has too much of; whether that was all.
    async fn give_back(&self, network: &NetworkId, hosts: usize) -> Result<bool, StoreError> {
        let until = self.now().saturating_sub(milliseconds(QUARANTINE));
        let mut surplus = Vec::new();
        {
            let mut state = lock(&self.state);
            // What is withdrawn is somebody's until the others know that.
            let owed = state.owed_addresses(network);
            let Some(all) = state.addresses.get_mut(network) else { return Ok(true) };
            for ipv6 in all.families().collect::<Vec<_>>() {
                let too_many = all.surplus(ipv6, all.share(ipv6, hosts), until);
                for address in too_many.into_iter().filter(|address| !owed.contains(address)) {
                    // From here on nobody gets it.
                    surplus.extend(all.disown(address).map(|mine| (address, mine)));
                }
            }
        }
        let mut whole = true;
        for part in surplus.chunks(60) {
            let given = self.give_part_back(network, part).await;
            // What of it the store has done shows when it is looked at.
            whole &= given.inspect_err(|_| self.doubt(network))?;
        }
        Ok(whole)
    }

    async fn give_part_back(
        &self,
        network: &NetworkId,
        part: &[(IpAddr, Mine)],
    ) -> Result<bool, StoreError> {
        let key = |address: &IpAddr| self.keys.address(network, *address);
        let when = part.iter().map(|(a, mine)| Compare::Is(key(a), mine.record.clone())).collect();
        let then = part.iter().map(|(a, _)| Write::Delete(key(a))).collect();
        let (of, gone) = (network.clone(), part.iter().map(|(a, _)| *a).collect::<Vec<_>>());
        self.on_disk(move |local| local.forget_addresses(&of, gone.into_iter())).await?;
        let Some(at) = self.done_at(when, then).await? else {
            self.recount(network).await?;
            return Ok(false);
        };
        if let Some(all) = lock(&self.state).addresses.get_mut(network) {
            all.have_left(at);
        }
        Ok(true)
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
