//! Giving back what plugins hold for us and the model has no use for.

use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use cnm::store::{Batch, Durability};
use cnm::{EndpointId, NetworkId};

use super::super::Networks;
use super::super::claims::Claimed;
use super::ledger::{Address, EndpointEntry, NetworkEntry, PoolEntry, endpoint_key, network_key};
use crate::plugins::network::At;
use crate::plugins::{CallError, Plugin, Trade};
use engine_error::{Error, Result};

/// The pause before what is owed is tried again for the first time; the next ones are longer.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A call that is to be made if something is due.
type Call<'a> = &'a dyn Fn() -> Result<(), CallError>;

/// What to do with what the model has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Respected,
    Ended,
}

impl Networks {
    /// Gives back what was claimed for a change that is not decided.
    pub(in super::super) fn forgo(&self, mut claimed: Claimed) {
        claimed.let_go(&mut self.controller());
        self.take_back(&claimed);
        self.have_decided(&claimed);
        self.give_back(&claimed.asked);
    }

    /// What plugins were asked for is the model's now, or nobody's.
    pub(in super::super) fn have_decided(&self, claimed: &Claimed) {
        let mut ledger = self.remote.ledger();
        for id in &claimed.asked {
            ledger.asking.remove(&endpoint_key(id));
        }
    }

