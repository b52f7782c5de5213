//! How a controller is set up where nobody says otherwise.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::ControllerConfig;

impl Default for ControllerConfig {
    fn default() -> Self {
        // Private space (RFC 1918) that is rarely used elsewhere comes first.
        let supernets = ["172.17.0.0/16", "172.18.0.0/15", "172.20.0.0/14", "172.24.0.0/13"];
        let supernets = supernets.into_iter().chain(["10.128.0.0/9"]);
        let any = IpAddr::from([0; 4]);
        Self {
            default_pools: supernets.filter_map(|net| Some((net.parse().ok()?, 24))).collect(),
            quarantine: 60_000_000_000,
            default_options: BTreeMap::new(),
            ephemeral_ports: 32_768..=60_999,
            default_bindings: vec![any, IpAddr::from([0; 16])],
        }
    }
}
