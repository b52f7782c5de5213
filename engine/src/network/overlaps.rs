//! Subnets that the host has a route to elsewhere as well: a VPN that comes up after the network was
//! made, for one. Nothing can be done about it here, but somebody can be told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, MutexGuard, PoisonError, Weak};

use cnm::Network;
use cnm::controller::HostFacts;
use cnm::ipam::pools::overlapped;
use ipnetwork::IpNetwork;

use super::Networks;
use engine_error::{Error, Result};

/// A subnet of a network, and what of the host's it overlaps, in words.
pub(crate) type Overlap = (Arc<Network>, IpNetwork, String);

/// What has been told, by network, subnet and words.
pub(super) type Told = BTreeSet<(String, IpNetwork, String)>;

impl Networks {
    /// The subnets that overlap what the host uses.
    pub(crate) fn overlaps(&self) -> Result<Vec<Overlap>> {
        let facts = self.kernel.host_facts()?;
        Ok(self.all().iter().flat_map(|network| overlaps_of(network, &facts)).collect())
    }

    /// Tells of overlaps whenever the host's routes change, for as long as the networks are used; each
    /// of them once, until it is gone.
    pub(crate) fn watch_overlaps(self: &Arc<Self>) -> Result<()> {
        let changes = self.kernel.fact_changes()?;
        self.tell_overlaps();
        let networks: Weak<Self> = Arc::downgrade(self);
        let watch = move || {
            while changes.recv().is_ok() {
                let Some(networks) = networks.upgrade() else { return };
                networks.tell_overlaps();
                networks.tell_host_changed();
            }
        };
        let started = std::thread::Builder::new().name("overlaps".to_owned()).spawn(watch);
        started.map(drop).map_err(|error| Error::internal("cannot watch the host's routes", error))
    }

    /// Whoever made a network has been told of these.
    pub(super) fn know_overlaps(&self, overlaps: &[Overlap]) {
        self.told().extend(overlaps.iter().map(key));
    }

    fn tell_overlaps(&self) {
        let all = match self.overlaps() {
            Ok(all) => all,
            Err(error) => {
                tracing::warn!(error = error.chain(), "cannot look for overlapping routes");
                return;
            }
        };
        let mut told = self.told();
        let now: Told = all.iter().map(key).collect();
        let new: Vec<_> = all.iter().filter(|overlap| !told.contains(&key(overlap))).collect();
        *told = now;
        drop(told);
        for (network, subnet, what) in new {
            let name = &network.name;
            tracing::warn!(network = name, %subnet, "its subnet overlaps {what}: one of them is out of reach");
            let attributes = BTreeMap::from([
                ("name".to_owned(), name.clone()),
                ("type".to_owned(), network.driver.name().to_owned()),
                ("subnet".to_owned(), subnet.to_string()),
                ("overlaps".to_owned(), what.clone()),
            ]);
            self.events.publish("network", "overlap", network.id.as_str(), attributes);
        }
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.overlaps_told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The overlaps of one network.
pub(super) fn overlaps_of(network: &Arc<Network>, facts: &HostFacts) -> Vec<Overlap> {
    let overlap = |pool: &cnm::Pool| {
        let what = overlapped(pool.subnet, facts)?;
        Some((Arc::clone(network), pool.subnet, what))
    };
    network.pools.iter().filter_map(overlap).collect()
}

fn key((network, subnet, what): &Overlap) -> (String, IpNetwork, String) {
    (network.id.to_string(), *subnet, what.clone())
}
