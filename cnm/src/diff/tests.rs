//! Plans, as people read them; and random states, on a kernel that removes with an object what
//! rests on it.

use std::collections::BTreeMap;

use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;
use crate::link::MacvlanMode;
use crate::{Damage, Element, LinkName, Ns, Protocol, SandboxId};

fn name(text: &str) -> LinkName {
    text.parse().unwrap()
}

fn sandbox(digit: u8) -> SandboxId {
    SandboxId::from_random([digit * 0x11; 32])
}

fn inside(digit: u8) -> Ns {
    Ns::Sandbox(sandbox(digit))
}

fn veth(digit: u8) -> Key {
    Key::Link { ns: inside(digit), name: name("eth0") }
}

fn veth_value(digit: u8, mac: u8, mtu: Option<u32>) -> Value {
    let kind = LinkKind::Veth { peer: name(&format!("veth{digit}")) };
    let mac = Some([2, 0, 0, 0, 0, mac].into());
    Value::Link(Link { kind, mac, mtu, up: true, tag: "rnet:x".to_owned() })
}

fn bridge(link: &str) -> Key {
    Key::Link { ns: Ns::Host, name: name(link) }
}

fn bridge_value(mtu: Option<u32>) -> Value {
    let kind = LinkKind::Bridge;
    Value::Link(Link { kind, mac: None, mtu, up: true, tag: "rnet:n".to_owned() })
}

/// A link on another one.
fn vlan(parent: &str, id: u16) -> Value {
    let kind = LinkKind::Vlan { parent: name(parent), id };
    Value::Link(Link { kind, mac: None, mtu: None, up: true, tag: "rnet:n".to_owned() })
}

fn address(ns: Ns, link: &str, address: &str) -> Key {
    Key::Address { ns, link: name(link), address: address.parse().unwrap() }
}

fn published(port: u16) -> Key {
    let host = std::net::IpAddr::from([0; 4]);
    Key::Element(Element::Published { host, protocol: Protocol::Tcp, port })
}

fn target(last: u8, port: u16) -> Value {
    Value::Target { address: [10, 1, 0, last].into(), port }
}

/// A network with one sandbox on it.
fn settled() -> State {
    let default = Key::Route { ns: inside(1), destination: "0.0.0.0/0".parse().unwrap() };
    let port = Value::Port { bridge: name("br0"), isolated: false, hairpin: false, tunnel: false };
    let path = "net/ipv4/conf/eth0/arp_notify".to_owned();
    State::from_iter([
        (Key::Namespace { sandbox: sandbox(1) }, Value::Present),
        (bridge("br0"), bridge_value(None)),
        (veth(1), veth_value(1, 1, None)),
        (Key::Port { link: name("veth1") }, port),
        (Key::Sysctl { ns: inside(1), path }, Value::Text("1".to_owned())),
        (address(Ns::Host, "br0", "10.1.0.1/24"), Value::Present),
        (address(inside(1), "eth0", "10.1.0.2/24"), Value::Present),
        (default, Value::Route { link: name("eth0"), via: Some([10, 1, 0, 1].into()) }),
        (Key::Resolver { sandbox: sandbox(1) }, Value::Present),
        (published(8080), target(2, 80)),
    ])
}

fn check(observed: &State, desired: &State, expected: &Expect) {
    expected.assert_eq(&diff(observed, desired).to_string());
}

#[test]
fn a_settled_kernel_needs_nothing() {
    assert!(diff(&settled(), &settled()).is_empty());
}

