//! Macvlan networks: containers that are hosts like others on the LAN that a link of the host leads to.

use std::net::{IpAddr, SocketAddr};

use drivers::kernel::link;
use ipnetwork::IpNetwork;
use netns_tests::lan::{HOST, NEIGHBOUR, PORT, fails, passes, passes_all};
use netns_tests::lookup::addresses;
use netns_tests::{Daemon, Host, Lab, Lan, SILENCE, wait_until};

/// `network create` with both families on the LAN, and room for the addresses of one host.
fn create(range: u8, more: &str) -> String {
    format!(
        "network create -d macvlan --ipv6 --subnet 10.7.0.0/24 --ip-range 10.7.0.{range}/29 \
         --gateway 10.7.0.1 --subnet fd00:7::/64 --ip-range fd00:7::{range:x}/125 \
         --gateway fd00:7::1 -o parent=eth0{more} lan"
    )
}

/// Waits until a host reaches what was broken a moment ago.
fn comes_back(from: &Host, to: &[IpAddr]) {
    for address in to {
        let server = SocketAddr::new(*address, PORT);
        wait_until("it is healed", || from.tcp_to(server, SILENCE).is_ok());
    }
    passes(from, to);
}

#[test]
fn containers_on_two_hosts_reach_each_other_and_all_their_neighbours() {
    let (lan, neighbour, _host, daemon) = Lan::with_daemon();
    let second = lan.host(&[]);
    let other = Daemon::start(&second, &[]);
    daemon.rnet(&create(16, ""));
    other.rnet(&create(32, ""));
    let one = daemon.run("one", "--network lan");
    let two = other.run("two", "--network lan");
    let _servers = [one.serve(PORT), two.serve(PORT), neighbour.serve(PORT)];
    passes(&one, &other.addresses_of("two"));
    passes(&two, &daemon.addresses_of("one"));
    passes(&one, &Lab::both(NEIGHBOUR));
    passes(&neighbour, &other.addresses_of("two"));
    for (address, seen) in other.addresses_of("two").into_iter().zip(daemon.addresses_of("one")) {
        assert_eq!(one.tcp(address, PORT).unwrap(), seen, "nobody translates");
    }
    // What is beyond the LAN is reached by its router.
    neighbour.add_address("lo", "203.0.113.1/32");
    neighbour.add_address("lo", "2001:db8:9::1/128");
    for address in Lab::both(["203.0.113.1", "2001:db8:9::1"]) {
        assert!(one.tcp(address, PORT).is_ok(), "{address}");
    }
}

#[test]
fn the_host_is_kept_from_its_containers_unless_it_is_to_have_access() {
    let (_lan, neighbour, host, daemon) = Lan::with_daemon();
    daemon.rnet(&create(16, ""));
    let one = daemon.run("one", "--network lan");
    let _servers = [one.serve(PORT), host.serve(PORT), neighbour.serve(PORT)];
    fails(&host, &daemon.addresses_of("one"));
    fails(&one, &Lab::both(HOST));
    daemon.rnet("rm -f one");
    daemon.rnet("network rm lan");
    daemon.rnet(&create(16, " -o rnet.macvlan.host_access=true"));
    let one = daemon.run("one", "--network lan");
    let two = daemon.run("two", "--network lan");
    let _inside = [one.serve(PORT), two.serve(PORT)];
    passes(&host, &daemon.addresses_of("one"));
    let host_end = Lab::both(["10.7.0.23", "fd00:7::17"]);
    passes(&one, &host_end);
    passes(&two, &host_end);
    assert!(one.tcp(Lab::both(HOST)[0], PORT).is_ok(), "the address that the host had before");
    passes(&neighbour, &daemon.addresses_of("two"));
    passes(&host, &Lab::both(NEIGHBOUR));
    for name in ["one", "two"] {
        daemon.rnet(&format!("rm -f {name}"));
    }
    daemon.rnet("network rm lan");
    let left: Vec<_> = host.links().into_iter().map(|link| link.name).collect();
    assert!(!left.iter().any(|name| name.starts_with("mv-")), "{left:?}");
}

#[test]
fn modes_say_who_may_talk() {
    let (_lan, neighbour, _host, daemon) = Lan::with_daemon();
    let _server = neighbour.serve(PORT);
    for (mode, talk) in [("bridge", true), ("private", false), ("vepa", false)] {
        daemon.rnet(&create(16, &format!(" -o macvlan_mode={mode}")));
        let one = daemon.run("one", "--network lan");
        let two = daemon.run("two", "--network lan");
        let _server = two.serve(PORT);
        if talk {
            passes(&one, &daemon.addresses_of("two"));
        } else {
            fails(&one, &daemon.addresses_of("two"));
        }
        passes(&one, &Lab::both(NEIGHBOUR));
        passes(&neighbour, &daemon.addresses_of("two"));
        daemon.rnet("rm -f one two");
        daemon.rnet("network rm lan");
    }
}

