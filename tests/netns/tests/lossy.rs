//! A wire that loses, delays and reorders packets, as wires outside of laboratories do.
//!
//! Everything here is ignored where the kernel lacks netem; `make test-vm` has one that does not.

use std::net::SocketAddr;
use std::process::Command;

use netns_tests::lookup::{Upstream, over_udp};
use netns_tests::{Daemon, Echo, Flow, Host, Lab};

/// Spoils what a host sends by an interface.
fn spoil(host: &Host, interface: &str, how: &str) {
    let words = format!("qdisc add dev {interface} root netem {how}");
    let status = host.run(|| Command::new("tc").args(words.split(' ')).status());
    assert!(status.is_ok_and(|status| status.success()), "tc {words}");
}

#[test]
#[ignore = "needs a kernel with netem: make test-vm"]
fn transfers_by_published_ports_are_whole_over_a_bad_wire() {
    let lab = Lab::new();
    let daemon = Daemon::start(&lab.host, &[]);
    daemon.rnet("network create --ipv6 --subnet 10.9.0.0/24 --subnet fd00:9::/64 both");
    daemon.rnet("network create --subnet 10.8.0.0/24 one");
    let inside = daemon.run("both", "--network both -p 8080:80");
    // By the proxy where the client has IPv6.
    let alone = daemon.run("one", "--network one -p 8081:80");
    let _servers = [Echo::start(&inside, 80), Echo::start(&alone, 80)];
    let how = "delay 10ms 5ms loss 3% reorder 10%";
    spoil(&lab.client, "eth0", how);
    spoil(&lab.host, "lan0", how);
    let servers = Lab::both(Lab::HOST).into_iter();
    let servers = servers.flat_map(|host| [8080, 8081].map(|port| SocketAddr::new(host, port)));
    let flows: Vec<_> = servers.map(|server| Flow::tcp(&lab.client, server)).collect();
    flows.iter().for_each(Flow::goes_on);
    flows.into_iter().for_each(Flow::end);
}

#[test]
#[ignore = "needs a kernel with netem: make test-vm"]
fn names_outside_are_answered_though_one_packet_of_four_is_lost() {
    let lab = Lab::new();
    let known = Some(["203.0.113.7", "2001:db8:f::7"]);
    let _upstreams = [Upstream::start(&lab.client, known), Upstream::start(&lab.other, known)];
    let daemon = Daemon::start(&lab.host, &[]);
    daemon.set_resolvers(&[Lab::CLIENT[0], Lab::OTHER[1]]);
    for (host, interface) in [(&lab.host, "lan0"), (&lab.host, "lan1"), (&lab.other, "eth0")] {
        spoil(host, interface, "delay 5ms loss 25%");
    }
    let asker = daemon.run("asker", "");
    for number in 0..20 {
        let answer = over_udp(&asker, "127.0.0.11:53", &format!("name{number}.example"), "A");
        let records = answer.map(|answer| answer.records);
        assert_eq!(records, Some(vec!["203.0.113.7".to_owned()]), "name{number}.example");
    }
}
