//! What hurts users of networks over many hosts elsewhere. The numbers are those of `docs/testing.md`.

use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use netns_tests::{Echo, Flow, Host, Rack, SILENCE, wait_until};

use crate::scene::{PORT, Talk, frame, knows, outlast, reaches, takes};

/// What a repair may take that a notification begins.
const SOON: Duration = Duration::from_secs(2);

/// What may pass after a cable is back.
const BACK: Duration = Duration::from_secs(3);

#[test]
fn p1_an_address_that_is_used_again_elsewhere_is_reached_there_a_hundred_times() {
    addresses_move(100);
}

#[test]
#[ignore = "some minutes"]
fn p1_an_address_that_is_used_again_elsewhere_is_reached_there_five_hundred_times() {
    addresses_move(500);
}

fn addresses_move(times: usize) {
    let rack = Rack::cluster(3, 1);
    rack.network(0, "--subnet 10.9.0.0/24 --subnet fd00:9::/64", "app");
    let asker = rack.daemon(2).run("asker", "--network app");
    let addresses: [IpAddr; 2] = ["10.9.0.77", "fd00:9::77"].map(|text| text.parse().unwrap());
    let movers = [0, 1].map(|machine| {
        let name = format!("mover{machine}");
        let host = rack.daemon(machine).run(&name, "");
        let echo = Echo::start(&host, PORT);
        (machine, name, echo)
    });
    for (machine, name, _) in movers.iter().cycle().take(times) {
        let daemon = rack.daemon(*machine);
        let connect = format!("network connect --ip 10.9.0.77 --ip6 fd00:9::77 app {name}");
        takes("the address is free", SOON, || daemon.fails(&connect).is_none());
        for address in addresses {
            takes("it is reached where it is", SOON, || reaches(&asker, address));
        }
        takes("it is found there", SOON, || knows(&asker, name, &addresses));
        daemon.rnet(&format!("network disconnect app {name}"));
    }
    rack.agrees();
}

#[test]
fn p1_p13_what_is_broken_by_hand_comes_back_within_two_seconds() {
    let rack = Rack::cluster(2, 1);
    rack.network(0, "", "app");
    let talk = Talk::new(&rack, "app");
    let (records, host) = (rack.records(), &rack.machines[0].host);
    let id = &records.network("app")[..12];
    let web = records.endpoints.values().find(|record| record["name"] == "web").unwrap();
    let mac = web["mac"].as_str().unwrap();
    let number = records.nodes[&rack.node(1)]["number"].as_u64().unwrap();
    let (hop, [ipv4, ipv6]) = (0x726e_0000 + 2 * number, [talk.addresses[0], talk.addresses[1]]);
    let damage = [
        format!("bridge fdb del {mac} dev vx-{id} self"),
        format!("bridge fdb replace {mac} dev vx-{id} dst 192.0.2.99 self"),
        format!("bridge fdb del {mac} dev vx-{id} master"),
        format!("ip neigh del {ipv4} dev br-{id}"),
        format!("ip neigh replace {ipv6} lladdr 02:00:00:00:00:99 dev br-{id} nud permanent"),
        format!("ip nexthop del id {hop}"),
        format!("ip nexthop del id {}", hop + 1),
        format!("ip nexthop replace id {hop} via 192.0.2.99 fdb"),
        format!("ip link set vx-{id} down"),
        format!("bridge link set dev vx-{id} learning on"),
        format!("ip link set vx-{id} nomaster"),
        format!("ip link del vx-{id}"),
        format!("ip link del br-{id}"),
    ];
    for words in damage {
        host.output(&words);
        let taken = takes(&words, SOON, || talk.works());
        println!("{taken:?} after {words}");
        rack.agrees();
    }
}

#[test]
fn p2_names_and_packets_are_back_within_three_seconds_after_a_cable_was_pulled() {
    let rack = Rack::cluster(3, 1);
    rack.network(0, "", "app");
    let talk = Talk::new(&rack, "app");
    rack.daemon(2).run("third", "--network app");
    rack.agrees();
    let third = rack.daemon(2).addresses("third")["app"].clone();
    let before = rack.records();
    for seconds in [5, 5, 20] {
        rack.unplug(1);
        let start = std::time::Instant::now();
        while start.elapsed() < Duration::from_secs(seconds) {
            // On both sides everybody on the same side is known and reached all the time.
            assert!(knows(&talk.asker, "third", &third));
            assert!(knows(&talk.web, "web", &talk.addresses));
            std::thread::park_timeout(SILENCE);
        }
        rack.plug(1);
        let taken = takes("all is back", BACK, || {
            talk.works()
                && knows(&talk.web, "third", &third)
                && knows(&talk.web, "asker", &rack.daemon(0).addresses("asker")["app"])
        });
        println!("{taken:?} after {seconds} s");
        rack.agrees();
        assert_eq!(rack.records().endpoints, before.endpoints, "no record was lost");
    }
}

