//! Published ports as users ask for them, with the daemon and all that belongs to it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};

use netns_tests::{Daemon, Host, Lab, SILENCE, wait_until};

const LOCALHOST: [&str; 2] = ["127.0.0.1", "::1"];

fn lab() -> (Lab, Daemon) {
    let lab = Lab::new();
    let daemon = Daemon::start(&lab.host, &[]);
    daemon.rnet("network create --ipv6 n1");
    daemon.rnet("network create --ipv6 n2");
    (lab, daemon)
}

/// Whether TCP gets nowhere.
fn refused(from: &Host, address: IpAddr, port: u16) -> bool {
    from.tcp_to(SocketAddr::new(address, port), SILENCE).is_err()
}

/// The host port of a container's port, which must be the same in both families.
fn published(daemon: &Daemon, container: &str, port: &str) -> u16 {
    let lines = daemon.rnet(&format!("port {container} {port}"));
    let mut ports: Vec<u16> =
        lines.lines().map(|line| line.rsplit(':').next().unwrap().parse().unwrap()).collect();
    assert_eq!(ports.len(), 2, "{lines}");
    ports.dedup();
    let [port] = ports[..] else { panic!("families differ: {lines}") };
    port
}

#[test]
fn a_port_is_reached_from_everywhere_by_both_families() {
    let (lab, daemon) = lab();
    let web = daemon.run("web", "--network n1 -p 8080:80 -p 8080:80/udp");
    let [peer, foreigner] = ["n1", "n2"]
        .map(|network| daemon.run(&format!("of-{network}"), &format!("--network {network}")));
    let _server = web.serve(80);
    for (number, host) in Lab::both(Lab::HOST).into_iter().enumerate() {
        let client = Lab::both(Lab::CLIENT)[number];
        assert_eq!(lab.client.tcp(host, 8080).unwrap(), client);
        assert_eq!(lab.client.udp(host, 8080).unwrap(), client);
        for near in [&lab.host, &peer, &foreigner, &web] {
            assert!(near.tcp(host, 8080).is_ok() && near.udp(host, 8080).is_ok(), "{host}");
        }
        let other = Lab::both(Lab::OTHER)[number];
        assert_eq!(lab.other.tcp(Lab::both(Lab::HOST_TO_OTHER)[number], 8080).unwrap(), other);
        let localhost = Lab::both(LOCALHOST)[number];
        assert!(lab.host.tcp(localhost, 8080).is_ok() && lab.host.udp(localhost, 8080).is_ok());
        let inside = daemon.addresses("web")["n1"][number];
        assert!(lab.other.is_cut_off_from(SocketAddr::new(inside, 80)), "{inside}");
    }
}

/// How many files a process has open.
fn descriptors(daemon: &Daemon, process: &str) -> usize {
    std::fs::read_dir(daemon.root(&format!("proc/{process}/fd"))).unwrap().count()
}

#[test]
fn ten_thousand_ports_are_published_kept_and_given_back() {
    const FIRST: u16 = 20_000;
    const LAST: u16 = 29_999;
    let (lab, mut daemon) = lab();
    let resolver = daemon.resolver().unwrap();
    let before = descriptors(&daemon, &resolver);
    let many = format!("-p {FIRST}-{LAST}:{FIRST}-{LAST}");
    daemon.run("web", &format!("--network n1 {many}"));
    let answers = || {
        for port in [FIRST, 25_000, LAST] {
            let web = daemon.inside("web");
            let _server = web.serve(port);
            for (host, client) in Lab::both(Lab::HOST).into_iter().zip(Lab::both(Lab::CLIENT)) {
                assert_eq!(lab.client.tcp(host, port).unwrap(), client);
            }
            for localhost in Lab::both(LOCALHOST) {
                assert!(lab.host.tcp(localhost, port).is_ok(), "{localhost} {port}");
            }
        }
    };
    answers();
    let held = descriptors(&daemon, &resolver) - before;
    assert!((9_900..10_100).contains(&held), "a socket for each port, not {held}");
    daemon.kill();
    daemon.restart();
    assert_eq!(daemon.resolver().as_ref(), Some(&resolver));
    let answers = || {
        let web = daemon.inside("web");
        let _server = web.serve(LAST);
        assert!(Lab::both(Lab::HOST).into_iter().all(|host| lab.client.tcp(host, LAST).is_ok()));
    };
    answers();
    daemon.rnet("rm -f web");
    wait_until("the sockets are closed", || descriptors(&daemon, &resolver) <= before + 10);
    let next = daemon.run("next", &format!("--network n1 -p {FIRST}:80"));
    let _server = next.serve(80);
    assert!(Lab::both(Lab::HOST).into_iter().all(|host| lab.client.tcp(host, FIRST).is_ok()));
}

