//! The kernel's part of overlay networks: machines on a switch that are told by hand what there is on
//! the others.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use cnm::driver::{Node, Peer, PeersChange};
use cnm::{Element, EndpointId, Key, Mac, diff};
use drivers::kernel::Kernel;
use netns_tests::machines::{Container, Machine, Machines, PORT, Shape, USUAL, VNI};
use netns_tests::{Echo, Flow, Host, Lan, patient};
use nix::sys::socket::{setsockopt, sockopt};

/// What containers serve.
const SERVED: u16 = netns_tests::lan::PORT;

/// Fails unless a container reaches all addresses of another one, over TCP and UDP, and is seen by
/// the address that it has.
fn reaches(from: &Container, to: &Container) {
    let _server = to.host.serve(SERVED);
    for (at, address) in to.addresses().iter().enumerate() {
        assert_eq!(from.host.tcp(*address, SERVED).unwrap(), from.addresses()[at]);
        assert_eq!(from.host.udp(*address, SERVED).unwrap(), from.addresses()[at]);
    }
}

/// How many packets a rule of the switch has seen, found by what it says.
fn seen(lan: &Lan, rule: &str) -> u64 {
    let rules = lan.rules();
    let line = rules.lines().find(|line| line.contains(rule)).unwrap_or_else(|| panic!("{rules}"));
    let count = line.split_once("packets ").unwrap().1.split(' ').next().unwrap();
    count.parse().unwrap()
}

#[test]
fn containers_reach_each_other_by_every_family_in_tunnels_of_every_family() {
    for outer_ipv6 in [false, true] {
        for (ipv4, ipv6) in [(true, false), (false, true), (true, true)] {
            let mut site = Machines::new(2, Shape { outer_ipv6, ipv4, ipv6 });
            let (one, two) = (site.start(0, 11), site.start(1, 12));
            reaches(&one, &two);
            reaches(&two, &one);
            for machine in &site.all {
                assert_eq!(machine.heal(), "", "it is as it was planned");
            }
        }
    }
}

#[test]
fn nobody_asks_for_a_neighbour_in_a_tunnel_and_nothing_is_flooded() {
    let mut site = Machines::new(3, USUAL);
    site.lan.filter("udp dport 4789 counter comment tunnelled");
    // The first bit of the frame inside that says it is for more than one.
    site.lan.filter("udp dport 4789 @th,135,1 1 counter comment many");
    let all = [site.start(0, 11), site.start(1, 12), site.start(2, 13)];
    for from in &all {
        for to in all.iter().filter(|to| to.sandbox != from.sandbox) {
            reaches(from, to);
        }
    }
    // Who is not there is asked for in vain, on this machine.
    let nobody = SocketAddr::new("10.9.0.99".parse().unwrap(), SERVED);
    assert!(all[0].host.is_cut_off_from(nobody));
    assert!(seen(&site.lan, "tunnelled") > 0);
    assert_eq!(seen(&site.lan, "many"), 0, "{}", site.lan.rules());
}

#[test]
fn what_fits_into_a_tunnel_passes_whole_and_one_byte_more_does_not() {
    let mut site = Machines::new(2, USUAL);
    let (one, two) = (site.start(0, 11), site.start(1, 12));
    site.lan.filter("udp dport 4789 counter comment tunnelled");
    site.lan.filter("ip frag-off & 0x3fff != 0 counter comment broken");
    let client = |at: usize| {
        let any = ["0.0.0.0:0", "[::]:0"][at];
        let client = one.host.run(|| UdpSocket::bind(any)).unwrap();
        client.connect((two.addresses()[at], SERVED)).unwrap();
        client
    };
    let servers = [0, 1].map(|at| {
        let address = SocketAddr::new(two.addresses()[at], SERVED);
        two.host.run(|| UdpSocket::bind(address)).unwrap()
    });
    let passes = |at: usize, client: &UdpSocket, size: usize| {
        let before = seen(&site.lan, "tunnelled");
        client.send(&vec![0; size]).unwrap();
        assert_eq!(servers[at].recv(&mut [0; 2000]).unwrap(), size);
        seen(&site.lan, "tunnelled") - before
    };
    let (ipv4, ipv6) = (client(0), client(1));
    assert_eq!(passes(0, &ipv4, 1422), 1);
    assert_eq!(passes(0, &ipv4, 1423), 2, "the sender itself makes two of it");
    setsockopt(&ipv6, sockopt::Ipv6DontFrag, &true).unwrap();
    assert_eq!(passes(1, &ipv6, 1402), 1);
    let refused = ipv6.send(&[0; 1403]).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(nix::libc::EMSGSIZE), "{refused}");
    assert_eq!(seen(&site.lan, "broken"), 0, "no host breaks what it sends to another");
}

