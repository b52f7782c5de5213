//! Drivers and their options as users ask for them, with the daemon and all that belongs to it.

use std::net::{IpAddr, SocketAddr};

use ipnetwork::IpNetwork;
use netns_tests::{Daemon, Host, Lab, SILENCE};

const PORT: u16 = 7;

fn start() -> (Lab, Daemon) {
    let lab = Lab::new();
    let daemon = Daemon::start(&lab.host, &[]);
    (lab, daemon)
}

/// The addresses of a container on its only network, IPv4 first.
fn own(daemon: &Daemon, container: &str) -> Vec<IpAddr> {
    let all: Vec<_> = daemon.addresses(container).into_values().flatten().collect();
    assert_eq!(all.len(), 2, "{container}: {all:?}");
    all
}

fn refused(from: &Host, address: IpAddr, port: u16) -> bool {
    from.tcp_to(SocketAddr::new(address, port), SILENCE).is_err()
}

#[test]
fn addresses_come_from_the_range_and_not_from_what_is_set_aside() {
    let (lab, daemon) = start();
    daemon.rnet(
        "network create --ipv6 --subnet 10.9.0.0/24 --gateway 10.9.0.254 --ip-range 10.9.0.8/30 \
         --aux-address a=10.9.0.9 --subnet fd00:9::/64 --gateway fd00:9::fe \
         --ip-range fd00:9::8/126 --aux-address b=fd00:9::9 -o com.docker.network.bridge.name=nine nine",
    );
    let mut given = Vec::new();
    for number in 0..3 {
        let name = format!("c{number}");
        let container = daemon.run(&name, "--network nine");
        let _server = lab.client.serve(PORT);
        for (number, client) in Lab::both(Lab::CLIENT).into_iter().enumerate() {
            let seen = container.tcp(client, PORT).unwrap();
            assert_eq!(seen, Lab::both(Lab::HOST)[number], "the gateway leads outside");
        }
        given.extend(own(&daemon, &name));
    }
    given.sort_unstable();
    let wanted = ["10.9.0.8", "10.9.0.10", "10.9.0.11", "fd00:9::8", "fd00:9::a", "fd00:9::b"];
    assert_eq!(given, wanted.map(|address| address.parse::<IpAddr>().unwrap()));
    let gateways = lab.host.addresses("nine");
    for gateway in ["10.9.0.254/24", "fd00:9::fe/64"] {
        assert!(gateways.contains(&gateway.parse().unwrap()), "{gateways:?}");
    }
    let refusal = daemon.refusal("run --network nine rnet/toolbox true");
    assert!(refusal.contains("nine"), "{refusal}");
    daemon.run("chosen", "--network nine --ip 10.9.0.77 --ip6 fd00:9::77");
    assert_eq!(own(&daemon, "chosen"), Lab::both(["10.9.0.77", "fd00:9::77"]));
}

#[test]
fn interfaces_and_bridges_have_the_names_and_sizes_that_were_asked_for() {
    let (lab, daemon) = start();
    daemon.rnet(
        "network create --ipv6 -o com.docker.network.bridge.name=mine \
         -o com.docker.network.driver.mtu=1400 -o com.docker.network.container_iface_prefix=net n1",
    );
    let container = daemon.run("named", "--network n1 --mac-address 02:42:ac:11:00:07");
    let interface = container.link("net0").unwrap();
    assert_eq!(interface.mtu, 1400);
    assert_eq!(interface.mac.unwrap().to_string(), "02:42:ac:11:00:07");
    assert_eq!(lab.host.link("mine").unwrap().mtu, 1400);
    let addresses: Vec<_> = container.addresses("net0").iter().map(IpNetwork::ip).collect();
    for address in own(&daemon, "named") {
        assert!(addresses.contains(&address), "{addresses:?}");
    }
}

#[test]
fn containers_do_not_talk_where_that_is_off_but_by_published_ports() {
    let (lab, daemon) = start();
    daemon.rnet("network create --ipv6 -o com.docker.network.bridge.enable_icc=false n1");
    let one = daemon.run("one", "--network n1 -p 8080:7");
    let two = daemon.run("two", "--network n1");
    let _servers = [one.serve(PORT), two.serve(PORT)];
    lab.host.run(|| {
        for family in ["ip", "ip6"] {
            // Where it is on, neighbours are kept from each other altogether: ADR 13. It is not
            // there, if nobody loaded it.
            let path = format!("/proc/sys/net/bridge/bridge-nf-call-{family}tables");
            let _ = std::fs::write(path, "0");
        }
    });
    for (number, host) in Lab::both(Lab::HOST).into_iter().enumerate() {
        assert!(two.is_cut_off_from(SocketAddr::new(own(&daemon, "one")[number], PORT)));
        assert!(one.is_cut_off_from(SocketAddr::new(own(&daemon, "two")[number], PORT)));
        for from in [&two, &one, &lab.client] {
            assert!(from.tcp(host, 8080).is_ok(), "{host}");
        }
    }
}

#[test]
fn masquerading_is_on_and_can_be_off() {
    let (lab, daemon) = start();
    daemon.rnet("network create --ipv6 on");
    daemon
        .rnet("network create --ipv6 -o com.docker.network.bridge.enable_ip_masquerade=false off");
    let (on, off) = (daemon.run("on", "--network on"), daemon.run("off", "--network off"));
    let _server = lab.other.serve(PORT);
    for (number, other) in Lab::both(Lab::OTHER).into_iter().enumerate() {
        assert_eq!(on.tcp(other, PORT).unwrap(), Lab::both(Lab::HOST_TO_OTHER)[number]);
        assert_eq!(off.tcp(other, PORT).unwrap(), own(&daemon, "off")[number]);
    }
}