/// A line of what the kernel tells of a daemon's memory (`proc_pid_status(5)`), in KiB.
fn memory(daemon: &Daemon, name: &str) -> u64 {
    let pid = std::fs::read_to_string(daemon.file("pid")).unwrap();
    let status = daemon.root(&format!("proc/{}/status", pid.trim()));
    let status = std::fs::read_to_string(status).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// Whatever of it was given back while it started: a daemon that has little time looks between.
#[test]
fn the_memory_that_ten_thousand_ports_took_is_given_back() {
    /// What is not worth it, and what stays of them in the allocator.
    const LEFT: u64 = 16 << 10;
    let (_lab, daemon) = lab();
    let (before, most_before) = (memory(&daemon, "RssAnon:"), memory(&daemon, "VmHWM:"));
    daemon.run("web", "--network n1 -p 20000-29999:20000-29999");
    let taken = memory(&daemon, "VmHWM:") - most_before;
    daemon.rnet("rm -f web");
    assert!(taken > 2 * LEFT, "{taken} KiB are too few to tell");
    wait_until("what is free is given back", || {
        memory(&daemon, "RssAnon:").saturating_sub(before) < LEFT
    });
}

#[test]
fn a_port_of_localhost_is_for_the_host_alone() {
    let (lab, daemon) = lab();
    let web = daemon.run("web", "--network n1 -p 127.0.0.1:8080:80 -p [::1]:8080:80");
    let neighbour = daemon.run("neighbour", "--network n2");
    let _server = web.serve(80);
    for (number, localhost) in Lab::both(LOCALHOST).into_iter().enumerate() {
        assert!(lab.host.tcp(localhost, 8080).is_ok(), "{localhost}");
        let host = Lab::both(Lab::HOST)[number];
        for stranger in [&lab.client, &lab.host, &neighbour] {
            assert!(refused(stranger, host, 8080), "{host}");
        }
    }
}

#[test]
fn a_port_of_one_address_is_of_that_address_alone() {
    let (lab, daemon) = lab();
    let [ipv4, ipv6] = Lab::HOST;
    let web = daemon.run("web", &format!("--network n1 -p {ipv4}:8080:80 -p [{ipv6}]:8080:80"));
    let _server = web.serve(80);
    for number in 0..2 {
        let client = Lab::both(Lab::CLIENT)[number];
        assert_eq!(lab.client.tcp(Lab::both(Lab::HOST)[number], 8080).unwrap(), client);
        for elsewhere in [Lab::HOST_TO_OTHER, LOCALHOST] {
            assert!(refused(&lab.host, Lab::both(elsewhere)[number], 8080), "{elsewhere:?}");
        }
        assert!(refused(&lab.other, Lab::both(Lab::HOST_TO_OTHER)[number], 8080));
    }
}

#[test]
fn ports_may_be_random_ranges_or_all_that_are_exposed() {
    let (lab, daemon) = lab();
    daemon.run("random", "--network n1 -p 80");
    daemon.run("all", "--network n1 -P --expose 80 --expose 81/udp");
    daemon.run("range", "--network n1 -p 7000-7002:80-82");
    daemon.run("first", "--network n1 -p 7100-7101:80");
    daemon.run("second", "--network n1 -p 7100-7101:80");
    let cases = [
        ("random", 80, "80/tcp"),
        ("all", 80, "80/tcp"),
        ("all", 81, "81/udp"),
        ("range", 80, "80/tcp"),
        ("range", 82, "82/tcp"),
        ("first", 80, "80/tcp"),
        ("second", 80, "80/tcp"),
    ];
    let mut ports = Vec::new();
    for (container, port, wanted) in cases {
        let _server = daemon.inside(container).serve(port);
        let host_port = published(&daemon, container, wanted);
        for (host, client) in Lab::both(Lab::HOST).into_iter().zip(Lab::both(Lab::CLIENT)) {
            let udp = wanted.ends_with("udp");
            let ask = if udp { Host::udp } else { Host::tcp };
            let seen = ask(&lab.client, host, host_port);
            assert_eq!(seen.unwrap(), client, "{container} {wanted}");
        }
        ports.push(host_port);
    }
    assert_eq!(&ports[3..], [7000, 7002, 7100, 7101]);
    assert!(ports[..3].iter().all(|port| *port >= 32768), "{ports:?}");
    let refusal = daemon.refusal("run -d --network n1 -p 7100-7101:80 rnet/toolbox sleep 9");
    assert!(refusal.contains("7100"), "{refusal}");
}

#[test]
fn a_random_port_may_be_of_one_family() {
    let (lab, daemon) = lab();
    daemon.run("six", "--network n1 -p [::]::80");
    daemon.run("four", "--network n1 -p 0.0.0.0::80");
    for (number, container) in ["four", "six"].into_iter().enumerate() {
        let _server = daemon.inside(container).serve(80);
        let line = daemon.rnet(&format!("port {container} 80/tcp"));
        assert_eq!(line.lines().count(), 1, "{line}");
        let port = line.rsplit(':').next().unwrap().parse().unwrap();
        let client = Lab::both(Lab::CLIENT)[number];
        assert_eq!(lab.client.tcp(Lab::both(Lab::HOST)[number], port).unwrap(), client);
        assert!(refused(&lab.client, Lab::both(Lab::HOST)[1 - number], port), "{container}");
    }
}

#[test]
fn a_container_with_one_family_is_reached_by_the_other_through_the_proxy() {
    let (lab, daemon) = lab();
    daemon.rnet("network create --subnet 10.4.0.0/24 v4");
    let web = daemon.run("web", "--network v4 -p 8080:80 -p 8080:80/udp");
    let _server = web.serve(80);
    let [ipv4, ipv6] = Lab::both(Lab::HOST);
    assert_eq!(lab.client.tcp(ipv4, 8080).unwrap(), Lab::both(Lab::CLIENT)[0]);
    let gateway: IpAddr = "10.4.0.1".parse().unwrap();
    assert_eq!(lab.client.tcp(ipv6, 8080).unwrap(), gateway);
    assert_eq!(lab.client.udp(ipv6, 8080).unwrap(), gateway);
    assert_eq!(lab.host.tcp(Lab::both(LOCALHOST)[1], 8080).unwrap(), gateway);
}

#[test]
fn a_port_that_is_taken_is_said_before_anything_is_made() {
    let (lab, daemon) = lab();
    let _web = daemon.run("web", "--network n1 -p 8080:80");
    for (number, address) in ["192.0.2.1:8081", "[2001:db8:1::1]:8081"].into_iter().enumerate() {
        let stranger = lab.host.run(|| TcpListener::bind(address)).unwrap();
        let links = lab.host.links().len();
        for (name, wanted) in [("own", "8080"), ("foreign", "8081")] {
            let name = format!("{name}{number}");
            let container = format!("--name {name} --network n1 -p {wanted}:80 rnet/toolbox");
            let named = |refusal: &str| {
                let port = [format!("{wanted}/tcp"), format!(":{wanted} ")];
                assert!(port.iter().any(|text| refusal.contains(text)), "{refusal}");
            };
            daemon.rnet(&format!("create {container}"));
            named(&daemon.refusal(&format!("start {name}")));
            assert_eq!(lab.host.links().len(), links, "no link was made");
            assert_eq!(daemon.addresses(&name)["n1"], Vec::<IpAddr>::new());
        }
        drop(stranger);
        daemon.rnet(&format!("start foreign{number}"));
        daemon.rnet(&format!("rm -f foreign{number}"));
    }
}

/// Clients on another machine that keep their ports, one for each family.
fn senders(lab: &Lab) -> Vec<UdpSocket> {
    let sender = |host: IpAddr| {
        let any = if host.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = lab.client.run(|| UdpSocket::bind(any)).unwrap();
        socket.connect(SocketAddr::new(host, 5000)).unwrap();
        socket.set_read_timeout(Some(SILENCE)).unwrap();
        socket
    };
    Lab::both(Lab::HOST).into_iter().map(sender).collect()
}

#[test]
fn a_client_that_keeps_sending_follows_a_container_from_network_to_network() {
    let (lab, daemon) = lab();
    let sockets = senders(&lab);
    let _server = daemon.run("web", "--network n1 -p 5000:5000/udp").serve(5000);
    let answered = |when: &str| {
        for socket in &sockets {
            wait_until(when, || {
                let mut buffer = [0; 64];
                socket.send(b"?").is_ok() && socket.recv(&mut buffer).is_ok()
            });
        }
    };
    answered("the container answers on its first network");
    daemon.rnet("network connect n2 web");
    daemon.rnet("network disconnect n1 web");
    answered("the container answers on its second network");
    daemon.rnet("network connect n1 web");
    answered("the container answers on both");
}

#[test]
fn a_port_that_the_proxy_carries_follows_a_container_from_network_to_network() {
    let (lab, daemon) = lab();
    daemon.rnet("network create v4");
    let _server = daemon.run("web", "--network n1 -p 8080:80 -p 8080:80/udp").serve(80);
    let localhost: IpAddr = "::1".parse().unwrap();
    let sender = lab.host.run(|| UdpSocket::bind("[::1]:0")).unwrap();
    sender.connect((localhost, 8080)).unwrap();
    sender.set_read_timeout(Some(SILENCE)).unwrap();
    let answered = |when: &str| {
        wait_until(when, || lab.host.tcp(localhost, 8080).is_ok());
        wait_until(when, || {
            let mut buffer = [0; 64];
            sender.send(b"?").is_ok() && sender.recv(&mut buffer).is_ok()
        });
    };
    answered("on its first network");
    for (joined, left) in [("n2", "n1"), ("v4", "n2"), ("n1", "v4")] {
        daemon.rnet(&format!("network connect {joined} web"));
        daemon.rnet(&format!("network disconnect {left} web"));
        answered(joined);
    }
    daemon.rnet("network disconnect n1 web");
    assert!(lab.host.tcp_to((localhost, 8080).into(), SILENCE).is_err());
    daemon.rnet("network connect n2 web");
    answered("on a network again");
}

#[test]
fn a_container_that_was_started_without_a_network_gets_its_ports_with_the_first() {
    let (lab, daemon) = lab();
    let web = daemon.run("web", "--network none -p 8080:80");
    let _server = web.serve(80);
    assert_eq!(daemon.rnet("port web"), "");
    daemon.rnet("network connect n1 web");
    assert_eq!(published(&daemon, "web", "80"), 8080);
    for (number, host) in Lab::both(Lab::HOST).into_iter().enumerate() {
        assert_eq!(lab.client.tcp(host, 8080).unwrap(), Lab::both(Lab::CLIENT)[number]);
        assert!(lab.host.tcp(Lab::both(LOCALHOST)[number], 8080).is_ok());
    }
    let refusal = daemon.refusal("run -d --network n2 -p 8080:80 rnet/toolbox");
    assert!(refusal.contains("port is already allocated: container web"), "{refusal}");
}

#[test]
fn a_client_that_keeps_sending_follows_a_port_to_its_new_container() {
    let (lab, daemon) = lab();
    let sockets = senders(&lab);
    for round in 0..3 {
        let name = format!("c{round}");
        let server = daemon.run(&name, "--network n1 -p 5000:5000/udp").serve(5000);
        for socket in &sockets {
            wait_until("the new container answers", || {
                let mut buffer = [0; 64];
                socket.send(b"?").is_ok() && socket.recv(&mut buffer).is_ok()
            });
        }
        drop(server);
        daemon.rnet(&format!("rm -f {name}"));
        for socket in &sockets {
            // Answers to what was sent before may still be there.
            let mut buffer = [0; 64];
            while socket.recv(&mut buffer).is_ok() {}
        }
    }
}

#[test]
fn cve_2025_67499_packets_routed_to_the_same_port_of_somebody_else_are_not_touched() {
    let lab = Lab::new();
    for path in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
        lab.host.set_sysctl(path, "1");
    }
    let daemon = Daemon::start(&lab.host, &[]);
    daemon.rnet("network create --ipv6 n1");
    daemon.rnet("network create --ipv6 n2");
    let _web = daemon.run("web", "--network n1 -p 8080:80").serve(80);
    let _theirs = lab.client.serve(8080);
    lab.client.add_route("198.51.100.0/24", "eth0", Lab::HOST[0]);
    lab.client.add_route("2001:db8:2::/64", "eth0", Lab::HOST[1]);
    let inside = daemon.run("inside", "--network n2");
    for (number, client) in Lab::both(Lab::CLIENT).into_iter().enumerate() {
        let from = Lab::both(Lab::OTHER)[number];
        assert_eq!(lab.other.tcp(client, 8080).unwrap(), from);
        assert_eq!(lab.other.udp(client, 8080).unwrap(), from);
        assert_eq!(inside.tcp(client, 8080).unwrap(), Lab::both(Lab::HOST)[number]);
    }
}

