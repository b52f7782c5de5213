//! Encrypted networks: what of them is on the wire between hosts, and what gets in.
//!
//! Everything here is ignored where the kernel has no WireGuard; `make test-vm` has one that does.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::net::{IpAddr, SocketAddr, UdpSocket};

use cnm::wireguard::{LINK, PORT as WIREGUARD, TUNNELS};
use cnm::{Key, diff};
use netns_tests::machines::{Container, Machines, PORT as PLAIN, Shape, USUAL, frame};
use netns_tests::{Echo, Flow, Host, Rack, SILENCE, Sniffer, patient, wait_until};

/// What containers serve.
const SERVED: u16 = 7;

/// What nobody on the way is to read.
const MARKER: &[u8] = b"for nobody else to read";

/// Machines with a network that is encrypted.
fn site(machines: u8, outer_ipv6: bool) -> Machines {
    Machines::with_options(machines, Shape { outer_ipv6, ..USUAL }, &[("encrypted", "true")])
}

/// Has what is sent to a port of somebody's come back, until the process ends.
fn answers(host: &Host) -> u16 {
    let socket = host.run(|| UdpSocket::bind("[::]:0")).unwrap();
    let port = socket.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((size, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..size], from);
        }
    });
    port
}

/// Whether what somebody sends comes back.
fn comes_back(from: &Host, to: IpAddr, port: u16) -> bool {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = from.run(|| UdpSocket::bind(any)).unwrap();
    socket.set_read_timeout(Some(patient(SILENCE))).unwrap();
    let _ = socket.send_to(MARKER, (to, port));
    socket.recv(&mut [0; 64]).is_ok_and(|size| size == MARKER.len())
}

/// Fails unless both reach each other by all addresses.
fn talk(one: &Container, two: &Container) {
    for (from, to) in [(one, two), (two, one)] {
        let port = answers(&to.host);
        for address in to.addresses() {
            wait_until("it comes back", || comes_back(&from.host, *address, port));
        }
    }
}

/// Fails if anything was on the wire that could be read.
fn is_sealed(heard: &Sniffer) {
    assert_eq!(heard.with(MARKER), 0, "it can be read");
    assert_eq!(heard.datagrams_to(PLAIN) + heard.datagrams_to(TUNNELS), 0, "a tunnel is seen");
}

#[test]
#[ignore = "needs WireGuard: make test-vm"]
fn all_reach_all_by_both_families_and_nobody_on_the_way_reads_it() {
    for outer_ipv6 in [false, true] {
        let mut site = site(3, outer_ipv6);
        let heard = site.lan.sniff();
        let all = [site.start(0, 11), site.start(1, 12), site.start(2, 13)];
        site.all.iter().for_each(|machine| machine.count_packets_to(TUNNELS));
        talk(&all[0], &all[1]);
        talk(&all[1], &all[2]);
        talk(&all[2], &all[0]);
        for machine in &site.all {
            assert_eq!(machine.heal(), "", "it is as it was planned");
            let counts = machine.untracked_and_tracked();
            assert!(matches!(counts, [[(1..), 0], [(1..), 0]]), "{counts:?}");
        }
        let heard = heard.end();
        is_sealed(&heard);
        assert!(heard.datagrams_to(WIREGUARD) > 0, "it goes by WireGuard");
    }
}

#[test]
#[ignore = "needs WireGuard: make test-vm"]
fn a_network_that_is_not_encrypted_is_read_on_the_way() {
    let mut site = Machines::new(2, USUAL);
    let heard = site.lan.sniff();
    let (one, two) = (site.start(0, 11), site.start(1, 12));
    talk(&one, &two);
    let heard = heard.end();
    assert!(heard.with(MARKER) > 0 && heard.datagrams_to(PLAIN) > 0, "the sniffer is deaf");
}

#[test]
#[ignore = "needs WireGuard: make test-vm"]
fn what_fits_passes_whole() {
    for (outer_ipv6, mtu) in [(false, 1370), (true, 1350)] {
        let mut site = site(2, outer_ipv6);
        let (one, two) = (site.start(0, 11), site.start(1, 12));
        site.lan.filter("ip frag-off & 0x3fff != 0 counter comment broken");
        site.lan.filter("exthdr frag exists counter comment broken6");
        talk(&one, &two);
        assert_eq!(one.host.link("eth0").unwrap().mtu, mtu);
        let server = two.host.run(|| UdpSocket::bind((two.addresses()[0], SERVED))).unwrap();
        server.set_read_timeout(Some(patient(netns_tests::TIMEOUT))).unwrap();
        let client = one.host.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
        let whole = usize::try_from(mtu).unwrap() - 28;
        client.send_to(&vec![1; whole], (two.addresses()[0], SERVED)).unwrap();
        assert_eq!(server.recv(&mut [0; 2000]).unwrap(), whole);
        let rules = site.lan.rules();
        assert_eq!(rules.matches("packets 0 ").count(), 2, "{rules}");
    }
}

