//! `network connect` and `network disconnect`, on running and on stopped containers.

use std::sync::Arc;

use cnm::controller::Lent;
use cnm::store::{Batch, Durability};
use cnm::{Controller, Kind, Network, NetworkId, SandboxId};
use drivers::kernel::Announcements;

use super::Containers;
use super::create::reserve_addresses;
use super::foresee::check_endpoint;
use super::join::{Place, join_spec, ports};
use super::live::Live;
use super::run_spec::Connectivity;
use super::{Container, EndpointSpec, EndpointView};
use crate::network::Change;
use engine_error::{Error, Result};
use runtime::spec::Namespace;

impl Containers {
    /// Joins a container to a network, whether it runs or not. Blocks.
    pub fn connect(&self, network: &str, container: &str, spec: EndpointSpec) -> Result<()> {
        let live = self.registry.find(container)?;
        let network = self.networks.network(network)?;
        let _turn = live.lifecycle.blocking_lock();
        let before = live.get();
        check_connect(&network, &before, &spec)?;
        let view = self.endpoint_view(network.id.as_str(), spec);
        join_spec(&before, &network, &view)?;
        if !view.spec.links.is_empty() {
            self.registry.note_links(&before.id);
        }
        if !before.state.has_process() && before.sandbox.is_none() {
            return self.note_connect(&live, view);
        }
        let Some(sandbox) = &before.sandbox else { return Err(shares_network()) };
        let join = join_spec(&before, &network, &view)?;
        let change = self.networks.begin_join(sandbox, &join, &ports(&before))?;
        let mut after = Container::clone(&before);
        after.endpoints.push(view);
        // `none` is what a container has that has no network.
        after.endpoints.retain(|endpoint| !self.is_none(endpoint));
        self.rewire(&live, &after, change)?;
        let container = live.get();
        let keep =
            |model: &mut Controller| reserve_addresses(model, &container.id, &container.endpoints);
        // The answer must be true after a crash, too.
        self.networks.note(keep, Batch::default(), Durability::Immediate);
        if let Some(endpoint) = container.endpoints.last() {
            self.tell_network("connect", endpoint, &container);
        }
        Ok(())
    }

    /// Takes a container off a network. Blocks.
    pub fn disconnect(&self, network: &str, container: &str, force: bool) -> Result<()> {
        let live = match self.registry.find(container) {
            Err(error) if force && error.kind() == Kind::NotFound => {
                let network = self.networks.network(network)?;
                return self.evict(&network, container);
            }
            other => other?,
        };
        let network = self.networks.network(network)?;
        let _turn = live.lifecycle.blocking_lock();
        let before = live.get();
        let is_it = |id: Option<&NetworkId>, name: &str| {
            id == Some(&network.id) || (id.is_none() && name == network.name)
        };
        let place = before
            .endpoints
            .iter()
            .position(|endpoint| is_it(endpoint.network_id.as_ref(), &endpoint.network));
        let Some(place) = place else {
            return Err(Error::new(
                Kind::Forbidden,
                format!("container {} is not connected to network {}", before.id, network.name),
            ));
        };
        if network.driver.traits().is_of_host() {
            return Err(Error::new(
                Kind::Forbidden,
                "container cannot be disconnected from host network",
            ));
        }
        let mut after = Container::clone(&before);
        let gone = after.endpoints.remove(place);
        match &before.sandbox {
            Some(sandbox) if !network.driver.traits().is_none() => {
                let change = self.networks.begin_leave(sandbox, &network.id)?;
                self.rewire(&live, &after, change)?;
                let release = |model: &mut Controller| release(model, &before.id, &gone);
                self.networks.note(release, Batch::default(), Durability::Immediate);
                self.networks.forget_on(&network, &before.id, gone.spec.mac);
                self.tell_network("disconnect", &gone, &before);
                Ok(())
            }
            _ => {
                self.note_disconnect(&live, after)?;
                self.networks.forget_on(&network, &before.id, gone.spec.mac);
                Ok(())
            }
        }
    }

    /// Removes a network; with `force` all containers are taken off it before. Blocks.
    pub fn remove_network(&self, network: &str, force: bool) -> Result<()> {
        if force {
            self.disconnect_all(network)?;
        }
        self.networks.remove(network).map_err(|error| self.with_names(error))
    }

    /// An error that tells who is on a network, with the names of containers in place of their ids.
    fn with_names(&self, error: Error) -> Error {
        const NAME: &str = "name:\"";
        let text = error.to_string();
        let mut parts = text.split(NAME);
        let before = parts.next().unwrap_or_default().to_owned();
        if before.len() == text.len() {
            return error;
        }
        let named = parts.map(|part| {
            let (id, rest) = part.split_once('"').unwrap_or((part, ""));
            let name = self.find(id).map_or_else(|_| id.to_owned(), |found| found.name.clone());
            format!("{NAME}{name}\"{rest}")
        });
        Error::new(error.kind(), before + &named.collect::<String>())
    }

    /// Takes all running containers off a network that is to go. Blocks.
    pub fn disconnect_all(&self, network: &str) -> Result<()> {
        let network = self.networks.network(network)?;
        if network.predefined {
            // Its removal is refused.
            return Ok(());
        }
        for (endpoint, container) in self.on_network(&network.id) {
            let key = match (container, self.networks.sandbox(&endpoint.sandbox)) {
                (Some(container), _) => container.id.to_string(),
                (None, Ok((sandbox, _))) => sandbox.owner.clone(),
                // It is gone by itself.
                (None, Err(_)) => continue,
            };
            self.disconnect(network.id.as_str(), &key, true)?;
        }
        Ok(())
    }

