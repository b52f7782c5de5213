//! Both families, one of them, and the time it takes.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::net::IpAddr;

use cnm::{State, diff};
use drivers::kernel::{Kernel, reconcile};
use netns_tests::{Lab, Model};

const PORT: u16 = 7000;

/// Leaves one family of a network.
fn only(model: &mut Model, n: u8, ipv6: bool) {
    let network = model.networks.get_mut(&n).unwrap();
    network.pools.retain(|pool| pool.subnet.is_ipv6() == ipv6);
    (network.ipv4, network.ipv6) = (!ipv6, ipv6);
}

#[test]
fn cve_2024_32473_network_of_one_family_has_nothing_of_the_other() {
    for ipv6 in [false, true] {
        let (lab, mut model) = (Lab::new(), Model::default());
        model.network(1);
        only(&mut model, 1, ipv6);
        model.sandbox(1, &[1]);
        let kernel = lab.open();
        reconcile(&kernel, &model.desired()).unwrap();
        let sandbox = lab.sandbox(&kernel, &model.sandboxes[&1].0.id);
        for (host, link) in [(&sandbox, "eth0"), (&lab.host, "br-010101010101")] {
            let addresses = host.addresses(link);
            assert!(!addresses.is_empty(), "{link}");
            assert!(addresses.iter().all(|a| a.is_ipv6() == ipv6), "{link}: {addresses:?}");
        }
        assert_eq!(lab.host.sysctl("net/ipv6/conf/all/forwarding"), u8::from(ipv6).to_string());
        let _server = lab.client.serve(PORT);
        let [reached, other]: [IpAddr; 2] = match (Lab::both(Lab::CLIENT), ipv6) {
            ([ipv4, v6], false) => [ipv4, v6],
            ([ipv4, v6], true) => [v6, ipv4],
        };
        assert!(sandbox.tcp(reached, PORT).is_ok());
        assert!(sandbox.tcp(other, PORT).is_err());
    }
}

#[test]
fn families_go_out_by_different_networks() {
    let (lab, mut model) = (Lab::new(), Model::default());
    model.network(1);
    model.network(2);
    only(&mut model, 1, false);
    only(&mut model, 2, true);
    model.sandbox(1, &[1, 2]);
    let kernel = lab.open();
    reconcile(&kernel, &model.desired()).unwrap();
    let sandbox = lab.sandbox(&kernel, &model.sandboxes[&1].0.id);
    let _server = lab.client.serve(PORT);
    for address in Lab::both(Lab::CLIENT) {
        assert!(sandbox.tcp(address, PORT).is_ok(), "{address}");
    }
}

#[test]
fn addresses_are_usable_the_moment_they_are_there() {
    let (lab, mut model) = (Lab::new(), Model::default());
    model.network(1);
    model.sandbox(1, &[1]);
    let kernel = lab.open();
    reconcile(&kernel, &model.desired()).unwrap();
    let sandbox = lab.sandbox(&kernel, &model.sandboxes[&1].0.id);
    let bound = sandbox.run(|| std::net::TcpListener::bind(("fd00:1::2", PORT)));
    assert!(bound.is_ok(), "{bound:?}");
}

#[test]
fn first_endpoint_of_a_network_is_reached_from_outside_at_once() {
    let (lab, mut model) = (Lab::new(), Model::default());
    model.network(1);
    model.sandbox(1, &[1]);
    model.publish(1, "0.0.0.0", 8080, PORT);
    model.publish(1, "::", 8080, PORT);
    let kernel = lab.open();
    reconcile(&kernel, &model.desired()).unwrap();
    let _server = lab.sandbox(&kernel, &model.sandboxes[&1].0.id).serve(PORT);
    for (host, client) in Lab::both(Lab::HOST).into_iter().zip(Lab::both(Lab::CLIENT)) {
        let address = std::net::SocketAddr::new(host, 8080);
        let seen = lab.client.tcp_to(address, std::time::Duration::from_millis(900));
        assert_eq!(seen.unwrap(), client);
    }
}

#[test]
fn host_that_learned_its_route_keeps_it_when_it_begins_to_forward() {
    let (lab, mut model) = (Lab::new(), Model::default());
    let learned = |lab: &Lab| {
        lab.host.run(|| {
            let arguments = [
                "-6",
                "route",
                "add",
                "default",
                "via",
                "2001:db8:1::2",
                "dev",
                "lan0",
                "proto",
                "ra",
            ];
            assert!(std::process::Command::new("ip").args(arguments).status().unwrap().success());
        });
    };
    learned(&lab);
    model.network(1);
    reconcile(&lab.open(), &model.desired()).unwrap();
    assert_eq!(lab.host.sysctl("net/ipv6/conf/lan0/accept_ra"), "2");
    assert_eq!(lab.host.sysctl("net/ipv6/conf/lan1/accept_ra"), "1");
}

#[test]
fn queries_of_a_sandbox_arrive_at_its_resolver() {
    let (lab, mut model) = (Lab::new(), Model::default());
    model.network(1);
    let id = model.sandbox(1, &[1]);
    let kernel = lab.open();
    reconcile(&kernel, &model.desired()).unwrap();
    let sockets = kernel.resolver_sockets(&id).unwrap();
    let sandbox = lab.sandbox(&kernel, &id);
    let client = sandbox.run(|| std::net::UdpSocket::bind("127.0.0.1:0")).unwrap();
    client.send_to(b"query", "127.0.0.11:53").unwrap();
    let stream = sandbox.run(|| std::net::TcpStream::connect("127.0.0.11:53")).unwrap();

    let udp = std::net::UdpSocket::from(sockets.udp);
    let mut buffer = [0; 16];
    let mut from = None;
    netns_tests::wait_until("the query arrives", || {
        from = udp.recv_from(&mut buffer).ok();
        from.is_some()
    });
    let (size, peer) = from.unwrap();
    assert_eq!(&buffer[..size], b"query");
    udp.send_to(b"answer", peer).unwrap();
    let (size, answered_by) = client.recv_from(&mut buffer).unwrap();
    assert_eq!(
        (&buffer[..size], answered_by.to_string()),
        (&b"answer"[..], "127.0.0.11:53".into())
    );
    let listener = std::net::TcpListener::from(sockets.tcp);
    netns_tests::wait_until("the connection arrives", || listener.accept().is_ok());
    drop(stream);
}

#[test]
fn many_sandboxes_come_and_go() {
    let (lab, mut model) = (Lab::new(), Model::default());
    model.network(1);
    let kernel = lab.open();
    reconcile(&kernel, &model.desired()).unwrap();
    for n in 1..=10 {
        model.sandbox(n, &[1]);
        model.publish(n, "0.0.0.0", 8000 + u16::from(n), 80);
        kernel.apply(&diff(&State::default(), &model.desired_of(n))).unwrap();
    }
    let rest = diff(&kernel.observe().unwrap(), &model.desired());
    assert!(rest.is_empty(), "{rest}");
    reconcile(&kernel, &State::default()).unwrap();
    assert!(kernel.observe().unwrap().is_empty());
}
