//! Plans of models, as text.

mod encrypted;
mod newcomer;
mod plugin;
mod ports;
mod topology;

use std::collections::BTreeMap;

use cnm::{Endpoint, EndpointId, Network, NetworkId, Pool, PortBinding, Protocol, SandboxId};
use expect_test::{Expect, expect};

use super::*;

const V4: &str = "10.1.0.0/24";
const V6: &str = "fd00:1::/64";

fn network(digit: u8, subnets: &[&str]) -> Network {
    let id = NetworkId::from_random([digit; 32]);
    let pools: Vec<_> = subnets.iter().map(|subnet| pool(subnet)).collect();
    Network {
        name: format!("n{digit}"),
        created: 0,
        driver: &bridge::Bridge,
        given_options: BTreeMap::new(),
        ipv4: pools.iter().any(|pool| pool.subnet.is_ipv4()),
        ipv6: pools.iter().any(|pool| pool.subnet.is_ipv6()),
        addressing: cnm::network::Addressing::default(),
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
        id,
    }
}

fn pool(subnet: &str) -> Pool {
    let subnet: ipnetwork::IpNetwork = subnet.parse().unwrap();
    let gateway = subnet.iter().nth(1);
    Pool { subnet, range: None, gateway, auxiliary: BTreeMap::new(), automatic: false }
}

fn set(network: &mut Network, option: &str, value: &str) {
    let name = format!("com.docker.network.{option}");
    network.given_options.insert(name, value.to_owned());
}

fn endpoint(digit: u8, network: &Network, addresses: &[&str]) -> Endpoint {
    Endpoint {
        id: EndpointId::from_random([digit; 32]),
        network: network.id.clone(),
        sandbox: sandbox(&[]).id,
        interface: format!("eth{}", digit & 0xf).parse().unwrap(),
        mac: cnm::Mac::from([2, 0, 0, 0, 0, digit]),
        gateways: Vec::new(),
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        link_local: Vec::new(),
        aliases: Vec::new(),
        gateway_priority: 0,
        order: 0,
        default_route: true,
        any_source: false,
        routes: Vec::new(),
        sysctls: Vec::new(),
        given_options: BTreeMap::new(),
        handover: None,
    }
}

fn sandbox(ports: &[(&str, u16, u16)]) -> Sandbox {
    let binding = |(host, host_port, port): &(&str, u16, u16)| PortBinding {
        host: host.parse().unwrap(),
        host_port: *host_port,
        protocol: Protocol::Tcp,
        port: *port,
    };
    Sandbox {
        id: SandboxId::from_random([0x5b; 32]),
        owner: "test".to_owned(),
        ports: ports.iter().map(binding).collect(),
        resolver: false,
        sysctls: Vec::new(),
        closed: std::collections::BTreeSet::new(),
        passages: Vec::new(),
    }
}

fn check(planned: Result<State, PlanError>, expected: &Expect) {
    expected.assert_eq(&match planned {
        Ok(desired) => cnm::diff(&State::default(), &desired).to_string(),
        Err(error) => format!("error: {error}\n"),
    });
}

/// Checks those lines of a sandbox's plan that contain a word.
fn check_lines(
    word: &str,
    sandbox: &Sandbox,
    attachments: &[(&Network, &Endpoint)],
    expected: &Expect,
) {
    let planned = plan(sandbox, attachments).unwrap();
    let plan = cnm::diff(&State::default(), &planned).to_string();
    let lines = plan.lines().filter(|line| line.contains(word)).map(|line| format!("{line}\n"));
    expected.assert_eq(&lines.collect::<String>());
}

fn plan_network(network: &Network) -> Result<State, PlanError> {
    network.driver.network(network)
}

fn plan(sandbox: &Sandbox, attachments: &[(&Network, &Endpoint)]) -> Result<State, PlanError> {
    let attachments: Vec<_> =
        attachments.iter().map(|(network, endpoint)| Attachment { network, endpoint }).collect();
    Drivers.sandbox(sandbox, &attachments)
}

