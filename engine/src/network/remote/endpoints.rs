//! Endpoints that plugins make: asked for before a change is decided, and led outside after it is
//! applied.

use std::net::IpAddr;
use std::sync::Arc;

use cnm::controller::{Asker, ClaimedEndpoint, Entropy, Hold, JoinSpec, Lent, PortSpec};
use cnm::endpoint::Handover;
use cnm::sandbox::{Attachment, gateway, lacks_ipv6};
use cnm::store::Batch;
use cnm::{Endpoint, EndpointId, Kind, LinkName, Mac, Network, SandboxId};
use serde_json::Map;

use super::super::claims::Claimed;
use super::super::offer::Offer;
use super::super::{Chance, Change, Networks, now};
use super::ledger::{EndpointEntry, Ledger, endpoint_key};
use crate::plugins::network::{At, Joined, MadeEndpoint, NewEndpoint, options};
use crate::plugins::{CallError, Plugin, Trade};
use engine_error::{Error, Result};

/// A sandbox that wants endpoints.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Asking<'a> {
    /// Its id, if it lives already.
    pub(in super::super) sandbox: Option<&'a SandboxId>,
    pub(in super::super) owner: &'a str,
    pub(in super::super) sysctls: &'a [(String, String)],
    pub(in super::super) joins: &'a [JoinSpec],
    pub(in super::super) ports: &'a [PortSpec],
    /// What its namespace is to belong to, if that is not the host's user namespace.
    pub(in super::super) offer: &'a Offer,
}

/// Addresses that are held for an endpoint, and for whom.
#[derive(Debug)]
pub(in super::super) struct Held {
    network: Arc<Network>,
    owner: String,
    ipv6: bool,
    hold: Option<Hold>,
}

impl Held {
    /// Gives the addresses back, to be taken for the endpoint.
    pub(in super::super) fn let_go(&mut self, model: &mut cnm::Controller) {
        if let Some(hold) = self.hold.take() {
            model.let_go(hold);
        }
    }
}

impl Networks {
    /// Asks plugins for the endpoints that they are to make. Blocks, and waits for nobody's lock.
    pub(in super::super) fn ask(&self, asking: &Asking<'_>) -> Result<Claimed> {
        let mut claimed = Claimed::default();
        let asked = asking.joins.iter().try_for_each(|join| {
            let Some(id) = &join.network else { return Ok(()) };
            let network = self.network(id.as_str())?;
            if network.driver.plugin().is_none() && network.ipam.is_none() {
                return Ok(());
            }
            self.ask_for(asking, join, &network, &mut claimed)
        });
        match asked {
            Ok(()) => Ok(claimed),
            Err(error) => {
                self.forgo(claimed);
                Err(error)
            }
        }
    }

    fn ask_for(
        &self,
        asking: &Asking<'_>,
        join: &JoinSpec,
        network: &Arc<Network>,
        claimed: &mut Claimed,
    ) -> Result<()> {
        let id = EndpointId::from_random(Chance.bytes());
        let ipam = network.ipam.as_ref();
        let names = (network.driver.plugin(), ipam.map(|ipam| ipam.name.as_str()));
        let mut entry = EndpointEntry::new(&network.id, names.0, names.1);
        entry.options = options(&join.options, &join.exposed, asking.ports);
        let asked = Ledger::asked(&id, &entry);
        {
            let mut ledger = self.remote.ledger();
            ledger.asking.insert(endpoint_key(&id));
            ledger.endpoints.insert(id.clone(), entry);
        }
        claimed.asked.push(id.clone());
        // That they are asked is on the disk before they are.
        self.write_ahead(asked)?;
        let ipv6 = !lacks_ipv6(asking.sysctls, &first_interface(join)?);
        match ipam {
            Some(ipam) => {
                let whose = (asking.owner, ipv6);
                for lent in self.ask_for_addresses(&id, network, ipam, join, whose)? {
                    claimed.claims.add_address(&network.id, lent);
                }
            }
            None => self.hold(asking, join, network, ipv6, claimed)?,
        }
        let mac = claimed.claims.lent(&network.id).iter().find_map(|lent| lent.mac);
        let made = match network.driver.plugin() {
            Some(plugin) => self.ask_for_link(plugin, asking, join, (&id, network), claimed)?,
            None => ClaimedEndpoint { id, mac, prefix: None, handover: None },
        };
        claimed.claims.add_endpoint(&network.id, made);
        Ok(())
    }

