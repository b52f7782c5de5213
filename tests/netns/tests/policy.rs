//! Whose word counts about published ports: the host's own firewall, if the network says so.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

use std::net::{IpAddr, SocketAddr};
use std::process::Command;

use netns_tests::{Daemon, Host, Lab, SILENCE};

const POLICY: &str = "-o rnet.bridge.publish_policy=host-firewall";

/// A firewall as users write it: nothing comes in but what is named, for both families.
const FIREWALL: &str = "table inet filter {
    chain input {
        type filter hook input priority filter; policy drop;
        iifname lo accept
        ct state established,related accept
        meta l4proto ipv6-icmp accept
        tcp dport 8081 accept
    }
}";

fn firewall(host: &Host) {
    let set = || Command::new("nft").arg(FIREWALL).status();
    assert!(host.run(set).unwrap().success());
}

fn reached(from: &Host, host: IpAddr, port: u16) -> bool {
    from.tcp_to(SocketAddr::new(host, port), SILENCE).is_ok()
}

#[test]
fn published_ports_obey_the_hosts_firewall_where_the_network_says_so() {
    let lab = Lab::new();
    let mut daemon = Daemon::start(&lab.host, &[]);
    daemon.rnet(&format!("network create --ipv6 {POLICY} obeying"));
    daemon.rnet("network create --ipv6 open");
    let obeying = daemon.run("obeying", "--network obeying -p 8080:80 -p 8081:81 -p 8080:80/udp");
    let open = daemon.run("open", "--network open -p 8090:80");
    let _servers = [obeying.serve(80), obeying.serve(81), open.serve(80)];
    for host in Lab::both(Lab::HOST) {
        for port in [8080, 8081, 8090] {
            assert!(reached(&lab.client, host, port), "{host} {port}: there is no firewall yet");
        }
        assert!(lab.client.udp(host, 8080).is_ok());
    }
    firewall(&lab.host);
    let holds = || {
        for host in Lab::both(Lab::HOST) {
            assert!(!reached(&lab.client, host, 8080), "{host}: the firewall does not name it");
            assert!(lab.client.udp_to(SocketAddr::new(host, 8080), SILENCE).is_err(), "{host}");
            assert!(reached(&lab.client, host, 8081), "{host}: the firewall names it");
            assert!(reached(&lab.client, host, 8090), "{host}: published past the firewall");
            assert!(reached(&lab.host, host, 8080), "{host}: the host itself");
        }
    };
    holds();
    daemon.kill();
    holds();
    daemon.restart();
    holds();
}

#[test]
fn a_daemon_can_have_all_networks_obey_the_hosts_firewall() {
    let lab = Lab::new();
    let option = "bridge=rnet.bridge.publish_policy=host-firewall";
    let daemon = Daemon::start(&lab.host, &["--default-network-opt", option]);
    firewall(&lab.host);
    daemon.rnet("network create --ipv6 own");
    for network in ["bridge", "own"] {
        let web = daemon.run(network, &format!("--network {network} -p 8080:80 -p 8081:80"));
        let _server = web.serve(80);
        for host in Lab::both(Lab::HOST) {
            assert!(!reached(&lab.client, host, 8080), "{network} {host}");
            assert!(reached(&lab.client, host, 8081), "{network} {host}");
        }
        daemon.rnet(&format!("rm -f {network}"));
    }
}

#[test]
fn a_port_that_the_hosts_firewall_cannot_decide_on_is_told_of() {
    let lab = Lab::new();
    let daemon = Daemon::start(&lab.host, &[]);
    daemon.rnet(&format!("network create {POLICY} obeying"));
    let words = "run -d --network obeying -p 8080:80/sctp -p 8081:80 rnet/toolbox sleep 9";
    let told = daemon.warnings(words);
    let said = "sctp ports published on network obeying are not reached: \
                rnet.bridge.publish_policy=host-firewall cannot be had for sctp";
    assert!(told.contains(said), "{told}");
    let told = daemon.warnings("run -d -p 8090:80/sctp rnet/toolbox sleep 9");
    assert_eq!(told, "", "where they are reached nothing is said");
}