#[test]
fn network_is_a_bridge_with_its_gateways() {
    check(
        plan_network(&network(1, &[V4, V6])),
        &expect![[r#"
            + link br-010101010101 in host bridge
            + sysctl net/ipv4/conf/br-010101010101/proxy_arp_pvlan in host = 0
            + sysctl net/ipv4/conf/br-010101010101/route_localnet in host = 1
            + sysctl net/ipv4/ip_forward in host = 1
            + sysctl net/ipv4/neigh/br-010101010101/proxy_delay in host = 0
            + sysctl net/ipv6/conf/all/forwarding in host = 1
            + sysctl net/ipv6/conf/br-010101010101/accept_dad in host = 0
            + sysctl net/ipv6/conf/br-010101010101/accept_ra in host = 0
            + sysctl net/ipv6/conf/br-010101010101/disable_ipv6 in host = 0
            + sysctl net/ipv6/conf/br-010101010101/proxy_ndp in host = 0
            + sysctl net/ipv6/neigh/br-010101010101/proxy_delay in host = 0
            + addr 10.1.0.1/24 dev br-010101010101 in host
            + addr fd00:1::1/64 dev br-010101010101 in host
            + element bridge br-010101010101
            + element gateway 10.1.0.1
            + element gateway fd00:1::1
            + element masquerade 10.1.0.0/24
            + element masquerade fd00:1::/64
        "#]],
    );
}

#[test]
fn network_without_ipv6_has_it_switched_off() {
    check(
        plan_network(&network(1, &[V4])),
        &expect![[r#"
            + link br-010101010101 in host bridge
            + sysctl net/ipv4/conf/br-010101010101/proxy_arp_pvlan in host = 0
            + sysctl net/ipv4/conf/br-010101010101/route_localnet in host = 1
            + sysctl net/ipv4/ip_forward in host = 1
            + sysctl net/ipv4/neigh/br-010101010101/proxy_delay in host = 0
            + sysctl net/ipv6/conf/br-010101010101/accept_dad in host = 0
            + sysctl net/ipv6/conf/br-010101010101/accept_ra in host = 0
            + sysctl net/ipv6/conf/br-010101010101/disable_ipv6 in host = 1
            + sysctl net/ipv6/conf/br-010101010101/proxy_ndp in host = 0
            + sysctl net/ipv6/neigh/br-010101010101/proxy_delay in host = 0
            + addr 10.1.0.1/24 dev br-010101010101 in host
            + element bridge br-010101010101
            + element gateway 10.1.0.1
            + element masquerade 10.1.0.0/24
        "#]],
    );
}

#[test]
fn internal_network_is_neither_masqueraded_nor_reachable_from_localhost() {
    let mut internal = network(1, &[V4, V6]);
    internal.internal = true;
    check(
        plan_network(&internal),
        &expect![[r#"
            + link br-010101010101 in host bridge
            + sysctl net/ipv4/conf/br-010101010101/proxy_arp_pvlan in host = 0
            + sysctl net/ipv4/conf/br-010101010101/route_localnet in host = 0
            + sysctl net/ipv4/ip_forward in host = 1
            + sysctl net/ipv4/neigh/br-010101010101/proxy_delay in host = 0
            + sysctl net/ipv6/conf/all/forwarding in host = 1
            + sysctl net/ipv6/conf/br-010101010101/accept_dad in host = 0
            + sysctl net/ipv6/conf/br-010101010101/accept_ra in host = 0
            + sysctl net/ipv6/conf/br-010101010101/disable_ipv6 in host = 0
            + sysctl net/ipv6/conf/br-010101010101/proxy_ndp in host = 0
            + sysctl net/ipv6/neigh/br-010101010101/proxy_delay in host = 0
            + addr 10.1.0.1/24 dev br-010101010101 in host
            + addr fd00:1::1/64 dev br-010101010101 in host
            + element bridge br-010101010101
            + element internal br-010101010101
            + element gateway 10.1.0.1
            + element gateway fd00:1::1
        "#]],
    );
}

#[test]
fn isolated_network_has_a_bridge_without_addresses() {
    let mut isolated = network(1, &[V4, V6]);
    isolated.internal = true;
    set(&mut isolated, "bridge.gateway_mode_ipv4", "isolated");
    set(&mut isolated, "bridge.gateway_mode_ipv6", "isolated");
    check(
        plan_network(&isolated),
        &expect![[r#"
            + link br-010101010101 in host bridge
            + sysctl net/ipv4/conf/br-010101010101/proxy_arp_pvlan in host = 0
            + sysctl net/ipv4/conf/br-010101010101/route_localnet in host = 0
            + sysctl net/ipv4/ip_forward in host = 1
            + sysctl net/ipv4/neigh/br-010101010101/proxy_delay in host = 0
            + sysctl net/ipv6/conf/br-010101010101/accept_dad in host = 0
            + sysctl net/ipv6/conf/br-010101010101/accept_ra in host = 0
            + sysctl net/ipv6/conf/br-010101010101/disable_ipv6 in host = 1
            + sysctl net/ipv6/conf/br-010101010101/proxy_ndp in host = 0
            + sysctl net/ipv6/neigh/br-010101010101/proxy_delay in host = 0
            + element bridge br-010101010101
            + element internal br-010101010101
        "#]],
    );
}

#[test]
fn inhibited_network_leaves_the_gateway_to_somebody_else() {
    let mut inhibited = network(1, &[V4]);
    set(&mut inhibited, "bridge.inhibit_ipv4", "true");
    check(
        plan_network(&inhibited),
        &expect![[r#"
            + link br-010101010101 in host bridge
            + sysctl net/ipv4/conf/br-010101010101/proxy_arp_pvlan in host = 0
            + sysctl net/ipv4/conf/br-010101010101/route_localnet in host = 1
            + sysctl net/ipv4/ip_forward in host = 1
            + sysctl net/ipv4/neigh/br-010101010101/proxy_delay in host = 0
            + sysctl net/ipv6/conf/br-010101010101/accept_dad in host = 0
            + sysctl net/ipv6/conf/br-010101010101/accept_ra in host = 0
            + sysctl net/ipv6/conf/br-010101010101/disable_ipv6 in host = 1
            + sysctl net/ipv6/conf/br-010101010101/proxy_ndp in host = 0
            + sysctl net/ipv6/neigh/br-010101010101/proxy_delay in host = 0
            + element bridge br-010101010101
            + element masquerade 10.1.0.0/24
        "#]],
    );
}

#[test]
fn routed_family_is_not_masqueraded_and_unprotected_one_is_open() {
    let mut mixed = network(1, &[V4, V6]);
    set(&mut mixed, "bridge.gateway_mode_ipv4", "nat-unprotected");
    set(&mut mixed, "bridge.gateway_mode_ipv6", "routed");
    check(
        plan_network(&mixed),
        &expect![[r#"
            + link br-010101010101 in host bridge
            + sysctl net/ipv4/conf/br-010101010101/proxy_arp_pvlan in host = 0
            + sysctl net/ipv4/conf/br-010101010101/route_localnet in host = 1
            + sysctl net/ipv4/ip_forward in host = 1
            + sysctl net/ipv4/neigh/br-010101010101/proxy_delay in host = 0
            + sysctl net/ipv6/conf/all/forwarding in host = 1
            + sysctl net/ipv6/conf/br-010101010101/accept_dad in host = 0
            + sysctl net/ipv6/conf/br-010101010101/accept_ra in host = 0
            + sysctl net/ipv6/conf/br-010101010101/disable_ipv6 in host = 0
            + sysctl net/ipv6/conf/br-010101010101/proxy_ndp in host = 0
            + sysctl net/ipv6/neigh/br-010101010101/proxy_delay in host = 0
            + addr 10.1.0.1/24 dev br-010101010101 in host
            + addr fd00:1::1/64 dev br-010101010101 in host
            + element bridge br-010101010101
            + element gateway fd00:1::1
            + element unprotected br-010101010101 ipv4
            + element masquerade 10.1.0.0/24
        "#]],
    );
}

#[test]
fn mtu_is_told_only_where_it_is_not_the_default() {
    for (mtu, expected) in [(1500, ""), (1400, " mtu 1400")] {
        let mut network = network(1, &[V4]);
        set(&mut network, "driver.mtu", &i32::to_string(&mtu));
        let endpoint = endpoint(0xa0, &network, &["10.1.0.2/24"]);
        let plan = plan(&sandbox(&[]), &[(&network, &endpoint)]).unwrap();
        let plan = cnm::diff(&State::default(), &plan).to_string();
        let veth = plan.lines().find(|line| line.contains(" veth ")).unwrap();
        assert_eq!(
            &veth[veth.find(" mac").unwrap()..],
            format!(" mac 02:00:00:00:00:a0{expected}")
        );
    }
}

#[test]
fn endpoint_is_a_pair_into_the_sandbox() {
    let network = network(1, &[V4, V6]);
    let endpoint = endpoint(0xa0, &network, &["10.1.0.2/24", "fd00:1::2/64"]);
    check(
        plan(&sandbox(&[]), &[(&network, &endpoint)]),
        &expect![[r#"
            + namespace 5b5b5b5b5b5b
            + link eth0 in 5b5b5b5b5b5b veth vetha0a0a0a mac 02:00:00:00:00:a0
            + port vetha0a0a0a of br-010101010101 hairpin
            + sysctl net/ipv4/conf/eth0/arp_notify in 5b5b5b5b5b5b = 1
            + sysctl net/ipv6/conf/eth0/accept_dad in 5b5b5b5b5b5b = 0
            + sysctl net/ipv6/conf/eth0/accept_ra in 5b5b5b5b5b5b = 0
            + sysctl net/ipv6/conf/eth0/disable_ipv6 in 5b5b5b5b5b5b = 0
            + sysctl net/ipv6/conf/eth0/ndisc_notify in 5b5b5b5b5b5b = 1
            + addr 10.1.0.2/24 dev eth0 in 5b5b5b5b5b5b
            + addr fd00:1::2/64 dev eth0 in 5b5b5b5b5b5b
            + route 0.0.0.0/0 in 5b5b5b5b5b5b via 10.1.0.1 dev eth0
            + route ::/0 in 5b5b5b5b5b5b via fd00:1::1 dev eth0
            + element guarded vetha0a0a0a 02:00:00:00:00:a0
            + element source vetha0a0a0a 10.1.0.2
            + element source vetha0a0a0a fd00:1::2
            + element source vetha0a0a0a fe80::ff:fe00:a0
        "#]],
    );
}

#[test]
fn port_is_isolated_where_endpoints_may_not_talk() {
    let mut network = network(1, &[V4]);
    set(&mut network, "bridge.enable_icc", "false");
    let endpoint = endpoint(0xa0, &network, &["10.1.0.2/24"]);
    check_lines(
        "port",
        &sandbox(&[]),
        &[(&network, &endpoint)],
        &expect![[r#"
        + port vetha0a0a0a of br-010101010101 isolated hairpin
    "#]],
    );
}

#[test]
fn address_outside_the_subnets_is_refused() {
    let network = network(1, &[V4]);
    let endpoint = endpoint(0xa0, &network, &["10.2.0.2/24"]);
    check(
        plan(&sandbox(&[]), &[(&network, &endpoint)]),
        &expect![[r#"
        error: address 10.2.0.2/24 of endpoint a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0 is outside the subnets of network n1
    "#]],
    );
}

#[test]
fn families_may_have_different_gateways() {
    let (first, second) = (network(1, &[V4]), network(2, &["10.2.0.0/24", V6]));
    let on_first = Endpoint { gateway_priority: 1, ..endpoint(0xa0, &first, &["10.1.0.2/24"]) };
    let on_second = endpoint(0xa1, &second, &["10.2.0.2/24", "fd00:1::2/64"]);
    let attachments = [(&first, &on_first), (&second, &on_second)];
    check_lines(
        "route",
        &sandbox(&[]),
        &attachments,
        &expect![[r#"
        + route 0.0.0.0/0 in 5b5b5b5b5b5b via 10.1.0.1 dev eth0
        + route ::/0 in 5b5b5b5b5b5b via fd00:1::1 dev eth1
    "#]],
    );
}

#[test]
fn sysctls_of_the_sandbox_go_over_those_of_the_driver() {
    let network = network(1, &[V4, V6]);
    let mut endpoint = endpoint(0xa0, &network, &["10.1.0.2/24"]);
    endpoint.sysctls = vec![
        ("net/ipv4/conf/eth0/log_martians".to_owned(), "1".to_owned()),
        ("net/ipv6/conf/eth0/accept_ra".to_owned(), "2".to_owned()),
    ];
    let mut sandbox = sandbox(&[]);
    sandbox.sysctls = vec![
        ("net/ipv4/ping_group_range".to_owned(), "0\t 1000".to_owned()),
        ("net/ipv6/conf/eth0/accept_dad".to_owned(), "1".to_owned()),
    ];
    check_lines(
        "sysctl",
        &sandbox,
        &[(&network, &endpoint)],
        &expect![[r#"
            + sysctl net/ipv4/conf/eth0/arp_notify in 5b5b5b5b5b5b = 1
            + sysctl net/ipv4/conf/eth0/log_martians in 5b5b5b5b5b5b = 1
            + sysctl net/ipv4/ping_group_range in 5b5b5b5b5b5b = 0 1000
            + sysctl net/ipv6/conf/eth0/accept_dad in 5b5b5b5b5b5b = 1
            + sysctl net/ipv6/conf/eth0/accept_ra in 5b5b5b5b5b5b = 2
            + sysctl net/ipv6/conf/eth0/disable_ipv6 in 5b5b5b5b5b5b = 1
            + sysctl net/ipv6/conf/eth0/ndisc_notify in 5b5b5b5b5b5b = 1
        "#]],
    );
}

#[test]
fn a_wish_of_the_sandbox_for_all_interfaces_is_not_overruled_by_the_driver() {
    let network = network(1, &[V4]);
    let endpoint = endpoint(0xa0, &network, &["10.1.0.2/24"]);
    let mut sandbox = sandbox(&[]);
    sandbox.sysctls = [("all/disable_ipv6", "0"), ("default/accept_ra", "2")]
        .map(|(path, value)| (format!("net/ipv6/conf/{path}"), value.to_owned()))
        .into();
    check_lines(
        "conf/eth0",
        &sandbox,
        &[(&network, &endpoint)],
        &expect![[r#"
            + sysctl net/ipv4/conf/eth0/arp_notify in 5b5b5b5b5b5b = 1
            + sysctl net/ipv6/conf/eth0/accept_dad in 5b5b5b5b5b5b = 0
            + sysctl net/ipv6/conf/eth0/accept_ra in 5b5b5b5b5b5b = 2
            + sysctl net/ipv6/conf/eth0/disable_ipv6 in 5b5b5b5b5b5b = 0
            + sysctl net/ipv6/conf/eth0/ndisc_notify in 5b5b5b5b5b5b = 1
        "#]],
    );
}

#[test]
fn resolver_is_installed_where_it_is_wanted() {
    check(
        Ok(own_namespace(&Sandbox { resolver: true, ..sandbox(&[]) })),
        &expect![[r#"
        + namespace 5b5b5b5b5b5b
        + resolver in 5b5b5b5b5b5b
    "#]],
    );
}

#[test]
fn network_none_is_a_namespace_and_nothing_else() {
    let none = Network { driver: &null::Null, ..network(1, &[]) };
    check(plan_network(&none), &expect![[""]]);
    let endpoint = endpoint(0xa0, &none, &[]);
    check(
        plan(&sandbox(&[]), &[(&none, &endpoint)]),
        &expect![[r#"
        + namespace 5b5b5b5b5b5b
    "#]],
    );
}

#[test]
fn network_host_is_no_namespace_and_excludes_others() {
    let host = Network { driver: &host::Host, ..network(1, &[]) };
    check(plan_network(&host), &expect![[""]]);
    let on_host = endpoint(0xa0, &host, &[]);
    check(plan(&sandbox(&[]), &[(&host, &on_host)]), &expect![[""]]);
    let other = network(2, &[V4]);
    let on_other = endpoint(0xa1, &other, &["10.1.0.3/24"]);
    check(
        plan(&sandbox(&[]), &[(&host, &on_host), (&other, &on_other)]),
        &expect![[r#"
        error: sandbox 5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b5b cannot join network n1: it is the host's own namespace
    "#]],
    );
}

#[test]
fn endpoints_that_do_not_talk_have_passages_to_neighbours_by_way_of_the_host() {
    let mut apart = network(1, &[V4, V6]);
    set(&mut apart, "bridge.enable_icc", "false");
    let own = endpoint(0xe0, &apart, &["10.1.0.2/24", "fd00:1::2/64"]);
    let passage = |to: &str| cnm::sandbox::Passage {
        to: to.parse().unwrap(),
        protocol: Protocol::Udp,
        port: 53,
    };
    let passages = ["10.1.0.9", "fd00:1::9", "10.2.0.9"].map(passage).into();
    let sandbox = Sandbox { passages, ..sandbox(&[]) };
    let attachments = [(&apart, &own)];
    for (word, expected) in [
        (
            "element",
            expect![[r#"
                + element guarded vethe0e0e0e 02:00:00:00:00:e0
                + element source vethe0e0e0e 10.1.0.2
                + element source vethe0e0e0e fd00:1::2
                + element source vethe0e0e0e fe80::ff:fe00:e0
                + element passage 10.1.0.2 to 10.1.0.9 53/udp
                + element passage fd00:1::2 to fd00:1::9 53/udp
            "#]],
        ),
        (
            "proxied",
            expect![[r#"
                + neighbour fd00:1::2 dev br-010101010101 in host proxied
            "#]],
        ),
    ] {
        check_lines(word, &sandbox, &attachments, &expected);
    }
    let open = network(1, &[V4, V6]);
    check_lines("passage", &sandbox, &[(&open, &own)], &expect![[""]]);
}
