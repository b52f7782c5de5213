//! Addresses that somebody else lends: who is to be asked for them, and what becomes of an endpoint
//! when it is lent another one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;

use super::draft::Draft;
use super::intent::{Change, Live, Transition};
use super::sandbox::Wanted;
use super::{Controller, ControllerError, Entropy, Lent, Transaction, WantedAddress};
use crate::ipam::{Holder, short};
use crate::network::Addressing;
use crate::sandbox::Attachment;
use crate::{Endpoint, EndpointId, Mac, Network, NetworkId, Sandbox, SandboxId, State};

impl Controller {
    /// Begins to give an endpoint the address that is lent to it now instead of the one that was;
    /// or none at all, where nobody lends it one any more.
    pub fn begin_renumber(
        &mut self,
        sandbox: &SandboxId,
        network: &NetworkId,
        lent: Option<Lent>,
        now: u64,
    ) -> Result<Transaction, ControllerError> {
        let before = self.idle_sandbox(sandbox)?;
        let known = self.networks.get(network);
        let known = known.ok_or_else(|| ControllerError::not_found("network", network))?;
        let at = before.endpoints.iter().position(|endpoint| endpoint.network == *network);
        let Some(at) = at.filter(|_| known.addressing.is_lent()) else {
            let (owner, name) = (short(&before.sandbox.owner), &known.name);
            let message = format!("nobody lends {owner} an address on network {name}");
            return Err(ControllerError::forbidden(message));
        };
        let old = &before.endpoints[at];
        if let Some(lent) = lent {
            self.check_unclaimed(known, lent.address.ip(), Some(old))?;
        }
        let mut endpoints = before.endpoints.clone();
        endpoints[at] = Arc::new(Endpoint {
            addresses: lent.iter().map(|lent| lent.address).collect(),
            gateways: lent.iter().filter_map(|lent| lent.gateway).collect(),
            ..Endpoint::clone(old)
        });
        let after = Live { sandbox: Arc::clone(&before.sandbox), endpoints };
        Draft::new(self).open(Change::Sandbox(Transition::Change { before, after }), now)
    }

    /// The kernel state of an endpoint with a hardware address that is to have an address and has none
    /// yet: its link leads to whoever lends it one.
    pub fn plan_visit(
        &self,
        network: &NetworkId,
        mac: Mac,
        entropy: &mut dyn Entropy,
    ) -> Result<State, ControllerError> {
        let known = self.networks.get(network);
        let network = known.ok_or_else(|| ControllerError::not_found("network", network))?;
        let nobody = Sandbox {
            id: SandboxId::from_random(entropy.bytes()),
            owner: String::new(),
            ports: Vec::new(),
            resolver: false,
            sysctls: Vec::new(),
            passages: Vec::new(),
            closed: BTreeSet::new(),
        };
        let endpoint = Endpoint {
            id: EndpointId::from_random(entropy.bytes()),
            network: network.id.clone(),
            sandbox: nobody.id.clone(),
            interface: "eth0".parse()?,
            mac,
            addresses: Vec::new(),
            gateways: Vec::new(),
            aliases: Vec::new(),
            gateway_priority: 0,
            order: 0,
            default_route: false,
            any_source: false,
            routes: Vec::new(),
            sysctls: Vec::new(),
            given_options: BTreeMap::new(),
            handover: None,
            link_local: Vec::new(),
        };
        Ok(network.driver.endpoint(&nobody, Attachment { network, endpoint: &endpoint })?)
    }

