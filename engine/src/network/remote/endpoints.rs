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
use super::super::{Chance, Change, Networks, now};
use super::ledger::{EndpointEntry, Ledger};
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
            match network.driver.plugin() {
                Some(plugin) => self.ask_for(asking, join, &network, plugin, &mut claimed),
                None => Ok(()),
            }
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
        plugin: &str,
        claimed: &mut Claimed,
    ) -> Result<()> {
        let plugin = self.remote.plugins.find(plugin, Trade::Network)?;
        let ipv6 = !lacks_ipv6(asking.sysctls, &first_interface(join)?);
        let now = now();
        let asker =
            Asker { owner: asking.owner, addresses: &join.addresses, ipv6, mac: join.mac, now };
        let hold = self.controller().hold(&network.id, &asker)?;
        let addresses = hold.addresses().to_vec();
        let (network, owner) = (Arc::clone(network), asking.owner.to_owned());
        claimed.held.push(Held { network: network.clone(), owner, ipv6, hold: Some(hold) });
        let id = EndpointId::from_random(Chance.bytes());
        let sandbox = asking.sandbox.cloned();
        let sandbox = sandbox.or_else(|| claimed.sandbox.clone());
        let sandbox = sandbox.unwrap_or_else(|| SandboxId::from_random(Chance.bytes()));
        claimed.name_sandbox(&sandbox);
        claimed.asked.push(id.clone());
        let options = options(&join.options, &join.exposed, asking.ports);
        let new = NewEndpoint {
            id: &id,
            network: &network.id,
            addresses: &addresses,
            mac: join.mac,
            options: &options,
        };
        let (made, joined) = self.have_made(&plugin, &new, &sandbox)?;
        let mac = made.mac.or(join.mac);
        let mac = mac.map_or_else(|| self.mac_of(&plugin, joined.link.as_ref()), Ok)?;
        for address in addresses.into_iter().chain(made.addresses) {
            let lent = Lent { address, gateway: None, mac: None };
            claimed.claims.add_address(&network.id, lent);
        }
        let Joined { link, prefix, gateways, routes } = joined;
        let handover = Handover { link, gateways, routes };
        claimed.claims.add_endpoint(&network.id, ClaimedEndpoint { id, mac, prefix, handover });
        Ok(())
    }

    /// Has a plugin make an endpoint and hand its link over. That it is asked is on the disk before.
    fn have_made(
        &self,
        plugin: &Plugin,
        new: &NewEndpoint<'_>,
        sandbox: &SandboxId,
    ) -> Result<(MadeEndpoint, Joined)> {
        let entry = EndpointEntry::new(new.network, plugin.name(), new.options);
        let asked = Ledger::asked(new.id, &entry);
        {
            let mut ledger = self.remote.ledger();
            ledger.asking.insert(new.id.clone());
            ledger.endpoints.insert(new.id.clone(), entry);
        }
        self.write_ahead(asked)?;
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
