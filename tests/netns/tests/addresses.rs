//! Where addresses come from: pools, several of a family, none at all.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

use std::net::IpAddr;
use std::process::Command;

use ipnetwork::IpNetwork;
use netns_tests::{Daemon, Lab, wait_until};

const PORT: u16 = 7;

fn start() -> (Lab, Daemon) {
    let lab = Lab::new();
    let daemon = Daemon::start(&lab.host, &[]);
    (lab, daemon)
}

/// The addresses of a container on its only network, IPv4 first.
#[test]
fn a_network_with_several_subnets_grows_into_the_next_when_one_is_full() {
    let (lab, daemon) = start();
    daemon.rnet(
        "network create --ipv6 --subnet 10.9.1.0/30 --subnet 10.9.2.0/29 --subnet fd00:91::/126 \
         --subnet fd00:92::/125 -o com.docker.network.bridge.name=grow grow",
    );
    let gateways = lab.host.addresses("grow");
    for gateway in ["10.9.1.1/30", "10.9.2.1/29", "fd00:91::1/126", "fd00:92::1/125"] {
        assert!(gateways.contains(&gateway.parse().unwrap()), "{gateways:?}");
    }
    // The first has room for one in IPv4, and for two in IPv6.
    let a = daemon.run("aa", "--network grow");
    let b = daemon.run("bb", "--network grow");
    let c = daemon.run("cc", "--network grow --ip 10.9.2.6 -p 8080:7");
    assert_eq!(daemon.addresses_of("aa"), Lab::both(["10.9.1.2", "fd00:91::2"]));
    assert_eq!(daemon.addresses_of("bb"), Lab::both(["10.9.2.2", "fd00:91::3"]));
    assert_eq!(daemon.addresses_of("cc"), Lab::both(["10.9.2.6", "fd00:92::2"]));
    for (from, name) in [(&a, "aa"), (&b, "bb"), (&c, "cc")] {
        let _server = lab.client.serve(PORT);
        for (number, client) in Lab::both(Lab::CLIENT).into_iter().enumerate() {
            let seen = from.tcp(client, PORT).unwrap();
            assert_eq!(seen, Lab::both(Lab::HOST)[number], "{name} is masqueraded");
        }
    }
    // Neighbours in another subnet are neighbours: they see each other's own addresses.
    for (from, source, to, target) in
        [(&a, "aa", &c, "cc"), (&c, "cc", &a, "aa"), (&b, "bb", &c, "cc")]
    {
        let _server = to.serve(PORT);
        for (source, target) in
            daemon.addresses_of(source).into_iter().zip(daemon.addresses_of(target))
        {
            assert_eq!(from.tcp(target, PORT).unwrap(), source, "to {target}");
        }
    }
    let _server = c.serve(PORT);
    for host in Lab::both(Lab::HOST) {
        lab.client.tcp(host, 8080).unwrap();
    }
    for name in ["dd", "ee"] {
        daemon.run(name, "--network grow");
    }
    let inspected = daemon.rnet("network inspect -f {{.IPAM.Config}} grow");
    assert!(inspected.contains("10.9.2.0/29"), "{inspected}");
}

#[test]
fn a_network_without_addresses_joins_containers_by_their_frames_only() {
    let (lab, daemon) = start();
    daemon.rnet("network create --ipam-driver null -o com.docker.network.bridge.name=bare bare");
    let refusal = daemon.refusal("network create --ipam-driver null --subnet 10.9.0.0/24 x");
    assert!(refusal.contains("null ipam driver does not handle specific address pool requests"));
    assert!(lab.host.addresses("bare").iter().all(IpNetwork::is_ipv6), "the bridge has none");
    let [a, b] = ["aa", "bb"].map(|name| daemon.run(name, "--network bare --cap-add NET_ADMIN"));
    assert_eq!(daemon.addresses_of("aa"), Vec::<IpAddr>::new());
    assert_eq!(daemon.rnet("network inspect -f {{.IPAM.Driver}} bare"), "null");
    let refusal = daemon.refusal("run --network bare --ip 10.9.0.2 rnet/toolbox true");
    assert!(refusal.contains("10.9.0.2"), "{refusal}");
    a.add_address("eth0", "10.9.0.2/24");
    b.add_address("eth0", "10.9.0.3/24");
    let _server = b.serve(PORT);
    let [from, to]: [IpAddr; 2] = ["10.9.0.2", "10.9.0.3"].map(|address| address.parse().unwrap());
    assert_eq!(a.tcp(to, PORT).unwrap(), from);
}

/// Has `ip` do something on the lab's host.
fn ip(lab: &Lab, words: &str) {
    let output = lab.host.run(|| Command::new("ip").args(words.split(' ')).output().unwrap());
    assert!(output.status.success(), "ip {words}: {output:?}");
}

/// The subnets of a network.
fn subnets(daemon: &Daemon, network: &str) -> String {
    daemon.rnet(&format!(
        "network inspect -f {{{{range.IPAM.Config}}}}{{{{.Subnet}}}},{{{{end}}}} {network}"
    ))
}

