//! Published ports: who reaches them, by which address, and who must not.
#![expect(clippy::unwrap_used, reason = "in helpers of tests")]

use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};

use cnm::{Element, Key, PortBinding, Protocol, Step, Value};
use drivers::kernel::conntrack::Conntrack;
use drivers::kernel::nft::{NftError, Ownership};
use drivers::kernel::reserve;
use netns_tests::site::{PATIENCE, SILENCE, Site, Space, ask, link, published, wait_until};
use nix::sys::socket::{self, AddressFamily, SockFlag, SockProtocol, SockType};

/// The site with port 80 of a1 published as 8080 of all addresses.
fn site() -> Site {
    let site = Site::new();
    site.publish("0.0.0.0", 8080, "10.1.0.2");
    site.publish("::", 8080, "fd00:a::2");
    site
}

fn binding(host: &str, protocol: Protocol, host_port: u16) -> PortBinding {
    PortBinding { host: host.parse().unwrap(), host_port, protocol, port: 80 }
}

#[test]
fn other_machines_reach_a_port_by_every_address_and_are_seen_with_their_own() {
    let site = site();
    for address in ["192.0.2.1", "192.0.2.9", "10.1.0.1", "10.2.0.1"] {
        assert_eq!(site.client.reach(&format!("{address}:8080")), "a1 sees 192.0.2.2");
    }
    for address in ["2001:db8::1", "2001:db8::9", "fd00:a::1", "fd00:b::1"] {
        assert_eq!(site.client.reach(&format!("[{address}]:8080")), "a1 sees 2001:db8::2");
    }
}

#[test]
fn a_port_of_one_address_is_not_reached_by_another() {
    let site = Site::new();
    site.publish("192.0.2.9", 8080, "10.1.0.2");
    site.publish("2001:db8::9", 8080, "fd00:a::2");
    assert_eq!(site.client.reach("192.0.2.9:8080"), "a1 sees 192.0.2.2");
    assert_eq!(site.client.reach("[2001:db8::9]:8080"), "a1 sees 2001:db8::2");
    for other in ["192.0.2.1:8080", "[2001:db8::1]:8080", "10.1.0.1:8080"] {
        assert!(site.client.is_cut_off_from(other), "{other}");
        assert!(site.host.is_cut_off_from(other), "{other}");
    }
    assert!(site.host.is_cut_off_from("127.0.0.1:8080"));
}

#[test]
fn a_port_of_one_address_comes_before_the_same_port_of_all() {
    let site = site();
    site.publish("192.0.2.9", 8080, "10.2.0.2");
    site.publish("2001:db8::9", 8080, "fd00:b::2");
    assert_eq!(site.client.reach("192.0.2.9:8080"), "b1 sees 192.0.2.2");
    assert_eq!(site.client.reach("192.0.2.1:8080"), "a1 sees 192.0.2.2");
    assert_eq!(site.client.reach("[2001:db8::9]:8080"), "b1 sees 2001:db8::2");
    assert_eq!(site.client.reach("[2001:db8::1]:8080"), "a1 sees 2001:db8::2");
}

#[test]
fn the_host_reaches_a_port_by_its_addresses_and_by_its_localhost() {
    let site = site();
    assert_eq!(site.host.reach("192.0.2.1:8080"), "a1 sees 192.0.2.1");
    assert_eq!(site.host.reach("[2001:db8::1]:8080"), "a1 sees 2001:db8::1");
    // 127.0.0.1 would mean the container itself, were it not replaced.
    assert_eq!(site.host.reach("127.0.0.1:8080"), "a1 sees 10.1.0.1");
    assert_eq!(site.host.reach("127.0.0.53:8080"), "a1 sees 10.1.0.1");
}

/// The kernel can translate neither.
#[test]
fn ipv6_localhost_and_link_local_addresses_are_left_to_the_socket_that_reserves_the_port() {
    let site = site();
    site.host.serve("host", 8080);
    assert_eq!(site.host.reach("[::1]:8080"), "host sees ::1");
    assert_eq!(site.host.reach("[2001:db8::1]:8080"), "a1 sees 2001:db8::1");
    site.host.ip(&["addr add fe80::1/64 dev eth0 nodad"]);
    site.client.ip(&["addr add fe80::2/64 dev eth0 nodad"]);
    let index = site.client.index("eth0");
    let link_local = site.client.tcp(&format!("[fe80::1%{index}]:8080"), PATIENCE).unwrap();
    assert!(link_local.starts_with("host sees fe80::"), "{link_local}");
}