    /// Fails if an endpoint on the network has the address, or is about to; but this one may.
    pub(super) fn check_unclaimed(
        &self,
        network: &Network,
        address: IpAddr,
        but: Option<&Endpoint>,
    ) -> Result<(), ControllerError> {
        let coming = self.open_changes().filter_map(|change| change.sandboxes().1);
        let coming = coming.flat_map(|live| &live.endpoints);
        let members = self.members.get(&network.id).into_iter().flat_map(BTreeMap::values);
        let all = members.chain(coming.filter(|endpoint| endpoint.network == network.id));
        let mut others = all.filter(|endpoint| but.is_none_or(|but| but.id != endpoint.id));
        match others.find(|endpoint| endpoint.addresses.iter().any(|other| other.ip() == address)) {
            None => Ok(()),
            Some(other) => Err(ControllerError::forbidden(format!(
                "Address already in use: {address} on network {} is used by endpoint {}",
                network.name,
                other.id.short()
            ))),
        }
    }
}

impl Draft<'_> {
    /// The hardware address of a sandbox that has been on the network before. One with a lent address
    /// always has the same: whoever lends it may know it by that.
    ///
    /// On a network of a cluster it follows from the endpoint, which no other one is: who gets the
    /// address of one that has gone, on whichever host, has another one.
    pub(super) fn sticky_mac(
        &self,
        network: &Network,
        owner: &str,
        endpoint: &EndpointId,
    ) -> Option<Mac> {
        if network.addressing == Addressing::Cluster {
            return Some(Mac::derived(&[endpoint.as_str()]));
        }
        let claimed = self.claims.lent(&network.id).iter().find_map(|lent| lent.mac);
        let derived = || {
            let lent = network.addressing.is_lent() && !owner.is_empty();
            lent.then(|| Mac::derived(&[network.id.as_str(), owner]))
        };
        let known = || self.controller.ipam.mac(&network.id, owner);
        claimed.or_else(known).or_else(derived)
    }

    /// The addresses on a network where others lend them; what was not claimed yet is to be.
    pub(super) fn lent_addresses(
        &mut self,
        network: &Network,
        wanted: &Wanted<'_>,
        holder: &Holder<'_>,
        claimed: Vec<IpNetwork>,
    ) -> Result<Vec<IpNetwork>, ControllerError> {
        if let Some(address) = wanted.addresses.iter().find(|address| address.is_ipv6()) {
            return Err(ControllerError::invalid(format!(
                "{address} cannot be had on network {}: its IPAM driver {} gives no IPv6 addresses",
                network.name,
                network.addressing.name()
            )));
        }
        if let (true, Some(mac)) = (claimed.is_empty(), holder.mac) {
            let (network, owner) = (network.id.clone(), holder.owner.to_owned());
            let (ipv4, ipv6) = (true, false);
            let wanted = wanted.addresses.iter().take(1).copied().collect();
            let wanted = WantedAddress { network, owner, mac, ipv4, ipv6, wanted };
            self.unclaimed.addresses.push(wanted);
        }
        Ok(claimed)
    }

    /// The addresses on a network where the cluster gives them, one of each family; what was not
    /// claimed yet is to be.
    pub(super) fn cluster_addresses(
        &mut self,
        network: &Network,
        wanted: &Wanted<'_>,
        holder: &Holder<'_>,
        mut claimed: Vec<IpNetwork>,
    ) -> Result<Vec<IpNetwork>, ControllerError> {
        let mut asked = self.asked(network, wanted, &claimed)?;
        let lacks = |ipv6| {
            let has = claimed.iter().any(|address| address.is_ipv6() == ipv6);
            !has && network.pools.iter().any(|pool| pool.subnet.is_ipv6() == ipv6)
        };
        let (ipv4, ipv6) = (lacks(false), lacks(true) && wanted.ipv6);
        if let Some(mac) = holder.mac.filter(|_| ipv4 || ipv6) {
            asked.retain(|address| if address.is_ipv6() { ipv6 } else { ipv4 });
            let (network, owner) = (network.id.clone(), holder.owner.to_owned());
            let wanted = WantedAddress { network, owner, mac, ipv4, ipv6, wanted: asked };
            self.unclaimed.addresses.push(wanted);
        }
        claimed.sort_by_key(IpNetwork::is_ipv6);
        Ok(claimed)
    }
}
