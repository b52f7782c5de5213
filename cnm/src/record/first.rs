//! The first form of records, of releases before records had a version.
//!
//! A network had the options of its driver parsed beside those given, and the plugin for CNI hid
//! what it wanted of the model in a label of the network and in an option of the endpoint.

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use super::{DriverField, EndpointOptions, EndpointRecord, NetworkRecord, RouteRecord};

/// Where CNI's settings were hidden.
const CNI: &str = "rnet.cni.settings";

/// The options of a driver, of which only the device does not follow from those given.
#[derive(Serialize, Deserialize)]
pub(super) struct Driver {
    driver: String,
    bridge: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct CniNetwork {
    gateway: bool,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct CniEndpoint {
    hairpin: bool,
    default_gateway: bool,
    routes: Vec<CniRoute>,
}

#[derive(Deserialize)]
struct CniRoute {
    dst: IpNetwork,
    gw: Option<std::net::IpAddr>,
}

/// The version of a record that names none.
pub(super) fn version() -> u32 {
    1
}

/// Brings a network to the form of today; returns the driver's name.
pub(super) fn renew(network: &mut NetworkRecord) -> String {
    let driver = match &network.driver {
        DriverField::Name(name) => return name.clone(),
        DriverField::First(Driver { driver, bridge }) => {
            let derived = format!("br-{}", network.id.short());
            let derived = if network.predefined { "rnet0".to_owned() } else { derived };
            let key = "com.docker.network.bridge.name";
            if let Some(bridge) = bridge.as_ref().filter(|bridge| **bridge != derived) {
                let options = &mut network.given_options;
                options.entry(key.to_owned()).or_insert_with(|| bridge.clone());
            }
            driver.clone()
        }
    };
    if let Some(text) = network.labels.remove(CNI) {
        let CniNetwork { gateway } = serde_json::from_str(&text).unwrap_or_default();
        let key = "rnet.bridge.host_address".to_owned();
        network.given_options.insert(key, gateway.to_string());
    }
    driver
}

/// Brings an endpoint to the form of today.
pub(super) fn renew_endpoint(endpoint: &mut EndpointRecord) {
    if let Some(text) = endpoint.given_options.remove(CNI) {
        let cni: CniEndpoint = serde_json::from_str(&text).unwrap_or_default();
        let key = "rnet.endpoint.hairpin".to_owned();
        endpoint.given_options.insert(key, cni.hairpin.to_string());
        endpoint.default_route = cni.default_gateway;
        let route = |route: CniRoute| RouteRecord { destination: route.dst, via: route.gw };
        endpoint.routes = cni.routes.into_iter().map(route).collect();
    }
    // What cannot be read had no effect then.
    let sysctls = EndpointOptions::sysctls_of(&endpoint.given_options);
    endpoint.sysctls = sysctls.iter().map(|sysctl| sysctl.of(&endpoint.interface)).collect();
}
