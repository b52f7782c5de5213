//! Connections to withdrawn ports that may go on for a while.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use cnm::PortBinding;
use cnm::store::Durability;
use dns::protocol::HeldPort;
use drivers::kernel::conntrack::Way;

use super::super::Containers;
use super::super::live::Live;
use crate::network::Change;

/// A port that is withdrawn and whose connections go on until a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draining {
    /// The port.
    pub binding: PortBinding,
    /// The endpoint's address that it led to.
    pub to: IpAddr,
    /// When the connections end.
    pub until: DateTime<Utc>,
}

/// What a change withdraws, with the time that its connections have.
pub(super) fn of(change: &Change, patience: Duration) -> Vec<Draining> {
    let until = Utc::now() + patience;
    let translated = change.closed().iter().map(|(binding, way)| (binding, way.to));
    let carried = change.carried().map(|(binding, target)| (binding, target.ip()));
    // What is translated and what is carried of the same port leads to the same endpoint.
    let all: BTreeMap<_, _> = translated.chain(carried).collect();
    let draining =
        |(binding, to): (&PortBinding, _)| Draining { binding: binding.clone(), to, until };
    all.into_iter().map(draining).collect()
}

impl Draining {
    /// Where the kernel translates what comes to it; nowhere if that is only carried.
    fn way(&self) -> Option<Way> {
        let PortBinding { host, host_port, protocol, port } = self.binding;
        if host.is_ipv4() != self.to.is_ipv4() || (host.is_ipv6() && host.is_loopback()) {
            return None;
        }
        // One that is open at the endpoint's own address has no number on the host.
        let host_port = if host_port == 0 { port } else { host_port };
        Some(Way { protocol, host_port, to: self.to, port })
    }

    /// Where what comes to it is carried.
    fn carried(&self) -> HeldPort {
        let target = Some(SocketAddr::new(self.to, self.binding.port));
        HeldPort { binding: self.binding.clone(), target, twin: None }
    }
}

impl Containers {
    /// Ends the connections to a container's withdrawn ports when their time is over, also one that
    /// an earlier daemon gave them.
    pub(crate) fn drain(&self, live: &Arc<Live>) {
        let (containers, live) = (self.weak(), live.clone());
        self.tasks.spawn(async move {
            while let Some(next) = live.get().draining.iter().map(|port| port.until).min() {
                let pause = (next - Utc::now()).to_std().unwrap_or_default();
                tokio::time::sleep(pause).await;
                let Some(containers) = containers.upgrade() else { return };
                let its = live.clone();
                let end = move || containers.end_drained(&its);
                let _ = tokio::task::spawn_blocking(end).await;
            }
        });
    }

    fn end_drained(&self, live: &Live) {
        let _turn = live.lifecycle.blocking_lock();
        let now = Utc::now();
        let over = |port: &Draining| port.until <= now;
        let (container, ended) = live.change(|container| {
            let ended: Vec<_> =
                container.draining.iter().filter(|port| over(port)).cloned().collect();
            container.draining.retain(|port| !over(port));
            ended
        });
        if !ended.is_empty() {
            self.cut(&ended);
            self.note(&container, Durability::Eventual);
        }
    }

    /// Ends connections now.
    pub(super) fn cut(&self, ports: &[Draining]) {
        let ways: Vec<_> = ports.iter().filter_map(Draining::way).collect();
        let carried: Vec<_> = ports.iter().map(Draining::carried).collect();
        if let Err(error) = self.networks.cut_flows(&ways, &carried) {
            tracing::error!(error = error.chain(), "connections to withdrawn ports go on");
        }
    }
}
