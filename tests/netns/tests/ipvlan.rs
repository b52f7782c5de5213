//! Ipvlan networks, from the command line to packets between hosts.
//!
//! All of it is ignored where the kernel lacks them; `make test-vm` has one that does not.

use std::net::SocketAddr;

use drivers::kernel::link;
use netns_tests::lan::{HOST, NEIGHBOUR, PORT, halved, passes, passes_all};
use netns_tests::lookup::addresses;
use netns_tests::{Daemon, Lab, Lan, wait_until};

/// `network create` with both families, of one of the hosts on the LAN.
fn create(range: u8, more: &str) -> String {
    format!(
        "network create --ipv6 --subnet 10.7.0.0/24 --ip-range 10.7.0.{range}/29 \
         --gateway 10.7.0.1 --subnet fd00:7::/64 --ip-range fd00:7::{range:x}/125 \
         --gateway fd00:7::1 {more}"
    )
}

#[test]
#[ignore = "needs a kernel with ipvlan: make test-vm"]
fn ipvlan_containers_share_the_address_of_their_parent() {
    let (lan, neighbour, host, mut daemon) = Lan::with_daemon();
    let second = lan.host(&[]);
    let other = Daemon::start(&second, &[]);
    daemon.rnet(&create(16, "-d ipvlan -o parent=eth0 lan"));
    other.rnet(&create(32, "-d ipvlan -o parent=eth0 -o ipvlan_mode=l2 lan"));
    let one = daemon.run("one", "--network lan");
    let beside = daemon.run("beside", "--network lan");
    let two = other.run("two", "--network lan");
    let _servers = [one.serve(PORT), two.serve(PORT), neighbour.serve(PORT)];
    for from in [&two, &neighbour, &beside] {
        passes(from, &daemon.addresses_of("one"));
    }
    passes(&one, &other.addresses_of("two"));
    passes(&one, &Lab::both(NEIGHBOUR));
    assert_eq!(addresses(&one, "beside"), daemon.addresses_of("beside"));
    assert_eq!(one.link("eth0").unwrap().mac, host.link("eth0").unwrap().mac);
    let mac = daemon.rnet("inspect -f {{.NetworkSettings.Networks.lan.MacAddress}} one");
    assert_eq!(mac, "", "it has none of its own");
    let refusal =
        daemon.refusal("run --network lan --mac-address 02:42:ac:11:00:07 rnet/toolbox true");
    assert!(refusal.contains("do not support custom mac address assignment"), "{refusal}");
    for (words, why) in [
        ("-d ipvlan -o parent=eth0 again", "network lan is already using parent interface eth0"),
        ("-d macvlan -o parent=eth0 again", "is used by network lan of driver ipvlan"),
        ("-d ipvlan -o ipvlan_mode=l4 -o parent=eth0 again", "l2, l3 or l3s is expected"),
    ] {
        let subnet = "network create --subnet 10.9.0.0/24 --gateway 10.9.0.1";
        let refusal = daemon.refusal(&format!("{subnet} {words}"));
        assert!(refusal.contains(why), "{refusal}");
    }
    neighbour.add_address("eth0", "10.7.0.20/24");
    let refusal = daemon.refusal("run --network lan --ip 10.7.0.20 rnet/toolbox true");
    assert!(refusal.contains("address 10.7.0.20 is in use already"), "{refusal}");
    daemon.kill();
    one.request(&[link::remove(&"eth0".parse().unwrap())]);
    daemon.restart();
    wait_until("it is healed", || one.addresses("eth0").len() >= 2);
    passes(&one, &Lab::both(NEIGHBOUR));
}