    /// Gives back those of some endpoints that plugins made and that the model does not have. What cannot
    /// be given back is owed.
    pub(in super::super) fn give_back<'a>(&self, ids: impl IntoIterator<Item = &'a EndpointId>) {
        for id in ids {
            if !self.pay_endpoint(id) {
                self.ring();
            }
        }
    }

    /// The same of a network.
    pub(in super::super) fn give_back_network(&self, id: &NetworkId) {
        if !self.pay_network(id, Use::Respected) {
            self.ring();
        }
    }

    /// What is to be given back, each with its plugin.
    pub(crate) fn owed_to_plugins(&self) -> Vec<(String, String)> {
        let (endpoints, networks) = self.debts();
        let ledger = self.remote.ledger();
        let endpoints = endpoints.iter().filter_map(|id| {
            let entry = ledger.endpoints.get(id)?;
            Some((format!("endpoint {}", id.short()), entry.creditors()))
        });
        let networks = networks.iter().filter_map(|id| {
            let entry = ledger.networks.get(id)?;
            Some((format!("network {}", id.short()), entry.creditors()))
        });
        endpoints.chain(networks).collect()
    }

    /// Gives back what is owed, as far as that goes; tells whether that was all.
    pub(crate) fn pay_plugins(&self) -> bool {
        let (endpoints, networks) = self.debts();
        let mut paid = true;
        // One that cannot be given back is no reason to keep the others.
        for id in &endpoints {
            paid &= self.pay_endpoint(id);
        }
        for id in &networks {
            paid &= self.pay_network(id, Use::Respected);
        }
        paid
    }

    /// Gives back all networks that plugins made, for nothing is to be left.
    pub(crate) fn part_with_plugins(&self) {
        let networks: Vec<_> = self.remote.ledger().networks.keys().cloned().collect();
        for id in networks {
            self.pay_network(&id, Use::Ended);
        }
        self.pay_plugins();
    }

    /// Gives back what is owed to plugins as soon as that is possible, for as long as the networks are
    /// used.
    pub(crate) fn keep_paying_plugins(self: &Arc<Self>) -> Result<()> {
        let ears = self.remote.ears.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(ears) = ears else { return Ok(()) };
        let networks = Arc::downgrade(self);
        std::thread::Builder::new()
            .name("plugins".to_owned())
            .spawn(move || {
                let mut pause = FIRST_PAUSE;
                loop {
                    let Some(networks) = networks.upgrade() else { return };
                    let paid = networks.pay_plugins();
                    drop(networks);
                    pause = if paid { FIRST_PAUSE } else { (pause * 2).min(LONGEST_PAUSE) };
                    // With nothing owed it is for the bell to tell when something is.
                    let rest = if paid { LONGEST_PAUSE } else { pause };
                    if ears.recv_timeout(rest) == Err(RecvTimeoutError::Disconnected) {
                        return;
                    }
                    while ears.try_recv().is_ok() {}
                }
            })
            .map_err(|error| Error::internal("cannot start to give back to plugins", error))?;
        Ok(())
    }

    fn ring(&self) {
        // Where nobody listens yet, all is looked through when somebody does.
        let _ = self.remote.bell.send(());
    }

    /// What the ledger has and the model has not.
    fn debts(&self) -> (Vec<EndpointId>, Vec<NetworkId>) {
        let (mut endpoints, mut networks): (Vec<EndpointId>, Vec<NetworkId>) = {
            let ledger = self.remote.ledger();
            let endpoints = ledger.endpoints.keys();
            let endpoints = endpoints.filter(|id| !ledger.asking.contains(&endpoint_key(id)));
            let networks = ledger.networks.keys();
            let networks = networks.filter(|id| !ledger.asking.contains(&network_key(id)));
            (endpoints.cloned().collect(), networks.cloned().collect())
        };
        if !endpoints.is_empty() || !networks.is_empty() {
            let model = self.controller();
            endpoints.retain(|id| !model.has_endpoint(id));
            networks.retain(|id| !model.has_network(id));
        }
        (endpoints, networks)
    }

    /// Gives an endpoint back, unless it is of use; tells whether nothing is owed of it.
    fn pay_endpoint(&self, id: &EndpointId) -> bool {
        let key = endpoint_key(id);
        let Some(entry) = self.begin_to_pay(&key, |ledger| {
            let free = !ledger.asking.contains(&key);
            ledger.endpoints.get(id).filter(|_| free).cloned()
        }) else {
            return true;
        };
        // Looked at when nobody is asking any more: it may have become the model's.
        let paid = !self.controller().has_endpoint(id) && self.return_endpoint(id, &entry);
        let of_use = !paid && self.controller().has_endpoint(id);
        let mut ledger = self.remote.ledger();
        ledger.paying.remove(&key);
        if paid {
            ledger.endpoints.remove(id);
            drop(ledger);
            self.strike(key);
        }
        paid || of_use
    }

    /// Calls that fail are no reason not to go on, if the plugin says so itself.
    fn return_endpoint(&self, id: &EndpointId, entry: &EndpointEntry) -> bool {
        if let Some(driver) = entry.driver.as_ref().filter(|_| entry.created || entry.joined) {
            let Some(plugin) = self.creditor(driver, Trade::Network) else { return false };
            let at = At { network: &entry.network, endpoint: id };
            let calls: [(bool, Call<'_>); 3] = [
                (entry.external, &|| plugin.revoke(&at)),
                (entry.joined, &|| plugin.leave(&at)),
                (entry.created, &|| plugin.delete_endpoint(&at)),
            ];
            let due = calls.iter().filter(|(due, _)| *due);
            if !due.into_iter().all(|(_, call)| is_settled(&plugin, id.short(), call())) {
                return false;
            }
            if let Some(entry) = self.remote.ledger().endpoints.get_mut(id) {
                (entry.created, entry.joined, entry.external) = Default::default();
            }
        }
        let Some(ipam) = entry.ipam.as_ref().filter(|_| !entry.addresses.is_empty()) else {
            return true;
        };
        let Some(plugin) = self.creditor(ipam, Trade::Ipam) else { return false };
        let released = |address: &Address| plugin.release_address(&address.pool, address.address);
        entry.addresses.iter().all(|address| is_settled(&plugin, id.short(), released(address)))
    }

    /// Docker gives the pools back first, too.
    fn return_network(&self, id: &NetworkId, entry: &NetworkEntry) -> bool {
        if let Some(ipam) = entry.ipam.as_ref().filter(|_| !entry.pools.is_empty()) {
            let Some(plugin) = self.creditor(ipam, Trade::Ipam) else { return false };
            for PoolEntry { pool, addresses } in &entry.pools {
                let addresses = addresses.iter().map(|ip| plugin.release_address(pool, *ip));
                let mut calls = addresses.chain(std::iter::once_with(|| plugin.release_pool(pool)));
                if !calls.all(|answer| is_settled(&plugin, id.short(), answer)) {
                    return false;
                }
            }
            if let Some(entry) = self.remote.ledger().networks.get_mut(id) {
                entry.pools.clear();
            }
        }
        let Some(driver) = &entry.driver else { return true };
        self.creditor(driver, Trade::Network)
            .is_some_and(|plugin| is_settled(&plugin, id.short(), plugin.delete_network(id)))
    }

    fn pay_network(&self, id: &NetworkId, of: Use) -> bool {
        let key = network_key(id);
        let entry = self.begin_to_pay(&key, |ledger| {
            let free = !ledger.asking.contains(&key);
            ledger.networks.get(id).filter(|_| free).cloned()
        });
        let Some(entry) = entry else { return true };
        let of_use = of == Use::Respected && self.controller().has_network(id);
        let paid = !of_use && self.return_network(id, &entry);
        let mut ledger = self.remote.ledger();
        ledger.paying.remove(&key);
        if paid {
            ledger.networks.remove(id);
            drop(ledger);
            self.strike(key);
        }
        paid || of_use
    }

    /// Nobody else gives the same back meanwhile.
    fn begin_to_pay<T>(
        &self,
        key: &str,
        entry: impl FnOnce(&super::Ledger) -> Option<T>,
    ) -> Option<T> {
        let mut ledger = self.remote.ledger();
        if ledger.paying.contains(key) {
            return None;
        }
        let entry = entry(&ledger)?;
        ledger.paying.insert(key.to_owned());
        Some(entry)
    }

    fn creditor(&self, name: &str, trade: Trade) -> Option<Arc<Plugin>> {
        let found = match trade {
            Trade::Network | Trade::Volume => self.remote.plugins.find(name, trade),
            Trade::Ipam => self.ipam_plugin(name),
        };
        let told = |error: &Error| {
            tracing::debug!(
                plugin = name,
                error = error.chain(),
                "it cannot have back what it holds"
            );
        };
        found.inspect_err(told).ok()
    }

    fn strike(&self, key: String) {
        let mut record = Batch::default();
        record.delete(key);
        self.note(|_| Batch::default(), record, Durability::Eventual);
    }
}

/// Whether there is no more to be done about what a plugin was to take back.
fn is_settled(plugin: &Plugin, id: &str, answer: Result<(), CallError>) -> bool {
    match answer {
        Ok(()) => true,
        Err(CallError::Refused(said)) => {
            tracing::warn!(plugin = plugin.name(), id, said, "it does not take back what it made");
            true
        }
        Err(CallError::Lost(error)) => {
            tracing::warn!(plugin = plugin.name(), id, error = error.chain(), "it is owed this");
            false
        }
    }
}
