//! Endpoints of this host on shared networks: their addresses are claimed, and others are told of them.

use std::net::IpAddr;
use std::sync::Arc;

use cnm::controller::{JoinSpec, Lent, WantedAddress};
use cnm::store::{Batch, Durability};
use cnm::{Endpoint, Kind, Mac, Network, NetworkId, Sandbox, SandboxId};
use ipnetwork::IpNetwork;

use super::{Published, is_shared};
use crate::network::{Change, Networks, SandboxNames};
use engine_error::Result;

/// Addresses that were claimed for an endpoint that is not there yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Claim {
    network: NetworkId,
    addresses: Vec<IpNetwork>,
}

impl Claim {
    /// What the model is told of it.
    pub(in super::super) fn lent(&self) -> impl Iterator<Item = Lent> {
        self.addresses.iter().map(|address| Lent { address: *address, gateway: None, mac: None })
    }
}

impl Networks {
    /// Claims addresses of a shared network.
    pub(in super::super) fn claim_shared(&self, wanted: &WantedAddress) -> Result<Claim> {
        let addresses = self.shared_by()?.claim(wanted)?;
        Ok(Claim { network: wanted.network.clone(), addresses })
    }

    /// Gives back what was claimed in vain.
    pub(in super::super) fn unclaim_shared(&self, claims: &[Claim]) {
        let Some(sharing) = self.sharing() else { return };
        for Claim { network, addresses } in claims {
            sharing.unclaim(network, &ips(addresses));
        }
    }

    /// The records by which other hosts are told what became of the endpoints of a change.
    pub(in super::super) fn tell_change(&self, change: &Change) -> Batch {
        let mut records = Batch::default();
        let before = change.transaction.sandbox_before();
        let before = before.map_or(&[][..], |live| &live.endpoints);
        for endpoint in before.iter().filter(|endpoint| change.gone.contains(&endpoint.id)) {
            records.extend(self.withdrawal(endpoint, &change.sandbox.owner));
        }
        let new = |endpoint: &&Arc<Endpoint>| !before.iter().any(|old| old == *endpoint);
        for endpoint in change.endpoints.iter().filter(new) {
            records.extend(self.publication(endpoint, &change.sandbox));
        }
        records
    }

    /// The records by which other hosts are told that endpoints are gone.
    pub(in super::super) fn tell_gone(
        &self,
        sandbox: &Sandbox,
        endpoints: &[Arc<Endpoint>],
    ) -> Batch {
        let mut records = Batch::default();
        for endpoint in endpoints {
            records.extend(self.withdrawal(endpoint, &sandbox.owner));
        }
        records
    }

    /// Other hosts are told what the endpoints of a sandbox are called now.
    pub(in super::super) fn tell_names(&self, id: &SandboxId) {
        let Ok((sandbox, endpoints)) = self.sandbox(id) else { return };
        let mut records = Batch::default();
        for endpoint in &endpoints {
            records.extend(self.publication(endpoint, &sandbox));
        }
        self.note(|_| Batch::default(), records.clone(), Durability::Eventual);
        self.send(&records);
    }

    /// All endpoints of this host that other hosts are to know.
    pub(crate) fn published(&self) -> Vec<Published> {
        let mut all = Vec::new();
        for network in self.shared_networks() {
            let endpoints = self.controller().endpoints_of(&network.id);
            for endpoint in endpoints {
                let Ok((sandbox, _)) = self.sandbox(&endpoint.sandbox) else { continue };
                all.push(self.as_published(&endpoint, &sandbox));
            }
        }
        all
    }

    /// Claims the hardware addresses that a user chose on shared networks. What cannot be asked for
    /// now was asked for when it was new.
    pub(in super::super) fn claim_macs(&self, joins: &[JoinSpec], owner: &str) -> Result<()> {
        for join in joins {
            let (Some(id), Some(mac)) = (&join.network, join.mac) else { continue };
            let is_shared = self.network(id.as_str()).is_ok_and(|network| is_shared(&network));
            let Some(sharing) = self.sharing().filter(|_| is_shared) else { continue };
            match sharing.claim_mac(id, mac, owner) {
                Err(error) if error.kind() == Kind::Unavailable => {
                    let error = error.chain();
                    tracing::warn!(%mac, error, "nobody knows whether somebody else has it, too");
                }
                claimed => claimed?,
            }
        }
        Ok(())
    }

    /// Lets go of what is kept for an owner on a network, if that is shared.
    pub(crate) fn forget_on(&self, network: &Network, owner: &str, mac: Option<Mac>) {
        if let Some(sharing) = self.sharing().filter(|_| is_shared(network)) {
            sharing.forget(&network.id, owner, mac);
        }
    }

    fn publication(&self, endpoint: &Endpoint, sandbox: &Sandbox) -> Batch {
        let sharing = self.sharing().filter(|_| self.is_on_shared(endpoint));
        let Some(sharing) = sharing else { return Batch::default() };
        told(endpoint, sharing.publish(&self.as_published(endpoint, sandbox)))
    }

    fn withdrawal(&self, endpoint: &Endpoint, owner: &str) -> Batch {
        let sharing = self.sharing().filter(|_| self.is_on_shared(endpoint));
        let Some(sharing) = sharing else { return Batch::default() };
        let addresses = ips(&endpoint.addresses);
        let model = self.controller();
        let kept = addresses.iter().any(|ip| model.keeps(&endpoint.network, *ip, owner));
        drop(model);
        told(endpoint, sharing.withdraw(&endpoint.network, &endpoint.id, &addresses, kept))
    }

    fn is_on_shared(&self, endpoint: &Endpoint) -> bool {
        self.network(endpoint.network.as_str()).is_ok_and(|network| is_shared(&network))
    }

    fn as_published(&self, endpoint: &Endpoint, sandbox: &Sandbox) -> Published {
        let served = self.resolver.names_of(&endpoint.sandbox);
        let own = |served: SandboxNames| {
            let mut all = served.endpoints.into_iter();
            all.find(|of| of.names.endpoint == endpoint.id).map(|of| of.names.names)
        };
        Published {
            network: endpoint.network.clone(),
            endpoint: endpoint.id.clone(),
            owner: sandbox.owner.clone(),
            mac: endpoint.mac,
            addresses: endpoint.addresses.clone(),
            names: served.and_then(own).unwrap_or_default(),
        }
    }
}

fn ips(addresses: &[IpNetwork]) -> Vec<IpAddr> {
    addresses.iter().map(IpNetwork::ip).collect()
}

/// What cannot be written down is told after a restart, when everything is compared.
fn told(endpoint: &Endpoint, records: Result<Batch>) -> Batch {
    records.unwrap_or_else(|error| {
        let (endpoint, error) = (endpoint.id.short(), error.chain());
        tracing::error!(endpoint, error, "other hosts are not told of it");
        Batch::default()
    })
}