#[test]
fn p10_networks_follow_the_narrowest_way_between_machines() {
    let rack = Rack::cluster(2, 1);
    rack.network(0, "", "app");
    let talk = Talk::new(&rack, "app");
    let mtu = |host: &Host| host.sysctl("net/ipv6/conf/eth0/mtu");
    assert_eq!([mtu(&talk.asker), mtu(&talk.web)], ["1450", "1450"]);
    let flows = talk.flows();
    rack.machines[1].set_mtu(1400);
    takes("containers follow", Duration::from_secs(10), || {
        [mtu(&talk.asker), mtu(&talk.web)] == ["1350", "1350"]
    });
    flows.into_iter().for_each(Flow::end);
    let new = talk.flows();
    outlast(&new, Duration::from_secs(1));
    new.into_iter().for_each(Flow::end);
    rack.machines[1].set_mtu(1500);
    takes("and back", Duration::from_secs(10), || {
        [mtu(&talk.asker), mtu(&talk.web)] == ["1450", "1450"]
    });
    rack.agrees();
}

#[test]
fn p11_a_daemon_killed_while_a_network_is_made_leaves_a_whole_one_or_none() {
    let mut rack = Rack::cluster(2, 1);
    for step in 0..12 {
        let create = "network create -d overlay --attachable --ipv6 app";
        let mut client = rack.daemon(0).begin(create);
        std::thread::park_timeout(Duration::from_millis(4 * step));
        rack.machines[0].daemon_mut().kill();
        client.wait().unwrap();
        rack.machines[0].daemon_mut().restart();
        rack.agrees();
        if rack.records().networks.is_empty() {
            rack.daemon(0).rnet(create);
        }
        rack.has_network("app");
        let talk = Talk::new(&rack, "app");
        takes("they talk", Duration::from_secs(2), || talk.works());
        rack.daemon(0).rnet("rm -f asker");
        rack.daemon(1).rnet("rm -f web");
        rack.agrees();
        rack.daemon(1).rnet("network rm app");
        rack.agrees();
    }
}

#[test]
fn p12_a_machine_that_changes_its_address_is_followed_within_two_seconds() {
    let mut rack = Rack::bare(2, 1);
    let url = rack.etcd.url();
    for machine in &mut rack.machines {
        machine.start(&["--cluster", &url, "--advertise-addr", "eth0"]);
    }
    rack.network(0, "", "app");
    let talk = Talk::new(&rack, "app");
    let before = rack.records().endpoints;
    rack.machines[1].change_address(0, "192.0.2.42");
    let taken = takes("it is found at its new address", SOON, || talk.works());
    println!("{taken:?} after the address changed");
    rack.agrees();
    assert_eq!(rack.records().endpoints, before, "endpoints are as they were");
}

#[test]
fn p16_what_comes_from_no_machine_of_the_cluster_gets_into_no_network() {
    let rack = Rack::cluster(2, 1);
    rack.network(0, "", "app");
    let talk = Talk::new(&rack, "app");
    let records = rack.records();
    let vni = records.networks[records.network("app")]["vni"].as_u64().unwrap();
    let of = |name: &str| {
        let found = records.endpoints.values().find(|record| record["name"] == name).unwrap();
        found["mac"].as_str().unwrap().to_owned()
    };
    let asker = rack.daemon(0).addresses("asker")["app"][0];
    let text = b"from outside";
    let macs = [&*of("web"), &*of("asker")];
    let frame = frame(u32::try_from(vni).unwrap(), macs, [talk.addresses[0], asker], text);
    let heard = talk.asker.run(|| UdpSocket::bind(("0.0.0.0", PORT)).unwrap());
    let stranger = rack.lan.host(&["192.0.2.66/24", "2001:db8::66/64"]);
    let send = |host: &Host| {
        let socket = host.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
        socket.send_to(&frame, "192.0.2.1:4789").unwrap();
    };
    let comes = || {
        heard.set_read_timeout(Some(SILENCE)).unwrap();
        let mut buffer = [0; 64];
        heard.recv(&mut buffer).is_ok_and(|size| buffer[..size] == *text)
    };
    send(&stranger);
    assert!(!comes(), "a stranger gets in");
    // The same of a machine of the cluster does get in.
    wait_until("a peer gets in", || {
        send(&rack.machines[1].host);
        comes()
    });
    rack.agrees();
}

/// Where the kernel has WireGuard, `encrypted` has the tests.
fn can_encrypt(rack: &Rack) -> bool {
    rack.daemon(0).rnet("cluster inspect --format {{.Encryption.Able}}") == "true"
}