#[test]
#[ignore = "needs a kernel with ipvlan: make test-vm"]
fn ipvlan_routes_between_subnets_where_it_is_to() {
    for mode in ["l3", "l3s"] {
        let (_lan, neighbour, _host, daemon) = Lan::with_daemon();
        daemon.rnet(&format!(
            "network create -d ipvlan --ipv6 --subnet 10.8.1.0/24 --subnet 10.8.2.0/24 \
             --subnet fd00:8:1::/64 --subnet fd00:8:2::/64 -o parent=eth0 -o ipvlan_mode={mode} far"
        ));
        let chosen = |n: u8| format!("--network far --ip 10.8.{n}.9 --ip6 fd00:8:{n}::9");
        let [one, two] = [1, 2].map(|n| daemon.run(&format!("c{n}"), &chosen(n)));
        let _servers = [one.serve(PORT), neighbour.serve(PORT)];
        passes(&two, &daemon.addresses_of("c1"));
        // The neighbour knows the way: the host is the router.
        neighbour.add_route("10.8.0.0/16", "eth0", HOST[0]);
        neighbour.add_route("fd00:8::/32", "eth0", HOST[1]);
        passes(&neighbour, &daemon.addresses_of("c1"));
        passes(&two, &Lab::both(NEIGHBOUR));
    }
}

#[test]
#[ignore = "needs a kernel with ipvlan: make test-vm"]
fn ipvlan_networks_join_two_hosts_with_the_hardware_address_of_the_parent() {
    let (_lan, [(host, mut one), (_second, two)]) = Lan::with_two_daemons();
    one.rnet(&halved("ipvlan", 0, "eth0.100"));
    two.rnet(&halved("ipvlan", 128, "eth0.100"));
    let here = one.run("here", "--network mynet");
    let near = one.run("near", "--network mynet");
    let there = two.run("there", "--network mynet");
    let _servers = [here.serve(PORT), near.serve(PORT), there.serve(PORT)];
    passes_all(&here, &two.addresses_of("there"));
    passes_all(&here, &one.addresses_of("near"));
    passes_all(&there, &one.addresses_of("here"));
    assert_eq!(here.link("eth0").unwrap().mac, host.link("eth0").unwrap().mac);
    assert_eq!(addresses(&near, "here")[..1], one.addresses_of("here")[..1]);
    let index = here.link("eth0").unwrap().index;
    one.kill();
    one.restart();
    assert_eq!(here.link("eth0").unwrap().index, index, "it was not made again");
    passes_all(&there, &one.addresses_of("here"));
}

#[test]
#[ignore = "needs a kernel with ipvlan: make test-vm"]
fn modes_and_flags_of_ipvlan_say_who_may_talk() {
    let (_lan, [(_host, daemon), (_second, _other)]) = Lan::with_two_daemons();
    for (options, talk) in [
        ("ipvlan_mode=l2", true),
        ("ipvlan_mode=l3", true),
        ("ipvlan_mode=l3s", true),
        ("ipvlan_mode=l2 -o ipvlan_flag=private", false),
        ("ipvlan_mode=l3 -o ipvlan_flag=vepa", false),
    ] {
        daemon.rnet(&halved("ipvlan", 0, &format!("eth0 -o {options}")));
        let [one, two] = ["one", "two"].map(|name| daemon.run(name, "--network mynet"));
        let _server = one.serve(PORT);
        let server = SocketAddr::new(daemon.addresses_of("one")[0], PORT);
        if talk {
            passes_all(&two, &daemon.addresses_of("one"));
        } else {
            assert!(two.is_cut_off_from(server), "{options}");
        }
        daemon.rnet("rm -f one two");
        daemon.rnet("network rm mynet");
    }
}

#[test]
#[ignore = "needs a kernel with ipvlan: make test-vm"]
fn where_ipvlan_routes_another_machine_reaches_containers_by_the_host() {
    let lab = Lab::new();
    let daemon = Daemon::start(&lab.host, &[]);
    daemon.rnet(
        "network create -d ipvlan --ipv6 --subnet 10.0.0.0/24 --subnet fd00:a::/64 -o parent=lan0 \
         -o ipvlan_mode=l3 routed",
    );
    let one = daemon.run("one", "--network routed");
    let _servers = [one.serve(PORT), lab.client.serve(PORT)];
    let [ipv4, ipv6] = Lab::HOST;
    lab.client.add_route("10.0.0.0/24", "eth0", ipv4);
    lab.client.add_route("fd00:a::/64", "eth0", ipv6);
    passes(&lab.client, &daemon.addresses_of("one"));
}
