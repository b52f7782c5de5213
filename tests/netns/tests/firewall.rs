//! What may pass between networks, the host and the outside, and what must not.
#![expect(clippy::unwrap_used, reason = "in helpers of tests")]

use std::net::{TcpListener, TcpStream, UdpSocket};

use cnm::{Element, PortBinding, Protocol, Value};
use drivers::kernel::nft::{Nft, Ownership};
use drivers::kernel::reserve;
use netns_tests::site::{PATIENCE, Site, Space, ask, link, published, serve_on, wait_until};
use nix::sys::socket::{getsockopt, sockopt};

fn open(address: &str, protocol: Protocol) -> (Element, Value) {
    let address = address.parse().unwrap();
    (Element::Open { address, protocol, port: 80 }, Value::Present)
}

fn unprotected(bridge: &str, ipv6: bool) -> (Element, Value) {
    (Element::Unprotected { link: link(bridge), ipv6 }, Value::Present)
}

#[test]
fn containers_reach_the_outside_by_the_hosts_address() {
    let site = Site::new();
    assert_eq!(site.a1.reach("192.0.2.2:80"), "client sees 192.0.2.1");
    assert_eq!(site.a1.reach("[2001:db8::2]:80"), "client sees 2001:db8::1");
    assert_eq!(site.b1.reach("192.0.2.2:80"), "client sees 192.0.2.1");
}

#[test]
fn the_host_reaches_its_containers_and_they_reach_it() {
    let site = Site::new();
    site.host.serve("host", 80);
    for (container, name, ip, gateway) in [
        (&site.a1, "a1", ["10.1.0.2", "[fd00:a::2]"], ["10.1.0.1", "[fd00:a::1]"]),
        (&site.i1, "i1", ["10.3.0.2", "[fd00:c::2]"], ["10.3.0.1", "[fd00:c::1]"]),
    ] {
        for (ip, gateway) in ip.into_iter().zip(gateway) {
            let bare = |text: &str| text.trim_matches(['[', ']']).to_owned();
            let sees = |name: &str, peer: &str| format!("{name} sees {}", bare(peer));
            assert_eq!(site.host.reach(&format!("{ip}:80")), sees(name, gateway));
            assert_eq!(container.reach(&format!("{gateway}:80")), sees("host", ip));
        }
    }
}

#[test]
fn neighbours_on_a_network_reach_each_other() {
    let site = Site::new();
    assert_eq!(site.a1.reach("10.1.0.3:80"), "a2 sees 10.1.0.2");
    assert_eq!(site.a2.reach("[fd00:a::2]:80"), "a1 sees fd00:a::3");
}

#[test]
fn moby_45610_ports_that_are_not_published_are_closed_even_to_who_has_a_route() {
    let site = Site::new();
    // The container's own port is published, but that is no permission to go round the host's.
    site.publish("0.0.0.0", 8080, "10.1.0.2");
    site.publish("::", 8080, "fd00:a::2");
    for target in ["10.1.0.2:80", "10.2.0.2:80", "[fd00:a::2]:80", "[fd00:b::2]:80"] {
        assert!(site.client.is_cut_off_from(target), "{target}");
    }
    assert_eq!(site.client.reach("192.0.2.1:8080"), "a1 sees 192.0.2.2");
}

#[test]
fn networks_are_isolated_from_each_other() {
    let site = Site::new();
    site.publish("0.0.0.0", 8080, "10.1.0.2");
    for target in ["10.1.0.2:80", "10.1.0.3:80", "[fd00:a::2]:80"] {
        assert!(site.b1.is_cut_off_from(target), "{target}");
    }
    for target in ["10.2.0.2:80", "[fd00:b::2]:80"] {
        assert!(site.a1.is_cut_off_from(target), "{target}");
    }
}

