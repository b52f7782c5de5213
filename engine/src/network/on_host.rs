//! Names of containers in the host's own namespace, which have no endpoint of their own.
//!
//! Others reach them at the host, so on each network they have the addresses that the host has there: the
//! gateway, or the host's end of a macvlan network. Where the host has none they have no name.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{MutexGuard, PoisonError};

use cnm::driver::{HOST_ADDRESS, Reach};
use cnm::{Network, Pool, Protocol, SandboxId};
use dns::protocol::{EndpointNames, HeldPort, SandboxView};

use super::{Connections, NetworkNames, Networks, SandboxNames};
use engine_error::{Error, Result};

/// What a container in the host's namespace is called.
#[derive(Clone, Debug)]
pub(crate) struct HostNames {
    /// The container's id.
    pub(crate) owner: String,
    /// Its names; what the address is called comes first.
    pub(crate) names: Vec<String>,
    /// The ports that it exposes.
    pub(crate) services: Vec<(Protocol, u16)>,
}

impl Networks {
    /// Has a container in the host's namespace found, or found by other names.
    pub(crate) fn serve_on_host(&self, container: HostNames) -> Result<()> {
        let served = self.names_on_host(&container)?;
        self.on_host().insert(container.owner.clone(), container);
        self.resolver.serve(&served, &[], &[], Connections::End)
    }

    /// Notes a container in the host's namespace that runs already, for [`Networks::start_resolver`].
    pub(crate) fn adopt_on_host(
        &self,
        container: HostNames,
    ) -> Result<(SandboxNames, Vec<HeldPort>)> {
        let served = self.names_on_host(&container)?;
        self.on_host().insert(container.owner.clone(), container);
        Ok((served, Vec::new()))
    }

    /// Nobody finds the container any more. It is no matter if it is not in the host's namespace.
    pub(crate) fn release_on_host(&self, owner: &str) {
        if self.on_host().remove(owner).is_some()
            && let Ok(id) = owner.parse()
        {
            self.resolver.release(&id);
        }
    }

    /// A network has come: containers in the host's namespace are found on it.
    pub(super) fn name_on_host(&self, network: &Network) {
        for container in self.all_on_host() {
            let Some(names) = names_on(network, &container) else { continue };
            let told = sandbox_of(&container).and_then(|id| self.resolver.name_on(&id, &names));
            if let Err(error) = told {
                tracing::warn!(container.owner, error = error.chain(), "cannot tell its names");
            }
        }
    }

    /// A network has gone.
    pub(super) fn unname_on_host(&self, network: &Network) {
        for container in self.all_on_host() {
            let Ok(id) = sandbox_of(&container) else { continue };
            if let Err(error) = self.resolver.unname_on(&id, &network.id) {
                tracing::warn!(container.owner, error = error.chain(), "cannot withdraw its names");
            }
        }
    }

    fn all_on_host(&self) -> Vec<HostNames> {
        self.on_host().values().cloned().collect()
    }

    fn on_host(&self) -> MutexGuard<'_, BTreeMap<String, HostNames>> {
        self.on_host.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn names_on_host(&self, container: &HostNames) -> Result<SandboxNames> {
        let sandbox = sandbox_of(container)?;
        let networks = self.controller().networks();
        let endpoints = networks.iter().filter_map(|network| names_on(network, container));
        let view = SandboxView {
            sandbox,
            networks: Vec::new(),
            private: BTreeMap::new(),
            upstreams: Vec::new(),
            forward: false,
            ttl: 0,
        };
        Ok(SandboxNames { view, resolver: false, endpoints: endpoints.collect() })
    }
}

/// What stands for the container where sandboxes are served.
fn sandbox_of(container: &HostNames) -> Result<SandboxId> {
    let lost = |error| Error::internal("cannot name a container of the host", error);
    container.owner.parse().map_err(lost)
}

/// What the container is called on a network, if the host is on that.
fn names_on(network: &Network, container: &HostNames) -> Option<NetworkNames> {
    let addresses: Vec<_> =
        network.pools.iter().filter_map(|pool| of_host(network, pool)).collect();
    let half = |id: &str| id.get(..32).map(str::to_owned);
    let endpoint = half(&container.owner)? + &half(network.id.as_str())?;
    let names = EndpointNames {
        endpoint: endpoint.parse().ok()?,
        names: container.names.clone(),
        addresses: addresses.clone(),
        services: container.services.clone(),
    };
    let (network, network_name) = (network.id.clone(), network.name.clone());
    (!addresses.is_empty()).then_some(NetworkNames { network, network_name, names })
}

/// The host's address in a subnet of a network.
fn of_host(network: &Network, pool: &Pool) -> Option<IpAddr> {
    if network.driver.host_joins(network) {
        return pool.auxiliary.get(HOST_ADDRESS).copied();
    }
    let reach = network.profile().reach(pool.subnet.is_ipv6());
    pool.gateway.filter(|_| matches!(reach, Reach::Translated | Reach::Routed))
}