#[test]
fn networks_follow_what_the_ways_between_the_machines_take() {
    let mut site = Machines::new(1, USUAL);
    let one = site.start(0, 11);
    let machine = &mut site.all[0];
    assert_eq!(one.host.link("eth0").unwrap().mtu, 1450);
    assert!(machine.model.tell_tunnel_mtu(Some(1400)));
    assert!(!machine.model.tell_tunnel_mtu(Some(1400)));
    machine.heal();
    let bridge = machine.lab.host.links().into_iter().filter(|link| link.mtu == 1350).count();
    assert_eq!((one.host.link("eth0").unwrap().mtu, bridge), (1350, 3));
    assert_eq!(machine.heal(), "");
}

#[test]
fn a_machine_that_gets_another_address_is_reached_by_one_change_of_the_kernel() {
    let mut site = Machines::new(2, USUAL);
    let (one, two) = (site.start(0, 11), site.start(1, 12));
    let (_echo, server) =
        (Echo::start(&two.host, SERVED), SocketAddr::new(two.addresses()[0], SERVED));
    let flow = Flow::tcp(&one.host, server);
    let address: IpAddr = "203.0.113.77".parse().unwrap();
    let moved = Node { number: 2, address, wireguard: None };
    site.all[1].lab.host.set_sysctl("net/ipv4/conf/all/promote_secondaries", "1");
    site.all[1].lab.host.add_address("eth0", "203.0.113.77/24");
    let (before, after) = site.all[0].model.tell_nodes(&[moved]);
    let plan = diff(&before, &after);
    let others = plan.steps().iter().filter(|step| !matches!(step.key(), Key::Element(_)));
    assert_eq!(others.count(), 1, "{plan}");
    site.all[0].apply(&before, &after);
    let index = |site: &Machines| {
        let links = site.all[1].lab.host.links().into_iter();
        links.filter(|link| link.name.starts_with("vx-")).map(|link| link.index).collect::<Vec<_>>()
    };
    let tunnel = index(&site);
    assert!(site.all[1].model.tell_local_address(address));
    assert!(site.all[1].heal().starts_with("~ link vx-"), "it is changed in place");
    assert_eq!(index(&site), tunnel);
    site.all[1].lab.host.remove_address("eth0", "203.0.113.2/24");
    flow.goes_on();
    reaches(&two, &one);
}

#[test]
fn cve_2023_28840_frames_of_a_stranger_do_not_get_in_and_tunnels_of_others_are_left_alone() {
    let mut site = Machines::new(1, USUAL);
    let one = site.start(0, 11);
    let mac = one.peer.mac;
    let _server = one.host.serve(SERVED);
    let stranger = site.lan.host(&["203.0.113.66/24"]);
    let forged = |vni: u32| {
        stranger.output(&format!("ip link add vx{vni} type vxlan id {vni} dstport {PORT} remote 203.0.113.1 local 203.0.113.66"));
        stranger.output(&format!("ip link set vx{vni} up"));
    };
    forged(VNI);
    stranger.output(&format!("ip addr add 10.9.0.66/24 dev vx{VNI}"));
    stranger.output(&format!("ip neigh replace 10.9.0.11 lladdr {mac} dev vx{VNI}"));
    // What gets to the container; its answers need not get back.
    let socket = one.host.run(|| UdpSocket::bind("10.9.0.11:9999")).unwrap();
    let arrives = || {
        let sender = stranger.run(|| UdpSocket::bind("10.9.0.66:0")).unwrap();
        sender.send_to(b"x", "10.9.0.11:9999").unwrap();
        socket.set_read_timeout(Some(netns_tests::SILENCE)).unwrap();
        socket.recv(&mut [0; 8]).is_ok()
    };
    assert!(!arrives(), "a stranger is let in");
    // The way is there: a machine of the cluster may use it.
    let address = "203.0.113.66".parse().unwrap();
    let stranger_is_one = Node { number: 6, address, wireguard: None };
    site.all[0].tell_nodes(&[stranger_is_one]);
    assert!(arrives());
    site.all[0].tell_nodes(&[]);
    assert!(!arrives());
    // Somebody else's tunnel, to the same port.
    forged(77);
    let machine = &site.all[0].lab.host;
    machine.output(
        "ip link add vx77 type vxlan id 77 dstport 4789 remote 203.0.113.66 local 203.0.113.1",
    );
    machine.output("ip link set vx77 up");
    machine.output("ip addr add 10.77.0.1/24 dev vx77");
    stranger.output("ip addr add 10.77.0.66/24 dev vx77");
    let _foreign = machine.serve(SERVED);
    assert!(stranger.tcp("10.77.0.1".parse::<IpAddr>().unwrap(), SERVED).is_ok());
}