#[test]
fn p16_encryption_is_refused_where_the_kernel_has_none_and_nothing_is_made() {
    let rack = Rack::cluster(2, 1);
    if can_encrypt(&rack) {
        return;
    }
    let refusal =
        rack.daemon(0).refusal("network create -d overlay --attachable --opt encrypted app");
    assert!(refusal.contains("WireGuard") && refusal.contains("modprobe"), "{refusal}");
    assert!(rack.records().networks.is_empty());
    assert!(rack.daemon(0).refusal("cluster rekey").contains("this host cannot encrypt"));
    rack.agrees();
}

#[test]
fn p16_a_machine_that_cannot_encrypt_says_so_and_all_else_goes_on() {
    let rack = Rack::cluster(2, 1);
    if can_encrypt(&rack) {
        return;
    }
    rack.network(0, "", "app");
    let talk = Talk::new(&rack, "app");
    // One that can has made a network.
    let records = rack.records();
    let mut record = records.networks[records.network("app")].clone();
    record["name"] = "sealed".into();
    record["options"]["encrypted"] = "".into();
    (record["vni"], record["port"]) = (77.into(), 4790.into());
    for (pool, subnet) in [(0, "10.77.0.0/24"), (1, "fd77::/64")] {
        record["pools"][pool]["subnet"] = subnet.into();
        record["pools"][pool]["gateway"] = subnet.replace("0/24", "1").replace("/64", "1").into();
    }
    let key = format!("/rnet/v1/default/networks/{}", "e".repeat(64));
    rack.etcd.put(&[(key.clone(), record.to_string())]);
    let run = "run -d --network sealed rnet/toolbox sleep infinity";
    takes("it is told why", SOON, || {
        let refusal = rack.daemon(1).refusal(run);
        refusal
            .contains("network sealed of the cluster is not on this host: this host cannot encrypt")
            && refusal.contains("modprobe wireguard")
    });
    let (fine, told) = rack.daemon(0).shell("rnet cluster check");
    assert!(!fine && told.contains("cannot encrypt"), "{told}");
    let (_, told) = rack.daemon(0).shell("rnet system check");
    assert!(told.contains("network sealed") && told.contains("cannot encrypt"), "{told}");
    assert!(talk.works(), "the others are as they were");
    rack.etcd.ctl(&format!("del {key}"));
    rack.etcd.ctl(&format!("del --prefix /rnet/v1/default/ipam/{}", "e".repeat(64)));
    takes("it is forgotten", SOON, || rack.daemon(1).refusal(run).contains("not found"));
    rack.agrees();
}

#[test]
fn p17_both_families_inside_and_outside_in_every_combination() {
    for family in [0, 1] {
        let mut rack = Rack::bare(2, 1);
        rack.join(family);
        // Neither ARP nor neighbour discovery of containers is on the wire.
        for (at, rule) in [("@th,224,16 0x0806", "arp"), ("@th,400,8 0x3a", "nd")] {
            rack.lan.filter(&format!("udp dport 4789 {at} counter comment \"{rule}\""));
        }
        for (name, words) in [("four", ""), ("six", "--ipv4=false --ipv6"), ("both", "--ipv6")] {
            let words = format!("network create -d overlay --attachable {words} {name}");
            rack.daemon(0).rnet(&words.replace("  ", " "));
            for machine in [0, 1] {
                rack.agrees();
                rack.daemon(machine).run(&format!("{name}{machine}"), &format!("--network {name}"));
            }
        }
        rack.agrees();
        let rules = rack.lan.rules();
        assert_eq!(rules.matches("packets 0 ").count(), 2, "{rules}");
    }
}

#[test]
fn p9_a_check_names_what_is_wrong_on_the_way_and_what_mends_it() {
    let rack = Rack::cluster(2, 1);
    rack.network(0, "", "app");
    let _talk = Talk::new(&rack, "app");
    rack.daemon(0).rnet("cluster check");
    for machine in &rack.machines {
        // Who hands on a packet within a machine does not look at a checksum that a card is to fill in.
        machine.host.output("ethtool -K eth0 tx off");
    }
    rack.daemon(0).rnet("cluster check");
    let faults = [
        // One way only: an answer that is damaged, too, tells nothing.
        (
            "ip saddr 192.0.2.1 udp dport 4789 udp checksum != 0 udp checksum set 0xdead",
            "checksums are damaged",
        ),
        ("udp dport 4789 udp length > 1400 drop", "bytes do not get through the tunnel"),
        ("udp dport 4789 drop", "open UDP port 4789"),
        ("ip saddr 192.0.2.1 ip daddr 192.0.2.2 drop", "192.0.2.2 does not answer"),
    ];
    for (rule, says) in faults {
        rack.lan.filter(rule);
        let (fine, told) = rack.daemon(0).shell("rnet cluster check");
        assert!(!fine && told.contains(says) && told.contains("two"), "{rule}: {told}");
        rack.lan.mend();
    }
    rack.daemon(0).rnet("cluster check");
    rack.agrees();
}
