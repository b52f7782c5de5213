//! Pools and addresses that plugins give.

use std::net::IpAddr;
use std::sync::Arc;

use cnm::controller::{Entropy, JoinSpec, Lent};
use cnm::network::{Addressing, IpamPlugin, PoolSpec};
use cnm::{EndpointId, Kind, Mac, Network, NetworkId, NetworkSpec, Pool};

use super::super::{Chance, Networks};
use super::ledger::{Address, Ledger, NetworkEntry, PoolEntry, network_key};
use crate::plugins::ipam::{GivenPool, Purpose, WantedPool};
use crate::plugins::{CallError, Plugin};
use engine_error::{Error, Result};

/// A pool that is asked for.
struct Wanted {
    spec: PoolSpec,
    ipv6: bool,
}

impl Networks {
    /// A request, with pools that its IPAM plugin gave, if it names one. What was asked for is the
    /// model's, or to be [given back](Networks::have_decided_network).
    pub(in super::super) fn with_pools(&self, spec: NetworkSpec) -> Result<NetworkSpec> {
        if spec.ipam_driver.is_empty() || Addressing::is_known(&spec.ipam_driver) {
            return Ok(spec);
        }
        let plugin = match self.ipam_plugin(&spec.ipam_driver) {
            Ok(plugin) => plugin,
            // The model says so, with the drivers that there are.
            Err(error) if error.kind() == Kind::NotFound => return Ok(spec),
            Err(error) => return Err(error),
        };
        let id = NetworkId::from_random(Chance.bytes());
        let entry = NetworkEntry::with_pools_of(plugin.name());
        {
            let mut ledger = self.remote.ledger();
            ledger.asking.insert(network_key(&id));
            ledger.networks.insert(id.clone(), entry);
        }
        let asked = self.ask_for_pools(&plugin, &id, &spec);
        if asked.is_err() {
            self.have_decided_network(Some(&id));
        }
        asked
    }

    /// What plugins were asked for a network is the model's now, or given back.
    pub(in super::super) fn have_decided_network(&self, id: Option<&NetworkId>) {
        if let Some(id) = id {
            self.remote.ledger().asking.remove(&network_key(id));
            self.give_back_network(id);
        }
    }

    fn ask_for_pools(
        &self,
        plugin: &Plugin,
        id: &NetworkId,
        spec: &NetworkSpec,
    ) -> Result<NetworkSpec> {
        let space = plugin.address_space()?;
        let mut asked = NetworkSpec { id: Some(id.clone()), ..spec.clone() };
        asked.pools.clear();
        let mut names = Vec::new();
        let options = spec.ipam_options.clone().unwrap_or_default();
        for Wanted { spec: wanted, ipv6 } in wanted(spec) {
            let given = plugin.request_pool(&WantedPool {
                space: &space,
                subnet: wanted.subnet.as_deref().unwrap_or_default(),
                range: wanted.range.as_deref().unwrap_or_default(),
                options: &options,
                ipv6,
            })?;
            names.push(given.id.clone());
            self.note_pool(id, &given.id, None)?;
            asked.pools.push(self.furnish(plugin, id, &given, &wanted)?);
        }
        let name = plugin.name().to_owned();
        asked.ipam = Some(IpamPlugin { name, options, space, pools: names });
        asked.ipam_driver = String::new();
        Ok(asked)
    }

    /// Asks for the gateway of a pool, and for what the user set aside in it.
    fn furnish(
        &self,
        plugin: &Plugin,
        id: &NetworkId,
        given: &GivenPool,
        wanted: &PoolSpec,
    ) -> Result<PoolSpec> {
        let named = wanted.gateway.as_deref().map(address).transpose()?;
        let gateway = match (named, given.gateway) {
            (None, Some(gateway)) => gateway.ip(),
            (named, _) => {
                let asked = plugin.request_address(&given.id, named, Purpose::Gateway);
                let asked = asked.map_err(|error| no_gateway(wanted.gateway.as_deref(), error))?;
                self.note_pool(id, &given.id, Some(asked.ip()))?;
                asked.ip()
            }
        };
        for text in wanted.auxiliary.values() {
            let asked =
                plugin.request_address(&given.id, Some(address(text)?), Purpose::Auxiliary)?;
            self.note_pool(id, &given.id, Some(asked.ip()))?;
        }
        Ok(PoolSpec {
            subnet: Some(given.subnet.to_string()),
            gateway: Some(gateway.to_string()),
            ..wanted.clone()
        })
    }

