//! What CNI lets users choose beyond the options of the bridge driver, and the planner that sees
//! to it.
//!
//! The choices are kept with the model's objects, as a label of the network and an option of the
//! endpoint, so that they are planned the same way at every later call.

use std::net::IpAddr;

use cnm::network::{Network, NetworkSpec};
use cnm::sandbox::Attachment;
use cnm::{Endpoint, Key, LinkName, Ns, PlanError, Planner, Sandbox, State, Value};
use drivers::Drivers;
use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

/// The label of a network, and the option of an endpoint, that hold its settings.
pub(crate) const SETTINGS: &str = "rnet.cni.settings";

/// What all attachments of a network have in common.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "independent properties, as users set them")]
pub(crate) struct NetworkSettings {
    /// The device; one of its own by default.
    pub(crate) bridge: Option<LinkName>,
    /// Whether the host has the gateways' addresses.
    pub(crate) gateway: bool,
    /// Whether what leaves has the host's address.
    pub(crate) masquerade: bool,
    /// Whether endpoints may not talk to each other.
    pub(crate) isolated: bool,
    pub(crate) mtu: Option<u32>,
    /// Whether to have both families even if no pool asks for them.
    pub(crate) dual_stack: bool,
    pub(crate) pools: Vec<PoolSettings>,
}

/// A subnet, and what of it is handed out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PoolSettings {
    pub(crate) subnet: IpNetwork,
    pub(crate) gateway: IpAddr,
    pub(crate) start: IpAddr,
    pub(crate) end: IpAddr,
}

/// What one attachment has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EndpointSettings {
    /// Whether frames may come back to it by the bridge.
    pub(crate) hairpin: bool,
    /// Whether its default routes lead to the gateways.
    pub(crate) default_gateway: bool,
    pub(crate) routes: Vec<RouteSettings>,
}

/// A route; by the gateway of its family unless another is named.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RouteSettings {
    pub(crate) dst: IpNetwork,
    pub(crate) gw: Option<IpAddr>,
}

impl NetworkSettings {
    /// The request for such a network.
    ///
    /// Pods are reached directly, from the host and from other nodes: unlike Docker's networks
    /// these are not closed to the outside.
    pub(crate) fn spec(&self, name: &str) -> NetworkSpec {
        let text = |value: bool| value.to_string();
        let options = [
            ("com.docker.network.bridge.enable_icc", Some(text(!self.isolated))),
            ("com.docker.network.bridge.enable_ip_masquerade", Some(text(self.masquerade))),
            ("com.docker.network.bridge.gateway_mode_ipv4", Some("nat-unprotected".to_owned())),
            ("com.docker.network.bridge.gateway_mode_ipv6", Some("nat-unprotected".to_owned())),
            ("com.docker.network.bridge.name", self.bridge.as_ref().map(ToString::to_string)),
            ("com.docker.network.driver.mtu", self.mtu.map(|mtu| mtu.to_string())),
        ];
        let options = options.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
        let has = |ipv6| self.pools.iter().any(|pool| pool.subnet.is_ipv6() == ipv6);
        NetworkSpec {
            name: name.to_owned(),
            options: options.collect(),
            pools: self.pools.iter().map(PoolSettings::spec).collect(),
            ipv4: Some(self.dual_stack || has(false) || self.pools.is_empty()),
            ipv6: Some(self.dual_stack || has(true)),
            labels: [(SETTINGS.to_owned(), json(self))].into(),
            ..NetworkSpec::default()
        }
    }

    /// The settings that a network was made with.
    pub(crate) fn of(network: &Network) -> Self {
        let text = network.labels.get(SETTINGS).map_or("{}", String::as_str);
        serde_json::from_str(text).unwrap_or_default()
    }
}

impl EndpointSettings {
    fn of(endpoint: &Endpoint) -> Self {
        let text = endpoint.given_options.get(SETTINGS).map_or("{}", String::as_str);
        serde_json::from_str(text).unwrap_or_default()
    }

    /// The settings as an option.
    pub(crate) fn option(&self) -> (String, String) {
        (SETTINGS.to_owned(), json(self))
    }
}

/// Settings are plain data, of which JSON can express all.
pub(crate) fn json(settings: &impl Serialize) -> String {
    serde_json::to_string(settings).unwrap_or_else(|error| unreachable!("{error}"))
}

/// The drivers, and the settings over what they plan.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CniPlanner(Drivers);

impl Planner for CniPlanner {
    fn network(&self, network: &Network) -> Result<State, PlanError> {
        let state = self.0.network(network)?;
        let gateway = NetworkSettings::of(network).gateway;
        let is_gateway = |key: &Key| matches!(key, Key::Address { ns: Ns::Host, .. });
        Ok(state.into_iter().filter(|(key, _)| gateway || !is_gateway(key)).collect())
    }

    fn sandbox(
        &self,
        sandbox: &Sandbox,
        attachments: &[Attachment<'_>],
    ) -> Result<State, PlanError> {
        let mut state = self.0.sandbox(sandbox, attachments)?;
        let ns = Ns::Sandbox(sandbox.id.clone());
        for Attachment { network, endpoint } in attachments {
            let settings = EndpointSettings::of(endpoint);
            if !settings.default_gateway {
                let is_route = |key: &Key| matches!(key, Key::Route { .. });
                state = state.into_iter().filter(|(key, _)| !is_route(key)).collect();
            }
            for route in &settings.routes {
                let key = Key::Route { ns: ns.clone(), destination: route.dst };
                let via = gateway(network, endpoint, route);
                state.insert(key, Value::Route { link: endpoint.interface.clone(), via });
            }
            let key = Key::Port { link: endpoint.host_link() };
            if let Some(Value::Port { bridge, isolated, .. }) = state.remove(&key) {
                let port = Value::Port { bridge, isolated, hairpin: settings.hairpin };
                state.insert(key, port);
            }
        }
        Ok(state)
    }
}

/// The gateway of a route.
pub(crate) fn gateway(
    network: &Network,
    endpoint: &Endpoint,
    route: &RouteSettings,
) -> Option<IpAddr> {
    route.gw.or_else(|| {
        let address = endpoint.address(route.dst.is_ipv6())?;
        network.pool_of(address.ip())?.gateway
    })
}

#[cfg(test)]
mod tests;