#[test]
#[ignore = "needs WireGuard: make test-vm"]
fn cve_2023_28841_a_frame_in_the_clear_does_not_get_in_even_from_a_host_of_the_cluster() {
    let mut site = site(2, false);
    let (one, two) = (site.start(0, 11), site.start(1, 12));
    talk(&one, &two);
    let frame = frame([&two, &one], SERVED, MARKER);
    let socket = one.host.run(|| UdpSocket::bind((one.addresses()[0], SERVED))).unwrap();
    socket.set_read_timeout(Some(SILENCE)).unwrap();
    let arrives = |sender: &Host, to: &str, port: u16| {
        let any = if to.contains(':') { "[::]:0" } else { "0.0.0.0:0" };
        let sender = sender.run(|| UdpSocket::bind(any)).unwrap();
        let _ = sender.send_to(&frame, (to.parse::<IpAddr>().unwrap(), port));
        socket.recv(&mut [0; 64]).is_ok_and(|size| size == MARKER.len())
    };
    let peer = &site.all[1].lab.host;
    // The way is there: by the link that encrypts it does get in.
    wait_until("it gets in encrypted", || arrives(peer, "fd77::1", TUNNELS));
    for to in ["203.0.113.1", "2001:db8:7::1"] {
        for port in [TUNNELS, PLAIN] {
            assert!(!arrives(peer, to, port), "{to} {port}");
        }
    }
    // With the address itself, by another way.
    let stranger = site.lan.host(&["2001:db8:7::66/64", "fd77::66/64"]);
    stranger.add_route("fd77::1/128", "eth0", "2001:db8:7::1");
    assert!(!arrives(&stranger, "fd77::1", TUNNELS));
    // From a container of the other host, which would be seen by that one's address.
    peer.output("ip route replace fd77::1/128 dev rnet-wg0");
    assert!(!arrives(&two.host, "fd77::1", TUNNELS));
}

#[test]
#[ignore = "needs WireGuard: make test-vm"]
fn cve_2023_28842_without_the_link_nothing_leaves_and_it_comes_back() {
    let mut site = site(2, false);
    let (one, two) = (site.start(0, 11), site.start(1, 12));
    talk(&one, &two);
    let heard = site.lan.sniff();
    let port = answers(&two.host);
    let host = &site.all[0].lab.host;
    host.output(&format!("ip link del {LINK}"));
    // Somebody else leads there, and would take it.
    host.add_address("eth0", "fd77::1/64");
    site.all[1].lab.host.add_address("eth0", "fd77::2/128");
    for address in two.addresses() {
        assert!(!comes_back(&one.host, *address, port));
    }
    host.remove_address("eth0", "fd77::1/64");
    site.all[1].lab.host.remove_address("eth0", "fd77::2/128");
    let healed = site.all[0].heal();
    assert!(healed.contains(&format!("+ link {LINK}")), "{healed}");
    assert_eq!(site.all[0].heal(), "");
    talk(&one, &two);
    is_sealed(&heard.end());
}

#[test]
#[ignore = "needs WireGuard: make test-vm"]
fn what_somebody_does_to_the_link_is_undone() {
    let mut site = site(2, false);
    let (one, two) = (site.start(0, 11), site.start(1, 12));
    talk(&one, &two);
    let machine = &site.all[0];
    for words in ["ip link set rnet-wg0 down", "ip link set rnet-wg0 mtu 1300"] {
        machine.lab.host.output(words);
        assert_ne!(machine.heal(), "", "{words}");
        assert_eq!(machine.heal(), "", "{words}");
    }
    talk(&one, &two);
}

#[test]
#[ignore = "needs WireGuard: make test-vm"]
fn a_connection_outlives_the_daemon_and_a_peer_that_moves() {
    let mut site = site(2, false);
    let (one, two) = (site.start(0, 11), site.start(1, 12));
    talk(&one, &two);
    let _echo = Echo::start(&two.host, SERVED);
    let flow = Flow::tcp(&one.host, SocketAddr::new(two.addresses()[0], SERVED));
    site.all[0].restart();
    assert_eq!(site.all[0].heal(), "", "the next one finds it as it was");
    flow.goes_on();
    let mut moved = site.all[1].node;
    moved.address = "203.0.113.77".parse().unwrap();
    site.all[1].lab.host.set_sysctl("net/ipv4/conf/all/promote_secondaries", "1");
    site.all[1].lab.host.add_address("eth0", "203.0.113.77/24");
    let (before, after) = site.all[0].model.tell_nodes(&[moved]);
    let plan = diff(&before, &after);
    let of_peer = plan.steps().iter().filter(|step| matches!(step.key(), Key::Peer { .. }));
    assert_eq!(of_peer.count(), 1, "{plan}");
    site.all[0].apply(&before, &after);
    site.all[1].lab.host.remove_address("eth0", "203.0.113.2/24");
    flow.goes_on();
    flow.end();
}