    /// Holds addresses of the model's for an endpoint that a plugin is to make.
    fn hold(
        &self,
        asking: &Asking<'_>,
        join: &JoinSpec,
        network: &Arc<Network>,
        ipv6: bool,
        claimed: &mut Claimed,
    ) -> Result<()> {
        let (owner, addresses, mac, now) = (asking.owner, &join.addresses, join.mac, now());
        let asker = Asker { owner, addresses, ipv6, mac, now };
        let hold = self.controller().hold(&network.id, &asker)?;
        for address in hold.addresses() {
            let lent = Lent { address: *address, gateway: None, mac: None };
            claimed.claims.add_address(&network.id, lent);
        }
        let (network, owner) = (Arc::clone(network), owner.to_owned());
        claimed.held.push(Held { network, owner, ipv6, hold: Some(hold) });
        Ok(())
    }

    /// Has a plugin make an endpoint with the addresses that were claimed, and hand its link over.
    fn ask_for_link(
        &self,
        plugin: &str,
        asking: &Asking<'_>,
        join: &JoinSpec,
        (id, network): (&EndpointId, &Network),
        claimed: &mut Claimed,
    ) -> Result<ClaimedEndpoint> {
        let plugin = self.remote.plugins.find(plugin, Trade::Network)?;
        let sandbox = asking.sandbox.or(claimed.sandbox.as_ref()).cloned();
        let sandbox = if let Some(sandbox) = sandbox {
            sandbox
        } else {
            let sandbox = SandboxId::from_random(Chance.bytes());
            claimed.ahead = Some(sandbox.clone());
            self.kernel.offer(&sandbox, asking.offer.take());
            self.make_ahead(&sandbox)?;
            sandbox
        };
        claimed.name_sandbox(&sandbox);
        let lent = claimed.claims.lent(&network.id);
        let addresses: Vec<_> = lent.iter().map(|lent| lent.address).collect();
        let mac = join.mac.or_else(|| lent.iter().find_map(|lent| lent.mac));
        let options = self.remote.ledger().endpoints.get(id).map(|entry| entry.options.clone());
        let options = &options.unwrap_or_default();
        let (of, addresses) = (&network.id, &addresses[..]);
        let new = NewEndpoint { id, network: of, addresses, mac, options };
        let (made, joined) = self.have_made(&plugin, &new, &sandbox)?;
        let mac = made.mac.or(mac);
        let mac = mac.map_or_else(|| self.mac_of(&plugin, joined.link.as_ref()), Ok)?;
        for address in made.addresses {
            let lent = Lent { address, gateway: None, mac: None };
            claimed.claims.add_address(&network.id, lent);
        }
        let Joined { link, prefix, gateways, routes } = joined;
        let handover = Some(Handover { link, gateways, routes });
        Ok(ClaimedEndpoint { id: id.clone(), mac: Some(mac), prefix, handover })
    }

    fn have_made(
        &self,
        plugin: &Plugin,
        new: &NewEndpoint<'_>,
        sandbox: &SandboxId,
    ) -> Result<(MadeEndpoint, Joined)> {
        self.note_stage(new.id, |entry| entry.created = true);
        let made = plugin.create_endpoint(new);
        let made =
            made.inspect_err(|e| self.unless_refused(new.id, e, |entry| entry.created = false))?;
        self.note_stage(new.id, |entry| entry.joined = true);
        let at = At { network: new.network, endpoint: new.id };
        let key = self.kernel.namespace_path(sandbox);
        let joined = plugin.join(&at, &key.to_string_lossy(), new.options);
        let joined =
            joined.inspect_err(|e| self.unless_refused(new.id, e, |entry| entry.joined = false))?;
        Ok((made, joined))
    }

    /// What a plugin refused it did not do.
    fn unless_refused(
        &self,
        id: &EndpointId,
        error: &CallError,
        undo: impl FnOnce(&mut EndpointEntry),
    ) {
        if matches!(error, CallError::Refused(_)) {
            self.note_stage(id, undo);
        }
    }

    fn note_stage(&self, id: &EndpointId, change: impl FnOnce(&mut EndpointEntry)) {
        if let Some(entry) = self.remote.ledger().endpoints.get_mut(id) {
            change(entry);
        }
    }