#[test]
fn an_internal_network_has_no_way_out_of_its_subnet() {
    let (_lan, neighbour, _host, daemon) = Lan::with_daemon();
    daemon.rnet(&create(16, " --internal"));
    let one = daemon.run("one", "--network lan");
    neighbour.add_address("lo", "203.0.113.1/32");
    let _server = neighbour.serve(PORT);
    passes(&one, &Lab::both(NEIGHBOUR));
    assert!(one.is_cut_off_from("203.0.113.1:7".parse().unwrap()));
}

#[test]
fn cve_2024_32473_a_network_of_ipv4_alone_has_no_ipv6_in_its_containers() {
    let (_lan, neighbour, _host, daemon) = Lan::with_daemon();
    // The neighbour and the host have the first addresses.
    let room = "--subnet 10.7.0.0/24 --ip-range 10.7.0.8/29 --gateway 10.7.0.254";
    daemon.rnet(&format!("network create -d macvlan {room} -o parent=eth0 lan"));
    let one = daemon.run("one", "--network lan");
    assert_eq!(one.sysctl("net/ipv6/conf/eth0/disable_ipv6"), "1");
    assert_eq!(one.sysctl("net/ipv6/conf/eth0/accept_ra"), "0");
    let addresses = one.addresses("eth0");
    assert!(addresses.iter().all(IpNetwork::is_ipv4), "{addresses:?}");
    let _server = neighbour.serve(PORT);
    let [ipv4, ipv6] = Lab::both(NEIGHBOUR);
    passes_all(&one, &[ipv4]);
    assert!(one.is_cut_off_from(SocketAddr::new(ipv6, PORT)));
}

#[test]
fn the_host_leads_nobody_into_a_network_that_it_is_on() {
    let (_lan, neighbour, host, daemon) = Lan::with_daemon();
    let far = Host::new();
    host.connect("eth1", &far, "eth0");
    for (machine, interface, number) in [(&host, "eth1", 1), (&far, "eth0", 2)] {
        machine.add_address(interface, &format!("192.0.2.{number}/24"));
        machine.add_address(interface, &format!("2001:db8:1::{number}/64"));
    }
    far.add_route("0.0.0.0/0", "eth0", "192.0.2.1");
    far.add_route("::/0", "eth0", "2001:db8:1::1");
    // Who is on the LAN finds the way back.
    neighbour.add_route("0.0.0.0/0", "eth0", HOST[0]);
    neighbour.add_route("::/0", "eth0", HOST[1]);
    neighbour.set_sysctl("net/ipv4/ip_forward", "1");
    neighbour.set_sysctl("net/ipv6/conf/all/forwarding", "1");
    daemon.rnet("network create --ipv6 other");
    let other = daemon.run("other", "--network other");
    for internal in ["", " --internal"] {
        daemon.rnet(&create(16, &format!(" -o rnet.macvlan.host_access=true{internal}")));
        let one = daemon.run("one", "--network lan");
        let _server = one.serve(PORT);
        let to = daemon.addresses_of("one");
        passes(&host, &to);
        fails(&other, &to);
        fails(&far, &to);
        daemon.rnet("rm -f one");
        daemon.rnet("network rm lan");
    }
}

#[test]
fn passthru_is_for_one_container_and_one_network() {
    let (_lan, neighbour, host, daemon) = Lan::with_daemon();
    let before = host.link("eth0").unwrap().mac;
    daemon.rnet(&create(16, " -o macvlan_mode=passthru"));
    let mac = "02:42:ac:11:00:07";
    let one = daemon.run("one", &format!("--network lan --mac-address {mac}"));
    let _servers = [one.serve(PORT), neighbour.serve(PORT)];
    assert_eq!(one.link("eth0").unwrap().mac.unwrap().to_string(), mac);
    passes(&one, &Lab::both(NEIGHBOUR));
    passes(&neighbour, &daemon.addresses_of("one"));
    let refusal = daemon.refusal("run -d --network lan rnet/toolbox sleep 1000");
    assert!(refusal.contains("network lan has room for one endpoint only"), "{refusal}");
    let refusal = daemon.refusal(
        "network create -d macvlan --subnet 10.8.0.0/24 --gateway 10.8.0.1 -o parent=eth0 other",
    );
    assert!(refusal.contains("already using parent interface eth0 in mode passthru"), "{refusal}");
    daemon.rnet("rm -f one");
    daemon.rnet("network rm lan");
    assert_eq!(host.link("eth0").unwrap().mac, before, "the parent has its address back");
}