#[test]
fn containers_of_other_networks_reach_a_port_by_the_hosts_address() {
    let site = site();
    assert_eq!(site.b1.reach("192.0.2.1:8080"), "a1 sees 10.2.0.2");
    assert_eq!(site.b1.reach("10.2.0.1:8080"), "a1 sees 10.2.0.2");
    assert_eq!(site.b1.reach("[2001:db8::1]:8080"), "a1 sees fd00:b::2");
}

/// The answer would take the short way and not be recognised, were the source not replaced. And
/// nobody believes a packet from himself that comes in by the wire.
#[test]
fn neighbours_and_the_container_itself_reach_a_port_by_the_hosts_address() {
    let site = site();
    // Whether frames on a bridge meet the rules too (br_netfilter).
    for watched in ["0", "1"] {
        site.host.run(|| {
            for family in ["ip", "ip6"] {
                let path = format!("/proc/sys/net/bridge/bridge-nf-call-{family}tables");
                // Not there, if the kernel cannot.
                let _ = std::fs::write(path, watched);
            }
        });
        for container in [&site.a2, &site.a1] {
            assert_eq!(container.reach("192.0.2.1:8080"), "a1 sees 10.1.0.1");
            assert_eq!(container.reach("10.1.0.1:8080"), "a1 sees 10.1.0.1");
            assert_eq!(container.reach("[2001:db8::1]:8080"), "a1 sees fd00:a::1");
        }
        assert_eq!(site.a2.reach("10.1.0.2:80"), "a1 sees 10.1.0.3", "no detour by the host");
    }
}

#[test]
fn cve_2025_67499_the_same_port_of_somebody_else_is_not_touched_on_its_way_through_the_host() {
    let site = site();
    site.client.serve("client", 8080);
    assert_eq!(site.b1.reach("192.0.2.2:8080"), "client sees 192.0.2.1");
    assert_eq!(site.b1.reach("[2001:db8::2]:8080"), "client sees 2001:db8::1");
}

/// Has a machine send what is for 127.0.0.0/8 to a gateway, as only an attacker would.
fn make_martian(space: &Space, gateway: &str) {
    space.sysctl("net/ipv4/conf/eth0/route_localnet", "1");
    space.ip(&[
        "route del local 127.0.0.0/8 dev lo table local",
        "route del local 127.0.0.1 dev lo table local",
        &format!("route add 127.0.0.0/8 via {gateway}"),
    ]);
}

#[test]
fn moby_45610_ports_of_localhost_are_not_reached_from_outside_by_martian_routes() {
    let site = Site::new();
    site.publish("127.0.0.1", 8080, "10.1.0.2");
    site.publish("0.0.0.0", 8081, "10.1.0.2");
    site.host.serve("host", 9000);
    // The worst case: somebody (kube-proxy) has the kernel accept such packets everywhere.
    site.host.sysctl("net/ipv4/conf/all/route_localnet", "1");
    site.host.sysctl("net/ipv4/conf/all/rp_filter", "0");
    make_martian(&site.client, "192.0.2.1");
    make_martian(&site.b1, "10.2.0.1");
    let witness = "table inet witness { chain c { type filter hook prerouting priority -301; \
                   iifname != lo ip daddr 127.0.0.0/8 counter; }; }";
    assert!(site.host.command("nft", &["-f", "-"], witness).status.success());
    for attacker in [&site.client, &site.b1] {
        for target in ["127.0.0.1:8080", "127.0.0.1:8081", "127.0.0.1:9000"] {
            assert!(attacker.is_cut_off_from(target), "{target}");
        }
    }
    let seen = site.host.output("nft", &["list", "table", "inet", "witness"]);
    assert!(!seen.contains("packets 0 "), "nothing was attacked: {seen}");
    assert!(site.client.is_cut_off_from("192.0.2.1:8080"));
    assert_eq!(site.host.reach("127.0.0.1:8080"), "a1 sees 10.1.0.1");
}

/// A socket for packets of a protocol that the kernel has no sockets for.
fn raw_sctp(space: &Space, family: AddressFamily) -> OwnedFd {
    space.run(|| {
        let flags = SockFlag::empty();
        socket::socket(family, SockType::Raw, flags, SockProtocol::Sctp).unwrap()
    })
}

