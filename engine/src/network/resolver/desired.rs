//! What the resolver's process is to answer and to hold, whoever that process is.

use std::collections::{BTreeMap, BTreeSet};

use cnm::{EndpointId, NetworkId, PortBinding, SandboxId};
use dns::protocol::{EndpointNames, HeldPort, SandboxView};

/// The names around one sandbox: those that it sees, and those that it has.
#[derive(Clone, Debug)]
pub(crate) struct SandboxNames {
    /// What the sandbox sees.
    pub(crate) view: SandboxView,
    /// Whether there is a resolver in it.
    pub(crate) resolver: bool,
    /// What it is called on its networks.
    pub(crate) endpoints: Vec<NetworkNames>,
}

/// The names of one endpoint, and the network that knows them.
#[derive(Clone, Debug)]
pub(crate) struct NetworkNames {
    /// The network.
    pub(crate) network: NetworkId,
    /// The network's name.
    pub(crate) network_name: String,
    /// The names.
    pub(crate) names: EndpointNames,
}

/// What is to be done for one sandbox.
#[derive(Clone, Debug)]
pub(super) struct Service {
    pub(super) names: SandboxNames,
    pub(super) ports: Vec<HeldPort>,
}

/// What is to be done for all of them, by sandbox.
pub(super) type Services = BTreeMap<SandboxId, Service>;

/// The names of endpoints on other hosts, by network.
pub(super) type Remote = BTreeMap<NetworkId, Zone>;

/// The names on one network.
#[derive(Clone, Debug, Default)]
pub(super) struct Zone {
    /// The network's name.
    pub(super) name: String,
    pub(super) endpoints: BTreeMap<EndpointId, EndpointNames>,
}

/// The services, what is answered beside them, and how often that changed.
#[derive(Debug, Default)]
pub(super) struct Desired {
    services: Services,
    remote: Remote,
    version: u64,
}

impl Desired {
    /// All services, all names from elsewhere, and the version that they are.
    pub(super) fn all(&self) -> (u64, Services, Remote) {
        (self.version, self.services.clone(), self.remote.clone())
    }

    /// What a sandbox sees and is called.
    pub(super) fn names(&self, sandbox: &SandboxId) -> Option<SandboxNames> {
        self.services.get(sandbox).map(|service| service.names.clone())
    }

    /// Answers for endpoints on other hosts, and for some no more.
    pub(super) fn tell_remote(
        &mut self,
        network: &NetworkId,
        name: &str,
        named: &[EndpointNames],
        gone: &[EndpointId],
    ) {
        self.version += 1;
        let zone = self.remote.entry(network.clone()).or_default();
        name.clone_into(&mut zone.name);
        for id in gone {
            zone.endpoints.remove(id);
        }
        zone.endpoints.extend(named.iter().map(|names| (names.endpoint.clone(), names.clone())));
    }

    /// Answers for nobody of a network on other hosts any more; returns for whom it did.
    pub(super) fn forget_remote(&mut self, network: &NetworkId) -> Vec<EndpointId> {
        self.version += 1;
        let zone = self.remote.remove(network).unwrap_or_default();
        zone.endpoints.into_keys().collect()
    }

    /// Whether this is still the version.
    pub(super) fn is(&self, version: u64) -> bool {
        self.version == version
    }

    pub(super) fn replace(&mut self, services: Services) {
        self.version += 1;
        self.services = services;
    }

    /// Serves a sandbox from now on; returns what was done for it before.
    pub(super) fn insert(&mut self, service: Service) -> Option<Service> {
        self.version += 1;
        self.services.insert(service.names.view.sandbox.clone(), service)
    }

    /// Answers for a sandbox on one more network; says whether it is served.
    pub(super) fn name_on(&mut self, sandbox: &SandboxId, on: &NetworkNames) -> bool {
        let Some(service) = self.services.get_mut(sandbox) else { return false };
        self.version += 1;
        let endpoints = &mut service.names.endpoints;
        endpoints.retain(|known| known.network != on.network);
        endpoints.push(on.clone());
        true
    }

    /// Answers for a sandbox on a network no more; returns what was answered.
    pub(super) fn unname_on(
        &mut self,
        sandbox: &SandboxId,
        network: &NetworkId,
    ) -> Option<NetworkNames> {
        let endpoints = &mut self.services.get_mut(sandbox)?.names.endpoints;
        let at = endpoints.iter().position(|known| known.network == *network)?;
        self.version += 1;
        Some(endpoints.remove(at))
    }

    /// Answers nothing any more in a sandbox and for it; its ports stay. Returns what was answered.
    pub(super) fn silence(&mut self, sandbox: &SandboxId) -> Option<SandboxNames> {
        self.version += 1;
        let names = &mut self.services.get_mut(sandbox)?.names;
        let before = names.clone();
        names.endpoints.clear();
        names.resolver = false;
        Some(before)
    }

    /// Forgets a sandbox; returns what was done for it.
    pub(super) fn remove(&mut self, sandbox: &SandboxId) -> Option<Service> {
        self.version += 1;
        self.services.remove(sandbox)
    }
}

impl SandboxNames {
    /// Whether an endpoint has names here.
    pub(super) fn has(&self, other: &NetworkNames) -> bool {
        self.endpoints.iter().any(|own| own.names.endpoint == other.names.endpoint)
    }
}

/// The ports that were there before, and are not any more.
pub(super) fn gone(before: &[HeldPort], after: &[HeldPort]) -> Vec<PortBinding> {
    let kept: BTreeSet<_> = after.iter().flat_map(HeldPort::bindings).collect();
    before.iter().flat_map(HeldPort::bindings).filter(|port| !kept.contains(port)).collect()
}

/// The ports that were there before, and lead elsewhere now.
pub(super) fn moved(before: &[HeldPort], after: &[HeldPort]) -> Vec<HeldPort> {
    let apart = |ports: &[HeldPort]| -> BTreeMap<PortBinding, HeldPort> {
        let all = ports.iter().flat_map(HeldPort::apart);
        all.map(|port| (port.binding.clone(), port)).collect()
    };
    let before = apart(before);
    let elsewhere = |port: &HeldPort| before.get(&port.binding).is_some_and(|old| old != port);
    apart(after).into_values().filter(elsewhere).collect()
}
