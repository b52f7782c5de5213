//! Published ports that open when the container is ready for them, and close when it no longer is.
//!
//! Until then the port is reserved and its clients are refused, as they would be without the container;
//! nobody gets a connection that ends without a word (`docs/adr/0051`). The kernel does not tell when a
//! socket begins to listen, so it is asked: often while a start is under way, rarely afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use chrono::Utc;
use cnm::controller::PortsChange;
use cnm::{Protocol, SandboxId};
use drivers::kernel::Listeners;

use super::health::HealthStatus;
use super::live::Live;
use super::spec::PublishWhen;
use super::{Container, Containers};
use engine_error::{Error, Result};

/// The label that says when a container's ports open, where a port does not say it itself.
pub(crate) const LABEL: &str = "rnet.publish-when";

/// How often a container is looked at that was started lately and is not ready.
const EAGER: Duration = Duration::from_millis(50);
/// For how long a start is lately.
const LATELY: i64 = 10;
/// How often one is looked at that takes longer.
const PATIENT: Duration = Duration::from_millis(250);
/// How often one is looked at that is ready.
const CALM: Duration = Duration::from_secs(1);

/// A port inside of a container.
type Port = (Protocol, u16);

/// The ports that wait for something, with what they wait for. That a label makes sense was checked
/// when the container was made.
pub(crate) fn conditions(container: &Container) -> BTreeMap<Port, PublishWhen> {
    let of_all = of_label(container).unwrap_or_default();
    let ports = container.published().into_iter();
    let when = ports.map(|port| ((port.protocol, port.port), port.when.unwrap_or(of_all)));
    when.filter(|(_, when)| *when != PublishWhen::Always).collect()
}

/// Refuses conditions that can never be met, or of which there are two for one port.
pub(crate) fn check(container: &Container) -> Result<()> {
    let of_all = of_label(container)?;
    let mut known: BTreeMap<Port, PublishWhen> = BTreeMap::new();
    for port in container.published() {
        let when = port.when.unwrap_or(of_all);
        let text = format!("{}/{}", port.port, port.protocol);
        if *known.entry((port.protocol, port.port)).or_insert(when) != when {
            return Err(Error::invalid(format!(
                "port {text} cannot be published when both {} and {}: withdraw the other one first",
                known[&(port.protocol, port.port)].as_str(),
                when.as_str()
            )));
        }
        if when == PublishWhen::Listening && port.protocol == Protocol::Sctp {
            return Err(Error::invalid(format!(
                "whether somebody listens at port {text} is not known: publish it when healthy, or \
                 always"
            )));
        }
        let checks = container.resolved.healthcheck.as_ref();
        let checks = checks.and_then(|check| check.command(&container.resolved.shell));
        if when == PublishWhen::Healthy && checks.is_none() {
            return Err(Error::invalid(format!(
                "port {text} is to be published when the container is healthy, and it has no health \
                 check: add --health-cmd"
            )));
        }
    }
    Ok(())
}

fn of_label(container: &Container) -> Result<PublishWhen> {
    let Some(text) = container.resolved.labels.get(LABEL) else { return Ok(PublishWhen::Always) };
    PublishWhen::parse(text).ok_or_else(|| {
        Error::invalid(format!("invalid label {LABEL}={text}: use always, listening or healthy"))
    })
}

/// The ports that nobody is to reach yet.
fn unready(
    conditions: &BTreeMap<Port, PublishWhen>,
    is_healthy: bool,
    listening: &BTreeSet<Port>,
) -> BTreeSet<Port> {
    let waits = |(port, when): &(&Port, &PublishWhen)| match when {
        PublishWhen::Always => false,
        PublishWhen::Listening => !listening.contains(port),
        PublishWhen::Healthy => !is_healthy,
    };
    conditions.iter().filter(waits).map(|(port, _)| *port).collect()
}

