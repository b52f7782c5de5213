//! What other hosts of a cluster are and have: told here, made true in the kernel, and answered.

use std::collections::BTreeMap;
use std::net::IpAddr;

use cnm::controller::Subject;
use cnm::driver::{Node, Peer, PeersChange};
use cnm::{EndpointId, NetworkId, State, WireGuard, diff};
use dns::protocol::EndpointNames;

use crate::network::Networks;
use engine_error::{Error, Result};

impl Networks {
    /// Endpoints of a network have come, changed or gone on other hosts.
    pub(crate) fn tell_peers(&self, network: &NetworkId, change: PeersChange) -> Result<()> {
        self.make_true(&Subject::Network(network.clone()), |networks| {
            networks.controller().tell_peers(network, change)
        })
    }

    /// These are all endpoints that a network has on other hosts.
    pub(crate) fn tell_all_peers(&self, network: &NetworkId, all: Vec<Peer>) -> Result<()> {
        self.make_true(&Subject::Network(network.clone()), |networks| {
            networks.controller().tell_all_peers(network, all)
        })
    }

    /// These are all other hosts.
    pub(crate) fn tell_nodes(&self, nodes: &[Node]) -> Result<()> {
        self.make_true(&Subject::Cluster, |networks| Some(networks.controller().tell_nodes(nodes)))
    }

    /// How this host takes part in what is encrypted, if it can.
    pub(crate) fn tell_wireguard(&self, own: Option<WireGuard>) -> Result<()> {
        self.make_true(&Subject::Cluster, |networks| {
            Some(networks.controller().tell_wireguard(own))
        })
    }

    /// There is an encrypted network, or about to be one: what encrypts is there before it, and goes after it.
    pub(super) fn encrypt(&self, wanted: bool) -> Result<()> {
        let made = self.make_true(&Subject::Cluster, |networks| {
            Some(networks.controller().tell_encryption(wanted))
        });
        if made.is_err() && wanted {
            self.encrypt_no_more();
        }
        made
    }

    /// One less: with the last one goes what encrypts.
    pub(super) fn encrypt_no_more(&self) {
        let still = self.controller().has_encrypted();
        if let Err(error) = self.encrypt(still) {
            tracing::warn!(error = error.chain(), "what encrypts goes when that is mended");
        }
    }

    /// This host is in a cluster: who follows it will tell of other hosts.
    pub(crate) fn await_others(&self) {
        self.controller().await_nodes();
    }

    /// What is known of other hosts, and of the way to them. What the kernel has is then to be healed.
    pub(crate) fn know_others(
        &self,
        nodes: &[Node],
        peers: BTreeMap<NetworkId, Vec<Peer>>,
        (local, mtu, own): (IpAddr, Option<u32>, Option<WireGuard>),
    ) {
        let mut model = self.controller();
        model.tell_local_address(local);
        let _ = model.tell_wireguard(own);
        model.tell_tunnel_mtu(mtu);
        // Not the difference alone is to be made true, but all of it.
        let _ = model.tell_nodes(nodes);
        for (network, all) in peers {
            let _ = model.tell_all_peers(&network, all);
        }
    }

    /// Tunnels are sent from this address, and their ways take packets of this size.
    pub(crate) fn tell_way(&self, local: IpAddr, mtu: Option<u32>) {
        let changed = {
            let mut model = self.controller();
            let moved = model.tell_local_address(local);
            model.tell_tunnel_mtu(mtu) || moved
        };
        if changed {
            tracing::info!(%local, mtu, "networks of the cluster follow the way to the others");
            self.heal();
        }
    }

    /// What endpoints of a network on other hosts are called from now on, and which have no name any
    /// more.
    pub(crate) fn tell_remote_names(
        &self,
        network: &NetworkId,
        named: &[EndpointNames],
        gone: &[EndpointId],
    ) -> Result<()> {
        let name = self.network(network.as_str())?.name.clone();
        self.resolver.tell_remote(network, &name, named, gone)
    }

    /// Makes a difference true that somebody else has brought about. What fails is healed.
    fn make_true(
        &self,
        subject: &Subject,
        tell: impl FnOnce(&Self) -> Option<(State, State)>,
    ) -> Result<()> {
        let turn = self.turns.take(subject);
        let Some((before, after)) = tell(self) else { return Ok(()) };
        let plan = diff(&before, &after);
        if plan.is_empty() || self.is_at_rest() {
            return Ok(());
        }
        tracing::debug!(?subject, steps = plan.steps().len(), "follow other hosts");
        let applied = self.kernel.apply(&plan);
        drop(turn);
        let Err(error) = applied else { return Ok(()) };
        // The kernel may have some of it already, of an earlier daemon that knew more.
        let error = Error::from(error).chain();
        tracing::debug!(?subject, error, "look at what there is");
        self.heal_subject(subject)
    }
}
