//! Desired and observed states, and what CHECK says of them.

use cnm::{EndpointId, LinkKind, NetworkId, SandboxId};
use expect_test::{Expect, expect};

use super::*;
use crate::result::{Interface, Ip};

fn desired() -> State {
    let ns = cnm::Ns::Sandbox(SandboxId::from_random([1; 32]));
    let (veth, eth0) = ("veth0101010", "eth0");
    State::from_iter([
        (
            Key::Link { ns: ns.clone(), name: eth0.parse().unwrap() },
            Value::Link(Link {
                kind: LinkKind::Veth { peer: veth.parse().unwrap() },
                mac: Some([2, 0, 0, 0, 0, 1].into()),
                mtu: None,
                up: true,
                tag: "endpoint/1".to_owned(),
            }),
        ),
        (
            Key::Sysctl { ns: ns.clone(), path: "net/ipv4/conf/eth0/arp_notify".to_owned() },
            Value::Text("1".to_owned()),
        ),
        (
            Key::Address {
                ns: ns.clone(),
                link: eth0.parse().unwrap(),
                address: "10.1.0.2/24".parse().unwrap(),
            },
            Value::Present,
        ),
        (
            Key::Route { ns, destination: "0.0.0.0/0".parse().unwrap() },
            Value::Route { link: eth0.parse().unwrap(), via: "10.1.0.1".parse().ok() },
        ),
    ])
}

fn check(observed: &State, expected: &Expect) {
    expected.assert_eq(&differences(&desired(), observed).join("\n"));
}

fn changed(change: impl Fn(&Key, &mut Value)) -> State {
    let mut state = desired();
    for (key, value) in desired().iter() {
        let mut value = value.clone();
        change(key, &mut value);
        state.insert(key.clone(), value);
    }
    state
}

#[test]
fn what_is_as_it_should_be_is_no_difference() {
    check(&desired(), &expect![""]);
}

#[test]
fn later_plugins_may_change_mtu_hardware_address_and_sysctls() {
    let observed = changed(|_, value| match value {
        Value::Link(link) => {
            (link.mac, link.mtu) = (Some([2, 0, 0, 0, 0, 9].into()), Some(9000));
        }
        Value::Text(text) => *text = "0".to_owned(),
        _ => {}
    });
    check(&observed, &expect![""]);
}

#[test]
fn everything_that_is_missing_is_named() {
    check(
        &State::default(),
        &expect![[r#"
            link eth0 in 010101010101 veth veth0101010 mac 02:00:00:00:00:01 is missing
            sysctl net/ipv4/conf/eth0/arp_notify in 010101010101 = 1 is missing
            addr 10.1.0.2/24 dev eth0 in 010101010101 is missing
            route 0.0.0.0/0 in 010101010101 via 10.1.0.1 dev eth0 is missing"#]],
    );
}

#[test]
fn damage_is_named() {
    let observed = changed(|_, value| match value {
        Value::Link(link) => link.up = false,
        Value::Route { via, .. } => *via = None,
        _ => {}
    });
    check(
        &observed,
        &expect![[r#"
            link eth0 in 010101010101 is down
            route 0.0.0.0/0 in 010101010101 is dev eth0 and not via 10.1.0.1 dev eth0"#]],
    );
    let observed = changed(|_, value| {
        if let Value::Link(_) = value {
            let what = "veth0101010 does not lead there".to_owned();
            *value = Value::Damaged(cnm::Damage { what, remains: Vec::new() });
        }
    });
    check(&observed, &expect!["link eth0 in 010101010101: veth0101010 does not lead there"]);
}

#[test]
fn memory_of_the_runtime_must_agree() {
    let endpoint = Endpoint {
        id: EndpointId::from_random([1; 32]),
        network: NetworkId::from_random([1; 32]),
        sandbox: SandboxId::from_random([1; 32]),
        interface: "eth0".parse().unwrap(),
        mac: [2, 0, 0, 0, 0, 1].into(),
        gateways: Vec::new(),
        addresses: vec!["10.1.0.2/24".parse().unwrap()],
        link_local: Vec::new(),
        aliases: Vec::new(),
        gateway_priority: 0,
        order: 0,
        default_route: true,
        any_source: false,
        routes: Vec::new(),
        sysctls: Vec::new(),
        given_options: std::collections::BTreeMap::new(),
        handover: None,
    };
    let mut previous = Attached::default();
    assert_eq!(forgotten(&endpoint, &previous), ["prevResult has no interface eth0 in a sandbox"]);
    previous.interfaces.push(Interface {
        name: "eth0".to_owned(),
        sandbox: "/run/netns/a".to_owned(),
        ..Interface::default()
    });
    assert_eq!(forgotten(&endpoint, &previous), ["prevResult has no address 10.1.0.2/24 of eth0"]);
    let address = endpoint.addresses[0];
    previous.ips.push(Ip { address, gateway: None, interface: Some(0) });
    assert_eq!(forgotten(&endpoint, &previous), [""; 0]);
}
