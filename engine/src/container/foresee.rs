//! What is known of a container's networks before it starts: what can never work is refused, and
//! what would not work now is a warning (`docs/adr/0031`).

use std::net::IpAddr;

use cnm::{Kind, Network};

use super::join::Place;
use super::{Container, Containers, EndpointSpec, readiness};
use engine_error::{Error, Result};

/// Compose's label of a container that it makes while the one that this is to replace runs, with
/// the same ports and addresses.
const REPLACES: &str = "com.docker.compose.replace";

impl Containers {
    /// Refuses what can never work on the networks that there are now.
    fn check_networks(&self, container: &Container) -> Result<()> {
        let known = container.endpoints.iter().filter_map(|endpoint| {
            Some((self.networks.network(endpoint.network_id.as_ref()?.as_str()).ok()?, endpoint))
        });
        known.into_iter().try_for_each(|(network, endpoint)| {
            check_endpoint(&network, &endpoint.spec).map_err(|error| {
                let name = &network.name;
                Error::invalid(format!("invalid config for network {name}: {error}"))
            })
        })
    }

    /// Refuses what can never be, and finds out whether the container could be started now: its
    /// networks, its addresses, its ports. Returns what the user should know, a start that would fail among it.
    pub(super) fn foresee(&self, container: &Container) -> Result<Vec<String>> {
        self.check_networks(container)?;
        readiness::check(container)?;
        if container.resolved.labels.contains_key(REPLACES) {
            return Ok(Vec::new());
        }
        match self.rehearse(container) {
            Err(error) if error.kind() == Kind::Invalid => Err(error),
            Err(error) => Ok(vec![format!("It cannot be started as things are now: {error}")]),
            told => told,
        }
    }

    /// Begins a start, and gives everything back.
    fn rehearse(&self, container: &Container) -> Result<Vec<String>> {
        if self.place(container)? != Place::Own {
            return Ok(Vec::new());
        }
        let mut spec = self.sandbox_spec(container)?;
        let networks = spec.joins.iter().filter_map(|join| join.network.as_ref());
        for id in networks {
            let network = self.networks.network(id.as_str())?;
            if network.driver.plugin().is_some() || network.ipam.is_some() {
                // Plugins are not asked for what is not wanted yet.
                return Ok(Vec::new());
            }
        }
        // Ports of the engine's choice are not chosen twice.
        spec.ports.retain(|port| *port.host_ports.end() != 0);
        // Nobody is asked to lend an address that is not used yet.
        spec.joins.retain(|join| !self.is_claimed(join.network.as_ref()));
        let change = self.begin(container, &spec, None)?;
        let warnings = change.warnings().to_vec();
        self.networks.abandon(change);
        Ok(warnings)
    }
}

impl Containers {
    fn is_claimed(&self, network: Option<&cnm::NetworkId>) -> bool {
        let network = network.and_then(|id| self.networks.network(id.as_str()).ok());
        network.is_some_and(|network| network.addressing.is_claimed())
    }
}

/// Refuses what a network can never give to an endpoint.
pub(super) fn check_endpoint(network: &Network, spec: &EndpointSpec) -> Result<()> {
    let mut wrong = Vec::new();
    let addresses: Vec<IpAddr> = [spec.ipv4, spec.ipv6].into_iter().flatten().collect();
    if network.predefined && !addresses.is_empty() {
        let text = "user specified IP address is supported on user defined networks only";
        wrong.push(text.to_owned());
    }
    if network.predefined && !spec.aliases.is_empty() {
        let text = "network-scoped alias is supported only for containers in user defined networks";
        wrong.push(text.to_owned());
    }
    wrong.extend(addresses.into_iter().filter_map(|address| wrong_address(network, address)));
    let told = match wrong.as_slice() {
        [] => return Ok(()),
        [one] => one.clone(),
        several => format!("* {}", several.join("\n* ")),
    };
    Err(Error::invalid(format!("invalid endpoint settings:\n{told}")))
}

/// Why an address cannot be asked for on a network, if so.
fn wrong_address(network: &Network, address: IpAddr) -> Option<String> {
    let same_family = |pool: &&cnm::network::Pool| pool.subnet.is_ipv4() == address.is_ipv4();
    if network.pools.iter().filter(same_family).any(|pool| pool.automatic) {
        let text = "user specified IP address is supported only when connecting to networks with \
                    user configured subnets";
        return Some(text.to_owned());
    }
    // Whoever lends addresses says which it has.
    if network.pool_of(address).is_some() || (network.addressing.is_lent() && address.is_ipv4()) {
        return None;
    }
    Some(format!(
        "no configured subnet or ip-range contain the IP address {address}: it has {}",
        network.subnets()
    ))
}
