//! Networks whose subnets and families change while containers are on them.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;

use netns_tests::{Daemon, Echo, Flow, Host, Lab};

fn lab() -> (Lab, Daemon) {
    let lab = Lab::new();
    let daemon = Daemon::start(&lab.host, &[]);
    daemon.rnet("network create --ipv6 --subnet 10.1.0.0/24 --subnet fd00:1::/64 n1");
    (lab, daemon)
}

fn of(daemon: &Daemon, container: &str) -> Vec<IpAddr> {
    daemon.addresses_of(container)
}

fn sockets(addresses: &[IpAddr], port: u16) -> [SocketAddr; 2] {
    let [v4, v6] = addresses else { panic!("{addresses:?}") };
    [*v4, *v6].map(|address| SocketAddr::new(address, port))
}

/// What `ip route` tells of a host.
fn routes(host: &Host, family: &str) -> String {
    let told = host.run(|| Command::new("ip").args([family, "route"]).output());
    String::from_utf8_lossy(&told.map(|told| told.stdout).unwrap_or_default()).into_owned()
}

fn bridge(daemon: &Daemon) -> String {
    format!("br-{}", &daemon.rnet("network inspect -f {{.Id}} n1")[..12])
}

#[test]
fn a_subnet_that_nobody_uses_goes_and_one_that_somebody_has_stays() {
    let (lab, mut daemon) = lab();
    let web = daemon.run("web", "--network n1 -p 8080:80 -p 8080:80/udp");
    let peer = daemon.run("peer", "--network n1");
    daemon.rnet("network update --add-subnet 10.77.0.0/24,fd00:77::/64 n1");
    daemon.run("new", "--network n1 --ip 10.77.0.9");
    let removal = "network update --rm-subnet 10.77.0.0/24,fd00:77::/64 n1";
    let refusal = daemon.refusal(removal);
    let id = daemon.rnet("inspect -f {{.Id}} new")[..12].to_owned();
    let used = format!("subnet 10.77.0.0/24 of network n1 is in use: {id} has 10.77.0.9");
    assert!(refusal.contains(&used), "{refusal}");
    daemon.rnet("stop -t 0 new");
    let refusal = daemon.refusal(removal);
    assert!(refusal.contains(&format!("10.77.0.9 is kept for {id}")), "{refusal}");
    daemon.rnet("rm new");
    let _echo = Echo::start(&web, 80);
    let mut flows = Flow::all(&lab.client, sockets(&Lab::both(Lab::HOST), 8080));
    flows.extend(Flow::all(&peer, sockets(&of(&daemon, "web"), 80)));
    let plan = daemon.rnet(&removal.replace("update", "update --dry-run"));
    assert!(plan.contains("- addr 10.77.0.1/24"), "{plan}");
    daemon.rnet(removal);
    flows.iter().for_each(Flow::goes_on);
    let is_gone = |daemon: &Daemon| {
        let told = daemon.rnet("network inspect n1");
        // A link-local address may have any digits.
        let is_of_it = |text: &str| text.contains("10.77.") || text.contains("fd00:77");
        assert!(!is_of_it(&told), "{told}");
        let left = lab.host.addresses(&bridge(daemon));
        assert!(!left.iter().any(|own| is_of_it(&own.to_string())), "{left:?}");
        for family in ["-4", "-6"] {
            assert!(!is_of_it(&routes(&peer, family)), "{}", routes(&peer, family));
        }
    };
    is_gone(&daemon);
    daemon.rnet("network create --subnet 10.77.0.0/24 n2");
    daemon.kill();
    daemon.restart();
    is_gone(&daemon);
    flows.into_iter().for_each(Flow::end);
}

#[test]
fn what_would_take_an_address_from_somebody_is_refused() {
    let (_lab, daemon) = lab();
    let before = daemon.rnet("network inspect n1");
    for (words, complaint) in [
        ("--rm-subnet 10.9.0.0/24", "network n1 has no subnet 10.9.0.0/24: it has 10.1.0.0/24"),
        ("--rm-subnet fd00:1::/64", "network n1 has no other IPv6 subnet"),
        ("--ipv6=false", "IPv6 of network n1 cannot be switched off"),
    ] {
        let refusal = daemon.refusal(&format!("network update {words} n1"));
        assert!(refusal.contains(complaint), "{words}: {refusal}");
    }
    daemon.run("web", "--network n1 --ip 10.1.0.9");
    let refusal = daemon.refusal("network update --rm-subnet 10.1.0.0/24 n1");
    assert!(refusal.contains("has 10.1.0.9; disconnect it first"), "{refusal}");
    daemon.rnet("rm -f web");
    assert_eq!(daemon.rnet("network inspect n1"), before);
}

#[test]
fn a_network_gets_another_family_and_its_containers_when_they_join_anew() {
    let (lab, mut daemon) = lab();
    daemon.rnet("network create --subnet 10.3.0.0/24 n3");
    let old = daemon.run("old", "--network n3 -p 8080:80");
    let _echo = Echo::start(&old, 80);
    let [host, _] = Lab::both(Lab::HOST);
    let flow = Flow::tcp(&lab.client, SocketAddr::new(host, 8080));
    let id = daemon.rnet("inspect -f {{.Id}} old")[..12].to_owned();
    let told = daemon.warnings("network update --ipv6 --add-subnet fd00:3::/64 n3");
    let who = format!(
        "who is on network n3 has no IPv6 address until it is started again, or disconnected and connected: {id}"
    );
    assert!(told.contains(&who), "{told}");
    flow.goes_on();
    assert_eq!(of(&daemon, "old").len(), 1, "it is as it was");
    let new = daemon.run("new", "--network n3");
    let _servers = [new.serve(90), lab.client.serve(90)];
    for address in of(&daemon, "new") {
        assert!(lab.host.tcp(address, 90).is_ok(), "{address}");
    }
    for away in Lab::both(Lab::CLIENT) {
        assert!(new.tcp(away, 90).is_ok(), "{away}");
    }
    flow.end();
    daemon.rnet("restart -t 0 old");
    assert_eq!(of(&daemon, "old").len(), 2);
    daemon.kill();
    daemon.restart();
    let old = daemon.inside("old");
    for address in of(&daemon, "new") {
        assert!(old.tcp(address, 90).is_ok(), "{address}");
    }
    // A subnet is found where none is named.
    daemon.rnet("network create --subnet 10.4.0.0/24 n4");
    daemon.rnet("network update --ipv6 n4");
    daemon.run("four", "--network n4");
    assert_eq!(of(&daemon, "four").len(), 2);
}