    /// The hardware address of a link that nobody gave one.
    fn mac_of(&self, plugin: &Plugin, link: Option<&LinkName>) -> Result<Mac> {
        let Some(link) = link else {
            return Ok(Mac::from_random(std::array::from_fn(|at| Chance.bytes()[at])));
        };
        self.kernel.hardware_address(link)?.ok_or_else(|| {
            let text = format!(
                "plugin {} hands over interface {link}, which is not there or has no hardware address",
                plugin.name()
            );
            Error::new(Kind::Internal, text)
        })
    }

    /// Tells plugins which of their endpoints lead outside for a sandbox, now that a change is applied.
    pub(in super::super) fn lead_outside(&self, change: &Change) -> Result<()> {
        if self.remote.ledger().endpoints.is_empty() {
            return Ok(());
        }
        let mut pairs = Vec::with_capacity(change.endpoints.len());
        for endpoint in &change.endpoints {
            pairs.push((self.network(endpoint.network.as_str())?, endpoint));
        }
        let attachments = pairs.iter().map(|(network, endpoint)| Attachment { network, endpoint });
        let attachments: Vec<_> = attachments.collect();
        let gateways = [false, true].map(|ipv6| gateway(&attachments, ipv6));
        let leads = |of: &Attachment<'_>| {
            gateways.iter().flatten().any(|gateway| gateway.endpoint.id == of.endpoint.id)
        };
        for of in &attachments {
            let Some(plugin) = of.network.driver.plugin() else { continue };
            let at = At::of(of.endpoint);
            let led = self.remote.ledger().endpoints.get(at.endpoint).is_some_and(|e| e.external);
            match (led, leads(of)) {
                (false, true) => self.begin_to_lead(plugin, of.endpoint)?,
                (true, false) => {
                    self.remote.plugins.find(plugin, Trade::Network)?.revoke(&at)?;
                    self.note_stage(at.endpoint, |entry| entry.external = false);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn begin_to_lead(&self, plugin: &str, endpoint: &Endpoint) -> Result<()> {
        let plugin = self.remote.plugins.find(plugin, Trade::Network)?;
        let at = At::of(endpoint);
        let mut options = Map::new();
        self.note_stage(at.endpoint, |entry| {
            entry.external = true;
            options.clone_from(&entry.options);
        });
        plugin.program(&at, &options).map_err(|error| {
            let (error, id) = (Error::from(error), endpoint.id.short());
            let text = format!(
                "failed to set up container networking: driver failed programming external \
                 connectivity on endpoint {id}: {}",
                error.chain()
            );
            Error::new(error.kind(), text)
        })?;
        // Docker asks what there is to be shown. Nothing depends on it.
        if let Err(CallError::Lost(error)) = plugin.endpoint_info(&at) {
            tracing::warn!(plugin = plugin.name(), error = error.chain(), "it does not tell");
        }
        Ok(())
    }

    /// What is to be written down of a change's endpoints, as far as plugins make them.
    pub(in super::super) fn ledger_of(&self, change: &Change) -> Batch {
        let ids = change.endpoints.iter().map(|endpoint| &endpoint.id);
        self.remote.ledger().records(ids)
    }
}

/// The name that says whether IPv6 is off; it is not known before the plugin has spoken.
fn first_interface(join: &JoinSpec) -> Result<LinkName> {
    let name = join.interface.as_deref().unwrap_or("eth0");
    name.parse().map_err(|error: cnm::name::NameError| Error::invalid(error.to_string()))
}

impl Claimed {
    fn name_sandbox(&mut self, id: &SandboxId) {
        self.claims.name_sandbox(id.clone());
        self.sandbox = Some(id.clone());
    }

    /// Gives held addresses back, to be taken by who decides now.
    pub(in super::super) fn let_go(&mut self, model: &mut cnm::Controller) {
        for held in &mut self.held {
            held.let_go(model);
        }
    }

    /// Holds again what was let go of, for it was not taken.
    pub(in super::super) fn hold_again(&mut self, model: &mut cnm::Controller) -> Result<()> {
        for held in &mut self.held {
            let lent = self.claims.lent(&held.network.id).iter();
            let addresses: Vec<IpAddr> = lent.map(|lent| lent.address.ip()).collect();
            let (owner, ipv6, mac, now) = (held.owner.as_str(), held.ipv6, None, now());
            let asker = Asker { owner, addresses: &addresses, ipv6, mac, now };
            held.hold = Some(model.hold(&held.network.id, &asker)?);
        }
        Ok(())
    }
}