impl Containers {
    /// The published ports of a running container that nobody is to reach yet.
    pub fn closed_ports(&self, container: &Container) -> BTreeSet<Port> {
        let sandbox = container.sandbox.as_ref().and_then(|id| self.networks.sandbox(id).ok());
        sandbox.map(|(sandbox, _)| sandbox.closed.clone()).unwrap_or_default()
    }

    /// Opens and closes the ports of a running container that wait for something, until it ends. Does
    /// nothing where nothing waits, or somebody is at it already.
    pub(crate) fn watch_readiness(&self, live: &Arc<Live>) {
        let mut progress = live.progress.subscribe();
        let ends = progress.borrow().ends;
        if conditions(&live.get()).is_empty() || !live.watch_ports(ends) {
            return;
        }
        let watch = watch(self.weak(), live.clone(), ends);
        self.tasks.spawn(async move {
            tokio::select! {
                _ = progress.wait_for(|now| now.ends != ends || now.removed) => {}
                () = watch => {}
            }
        });
    }

    /// Has nobody, or everybody, reach the ports of a container. Blocks.
    fn close_ports(&self, live: &Live, sandbox: &SandboxId, closed: &BTreeSet<Port>) -> Result<()> {
        let _turn = live.lifecycle.blocking_lock();
        let container = live.get();
        // It may have ended, or publish other ports, since it was looked at.
        let waits = conditions(&container);
        if container.sandbox.as_ref() != Some(sandbox) || !container.state.has_process() {
            return Ok(());
        }
        let closed: BTreeSet<_> =
            closed.iter().filter(|at| waits.contains_key(at)).copied().collect();
        let before = self.closed_ports(&container);
        let change = PortsChange { add: &[], remove: &[], closed: Some(&closed) };
        let change = self.networks.begin_change_ports(sandbox, &change)?;
        let applied = self
            .sandbox_names(&container, &change.sandbox, &change.endpoints)
            .and_then(|names| self.networks.apply(&change, &names, &|| ()));
        if let Err(error) = applied {
            self.networks.abandon(change);
            return Err(error);
        }
        // Connections that are under way go on; what has no connection follows.
        self.networks.redirect_flows(&change);
        self.networks.finish(change, cnm::store::Batch::default());
        for (action, some, others) in
            [("port_close", &closed, &before), ("port_open", &before, &closed)]
        {
            for (protocol, port) in some.difference(others) {
                self.tell(&container, action, &[("port", &format!("{port}/{protocol}"))]);
            }
        }
        Ok(())
    }
}

/// Looks at a container again and again.
async fn watch(containers: Weak<Containers>, live: Arc<Live>, ends: u64) {
    let mut progress = live.progress.subscribe();
    let mut listeners: Opened = None;
    loop {
        let Some(owner) = containers.upgrade() else { return };
        let container = live.get();
        let conditions = conditions(&container);
        if conditions.is_empty() {
            live.unwatch_ports(ends);
            // Somebody may have published one in between, and have seen that it is watched.
            if self::conditions(&live.get()).is_empty() || !live.watch_ports(ends) {
                return;
            }
            continue;
        }
        let pause = match (&container.sandbox, &mut listeners) {
            (Some(sandbox), listeners) => {
                let asks = conditions.values().any(|when| *when == PublishWhen::Listening);
                let listening = if asks {
                    let looked = look(owner.clone(), sandbox.clone(), listeners.take()).await;
                    let Some((found, kept)) = looked else { return };
                    *listeners = kept;
                    found
                } else {
                    BTreeSet::new()
                };
                let health = container.state.health.as_ref().map(|health| health.status);
                let healthy = health == Some(HealthStatus::Healthy);
                let closed = unready(&conditions, healthy, &listening);
                if closed != owner.closed_ports(&container) {
                    owner
                        .clone()
                        .close_by_itself(live.clone(), sandbox.clone(), closed.clone())
                        .await;
                }
                pause(&container, closed.is_empty())
            }
            _ => CALM,
        };
        drop(owner);
        // The next health check may be done meanwhile.
        let _ = tokio::time::timeout(pause, progress.changed()).await;
    }
}

