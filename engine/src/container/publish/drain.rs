//! Connections to withdrawn ports that may go on for a while.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use cnm::PortBinding;
use cnm::store::Durability;
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
    let draining = |(binding, way): &(PortBinding, Way)| Draining {
        binding: binding.clone(),
        to: way.to,
        until,
    };
    change.closed().iter().map(draining).collect()
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
        let way = |port: &Draining| {
            let PortBinding { host_port, protocol, port: inside, .. } = port.binding;
            // One that is open at the endpoint's own address has no number on the host.
            let host_port = if host_port == 0 { inside } else { host_port };
            Way { protocol, host_port, to: port.to, port: inside }
        };
        if let Err(error) = self.networks.cut_flows(&ports.iter().map(way).collect::<Vec<_>>()) {
            tracing::error!(error = error.chain(), "connections to withdrawn ports go on");
        }
    }
}