#[test]
fn creation_goes_from_what_others_rest_on_to_what_is_reached() {
    check(
        &State::default(),
        &settled(),
        &expect![[r#"
            + namespace 111111111111
            + link br0 in host bridge
            + link eth0 in 111111111111 veth veth1 mac 02:00:00:00:00:01
            + port veth1 of br0
            + sysctl net/ipv4/conf/eth0/arp_notify in 111111111111 = 1
            + addr 10.1.0.1/24 dev br0 in host
            + addr 10.1.0.2/24 dev eth0 in 111111111111
            + route 0.0.0.0/0 in 111111111111 via 10.1.0.1 dev eth0
            + resolver in 111111111111
            + element published 0.0.0.0 8080/tcp to 10.1.0.2:80
        "#]],
    );
}

#[test]
fn removal_goes_the_other_way() {
    check(
        &settled(),
        &State::default(),
        &expect![[r#"
            - element published 0.0.0.0 8080/tcp
            - resolver in 111111111111
            - route 0.0.0.0/0 in 111111111111
            - addr 10.1.0.2/24 dev eth0 in 111111111111
            - addr 10.1.0.1/24 dev br0 in host
            - sysctl net/ipv4/conf/eth0/arp_notify in 111111111111
            - port veth1
            - link eth0 in 111111111111
            - link br0 in host
            - namespace 111111111111
        "#]],
    );
}

#[test]
fn what_can_change_in_place_is_not_interrupted() {
    let mut desired = settled();
    desired.insert(bridge("br0"), bridge_value(Some(1400)));
    desired.insert(veth(1), veth_value(1, 1, Some(1400)));
    desired.insert(
        Key::Port { link: name("veth1") },
        Value::Port { bridge: name("br0"), isolated: true, hairpin: false, tunnel: false },
    );
    check(
        &settled(),
        &desired,
        &expect![[r#"
            ~ link br0 in host bridge mtu 1400
            ~ link eth0 in 111111111111 veth veth1 mac 02:00:00:00:00:01 mtu 1400
            ~ port veth1 of br0 isolated
        "#]],
    );
}

#[test]
fn a_link_whose_hardware_address_is_the_kernels_choice_has_any() {
    let wanted = |mtu| match veth_value(1, 1, mtu) {
        Value::Link(link) => Value::Link(Link { mac: None, ..link }),
        other => other,
    };
    let mut desired = settled();
    desired.insert(veth(1), wanted(None));
    check(&settled(), &desired, &expect![[""]]);
    desired.insert(veth(1), wanted(Some(1400)));
    check(
        &settled(),
        &desired,
        &expect![[r#"
            ~ link eth0 in 111111111111 veth veth1 mtu 1400
        "#]],
    );
}

#[test]
fn a_link_is_made_after_the_link_that_it_is_on() {
    let mut desired = State::default();
    let macvlan = LinkKind::Macvlan { parent: name("a-vlan"), mode: MacvlanMode::Bridge };
    let link = Link { kind: macvlan, mac: None, mtu: None, up: true, tag: "rnet:x".to_owned() };
    desired.insert(Key::Namespace { sandbox: sandbox(1) }, Value::Present);
    desired.insert(veth(1), Value::Link(link));
    desired.insert(bridge("a-vlan"), vlan("z-vlan", 2));
    desired.insert(bridge("z-vlan"), vlan("uplink", 1));
    check(
        &State::default(),
        &desired,
        &expect![[r#"
        + namespace 111111111111
        + link z-vlan in host vlan 1 of uplink
        + link a-vlan in host vlan 2 of z-vlan
        + link eth0 in 111111111111 macvlan of a-vlan mode bridge
    "#]],
    );
    check(
        &desired,
        &State::default(),
        &expect![[r#"
        - link eth0 in 111111111111
        - link a-vlan in host
        - link z-vlan in host
        - namespace 111111111111
    "#]],
    );
}

#[test]
fn a_damaged_link_is_replaced_with_all_that_rests_on_it() {
    let mut observed = settled();
    let what = "veth1 does not lead there".to_owned();
    let remains = vec![(Ns::Host, name("veth1"))];
    observed.insert(veth(1), Value::Damaged(Damage { what, remains }));
    check(
        &observed,
        &settled(),
        &expect![[r#"
        - route 0.0.0.0/0 in 111111111111
        - addr 10.1.0.2/24 dev eth0 in 111111111111
        - sysctl net/ipv4/conf/eth0/arp_notify in 111111111111
        - port veth1
        - link eth0 in 111111111111
        + link eth0 in 111111111111 veth veth1 mac 02:00:00:00:00:01
        + port veth1 of br0
        + sysctl net/ipv4/conf/eth0/arp_notify in 111111111111 = 1
        + addr 10.1.0.2/24 dev eth0 in 111111111111
        + route 0.0.0.0/0 in 111111111111 via 10.1.0.1 dev eth0
    "#]],
    );
}

#[test]
fn a_link_that_is_down_is_switched_on() {
    let mut observed = settled();
    let Value::Link(link) = bridge_value(None) else { unreachable!() };
    observed.insert(bridge("br0"), Value::Link(Link { up: false, ..link }));
    check(
        &observed,
        &settled(),
        &expect![[r#"
        ~ link br0 in host bridge
    "#]],
    );
}

#[test]
fn an_element_is_removed_and_added() {
    let mut desired = settled();
    desired.insert(published(8080), target(3, 80));
    check(
        &settled(),
        &desired,
        &expect![[r#"
            - element published 0.0.0.0 8080/tcp
            + element published 0.0.0.0 8080/tcp to 10.1.0.3:80
        "#]],
    );
}

#[test]
fn what_rests_on_a_replaced_link_is_made_anew() {
    let mut desired = settled();
    desired.insert(veth(1), veth_value(1, 2, None));
    check(
        &settled(),
        &desired,
        &expect![[r#"
            - route 0.0.0.0/0 in 111111111111
            - addr 10.1.0.2/24 dev eth0 in 111111111111
            - sysctl net/ipv4/conf/eth0/arp_notify in 111111111111
            - port veth1
            - link eth0 in 111111111111
            + link eth0 in 111111111111 veth veth1 mac 02:00:00:00:00:02
            + port veth1 of br0
            + sysctl net/ipv4/conf/eth0/arp_notify in 111111111111 = 1
            + addr 10.1.0.2/24 dev eth0 in 111111111111
            + route 0.0.0.0/0 in 111111111111 via 10.1.0.1 dev eth0
        "#]],
    );
}

#[test]
fn a_route_goes_and_comes_with_the_address_it_needs() {
    let mut desired = settled();
    desired.remove(&address(inside(1), "eth0", "10.1.0.2/24"));
    desired.insert(address(inside(1), "eth0", "10.1.0.9/24"), Value::Present);
    check(
        &settled(),
        &desired,
        &expect![[r#"
            - route 0.0.0.0/0 in 111111111111
            - addr 10.1.0.2/24 dev eth0 in 111111111111
            + addr 10.1.0.9/24 dev eth0 in 111111111111
            + route 0.0.0.0/0 in 111111111111 via 10.1.0.1 dev eth0
        "#]],
    );
}

/// Objects under few keys, so that states have much in common; each with what it rests on.
fn object() -> impl Strategy<Value = (Key, Value)> {
    let (digit, bit) = (1..4_u8, any::<bool>());
    let mtu = prop_oneof![Just(None), Just(Some(1400))];
    let route = |digit: u8, via: u8| {
        let key = Key::Route { ns: inside(digit), destination: "0.0.0.0/0".parse().unwrap() };
        (key, Value::Route { link: name("eth0"), via: Some([10, 1, 0, via].into()) })
    };
    prop_oneof![
        digit.clone().prop_map(|d| (Key::Namespace { sandbox: sandbox(d) }, Value::Present)),
        (digit.clone(), mtu.clone())
            .prop_map(|(d, mtu)| (bridge(&format!("br{d}")), bridge_value(mtu))),
        (digit.clone(), digit.clone(), mtu)
            .prop_map(|(d, mac, mtu)| (veth(d), veth_value(d, mac, mtu))),
        // Each on the one with the next name, so that their order is not that of the names.
        (digit.clone(), digit.clone()).prop_map(|(d, id)| (
            bridge(&format!("v{d}")),
            vlan(&format!("v{}", d + 1), id.into())
        )),
        (digit.clone(), digit.clone(), bit).prop_map(move |(d, of, isolated)| {
            let bridge = name(&format!("br{of}"));
            let value = Value::Port { bridge, isolated, hairpin: false, tunnel: false };
            (Key::Port { link: name(&format!("veth{d}")) }, value)
        }),
        (digit.clone(), digit.clone()).prop_map(|(d, value)| {
            let path = "net/ipv4/conf/eth0/x".to_owned();
            (Key::Sysctl { ns: inside(d), path }, Value::Text(value.to_string()))
        }),
        (digit.clone(), digit.clone()).prop_map(|(d, host)| {
            (address(inside(d), "eth0", &format!("10.1.0.{host}/24")), Value::Present)
        }),
        (digit.clone(), digit.clone()).prop_map(move |(d, via)| route(d, via)),
        digit.clone().prop_map(|d| (Key::Resolver { sandbox: sandbox(d) }, Value::Present)),
        (digit.clone(), digit).prop_map(|(d, to)| (published(d.into()), target(to, 80))),
    ]
}

/// What must be there for an object to be there.
fn supports(key: &Key, value: &Value) -> Vec<Key> {
    let digit = |ns: &Ns| match ns {
        Ns::Host => 0,
        Ns::Sandbox(id) => (1..4).find(|d| sandbox(*d) == *id).unwrap_or(0),
    };
    match (key, value) {
        (Key::Link { ns: Ns::Sandbox(sandbox), .. } | Key::Resolver { sandbox }, _) => {
            vec![Key::Namespace { sandbox: sandbox.clone() }]
        }
        (Key::Link { .. }, Value::Link(link)) => {
            // The last one is on a link that is not ours.
            let parent = link.kind.parent().filter(|parent| parent.as_str() != "v4");
            parent.map(|parent| bridge(parent.as_str())).into_iter().collect()
        }
        (Key::Port { link }, Value::Port { bridge, .. }) => {
            let digit = link.as_str().trim_start_matches("veth").parse().unwrap();
            vec![veth(digit), self::bridge(bridge.as_str())]
        }
        (Key::Sysctl { ns, .. } | Key::Address { ns, .. } | Key::Route { ns, .. }, _) => {
            vec![veth(digit(ns))]
        }
        _ => Vec::new(),
    }
}

/// A possible state: nothing in it hangs in the air.
fn state() -> impl Strategy<Value = State> {
    prop::collection::btree_map(any::<u8>(), object(), 0..30).prop_map(|objects| {
        let mut objects: BTreeMap<Key, Value> = objects.into_values().collect();
        loop {
            let hanging = objects.iter().find(|(key, value)| {
                supports(key, value).iter().any(|support| !objects.contains_key(support))
            });
            let Some(key) = hanging.map(|(key, _)| key.clone()) else { break };
            objects.remove(&key);
        }
        objects.into_iter().collect()
    })
}

/// A kernel that refuses what real ones refuse, and removes with an object what rests on it.
fn apply(observed: &State, plan: &Plan) -> Result<State, TestCaseError> {
    let mut kernel = observed.clone();
    for step in plan.steps() {
        match step {
            Step::Add(key, value) => {
                prop_assert!(kernel.get(key).is_none(), "{key} exists");
                let missing = supports(key, value).into_iter().find(|s| kernel.get(s).is_none());
                prop_assert!(missing.is_none(), "{key} needs {missing:?}");
                kernel.insert(key.clone(), value.clone());
            }
            Step::Change { key, from, to } => {
                prop_assert_eq!(kernel.get(key), Some(from));
                kernel.insert(key.clone(), to.clone());
            }
            Step::Remove(key, _) => {
                let mut gone = vec![key.clone()];
                while let Some(key) = gone.pop() {
                    kernel.remove(&key);
                    let resting = kernel.iter();
                    let resting = resting.filter(|(o, value)| supports(o, value).contains(&key));
                    gone.extend(resting.map(|(other, _)| other.clone()));
                }
            }
        }
    }
    Ok(kernel)
}

proptest! {
    #[test]
    fn an_applied_plan_leads_to_what_is_desired(observed in state(), desired in state()) {
        let plan = diff(&observed, &desired);
        prop_assert_eq!(apply(&observed, &plan)?, desired);
    }

    #[test]
    fn a_state_differs_from_itself_in_nothing(state in state()) {
        prop_assert!(diff(&state, &state).is_empty());
    }

    #[test]
    fn all_removals_come_first_and_backwards(observed in state(), desired in state()) {
        let plan = diff(&observed, &desired);
        let (removals, others): (Vec<_>, Vec<_>) =
            plan.steps().iter().partition(|step| matches!(step, Step::Remove(..)));
        let steps: Vec<_> = removals.iter().chain(&others).copied().collect();
        prop_assert_eq!(steps, plan.steps().iter().collect::<Vec<_>>());
        let key = |step: &Step| match step {
            Step::Add(key, _) | Step::Change { key, .. } | Step::Remove(key, _) => key.clone(),
        };
        // Links are in the order of what they are on.
        let links = |pair: &[&Step]| {
            pair.iter().all(|step| matches!(step.key(), Key::Link { .. }))
        };
        prop_assert!(removals.windows(2).all(|p| links(p) || key(p[0]) > key(p[1])));
        prop_assert!(others.windows(2).all(|p| links(p) || key(p[0]) < key(p[1])));
    }

    #[test]
    fn what_is_the_same_on_both_sides_and_rests_on_nothing_is_left_alone(
        observed in state(), desired in state(),
    ) {
        let plan = diff(&observed, &desired);
        let same = |key: &Key| observed.get(key).is_some() && observed.get(key) == desired.get(key);
        for step in plan.steps() {
            let (Step::Add(key, value) | Step::Remove(key, value)) = step else { continue };
            prop_assert!(!same(key) || !supports(key, value).is_empty(), "{key} is touched");
        }
    }
}
