//! What the settings make of the drivers' plans.

use std::sync::Arc;

use cnm::controller::{Claims, ControllerConfig, Decision, Entropy, HostFacts, SandboxSpec};
use cnm::store::Memory;
use cnm::{Controller, State, diff};
use expect_test::{Expect, expect};

use super::*;

struct Counter(u8);

impl Entropy for Counter {
    fn bytes(&mut self) -> [u8; 32] {
        self.0 += 1;
        [self.0; 32]
    }
}

fn settings() -> NetworkSettings {
    let address = |text: &str| text.parse().unwrap();
    NetworkSettings {
        bridge: Some("cni0".parse().unwrap()),
        gateway: true,
        masquerade: true,
        pools: vec![PoolSettings {
            subnet: "10.1.0.0/24".parse().unwrap(),
            gateway: address("10.1.0.1"),
            start: address("10.1.0.1"),
            end: address("10.1.0.255"),
        }],
        ..NetworkSettings::default()
    }
}

/// The plan of a network and one sandbox on it, without sysctls.
fn check(network: &NetworkSettings, endpoint: &EndpointSettings, expected: &Expect) {
    let planner = Arc::new(drivers::Drivers);
    let mut controller =
        Controller::load(&Memory::default(), planner, ControllerConfig::default()).unwrap();
    let (mut entropy, facts) = (Counter(0), HostFacts::default());
    let spec = network.spec("cni.pods");
    let (made, transaction) =
        controller.begin_create_network(&spec, &facts, &mut entropy, 0).unwrap();
    assert_eq!(transaction.warnings, [""; 0]);
    assert!(network.made(&made));
    controller.commit(transaction);
    let join = endpoint.join(&made);
    let spec = SandboxSpec { joins: vec![join], ..SandboxSpec::default() };
    let claims = Claims::default();
    let decision = controller.begin_create_sandbox(&spec, &claims, &mut entropy, 0).unwrap();
    let Decision::Made((_, transaction)) = decision else { panic!("no ports are published") };
    controller.commit(transaction);
    let plan = diff(&State::default(), &controller.desired()).to_string();
    let lines = plan.lines().filter(|line| !line.contains("sysctl"));
    expected.assert_eq(&lines.collect::<Vec<_>>().join("\n"));
}

#[test]
fn default_gateway_is_planned() {
    let endpoint = EndpointSettings { default_gateway: true, ..EndpointSettings::default() };
    check(
        &settings(),
        &endpoint,
        &expect![[r#"
            + namespace 020202020202
            + link cni0 in host bridge
            + link eth0 in 020202020202 veth veth0303030 mac 06:04:04:04:04:04
            + port veth0303030 of cni0
            + addr 10.1.0.1/24 dev cni0 in host
            + addr 10.1.0.2/24 dev eth0 in 020202020202
            + route 0.0.0.0/0 in 020202020202 via 10.1.0.1 dev eth0
            + element bridge cni0
            + element unprotected cni0 ipv4
            + element masquerade 10.1.0.0/24"#]],
    );
}

#[test]
fn without_a_gateway_the_bridge_has_no_address() {
    let network = NetworkSettings { gateway: false, masquerade: false, ..settings() };
    check(
        &network,
        &EndpointSettings::default(),
        &expect![[r#"
            + namespace 020202020202
            + link cni0 in host bridge
            + link eth0 in 020202020202 veth veth0303030 mac 06:04:04:04:04:04
            + port veth0303030 of cni0
            + addr 10.1.0.2/24 dev eth0 in 020202020202
            + element bridge cni0
            + element unprotected cni0 ipv4"#]],
    );
}

#[test]
fn hairpin_and_routes_are_planned() {
    let endpoint = EndpointSettings {
        hairpin: true,
        routes: vec![
            RouteSettings { dst: "10.2.0.0/16".parse().unwrap(), gw: None },
            RouteSettings { dst: "10.3.0.0/16".parse().unwrap(), gw: "10.1.0.9".parse().ok() },
        ],
        ..EndpointSettings::default()
    };
    let network = NetworkSettings { isolated: true, mtu: Some(1400), ..settings() };
    check(
        &network,
        &endpoint,
        &expect![[r#"
            + namespace 020202020202
            + link cni0 in host bridge mtu 1400
            + link eth0 in 020202020202 veth veth0303030 mac 06:04:04:04:04:04 mtu 1400
            + port veth0303030 of cni0 isolated hairpin
            + addr 10.1.0.1/24 dev cni0 in host
            + addr 10.1.0.2/24 dev eth0 in 020202020202
            + route 10.2.0.0/16 in 020202020202 via 10.1.0.1 dev eth0
            + route 10.3.0.0/16 in 020202020202 via 10.1.0.9 dev eth0
            + element bridge cni0
            + element unprotected cni0 ipv4
            + element masquerade 10.1.0.0/24
            + element apart cni0"#]],
    );
}
