//! Parents that are VLANs (802.1Q), and those of ipvlan networks.
//!
//! A kernel that lacks the kind of link says so; what needs one is ignored there, and `make test-vm` has
//! one that lacks neither.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

use cnm::LinkKind;
use cnm::link::{IpvlanFlag, IpvlanMode};
use drivers::kernel::link;
use drivers::kernel::netlink::Socket;
use netns_tests::lan::{HOST, NEIGHBOUR, PORT, fails, passes};
use netns_tests::lookup::addresses;
use netns_tests::{Daemon, Host, Lab, Lan};

fn vlan() -> LinkKind {
    LinkKind::Vlan { parent: "eth0".parse().unwrap(), id: 100 }
}

fn ipvlan() -> LinkKind {
    let (mode, flag) = (IpvlanMode::L2, IpvlanFlag::Bridge);
    LinkKind::Ipvlan { parent: "eth0".parse().unwrap(), mode, flag }
}

fn has(host: &Host, kind: &LinkKind) -> bool {
    host.run(|| link::knows_kind(&mut Socket::open().unwrap(), kind)).unwrap()
}

/// `network create` with both families, of one of the hosts on the LAN.
fn create(range: u8, more: &str) -> String {
    format!(
        "network create --ipv6 --subnet 10.7.0.0/24 --ip-range 10.7.0.{range}/29 \
         --gateway 10.7.0.1 --subnet fd00:7::/64 --ip-range fd00:7::{range:x}/125 \
         --gateway fd00:7::1 {more}"
    )
}

#[test]
fn a_kernel_without_the_kind_of_link_is_told_of_when_the_network_is_made() {
    let wanted = [
        (ipvlan(), "-d ipvlan -o parent=eth0 x1", "this kernel cannot do ipvlan interfaces"),
        (
            vlan(),
            "-d macvlan -o parent=eth0.100 x2",
            "this kernel cannot do VLAN interfaces (802.1Q)",
        ),
    ];
    let (_lan, _neighbour, host, daemon) = Lan::with_daemon();
    let before = host.links().len();
    for (kind, words, sentence) in wanted {
        let made = daemon.fails(&create(16, words));
        assert_eq!(made.is_none(), has(&host, &kind), "{words}: {made:?}");
        if let Some(refusal) = made {
            assert!(refusal.contains(sentence) && refusal.contains("modprobe"), "{refusal}");
        } else {
            daemon.rnet(&format!("network rm {}", words.rsplit(' ').next().unwrap()));
        }
    }
    assert_eq!(host.links().len(), before, "nothing is left: {:?}", host.links());
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
    netns_tests::wait_until("both come back", || made() && container.link("eth0").is_some());
    daemon.rnet("rm -f one");
    daemon.rnet("network rm n2");
    assert!(!made());
    // One that is there already is used and left.
    let parent = host.link("eth0").unwrap().index;
    let name = "eth0.100".parse().unwrap();
    let (kind, mac, netns, bridge) = (vlan(), None, None, None);
    let new =
        link::New { name: &name, kind: &kind, mac, mtu: 1500, netns, parent: Some(parent), bridge };
    host.request(&[link::create(&new), link::switch_on(&name, None, None)]);
    daemon.rnet(&network(3));
    daemon.rnet("network rm n3");
    assert!(made());
    daemon.rnet("system reset --force");
    daemon.ends();
    assert!(made());
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
    netns_tests::wait_until("it is healed", || one.addresses("eth0").len() >= 2);
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