    /// Carries out a change of a running container's networks.
    fn rewire(&self, live: &Arc<Live>, after: &Container, change: Change) -> Result<()> {
        let applied = self
            .sandbox_names(after, &change.sandbox, &change.endpoints)
            .and_then(|names| self.networks.apply(&change, &names, &|| ()))
            .map(Announcements::tell)
            .inspect(|()| self.networks.redirect_flows(&change))
            .and_then(|()| self.endpoint_views(after, &change.endpoints));
        let views = match applied {
            Ok(views) => views,
            Err(error) => {
                self.networks.undo(&change);
                self.networks.abandon(change);
                return Err(error);
            }
        };
        let old = self.networks.sandbox(&change.sandbox.id)?.0;
        let ports = change.sandbox.ports.clone();
        let (container, ()) = live.change(|container| {
            container.endpoints = views;
            container.ports = ports;
        });
        let addresses = change.endpoints.iter().flat_map(|endpoint| &endpoint.addresses);
        let connectivity = Connectivity {
            place: Place::Own,
            namespace: Namespace::Path(container.sandbox_key.clone()),
            // It is in it already.
            user: None,
            addresses: addresses.map(ipnetwork::IpNetwork::ip).collect(),
            resolver: change.sandbox.resolver,
        };
        self.networks.finish(change, Self::record(&container));
        if connectivity.resolver && !old.resolver {
            self.write_resolv_conf(&container, &connectivity)?;
        }
        self.write_hosts(&container, &connectivity)?;
        self.tell_linking(&container);
        Ok(())
    }

    /// Gives a running container's endpoint the address that is lent to it now, or takes away the one
    /// that is not lent any more. Blocks.
    pub(crate) fn renumber(
        &self,
        sandbox: &SandboxId,
        network: &NetworkId,
        lent: Option<Lent>,
    ) -> Result<()> {
        let live = self.registry.find(&self.networks.sandbox(sandbox)?.0.owner)?;
        let _turn = live.lifecycle.blocking_lock();
        let before = live.get();
        let change = self.networks.begin_renumber(sandbox, network, lent)?;
        self.rewire(&live, &before, change)?;
        let container = live.get();
        let is_it = |endpoint: &&EndpointView| endpoint.network_id.as_ref() == Some(network);
        if let Some(endpoint) = container.endpoints.iter().find(is_it) {
            self.tell_network("renumber", endpoint, &container);
        }
        Ok(())
    }

    /// A container that does not run will join the network when it starts.
    fn note_connect(&self, live: &Live, view: EndpointView) -> Result<()> {
        let mut after = Container::clone(&live.get());
        after.endpoints.retain(|endpoint| !self.is_none(endpoint));
        after.endpoints.push(view);
        let reserve =
            |model: &mut Controller| Ok(reserve_addresses(model, &after.id, &after.endpoints));
        self.networks.write(reserve, Self::record(&after), Durability::Immediate)?;
        live.change(|container| container.endpoints = after.endpoints);
        Ok(())
    }

    fn note_disconnect(&self, live: &Live, after: Container) -> Result<()> {
        let renew = |model: &mut Controller| {
            let mut batch = model.forget_owner(&after.id);
            batch.extend(reserve_addresses(model, &after.id, &after.endpoints));
            Ok(batch)
        };
        self.networks.write(renew, Self::record(&after), Durability::Immediate)?;
        live.change(|container| container.endpoints = after.endpoints);
        Ok(())
    }

    /// Removes an endpoint whose container does not exist any more.
    fn evict(&self, network: &Network, key: &str) -> Result<()> {
        let endpoints = self.networks.controller().endpoints_of(&network.id);
        for endpoint in endpoints {
            let (sandbox, _) = self.networks.sandbox(&endpoint.sandbox)?;
            if sandbox.owner.starts_with(key) && self.registry.find(&sandbox.owner).is_err() {
                return self.networks.close(&sandbox.id, Batch::default());
            }
        }
        Err(Error::not_found(format!("endpoint {key} not found")))
    }

    fn is_none(&self, endpoint: &EndpointView) -> bool {
        self.network_of(endpoint).is_ok_and(|network| network.driver.traits().is_none())
    }
}

/// Lets go of the static addresses of an endpoint that is gone for good.
fn release(model: &mut Controller, id: &str, endpoint: &EndpointView) -> Batch {
    let mut batch = Batch::default();
    let Some(network) = &endpoint.network_id else { return batch };
    for address in [endpoint.spec.ipv4, endpoint.spec.ipv6].into_iter().flatten() {
        batch.extend(model.release_static(id, network, address));
    }
    batch
}

fn check_connect(network: &Network, container: &Container, spec: &EndpointSpec) -> Result<()> {
    if container.spec.network_mode().container().is_some() {
        return Err(shares_network());
    }
    if network.driver.traits().is_of_host() {
        return Err(Error::new(
            Kind::Forbidden,
            "cannot connect container to host network - container must be created in host network mode",
        ));
    }
    if network.driver.traits().is_none() {
        return Err(Error::new(
            Kind::Forbidden,
            "container cannot be connected to multiple networks with one of the networks in \
             private (none) mode",
        ));
    }
    // What can never be is told before what is so now.
    check_endpoint(network, spec)?;
    if container.endpoints.iter().any(|e| e.network_id.as_ref() == Some(&network.id)) {
        return Err(Error::new(
            Kind::Forbidden,
            format!(
                "endpoint with name {} already exists in network {}",
                container.name, network.name
            ),
        ));
    }
    Ok(())
}

fn shares_network() -> Error {
    Error::invalid(
        "container sharing network namespace with another container or host cannot be connected \
         to any other network",
    )
}