/// Each connection between containers is two of the machines otherwise, without an answer to either, until the
/// table of connections is full.
#[test]
fn what_comes_and_goes_by_a_tunnel_is_no_connection_of_the_machines() {
    for outer_ipv6 in [false, true] {
        let mut site = Machines::new(2, Shape { outer_ipv6, ..USUAL });
        let (one, two) = (site.start(0, 11), site.start(1, 12));
        site.all.iter().for_each(|machine| machine.count_packets_to(PORT));
        reaches(&one, &two);
        for machine in &site.all {
            let counts = machine.untracked_and_tracked();
            assert!(matches!(counts, [[(1..), 0], [(1..), 0]]), "{counts:?}");
        }
        // What is for somebody else's tunnel by the same port is as it was.
        let socket = site.all[0].lab.host.run(|| UdpSocket::bind("[::]:0")).unwrap();
        socket.send_to(&[0; 16], (site.all[1].node.address, PORT)).unwrap();
        assert_eq!(site.all[0].untracked_and_tracked()[1][1], 1);
    }
}

#[test]
fn a_number_that_somebody_elses_tunnel_has_is_refused_with_the_name_of_that() {
    let mut site = Machines::new(1, USUAL);
    let machine = &mut site.all[0];
    let observed = machine.model.desired();
    machine.kernel.dismantle(&diff(&observed, &cnm::State::default()));
    let host = &machine.lab.host;
    host.output(&format!(
        "ip link add theirs type vxlan id {VNI} dstport {PORT} local 203.0.113.1"
    ));
    let refused = drivers::kernel::reconcile(&machine.kernel, &observed).unwrap_err();
    let why = std::error::Error::source(&refused).unwrap().to_string();
    assert!(why.contains("theirs"), "{refused}: {why}");
    host.output("ip link del theirs");
    machine.heal();
    assert_eq!(machine.heal(), "");
}

#[test]
fn the_way_out_and_published_addresses_are_those_of_the_machine_that_a_container_is_on() {
    let mut site = Machines::new(2, USUAL);
    let (one, two) = (site.start(0, 11), site.start(1, 12));
    for (container, machine) in [(&one, &site.all[0]), (&two, &site.all[1])] {
        let _server = machine.lab.client.serve(SERVED);
        for (number, client) in netns_tests::Lab::CLIENT.into_iter().enumerate() {
            let client: IpAddr = client.parse().unwrap();
            let host: IpAddr = netns_tests::Lab::HOST[number].parse().unwrap();
            assert_eq!(container.host.tcp(client, SERVED).unwrap(), host);
        }
    }
    // The gateway has the same hardware address everywhere: a container that moves finds it.
    let mac = |host: &Host| {
        let links = host.links().into_iter();
        links.filter(|link| link.name.starts_with("br-")).find_map(|link| link.mac)
    };
    assert_eq!(mac(&site.all[0].lab.host), mac(&site.all[1].lab.host));
    assert!(mac(&site.all[0].lab.host).is_some());
}

#[test]
fn an_address_that_is_used_again_on_another_machine_is_reached_there() {
    let mut site = Machines::new(3, USUAL);
    let client = site.start(2, 11);
    for round in 0..60 {
        let at = round % 2;
        let server = site.start(at, 12);
        reaches(&client, &server);
        site.stop(at, &server);
    }
    let left = site.all[2].kernel_state();
    let peers = left.iter().filter(|(key, _)| matches!(key, Key::Fdb { .. } | Key::Station { .. }));
    assert_eq!(peers.count(), 0);
}

#[test]
fn a_machine_that_leaves_takes_what_leads_to_it_along() {
    let mut site = Machines::new(2, USUAL);
    let (one, two) = (site.start(0, 11), site.start(1, 12));
    reaches(&one, &two);
    site.all[0].tell_nodes(&[]);
    assert_eq!(site.all[0].heal(), "");
    let gone = |key: &Key| {
        let source = matches!(key, Key::Element(Element::TunnelSource { .. }));
        source || matches!(key, Key::Nexthop { .. } | Key::Fdb { .. } | Key::Station { .. })
    };
    assert!(!site.all[0].kernel_state().iter().any(|(key, _)| gone(key)));
    // It is back with all that it had.
    let node = site.all[1].node;
    site.all[0].tell_nodes(&[node]);
    reaches(&one, &two);
}