#[test]
fn names_are_answered_and_addresses_stay() {
    let (_lan, _neighbour, _host, daemon) = Lan::with_daemon();
    daemon.rnet(&create(16, ""));
    let one = daemon.run("one", "--network lan --network-alias alias");
    let two = daemon.run("two", "--network lan");
    let (first, second) = (daemon.addresses_of("one"), daemon.addresses_of("two"));
    assert_eq!(addresses(&two, "one"), first);
    assert_eq!(addresses(&two, "alias.lan"), first);
    assert_eq!(addresses(&one, "two"), second);
    let mac = one.link("eth0").unwrap().mac;
    daemon.rnet("restart -t 0 two one");
    assert_eq!((daemon.addresses_of("one"), daemon.addresses_of("two")), (first, second));
    assert_eq!(daemon.inside("one").link("eth0").unwrap().mac, mac);
}

#[test]
fn many_networks_are_on_one_parent_and_a_container_on_several() {
    let (_lan, _neighbour, host, daemon) = Lan::with_daemon();
    host.add_address("eth0", "10.8.0.1/24");
    for number in 0..8 {
        daemon.rnet(&format!(
            "network create -d macvlan --subnet 10.8.{number}.0/24 --gateway 10.8.{number}.254 \
             --subnet 10.9.{number}.0/24 -o parent=eth0 n{number}"
        ));
    }
    let [one, two] = ["one", "two"].map(|name| daemon.run(name, "--network n3"));
    daemon.rnet("network connect n5 one");
    let there = daemon.run("there", "--network n5");
    let _servers = [one.serve(PORT), two.serve(PORT)];
    for (from, network) in [(&two, "n3"), (&there, "n5")] {
        let to = daemon.addresses("one")[network][0];
        assert!(from.tcp(to, PORT).is_ok(), "{to}");
    }
    daemon.rnet("network disconnect n5 one");
    let left: Vec<_> = one.links().into_iter().map(|link| link.name).collect();
    assert_eq!(left, ["lo", "eth0"]);
    daemon.run("chosen", "--network n3 --ip 10.9.3.77");
    assert_eq!(daemon.addresses_of("chosen"), ["10.9.3.77".parse::<IpAddr>().unwrap()]);
}

#[test]
fn an_address_that_somebody_has_is_not_used() {
    let (_lan, neighbour, _host, daemon) = Lan::with_daemon();
    daemon.rnet(&create(16, ""));
    neighbour.add_address("eth0", "10.7.0.18/24");
    neighbour.add_address("eth0", "fd00:7::12/64");
    let mac = neighbour.link("eth0").unwrap().mac.unwrap().to_string();
    for (address, flag) in [("10.7.0.18", "ip"), ("fd00:7::12", "ip6")] {
        let words =
            format!("run -d --name same --network lan --{flag} {address} rnet/toolbox true");
        let refusal = daemon.refusal(&words);
        let wanted = format!("address {address} is in use already: {mac} has it");
        assert!(refusal.contains(&wanted), "{refusal}");
        daemon.rnet("rm -f same");
    }
    let words = format!("run -d --name same --network lan --ip {} rnet/toolbox true", HOST[0]);
    let refusal = daemon.refusal(&words);
    assert!(refusal.contains("it is one of this host's own"), "{refusal}");
    daemon.rnet("rm -f same");
    assert!(daemon.rnet("ps -aq").is_empty(), "nothing is left");
    daemon.rnet("network rm lan");
    daemon.rnet(&create(16, " -o rnet.probe_ms=0"));
    daemon.run("mine", "--network lan --ip 10.7.0.18");
}

#[test]
fn a_network_without_a_parent_is_for_its_containers_only() {
    let (_lan, neighbour, host, daemon) = Lan::with_daemon();
    daemon.rnet("network create -d macvlan --ipv6 --subnet 10.9.0.0/24 --subnet fd00:9::/64 alone");
    let id = daemon.rnet("network inspect -f {{.Id}} alone");
    let [one, two] = ["one", "two"].map(|name| daemon.run(name, "--network alone"));
    let _servers = [one.serve(PORT), neighbour.serve(PORT)];
    passes(&two, &daemon.addresses_of("one"));
    fails(&two, &Lab::both(NEIGHBOUR));
    fails(&host, &daemon.addresses_of("one"));
    assert_eq!(addresses(&two, "one"), daemon.addresses_of("one"));
    let device = format!("dm-{}", &id[..12]);
    assert!(host.link(&device).is_some());
    daemon.rnet("rm -f one two");
    daemon.rnet("network rm alone");
    assert!(host.link(&device).is_none());
}

