//! A container's side of its networks: what it asks for, what it gets, what it is called.

use std::net::IpAddr;
use std::sync::Arc;

use cnm::controller::{JoinSpec, PortSpec, SandboxSpec};
use cnm::driver::Reach;
use cnm::sandbox::Attachment;
use cnm::{Endpoint, Kind, Network, Sandbox};
use dns::protocol::{EndpointNames, SandboxView};

use super::Containers;
use super::foresee::check_endpoint;
use super::readiness::conditions;
use super::{Container, ContainerId, EndpointView, PublishedPort};
use crate::network::{HostNames, NetworkNames, SandboxNames};
use engine_error::{Error, Result};
use runtime::spec::network_sysctls;

/// The time to live of local names in seconds: short, for a container may come back elsewhere.
pub(super) const TTL: u32 = 5;

/// Where a container's interfaces are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In a sandbox of its own.
    Own,
    /// In the host's namespace.
    Host,
    /// In the sandbox of another container, whose id this is.
    Shared(ContainerId),
}

impl Containers {
    /// Where a container's interfaces are to be.
    pub(crate) fn place(&self, container: &Container) -> Result<Place> {
        if let Some(other) = container.spec.network_mode().container() {
            let other = self.registry.find(other).map_err(|error| {
                let text = format!("joining network namespace of container: {error}");
                Error::new(error.kind(), text)
            })?;
            return Ok(Place::Shared(other.get().id.clone()));
        }
        for endpoint in &container.endpoints {
            if self.network_of(endpoint)?.driver.traits().is_of_host() {
                return Ok(Place::Host);
            }
        }
        Ok(Place::Own)
    }

    /// The network of an endpoint that is wanted: by its id, or by its name if it was made anew.
    pub(crate) fn network_of(&self, endpoint: &EndpointView) -> Result<Arc<Network>> {
        let by_id = endpoint.network_id.as_ref().map(|id| self.networks.network(id.as_str()));
        match by_id {
            Some(Ok(network)) => Ok(network),
            _ => self.networks.network(&endpoint.network).map_err(|error| match error.kind() {
                Kind::Unavailable => error,
                _ => Error::not_found(format!("network {} not found", endpoint.network)),
            }),
        }
    }

    /// What to ask the controller for.
    pub(crate) fn sandbox_spec(&self, container: &Container) -> Result<SandboxSpec> {
        let mut joins = Vec::new();
        for endpoint in &container.endpoints {
            let network = self.network_of(endpoint)?;
            if !network.driver.traits().is_none() {
                joins.push(join_spec(container, &network, endpoint)?);
            }
        }
        let sysctls = network_sysctls(&container.spec.sysctls);
        Ok(SandboxSpec {
            owner: container.id.to_string(),
            resolver: !joins.is_empty(),
            sysctls: sysctls
                .into_iter()
                .map(|(name, value)| (name.replace('.', "/"), value))
                .collect(),
            ports: if joins.is_empty() { Vec::new() } else { ports(container) },
            joins,
            closed: conditions(container).into_keys().collect(),
            passages: self.passages(container),
        })
    }

    /// What the resolver is to answer for a container, and in it.
    pub(crate) fn sandbox_names(
        &self,
        container: &Container,
        sandbox: &Sandbox,
        endpoints: &[Arc<Endpoint>],
    ) -> Result<SandboxNames> {
        let mut names = Vec::with_capacity(endpoints.len());
        let (mut forward, mut resolvers) = (false, Vec::new());
        for endpoint in endpoints {
            let network = self.networks.network(endpoint.network.as_str())?;
            if !network.internal {
                forward = true;
                resolvers.extend(network.resolvers());
            }
            names.push(NetworkNames {
                network: network.id.clone(),
                network_name: network.name.clone(),
                names: EndpointNames {
                    endpoint: endpoint.id.clone(),
                    names: names_of(container, &endpoint.aliases),
                    addresses: endpoint.addresses.iter().map(ipnetwork::IpNetwork::ip).collect(),
                    services: services(container),
                },
            });
        }
        // The container's own come first, then those of its networks, then those of the daemon.
        let all = [&container.spec.dns, &resolvers, &self.settings.dns];
        let upstreams = all.into_iter().find(|list| !list.is_empty()).cloned().unwrap_or_default();
        let view = SandboxView {
            sandbox: sandbox.id.clone(),
            networks: endpoints.iter().map(|endpoint| endpoint.network.clone()).collect(),
            private: self.linked_names(container).into_iter().collect(),
            upstreams,
            forward,
            ttl: TTL,
        };
        Ok(SandboxNames { view, resolver: sandbox.resolver, endpoints: names })
    }