#[test]
#[ignore = "needs WireGuard: make test-vm"]
fn a_host_that_leaves_is_no_peer_and_the_last_network_takes_the_link_along() {
    let mut site = site(3, false);
    let all = [site.start(0, 11), site.start(1, 12), site.start(2, 13)];
    talk(&all[0], &all[1]);
    let peers = |site: &Machines| {
        let state = site.all[0].kernel_state();
        state.iter().filter(|(key, _)| matches!(key, Key::Peer { .. })).count()
    };
    assert_eq!(peers(&site), 2);
    let others: Vec<_> = site.all[..2].iter().map(|machine| machine.node).collect();
    site.all[0].tell_nodes(&others);
    assert_eq!(peers(&site), 1);
    let port = answers(&all[2].host);
    assert!(!comes_back(&all[0].host, all[2].addresses()[0], port));
    talk(&all[0], &all[1]);
    let (before, after) = site.all[0].model.tell_encryption(false);
    site.all[0].apply(&before, &after);
    assert!(site.all[0].lab.host.link(LINK).is_none());
}

#[test]
#[ignore = "needs WireGuard: make test-vm"]
fn a_host_takes_another_key_and_its_connections_go_on() {
    let mut site = site(2, false);
    let (one, two) = (site.start(0, 11), site.start(1, 12));
    talk(&one, &two);
    let _echo = Echo::start(&two.host, SERVED);
    let flow = Flow::tcp(&one.host, SocketAddr::new(two.addresses()[0], SERVED));
    site.all[1].hold_key(99);
    let node = site.all[1].node;
    let (before, after) = site.all[1].model.tell_wireguard(node.wireguard);
    site.all[1].apply(&before, &after);
    site.all[0].tell_nodes(&[node]);
    let (port, began) = (answers(&two.host), std::time::Instant::now());
    wait_until("they talk again", || comes_back(&one.host, two.addresses()[0], port));
    println!("{:?} until they talk again", began.elapsed());
    wait_until("the connection goes on", || flow.lives());
    for machine in &site.all {
        assert_eq!(machine.heal(), "");
    }
}

#[test]
#[ignore = "needs WireGuard: make test-vm"]
fn p16_daemons_keep_a_network_encrypted_whatever_becomes_of_them() {
    let mut rack = Rack::cluster(3, 1);
    rack.network(0, "--opt encrypted", "app");
    let heard = rack.lan.sniff();
    let web = rack.daemon(1).run("web", "--network app");
    let asker = rack.daemon(0).run("asker", "--network app");
    rack.agrees();
    let addresses = rack.daemon(1).addresses("web")["app"].clone();
    let port = answers(&web);
    let talks = || {
        for address in &addresses {
            wait_until("it comes back", || comes_back(&asker, *address, port));
        }
    };
    talks();
    let shown = rack.daemon(0).rnet("network inspect -v app");
    assert!(shown.contains("\"Encrypted\": true"), "{shown}");
    assert!(rack.daemon(0).rnet("node inspect two").contains("PublicKey"));
    let checked = rack.daemon(0).rnet("cluster check");
    assert!(checked.contains("web on app"), "{checked}");
    // A daemon is killed, and the next one begins.
    rack.machines[1].daemon_mut().kill();
    talks();
    rack.machines[1].daemon_mut().restart();
    talks();
    rack.machines[0].host.output(&format!("ip link del {LINK}"));
    wait_until("it comes back by itself", || rack.machines[0].host.link(LINK).is_some());
    talks();
    let before = rack.daemon(0).rnet("node inspect two --format {{.WireGuard.PublicKey}}");
    let after = rack.daemon(1).rnet("cluster rekey");
    assert_ne!(before, after);
    talks();
    rack.agrees();
    rack.daemon(2).rnet("cluster leave");
    rack.machines[2].daemon_mut().terminate();
    wait_until("it is gone", || !rack.daemon(0).rnet("node ls").contains("three"));
    rack.daemon(0).rnet("rm -f asker");
    rack.daemon(1).rnet("rm -f web");
    rack.daemon(1).rnet("network rm app");
    wait_until("what encrypts goes", || rack.machines[0].host.link(LINK).is_none());
    is_sealed(&heard.end());
}
