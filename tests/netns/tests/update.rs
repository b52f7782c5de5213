//! Networks that change while containers are on them.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

use std::net::{IpAddr, SocketAddr};

use netns_tests::lookup::{self, Upstream};
use netns_tests::{Daemon, Echo, Flow, Host, Lab, SILENCE, wait_until};

const CREATE: &str = "network create --ipv6 --subnet 10.1.0.0/24 --subnet fd00:1::/64 n1";

fn lab() -> (Lab, Daemon) {
    let lab = Lab::new();
    let daemon = Daemon::start(&lab.host, &[]);
    daemon.rnet(CREATE);
    (lab, daemon)
}

fn at(addresses: &[IpAddr], port: u16) -> [SocketAddr; 2] {
    let [v4, v6] = addresses else { panic!("{addresses:?}") };
    [*v4, *v6].map(|address| SocketAddr::new(address, port))
}

fn of(daemon: &Daemon, container: &str) -> Vec<IpAddr> {
    daemon.addresses(container)["n1"].clone()
}

fn mtu(host: &Host, name: &str) -> u32 {
    host.link(name).unwrap().mtu
}

fn bridge(daemon: &Daemon) -> String {
    format!("br-{}", &daemon.rnet("network inspect -f {{.Id}} n1")[..12])
}

fn opens(from: &Host, to: [SocketAddr; 2]) -> bool {
    to.iter().all(|to| from.tcp_to(*to, SILENCE).is_ok())
}

fn cut_off(from: &Host, to: [SocketAddr; 2]) -> bool {
    to.iter().all(|to| from.is_cut_off_from(*to))
}

#[test]
fn a_network_changes_and_flows_through_it_lose_nothing() {
    let (lab, daemon) = lab();
    let web = daemon.run("web", "--network n1 -p 8080:80 -p 8080:80/udp");
    let peer = daemon.run("peer", "--network n1");
    let _echo = Echo::start(&web, 80);
    let outside = Flow::all(&lab.client, at(&Lab::both(Lab::HOST), 8080));
    let inside = Flow::all(&peer, at(&of(&daemon, "web"), 80));
    for change in [
        "--label a=b",
        "--mtu 1400",
        "--dns 192.0.2.2",
        "--add-subnet 10.77.0.0/24,fd00:77::/64",
        "-o rnet.bridge.any_source=true",
        "--mtu 9000",
        "--mtu 1500",
    ] {
        daemon.rnet(&format!("network update {change} n1"));
        outside.iter().chain(&inside).for_each(Flow::goes_on);
    }
    inside.into_iter().for_each(Flow::end);
    daemon.rnet("network update --icc=false n1");
    outside.iter().for_each(Flow::goes_on);
    daemon.rnet("network update --icc n1");
    outside.into_iter().for_each(Flow::end);
}

