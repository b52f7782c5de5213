//! What encrypted networks are made of, and that they are not made in the clear.

use cnm::driver::{Encryption, Node, Peer};
use cnm::network::Tunnel;
use cnm::wireguard::{PublicKey, TUNNELS};
use cnm::{Mac, Plan, WireGuard, diff};

use super::*;
use crate::kernel::{Kernel, Memory, reconcile};

/// A network that is to be encrypted or not, and a tunnel that is or not.
fn overlay(network_is: bool, tunnel_is: bool) -> Network {
    let mut network = network(9, &[V4]);
    network.driver = &overlay::Overlay;
    network.given_options.insert("encrypted".to_owned(), network_is.to_string());
    let local = "fd77::1".parse().unwrap();
    let (encrypted, mtu) = (tunnel_is, Some(1440));
    network.tunnel = Some(Tunnel { vni: 4097, port: TUNNELS, local, encrypted, mtu });
    network
}

fn peer() -> Peer {
    Peer {
        endpoint: EndpointId::from_random([7; 32]),
        mac: Mac::from([2, 0, 0, 0, 0, 7]),
        addresses: vec!["10.1.0.7".parse().unwrap()],
        node: 2,
    }
}

fn host(number: u8) -> WireGuard {
    let address = format!("fd77::{number}").parse().unwrap();
    WireGuard { key: PublicKey::from([number; 32]), port: 51_890, address }
}

fn node(number: u8, wireguard: Option<WireGuard>) -> Node {
    Node { number: number.into(), address: [192, 0, 2, number].into(), wireguard }
}

fn cluster(own: WireGuard, nodes: &[Node]) -> State {
    Drivers.cluster(nodes, Some(&Encryption { own, mtu: 1440 }))
}

/// The lines of a plan that have one of these words in them.
fn lines(plan: &Plan, words: &[&str]) -> String {
    let text = plan.to_string();
    let lines = text.lines().filter(|line| words.iter().any(|word| line.contains(word)));
    let lines = lines.map(|line| format!("{line}\n"));
    lines.collect()
}

#[test]
fn an_encrypted_network_leads_by_the_link_that_encrypts() {
    let network = overlay(true, true);
    let mut state = plan_network(&network).unwrap();
    state.extend(network.driver.peers(&network, &[&peer()]));
    let plan = diff(&State::default(), &state);
    expect![[r#"
        + link vx-090909090909 in host vxlan 4097 from fd77::1 port 4790 mtu 1370
        + port vx-090909090909 of br-090909090909 tunnel
        + sysctl net/ipv6/conf/vx-090909090909/disable_ipv6 in host = 1
        + fdb 02:00:00:00:00:07 dev vx-090909090909 via group 1919877125
        + station 02:00:00:00:00:07 port vx-090909090909
        + shortcut of vx-090909090909
        + lead out to 02:00:00:00:00:07 of vx-090909090909
        + element encrypted 4097 port 4790
    "#]]
    .assert_eq(&lines(&plan, &["vx-", "element encrypt", "element tunnel"]));
}

#[test]
fn cve_2023_28842_a_network_that_is_to_be_encrypted_is_not_made_in_the_clear() {
    for (network_is, tunnel_is) in [(true, false), (false, true)] {
        let network = overlay(network_is, tunnel_is);
        let refused = plan_network(&network).unwrap_err();
        assert_eq!(refused, PlanError::InTheClear { network: "n9".to_owned() });
        assert!(network.driver.peers(&network, &[&peer()]).is_empty());
    }
}

#[test]
fn what_encrypts_has_a_peer_for_each_host_that_can() {
    let nodes = [node(2, Some(host(2))), node(3, None)];
    let plan = diff(&State::default(), &cluster(host(1), &nodes));
    expect![[r#"
        + link rnet-wg0 in host wireguard AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE= port 51890 mtu 1440
        + sysctl net/ipv6/conf/rnet-wg0/disable_ipv6 in host = 0
        + addr fd77::1/64 dev rnet-wg0 in host
        + peer AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI= of rnet-wg0 fd77::2 at 192.0.2.2:51890
        + nexthop 1919811588 via 192.0.2.2
        + nexthop 1919811589 group of 1919811588
        + nexthop 1919811590 via 192.0.2.3
        + nexthop 1919811591 group of 1919811590
        + nexthop 1919877124 via fd77::2
        + nexthop 1919877125 group of 1919877124
        + element tunnel source 192.0.2.2
        + element tunnel source 192.0.2.3
        + element encrypting rnet-wg0
    "#]]
    .assert_eq(&plan.to_string());
}

#[test]
fn where_nothing_is_encrypted_there_is_nothing_of_it() {
    let nodes = [node(2, Some(host(2)))];
    let plan = diff(&State::default(), &Drivers.cluster(&nodes, None)).to_string();
    assert!(!plan.contains("wg0") && !plan.contains("fd77"), "{plan}");
}

#[test]
fn another_address_of_a_host_is_one_change_and_another_key_makes_a_peer_anew() {
    let before = [node(2, Some(host(2)))];
    let mut moved = before;
    moved[0].address = [192, 0, 2, 42].into();
    let plan = diff(&cluster(host(1), &before), &cluster(host(1), &moved));
    expect![[r#"
        ~ peer AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI= of rnet-wg0 fd77::2 at 192.0.2.42:51890
    "#]]
    .assert_eq(&lines(&plan, &["wg0", "fd77"]));
    let mut rekeyed = before;
    rekeyed[0].wireguard = Some(WireGuard { key: PublicKey::from([9; 32]), ..host(2) });
    let plan = diff(&cluster(host(1), &before), &cluster(host(1), &rekeyed));
    expect![[r#"
        - peer AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI= of rnet-wg0
        + peer CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk= of rnet-wg0 fd77::2 at 192.0.2.2:51890
    "#]]
    .assert_eq(&plan.to_string());
    let own = WireGuard { key: PublicKey::from([9; 32]), ..host(1) };
    let plan = diff(&cluster(host(1), &before), &cluster(own, &before));
    expect![[r#"
        ~ link rnet-wg0 in host wireguard CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk= port 51890 mtu 1440
    "#]]
    .assert_eq(&plan.to_string());
}

#[test]
fn a_lost_link_comes_back_with_its_peers() {
    let kernel = Memory::new();
    let desired = cluster(host(1), &[node(2, Some(host(2)))]);
    reconcile(&kernel, &desired).unwrap();
    let link = desired.iter().find(|(key, _)| matches!(key, Key::Link { .. })).unwrap();
    let gone = State::from_iter([(link.0.clone(), link.1.clone())]);
    kernel.dismantle(&diff(&gone, &State::default()));
    let plan = reconcile(&kernel, &desired).unwrap();
    expect![[r#"
        + link rnet-wg0 in host wireguard AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE= port 51890 mtu 1440
        + sysctl net/ipv6/conf/rnet-wg0/disable_ipv6 in host = 0
        + addr fd77::1/64 dev rnet-wg0 in host
        + peer AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI= of rnet-wg0 fd77::2 at 192.0.2.2:51890
    "#]]
    .assert_eq(&plan.to_string());
    assert!(reconcile(&kernel, &desired).unwrap().is_empty());
}
