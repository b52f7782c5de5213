//! Which network leads out of a sandbox.

use std::collections::BTreeMap;

use super::*;
use crate::{EndpointId, NetworkId, Pool};

/// A network with a gateway for each subnet, and an endpoint on it.
fn joined(name: &str, subnets: &[&str], priority: i32) -> (Network, Endpoint) {
    let pool = |subnet: &&str| {
        let subnet: ipnetwork::IpNetwork = subnet.parse().unwrap();
        let gateway = subnet.iter().nth(1);
        Pool { subnet, range: None, gateway, auxiliary: BTreeMap::new(), automatic: false }
    };
    let pools: Vec<Pool> = subnets.iter().map(pool).collect();
    let address = |pool: &Pool| {
        let address = pool.subnet.iter().nth(2).unwrap();
        ipnetwork::IpNetwork::new(address, pool.subnet.prefix()).unwrap()
    };
    let endpoint = Endpoint {
        id: EndpointId::from_random([1; 32]),
        network: NetworkId::from_random([1; 32]),
        sandbox: SandboxId::from_random([1; 32]),
        interface: "eth0".parse().unwrap(),
        mac: [2, 0, 0, 0, 0, 1].into(),
        gateways: Vec::new(),
        addresses: pools.iter().map(address).collect(),
        link_local: Vec::new(),
        aliases: Vec::new(),
        gateway_priority: priority,
        order: 0,
        default_route: true,
        any_source: false,
        routes: Vec::new(),
        sysctls: Vec::new(),
        given_options: BTreeMap::new(),
        handover: None,
    };
    let network = Network {
        id: endpoint.network.clone(),
        name: name.to_owned(),
        created: 0,
        driver: &crate::driver::fake::Fake::Bridge,
        given_options: BTreeMap::new(),
        ipv4: true,
        ipv6: pools.len() > 1,
        addressing: crate::network::Addressing::default(),
        ipam: None,
        ipam_options: None,
        borrowed: false,
        pools,
        internal: false,
        attachable: false,
        predefined: false,
        labels: BTreeMap::new(),
        parent: None,
        egress_mtu: None,
        tunnel: None,
    };
    (network, endpoint)
}

/// The gateways of the two families.
#[track_caller]
fn check(joined: &[(Network, Endpoint)], ipv4: Option<&str>, ipv6: Option<&str>) {
    let attachments: Vec<_> =
        joined.iter().map(|(network, endpoint)| Attachment { network, endpoint }).collect();
    let name = |ipv6| gateway(&attachments, ipv6).map(|found| found.network.name.as_str());
    assert_eq!((name(false), name(true)), (ipv4, ipv6));
}

const V4: &[&str] = &["10.1.0.0/24"];
const DUAL: &[&str] = &["10.1.0.0/24", "fd01::/64"];

#[test]
fn each_family_has_a_gateway_of_its_own() {
    check(&[joined("a", V4, 1), joined("b", DUAL, 0)], Some("a"), Some("b"));
    check(&[joined("a", V4, 0)], Some("a"), None);
    check(&[], None, None);
}

#[test]
fn the_highest_priority_wins_then_dual_stack_then_the_name() {
    check(&[joined("a", V4, 0), joined("b", V4, 5)], Some("b"), None);
    check(&[joined("a", V4, 0), joined("b", DUAL, 0)], Some("b"), Some("b"));
    check(&[joined("b", V4, 0), joined("a", V4, 0)], Some("a"), None);
    check(&[joined("a", V4, i32::MIN), joined("b", V4, i32::MAX)], Some("b"), None);
}

#[test]
fn internal_networks_and_those_without_a_gateway_lead_nowhere() {
    let (network, endpoint) = joined("a", V4, 9);
    let internal = (Network { internal: true, ..network.clone() }, endpoint.clone());
    check(&[internal, joined("b", V4, 0)], Some("b"), None);
    let mut closed = network;
    closed.pools[0].gateway = None;
    check(&[(closed, endpoint)], None, None);
}