/// Where one looks who listens, once it is opened.
type Opened = Option<Box<dyn Listeners>>;

/// The ports that somebody listens at in a sandbox, with what was opened for that. All sockets of the
/// sandbox are listed, which takes its time, so a thread does it that may block.
async fn look(
    containers: Arc<Containers>,
    sandbox: SandboxId,
    mut listeners: Opened,
) -> Option<(BTreeSet<Port>, Opened)> {
    let look = move || (containers.listening(&sandbox, &mut listeners), listeners);
    tokio::task::spawn_blocking(look).await.ok()
}

impl Containers {
    /// The ports that somebody listens at in a sandbox; none if it cannot be found out.
    fn listening(&self, sandbox: &SandboxId, listeners: &mut Opened) -> BTreeSet<Port> {
        let opened = match listeners {
            Some(opened) => Ok(opened),
            None => self.networks.kernel().listeners(sandbox).map(|new| listeners.insert(new)),
        };
        let told = opened.map_err(|error| Error::from(error).chain());
        told.and_then(|opened| opened.ports().map_err(|error| error.to_string())).unwrap_or_else(
            |error| {
                tracing::error!(sandbox = sandbox.short(), error, "who listens is not known");
                BTreeSet::new()
            },
        )
    }

    async fn close_by_itself(
        self: Arc<Self>,
        live: Arc<Live>,
        sandbox: SandboxId,
        ports: BTreeSet<Port>,
    ) {
        let work = tokio::task::spawn_blocking(move || {
            if let Err(error) = self.close_ports(&live, &sandbox, &ports) {
                let (container, error) = (live.get(), error.chain());
                let container = container.short_id();
                tracing::error!(container, error, "its ports are open or closed as they were");
            }
        });
        let _ = work.await;
    }
}

/// How long nobody looks at a container.
fn pause(container: &Container, is_ready: bool) -> Duration {
    let since =
        container.state.started.map_or(i64::MAX, |start| (Utc::now() - start).num_seconds());
    match is_ready {
        true => CALM,
        false if since < LATELY => EAGER,
        false => PATIENT,
    }
}

#[cfg(test)]
mod tests {
    use super::super::PublishedPort;
    use super::*;

    fn container(label: &str, ports: &[(u16, Option<PublishWhen>)]) -> Container {
        let mut container = Container::default();
        container.resolved.labels.insert(LABEL.to_owned(), label.to_owned());
        let port = |&(port, when): &(u16, Option<PublishWhen>)| PublishedPort {
            port,
            when,
            ..PublishedPort::default()
        };
        container.spec.ports = ports.iter().map(port).collect();
        container
    }

    #[test]
    fn a_port_waits_for_what_it_says_itself_or_what_the_label_says() {
        let ports = [(80, None), (81, Some(PublishWhen::Always)), (82, Some(PublishWhen::Healthy))];
        let waits = conditions(&container("listening", &ports));
        let expected = [(80, PublishWhen::Listening), (82, PublishWhen::Healthy)];
        assert_eq!(waits, expected.map(|(port, when)| ((Protocol::Tcp, port), when)).into());
        let listening = [(Protocol::Tcp, 80)].into();
        assert_eq!(unready(&waits, false, &listening), [(Protocol::Tcp, 82)].into());
        assert_eq!(unready(&waits, true, &BTreeSet::new()), [(Protocol::Tcp, 80)].into());
    }

    #[test]
    fn a_condition_that_can_never_be_met_is_refused() {
        let check = |container: &Container| check(container).unwrap_err().to_string();
        assert!(check(&container("soon", &[])).contains("invalid label rnet.publish-when=soon"));
        assert!(check(&container("healthy", &[(80, None)])).contains("no health check"));
        let two = [(80, None), (80, Some(PublishWhen::Always))];
        assert!(check(&container("listening", &two)).contains("both listening and always"));
        let mut sctp = container("listening", &[(80, None)]);
        sctp.spec.ports[0].protocol = Protocol::Sctp;
        assert!(check(&sctp).contains("is not known"));
    }
}
