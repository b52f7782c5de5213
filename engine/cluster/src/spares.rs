//! Spares: addresses that are claimed ahead in the store, so that a start asks nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use cnm::NetworkId;

use crate::addresses::{Addresses, Holder, LOW};
use crate::cluster::Cluster;
use crate::follow::Pauses;
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
        let mut known = BTreeSet::new();
        let mut generation = None;
        loop {
            let refill = self.refill.notified();
            // What a store that lost data has is looked at anew.
            let now = Some(lock(&self.me).generation);
            if generation != now {
                known.clear();
                generation = now;
            }
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
        self.drop_what_came_to_nothing(&self.local.owed().map_err(kept)?.into_iter().collect());
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
            if let Err(error) = self.give_back(network, view.nodes.len()).await {
                // Nobody knows what of it the store has done: nobody here gets these addresses
                // before it has been asked.
                known.remove(network);
                return Err(error);
            }
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
        let gone = {
            let addresses = &mut lock(&self.state).addresses;
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

    /// Takes in what the store says is this host's, and forgets what it does not.
    async fn recount(&self, network: &NetworkId) -> Result<(), StoreError> {
        let (_, ours) = self.look_at_claims(network).await?;
        let remembered: Vec<IpAddr> = {
            let state = lock(&self.state);
            let all = state.addresses.get(network);
            all.into_iter().flat_map(|all| all.mine().keys().copied()).collect()
        };
        for address in remembered.into_iter().filter(|address| !ours.contains(address)) {
            self.disown_unused(network, address)?;
        }
        Ok(())
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

    /// Writes who has an address where the store has somebody else.
    async fn tell_holders(&self, network: &NetworkId) -> Result<(), StoreError> {
        let changed: Vec<(IpAddr, Vec<u8>, Option<String>, bool)> = {
            let state = lock(&self.state);
            // Before it is known who lives here, nobody is taken for gone; and what is owed for
            // endpoints says it itself.
            if !state.reconciled || state.owing.keys().any(|(of, _)| of == network) {
                return Ok(());
            }
            let all = state.addresses.get(network).into_iter().flat_map(Addresses::mine);
            let unused = all.filter(|(_, mine)| !matches!(mine.holder, Holder::Used { .. }));
            let differs = unused.filter_map(|(address, mine)| {
                let told = read::<AddressRecord>(&mine.record).ok()?;
                let holder = mine.holder.owner().map(str::to_owned);
                (told.holder != holder)
                    .then(|| (*address, mine.record.clone(), holder, mine.wished))
            });
            differs.collect()
        };
        for (address, before, holder, wished) in changed {
            let key = self.keys.address(network, address);
            let record = self.address_record(holder.as_deref(), wished);
            let when = vec![Compare::Is(key.clone(), before)];
            if self.done(when, vec![Write::put(key, record.clone())]).await? {
                self.note_own(network, &[(address, record, holder)])?;
            } else {
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
            // What is withdrawn is somebody's until the others know that.
            if state.owing.keys().any(|(of, _)| of == network) {
                return Ok(());
            }
            let Some(all) = state.addresses.get_mut(network) else { return Ok(()) };
            for ipv6 in all.families().collect::<Vec<_>>() {
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
            let gone = part.iter().map(|(address, _)| *address);
            self.local.forget_addresses(network, gone).map_err(kept)?;
            if !self.done(when, then).await? {
                self.recount(network).await?;
            }
        }
        Ok(())
    }
}
