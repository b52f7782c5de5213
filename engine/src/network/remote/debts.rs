//! Giving back what plugins hold for us and the model has no use for.

use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use cnm::store::{Batch, Durability};
use cnm::{EndpointId, NetworkId};

use super::super::Networks;
use super::super::claims::Claimed;
use super::ledger::{EndpointEntry, endpoint_key, network_key};
use crate::plugins::network::At;
use crate::plugins::{CallError, Plugin, Trade};
use engine_error::{Error, Result};

/// The pause before what is owed is tried again for the first time; the next ones are longer.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

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
        self.have_decided(&claimed);
        self.give_back(&claimed.asked);
    }

    /// What plugins were asked for is the model's now, or nobody's.
    pub(in super::super) fn have_decided(&self, claimed: &Claimed) {
        let mut ledger = self.remote.ledger();
        for id in &claimed.asked {
            ledger.asking.remove(id);
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
            Some((format!("endpoint {}", id.short()), entry.driver.clone()))
        });
        let networks = networks.iter().filter_map(|id| {
            let entry = ledger.networks.get(id)?;
            Some((format!("network {}", id.short()), entry.driver.clone()))
        });
        endpoints.chain(networks).collect()
    }

    /// Gives back what is owed, as far as that goes; tells whether that was all.
    pub(crate) fn pay_plugins(&self) -> bool {
        let (endpoints, networks) = self.debts();
        let paid =
            endpoints.iter().map(|id| self.pay_endpoint(id)).fold(true, |all, one| all && one);
        networks
            .iter()
            .map(|id| self.pay_network(id, Use::Respected))
            .fold(paid, |all, one| all && one)
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
            let endpoints = ledger.endpoints.keys().filter(|id| !ledger.asking.contains(*id));
            (endpoints.cloned().collect(), ledger.networks.keys().cloned().collect())
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
            let free = !ledger.asking.contains(id);
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
        let Some(plugin) = self.creditor(&entry.driver) else { return false };
        let at = At { network: &entry.network, endpoint: id };
        let calls: [(bool, &dyn Fn() -> Result<(), CallError>); 3] = [
            (entry.external, &|| plugin.revoke(&at)),
            (entry.joined, &|| plugin.leave(&at)),
            (entry.created, &|| plugin.delete_endpoint(&at)),
        ];
        calls
            .iter()
            .filter(|(due, _)| *due)
            .all(|(_, call)| is_settled(&plugin, id.short(), call()))
    }

    fn pay_network(&self, id: &NetworkId, of: Use) -> bool {
        let key = network_key(id);
        let entry = self.begin_to_pay(&key, |ledger| ledger.networks.get(id).cloned());
        let Some(entry) = entry else { return true };
        let of_use = of == Use::Respected && self.controller().has_network(id);
        let paid = !of_use
            && self
                .creditor(&entry.driver)
                .is_some_and(|plugin| is_settled(&plugin, id.short(), plugin.delete_network(id)));
        let mut ledger = self.remote.ledger();
        ledger.paying.remove(&key);
        if paid {
            ledger.networks.remove(id);
            drop(ledger);
            self.strike(key);
        }
        paid || of_use
    }

    /// Nothing of a network is to be given back.
    pub(super) fn forget_network(&self, id: &NetworkId) {
        self.remote.ledger().networks.remove(id);
        self.strike(network_key(id));
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

    fn creditor(&self, name: &str) -> Option<Arc<Plugin>> {
        let found = self.remote.plugins.find(name, Trade::Network);
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