#[test]
fn sctp_ports_are_published_too() {
    let site = Site::new();
    for (any, container, to, family, header) in [
        ("0.0.0.0", "10.1.0.2", "192.0.2.1", AddressFamily::Inet, 20),
        ("::", "fd00:a::2", "2001:db8::1", AddressFamily::Inet6, 0),
    ] {
        let (host, address): (IpAddr, IpAddr) = (any.parse().unwrap(), container.parse().unwrap());
        let element = Element::Published { host, protocol: Protocol::Sctp, port: 3868 };
        site.add([(element, Value::Target { address, port: 80 })]);
        let (client, server) = (raw_sctp(&site.client, family), raw_sctp(&site.a1, family));
        // Ports 40000 and 3868, tag 0, CRC32c; an INIT chunk.
        let init = [
            0x9c, 0x40, 0x0f, 0x1c, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 20, 0, 0, 0, 1, 0, 1, 0, 0, 0,
            1, 0, 1, 0, 0, 0, 1,
        ];
        let mut packet = init.to_vec();
        packet[8..12].copy_from_slice(&crc32c(&init).to_le_bytes());
        let to = socket::SockaddrStorage::from(SocketAddr::new(to.parse().unwrap(), 0));
        socket::sendto(client.as_raw_fd(), &packet, &to, socket::MsgFlags::empty()).unwrap();
        let timeout = nix::sys::time::TimeVal::new(5, 0);
        socket::setsockopt(&server, socket::sockopt::ReceiveTimeout, &timeout).unwrap();
        let mut buffer = [0; 256];
        let flags = socket::MsgFlags::empty();
        let length = socket::recv(server.as_raw_fd(), &mut buffer, flags).unwrap();
        // Behind the IP header, if there is one: the source port as it was, the destination port
        // translated.
        assert_eq!(buffer[header..length][..4], [0x9c, 0x40, 0, 80]);
    }
}

fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 }
        })
    })
}

#[test]
fn a_withdrawn_port_is_closed_and_others_go_on() {
    let site = site();
    site.publish("0.0.0.0", 8081, "10.2.0.2");
    site.remove(published("0.0.0.0", 8080, "10.1.0.2"));
    assert!(site.client.is_cut_off_from("192.0.2.1:8080"));
    assert_eq!(site.client.reach("192.0.2.1:8081"), "b1 sees 192.0.2.2");
    assert_eq!(site.client.reach("[2001:db8::1]:8080"), "a1 sees 2001:db8::2");
}

#[test]
fn a_port_moves_to_another_container_in_one_transaction() {
    let site = site();
    let [(tcp, old), (udp, _)] = published("0.0.0.0", 8080, "10.1.0.2");
    let [(_, new), _] = published("0.0.0.0", 8080, "10.2.0.2");
    let steps = [
        Step::Remove(Key::Element(tcp.clone()), old.clone()),
        Step::Add(Key::Element(tcp), new.clone()),
        Step::Change { key: Key::Element(udp), from: old, to: new },
    ];
    site.nft.apply(&steps.iter().collect::<Vec<_>>()).unwrap();
    assert_eq!(site.client.reach("192.0.2.1:8080"), "b1 sees 192.0.2.2");
}

#[test]
fn a_refused_step_is_named_and_nothing_is_done() {
    let site = site();
    let before = site.nft.observe().unwrap();
    let add = |port| {
        let [(key, value), _] = published("0.0.0.0", port, "10.1.0.2");
        Step::Add(Key::Element(key), value)
    };
    let steps = [add(9001), add(9002), add(8080), add(9003)];
    let error = site.nft.apply(&steps.iter().collect::<Vec<_>>()).unwrap_err();
    let NftError::Step { index, .. } = &error else { panic!("{error:?}") };
    assert_eq!(*index, 2);
    assert_eq!(error.to_string(), "cannot add element published 0.0.0.0 8080/tcp");
    assert_eq!(site.nft.observe().unwrap(), before);
}

#[test]
fn to_remove_what_is_gone_is_no_error() {
    let site = site();
    let [(gone, value), _] = published("0.0.0.0", 9001, "10.1.0.2");
    let [(there, target), _] = published("0.0.0.0", 8080, "10.1.0.2");
    let [(new, new_target), _] = published("0.0.0.0", 9002, "10.1.0.2");
    let steps = [
        Step::Remove(Key::Element(gone), value),
        Step::Remove(Key::Element(there.clone()), target),
        Step::Add(Key::Element(new.clone()), new_target),
    ];
    site.nft.apply(&steps.iter().collect::<Vec<_>>()).unwrap();
    let observed = site.nft.observe().unwrap();
    assert!(!observed.iter().any(|(element, _)| *element == there));
    assert!(observed.iter().any(|(element, _)| *element == new));
}