#[test]
fn subnets_that_nobody_chose_avoid_the_routes_of_every_table() {
    let lab = Lab::new();
    for (family, route) in [
        ("-4", "10.60.0.0/24 via 192.0.2.2"),
        ("-4", "10.60.2.0/25 via 192.0.2.2 table 100"),
        ("-4", "0.0.0.0/1 via 192.0.2.2"),
        ("-4", "128.0.0.0/1 via 192.0.2.2"),
        ("-6", "fd60::/64 via 2001:db8:1::2 table 100"),
    ] {
        ip(&lab, &format!("{family} route add {route}"));
    }
    ip(&lab, "rule add fwmark 0x7 table 100");
    let flags = [
        "--default-address-pool",
        "base=10.60.0.0/16,size=24",
        "--default-address-pool",
        "base=fd60::/32,size=64",
        "--bip",
        "10.61.0.1/24",
    ];
    let daemon = Daemon::start(&lab.host, &flags);
    for (number, expected) in
        ["10.60.1.0/24,fd60:0:0:1::/64,", "10.60.3.0/24,fd60:0:0:2::/64,"].into_iter().enumerate()
    {
        daemon.rnet(&format!("network create --ipv6 n{number}"));
        assert_eq!(subnets(&daemon, &format!("n{number}")), expected);
    }
    // What appears and goes is known at once.
    ip(&lab, "route add 10.60.4.0/24 via 192.0.2.2");
    daemon.rnet("network create n4");
    assert_eq!(subnets(&daemon, "n4"), "10.60.5.0/24,");
    ip(&lab, "route del 10.60.4.0/24 via 192.0.2.2");
    ip(&lab, "route replace 10.60.6.0/24 via 192.0.2.2");
    ip(&lab, "link set lan0 down");
    daemon.rnet("network create n5");
    assert_eq!(subnets(&daemon, "n5"), "10.60.0.0/24,", "routes go with their link");
    daemon.rnet("network create --subnet 0.0.0.0/20 wide");
    assert_eq!(subnets(&daemon, "wide"), "10.60.16.0/20,");
}

#[test]
fn a_route_that_overlaps_a_network_later_is_told_once() {
    let (lab, daemon) = start();
    daemon.rnet("network create --subnet 10.8.1.0/24 office");
    let told = || {
        let events = daemon.rnet("events --since 1m --until 0s --filter event=overlap");
        events.lines().filter(|line| line.contains("network overlap")).count()
    };
    assert_eq!(told(), 0);
    ip(&lab, "route add 10.8.0.0/16 via 192.0.2.2 table 77");
    wait_until("it is told", || told() == 1);
    ip(&lab, "route add 10.99.0.0/16 via 192.0.2.2");
    let said = "its subnet 10.8.1.0/24 overlaps this host's route to 10.8.0.0/16";
    let check = daemon.output("system check");
    assert!(check.contains("office") && check.contains(said), "{check}");
    assert!(daemon.log().contains("10.8.0.0/16"), "{}", daemon.log());
    ip(&lab, "route del 10.8.0.0/16 via 192.0.2.2 table 77");
    wait_until("it is well again", || !daemon.output("system check").contains("10.8.0.0/16"));
    assert_eq!(told(), 1);
    ip(&lab, "route add 10.8.0.0/15 via 192.0.2.2");
    wait_until("another one is told", || told() == 2);
}

#[test]
fn the_hosts_links_and_routes_are_not_listed_again_for_every_network() {
    let lab = Lab::new();
    let daemon = Daemon::start(&lab.host, &["--debug"]);
    let listed = || daemon.log().matches("list the host's links and routes").count();
    daemon.rnet("network create first");
    let before = listed();
    assert!(before > 0, "{}", daemon.log());
    for number in 0..8 {
        daemon.rnet(&format!("network create n{number}"));
        daemon.rnet(&format!("run --rm --network n{number} rnet/toolbox true"));
    }
    daemon.rnet("network rm n3");
    daemon.rnet("network create last");
    assert_eq!(subnets(&daemon, "last"), "172.17.5.0/24,");
    assert_eq!(listed(), before);
}

#[test]
fn addresses_are_not_listed_for_every_network_that_goes() {
    let lab = Lab::new();
    let daemon = Daemon::start(&lab.host, &["--debug"]);
    let listed = || daemon.log().matches("list addresses: one of ours was removed").count();
    for number in 0..8 {
        daemon.rnet(&format!("network create --ipv6 n{number}"));
    }
    for number in 1..8 {
        daemon.rnet(&format!("network rm n{number}"));
    }
    assert_eq!(listed(), 0);
    // One that somebody else removes is missed, and comes back.
    let id = daemon.rnet("network inspect n0 --format {{.Id}}");
    let device = format!("br-{}", &id[..12]);
    let gateway = "172.17.1.1/24".parse().unwrap();
    let has = || lab.host.addresses(&device).contains(&gateway);
    assert!(has(), "{:?}", lab.host.addresses(&device));
    lab.host.remove_address(&device, "172.17.1.1/24");
    wait_until("the address is back", has);
    assert!(listed() > 0);
}