#[test]
fn open_ports_are_reached_directly_and_no_others() {
    let site = Site::new();
    site.a1.serve("a1", 81);
    site.add([open("10.1.0.2", Protocol::Tcp), open("10.1.0.2", Protocol::Udp)]);
    site.add([open("fd00:a::2", Protocol::Tcp), open("fd00:a::2", Protocol::Udp)]);
    assert_eq!(site.client.reach("10.1.0.2:80"), "a1 sees 192.0.2.2");
    assert_eq!(site.client.reach("[fd00:a::2]:80"), "a1 sees 2001:db8::2");
    assert_eq!(site.b1.reach("10.1.0.2:80"), "a1 sees 10.2.0.2");
    for other in ["10.1.0.2:81", "10.1.0.3:80", "[fd00:a::2]:81", "[fd00:a::3]:80"] {
        assert!(site.client.is_cut_off_from(other), "{other}");
    }
    site.remove([open("10.1.0.2", Protocol::Tcp), open("10.1.0.2", Protocol::Udp)]);
    assert!(site.client.is_cut_off_from("10.1.0.2:80"));
}

#[test]
fn an_unprotected_network_is_reached_directly_in_that_family() {
    let site = Site::new();
    site.add([unprotected("br-a", false), unprotected("br-b", true)]);
    assert_eq!(site.client.reach("10.1.0.2:80"), "a1 sees 192.0.2.2");
    assert_eq!(site.client.reach("10.1.0.3:80"), "a2 sees 192.0.2.2");
    assert_eq!(site.client.reach("[fd00:b::2]:80"), "b1 sees 2001:db8::2");
    for closed in ["10.2.0.2:80", "[fd00:a::2]:80"] {
        assert!(site.client.is_cut_off_from(closed), "{closed}");
    }
}

/// Networks are kept from each other, whatever the outside may do.
#[test]
fn an_unprotected_network_is_not_reached_from_other_networks() {
    let site = Site::new();
    site.add([unprotected("br-a", false), unprotected("br-a", true)]);
    assert_eq!(site.client.reach("[fd00:a::2]:80"), "a1 sees 2001:db8::2");
    for target in ["10.1.0.2:80", "[fd00:a::2]:80"] {
        assert!(site.b1.is_cut_off_from(target), "{target}");
    }
}

#[test]
fn nothing_gets_into_or_out_of_an_internal_network() {
    let site = Site::new();
    site.publish("0.0.0.0", 8080, "10.1.0.2");
    site.publish("::", 8080, "fd00:a::2");
    for target in ["192.0.2.2:80", "10.1.0.2:80", "192.0.2.1:8080", "10.3.0.1:8080"] {
        assert!(site.i1.is_cut_off_from(target), "{target}");
    }
    for target in ["[2001:db8::2]:80", "[fd00:a::2]:80", "[2001:db8::1]:8080"] {
        assert!(site.i1.is_cut_off_from(target), "{target}");
    }
    // Not even if somebody published it, opened it, or took its protection.
    site.publish("0.0.0.0", 8081, "10.3.0.2");
    site.publish("::", 8081, "fd00:c::2");
    site.add([open("10.3.0.2", Protocol::Tcp), unprotected("br-i", false)]);
    site.add([unprotected("br-i", true)]);
    for target in ["10.3.0.2:80", "[fd00:c::2]:80", "192.0.2.1:8081", "[2001:db8::1]:8081"] {
        assert!(site.client.is_cut_off_from(target), "{target}");
        assert!(site.a1.is_cut_off_from(target), "{target}");
    }
}

