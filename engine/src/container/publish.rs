//! Publishing and withdrawing ports of a container, whether it runs or not.
//!
//! What is published is part of what was asked for: it holds after a restart of the container and of
//! the daemon. Of a container that runs only the ports that are named change; connections to others do
//! not notice. Those to a withdrawn port end, at once or after a while (`docs/adr/0050`).

mod drain;
mod selection;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use cnm::controller::{PortSpec, PortsChange};
use cnm::store::{Batch, Durability};
use cnm::{PortBinding, Protocol};
use serde_json::{Value, json};

use super::join::{Place, port_spec};
use super::live::Live;
use super::readiness::{self, conditions};
use super::{Container, Containers, PublishedPort, Status, merge};
use crate::network::Change;
pub use drain::Draining;
use engine_error::{Error, Result};
use selection::{Selected, select};

/// What is to change about a container's published ports, in one go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortChange {
    /// The ports to publish.
    pub add: Vec<PublishedPort>,
    /// The ports to withdraw. What is left open, the host's address or port, is any.
    pub remove: Vec<PublishedPort>,
    /// How long connections to the withdrawn ports may go on.
    pub drain: Duration,
}

impl Containers {
    /// Publishes and withdraws ports; returns what the user should know. Blocks.
    pub fn change_ports(&self, key: &str, change: &PortChange) -> Result<Vec<String>> {
        let live = self.registry.find(key)?;
        let _turn = live.lifecycle.blocking_lock();
        let before = live.get();
        self.check_publishes(&before)?;
        let selected = select(&before.published(), &before.ports, &change.remove)
            .map_err(|port| not_published(&before, &port))?;
        let after = self.with_ports(&before, &selected, &change.add)?;
        readiness::check(&after)?;
        let Some(sandbox) = &before.sandbox else {
            let warnings = self.foresee(&after)?;
            self.save(&after, Durability::Immediate)?;
            live.change(|container| take_ports(container, &after));
            return Ok(warnings);
        };
        let add: Vec<PortSpec> = change.add.iter().map(port_spec).collect();
        let closed = self.closed_after(&before, &after);
        let (remove, closed) = (&selected.bindings[..], Some(&closed));
        let decided = PortsChange { add: &add, remove, closed };
        let decided = self
            .networks
            .begin_change_ports(sandbox, &decided)
            .map_err(|error| self.explain(error, &before, &add))?;
        let warnings = decided.warnings().to_vec();
        self.republish_ports(&live, &after, decided, change.drain)?;
        Ok(warnings)
    }

    /// The ports that are closed when a container with some ports becomes one with others: those that
    /// were, and those that wait for something and are new.
    fn closed_after(&self, before: &Container, after: &Container) -> BTreeSet<(Protocol, u16)> {
        let (old, new) = (conditions(before), conditions(after));
        let closed = self.closed_ports(before);
        let waits = |port: &(Protocol, u16)| closed.contains(port) || !old.contains_key(port);
        new.into_keys().filter(waits).collect()
    }

    /// Makes a decided change true, and part of the container.
    fn republish_ports(
        &self,
        live: &Arc<Live>,
        after: &Container,
        change: Change,
        drain: Duration,
    ) -> Result<()> {
        let change = if drain.is_zero() { change } else { change.with_connections_going_on() };
        let applied = self
            .sandbox_names(after, &change.sandbox, &change.endpoints)
            .and_then(|names| self.networks.apply(&change, &names, &|| ()));
        if let Err(error) = applied {
            self.networks.abandon(change);
            return Err(error);
        }
        let draining = drain::of(&change, drain);
        if drain.is_zero() {
            self.networks.redirect_flows(&change);
            self.cut(&drain::of(&change, Duration::ZERO));
        } else {
            self.networks.redirect_other_flows(&change);
        }
        let ports = change.sandbox.ports.clone();
        let (container, old) = live.change(|container| {
            take_ports(container, after);
            container.draining.extend(draining.clone());
            // What is published again is no longer on its way out.
            container.draining.retain(|old| !ports.contains(&old.binding));
            std::mem::replace(&mut container.ports, ports)
        });
        self.networks.finish(change, Self::record(&container));
        // The answer must be true after a crash, too.
        self.networks.note(|_| Batch::default(), Batch::default(), Durability::Immediate);
        for (action, some, others) in
            [("unpublish", &old, &container.ports), ("publish", &container.ports, &old)]
        {
            for port in some.iter().filter(|port| !others.contains(port)) {
                self.tell(&container, action, &[("port", &text(port))]);
            }
        }
        self.watch_readiness(live);
        if !draining.is_empty() {
            self.drain(live);
        }
        Ok(())
    }

