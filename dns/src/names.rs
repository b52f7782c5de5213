//! The names of all networks, and what a sandbox sees of them.
//!
//! Changed in place by the daemon's requests, one endpoint at a time: publishing the thousandth
//! endpoint costs what the first did. Names compare without regard to case.

use std::collections::HashMap;
use std::iter;
use std::net::IpAddr;
use std::sync::Arc;

use cnm::{EndpointId, NetworkId};

use crate::protocol::{EndpointNames, SandboxView};

/// The names of all networks.
#[derive(Debug, Default)]
pub struct Names {
    zones: HashMap<NetworkId, Zone>,
}

/// What one network knows of a name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Match<'a> {
    /// The network's name.
    pub(crate) network: &'a str,
    /// The endpoints that have the name.
    pub(crate) endpoints: &'a [Arc<EndpointNames>],
}

/// The names of one network.
#[derive(Debug, Default)]
struct Zone {
    name: String,
    /// A dot and the name in lower case.
    suffix: String,
    endpoints: HashMap<EndpointId, Arc<EndpointNames>>,
    by_name: HashMap<String, Vec<Arc<EndpointNames>>>,
    by_address: HashMap<IpAddr, Vec<Arc<EndpointNames>>>,
    /// How many of the names are wildcards: mostly none, which spares looking for them.
    wildcards: usize,
}

impl Names {
    /// Adds endpoints of a network, or replaces what was known of them.
    pub fn publish(&mut self, network: NetworkId, name: String, endpoints: Vec<EndpointNames>) {
        let zone = self.zones.entry(network).or_default();
        zone.suffix = format!(".{}", name.to_ascii_lowercase());
        zone.name = name;
        for endpoint in endpoints {
            zone.remove(&endpoint.endpoint);
            zone.insert(endpoint);
        }
    }

    /// Removes endpoints of a network. Unknown ones are not an error.
    pub fn withdraw(&mut self, network: &NetworkId, endpoints: &[EndpointId]) {
        let Some(zone) = self.zones.get_mut(network) else { return };
        for endpoint in endpoints {
            zone.remove(endpoint);
        }
        if zone.endpoints.is_empty() {
            self.zones.remove(network);
        }
    }

    /// Removes all endpoints for which `keep` does not hold.
    pub fn retain(&mut self, keep: impl Fn(&NetworkId, &EndpointId) -> bool) {
        self.zones.retain(|network, zone| {
            let gone: Vec<EndpointId> =
                zone.endpoints.keys().filter(|id| !keep(network, id)).cloned().collect();
            for endpoint in gone {
                zone.remove(&endpoint);
            }
            !zone.endpoints.is_empty()
        });
    }

    /// What the networks of a view know of a name (in lower case), in the view's order. A name
    /// itself wins over `*.` in place of its first label, that over `*.` in place of two.
    pub(crate) fn find<'a>(&'a self, view: &SandboxView, name: &str) -> Vec<Match<'a>> {
        let zones: Vec<&Zone> = view.networks.iter().filter_map(|id| self.zones.get(id)).collect();
        let depth = name.split('.').count();
        (0..depth)
            .map(|hidden| zones.iter().filter_map(|zone| zone.find(name, hidden)).collect())
            .find(|matches: &Vec<_>| !matches.is_empty())
            .unwrap_or_default()
    }

    /// The first name of the endpoint with an address, and its network's name.
    pub(crate) fn owner(&self, view: &SandboxView, address: IpAddr) -> Option<(&str, &str)> {
        let mut zones = view.networks.iter().filter_map(|id| self.zones.get(id));
        zones.find_map(|zone| {
            let endpoint = zone.by_address.get(&address)?.first()?;
            Some((endpoint.names.first()?.as_str(), zone.name.as_str()))
        })
    }
}

impl Zone {
    fn insert(&mut self, endpoint: EndpointNames) {
        let endpoint = Arc::new(endpoint);
        for name in lower_names(&endpoint) {
            self.wildcards += usize::from(name.starts_with("*."));
            self.by_name.entry(name).or_default().push(Arc::clone(&endpoint));
        }
        for address in &endpoint.addresses {
            self.by_address.entry(*address).or_default().push(Arc::clone(&endpoint));
        }
        self.endpoints.insert(endpoint.endpoint.clone(), endpoint);
    }

    fn remove(&mut self, id: &EndpointId) {
        let Some(endpoint) = self.endpoints.remove(id) else { return };
        for name in lower_names(&endpoint) {
            self.wildcards -= usize::from(name.starts_with("*."));
            remove_from(&mut self.by_name, &name, &endpoint);
        }
        for address in &endpoint.addresses {
            remove_from(&mut self.by_address, address, &endpoint);
        }
    }

    /// Looks for a name, with or without the network's, `hidden` labels replaced by `*`.
    fn find(&self, name: &str, hidden: usize) -> Option<Match<'_>> {
        if hidden > 0 && self.wildcards == 0 {
            return None;
        }
        let mut forms = iter::once(name).chain(name.strip_suffix(&self.suffix));
        let endpoints = forms.find_map(|name| match hidden {
            0 => self.by_name.get(name),
            _ => self.by_name.get(&wildcard(name, hidden)?),
        })?;
        Some(Match { network: &self.name, endpoints })
    }
}

/// The names of an endpoint as they are looked up, each once.
fn lower_names(endpoint: &EndpointNames) -> Vec<String> {
    let mut names: Vec<String> =
        endpoint.names.iter().map(|name| name.to_ascii_lowercase()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn remove_from<K: std::hash::Hash + Eq>(
    index: &mut HashMap<K, Vec<Arc<EndpointNames>>>,
    key: &K,
    endpoint: &Arc<EndpointNames>,
) {
    let Some(endpoints) = index.get_mut(key) else { return };
    endpoints.retain(|other| !Arc::ptr_eq(other, endpoint));
    if endpoints.is_empty() {
        index.remove(key);
    }
}

/// A name with `*` in place of its first labels.
fn wildcard(name: &str, hidden: usize) -> Option<String> {
    let rest = name.splitn(hidden + 1, '.').nth(hidden)?;
    Some(format!("*.{rest}"))
}
