//! Network drivers, which decide, and the kernel they decide about, which acts.
//!
//! A network is planned by its driver. A sandbox is planned by the drivers of the networks that it
//! joined, and by what concerns it as a whole: its routes, its published ports and its sysctls.

mod bridge;
pub mod dhcp;
mod gateway;
mod guard;
mod host;
mod ipvlan;
mod isolation;
pub mod kernel;
mod macvlan;
mod null;
mod overlay;
mod parent;
mod portmap;
mod remote;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use cnm::Driver;
use cnm::driver::{Encryption, Node};
use cnm::sandbox::Attachment;
use cnm::{Key, Ns, PlanError, Planner, PortBinding, Sandbox, State, Value};

/// The drivers there are: a new one is a file and a line here.
const DRIVERS: &[&dyn Driver] = &[
    &bridge::Bridge,
    &host::Host,
    &ipvlan::Ipvlan,
    &macvlan::Macvlan,
    &null::Null,
    &overlay::Overlay,
];

/// All drivers, behind the model's one [`Planner`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Drivers;

impl Planner for Drivers {
    fn drivers(&self) -> &[&'static dyn Driver] {
        DRIVERS
    }

    fn remote(&self, plugin: &str) -> Option<&'static dyn Driver> {
        Some(remote::of(plugin))
    }

    fn sandbox(
        &self,
        sandbox: &Sandbox,
        attachments: &[Attachment<'_>],
    ) -> Result<State, PlanError> {
        if let Some(host) = attachments.iter().find(|of| is_host(of)) {
            return hosts_namespace(sandbox, *host, attachments.len());
        }
        let mut state = own_namespace(sandbox);
        for attachment in attachments {
            let planned = attachment.network.driver.endpoint(sandbox, *attachment)?;
            state.extend(interface_sysctls(sandbox, *attachment, &planned));
            state.extend(planned);
            state.extend(link_local(sandbox, *attachment));
        }
        yield_to_wishes(sandbox, &mut state);
        state.extend(attachments.iter().flat_map(|of| endpoint_sysctls(sandbox, *of)));
        state.extend(gateway::routes(sandbox, attachments));
        state.extend(portmap::elements(sandbox, attachments));
        state.extend(guard::elements(attachments));
        // The sandbox's own wishes go over what its networks would like.
        state.extend(sysctls(sandbox, &sandbox.sysctls));
        Ok(state)
    }

    fn cluster(&self, nodes: &[Node], encryption: Option<&Encryption>) -> State {
        overlay::cluster(nodes, encryption)
    }

    fn carried(
        &self,
        sandbox: &Sandbox,
        attachments: &[Attachment<'_>],
    ) -> BTreeMap<PortBinding, SocketAddr> {
        portmap::carried(sandbox, attachments)
    }
}

fn is_host(of: &Attachment<'_>) -> bool {
    of.network.driver.traits().is_of_host()
}

/// A sandbox on the host's network is the host's namespace: it has none of its own, so that it
/// cannot join another network either.
fn hosts_namespace(
    sandbox: &Sandbox,
    host: Attachment<'_>,
    networks: usize,
) -> Result<State, PlanError> {
    if networks == 1 {
        return Ok(State::default());
    }
    let (sandbox, network) = (sandbox.id.to_string(), host.network.name.clone());
    Err(PlanError::HostNetwork { sandbox, network })
}

fn own_namespace(sandbox: &Sandbox) -> State {
    let namespace = (Key::Namespace { sandbox: sandbox.id.clone() }, Value::Present);
    let resolver = (Key::Resolver { sandbox: sandbox.id.clone() }, Value::Present);
    [namespace].into_iter().chain(sandbox.resolver.then_some(resolver)).collect()
}

/// The addresses of an endpoint on its link.
fn link_addresses(ns: &Ns, of: Attachment<'_>) -> Result<Vec<(Key, Value)>, PlanError> {
    let Attachment { network, endpoint } = of;
    let address = |address: &ipnetwork::IpNetwork| {
        // Where there are no pools, others see to the addresses.
        if !network.pools.is_empty() && network.pool_of(address.ip()).is_none() {
            return Err(PlanError::AddressOutsideSubnet {
                endpoint: endpoint.id.to_string(),
                address: *address,
                network: network.name.clone(),
            });
        }
        let (ns, link) = (ns.clone(), endpoint.interface.clone());
        Ok((Key::Address { ns, link, address: *address }, Value::Present))
    };
    endpoint.addresses.iter().map(address).collect()
}

/// All of [`kernel::sysctl::of_interface`], where there is an interface; a driver's own word goes over them.
///
/// A new link announces its addresses to neighbours who knew another owner. They are unique,
/// which needs no proof; and no neighbour shall talk it into routes.
fn interface_sysctls(sandbox: &Sandbox, of: Attachment<'_>, planned: &State) -> Vec<(Key, Value)> {
    let (ns, name) = (Ns::Sandbox(sandbox.id.clone()), of.endpoint.interface.clone());
    let paths = kernel::sysctl::of_interface(&name);
    if planned.get(&Key::Link { ns: ns.clone(), name }).is_none() {
        return Vec::new();
    }
    let values = [true, true, false, false, of.endpoint.address(true).is_none()];
    let text = |value| Value::Text(u8::from(value).to_string());
    let value = |(path, value)| (Key::Sysctl { ns: ns.clone(), path }, text(value));
    paths.into_iter().zip(values).map(value).collect()
}

/// Routes to the other subnets of a network whose endpoints hear each other: they are neighbours.
fn neighbouring_subnets(ns: &Ns, of: Attachment<'_>) -> Vec<(Key, Value)> {
    let Attachment { network, endpoint } = of;
    let other = |pool: &&cnm::Pool| {
        let own = endpoint.address(pool.subnet.is_ipv6());
        own.is_some_and(|own| !pool.subnet.contains(own.ip()))
    };
    let route = |pool: &cnm::Pool| {
        let key = Key::Route { ns: ns.clone(), destination: pool.subnet };
        (key, Value::Route { link: endpoint.interface.clone(), via: None })
    };
    network.pools.iter().filter(other).map(route).collect()
}

/// Addresses that were asked for beside those of the network.
fn link_local(sandbox: &Sandbox, of: Attachment<'_>) -> impl Iterator<Item = (Key, Value)> {
    let (ns, link) = (Ns::Sandbox(sandbox.id.clone()), of.endpoint.interface.clone());
    of.endpoint.link_local_networks().map(move |address| {
        let key = Key::Address { ns: ns.clone(), link: link.clone(), address };
        (key, Value::Present)
    })
}

/// What a driver would like of an interface is nothing against what the user said of all of them:
/// the kernel would take ours for the more particular word.
fn yield_to_wishes(sandbox: &Sandbox, state: &mut State) {
    let wished = state.iter().filter_map(|(key, _)| {
        let Key::Sysctl { path, .. } = key else { return None };
        let link = cnm::ground::link_of(path)?;
        let (family, leaf) = (path.split('/').nth(1)?, path.rsplit('/').next()?);
        let value = cnm::sandbox::wish(&sandbox.sysctls, family, &link, leaf)?;
        Some((key.clone(), Value::Text(value.to_owned())))
    });
    let wished: Vec<_> = wished.collect();
    state.extend(wished);
}

/// The sysctls that were given with an endpoint.
fn endpoint_sysctls(sandbox: &Sandbox, of: Attachment<'_>) -> impl Iterator<Item = (Key, Value)> {
    sysctls(sandbox, &of.endpoint.sysctls)
}

/// The kernel prints the fields of a value with single blanks between them.
fn sysctls(sandbox: &Sandbox, given: &[(String, String)]) -> impl Iterator<Item = (Key, Value)> {
    let ns = Ns::Sandbox(sandbox.id.clone());
    given.iter().map(move |(path, value)| {
        let value = value.split_whitespace().collect::<Vec<_>>().join(" ");
        (Key::Sysctl { ns: ns.clone(), path: path.clone() }, Value::Text(value))
    })
}

#[cfg(test)]
mod tests;
