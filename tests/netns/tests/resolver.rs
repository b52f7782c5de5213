//! The resolver's address in a sandbox: 127.0.0.11, port 53, whoever else serves names there.
#![expect(clippy::unwrap_used, reason = "in helpers of tests")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};

use drivers::kernel::RESOLVER_PORT;
use drivers::kernel::nft::SandboxTable;
use netns_tests::site::{PATIENCE, Space, ask};

const RESOLVER: &str = "127.0.0.11:53";

/// A sandbox with the redirection, and what answers at the resolver's port.
fn sandbox() -> (Space, SandboxTable) {
    let sandbox = Space::new();
    let table = sandbox.run(|| SandboxTable::open().unwrap());
    table.install().unwrap();
    serve(&sandbox, SocketAddr::from(([127, 0, 0, 11], RESOLVER_PORT)), "resolver");
    (sandbox, table)
}

fn serve(space: &Space, address: SocketAddr, answer: &'static str) {
    let (datagrams, listener) =
        space.run(|| (UdpSocket::bind(address).unwrap(), TcpListener::bind(address).unwrap()));
    std::thread::spawn(move || {
        while let Ok((_, peer)) = datagrams.recv_from(&mut [0; 512]) {
            let _ = datagrams.send_to(answer.as_bytes(), peer);
        }
    });
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(answer.as_bytes());
        }
    });
}

fn over_udp(space: &Space, to: &str) -> Option<String> {
    space.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        // A connected socket takes answers from the address it asked only.
        socket.connect(to).unwrap();
        ask(&socket, PATIENCE)
    })
}

fn over_tcp(space: &Space, to: &str) -> Option<String> {
    space.run(|| {
        let mut text = String::new();
        TcpStream::connect(to).ok()?.read_to_string(&mut text).ok()?;
        Some(text)
    })
}

#[test]
fn port_53_leads_to_the_resolver_and_answers_come_from_there() {
    let (sandbox, _) = sandbox();
    assert_eq!(over_udp(&sandbox, RESOLVER).as_deref(), Some("resolver"));
    assert_eq!(over_tcp(&sandbox, RESOLVER).as_deref(), Some("resolver"));
}

#[test]
fn a_container_may_serve_names_on_all_of_its_addresses() {
    let (sandbox, _) = sandbox();
    sandbox.ip(&["addr add 10.1.0.2/24 dev lo"]);
    serve(&sandbox, SocketAddr::from(([0, 0, 0, 0], 53)), "container");
    for own in ["127.0.0.1:53", "10.1.0.2:53"] {
        assert_eq!(over_udp(&sandbox, own).as_deref(), Some("container"));
        assert_eq!(over_tcp(&sandbox, own).as_deref(), Some("container"));
    }
    assert_eq!(over_udp(&sandbox, RESOLVER).as_deref(), Some("resolver"));
    assert_eq!(over_tcp(&sandbox, RESOLVER).as_deref(), Some("resolver"));
}

/// How many connections the kernel knows of a sandbox.
fn tracked(sandbox: &Space) -> u32 {
    let path = "/proc/sys/net/netfilter/nf_conntrack_count";
    // There is no such file where nothing in the kernel tracks connections.
    let text = sandbox.run(|| std::fs::read_to_string(path));
    text.map_or(0, |text| text.trim().parse().unwrap())
}

/// Looking for the connection of each packet took a twentieth of a round trip between containers.
#[test]
fn names_have_no_packet_of_a_container_tracked() {
    let (sandbox, _) = sandbox();
    assert_eq!(over_udp(&sandbox, RESOLVER).as_deref(), Some("resolver"));
    assert_eq!(over_tcp(&sandbox, RESOLVER).as_deref(), Some("resolver"));
    assert_eq!(tracked(&sandbox), 0);
}

/// As a container does that is a firewall, or a host of containers.
#[test]
fn a_container_that_filters_by_connections_and_translates_gets_its_answers() {
    let (sandbox, _) = sandbox();
    let rules = "table inet own {
        chain arriving { type filter hook input priority 0; policy drop; ct state established accept;
            iif lo udp dport 64053 accept; iif lo tcp dport 64053 ct state new accept; }
        chain leaving { type filter hook output priority 0; policy drop;
            ct state established accept; ct state new accept; }
        chain translated { type nat hook postrouting priority 100; oif != lo masquerade; }
        chain redirected { type nat hook output priority -100; udp dport 5353 redirect to :9; }
    }";
    sandbox.output("nft", &[rules]);
    for _ in 0..3 {
        assert_eq!(over_udp(&sandbox, RESOLVER).as_deref(), Some("resolver"));
        assert_eq!(over_tcp(&sandbox, RESOLVER).as_deref(), Some("resolver"));
    }
    assert!(tracked(&sandbox) > 0);
}

/// As an earlier release left it.
#[test]
fn a_redirection_by_conntrack_is_replaced() {
    let (sandbox, table) = sandbox();
    table.remove().unwrap();
    let rules = "table ip rnet-dns { chain output { type nat hook output priority -100;
        ip daddr 127.0.0.11 udp dport 53 dnat to :64053 comment names
        ip daddr 127.0.0.11 tcp dport 53 dnat to :64053 comment \"long answers\";
    }; }";
    sandbox.output("nft", &[rules]);
    assert_eq!(over_udp(&sandbox, RESOLVER).as_deref(), Some("resolver"));
    assert!(tracked(&sandbox) > 0);
    assert!(!table.is_installed().unwrap());
    table.install().unwrap();
    assert!(table.is_installed().unwrap());
    assert_eq!(over_tcp(&sandbox, RESOLVER).as_deref(), Some("resolver"));
    assert!(!sandbox.output("nft", &["list", "ruleset"]).contains("nat"));
}

#[test]
fn the_redirection_is_replaced_removed_and_observed() {
    let (sandbox, table) = sandbox();
    assert!(table.is_installed().unwrap());
    table.install().unwrap();
    assert!(table.is_installed().unwrap());
    assert_eq!(over_udp(&sandbox, RESOLVER).as_deref(), Some("resolver"));
    sandbox.output("nft", &["flush", "chain", "ip", "rnet-dns", "answers"]);
    assert!(!table.is_installed().unwrap(), "half of it is none of it");
    table.install().unwrap();
    assert!(table.is_installed().unwrap());
    table.remove().unwrap();
    table.remove().unwrap();
    assert!(!table.is_installed().unwrap());
    assert_eq!(over_tcp(&sandbox, RESOLVER), None);
    assert_eq!(sandbox.output("nft", &["list", "ruleset"]), "");
}

#[test]
fn it_is_installed_in_no_time() {
    let begun = std::time::Instant::now();
    let spaces: Vec<_> = (0..20).map(|_| Space::new()).collect();
    println!("20 namespaces made in {:?}", begun.elapsed());
    let begun = std::time::Instant::now();
    for space in &spaces {
        space.run(|| SandboxTable::open().unwrap().install().unwrap());
    }
    println!("20 redirections installed in {:?}", begun.elapsed());
}
