//! Networks that plugins make.

use cnm::{Kind, Network, NetworkSpec, Planner};

use super::super::Networks;
use super::ledger::{Ledger, NetworkEntry};
use crate::plugins::{CallError, Trade};
use engine_error::Result;

/// Where the addresses of networks on this host come from, in Docker's words.
const ADDRESS_SPACE: &str = "LocalDefault";

impl Networks {
    /// A request, with the plugin found that its driver is.
    pub(in super::super) fn with_plugins(&self, spec: &NetworkSpec) -> Result<NetworkSpec> {
        let planner: &dyn Planner = &drivers::Drivers;
        let mut spec = spec.clone();
        if planner.driver(&spec.driver).is_none() {
            spec.plugin = match self.remote.plugins.find(&spec.driver, Trade::Network) {
                Ok(_) => true,
                // The model says so, with the drivers that there are.
                Err(error) if error.kind() == Kind::NotFound => return Ok(spec),
                Err(error) => return Err(error),
            };
        }
        self.with_pools(spec)
    }

    /// Has a network's plugin make it, if it has one. That it is asked is on the disk before.
    pub(in super::super) fn have_network_made(&self, network: &Network) -> Result<()> {
        let Some(plugin) = network.driver.plugin() else { return Ok(()) };
        let plugin = self.remote.plugins.find(plugin, Trade::Network)?;
        let space = network.ipam.as_ref().map_or(ADDRESS_SPACE, |ipam| ipam.space.as_str());
        let asked = {
            let mut ledger = self.remote.ledger();
            let entry = ledger.networks.entry(network.id.clone());
            let entry = entry.or_insert_with(|| NetworkEntry::new(None));
            entry.driver = Some(plugin.name().to_owned());
            Ledger::asked_network(&network.id, entry)
        };
        self.write_ahead(asked)?;
        let made = plugin.create_network(network, space);
        if let Err(CallError::Refused(_)) = made {
            // What it refused it did not do.
            if let Some(entry) = self.remote.ledger().networks.get_mut(&network.id) {
                entry.driver = None;
            }
        }
        Ok(made?)
    }
}
