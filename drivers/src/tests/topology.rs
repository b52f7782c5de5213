//! What is between endpoints, who decides on published ports, and how large a packet may be.

use super::*;

fn l3(digit: u8) -> Network {
    let mut network = network(digit, &[V4, V6]);
    network.given_options.insert("rnet.bridge.topology".to_owned(), "l3".to_owned());
    network
}

#[test]
fn an_l3_network_has_a_device_for_its_gateways_and_its_subnets_may_talk() {
    let planned = plan_network(&l3(1)).unwrap();
    let plan = cnm::diff(&State::default(), &planned).to_string();
    let lines = plan.lines().filter(|line| !line.contains("sysctl")).map(|l| format!("{l}\n"));
    expect![[r#"
        + link br-010101010101 in host bridge
        + addr 10.1.0.1/24 dev br-010101010101 in host
        + addr fd00:1::1/64 dev br-010101010101 in host
        + element bridge br-010101010101
        + element gateway 10.1.0.1
        + element gateway fd00:1::1
        + element masquerade 10.1.0.0/24
        + element masquerade fd00:1::/64
        + element together 10.1.0.0/24 to 10.1.0.0/24
        + element together fd00:1::/64 to fd00:1::/64
    "#]]
    .assert_eq(&lines.collect::<String>());
}

#[test]
fn an_l3_endpoint_is_alone_on_its_link_and_reaches_everything_by_the_host() {
    let network = l3(1);
    let endpoint = endpoint(0xa0, &network, &["10.1.0.2/24", "fd00:1::2/64"]);
    let planned = plan(&sandbox(&[("0.0.0.0", 80, 80)]), &[(&network, &endpoint)]);
    check(
        planned,
        &expect![[r#"
            + namespace 5b5b5b5b5b5b
            + link eth0 in 5b5b5b5b5b5b veth vetha0a0a0a mac 02:00:00:00:00:a0
            + sysctl net/ipv4/conf/vetha0a0a0a/route_localnet in host = 1
            + sysctl net/ipv6/conf/vetha0a0a0a/accept_dad in host = 0
            + sysctl net/ipv6/conf/vetha0a0a0a/accept_ra in host = 0
            + sysctl net/ipv6/conf/vetha0a0a0a/disable_ipv6 in host = 0
            + sysctl net/ipv6/conf/vetha0a0a0a/proxy_ndp in host = 1
            + sysctl net/ipv6/neigh/vetha0a0a0a/proxy_delay in host = 0
            + sysctl net/ipv4/conf/eth0/arp_notify in 5b5b5b5b5b5b = 1
            + sysctl net/ipv6/conf/eth0/accept_dad in 5b5b5b5b5b5b = 0
            + sysctl net/ipv6/conf/eth0/accept_ra in 5b5b5b5b5b5b = 0
            + sysctl net/ipv6/conf/eth0/disable_ipv6 in 5b5b5b5b5b5b = 0
            + sysctl net/ipv6/conf/eth0/ndisc_notify in 5b5b5b5b5b5b = 1
            + addr 10.1.0.2/32 dev eth0 in 5b5b5b5b5b5b
            + addr fd00:1::2/128 dev eth0 in 5b5b5b5b5b5b
            + route 10.1.0.2/32 in host dev vetha0a0a0a from 10.1.0.1
            + route fd00:1::2/128 in host dev vetha0a0a0a from fd00:1::1
            + route 10.1.0.1/32 in 5b5b5b5b5b5b dev eth0
            + route fd00:1::1/128 in 5b5b5b5b5b5b dev eth0
            + route 0.0.0.0/0 in 5b5b5b5b5b5b via 10.1.0.1 dev eth0
            + route 10.1.0.0/24 in 5b5b5b5b5b5b via 10.1.0.1 dev eth0
            + route ::/0 in 5b5b5b5b5b5b via fd00:1::1 dev eth0
            + route fd00:1::/64 in 5b5b5b5b5b5b via fd00:1::1 dev eth0
            + neighbour 10.1.0.2 dev vetha0a0a0a in host mac 02:00:00:00:00:a0
            + neighbour fd00:1::1 dev vetha0a0a0a in host proxied
            + neighbour fd00:1::2 dev vetha0a0a0a in host mac 02:00:00:00:00:a0
            + neighbour 10.1.0.1 dev eth0 in 5b5b5b5b5b5b mac 3a:d0:e4:38:cf:8d
            + neighbour fd00:1::1 dev eth0 in 5b5b5b5b5b5b mac 3a:d0:e4:38:cf:8d
            + element bridge vetha0a0a0a
            + element published 0.0.0.0 80/tcp to 10.1.0.2:80
            + element end vetha0a0a0a
            + element behind vetha0a0a0a 10.1.0.2
            + element behind vetha0a0a0a fd00:1::2
        "#]],
    );
}

#[test]
fn what_needs_a_bridge_is_refused_on_an_l3_network() {
    for (option, value) in [
        ("com.docker.network.bridge.gateway_mode_ipv4", "isolated"),
        ("com.docker.network.bridge.inhibit_ipv4", "true"),
        ("rnet.bridge.host_address", "false"),
        ("rnet.bridge.any_source", "true"),
    ] {
        let mut network = l3(1);
        network.internal = true;
        network.given_options.insert(option.to_owned(), value.to_owned());
        let refusal = network.driver.check(&network).unwrap_err().to_string();
        assert!(refusal.contains("rnet.bridge.topology=l3"), "{refusal}");
    }
}

/// The MTU of a network's device.
fn mtu(network: &Network) -> Option<u32> {
    let planned = plan_network(network).unwrap();
    planned.iter().find_map(|(_, value)| value.link()).and_then(|link| link.mtu)
}

#[test]
fn a_network_without_an_mtu_has_that_of_the_way_out() {
    let mut network = network(1, &[V4, V6]);
    assert_eq!(mtu(&network), None);
    network.egress_mtu = Some(1400);
    assert_eq!(mtu(&network), Some(1400));
    network.egress_mtu = Some(1000);
    assert_eq!(mtu(&network), Some(1280), "less is no IPv6");
    network.ipv6 = false;
    assert_eq!(mtu(&network), Some(1000));
    network.internal = true;
    assert_eq!(mtu(&network), None, "there is no way out");
    network.internal = false;
    set(&mut network, "driver.mtu", "1500");
    assert_eq!(mtu(&network), None, "the user's word is last");
    set(&mut network, "driver.mtu", "9000");
    assert_eq!(mtu(&network), Some(9000));
}

#[test]
fn ports_that_the_hosts_firewall_decides_on_are_not_translated_but_carried() {
    let mut network = network(1, &[V4, V6]);
    let policy = "rnet.bridge.publish_policy".to_owned();
    network.given_options.insert(policy, "host-firewall".to_owned());
    let endpoint = endpoint(0xa0, &network, &["10.1.0.2/24", "fd00:1::2/64"]);
    let sandbox = sandbox(&[("0.0.0.0", 80, 8), ("::", 80, 8)]);
    check_lines("published", &sandbox, &[(&network, &endpoint)], &expect![[""]]);
    let attachments = [Attachment { network: &network, endpoint: &endpoint }];
    let carried = Drivers.carried(&sandbox, &attachments);
    let carried: Vec<_> = carried.values().map(ToString::to_string).collect();
    assert_eq!(carried, ["10.1.0.2:8", "[fd00:1::2]:8"]);
}

#[test]
fn trusted_links_and_outbound_addresses_are_elements() {
    let mut network = network(1, &[V4, V6]);
    set(&mut network, "bridge.trusted_host_interfaces", "eth1:wg0");
    set(&mut network, "host_ipv4", "192.0.2.9");
    set(&mut network, "host_ipv6", "2001:db8::9");
    let planned = plan_network(&network).unwrap();
    let plan = cnm::diff(&State::default(), &planned).to_string();
    let words = ["trusted", "outbound", "masquerade"];
    let lines = plan.lines().filter(|line| words.iter().any(|word| line.contains(word)));
    let lines = lines.flat_map(|line| [line, "\n"]).collect::<String>();
    expect![[r#"
        + element masquerade 10.1.0.0/24
        + element masquerade fd00:1::/64
        + element outbound 10.1.0.0/24 as 192.0.2.9
        + element outbound fd00:1::/64 as 2001:db8::9
        + element trusted eth1 to br-010101010101
        + element trusted wg0 to br-010101010101
    "#]]
    .assert_eq(&lines);
    let endpoint = endpoint(0xa0, &network, &["10.1.0.2/24", "fd00:1::2/64"]);
    let sandbox = sandbox(&[("0.0.0.0", 80, 8), ("::", 80, 8)]);
    check_lines(
        "direct",
        &sandbox,
        &[(&network, &endpoint)],
        &expect![[r#"
        + element direct 10.1.0.2 8/tcp
        + element direct fd00:1::2 8/tcp
    "#]],
    );
}

#[test]
fn what_to_do_about_a_full_network_is_something_that_its_driver_can_do() {
    for driver in DRIVERS {
        let network = Network { driver: *driver, ..network(1, &[V4]) };
        let Some(room) = driver.room(&network) else { continue };
        let known: Vec<_> = driver.options().iter().flat_map(|option| option.names).collect();
        let said = room.because.split_whitespace().filter_map(|word| word.split_once('='));
        for (option, _) in said {
            assert!(known.iter().any(|name| **name == option), "{}: {option}", driver.name());
        }
    }
}