#[test]
fn what_is_left_of_an_element_is_removed() {
    let site = Site::with(Ownership::Declined);
    let bridge = (Element::Bridge { link: link("br-a") }, Value::Present);
    let count = |set: &str| {
        let text = site.host.output("nft", &["list", "set", "inet", "rnet", set]);
        text.matches("br-a").count()
    };
    site.host.output("nft", &["delete", "element", "inet", "rnet", "bridges", "{ br-a }"]);
    site.remove([bridge.clone()]);
    assert_eq!((count("bridges"), count("loops")), (0, 0));
    site.remove([bridge.clone()]);
    site.add([bridge]);
    assert_eq!((count("bridges"), count("loops")), (1, 2));
}

#[test]
fn ten_thousand_ports_are_one_transaction_and_all_observed() {
    let site = Site::new();
    let before = site.nft.observe().unwrap().len();
    let elements: Vec<_> =
        (10_000..15_000).flat_map(|port| published("0.0.0.0", port, "10.1.0.2")).collect();
    let begun = std::time::Instant::now();
    site.add(elements.clone());
    println!("{} elements added in {:?}", elements.len(), begun.elapsed());
    let begun = std::time::Instant::now();
    let observed = site.nft.observe().unwrap();
    println!("{} elements listed in {:?}", observed.len(), begun.elapsed());
    assert_eq!(observed.len(), before + elements.len());
    assert_eq!(site.client.reach("192.0.2.1:14999"), "a1 sees 192.0.2.2");
    let begun = std::time::Instant::now();
    site.remove(elements);
    println!("and removed in {:?}", begun.elapsed());
    assert_eq!(site.nft.observe().unwrap().len(), before);
}

#[test]
fn a_client_that_keeps_sending_follows_a_udp_port_to_its_new_container() {
    let site = Site::new();
    let conntrack = site.host.run(|| Conntrack::open().unwrap());
    let ports = [binding("0.0.0.0", Protocol::Udp, 8080), binding("::", Protocol::Udp, 8080)];
    for (to, old, new, any) in [
        ("192.0.2.1:8080", "10.1.0.2", "10.2.0.2", "0.0.0.0"),
        ("[2001:db8::1]:8080", "fd00:a::2", "fd00:b::2", "::"),
    ] {
        let client = site.client.datagrams();
        client.connect(to).unwrap();
        assert_eq!(ask(&client, SILENCE), None, "nobody is there yet");
        site.publish(any, 8080, old);
        conntrack.flush_ports(&ports).unwrap();
        assert!(ask(&client, PATIENCE).unwrap().starts_with("a1 "));
        site.remove(published(any, 8080, old));
        site.publish(any, 8080, new);
        assert!(ask(&client, PATIENCE).unwrap().starts_with("a1 "), "a flow stays where it is");
        assert_eq!(conntrack.flush_ports(&ports).unwrap(), 1);
        assert!(ask(&client, PATIENCE).unwrap().starts_with("b1 "));
    }
}

#[test]
fn flows_through_the_host_to_the_same_port_elsewhere_are_not_forgotten() {
    let site = Site::new();
    let conntrack = site.host.run(|| Conntrack::open().unwrap());
    let through = site.a1.datagrams();
    through.connect("192.0.2.2:80").unwrap();
    assert_eq!(ask(&through, PATIENCE).unwrap(), "client sees 192.0.2.1");
    let port = binding("0.0.0.0", Protocol::Udp, 80);
    assert_eq!(conntrack.flush_ports(&[port]).unwrap(), 0);
    let specific = binding("192.0.2.9", Protocol::Udp, 80);
    assert_eq!(conntrack.flush_ports(&[specific]).unwrap(), 0);
}

/// Prints how long it takes: B12 measures 100,000 flows by it.
#[test]
fn the_flows_of_one_container_are_forgotten_among_many_of_others() {
    let site = site();
    let conntrack = site.host.run(|| Conntrack::open().unwrap());
    let other = site.b1.datagrams();
    for address in ["192.0.2.2", "192.0.2.3"] {
        for port in 1..=50_000 {
            // Nobody is there, and flows need no answer.
            let _ = other.send_to(b"x", (address, port));
        }
    }
    let socket = site.a1.datagrams();
    socket.connect("192.0.2.2:80").unwrap();
    assert!(ask(&socket, PATIENCE).is_some());
    let count = || {
        let text =
            site.host.run(|| std::fs::read_to_string("/proc/thread-self/net/stat/nf_conntrack"));
        let text = text.unwrap();
        let entries = text.lines().nth(1).unwrap().split_whitespace().next().unwrap();
        usize::from_str_radix(entries, 16).unwrap()
    };
    let before = count();
    assert!(before > 50_000, "{before} flows");
    let begun = std::time::Instant::now();
    assert_eq!(conntrack.flush_addresses(&["10.1.0.2".parse().unwrap()]).unwrap(), 1);
    println!("one of {before} flows forgotten in {:?}", begun.elapsed());
    assert!(count() >= before - 1 - 100, "others' flows stay, but for those that ended");
    let begun = std::time::Instant::now();
    let port = binding("0.0.0.0", Protocol::Udp, 8080);
    assert_eq!(conntrack.flush_ports(&[port]).unwrap(), 0);
    println!("and the flows to a port looked for in {:?}", begun.elapsed());
}

