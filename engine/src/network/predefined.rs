//! The networks that are always there: bridge, host and none.

use std::collections::BTreeMap;
use std::net::IpAddr;

use cnm::network::PoolSpec;
use cnm::{Kind, Network, NetworkSpec};
use ipnetwork::IpNetwork;

use super::difference::{Difference, differences};
use super::{Chance, Networks, controller_config, now};
use crate::settings::{DefaultBridge, Settings};
use engine_error::Result;

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
        if let Ok(network) = self.network("bridge") {
            self.reshape(
                &network,
                &differences(&network, &spec, settings, &default_pools(settings)),
            )?;
        }
        self.create_missing(&spec)?;
        self.check_gateways(&settings.default_bridge.gateways)
    }

    /// Removes a bridge that is configured otherwise than it was, to be made anew, or says what
    /// has to wait.
    fn reshape(&self, network: &Network, differences: &[Difference]) -> Result<()> {
        if differences.is_empty() {
            return Ok(());
        }
        if self.controller().endpoints_of(&network.id).is_empty() {
            tracing::info!("network bridge is made anew: it is configured otherwise than it was");
            return self.remove_by(|model| model.begin_remove_predefined(&network.id));
        }
        for difference in differences {
            tracing::warn!(
                "{difference}, and containers are attached to it; stop them and start the daemon \
                 again"
            );
        }
        Ok(())
    }

    /// The gateway is the bridge's own address: another one cannot be in force.
    fn check_gateways(&self, wanted: &[IpAddr]) -> Result<()> {
        let network = self.network("bridge")?;
        let gateways: Vec<_> = network.pools.iter().filter_map(|pool| pool.gateway).collect();
        for gateway in wanted.iter().filter(|gateway| !gateways.contains(gateway)) {
            let (flag, bip) = if gateway.is_ipv6() {
                ("--default-gateway-v6", "--bip6")
            } else {
                ("--default-gateway", "--bip")
            };
            let is = gateways.iter().find(|is| is.is_ipv6() == gateway.is_ipv6());
            let is = is.map_or_else(|| "none".to_owned(), ToString::to_string);
            tracing::warn!(
                "{flag} {gateway} is not in force: the gateway of network bridge is {is}, the \
                 bridge's own address; choose it with {bip}"
            );
        }
        Ok(())
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

/// Where subnets come from that nobody named.
fn default_pools(settings: &Settings) -> Vec<(IpNetwork, u8)> {
    controller_config(settings).default_pools
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
    use cnm::network::Pool;

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

    /// What differs between a bridge of some settings and what others want.
    fn told(was: &DefaultBridge, is: DefaultBridge) -> Vec<String> {
        let spec = bridge(was);
        let parse = |text: &Option<String>| text.as_ref().map(|text| text.parse().unwrap());
        let pools = spec.pools.iter().map(|pool| Pool {
            subnet: pool.subnet.as_ref().unwrap().parse().unwrap(),
            range: parse(&pool.range),
            gateway: pool.gateway.as_ref().map(|text| text.parse().unwrap()),
            auxiliary: BTreeMap::new(),
            automatic: false,
        });
        let network = Network {
            id: cnm::NetworkId::from_random([1; 32]),
            name: spec.name.clone(),
            created: 0,
            driver: cnm::Planner::drivers(&drivers::Drivers)[0],
            given_options: spec.options.clone(),
            addressing: cnm::network::Addressing::default(),
            ipam: None,
            ipam_options: None,
            borrowed: false,
            pools: pools.collect(),
            ipv4: true,
            ipv6: spec.ipv6.unwrap(),
            internal: false,
            attachable: false,
            predefined: true,
            labels: BTreeMap::new(),
            parent: None,
            egress_mtu: None,
            tunnel: None,
        };
        let wanted = bridge(&is);
        let settings = Settings { default_bridge: is, ..Settings::default() };
        let found = differences(&network, &wanted, &settings, &default_pools(&settings));
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_setting_that_changed_is_named_with_what_is_in_force() {
        let was = DefaultBridge {
            address: Some("10.9.0.1/24".parse().unwrap()),
            address6: Some("fd09::1/64".parse().unwrap()),
            range: Some("10.9.0.128/25".parse().unwrap()),
            mtu: Some(1400),
            ..DefaultBridge::default()
        };
        assert_eq!(told(&was, was.clone()), [""; 0]);
        let is = DefaultBridge {
            address: Some("10.9.0.2/24".parse().unwrap()),
            address6: Some("fd0a::1/64".parse().unwrap()),
            range: Some("10.9.0.64/26".parse().unwrap()),
            ..DefaultBridge::default()
        };
        assert_eq!(
            told(&was, is),
            [
                "the default of --mtu is not in force: network bridge has 1400",
                "--bip 10.9.0.2/24 is not in force: network bridge has 10.9.0.1/24",
                "--fixed-cidr 10.9.0.64/26 is not in force: network bridge has 10.9.0.128/25",
                "--bip6 fd0a::1/64 is not in force: network bridge has fd09::1/64",
            ]
        );
        let was = DefaultBridge { range: None, address6: None, mtu: None, ..was };
        assert_eq!(
            told(&was, DefaultBridge::default()),
            ["the default of --bip is not in force: network bridge has 10.9.0.1/24"]
        );
    }

    #[test]
    fn ranges_and_gateways_without_an_address_are_compared_too() {
        let of = |range: &str, range6: &str, gateway: &str| DefaultBridge {
            range: Some(range.parse().unwrap()),
            range6: Some(range6.parse().unwrap()),
            gateways: vec![gateway.parse().unwrap()],
            ..DefaultBridge::default()
        };
        let was = of("10.9.0.0/24", "fd09::/64", "10.9.0.7");
        assert_eq!(told(&was, was.clone()), [""; 0]);
        assert_eq!(
            told(&was, of("10.9.0.0/24", "fd0a::/64", "10.9.0.8")),
            [
                "--default-gateway 10.9.0.8 is not in force: network bridge has 10.9.0.7",
                "--fixed-cidr-v6 fd0a::/64 is not in force: network bridge has fd09::/64",
            ]
        );
    }
}
