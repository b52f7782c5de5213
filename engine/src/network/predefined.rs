//! The networks that are always there: bridge, host and none.

use std::collections::BTreeMap;
use std::net::IpAddr;

use cnm::network::PoolSpec;
use cnm::{HasKind, Kind, Network, NetworkSpec};
use ipnetwork::IpNetwork;

use super::{Chance, Networks, now};
use crate::core::{DefaultBridge, Settings};
use crate::error::Result;

impl Networks {
    /// Makes the predefined networks that are missing, and the bridge anew if it is configured
    /// otherwise than it was and nobody uses it.
    pub(crate) fn predefine(&self, settings: &Settings) -> Result<()> {
        for kind in ["host", "null"] {
            let name = if kind == "null" { "none" } else { kind };
            let spec = NetworkSpec {
                name: name.to_owned(),
                driver: kind.to_owned(),
                ..NetworkSpec::default()
            };
            self.create_missing(&spec)?;
        }
        if settings.default_network() == "none" {
            return self.drop_bridge();
        }
        let spec = bridge(&settings.default_bridge);
        if let Ok(network) = self.network("bridge")
            && differs(&network, &spec)
        {
            if self.controller().endpoints_of(&network.id).is_empty() {
                self.remove_by(|model| model.begin_remove_predefined(&network.id))?;
            } else {
                tracing::warn!("network bridge keeps its old configuration: it is in use");
            }
        }
        self.create_missing(&spec)
    }

    /// `--bridge none`, perhaps after a start with another one.
    fn drop_bridge(&self) -> Result<()> {
        match self.network("bridge") {
            Err(error) if error.kind() == Kind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(network) if self.controller().endpoints_of(&network.id).is_empty() => {
                self.remove_by(|model| model.begin_remove_predefined(&network.id))
            }
            Ok(_) => {
                tracing::warn!(
                    "--bridge none is not in force: there is a network bridge, and containers are \
                     attached to it; stop them and start the daemon again"
                );
                Ok(())
            }
        }
    }

    fn create_missing(&self, spec: &NetworkSpec) -> Result<()> {
        match self.network(&spec.name) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == Kind::NotFound => self
                .create_by(|model, facts| {
                    model.begin_create_predefined(spec, facts, &mut Chance, now())
                })
                .map(drop),
            Err(error) => Err(error),
        }
    }
}

/// Whether a bridge was made for another configuration.
fn differs(network: &Network, spec: &NetworkSpec) -> bool {
    let subnet = |text: &Option<String>| text.as_ref().and_then(|t| t.parse::<IpNetwork>().ok());
    let wanted: Vec<IpNetwork> =
        spec.pools.iter().filter_map(|pool| subnet(&pool.subnet)).collect();
    let missing = wanted.iter().any(|subnet| !network.pools.iter().any(|p| p.subnet == *subnet));
    missing || network.given_options != spec.options || network.ipv6 != spec.ipv6.unwrap_or(false)
}

fn bridge(settings: &DefaultBridge) -> NetworkSpec {
    let option = |key: &str, value: String| (format!("com.docker.network.{key}"), value);
    // All addresses of both families are what a network without such an option has.
    let any = settings.bindings.iter().all(IpAddr::is_unspecified) && settings.bindings.len() > 1;
    let bindings = settings.bindings.iter().filter(|_| !any).map(|ip| {
        let family = if ip.is_ipv4() { "ipv4" } else { "ipv6" };
        option(&format!("bridge.host_binding_{family}"), ip.to_string())
    });
    let mut options = BTreeMap::from([
        option("bridge.name", settings.device.clone()),
        option("bridge.default_bridge", true.to_string()),
        option("bridge.enable_icc", settings.icc.to_string()),
        option("bridge.enable_ip_masquerade", settings.masquerade.to_string()),
    ]);
    options.extend(bindings);
    options.extend(settings.mtu.map(|mtu| option("driver.mtu", mtu.to_string())));
    let ipv6 = settings.ipv6 || settings.address6.is_some() || settings.range6.is_some();
    let pools = [pool(settings, settings.address, settings.range), pool6(settings)];
    NetworkSpec {
        name: "bridge".to_owned(),
        driver: "bridge".to_owned(),
        options,
        pools: pools.into_iter().flatten().collect(),
        ipv6: Some(ipv6),
        ..NetworkSpec::default()
    }
}

fn pool6(settings: &DefaultBridge) -> Option<PoolSpec> {
    // The subnet itself where no address is given: `--fixed-cidr-v6` has that meaning in Docker.
    match (settings.address6, settings.range6) {
        (None, Some(subnet)) => Some(PoolSpec {
            subnet: Some(network_of(subnet)),
            gateway: gateway(settings, true),
            ..PoolSpec::default()
        }),
        (address, range) => pool(settings, address, range),
    }
}

fn pool(
    settings: &DefaultBridge,
    address: Option<IpNetwork>,
    range: Option<IpNetwork>,
) -> Option<PoolSpec> {
    let subnet = address.or(range)?;
    let own = address.map(|address| address.ip().to_string());
    Some(PoolSpec {
        subnet: Some(network_of(subnet)),
        range: range.map(network_of),
        gateway: own.or_else(|| gateway(settings, subnet.is_ipv6())),
        ..PoolSpec::default()
    })
}

fn gateway(settings: &DefaultBridge, ipv6: bool) -> Option<String> {
    let gateway = settings.gateways.iter().find(|gateway| gateway.is_ipv6() == ipv6);
    gateway.map(ToString::to_string)
}

/// The network of an address, without host bits.
fn network_of(address: IpNetwork) -> String {
    format!("{}/{}", address.network(), address.prefix())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bip_is_the_bridges_address_and_its_network_the_subnet() {
        let settings = DefaultBridge {
            address: Some("10.9.0.1/24".parse().unwrap()),
            range: Some("10.9.0.128/25".parse().unwrap()),
            ..DefaultBridge::default()
        };
        let spec = bridge(&settings);
        let pool = &spec.pools[0];
        assert_eq!(pool.subnet.as_deref(), Some("10.9.0.0/24"));
        assert_eq!(pool.range.as_deref(), Some("10.9.0.128/25"));
        assert_eq!(pool.gateway.as_deref(), Some("10.9.0.1"));
    }

    #[test]
    fn nothing_configured_leaves_the_subnet_to_the_default_pools() {
        let spec = bridge(&DefaultBridge::default());
        assert!(spec.pools.is_empty());
        assert_eq!(spec.options["com.docker.network.bridge.name"], "rnet0");
    }

    #[test]
    fn ports_are_published_on_the_address_that_was_named_and_else_on_all_of_both_families() {
        let bindings = |addresses: &[&str]| {
            let bindings = addresses.iter().map(|address| address.parse().unwrap()).collect();
            let options = bridge(&DefaultBridge { bindings, ..DefaultBridge::default() }).options;
            let is_it = |key: &String| key.contains("host_binding");
            options.into_iter().filter(|(key, _)| is_it(key)).collect::<Vec<_>>()
        };
        let option = |family: &str, address: &str| {
            let key = format!("com.docker.network.bridge.host_binding_{family}");
            [(key, address.to_owned())]
        };
        assert_eq!(bindings(&["0.0.0.0", "::"]), []);
        assert_eq!(bindings(&["127.0.0.1"]), option("ipv4", "127.0.0.1"));
        assert_eq!(bindings(&["::1"]), option("ipv6", "::1"));
        assert_eq!(bindings(&["0.0.0.0"]), option("ipv4", "0.0.0.0"));
    }
}