#[test]
fn ports_are_published_on_the_networks_own_addresses_where_none_is_given() {
    let (lab, daemon) = start();
    let [ipv4, ipv6] = Lab::HOST;
    daemon.rnet(&format!(
        "network create --ipv6 -o com.docker.network.bridge.host_binding_ipv4={ipv4} \
         -o com.docker.network.bridge.host_binding_ipv6={ipv6} n1"
    ));
    let web = daemon.run("web", "--network n1 -p 8080:7");
    let _server = web.serve(PORT);
    for (number, host) in Lab::both(Lab::HOST).into_iter().enumerate() {
        assert_eq!(lab.client.tcp(host, 8080).unwrap(), Lab::both(Lab::CLIENT)[number]);
        assert!(refused(&lab.other, Lab::both(Lab::HOST_TO_OTHER)[number], 8080));
    }
}

#[test]
fn networks_are_isolated_and_internal_ones_cut_off() {
    let (lab, daemon) = start();
    daemon.rnet("network create --ipv6 n1");
    daemon.rnet("network create --ipv6 n2");
    daemon.rnet("network create --ipv6 --internal inner");
    let [one, two, inner, inner2] =
        [("one", "n1"), ("two", "n2"), ("in1", "inner"), ("in2", "inner")]
            .map(|(name, network)| daemon.run(name, &format!("--network {network} -p 7")));
    let _servers = [one.serve(PORT), two.serve(PORT), inner.serve(PORT), lab.client.serve(PORT)];
    for number in 0..2 {
        let at = |name| SocketAddr::new(own(&daemon, name)[number], PORT);
        for (from, to) in [(&one, "two"), (&two, "one"), (&one, "in1"), (&inner, "one")] {
            assert!(from.is_cut_off_from(at(to)), "{to}");
        }
        assert!(lab.other.is_cut_off_from(at("in1")));
        let client = Lab::both(Lab::CLIENT)[number];
        assert!(inner.is_cut_off_from(SocketAddr::new(client, PORT)));
        assert!(inner2.tcp(at("in1").ip(), PORT).is_ok());
        assert!(one.tcp(client, PORT).is_ok());
    }
}

#[test]
fn host_and_none_are_what_they_say() {
    let (lab, daemon) = start();
    let host = daemon.run("host", "--network host");
    let names = |host: &Host| {
        let mut names: Vec<_> = host.links().into_iter().map(|link| link.name).collect();
        names.sort();
        names
    };
    assert_eq!(names(&host), names(&lab.host));
    let _server = host.serve(PORT);
    for address in Lab::both(Lab::HOST) {
        assert!(lab.client.tcp(address, PORT).is_ok(), "{address}");
    }
    let none = daemon.run("none", "--network none");
    assert_eq!(names(&none), ["lo"]);
    let _server = none.serve(PORT);
    for localhost in Lab::both(["127.0.0.1", "::1"]) {
        assert!(none.tcp(localhost, PORT).is_ok(), "{localhost}");
    }
    for address in Lab::both(Lab::HOST) {
        assert!(none.is_cut_off_from(SocketAddr::new(address, PORT)), "{address}");
    }
}

#[test]
fn bridge_host_and_none_are_there_from_the_beginning_and_stay() {
    let (_lab, daemon) = start();
    let list = daemon.rnet("network ls --format {{.Name}}:{{.Driver}}");
    let mut lines: Vec<_> = list.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["bridge:bridge", "host:host", "none:null"]);
    for name in ["bridge", "host", "none"] {
        let refusal = daemon.refusal(&format!("network rm {name}"));
        assert!(refusal.contains("pre-defined"), "{refusal}");
    }
    let [one, two] = ["one", "two"].map(|name| daemon.run(name, ""));
    let _server = one.serve(PORT);
    for address in own(&daemon, "one") {
        assert!(two.tcp(address, PORT).is_ok(), "{address}");
    }
}

#[test]
fn the_next_owner_of_an_address_is_reached_at_once() {
    let (_lab, daemon) = start();
    daemon.rnet("network create --ipv6 --subnet 10.9.0.0/24 --subnet fd00:9::/64 n1");
    let peer = daemon.run("peer", "--network n1");
    let (addresses, fixed) =
        (Lab::both(["10.9.0.77", "fd00:9::77"]), "--network n1 --ip 10.9.0.77 --ip6 fd00:9::77");
    for name in ["first", "second"] {
        let owner = daemon.run(name, fixed);
        let _server = owner.serve(PORT);
        for address in addresses {
            let limit = std::time::Duration::from_millis(900);
            assert!(peer.tcp_to(SocketAddr::new(address, PORT), limit).is_ok(), "{address}");
        }
        daemon.rnet(&format!("rm -f {name}"));
    }
}

#[test]
fn a_network_is_joined_and_left_by_a_running_container() {
    let (_lab, daemon) = start();
    daemon.rnet("network create --ipv6 n1");
    daemon.rnet("network create --ipv6 n2");
    let one = daemon.run("one", "--network n1");
    let two = daemon.run("two", "--network n2");
    let _servers = [one.serve(PORT), two.serve(PORT)];
    daemon.rnet("network connect n2 one");
    for address in own(&daemon, "two") {
        assert!(one.tcp(address, PORT).is_ok(), "{address}");
    }
    for address in daemon.addresses("one")["n2"].clone() {
        assert!(two.tcp(address, PORT).is_ok(), "{address}");
    }
    daemon.rnet("network disconnect n2 one");
    for address in own(&daemon, "two") {
        assert!(one.is_cut_off_from(SocketAddr::new(address, PORT)), "{address}");
    }
    let left: Vec<_> = one.links().into_iter().map(|link| link.name).collect();
    assert_eq!(left, ["lo", "eth0"]);
}
