//! Operations on networks.

use std::collections::BTreeMap;
use std::sync::Arc;

use cnm::{Endpoint, Network, NetworkId, NetworkSpec};

use super::Engine;
use crate::container::Container;
use crate::container::request::Filters;
use engine_error::{Error, Result};

impl Engine {
    /// Creates a network; the texts are warnings. Blocks.
    pub fn create_network(&self, spec: &NetworkSpec) -> Result<(Arc<Network>, Vec<String>)> {
        let (network, warnings) = self.networks.create(spec)?;
        self.tell_of(&network, "create");
        Ok((network, warnings))
    }

    /// The network with this full id, exact name or unique id prefix.
    pub fn network(&self, key: &str) -> Result<Arc<Network>> {
        self.networks.network(key)
    }

    /// All networks, by name.
    pub fn networks(&self) -> Vec<Arc<Network>> {
        self.networks.controller().networks()
    }

    /// The endpoints on a network, each with its container (`None` if it has another owner).
    pub fn endpoints_of(
        &self,
        network: &NetworkId,
    ) -> Vec<(Arc<Endpoint>, Option<Arc<Container>>)> {
        let endpoints = self.networks.controller().endpoints_of(network);
        let with_container = |endpoint: Arc<Endpoint>| {
            let sandbox = self.networks.sandbox(&endpoint.sandbox).ok();
            let container = sandbox.and_then(|(sandbox, _)| self.find(&sandbox.owner).ok());
            (endpoint, container)
        };
        endpoints.into_iter().map(with_container).collect()
    }

    /// Removes a network. Blocks.
    pub fn remove_network(&self, key: &str) -> Result<()> {
        let network = self.networks.network(key)?;
        self.networks.remove(&network.id)?;
        self.tell_of(&network, "destroy");
        Ok(())
    }

    /// Removes the networks that no running container is on; returns their names. The filters are
    /// `label`, `label!` and `until`, the latter in seconds since the Unix epoch. Blocks.
    pub fn prune_networks(&self, filters: &Filters) -> Result<Vec<String>> {
        let mut removed = Vec::new();
        for network in self.networks() {
            let used = || !self.networks.controller().endpoints_of(&network.id).is_empty();
            if network.predefined || !passes(&network, filters)? || used() {
                continue;
            }
            match self.remove_network(network.id.as_str()) {
                Ok(()) => removed.push(network.name.clone()),
                // Somebody joined it meanwhile.
                Err(error) => tracing::info!(network = network.name, error = error.chain(), "kept"),
            }
        }
        Ok(removed)
    }

    fn tell_of(&self, network: &Network, action: &str) {
        let attributes = BTreeMap::from([
            ("name".to_owned(), network.name.clone()),
            ("type".to_owned(), network.kind().as_str().to_owned()),
        ]);
        self.events().publish("network", action, network.id.as_str(), attributes);
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