/// Where the kernel cannot translate, the socket that reserves a port is proxied to the sandbox.
#[test]
fn an_internal_network_does_not_reach_the_sockets_that_reserve_ports() {
    let site = Site::new();
    site.host.ip(&["addr add fe80::1/64 dev br-i nodad", "addr add fe80::1/64 dev br-a nodad"]);
    for host in ["::", "0.0.0.0"] {
        let reserve = |protocol, host_port| {
            let host = host.parse().unwrap();
            let binding = PortBinding { host, host_port, protocol, port: 80 };
            let held = site.host.run(|| reserve::reserve_port(&binding)).unwrap();
            held.expect("the port is free")
        };
        let listener = TcpListener::from(reserve(Protocol::Tcp, 8080));
        let datagrams = UdpSocket::from(reserve(Protocol::Udp, 8080));
        serve_on("proxy", listener, datagrams);
    }
    for to in ["192.0.2.1:8080", "10.1.0.1:8080", "[2001:db8::1]:8080", "[fe80::1%2]:8080"] {
        let to = to.replace("%2", &format!("%{}", site.a1.index("eth0")));
        assert!(site.a1.tcp(&to, PATIENCE).is_some(), "{to}");
        // A socket of all addresses answers datagrams from the nearest one.
        let is_near = !to.starts_with("192") && !to.starts_with("[2001");
        assert!(!is_near || site.a1.udp(&to, PATIENCE).is_some(), "{to}");
    }
    assert!(site.host.reach("[::1]:8080").starts_with("proxy sees ::1"));
    for to in ["192.0.2.1:8080", "10.3.0.1:8080", "[fd00:c::1]:8080", "[fe80::1%2]:8080"] {
        let to = to.replace("%2", &format!("%{}", site.i1.index("eth0")));
        assert!(site.i1.is_cut_off_from(&to), "{to}");
    }
}

#[test]
fn moby_45610_a_gateway_is_out_of_reach_from_outside_even_with_a_route() {
    let site = Site::new();
    site.host.serve("host", 9000);
    for (gateway, own) in [("10.1.0.1", "192.0.2.1"), ("[fd00:a::1]", "[2001:db8::1]")] {
        let (gateway, own) = (format!("{gateway}:9000"), format!("{own}:9000"));
        assert!(site.client.is_cut_off_from(&gateway), "{gateway}");
        assert!(site.client.reach(&own).starts_with("host"), "{own}");
        // Its own network, other networks and the host are no strangers.
        for near in [&site.a1, &site.b1, &site.host] {
            let answer = near.tcp(&gateway, PATIENCE);
            assert!(answer.is_some_and(|text| text.starts_with("host")), "{gateway}");
        }
    }
    // The host may use the address itself, to wherever it likes.
    for (from, to) in [("10.1.0.1:0", "192.0.2.2:80"), ("[fd00:a::1]:0", "[2001:db8::2]:80")] {
        let answered = site.host.run(|| {
            let socket = UdpSocket::bind(from).unwrap();
            socket.connect(to).unwrap();
            ask(&socket, PATIENCE)
        });
        assert!(answered.is_some_and(|text| text.starts_with("client")), "{from}");
    }
}

#[test]
fn what_others_forward_is_not_touched() {
    let site = Site::new();
    let guest = Space::new();
    let path = guest.path();
    site.host.ip(&[
        "link add virbr0 type bridge",
        "link set virbr0 up",
        "addr add 10.9.0.1/24 dev virbr0",
        "addr add fd00:9::1/64 dev virbr0 nodad",
        &format!("link add vnet0 type veth peer name eth0 netns {path}"),
        "link set vnet0 up master virbr0",
    ]);
    guest.ip(&[
        "link set eth0 up",
        "addr add 10.9.0.2/24 dev eth0",
        "addr add fd00:9::2/64 dev eth0 nodad",
        "route add default via 10.9.0.1",
        "route add default via fd00:9::1",
    ]);
    guest.serve("guest", 80);
    assert_eq!(site.client.reach("10.9.0.2:80"), "guest sees 192.0.2.2");
    assert_eq!(site.client.reach("[fd00:9::2]:80"), "guest sees 2001:db8::2");
    assert_eq!(guest.reach("192.0.2.2:80"), "client sees 10.9.0.2");
}

#[test]
fn a_connection_outlives_the_permission_it_was_made_with() {
    let site = Site::new();
    site.publish("0.0.0.0", 8080, "10.1.0.2");
    let client = site.client.datagrams();
    client.connect("192.0.2.1:8080").unwrap();
    assert!(ask(&client, PATIENCE).is_some());
    site.remove(published("0.0.0.0", 8080, "10.1.0.2"));
    assert!(ask(&client, PATIENCE).is_some());
}