    /// What a running container knows of its networks.
    pub(crate) fn endpoint_views(
        &self,
        container: &Container,
        endpoints: &[Arc<Endpoint>],
    ) -> Result<Vec<EndpointView>> {
        let mut views = Vec::with_capacity(container.endpoints.len());
        for wanted in &container.endpoints {
            let network = self.network_of(wanted)?;
            let mut view = EndpointView {
                network: network.name.clone(),
                network_id: Some(network.id.clone()),
                spec: wanted.spec.clone(),
                unpublished: !publishes(&network),
                ..EndpointView::default()
            };
            if let Some(endpoint) = endpoints.iter().find(|e| e.network == network.id) {
                view.id = endpoint.id.to_string();
                view.addresses.clone_from(&endpoint.addresses);
                view.gateways = gateways(&network, endpoint);
                view.mac = network.driver.has_hardware_addresses().then_some(endpoint.mac);
                view.names = names_of(container, &endpoint.aliases);
            }
            views.push(view);
        }
        Ok(views)
    }
}

/// A request to join a network.
pub(crate) fn join_spec(
    container: &Container,
    network: &Network,
    endpoint: &EndpointView,
) -> Result<JoinSpec> {
    let spec = &endpoint.spec;
    let addresses: Vec<IpAddr> = [spec.ipv4, spec.ipv6].into_iter().flatten().collect();
    check_endpoint(network, spec)?;
    Ok(JoinSpec {
        network: Some(network.id.clone()),
        mac: spec.mac,
        link_local: spec.link_local.clone(),
        addresses,
        aliases: spec.aliases.clone(),
        gateway_priority: spec.gateway_priority,
        options: spec.options.clone(),
        any_source: administers_networks(container),
        exposed: services(container),
        ..JoinSpec::default()
    })
}

/// Whether a container may change its interfaces, and so may have addresses that nobody else knows of.
fn administers_networks(container: &Container) -> bool {
    let spec = &container.spec;
    let grants = |name: &String| {
        let name = name.to_ascii_uppercase();
        matches!(name.strip_prefix("CAP_").unwrap_or(&name), "ALL" | "NET_ADMIN")
    };
    spec.privileged || spec.cap_add.iter().any(grants)
}

/// All names of a container on a network. The first one is what its address is called.
fn names_of(container: &Container, aliases: &[String]) -> Vec<String> {
    let mut names = vec![container.name.clone()];
    let rest = aliases.iter().map(String::as_str);
    for name in rest.chain([container.short_id(), &container.resolved.hostname]) {
        if !name.is_empty() && !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    names
}

/// What a container in the host's namespace is called.
pub(super) fn host_names(container: &Container) -> HostNames {
    HostNames {
        owner: container.id.to_string(),
        names: names_of(container, &[]),
        services: services(container),
    }
}

fn services(container: &Container) -> Vec<(cnm::Protocol, u16)> {
    container.resolved.exposed.iter().map(|&(port, protocol)| (protocol, port)).collect()
}

/// Whether ports are published on a network, in one family or both.
fn publishes(network: &Network) -> bool {
    let profile = network.profile();
    let leads = |ipv6| matches!(profile.reach(ipv6), Reach::Translated | Reach::Routed);
    network.driver.traits().publishes && !network.internal && [false, true].into_iter().any(leads)
}

fn gateways(network: &Network, endpoint: &Endpoint) -> Vec<IpAddr> {
    if network.internal {
        return Vec::new();
    }
    let of = Attachment { network, endpoint };
    [false, true].into_iter().filter_map(|ipv6| of.gateway(ipv6)).collect()
}

/// What is asked of the controller for all that is published.
pub(crate) fn ports(container: &Container) -> Vec<PortSpec> {
    container.published().iter().map(port_spec).collect()
}

/// What is asked of the controller for one port.
pub(crate) fn port_spec(published: &PublishedPort) -> PortSpec {
    PortSpec {
        host: published.host,
        host_ports: published.host_ports.0..=published.host_ports.1,
        protocol: published.protocol,
        port: published.port,
    }
}
