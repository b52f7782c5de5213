//! Macvlan networks whose parent is a VLAN (802.1Q), from the command line to packets between hosts.
//!
//! All of it is ignored where the kernel lacks them; `make test-vm` has one that does not.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

use std::net::{IpAddr, SocketAddr};

use drivers::kernel::link;
use netns_tests::lan::{NEIGHBOUR, PORT, fails, halved, passes, passes_all};
use netns_tests::{Daemon, Host, Lab, Lan, SILENCE, wait_until};

/// `network create` with both families, of one of the hosts on the LAN.
fn create(range: u8, more: &str) -> String {
    format!(
        "network create --ipv6 --subnet 10.7.0.0/24 --ip-range 10.7.0.{range}/29 \
         --gateway 10.7.0.1 --subnet fd00:7::/64 --ip-range fd00:7::{range:x}/125 \
         --gateway fd00:7::1 {more}"
    )
}

#[test]
#[ignore = "needs a kernel with 802.1q: make test-vm"]
fn containers_on_two_hosts_reach_each_other_by_a_vlan() {
    let (lan, neighbour, host, mut daemon) = Lan::with_daemon();
    let second = lan.host(&[]);
    let other = Daemon::start(&second, &[]);
    daemon.rnet(&create(16, "-d macvlan -o parent=eth0.100 -o rnet.macvlan.host_access=1 blue"));
    other.rnet(&create(32, "-d macvlan -o parent=eth0.100 blue"));
    let one = daemon.run("one", "--network blue");
    let two = other.run("two", "--network blue");
    let _servers = [one.serve(PORT), two.serve(PORT), neighbour.serve(PORT)];
    passes(&one, &other.addresses_of("two"));
    passes(&two, &daemon.addresses_of("one"));
    passes(&host, &daemon.addresses_of("one"));
    fails(&neighbour, &daemon.addresses_of("one"));
    fails(&two, &Lab::both(NEIGHBOUR));
    let to = daemon.addresses_of("one");
    daemon.kill();
    passes(&two, &to);
    daemon.restart();
    passes(&two, &to);
}

#[test]
#[ignore = "needs a kernel with 802.1q: make test-vm"]
fn a_vlan_that_was_made_goes_with_the_last_network_on_it() {
    let (_lan, _neighbour, host, mut daemon) = Lan::with_daemon();
    let made = || host.link("eth0.100").is_some_and(|link| link.up);
    let network = |number: u8| {
        format!(
            "network create -d macvlan --subnet 10.8.{number}.0/24 --gateway 10.8.{number}.1 \
             -o parent=eth0.100 n{number}"
        )
    };
    daemon.rnet(&network(1));
    assert!(made());
    daemon.rnet(&network(2));
    let container = daemon.run("one", "--network n2");
    daemon.rnet("network rm n1");
    assert!(made(), "another network is on it");
    daemon.kill();
    host.request(&[link::remove(&"eth0.100".parse().unwrap())]);
    daemon.restart();
    wait_until("both come back", || made() && container.link("eth0").is_some());
    daemon.rnet("rm -f one");
    daemon.rnet("network rm n2");
    assert!(!made());
}

#[test]
#[ignore = "needs a kernel with 802.1q: make test-vm"]
fn macvlan_networks_on_a_vlan_join_two_hosts_and_other_vlans_stay_apart() {
    let (lan, [(first, one), (second, two)]) = Lan::with_two_daemons();
    one.rnet(&halved("macvlan", 0, "eth0.100"));
    two.rnet(&halved("macvlan", 128, "eth0.100"));
    let here = one.run("here", "--network mynet");
    let there = two.run("there", "--network mynet");
    let _servers = [here.serve(PORT), there.serve(PORT)];
    passes_all(&here, &two.addresses_of("there"));
    passes_all(&there, &one.addresses_of("here"));
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
    two.rnet(&halved("macvlan", 128, "eth0.101"));
    let apart = two.run("apart", "--network mynet");
    assert!(apart.is_cut_off_from(server), "another VLAN");
}

#[test]
#[ignore = "needs a kernel with 802.1q: make test-vm"]
fn a_vlan_interface_of_the_user_is_used_and_left_and_one_of_ours_is_healed() {
    let (_lan, [(host, mut daemon), (_second, _two)]) = Lan::with_two_daemons();
    ip(&host, "link add link eth0 name eth0.7 up type vlan id 7");
    daemon.rnet(&halved("macvlan", 0, "eth0.7"));
    daemon.run("one", "--network mynet");
    daemon.rnet("rm -f one");
    daemon.rnet("network rm mynet");
    assert!(host.link("eth0.7").is_some(), "it was there before");
    daemon.rnet(&halved("macvlan", 0, "eth0.8"));
    let [one, two] = ["one", "two"].map(|name| daemon.run(name, "--network mynet"));
    let _server = one.serve(PORT);
    daemon.kill();
    passes_all(&two, &own_by(&one));
    daemon.restart();
    passes_all(&two, &daemon.addresses_of("one"));
    ip(&host, "link del eth0.8");
    let server = SocketAddr::new(daemon.addresses_of("one")[0], PORT);
    wait_until("it is healed", || two.tcp_to(server, SILENCE).is_ok());
    daemon.rnet("system reset --force");
    daemon.ends();
    assert!(host.link("eth0.8").is_none());
    assert!(host.link("eth0.7").is_some());
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