#[test]
fn all_flows_of_a_released_address_are_forgotten() {
    let site = site();
    let conntrack = site.host.run(|| Conntrack::open().unwrap());
    let mut from = Vec::new();
    for to in ["192.0.2.2:80", "[2001:db8::2]:80"] {
        let socket = site.a1.datagrams();
        socket.connect(to).unwrap();
        assert!(ask(&socket, PATIENCE).is_some());
        from.push(socket);
    }
    assert_eq!(site.client.reach("192.0.2.1:8080"), "a1 sees 192.0.2.2");
    let b1 = site.b1.datagrams();
    b1.connect("192.0.2.2:80").unwrap();
    assert!(ask(&b1, PATIENCE).is_some());
    let addresses = ["10.1.0.2", "fd00:a::2"].map(|address| address.parse().unwrap());
    let flushed = conntrack.flush_addresses(&addresses).unwrap();
    assert_eq!(flushed, 4, "two out of it, and two into it");
    assert_eq!(conntrack.flush_addresses(&addresses).unwrap(), 0);
    let b1_address = ["10.2.0.2".parse().unwrap()];
    assert_eq!(conntrack.flush_addresses(&b1_address).unwrap(), 1);
}

#[test]
fn a_reserved_port_is_nobody_elses_until_it_is_let_go() {
    let space = Space::new();
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        for host in ["0.0.0.0", "127.0.0.1", "::", "::1"] {
            let port = binding(host, protocol, 8080);
            let reserve = || space.run(|| reserve::reserve_port(&port)).unwrap();
            let held = reserve().expect("the port is free");
            let is_taken = || {
                space.run(|| match protocol {
                    Protocol::Tcp => TcpListener::bind((port.host, 8080)).is_err(),
                    _ => UdpSocket::bind((port.host, 8080)).is_err(),
                })
            };
            assert!(is_taken());
            assert!(reserve().is_none(), "{host} {protocol}");
            drop(held);
            // A process that another test is just starting may have inherited it.
            wait_until("the port is free", || !is_taken());
        }
    }
}

#[test]
fn both_families_of_a_port_are_reserved_by_themselves() {
    let space = Space::new();
    let reserve = |host| {
        let port = binding(host, Protocol::Tcp, 8080);
        space.run(|| reserve::reserve_port(&port)).unwrap().expect("the port is free")
    };
    let _held = [reserve("::"), reserve("0.0.0.0")];
}

#[test]
fn one_socket_reserves_a_port_of_both_families_or_none() {
    let space = Space::new();
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let both = ["0.0.0.0", "::"].map(|host| binding(host, protocol, 8080));
        let pair = |bindings: &[PortBinding]| space.run(|| reserve::reserve_pair(bindings));
        let single = |port| space.run(|| reserve::reserve_port(port)).unwrap();
        let held = pair(&both).expect("the port is free");
        assert!(both.iter().all(|port| single(port).is_none()), "{protocol}");
        drop(held);
        wait_until("the port is free", || pair(&both).is_some());
        for port in &both {
            wait_until("the port is free", || pair(&both).is_some());
            let _other = single(port).expect("the port is free");
            assert!(pair(&both).is_none(), "{port:?}");
        }
        let local = ["127.0.0.1", "::1"].map(|host| binding(host, protocol, 8081));
        assert!(pair(&local).is_none(), "no socket is bound to two addresses");
    }
}

#[test]
fn an_address_that_the_host_has_not_cannot_be_published_on() {
    let space = Space::new();
    let port = binding("192.0.2.77", Protocol::Udp, 53);
    let error = space.run(|| reserve::reserve_port(&port)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot publish 192.0.2.77:53/udp: the host has no address 192.0.2.77; \
         publish on 0.0.0.0 or on one that `ip address` shows"
    );
}

#[test]
fn an_sctp_port_is_reserved_even_if_the_kernel_has_no_sctp() {
    let space = Space::new();
    let port = binding("0.0.0.0", Protocol::Sctp, 3868);
    assert!(space.run(|| reserve::reserve_port(&port)).unwrap().is_some());
}