#[test]
fn every_interface_of_a_network_follows_its_mtu() {
    let (lab, daemon) = lab();
    let [one, two] = ["one", "two"].map(|name| daemon.run(name, "--network n1"));
    let bridge = bridge(&daemon);
    for size in [1400, 9000, 1500] {
        daemon.rnet(&format!("network update --mtu {size} n1"));
        assert_eq!([mtu(&one, "eth0"), mtu(&two, "eth0"), mtu(&lab.host, &bridge)], [size; 3]);
    }
    let told = daemon.rnet("network inspect n1");
    assert!(told.contains(r#""com.docker.network.driver.mtu": "1500""#), "{told}");
    let late = daemon.run("late", "--network n1");
    assert_eq!(mtu(&late, "eth0"), 1500);
}

#[test]
fn another_subnet_is_reached_from_the_first_and_reaches_it() {
    let (lab, daemon) = lab();
    let old = daemon.run("old", "--network n1");
    daemon.rnet("network update --add-subnet 10.77.0.0/24,fd00:77::/64 --gateway 10.77.0.9 n1");
    let new = daemon.run("new", "--network n1 --ip 10.77.0.5 --ip6 fd00:77::5 -p 8080:80");
    let (_servers, addresses) = ([&old, &new].map(|host| host.serve(80)), of(&daemon, "new"));
    assert_eq!(addresses, Lab::both(["10.77.0.5", "fd00:77::5"]));
    assert!(opens(&old, at(&addresses, 80)) && opens(&new, at(&of(&daemon, "old"), 80)));
    assert!(opens(&lab.client, at(&Lab::both(Lab::HOST), 8080)));
    let gateways = lab.host.addresses(&bridge(&daemon));
    let has = |text: &str| gateways.iter().any(|address| address.to_string() == text);
    assert!(has("10.77.0.9/24") && has("fd00:77::1/64") && has("10.1.0.1/24"), "{gateways:?}");
    assert_eq!(lookup::addresses(&old, "new"), addresses);
}

#[test]
fn containers_stop_and_begin_to_talk_as_their_network_says() {
    let (lab, daemon) = lab();
    let web = daemon.run("web", "--network n1 -p 8080:80");
    let peer = daemon.run("peer", "--network n1");
    let _server = web.serve(80);
    let (inside, outside) = (at(&of(&daemon, "web"), 80), at(&Lab::both(Lab::HOST), 8080));
    for _ in 0..2 {
        assert!(opens(&peer, inside));
        daemon.rnet("network update --icc=false n1");
        assert!(cut_off(&peer, inside) && opens(&lab.client, outside));
        daemon.rnet("network update --icc=true n1");
    }
}

#[test]
fn a_network_becomes_internal_and_is_so_no_longer() {
    let (lab, daemon) = lab();
    let upstream = Upstream::start(&lab.client, Some(["203.0.113.7", "2001:db8:f::7"]));
    daemon.set_resolvers(&[Lab::CLIENT[0]]);
    let web = daemon.run("web", "--network n1 -p 8080:80");
    let peer = daemon.run("peer", "--network n1");
    let _servers = [web.serve(80), lab.other.serve(90)];
    let inside = at(&of(&daemon, "web"), 80);
    let (published, away) = (at(&Lab::both(Lab::HOST), 8080), at(&Lab::both(Lab::OTHER), 90));
    let open = || {
        wait_until("names of the outside are found", || {
            lookup::over_udp(&peer, lookup::RESOLVER, "out.example", "A")
                .is_some_and(|answer| !answer.records.is_empty())
        });
        assert!(opens(&lab.client, published) && opens(&web, away) && opens(&peer, inside));
    };
    open();
    daemon.rnet("network update --internal n1");
    let asked = upstream.asked().len();
    assert!(cut_off(&lab.client, published) && cut_off(&web, away) && opens(&peer, inside));
    assert!(lookup::ask(&peer, "secret.example", "A").records.is_empty());
    assert_eq!(upstream.asked().len(), asked, "nothing is asked outside");
    assert_eq!(daemon.rnet("network inspect -f {{.Internal}} n1"), "true");
    daemon.rnet("network update --internal=false n1");
    open();
}

#[test]
fn resolvers_of_a_network_are_asked_by_who_has_none_of_its_own() {
    let (lab, daemon) = lab();
    let [hosts, networks, own] = ["203.0.113.1", "203.0.113.2", "203.0.113.3"];
    let _hosts = Upstream::start_at(&lab.client, Lab::CLIENT[0], Some([hosts, "2001:db8:f::1"]));
    let _networks =
        Upstream::start_at(&lab.other, Lab::OTHER[0], Some([networks, "2001:db8:f::2"]));
    let _own = Upstream::start_at(&lab.other, Lab::OTHER[1], Some([own, "2001:db8:f::3"]));
    daemon.set_resolvers(&[Lab::CLIENT[0]]);
    let plain = daemon.run("plain", "--network n1");
    let special = daemon.run("special", &format!("--network n1 --dns {}", Lab::OTHER[1]));
    let finds = |host: &Host, name: &str, wanted: &str| {
        wait_until("the resolver is asked", || {
            lookup::over_udp(host, lookup::RESOLVER, name, "A")
                .is_some_and(|answer| answer.records == [wanted])
        });
    };
    finds(&plain, "one.example", hosts);
    daemon.rnet(&format!("network update --dns {} n1", Lab::OTHER[0]));
    finds(&plain, "two.example", networks);
    finds(&special, "two.example", own);
    finds(&daemon.run("late", "--network n1"), "three.example", networks);
    daemon.rnet("network update --opt-rm rnet.dns n1");
    finds(&plain, "four.example", hosts);
}

#[test]
fn a_dry_run_prints_the_plan_and_changes_nothing() {
    let (lab, daemon) = lab();
    let web = daemon.run("web", "--network n1");
    let before = daemon.rnet("network inspect n1");
    let words = "network update --mtu 1400 --add-subnet 10.77.0.0/24 --label a=b --dry-run n1";
    let plan = daemon.rnet(words);
    for step in [&format!("~ link {}", bridge(&daemon)), "~ link eth0", "+ addr 10.77.0.1/24"] {
        assert!(plan.contains(step), "{step}: {plan}");
    }
    assert_eq!(daemon.rnet("network inspect n1"), before);
    assert_eq!([mtu(&web, "eth0"), mtu(&lab.host, &bridge(&daemon))], [1500; 2]);
    // What was promised is what happens.
    daemon.rnet(&words.replace("--dry-run ", ""));
    assert_eq!([mtu(&web, "eth0"), mtu(&lab.host, &bridge(&daemon))], [1400; 2]);
}

#[test]
fn what_a_network_cannot_become_is_refused_by_name() {
    let (_lab, daemon) = lab();
    daemon.rnet("network create --subnet 10.2.0.0/24 n2");
    daemon.run("web", "--network n1");
    let before = daemon.rnet("network inspect n1");
    for (words, complaint) in [
        ("-o com.docker.network.bridge.name=other n1", "option com.docker.network.bridge.name"),
        ("-o com.docker.network.bridge.gateway_mode_ipv4=routed n1", "cannot be changed while"),
        ("--mtu 1000 n1", "too small for IPv6"),
        ("--mtu 99999 n1", "invalid value \"99999\""),
        ("--dns nowhere n1", "a list of IP addresses"),
        ("--add-subnet 10.2.0.0/25 n1", "overlaps 10.2.0.0/24 of network n2"),
        ("--add-subnet 10.1.0.0/25 n1", "overlaps 10.1.0.0/24"),
        ("--add-subnet fd00:9::/64 n2", "IPv6 is disabled for this network"),
        ("--add-subnet 10.3.0.1/24 n1", "it should be 10.3.0.0/24"),
        ("--label a=b bridge", "network bridge is as the daemon's options say"),
        ("--label a=b nothing", "network nothing not found"),
    ] {
        let told = daemon.refusal(&format!("network update {words}"));
        assert!(told.contains(complaint), "{words}: {told}");
    }
    assert_eq!(daemon.rnet("network inspect n1"), before);
}

#[test]
fn a_change_of_a_network_is_kept_and_a_daemon_that_dies_meanwhile_leaves_all_or_nothing() {
    let (lab, mut daemon) = lab();
    daemon.run("web", "--network n1 -p 8080:80");
    for round in 0..5 {
        let size = 1300 + round;
        let mut change = daemon.begin(&format!("network update --mtu {size} --label at={size} n1"));
        let started = std::time::Instant::now();
        let pause = u128::from(round * 4);
        wait_until("it is under way", || started.elapsed().as_millis() >= pause);
        daemon.kill();
        let _ = change.wait();
        daemon.restart();
        let told = daemon.rnet("network inspect n1").contains(&format!(r#""at": "{size}""#));
        let web = daemon.inside("web");
        let sizes = [mtu(&web, "eth0"), mtu(&lab.host, &bridge(&daemon))];
        assert_eq!(sizes[0], sizes[1]);
        assert_eq!(sizes[0] == size, told, "{sizes:?}");
        let _server = web.serve(80);
        assert!(opens(&lab.client, at(&Lab::both(Lab::HOST), 8080)));
    }
    daemon.rnet("network update --mtu 1400 --label a=b n1");
    daemon.kill();
    daemon.restart();
    assert_eq!(mtu(&daemon.inside("web"), "eth0"), 1400);
    assert!(daemon.rnet("network inspect n1").contains(r#""a": "b""#));
    daemon.rnet("rm -f web");
    daemon.rnet("network rm n1");
    assert!(lab.host.links().iter().all(|link| !link.name.starts_with("br-")));
}

#[test]
fn containers_come_and_go_while_their_network_changes() {
    let (_lab, daemon) = lab();
    std::thread::scope(|scope| {
        let changes = scope.spawn(|| {
            for size in 1400..1410 {
                daemon.rnet(&format!("network update --mtu {size} n1"));
            }
        });
        for number in 0..6 {
            let name = format!("c{number}");
            daemon.run(&name, "--network n1");
            daemon.rnet(&format!("rm -f {name}"));
        }
        changes.join().unwrap();
    });
    assert_eq!(mtu(&daemon.run("last", "--network n1"), "eth0"), 1409);
}
