//! Macvlan networks on VLANs, and ipvlan networks, from the command line to packets between hosts.
//!
//! Everything here is ignored where the kernel lacks them; `make test-vm` has one that does not.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

use std::net::{IpAddr, SocketAddr};

use netns_tests::lookup::addresses;
use netns_tests::{Daemon, Host, Lab, Lan, SILENCE, wait_until};

const PORT: u16 = 7;

/// `network create` with IPv4 on a parent, and half of the addresses.
fn create(driver: &str, half: u8, parent: &str) -> String {
    format!(
        "network create -d {driver} --subnet=10.0.0.0/24 --ip-range=10.0.0.{half}/25 \
         --gateway=10.0.0.1 -o parent={parent} mynet"
    )
}

/// A LAN with a daemon on each of two hosts.
fn start() -> (Lan, [(Host, Daemon); 2]) {
    let lan = Lan::new();
    let side = || {
        let host = lan.host(&[]);
        let daemon = Daemon::start(&host, &[]);
        (host, daemon)
    };
    let sides = [side(), side()];
    (lan, sides)
}

fn passes(from: &Host, to: &[IpAddr]) {
    assert!(!to.is_empty());
    for address in to {
        assert!(from.tcp(*address, PORT).is_ok(), "{address}");
        assert!(from.udp(*address, PORT).is_ok(), "{address}");
    }
}

#[test]
#[ignore = "needs a kernel with 802.1q: make test-vm"]
fn macvlan_networks_on_a_vlan_join_two_hosts_and_other_vlans_stay_apart() {
    let (lan, [(first, one), (second, two)]) = start();
    one.rnet(&create("macvlan", 0, "eth0.100"));
    two.rnet(&create("macvlan", 128, "eth0.100"));
    let here = one.run("here", "--network mynet");
    let there = two.run("there", "--network mynet");
    let _servers = [here.serve(PORT), there.serve(PORT)];
    passes(&here, &two.addresses_of("there"));
    passes(&there, &one.addresses_of("here"));
    // Who is on the LAN without a tag, or with another one, is not there for them.
    let plain = lan.host(&["10.0.0.77/24"]);
    let server = SocketAddr::new(one.addresses_of("here")[0], PORT);
    assert!(plain.is_cut_off_from(server));
    for host in [&first, &second] {
        assert!(host.link("eth0.100").is_some());
    }
    two.rnet("rm -f there");
    two.rnet("network rm mynet");
    assert!(second.link("eth0.100").is_none(), "it goes with the network it was made for");
    two.rnet(&create("macvlan", 128, "eth0.101"));
    let apart = two.run("apart", "--network mynet");
    assert!(apart.is_cut_off_from(server), "another VLAN");
}

#[test]
#[ignore = "needs a kernel with 802.1q: make test-vm"]
fn a_vlan_interface_of_the_user_is_used_and_left_and_one_of_ours_is_healed() {
    let (_lan, [(host, mut daemon), (_second, _two)]) = start();
    ip(&host, "link add link eth0 name eth0.7 up type vlan id 7");
    daemon.rnet(&create("macvlan", 0, "eth0.7"));
    daemon.run("one", "--network mynet");
    daemon.rnet("rm -f one");
    daemon.rnet("network rm mynet");
    assert!(host.link("eth0.7").is_some(), "it was there before");
    daemon.rnet(&create("macvlan", 0, "eth0.8"));
    let [one, two] = ["one", "two"].map(|name| daemon.run(name, "--network mynet"));
    let _server = one.serve(PORT);
    daemon.kill();
    passes(&two, &own_by(&one));
    daemon.restart();
    passes(&two, &daemon.addresses_of("one"));
    ip(&host, "link del eth0.8");
    let server = SocketAddr::new(daemon.addresses_of("one")[0], PORT);
    wait_until("it is healed", || two.tcp_to(server, SILENCE).is_ok());
    daemon.rnet("system reset --force");
    daemon.ends();
    assert!(host.link("eth0.8").is_none());
    assert!(host.link("eth0.7").is_some());
}

#[test]
#[ignore = "needs a kernel with ipvlan: make test-vm"]
fn ipvlan_networks_join_two_hosts_with_the_hardware_address_of_the_parent() {
    let (_lan, [(host, mut one), (_second, two)]) = start();
    one.rnet(&create("ipvlan", 0, "eth0.100"));
    two.rnet(&create("ipvlan", 128, "eth0.100"));
    let here = one.run("here", "--network mynet");
    let near = one.run("near", "--network mynet");
    let there = two.run("there", "--network mynet");
    let _servers = [here.serve(PORT), near.serve(PORT), there.serve(PORT)];
    passes(&here, &two.addresses_of("there"));
    passes(&here, &one.addresses_of("near"));
    passes(&there, &one.addresses_of("here"));
    assert_eq!(here.link("eth0").unwrap().mac, host.link("eth0").unwrap().mac);
    assert_eq!(addresses(&near, "here")[..1], one.addresses_of("here")[..1]);
    let index = here.link("eth0").unwrap().index;
    one.kill();
    one.restart();
    assert_eq!(here.link("eth0").unwrap().index, index, "it was not made again");
    passes(&there, &one.addresses_of("here"));
}

#[test]
#[ignore = "needs a kernel with ipvlan: make test-vm"]
fn modes_and_flags_of_ipvlan_say_who_may_talk() {
    let (_lan, [(_host, daemon), (_second, _other)]) = start();
    for (options, talk) in [
        ("ipvlan_mode=l2", true),
        ("ipvlan_mode=l3", true),
        ("ipvlan_mode=l3s", true),
        ("ipvlan_mode=l2 -o ipvlan_flag=private", false),
        ("ipvlan_mode=l3 -o ipvlan_flag=vepa", false),
    ] {
        daemon.rnet(&create("ipvlan", 0, &format!("eth0 -o {options}")));
        let [one, two] = ["one", "two"].map(|name| daemon.run(name, "--network mynet"));
        let _server = one.serve(PORT);
        let server = SocketAddr::new(daemon.addresses_of("one")[0], PORT);
        if talk {
            passes(&two, &daemon.addresses_of("one"));
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

/// The IPv4 address of a container that no daemon can be asked about.
fn own_by(container: &Host) -> Vec<IpAddr> {
    let all = container.addresses("eth0").into_iter().map(|address| address.ip());
    all.filter(IpAddr::is_ipv4).collect()
}

fn ip(host: &Host, words: &str) {
    let status = host.run(|| std::process::Command::new("ip").args(words.split(' ')).status());
    assert!(status.unwrap().success(), "ip {words}");
}
