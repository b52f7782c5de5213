//! A container that leaves a network while others are connected to it: they hear of it at once.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use netns_tests::{Daemon, Host, Lab, TIMEOUT};

/// How soon the other end is to know.
const SOON: Duration = Duration::from_millis(100);

/// A connection to a server that says one word and then nothing more, with both of its ends.
fn connect(from: &Host, to: SocketAddr, server: &TcpListener) -> (TcpStream, TcpStream) {
    let mut near = from.run(|| TcpStream::connect_timeout(&to, TIMEOUT)).unwrap();
    let (mut far, _) = server.accept().unwrap();
    near.set_read_timeout(Some(TIMEOUT)).unwrap();
    far.write_all(b"?").unwrap();
    near.read_exact(&mut [0; 1]).unwrap();
    (near, far)
}

#[test]
fn who_is_connected_to_a_container_that_leaves_a_network_is_told_at_once() {
    let lab = Lab::new();
    let daemon = Daemon::start(&lab.host, &[]);
    daemon.rnet("network create --ipv6 n1");
    daemon.rnet("network create --ipv6 n2");
    let web = daemon.run("web", "--network n1 -p 8080:80");
    daemon.rnet("network connect n2 web");
    let [neighbour, other] =
        ["n1", "n2"].map(|name| daemon.run(&format!("of-{name}"), &format!("--network {name}")));
    let server = web.run(|| TcpListener::bind("[::]:80").unwrap());
    let own = daemon.addresses("web");
    let at = |address: &IpAddr, port| SocketAddr::new(*address, port);
    let mut told = Vec::new();
    let mut kept = Vec::new();
    for (host, (left, stayed)) in Lab::both(Lab::HOST).iter().zip(own["n1"].iter().zip(&own["n2"]))
    {
        told.push(connect(&lab.client, at(host, 8080), &server));
        told.push(connect(&neighbour, at(left, 80), &server));
        kept.push(connect(&other, at(stayed, 80), &server));
    }
    let begun = Instant::now();
    daemon.rnet("network disconnect n1 web");
    let took = begun.elapsed();
    for (near, _far) in &mut told {
        let error = near.read(&mut [0; 1]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    let later = begun.elapsed().saturating_sub(took);
    assert!(later < SOON, "told {later:?} after the container had left");
    for (near, far) in &mut kept {
        far.write_all(b"!").unwrap();
        near.read_exact(&mut [0; 1]).unwrap();
    }
}
