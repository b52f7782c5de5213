//! Plugins that want to be told again what an earlier daemon asked them for, because they keep it in
//! memory only.

use std::sync::Arc;

use super::super::Networks;
use crate::plugins::ipam::{Purpose, WantedPool};
use crate::plugins::{CallError, Plugin, Trade};
use engine_error::Result;

impl Networks {
    /// An IPAM plugin, which knows of all that the model has of it.
    pub(super) fn ipam_plugin(&self, name: &str) -> Result<Arc<Plugin>> {
        let plugin = self.remote.plugins.find(name, Trade::Ipam)?;
        if plugin.wishes.replay && self.remote.ledger().told.insert(name.to_owned()) {
            tracing::info!(plugin = name, "tell it again what it gave");
            if let Err(CallError::Lost(error)) = self.replay(&plugin) {
                self.remote.ledger().told.remove(name);
                return Err(error);
            }
        }
        Ok(plugin)
    }

    /// What it refuses now it will not know, and nothing else depends on that.
    fn replay(&self, plugin: &Plugin) -> Result<(), CallError> {
        let networks = self.all();
        for network in networks {
            let Some(ipam) = network.ipam.as_ref().filter(|ipam| ipam.name == plugin.name()) else {
                continue;
            };
            for (pool, name) in network.pools.iter().zip(&ipam.pools) {
                let range = pool.range.map(|range| range.to_string()).unwrap_or_default();
                let wanted = WantedPool {
                    space: &ipam.space,
                    subnet: &pool.subnet.to_string(),
                    range: &range,
                    options: &ipam.options,
                    ipv6: pool.subnet.is_ipv6(),
                };
                go_on(plugin, plugin.request_pool(&wanted))?;
                let kept = pool.auxiliary.values().map(|ip| (*ip, Purpose::Auxiliary));
                let gateway = pool.gateway.map(|ip| (ip, Purpose::Gateway));
                for (address, purpose) in gateway.into_iter().chain(kept) {
                    go_on(plugin, plugin.request_address(name, Some(address), purpose))?;
                }
                for endpoint in self.controller().endpoints_of(&network.id) {
                    let own = endpoint.addresses.iter().map(ipnetwork::IpNetwork::ip);
                    for address in own.filter(|address| pool.subnet.contains(*address)) {
                        let purpose = Purpose::Endpoint(Some(endpoint.mac));
                        go_on(plugin, plugin.request_address(name, Some(address), purpose))?;
                    }
                }
            }
        }
        Ok(())
    }
}

fn go_on<T>(plugin: &Plugin, answer: Result<T, CallError>) -> Result<(), CallError> {
    match answer {
        Err(CallError::Refused(said)) => {
            tracing::warn!(plugin = plugin.name(), said, "it does not know what it gave");
            Ok(())
        }
        answer => answer.map(drop),
    }
}
