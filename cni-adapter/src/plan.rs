//! What CNI lets users choose, in the words of the model.

use std::collections::BTreeMap;
use std::net::IpAddr;

use cnm::LinkName;
use cnm::controller::JoinSpec;
use cnm::endpoint::StaticRoute;
use cnm::network::{Network, NetworkSpec, PoolSpec};
use ipnetwork::IpNetwork;
use serde::Serialize;

/// What all attachments of a network have in common.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct PoolSettings {
    pub(crate) subnet: IpNetwork,
    pub(crate) gateway: IpAddr,
    pub(crate) start: IpAddr,
    pub(crate) end: IpAddr,
}

/// What one attachment has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct EndpointSettings {
    /// Whether frames may come back to it by the bridge.
    pub(crate) hairpin: bool,
    /// Whether its default routes lead to the gateways.
    pub(crate) default_gateway: bool,
    pub(crate) routes: Vec<RouteSettings>,
}

/// A route; by the gateway of its family unless another is named.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
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
            ("rnet.bridge.host_address", Some(text(self.gateway))),
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
            ..NetworkSpec::default()
        }
    }

    /// Whether a network was made with these settings. Subnets that were left to rnet may be any.
    pub(crate) fn made(&self, network: &Network) -> bool {
        let spec = self.spec(&network.name);
        let same = |(settings, spec): (&PoolSettings, &PoolSpec)| {
            network.pools.iter().any(|pool| {
                let range = pool.range.map(|range| range.to_string());
                let aside = pool.auxiliary.iter();
                let aside: BTreeMap<_, _> =
                    aside.map(|(name, address)| (name.clone(), address.to_string())).collect();
                pool.subnet == settings.subnet
                    && pool.gateway == Some(settings.gateway)
                    && (&range, &aside) == (&spec.range, &spec.auxiliary)
            })
        };
        let chosen = network.pools.iter().filter(|pool| {
            let ipv6 = pool.subnet.is_ipv6();
            self.pools.iter().any(|asked| asked.subnet.is_ipv6() == ipv6)
        });
        spec.options == network.given_options
            && (spec.ipv4, spec.ipv6) == (Some(network.ipv4), Some(network.ipv6))
            && chosen.count() == self.pools.len()
            && self.pools.iter().zip(&spec.pools).all(same)
    }
}

/// What a network was made with, for people.
pub(crate) fn describe(network: &Network) -> String {
    let subnets = network.pools.iter().map(|pool| pool.subnet).collect::<Vec<_>>();
    json(&serde_json::json!({"options": network.given_options, "subnets": subnets}))
}

impl EndpointSettings {
    /// A request to join with these settings.
    pub(crate) fn join(&self, network: &Network) -> JoinSpec {
        let hairpin = ("rnet.endpoint.hairpin".to_owned(), self.hairpin.to_string());
        let route = |route: &RouteSettings| StaticRoute { destination: route.dst, via: route.gw };
        JoinSpec {
            network: Some(network.id.clone()),
            without_default_route: !self.default_gateway,
            // Kubernetes lets pods have addresses that it does not know.
            any_source: true,
            routes: self.routes.iter().map(route).collect(),
            options: [hairpin].into(),
            ..JoinSpec::default()
        }
    }
}

/// Settings are plain data, of which JSON can express all.
pub(crate) fn json(settings: &impl Serialize) -> String {
    serde_json::to_string(settings).unwrap_or_else(|error| unreachable!("{error}"))
}

#[cfg(test)]
mod tests;
