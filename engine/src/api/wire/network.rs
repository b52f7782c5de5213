//! Networks: requests to make and join them, and how they are shown.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use cnm::controller::NetworkUpdate;
use cnm::driver::Scope;
use cnm::network::PoolSpec;
use cnm::{Endpoint, Network, NetworkSpec, Planner};
use ipnetwork::Ipv6Network;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::container_config::EndpointConfig;
use super::time::{from_nanos, rfc3339};
use crate::container::Container;
use engine_error::{Error, Result};

/// Body of `POST /networks/create`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename = "CreateRequest", rename_all = "PascalCase", default)]
#[expect(clippy::struct_excessive_bools, reason = "Docker's fields")]
pub struct Create {
    name: String,
    driver: String,
    scope: String,
    #[serde(rename = "EnableIPv4")]
    ipv4: Option<bool>,
    #[serde(rename = "EnableIPv6")]
    ipv6: Option<bool>,
    #[serde(rename = "IPAM")]
    ipam: Ipam,
    internal: bool,
    attachable: bool,
    ingress: bool,
    config_only: bool,
    config_from: Option<ConfigFrom>,
    options: BTreeMap<String, String>,
    labels: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct ConfigFrom {
    network: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Ipam {
    driver: String,
    config: Vec<IpamConfig>,
    options: Option<BTreeMap<String, String>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct IpamConfig {
    #[serde(rename = "Subnet")]
    subnet: String,
    #[serde(rename = "IPRange")]
    range: String,
    #[serde(rename = "Gateway")]
    gateway: String,
    #[serde(rename = "AuxiliaryAddresses", alias = "AuxAddress")]
    auxiliary: BTreeMap<String, String>,
}

/// Body of `POST /rnet/networks/{id}/update`. What is absent stays; a label or option that is null goes.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default, deny_unknown_fields)]
pub struct Update {
    labels: BTreeMap<String, Option<String>>,
    options: BTreeMap<String, Option<String>>,
    internal: Option<bool>,
    add_subnets: Vec<IpamConfig>,
    remove_subnets: Vec<String>,
    #[serde(rename = "EnableIPv4")]
    ipv4: Option<bool>,
    #[serde(rename = "EnableIPv6")]
    ipv6: Option<bool>,
    dry_run: bool,
}

impl Update {
    /// What is to change, and whether only to say so.
    pub fn update(self) -> (NetworkUpdate, bool) {
        let Self { labels, options, internal, add_subnets, dry_run, .. } = self;
        let Self { remove_subnets: without, ipv4, ipv6, .. } = self;
        let subnets = add_subnets.into_iter().map(|subnet| subnet.pool(Some(true))).collect();
        let update = NetworkUpdate { labels, options, internal, subnets, without, ipv4, ipv6 };
        (update, dry_run)
    }
}

/// Body of `POST /networks/{id}/connect`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Connect {
    /// The container.
    pub container: String,
    /// What is asked of the endpoint.
    pub endpoint_config: EndpointConfig,
}

/// Body of `POST /networks/{id}/disconnect`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Disconnect {
    /// The container.
    pub container: String,
    /// Whether the container may be gone already.
    pub force: bool,
}

impl Create {
    /// The request in the model's terms.
    pub fn spec(self) -> Result<NetworkSpec> {
        if self.name.is_empty() {
            return Err(Error::invalid("invalid name: name is empty"));
        }
        let from = self.config_from.map(|from| from.network).unwrap_or_default();
        if self.config_only {
            return Err(unsupported("configuration-only networks are not supported"));
        }
        if !from.is_empty() {
            let text = format!("configuration network {from:?} does not exist");
            return Err(Error::not_found(text));
        }
        if self.ingress {
            return forbidden("Ingress network can only be global scope network");
        }
        let wide = matches!(self.scope.as_str(), "swarm" | "global");
        if wide && !reaches_all(&self.driver) {
            return forbidden("cannot create a swarm scoped network when swarm is not active");
        }
        Ok(NetworkSpec {
            name: self.name,
            driver: self.driver,
            plugin: false,
            id: None,
            ipam: None,
            tunnel: None,
            ipam_options: self.ipam.options,
            options: self.options,
            ipam_driver: self.ipam.driver,
            pools: self.ipam.config.into_iter().map(|config| config.pool(self.ipv6)).collect(),
            ipv4: self.ipv4,
            ipv6: self.ipv6,
            internal: self.internal,
            attachable: self.attachable,
            labels: self.labels,
        })
    }
}

/// Whether networks of a driver reach all hosts of a cluster.
fn reaches_all(driver: &str) -> bool {
    let planner: &dyn Planner = &drivers::Drivers;
    planner.driver(driver).is_some_and(|driver| driver.traits().scope == Scope::Cluster)
}

fn forbidden<T>(message: &str) -> Result<T> {
    Err(Error::new(cnm::Kind::Forbidden, message))
}

fn unsupported(message: &str) -> Error {
    Error::new(cnm::Kind::NotImplemented, message)
}

impl IpamConfig {
    /// Docker looks at IPv6 subnets only where IPv6 is asked for by its name; here a network has it by
    /// such a subnet, and what Docker would not look at need not be written without host bits.
    fn pool(self, ipv6: Option<bool>) -> PoolSpec {
        let some = |text: String| Some(text).filter(|text| !text.is_empty());
        let subnet = match self.subnet.parse::<Ipv6Network>() {
            Ok(subnet) if ipv6.is_none() && self.subnet.contains('/') => {
                format!("{}/{}", subnet.network(), subnet.prefix())
            }
            _ => self.subnet,
        };
        PoolSpec {
            subnet: some(subnet),
            range: some(self.range),
            gateway: some(self.gateway),
            auxiliary: self.auxiliary,
        }
    }
}

/// An entry of `GET /networks`.
pub fn summary(network: &Network) -> Value {
    json!({
        "Name": network.name,
        "Id": network.id.to_string(),
        "Created": rfc3339(Some(from_nanos(network.created))),
        "Scope": network.driver.traits().scope.as_str(),
        "Driver": network.driver.name(),
        "EnableIPv4": network.ipv4,
        "EnableIPv6": network.ipv6,
        "IPAM": ipam(network),
        "Internal": network.internal,
        "Attachable": network.attachable,
        "Ingress": false,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": false,
        "Containers": {},
        "Options": network.given_options,
        "Labels": network.labels,
    })
}

/// `GET /networks/{id}`.
pub fn inspect(network: &Network, endpoints: &[(Arc<Endpoint>, Option<Arc<Container>>)]) -> Value {
    let mut value = summary(network);
    let entries = endpoints.iter().map(|(endpoint, container)| {
        let key = match container {
            Some(container) => container.id.to_string(),
            None => format!("ep-{}", endpoint.id),
        };
        (key, member(network, endpoint, container.as_deref()))
    });
    value["Containers"] = Value::Object(entries.collect::<Map<_, _>>());
    value
}

fn member(network: &Network, endpoint: &Endpoint, container: Option<&Container>) -> Value {
    let own = network.driver.has_hardware_addresses();
    let mac = if own { endpoint.mac.to_string() } else { String::new() };
    let address = |ipv6| endpoint.address(ipv6).map(|a| a.to_string()).unwrap_or_default();
    json!({
        "Name": container.map(|container| container.name.as_str()).unwrap_or_default(),
        "EndpointID": endpoint.id.to_string(),
        "MacAddress": mac,
        "IPv4Address": address(false),
        "IPv6Address": address(true),
    })
}

fn ipam(network: &Network) -> Value {
    let pool = |pool: &cnm::Pool| {
        let mut value = Map::new();
        value.insert("Subnet".to_owned(), json!(pool.subnet.to_string()));
        if let Some(range) = pool.range {
            value.insert("IPRange".to_owned(), json!(range.to_string()));
        }
        if let Some(gateway) = pool.gateway {
            value.insert("Gateway".to_owned(), json!(IpAddr::to_string(&gateway)));
        }
        if !pool.auxiliary.is_empty() {
            value.insert("AuxiliaryAddresses".to_owned(), json!(pool.auxiliary));
        }
        Value::Object(value)
    };
    // Command lines send them in any order.
    let (ipv6, ipv4): (Vec<_>, Vec<_>) = network.pools.iter().partition(|p| p.subnet.is_ipv6());
    let config: Vec<Value> = ipv4.into_iter().chain(ipv6).map(pool).collect();
    let config = if config.is_empty() { Value::Null } else { Value::Array(config) };
    let (driver, options) = match &network.ipam {
        Some(plugin) => (plugin.name.as_str(), json!(plugin.options)),
        None => (network.addressing.name(), json!(network.ipam_options)),
    };
    json!({"Driver": driver, "Options": options, "Config": config})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::wire::go;
    use crate::api::wire::go::tests::check_null_is_absent;

    fn spec(body: Value) -> Result<NetworkSpec> {
        go::from_value::<Create>(body).unwrap().spec()
    }

    #[test]
    fn a_request_of_the_docker_command_is_understood() {
        let spec = spec(json!({
            "Name": "n1", "CheckDuplicate": true, "Driver": "bridge", "Scope": "",
            "EnableIPv6": true, "Internal": true, "Attachable": false, "Ingress": false,
            "ConfigOnly": false, "ConfigFrom": {"Network": ""},
            "IPAM": {"Driver": "default", "Options": {}, "Config": [
                {"Subnet": "10.1.0.0/24", "IPRange": "10.1.0.128/25", "Gateway": "10.1.0.1",
                 "AuxiliaryAddresses": {"router": "10.1.0.2"}},
                {"Subnet": "fd01::/64"},
            ]},
            "Options": {"com.docker.network.driver.mtu": "1400"}, "Labels": {"a": "b"},
        }))
        .unwrap();
        assert_eq!((spec.ipv4, spec.ipv6, spec.internal), (None, Some(true), true));
        assert_eq!(spec.pools[0].range.as_deref(), Some("10.1.0.128/25"));
        assert_eq!(spec.pools[0].auxiliary["router"], "10.1.0.2");
        assert_eq!(spec.pools[1].gateway, None);
    }

    #[test]
    fn an_ipv6_subnet_may_have_host_bits_where_ipv6_is_not_asked_for_by_name() {
        let subnet = |ipv6: Value, subnet: &str| {
            let ipam = json!({"Config": [{"Subnet": subnet}]});
            let body = json!({"Name": "n", "EnableIPv6": ipv6, "IPAM": ipam});
            spec(body).unwrap().pools.remove(0).subnet.unwrap()
        };
        assert_eq!(subnet(Value::Null, "2001:389::1/64"), "2001:389::/64");
        // These are refused, in the words that they came with.
        assert_eq!(subnet(json!(true), "2001:389::1/64"), "2001:389::1/64");
        assert_eq!(subnet(Value::Null, "10.1.0.7/24"), "10.1.0.7/24");
        assert_eq!(subnet(Value::Null, "2001:389::1"), "2001:389::1");
    }

    #[test]
    fn ipam_options_are_told_as_they_were_given() {
        let options = |ipam: Value| spec(json!({"Name": "n", "IPAM": ipam})).unwrap().ipam_options;
        assert_eq!(options(json!({"Options": {}})), Some(BTreeMap::new()));
        assert_eq!(options(json!({})), None);
    }

    #[test]
    fn null_is_the_same_as_nothing_in_any_field_of_a_request() {
        check_null_is_absent(
            &json!({
                "Name": "n1", "Driver": "bridge", "Scope": "local", "EnableIPv4": true,
                "EnableIPv6": true, "Internal": true, "Attachable": true, "Ingress": false,
                "ConfigOnly": false, "ConfigFrom": {"Network": ""}, "CheckDuplicate": true,
                "IPAM": {"Driver": "default", "Options": {}, "Config": [
                    {"Subnet": "10.1.0.0/24", "IPRange": "10.1.0.128/25", "Gateway": "10.1.0.1",
                     "AuxiliaryAddresses": {"router": "10.1.0.2"}}]},
                "Options": {"com.docker.network.driver.mtu": "1400"}, "Labels": {"a": "b"},
            }),
            |body| go::from_value::<Create>(body).map(Create::spec),
        );
        check_null_is_absent(
            &json!({"Container": "c1", "EndpointConfig": {
                "IPAMConfig": {"IPv4Address": "10.1.0.9", "IPv6Address": "", "LinkLocalIPs": []},
                "Links": ["a:b"], "Aliases": ["x"], "MacAddress": "02:00:00:00:00:01",
                "DriverOpts": {"a": "b"}, "GwPriority": 5}}),
            go::from_value::<Connect>,
        );
        let disconnect = json!({"Container": "c1", "Force": true});
        check_null_is_absent(&disconnect, go::from_value::<Disconnect>);
    }

    #[test]
    fn what_is_for_clusters_is_refused() {
        let check = |body, message: &str| assert_eq!(spec(body).unwrap_err().to_string(), message);
        check(json!({}), "invalid name: name is empty");
        check(
            json!({"Name": "x", "Scope": "swarm"}),
            "cannot create a swarm scoped network when swarm is not active",
        );
        check(
            json!({"Name": "x", "ConfigOnly": true}),
            "configuration-only networks are not supported",
        );
        check(
            json!({"Name": "x", "ConfigFrom": {"Network": "y"}}),
            "configuration network \"y\" does not exist",
        );
        check(
            json!({"Name": "x", "Ingress": true}),
            "Ingress network can only be global scope network",
        );
    }
}