/// Damage that somebody else does to what leads to a container, in the words of iproute2.
const DAMAGE: [&str; 15] = [
    "bridge fdb del MAC dev VX self",
    // The kernel does not replace one that leads by a group.
    "bridge fdb del MAC dev VX self; bridge fdb add MAC dev VX dst 203.0.113.99 self permanent",
    "bridge fdb del MAC dev VX master",
    "bridge fdb replace MAC dev VETH master static",
    "ip neigh del 10.9.0.12 dev BR",
    "ip neigh replace 10.9.0.12 lladdr 02:00:00:00:00:99 dev BR",
    "ip -6 neigh replace fd09::c lladdr 02:00:00:00:00:99 dev BR nud reachable",
    "ip nexthop del id GROUP",
    "ip nexthop replace id WAY via 203.0.113.99 fdb",
    "bridge link set dev VX learning on",
    "tc qdisc del dev VX clsact",
    "tc qdisc del dev VETH clsact",
    "tc filter del dev VETH ingress",
    "ip link del VX",
    "ip link set BR down",
];

#[test]
fn what_somebody_else_breaks_of_a_way_to_another_machine_is_noticed_and_comes_back() {
    let mut site = Machines::new(2, USUAL);
    let (one, two) = (site.start(0, 11), site.start(1, 12));
    let machine = &site.all[0];
    let changes = machine.kernel.changes().unwrap();
    let links = machine.lab.host.links();
    let name = |prefix: &str| {
        links.iter().find(|link| link.name.starts_with(prefix)).unwrap().name.clone()
    };
    let way = 0x726e_0000 + 2 * 2;
    for damage in DAMAGE {
        let words = damage
            .replace("MAC", &two.peer.mac.to_string())
            .replace("VX", &name("vx-"))
            .replace("BR", &name("br-"))
            .replace("VETH", &name("veth"))
            .replace("GROUP", &format!("{}", way + 1))
            .replace("WAY", &format!("{way}"));
        for words in words.split("; ") {
            machine.lab.host.output(words);
        }
        let told = changes.recv_timeout(patient(Duration::from_secs(2)));
        assert!(told.is_ok(), "{words}: nobody noticed");
        assert_ne!(machine.heal(), "", "{words}");
        reaches(&one, &two);
        assert_eq!(machine.heal(), "", "{words}");
        // What healing did is nobody else's doing.
        while changes.try_recv().is_ok() {}
    }
}

#[test]
#[ignore = "a measurement, which it prints: ten thousand containers on other machines"]
fn ten_thousand_containers_on_other_machines_are_told_in_a_second() {
    let mut site = Machines::new(2, USUAL);
    let peer = |n: u32| {
        let mut bytes = [7; 32];
        bytes[..4].copy_from_slice(&n.to_be_bytes());
        let [_, _, high, low] = n.to_be_bytes();
        Peer {
            endpoint: EndpointId::from_random(bytes),
            mac: Mac::from([2, 7, 0, 0, high, low]),
            addresses: vec![
                IpAddr::from([10, 9, high, low]),
                IpAddr::from([0xfd09, 0, 0, 0, 0, 0, 7, u16::from_be_bytes([high, low])]),
            ],
            node: 2,
        }
    };
    let (network, machine) = (site.network.clone(), &mut site.all[0]);
    let _changes = machine.kernel.changes().unwrap();
    let measure = |what: &str, machine: &mut Machine, put: Vec<Peer>| {
        let begun = Instant::now();
        let change = PeersChange { put, gone: Vec::new() };
        let (before, after) = machine.model.tell_peers(&network, change).unwrap();
        let planned = begun.elapsed();
        machine.apply(&before, &after);
        println!("{what}: {} objects, planned {planned:?}, all {:?}", after.len(), begun.elapsed());
        after.len()
    };
    assert_eq!(measure("10,000", machine, (0..10_000).map(peer).collect()), 50_000);
    assert_eq!(measure("one more", machine, vec![peer(10_001)]), 5);
    assert_eq!(measure("one more", machine, vec![peer(10_002)]), 5);
    let begun = Instant::now();
    assert_eq!(machine.heal(), "");
    println!("looked at: {:?}", begun.elapsed());
    let begun = Instant::now();
    let address = "203.0.113.9".parse().unwrap();
    machine.tell_nodes(&[Node { number: 2, address, wireguard: None }]);
    println!("another address: {:?}", begun.elapsed());
    let begun = Instant::now();
    machine.tell_nodes(&[]);
    println!("gone: {:?}", begun.elapsed());
    assert_eq!(machine.heal(), "");
}