#[test]
fn a_parent_that_cannot_be_is_refused_when_the_network_is_made() {
    let (_lan, _neighbour, host, daemon) = Lan::with_daemon();
    host.add_bridge("br0");
    let far = Host::new();
    host.connect("eth1", &far, "far");
    let index = host.link("br0").unwrap().index;
    host.request(&[link::set_bridge(&"eth1".parse().unwrap(), index)]);
    for (parent, why) in [
        ("nosuch", "parent interface nosuch was not found on the host"),
        ("nosuch.10", "-o parent interface was not found on the host: nosuch"),
        ("eth0.5000", "vlan id must be between 1-4094, received: 5000"),
        ("lo", "loopback interface is not a valid macvlan parent link"),
        ("eth1", "parent interface eth1 is a port of a bridge"),
    ] {
        let refusal = daemon.refusal(&format!(
            "network create -d macvlan --subnet 10.9.0.0/24 --gateway 10.9.0.1 -o parent={parent} x"
        ));
        assert!(refusal.contains(why), "{refusal}");
    }
    for (option, why) in [
        ("macvlan_mode=open", "bridge, private, vepa or passthru is expected"),
        ("com.docker.network.driver.mtu=9000", "more than the 1500 of parent interface eth0"),
        ("macvlan_mode=private -o rnet.macvlan.host_access=1", "needs macvlan_mode bridge"),
    ] {
        let refusal = daemon.refusal(&format!(
            "network create -d macvlan --subnet 10.9.0.0/24 -o parent=eth0 -o {option} x"
        ));
        assert!(refusal.contains(why), "{refusal}");
    }
    assert_eq!(daemon.rnet("network ls -q -f name=x"), "");
}

#[test]
fn a_parent_that_is_gone_is_told_and_what_was_on_it_comes_back_with_it() {
    let (lan, neighbour, host, daemon) = Lan::with_daemon();
    daemon.rnet(&create(16, ""));
    let one = daemon.run("one", "--network lan");
    host.request(&[link::remove(&"eth0".parse().unwrap())]);
    wait_until("the link goes with its parent", || one.link("eth0").is_none());
    let refusal = daemon.refusal("run --network lan rnet/toolbox true");
    assert!(refusal.contains("its parent interface eth0 is not there any more"), "{refusal}");
    wait_until("it is told", || {
        daemon.output("system check").contains("its parent interface eth0 is not there any more")
    });
    let [ipv4, ipv6] = HOST;
    lan.connect(&host, "eth0", &[&format!("{ipv4}/24"), &format!("{ipv6}/64")]);
    let _server = one.serve(PORT);
    comes_back(&neighbour, &daemon.addresses_of("one"));
}

#[test]
fn published_ports_are_said_to_be_of_no_use() {
    let (_lan, _neighbour, _host, daemon) = Lan::with_daemon();
    daemon.rnet(&create(16, ""));
    let warnings =
        daemon.warnings("run -d --name one --network lan -p 8080:7 rnet/toolbox sleep 9");
    assert!(warnings.contains("published ports are discarded on network lan"), "{warnings}");
    assert_eq!(daemon.rnet("port one"), "");
    daemon.run("two", "--network lan -p 8080:7");
}

#[test]
fn a_daemon_that_is_killed_leaves_the_network_working_and_takes_it_up_again() {
    let (_lan, neighbour, host, mut daemon) = Lan::with_daemon();
    daemon.rnet(&create(16, " -o rnet.macvlan.host_access=true"));
    let one = daemon.run("one", "--network lan");
    let _server = one.serve(PORT);
    let to = daemon.addresses_of("one");
    let index = one.link("eth0").unwrap().index;
    daemon.kill();
    passes(&neighbour, &to);
    passes(&host, &to);
    daemon.restart();
    assert_eq!(one.link("eth0").unwrap().index, index, "it was not made again");
    passes(&host, &to);
    daemon.kill();
    let host_end = host.links().into_iter().find(|link| link.name.starts_with("mv-")).unwrap();
    let name = host_end.name.parse().unwrap();
    one.request(&[link::remove(&"eth0".parse().unwrap())]);
    host.request(&[link::remove(&name)]);
    daemon.restart();
    comes_back(&neighbour, &to);
    comes_back(&host, &to);
    // Somebody flushes the rules of the host while a daemon is there, and while none is.
    for alone in [false, true] {
        if alone {
            daemon.kill();
        }
        let flushed = daemon.command("nft").args(["flush", "ruleset"]).status().unwrap();
        assert!(flushed.success());
        passes(&neighbour, &to);
        passes(&host, &to);
        assert_eq!(addresses(&one, "one"), to, "names are answered");
    }
    daemon.restart();
    // Somebody removes the host's end while the daemon looks.
    host.request(&[link::remove(&name)]);
    comes_back(&host, &to);
    daemon.rnet("system reset --force");
    daemon.ends();
    assert!(host.link(name.as_str()).is_none(), "{:?}", host.links());
}
