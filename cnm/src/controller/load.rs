//! Reading the model from the store. What cannot be read, and what cannot be true without it, is set
//! aside; the rest of the model is there.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::intent::Live;
use super::{Controller, ControllerError, ULA_KEY};
use crate::ipam::Lease;
use crate::store::record::{Reading, set_aside_in};
use crate::{Endpoint, NetworkId, SandboxId, Store, record};

impl Controller {
    pub(super) fn read(&mut self, store: &dyn Store) -> Result<(), ControllerError> {
        let mut reading = Reading::new(store);
        self.read_networks(&mut reading)?;
        let used = self.read_leases(&mut reading)?;
        self.ula = reading.get_with(ULA_KEY, record::ula)?;
        self.read_sandboxes(&mut reading)?;
        self.read_intents(&mut reading)?;
        self.withhold(store, &reading, used)?;
        // No transaction gets the number of an intent that stays unread.
        let numbers = store.list("intent/")?.into_iter().filter_map(|(key, _)| number(&key));
        self.next = numbers.map(|number| number + 1).fold(self.next, u64::max);
        self.unreadable = reading.finish();
        Ok(())
    }

    fn read_networks(&mut self, reading: &mut Reading<'_>) -> Result<(), ControllerError> {
        let planner = Arc::clone(&self.planner);
        let read = |value: &[u8]| record::network(value, &*planner);
        for (key, network) in reading.list_with("network/", read)? {
            let network = Arc::new(network);
            if let Err(why) = self.plan_network(&network) {
                reading.reject(&key, why)?;
                continue;
            }
            self.taken.add(&network);
            self.insert_network(&network);
        }
        Ok(())
    }

    /// Gives back which addresses were in use.
    fn read_leases(&mut self, reading: &mut Reading<'_>) -> Result<Vec<Leased>, ControllerError> {
        let mut used = Vec::new();
        for (key, mut lease) in reading.list_with("lease/", record::lease)? {
            let Some((network, address)) = leased(&key) else {
                reading.reject(&key, "its key names no address")?;
                continue;
            };
            if lease.released.is_none() {
                used.push((network.clone(), address));
            }
            // Whether it is in use is for the endpoints to say.
            lease.released.get_or_insert(0);
            self.ipam.restore(&network, address, Some(lease));
        }
        Ok(used)
    }

    /// Withholds the addresses of which a record cannot be read, now or since an earlier start, and
    /// those that were in use, where the record of who uses them may be among those.
    fn withhold(
        &mut self,
        store: &dyn Store,
        reading: &Reading<'_>,
        used: Vec<Leased>,
    ) -> Result<(), ControllerError> {
        let earlier = set_aside_in(store)?;
        let keys = reading.unreadable().chain(earlier.iter().map(|record| record.key.as_str()));
        let keys: Vec<_> = keys.collect();
        for (network, address) in keys.iter().filter_map(|key| leased(key)) {
            self.ipam.withhold(&network, address);
        }
        let doubted = |key: &&str| USERS.iter().any(|prefix| key.starts_with(prefix));
        if keys.iter().any(doubted) {
            for (network, address) in used {
                let lease = self.ipam.lease(&network, address);
                if lease.is_some_and(|lease| lease.released.is_some()) {
                    self.ipam.keep_lost(&network, address);
                }
            }
        }
        Ok(())
    }

    fn read_sandboxes(&mut self, reading: &mut Reading<'_>) -> Result<(), ControllerError> {
        let mut endpoints: BTreeMap<SandboxId, Vec<Arc<Endpoint>>> = BTreeMap::new();
        for (key, endpoint) in reading.list_with("endpoint/", record::endpoint)? {
            if self.networks.contains_key(&endpoint.network) {
                let endpoint = Arc::new(endpoint);
                endpoints.entry(endpoint.sandbox.clone()).or_default().push(endpoint);
            } else {
                reading.reject(&key, format!("network {} is not there", endpoint.network))?;
            }
        }
        for (key, sandbox) in reading.list_with("sandbox/", record::sandbox)? {
            let of_it = endpoints.get(&sandbox.id).cloned().unwrap_or_default();
            let mut live = Live { sandbox: Arc::new(sandbox), endpoints: of_it };
            live.endpoints.sort_by_key(|endpoint| endpoint.order);
            if let Err(why) = self.plan_sandbox(&live) {
                reading.reject(&key, why)?;
                continue;
            }
            endpoints.remove(&live.sandbox.id);
            self.take_sandbox(live);
        }
        for endpoint in endpoints.into_values().flatten() {
            let why = format!("sandbox {} is not there", endpoint.sandbox);
            reading.reject(&format!("endpoint/{}", endpoint.id), why)?;
        }
        Ok(())
    }

    /// Makes a sandbox part of the model, with what it uses.
    fn take_sandbox(&mut self, live: Live) {
        for binding in &live.sandbox.ports {
            self.ports.take(binding);
        }
        for (network, address, fresh) in live.leases() {
            let lease = self.ipam.lease(&network, address).cloned();
            let lease = Lease { released: None, ..lease.unwrap_or(fresh) };
            self.ipam.restore(&network, address, Some(lease));
        }
        self.links.extend(live.endpoints.iter().map(|endpoint| endpoint.host_link()));
        self.insert_sandbox(live);
    }

    /// Takes again what the intents had taken.
    fn read_intents(&mut self, reading: &mut Reading<'_>) -> Result<(), ControllerError> {
        let planner = Arc::clone(&self.planner);
        let read = |value: &[u8]| record::intent(value, &*planner);
        for (key, intent) in reading.list_with("intent/", read)? {
            let Some(number) = number(&key) else {
                reading.reject(&key, "its key is no number")?;
                continue;
            };
            if let Err(why) = self.plan(&intent.change) {
                reading.reject(&key, why)?;
                continue;
            }
            let open = self.take_again(intent);
            self.open.insert(number, open);
            self.recovered.insert(number);
        }
        Ok(())
    }
}

/// An address of a network.
type Leased = (NetworkId, IpAddr);

/// What the keys of records begin with that tell of somebody who uses an address.
const USERS: [&str; 3] = ["endpoint/", "sandbox/", "intent/"];

/// The address whose lease has this key.
pub(super) fn leased(key: &str) -> Option<Leased> {
    let (network, address) = key.strip_prefix("lease/")?.split_once('/')?;
    Some((network.parse().ok()?, address.parse().ok()?))
}

/// The number of the transaction whose intent has this key.
fn number(key: &str) -> Option<u64> {
    key.strip_prefix("intent/")?.parse().ok()
}
