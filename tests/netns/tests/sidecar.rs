//! Containers that live in the sandbox of another one.

use std::net::SocketAddr;

use netns_tests::{Daemon, Echo, Flow, Lab, SILENCE, lookup, wait_until};

fn lab() -> (Lab, Daemon) {
    let lab = Lab::new();
    let daemon = Daemon::start(&lab.host, &[]);
    daemon.rnet("network create --ipv6 n1");
    (lab, daemon)
}

fn at(port: u16) -> [SocketAddr; 2] {
    Lab::both(Lab::HOST).map(|host| SocketAddr::new(host, port))
}

fn refuses(lab: &Lab, port: u16) -> bool {
    at(port).iter().all(|to| lab.client.tcp_to(*to, SILENCE).is_err())
}

fn go_on(flows: &[Flow]) {
    flows.iter().for_each(Flow::goes_on);
}

/// A container with a lodger that serves port 80, and connections to that.
fn sidecar(lab: &Lab, daemon: &Daemon) -> (Echo, Vec<Flow>) {
    daemon.run("vpn", "--network n1 -p 8080:80 -p 8080:80/udp");
    let app = daemon.run("app", "--network container:vpn");
    let echo = Echo::start(&app, 80);
    (echo, Flow::all(&lab.client, at(8080)))
}

#[test]
fn a_sidecar_restarts_twenty_times_and_who_lives_in_it_keeps_its_sockets() {
    let (lab, mut daemon) = lab();
    let (_echo, flows) = sidecar(&lab, &daemon);
    let peer = daemon.run("peer", "--network n1");
    let before = (daemon.addresses("vpn"), daemon.inside("vpn").links());
    for round in 0..20 {
        daemon.rnet("restart -t 0 vpn");
        go_on(&flows);
        if round % 10 == 5 {
            daemon.kill();
            daemon.restart();
            go_on(&flows);
        }
    }
    assert_eq!(daemon.addresses("vpn"), before.0);
    assert_eq!(daemon.inside("vpn").links().len(), before.1.len());
    assert_eq!(lookup::addresses(&peer, "vpn"), before.0["n1"]);
    flows.into_iter().for_each(Flow::end);
}

#[test]
fn a_sandbox_stays_without_its_container_for_who_lives_in_it() {
    let (lab, mut daemon) = lab();
    let (_echo, flows) = sidecar(&lab, &daemon);
    let peer = daemon.run("peer", "--network n1");
    daemon.rnet("stop -t 0 vpn");
    go_on(&flows);
    assert!(!lookup::addresses(&peer, "vpn").is_empty());
    // It is changed as if it ran, others move in, and the next daemon knows of it.
    daemon.rnet("port add vpn 9090:90");
    daemon.rnet("network create n2");
    daemon.rnet("network connect n2 vpn");
    let late = daemon.run("late", "--network container:vpn");
    let _server = late.serve(90);
    assert!(late.link("eth1").is_some());
    assert!(at(9090).iter().all(|to| lab.client.tcp(to.ip(), 9090).is_ok()));
    daemon.kill();
    daemon.restart();
    go_on(&flows);
    assert!(!lookup::addresses(&peer, "vpn").is_empty());
    daemon.rnet("start vpn");
    go_on(&flows);
    flows.into_iter().for_each(Flow::end);
}

#[test]
fn with_a_removed_container_go_its_ports_and_names_and_the_rest_with_the_last_lodger() {
    let (lab, mut daemon) = lab();
    let (echo, flows) = sidecar(&lab, &daemon);
    let peer = daemon.run("peer", "--network n1");
    let address = daemon.addresses("vpn")["n1"].clone();
    daemon.rnet("rm -f vpn");
    drop(flows);
    assert!(refuses(&lab, 8080));
    assert!(lookup::addresses(&peer, "vpn").is_empty());
    let near = Flow::tcp(&peer, SocketAddr::new(address[0], 80));
    // Another one of the same name and with the same ports has a sandbox of its own.
    let next = daemon.run("vpn", "--network n1 -p 8080:80");
    let _server = next.serve(80);
    assert!(at(8080).iter().all(|to| lab.client.tcp(to.ip(), 8080).is_ok()));
    assert_ne!(daemon.addresses("vpn")["n1"], address);
    daemon.kill();
    daemon.restart();
    near.end();
    drop(echo);
    let links = lab.host.links().len();
    daemon.rnet("rm -f app");
    wait_until("nothing is left of the sandbox", || lab.host.links().len() < links);
    assert!(peer.tcp_to(SocketAddr::new(address[0], 80), SILENCE).is_err());
}

#[test]
fn a_sandbox_goes_with_its_container_where_nobody_else_lives_in_it() {
    let (lab, daemon) = lab();
    let links = lab.host.links().len();
    let (_echo, flows) = sidecar(&lab, &daemon);
    drop(flows);
    daemon.rnet("rm -f app");
    daemon.rnet("stop -t 0 vpn");
    assert_eq!(lab.host.links().len(), links);
    assert!(refuses(&lab, 8080));
    // The last lodger may also be the last of all.
    daemon.rnet("start vpn");
    daemon.run("app", "--network container:vpn");
    daemon.rnet("stop -t 0 vpn");
    daemon.rnet("rm -f app");
    wait_until("the sandbox is gone", || lab.host.links().len() == links);
    daemon.rnet("start vpn");
    assert!(at(8080).iter().all(|to| lab.client.tcp_to(*to, SILENCE).is_err()));
    let _server = daemon.inside("vpn").serve(80);
    assert!(at(8080).iter().all(|to| lab.client.tcp(to.ip(), 8080).is_ok()));
}
