//! Addresses: out of what this host has already, or asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use cnm::NetworkId;
use engine_error::{Error, Kind, Result};
use ipnetwork::IpNetwork;
use tokio::time::Instant;

use crate::addresses::Addresses;
use crate::cluster::{Cluster, State};
use crate::record::{AddressRecord, VERSION, read, write};
use crate::restore::kept;
use crate::store::{Compare, Revision, Snapshot, StoreError, Write};
use crate::view::lock;

/// How long an address that somebody had wished for may take to be everybody's again.
const GIVING_BACK: Duration = Duration::from_secs(2);

/// How long a claim waits for others.
const PAUSE: Duration = Duration::from_millis(50);

/// How often a claim that lost a race is tried again.
const TRIES: usize = 16;

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
        let families: Vec<_> = addresses.families().collect();
        let mut claimed = Vec::new();
        for ipv6 in families {
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
        let until = Instant::now() + GIVING_BACK;
        let mut tries = 0;
        while tries < TRIES || Instant::now() < until {
            if let Some(claimed) = self.claim_spares(network, owner, wanted)? {
                return Ok(claimed);
            }
            if tries > 1 {
                tokio::time::sleep(PAUSE).await;
            }
            tries += 1;
            let families: Vec<_> = {
                let mut state = lock(&self.state);
                self.addresses_of(&mut state, network)?.families().collect()
            };
            for ipv6 in families {
                match wanted.iter().find(|wanted| wanted.is_ipv6() == ipv6) {
                    Some(wanted) => self.obtain(network, owner, *wanted, until).await?,
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
    async fn obtain(
        &self,
        network: &NetworkId,
        owner: &str,
        address: IpAddr,
        until: Instant,
    ) -> Result<()> {
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
        let record = self.address_record(Some(owner), true);
        let when = vec![Compare::Absent(key.clone()), Compare::Present(self.keys.network(network))];
        let done = self.done_at(when, vec![Write::put(key.clone(), record.clone())]).await;
        let done = self.sure(network, done);
        let error = |error: StoreError| {
            let kind = cnm::HasKind::kind(&error);
            Error::caused(kind, format!("cannot claim address {address} in the cluster"), error)
        };
        if let Ok(Some(at)) = done {
            return Ok(self.note_own(network, &[(address, record, Some(owner.to_owned()))], at)?);
        }
        if let Err(failed) = done
            && !matches!(failed, StoreError::Unknown(_))
        {
            return Err(error(failed));
        }
        let (found, at) = self.entry_at(&key).await.map_err(error)?;
        let Some(entry) = found else { return Ok(()) };
        match read::<AddressRecord>(&entry.value).ok() {
            Some(found) if found.node == self.node => {
                Ok(self.note_own(network, &[(address, entry.value, found.holder)], at)?)
            }
            // It may be on its way back; sooner if nobody has it any more.
            Some(found) if Instant::now() + waiting(&found) < until => Ok(()),
            found => {
                let host = found.map(|found| self.host_name(&found.node)).unwrap_or_default();
                let mut state = lock(&self.state);
                let all = self.addresses_of(&mut state, network)?;
                Err(all.taken(address, &format!("is claimed by host {host}")).into())
            }
        }
    }

    /// Neither the network nor this host was removed.
    fn when_there(&self, network: &NetworkId) -> Vec<Compare> {
        let keys = [self.keys.network(network), self.keys.node(&self.node)];
        keys.into_iter().map(Compare::Present).collect()
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
    pub(crate) async fn claim_more(
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
                taken = self.look_at_claims(network).await?.taken;
                continue;
            }
            let record = self.address_record(None, false);
            let key = |address: &IpAddr| self.keys.address(network, *address);
            let mut when = self.when_there(network);
            when.extend(candidates.iter().map(|address| Compare::Absent(key(address))));
            let put = |address| Write::put(key(address), record.clone());
            let then = candidates.iter().map(put).collect();
            if let Some(at) = self.sure(network, self.done_at(when, then).await)? {
                let own: Vec<_> =
                    candidates.iter().map(|address| (*address, record.clone(), None)).collect();
                self.note_own(network, &own, at)?;
                return Ok(own.len());
            }
            if attempt > 2 {
                count = (count / 2).max(1);
            }
            taken = self.look_at_claims(network).await?.taken;
        }
        Ok(0)
    }

    /// What of a network's addresses is somebody's. Those of this host that it does not know are taken
    /// in: a reply was lost.
    pub(crate) async fn look_at_claims(&self, network: &NetworkId) -> Result<Claims, StoreError> {
        let prefix = self.keys.addresses(network);
        let mut taken = BTreeSet::new();
        let mut own = Vec::new();
        let Snapshot { revision, entries, .. } = self.store.range(&prefix).await?;
        for entry in entries {
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
        self.note_own(network, &own, revision)?;
        let own = own.into_iter().map(|(address, _, holder)| (address, holder)).collect();
        Ok(Claims { revision, taken, own })
    }

    /// Notes what was this host's at a revision, here and in its own store, unless something newer is
    /// known.
    pub(crate) fn note_own(
        &self,
        network: &NetworkId,
        own: &[(IpAddr, Vec<u8>, Option<String>)],
        at: Revision,
    ) -> Result<(), StoreError> {
        let new: Vec<_> = {
            let mut state = lock(&self.state);
            let all = self.addresses_of(&mut state, network).ok();
            let old = |address| all.as_ref().is_some_and(|all| all.knows_better(address, at));
            own.iter().filter(|(address, ..)| !old(*address)).collect()
        };
        let written: Vec<_> =
            new.iter().map(|(address, record, _)| (*address, Some(record.clone()))).collect();
        let kept_here = self.local.write_addresses(network, &written).map_err(kept);
        // The store has them for this host all the same.
        kept_here.inspect_err(|_| self.doubt(network))?;
        let mut state = lock(&self.state);
        let Ok(all) = self.addresses_of(&mut state, network) else { return Ok(()) };
        for (address, record, holder) in new {
            all.own(*address, record.clone(), holder.clone(), at);
        }
        Ok(())
    }

    /// What became of a transaction about a network. If nobody knows, what the store has for this host
    /// there is looked at.
    pub(crate) fn sure<T>(
        &self,
        network: &NetworkId,
        done: Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        if let Err(StoreError::Unknown(_)) = done {
            self.doubt(network);
        }
        done
    }

    /// A claim came to nothing: the addresses are as they were before it.
    pub fn unclaim(&self, network: &NetworkId, addresses: &[IpAddr]) {
        let now = self.now();
        if let Some(all) = lock(&self.state).addresses.get_mut(network) {
            for address in addresses {
                all.unclaim(*address, now);
            }
        }
        // The store may have been told whose they would be.
        self.refill.notify_one();
    }

    /// An owner will not come back: nothing is kept for it any more.
    pub fn forget(&self, network: &NetworkId, owner: &str) {
        let now = self.now();
        if let Some(all) = lock(&self.state).addresses.get_mut(network) {
            all.forget(|other| other == owner, now);
        }
        self.refill.notify_one();
    }

    /// What is kept for owners that are not there any more is kept for nobody: that one had an address
    /// may be heard after its end.
    pub fn keep_for(&self, owners: &BTreeSet<String>) {
        let now = self.now();
        let mut state = lock(&self.state);
        if !state.reconciled {
            return;
        }
        state.owners.clone_from(owners);
        let all = state.addresses.values_mut();
        let freed: usize =
            all.map(|all| all.forget(|owner| !owners.contains(owner), now).len()).sum();
        drop(state);
        if freed > 0 {
            self.refill.notify_one();
        }
    }

    pub(crate) fn host_name(&self, node: &str) -> String {
        let view = self.view();
        view.nodes.get(node).map_or_else(|| node.to_owned(), |node| node.record.name.clone())
    }

    pub(crate) fn address_record(&self, holder: Option<&str>, wished: bool) -> Vec<u8> {
        write(&AddressRecord {
            version: VERSION,
            node: self.node.clone(),
            epoch: self.epoch,
            holder: holder.map(str::to_owned),
            wished,
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
        if !state.addresses.contains_key(network) {
            let mut all = Addresses::new(&record.name, &record.pools, number);
            for (address, owner) in state.living.remove(network).unwrap_or_default() {
                all.adopt(address, &owner);
            }
            state.addresses.insert(network.clone(), all);
        }
        state.addresses.get_mut(network).ok_or_else(missing)
    }
}

/// What of a network's addresses is somebody's.
#[derive(Debug)]
pub(crate) struct Claims {
    /// When that was so.
    pub(crate) revision: Revision,
    /// All of them.
    taken: BTreeSet<IpAddr>,
    /// Those of this host, and who has them.
    pub(crate) own: BTreeMap<IpAddr, Option<String>>,
}

/// How much sooner than all that one is waited for ends the wait for an address.
fn waiting(found: &AddressRecord) -> Duration {
    if found.holder.is_some() { GIVING_BACK * 3 / 4 } else { Duration::ZERO }
}

fn used_by(owner: &str) -> String {
    format!("is in use by container {owner:.12} on this host")
}
