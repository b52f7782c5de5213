//! Operations on networks, as the API calls them: what a user is told of in events.

use std::collections::BTreeMap;
use std::sync::Arc;

use cnm::controller::HostFacts;
use cnm::{Controller, Network, NetworkSpec, Planner};

use super::overlaps::overlaps_of;
use super::shared::{is_of_cluster, is_shared};
use super::{Chance, Networks, now};
use engine_error::{Error, Result};

/// What a prune spares: `label`, `label!`, `until`.
pub type Filters = BTreeMap<String, Vec<String>>;

impl Networks {
    /// Creates a network; the texts are warnings. Blocks.
    pub fn create(&self, spec: &NetworkSpec) -> Result<(Arc<Network>, Vec<String>)> {
        if is_of_cluster(&spec.driver) {
            return self.create_shared(spec);
        }
        let spec = &self.with_plugins(spec)?;
        let mut overlaps = Vec::new();
        let begin = |model: &mut Controller, facts: &HostFacts| {
            let begun = model.begin_create_network(spec, facts, &mut Chance, now())?;
            overlaps = overlaps_of(&begun.0, facts);
            Ok(begun)
        };
        let created = self.create_by(begin);
        self.have_decided_network(spec.id.as_ref());
        let (network, warnings) = created?;
        // The warnings have told of them.
        self.know_overlaps(&overlaps);
        self.name_on_host(&network);
        self.tell_of(&network, "create");
        Ok((network, warnings))
    }

    /// The names of drivers, those of plugins that were asked already among them.
    pub fn drivers(&self) -> Vec<String> {
        let own = drivers::Drivers.drivers().iter();
        let own = own.map(|driver| driver.name().to_owned());
        own.chain(self.remote.names()).collect()
    }

    /// All networks, by name.
    pub fn all(&self) -> Vec<Arc<Network>> {
        self.controller().networks()
    }

    /// Removes a network. Blocks.
    pub fn remove(&self, key: &str) -> Result<()> {
        let network = self.network(key)?;
        if is_shared(&network) {
            self.remove_from_all(&network)?;
            return self.vanish(&network.id);
        }
        self.remove_by(|model| model.begin_remove_network(&network.id))?;
        self.give_back_network(&network.id);
        self.unname_on_host(&network);
        self.tell_of(&network, "destroy");
        Ok(())
    }

    /// Removes the networks that no running container is on; returns their names. The filters are
    /// `label`, `label!` and `until`, the latter in seconds since the Unix epoch. Blocks.
    pub fn prune(&self, filters: &Filters) -> Result<Vec<String>> {
        let mut removed = Vec::new();
        for network in self.all() {
            let used = || !self.controller().endpoints_of(&network.id).is_empty();
            if network.predefined || !passes(&network, filters)? || used() {
                continue;
            }
            match self.remove(network.id.as_str()) {
                Ok(()) => removed.push(network.name.clone()),
                // Somebody joined it meanwhile.
                Err(error) => tracing::info!(network = network.name, error = error.chain(), "kept"),
            }
        }
        Ok(removed)
    }

    pub(super) fn tell_of(&self, network: &Network, action: &str) {
        let attributes = BTreeMap::from([
            ("name".to_owned(), network.name.clone()),
            ("type".to_owned(), network.driver.name().to_owned()),
        ]);
        self.events.publish("network", action, network.id.as_str(), attributes);
    }
}

fn passes(network: &Network, filters: &Filters) -> Result<bool> {
    let has = |wanted: &String| match wanted.split_once('=') {
        Some((key, value)) => network.labels.get(key).is_some_and(|own| own == value),
        None => network.labels.contains_key(wanted),
    };
    for (key, values) in filters {
        let passes = match key.as_str() {
            "label" => values.iter().all(has),
            "label!" => !values.iter().any(has),
            "until" => values
                .iter()
                .map(|text| created_before(network, text))
                .try_fold(true, |all, before| before.map(|before| all && before))?,
            other => return Err(Error::invalid(format!("invalid filter '{other}'"))),
        };
        if !passes {
            return Ok(false);
        }
    }
    Ok(true)
}

fn created_before(network: &Network, seconds: &str) -> Result<bool> {
    let time: f64 = seconds
        .parse()
        .map_err(|_| Error::invalid(format!("invalid filter 'until={seconds}': use seconds")))?;
    let created = std::time::Duration::from_nanos(network.created);
    Ok(created.as_secs_f64() < time)
}