    /// Writes down what a plugin gave for a network.
    fn note_pool(&self, id: &NetworkId, pool: &str, address: Option<IpAddr>) -> Result<()> {
        let record = {
            let mut ledger = self.remote.ledger();
            let Some(entry) = ledger.networks.get_mut(id) else { return Ok(()) };
            if let Some(known) = entry.pools.iter_mut().find(|known| known.pool == pool) {
                known.addresses.extend(address);
            } else {
                let addresses = address.into_iter().collect();
                entry.pools.push(PoolEntry { pool: pool.to_owned(), addresses });
            }
            Ledger::asked_network(id, entry)
        };
        self.write_ahead(record)
    }

    /// Asks an IPAM plugin for the addresses of an endpoint.
    pub(super) fn ask_for_addresses(
        &self,
        id: &EndpointId,
        network: &Arc<Network>,
        of: &IpamPlugin,
        join: &JoinSpec,
        asker: (&str, bool),
    ) -> Result<Vec<Lent>> {
        let (owner, ipv6) = asker;
        let plugin = self.ipam_plugin(&of.name)?;
        let derived = || Mac::derived(&[network.id.as_str(), owner]);
        let mac = plugin.wishes.mac.then(|| join.mac.unwrap_or_else(derived));
        let mut lent = Vec::new();
        for (pool, wanted) in chosen(network, of, &join.addresses) {
            if wanted.is_ipv6() && !ipv6 {
                continue;
            }
            let address = wanted.address();
            let given = plugin.request_address(pool, address, Purpose::Endpoint(mac))?;
            let record = {
                let mut ledger = self.remote.ledger();
                let Some(entry) = ledger.endpoints.get_mut(id) else { continue };
                entry.addresses.push(Address { pool: pool.to_owned(), address: given.ip() });
                Ledger::asked(id, entry)
            };
            self.write_ahead(record)?;
            lent.push(Lent { address: given, gateway: None, mac });
        }
        Ok(lent)
    }
}

/// An address of a family: this one, or any.
#[derive(Clone, Copy, Debug)]
enum Choice {
    This(IpAddr),
    Any { ipv6: bool },
}

impl Choice {
    fn is_ipv6(self) -> bool {
        match self {
            Self::This(address) => address.is_ipv6(),
            Self::Any { ipv6 } => ipv6,
        }
    }

    fn address(self) -> Option<IpAddr> {
        match self {
            Self::This(address) => Some(address),
            Self::Any { .. } => None,
        }
    }
}

/// The pools that an endpoint gets addresses of: those of the wanted ones, and the first of a family of
/// which none is wanted.
fn chosen<'a>(network: &Network, of: &'a IpamPlugin, wanted: &[IpAddr]) -> Vec<(&'a str, Choice)> {
    let mut chosen = Vec::new();
    for ipv6 in [false, true] {
        let address = wanted.iter().copied().find(|address| address.is_ipv6() == ipv6);
        let fits = |pool: &Pool| match address {
            Some(address) => pool.subnet.contains(address),
            None => pool.subnet.is_ipv6() == ipv6,
        };
        let mut pools = network.pools.iter().zip(&of.pools);
        let choice = address.map_or(Choice::Any { ipv6 }, Choice::This);
        chosen.extend(pools.find(|(pool, _)| fits(pool)).map(|(_, name)| (name.as_str(), choice)));
    }
    chosen
}

/// The pools that a request asks for, one of each family that it wants and names none of among them.
fn wanted(spec: &NetworkSpec) -> Vec<Wanted> {
    let is_ipv6 = |pool: &PoolSpec| pool.subnet.as_ref().is_some_and(|text| text.contains(':'));
    let pools = spec.pools.iter();
    let mut wanted: Vec<_> =
        pools.map(|pool| Wanted { spec: pool.clone(), ipv6: is_ipv6(pool) }).collect();
    let families = [(false, spec.ipv4.unwrap_or(true)), (true, spec.ipv6.unwrap_or(false))];
    for (ipv6, enabled) in families {
        if enabled && !wanted.iter().any(|wanted| wanted.ipv6 == ipv6) {
            wanted.push(Wanted { spec: PoolSpec::default(), ipv6 });
        }
    }
    wanted
}

fn address(text: &str) -> Result<IpAddr> {
    text.parse().map_err(|_| Error::invalid(format!("invalid address {text}: it is no IP address")))
}

/// Docker's words.
fn no_gateway(wanted: Option<&str>, error: CallError) -> Error {
    let error = Error::from(error);
    let wanted = wanted.unwrap_or_default();
    Error::new(error.kind(), format!("failed to allocate gateway ({wanted}): {}", error.chain()))
}