    /// Fails if a container has no ports of its own.
    fn check_publishes(&self, container: &Container) -> Result<()> {
        let name = &container.name;
        match container.state.status {
            Status::Removing | Status::Dead => {
                let text = format!("container {name} is being removed");
                return Err(Error::conflict(text));
            }
            _ => {}
        }
        if let Some(other) = container.spec.network_mode().container() {
            let other = self.registry.find(other).map(|live| live.get().name.clone());
            let other = other.unwrap_or_else(|_| "that is gone".to_owned());
            return Err(Error::invalid(format!(
                "container {name} is in the network namespace of container {other}: publish ports \
                 of that one"
            )));
        }
        if matches!(self.place(container), Ok(Place::Host)) {
            return Err(Error::invalid(format!(
                "container {name} is on the host's network: all of its ports are open there, and \
                 none can be published"
            )));
        }
        Ok(())
    }

    /// A container with some ports withdrawn and some more published.
    fn with_ports(
        &self,
        before: &Container,
        selected: &Selected,
        add: &[PublishedPort],
    ) -> Result<Container> {
        let mut after = before.clone();
        let mut ports = selected.kept.clone();
        for port in add {
            // A port of the engine's choice is never twice the same.
            let same =
                |known: &PublishedPort| PublishedPort { when: port.when, ..known.clone() } == *port;
            if port.host_ports != (0, 0) && ports.iter().any(same) {
                return Err(Error::conflict(format!(
                    "container {} publishes {} already",
                    before.name,
                    selection::text(port)
                )));
            }
            ports.push(port.clone());
        }
        after.spec.ports = ports;
        // What was published because it was exposed is written down, each port by itself.
        after.spec.publish_all = false;
        if after.spec.wire_host_config.is_object() {
            let shown = Arc::make_mut(&mut after.spec.wire_host_config);
            shown["PortBindings"] = port_bindings(&after.spec.ports);
            shown["PublishAllPorts"] = false.into();
        }
        after.resolved.exposed = if let Ok(image) = self.images.find(&after.image) {
            merge::exposed_by(&after.spec, &image.config)?
        } else {
            // Whatever it was exposed for stays.
            let own = after.spec.ports.iter().map(|port| (port.port, port.protocol));
            let all: BTreeSet<_> = before.resolved.exposed.iter().copied().chain(own).collect();
            all.into_iter().collect()
        };
        Ok(after)
    }
}

/// Takes over from a container with other ports what is other with it.
fn take_ports(container: &mut Container, after: &Container) {
    container.spec.ports.clone_from(&after.spec.ports);
    container.spec.publish_all = after.spec.publish_all;
    container.spec.wire_host_config.clone_from(&after.spec.wire_host_config);
    container.resolved.exposed.clone_from(&after.resolved.exposed);
}

fn not_published(container: &Container, port: &PublishedPort) -> Error {
    let name = &container.name;
    let all: Vec<_> = container.published().iter().map(selection::text).collect();
    let all = if all.is_empty() { "nothing".to_owned() } else { all.join(", ") };
    let wanted = selection::text(port);
    Error::not_found(format!("container {name} does not publish {wanted}: it publishes {all}"))
}

/// `HostConfig.PortBindings`.
fn port_bindings(ports: &[PublishedPort]) -> Value {
    let mut map: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for port in ports {
        let host = port.host.map(|host| host.to_string()).unwrap_or_default();
        let numbers = match port.host_ports {
            (0, 0) => String::new(),
            (first, last) if first == last => first.to_string(),
            (first, last) => format!("{first}-{last}"),
        };
        let binding = json!({"HostIp": host, "HostPort": numbers});
        map.entry(format!("{}/{}", port.port, port.protocol)).or_default().push(binding);
    }
    json!(map)
}

/// `0.0.0.0:8080->80/tcp`.
fn text(binding: &PortBinding) -> String {
    let PortBinding { host, host_port, protocol, port } = binding;
    let host = std::net::SocketAddr::new(*host, *host_port);
    format!("{host}->{port}/{protocol}")
}
