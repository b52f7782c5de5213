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
    pub(in super::super) fn with_plugin(&self, spec: &NetworkSpec) -> Result<NetworkSpec> {
        let planner: &dyn Planner = &drivers::Drivers;
        let mut spec = spec.clone();
        if planner.driver(&spec.driver).is_none() {
            spec.plugin = match self.remote.plugins.find(&spec.driver, Trade::Network) {
                Ok(_) => true,
                // The model says so, with the drivers that there are.
                Err(error) if error.kind() == Kind::NotFound => false,
                Err(error) => return Err(error),
            };
        }
        Ok(spec)
    }

    /// Has a network's plugin make it, if it has one. That it is asked is on the disk before.
    pub(in super::super) fn have_network_made(&self, network: &Network) -> Result<()> {
        let Some(plugin) = network.driver.plugin() else { return Ok(()) };
        let plugin = self.remote.plugins.find(plugin, Trade::Network)?;
        let entry = NetworkEntry::new(plugin.name());
        let asked = Ledger::asked_network(&network.id, &entry);
        self.remote.ledger().networks.insert(network.id.clone(), entry);
        self.write_ahead(asked)?;
        let made = plugin.create_network(network, ADDRESS_SPACE);
        if let Err(CallError::Refused(_)) = made {
            // What it refused it did not do.
            self.forget_network(&network.id);
        }
        Ok(made?)
    }
}