#[test]
fn segments_are_announced_as_small_as_the_path_needs_them() {
    let site = Site::new();
    site.host.ip(&["link set eth0 mtu 1400"]);
    for (listen, to) in [("0.0.0.0:5001", "192.0.2.2:5001"), ("[::]:5002", "[2001:db8::2]:5002")] {
        let listener = site.client.run(|| TcpListener::bind(listen).unwrap());
        let _stream = site.a1.run(|| TcpStream::connect(to).unwrap());
        let (accepted, _) = listener.accept().unwrap();
        // The client's own link would allow 1448 bytes beside the headers and a time stamp.
        let segment = getsockopt(&accepted, sockopt::TcpMaxSeg).unwrap();
        let headers = if to.starts_with('[') { 60 } else { 40 };
        assert_eq!(segment, 1400 - headers - 12, "{to}");
    }
}

#[test]
fn the_error_of_a_router_that_cannot_forward_so_much_gets_to_the_container() {
    let site = Site::new();
    // Behind the client, who is a router now: a link with a small MTU.
    let far = Space::new();
    let path = far.path();
    site.client.ip(&[
        &format!("link add far type veth peer name eth0 netns {path}"),
        "link set far up mtu 1300",
        "addr add 198.51.100.1/24 dev far",
        "addr add 2001:db8:f::1/64 dev far nodad",
    ]);
    site.client.sysctl("net/ipv4/ip_forward", "1");
    site.client.sysctl("net/ipv6/conf/all/forwarding", "1");
    far.ip(&[
        "link set eth0 up mtu 1300",
        "addr add 198.51.100.2/24 dev eth0",
        "addr add 2001:db8:f::2/64 dev eth0 nodad",
        "route add default via 198.51.100.1",
        "route add default via 2001:db8:f::1",
    ]);
    far.serve("far", 80);
    site.host.ip(&[
        "route add 198.51.100.0/24 via 192.0.2.2",
        "route add 2001:db8:f::/64 via 2001:db8::2",
    ]);
    for (to, ip) in [("198.51.100.2:80", "198.51.100.2"), ("[2001:db8:f::2]:80", "2001:db8:f::2")] {
        let socket = site.a1.datagrams();
        socket.connect(to).unwrap();
        assert!(ask(&socket, PATIENCE).is_some());
        wait_until("the container knows the path's MTU", || {
            // Fails as soon as the MTU is known.
            let _ = socket.send(&[0; 1400]);
            site.a1.output("ip", &["route", "get", ip]).contains("mtu 1300")
        });
    }
}

#[test]
fn the_users_table_is_made_once_and_is_theirs() {
    let site = Site::new();
    let nft = |arguments: &[&str]| site.host.output("nft", arguments);
    let chain = ["inet", "rnet-user", "before-forward"];
    nft(&[
        &["add", "rule"],
        &chain[..],
        &["ip", "daddr", "192.0.2.2", "udp", "dport", "80", "drop"],
    ]
    .concat());
    assert!(site.a1.udp("192.0.2.2:80", std::time::Duration::from_millis(200)).is_none());
    assert!(site.a1.tcp("192.0.2.2:80", PATIENCE).is_some());
    let rules = nft(&[&["list", "chain"], &chain[..]].concat());
    nft(&["delete", "chain", "inet", "rnet-user", "after-forward"]);
    site.add(published("0.0.0.0", 8080, "10.1.0.2"));
    let Site { nft: table, host, .. } = site;
    drop(table);
    let again = host.run(|| Nft::open("rnet", None, Ownership::Preferred).unwrap());
    assert_eq!(host.output("nft", &[&["list", "chain"], &chain[..]].concat()), rules);
    let user = host.output("nft", &["list", "table", "inet", "rnet-user"]);
    assert!(!user.contains("after-forward"), "{user}");
    again.remove_table().unwrap();
    assert!(host.output("nft", &["list", "tables"]).contains("rnet-user"));
    assert!(!host.output("nft", &["list", "tables"]).contains("inet rnet\n"));
}

#[test]
fn the_users_table_goes_with_ours_if_there_is_no_rule_in_it() {
    let Site { nft: table, host, .. } = Site::new();
    let tables = || host.output("nft", &["list", "tables"]);
    assert!(tables().contains("inet rnet-user"));
    table.remove_table().unwrap();
    assert_eq!(tables(), "");
    table.remove_table().unwrap();
}