#[test]
fn a_port_is_closed_when_its_container_is_gone() {
    let (lab, daemon) = lab();
    let web = daemon.run("web", "--network n1 -p 8080:80");
    let server = web.serve(80);
    daemon.rnet("stop -t 0 web");
    for host in Lab::both(Lab::HOST) {
        assert!(refused(&lab.client, host, 8080), "{host}");
    }
    drop(server);
    daemon.rnet("start web");
    let _server = daemon.inside("web").serve(80);
    for (host, client) in Lab::both(Lab::HOST).into_iter().zip(Lab::both(Lab::CLIENT)) {
        assert_eq!(lab.client.tcp(host, 8080).unwrap(), client);
    }
}

/// B20: the port was listed, and accepted connections that led nowhere.
#[test]
fn a_container_that_left_its_last_network_publishes_nothing() {
    let (lab, daemon) = lab();
    daemon.run("web", "--network n1 -p 8080:80 -p 8081:80/udp");
    let [host, host6] = Lab::both(Lab::HOST);
    daemon.rnet("network disconnect n1 web");
    assert_eq!(daemon.rnet("port web"), "");
    assert!(!daemon.rnet("ps --format {{.Ports}}").contains("->"));
    for address in [host, host6] {
        assert!(refused(&lab.client, address, 8080), "{address}");
        assert!(refused(&lab.host, address, 8080), "{address}");
    }
    // Another one may have it now.
    daemon.rnet("run --rm --network n1 -p 8080:80 -p 8081:80/udp rnet/toolbox true");
    daemon.rnet("network connect n2 web");
    let web = daemon.inside("web");
    let _server = web.serve(80);
    assert_eq!(published(&daemon, "web", "80/tcp"), 8080);
    assert!(lab.client.tcp(host, 8080).is_ok() && lab.client.tcp(host6, 8080).is_ok());
}
