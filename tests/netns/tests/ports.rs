//! Ports that are published and withdrawn while their container runs.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use netns_tests::{Daemon, Echo, Flow, Host, Lab, SILENCE, lookup, patient, wait_until};

fn lab() -> (Lab, Daemon) {
    let lab = Lab::new();
    let daemon = Daemon::start(&lab.host, &[]);
    daemon.rnet("network create --ipv6 n1");
    (lab, daemon)
}

/// The host's addresses with a port.
fn at(port: u16) -> [SocketAddr; 2] {
    Lab::both(Lab::HOST).map(|host| SocketAddr::new(host, port))
}

fn opens(lab: &Lab, port: u16) -> bool {
    at(port).iter().all(|to| lab.client.tcp(to.ip(), port).is_ok())
        && at(port).iter().all(|to| lab.client.udp(to.ip(), port).is_ok())
}

/// Whether nobody answers over TCP, in neither family, and says so at once.
fn refuses(client: &Host, port: u16) -> bool {
    at(port).iter().all(|to| {
        let refused = client.tcp_to(*to, SILENCE).expect_err("nobody listens");
        refused.kind() == std::io::ErrorKind::ConnectionRefused
    })
}

fn go_on(flows: &[Flow]) {
    flows.iter().for_each(Flow::goes_on);
}

#[test]
fn connections_do_not_notice_that_other_ports_of_their_container_come_and_go() {
    let (lab, daemon) = lab();
    let web = daemon.run("web", "--network n1 -p 8080:80 -p 8080:80/udp");
    let (_echo, _server) = (Echo::start(&web, 80), web.serve(90));
    let flows = Flow::all(&lab.client, at(8080));
    for _ in 0..3 {
        assert!(refuses(&lab.client, 9090));
        daemon.rnet("port add web 9090:90 9090:90/udp");
        assert!(opens(&lab, 9090));
        go_on(&flows);
        daemon.rnet("port rm web 90 90/udp");
        go_on(&flows);
    }
    assert!(refuses(&lab.client, 9090));
    flows.into_iter().for_each(Flow::end);
}

#[test]
fn what_is_published_is_told_and_found_by_its_service() {
    let (_lab, daemon) = lab();
    let web = daemon.run("web", "--network n1 -p 8080:80");
    daemon.rnet("port add web 127.0.0.1:9090:90 [::1]:9091:91/udp");
    let all = "80/tcp -> 0.0.0.0:8080\n80/tcp -> [::]:8080\n90/tcp -> 127.0.0.1:9090\n\
               91/udp -> [::1]:9091";
    assert_eq!(daemon.rnet("port web"), all);
    let listed = daemon.rnet("port ls web --format {{.Port}}={{.Published}}={{.State}}");
    let expected = "80/tcp=0.0.0.0:8080=open\n80/tcp=[::]:8080=open\n\
                    90/tcp=127.0.0.1:9090=open\n91/udp=[::1]:9091=open";
    assert_eq!(listed, expected);
    let told: serde_json::Value = serde_json::from_str(&daemon.rnet("inspect web")).unwrap();
    let binding = &told[0]["HostConfig"]["PortBindings"]["90/tcp"][0];
    assert_eq!(*binding, serde_json::json!({"HostIp": "127.0.0.1", "HostPort": "9090"}));
    assert!(daemon.rnet("ps").contains("127.0.0.1:9090->90/tcp"));
    assert!(!lookup::ask(&web, "_90._tcp.web", "SRV").records.is_empty());
    // One family of a port goes alone, and what is left is told by its address.
    daemon.rnet("port rm web 0.0.0.0:8080:80 90");
    assert_eq!(daemon.rnet("port web"), "80/tcp -> [::]:8080\n91/udp -> [::1]:9091");
    assert!(lookup::ask(&web, "_90._tcp.web", "SRV").records.is_empty());
}

#[test]
fn a_change_of_ports_holds_after_a_restart_of_the_container_and_of_the_daemon() {
    let (lab, mut daemon) = lab();
    daemon.run("web", "--network n1 -p 8080:80 -p 8080:80/udp -p 7070:80");
    daemon.rnet("port add web 9090:90 9090:90/udp");
    daemon.rnet("port rm web 7070:80");
    let ends = |daemon: &Daemon| {
        let web = daemon.inside("web");
        let _servers = [80, 90].map(|port| web.serve(port));
        assert!(opens(&lab, 8080) && opens(&lab, 9090) && refuses(&lab.client, 7070));
    };
    ends(&daemon);
    daemon.kill();
    daemon.restart();
    ends(&daemon);
    daemon.rnet("restart -t 0 web");
    ends(&daemon);
    daemon.rnet("stop -t 0 web");
    daemon.rnet("port rm web 9090:90");
    daemon.rnet("port add web 7070:80");
    let listed = daemon.rnet("port ls web --format {{.Published}}->{{.Port}}:{{.State}}");
    assert!(listed.contains("7070->80/tcp:closed"), "{listed}");
    daemon.rnet("start web");
    let web = daemon.inside("web");
    let _servers = [80, 90].map(|port| web.serve(port));
    assert!(
        refuses(&lab.client, 9090)
            && at(7070).iter().all(|to| lab.client.tcp(to.ip(), 7070).is_ok())
    );
}

#[test]
fn a_connection_to_a_withdrawn_port_ends_at_once() {
    let (lab, daemon) = lab();
    let web = daemon.run("web", "--network n1 -p 8080:80 -p 8081:80");
    let _echo = Echo::start(&web, 80);
    let [of_one, of_other] = [8080, 8081].map(|port| at(port).map(|to| Flow::tcp(&lab.client, to)));
    go_on(&of_one);
    // An end is told when it sends something; a client that waits for an answer would wait.
    let pauses = of_one.each_ref().map(Flow::pauses);
    daemon.rnet("port rm web 8080:80");
    drop(pauses);
    for flow in of_one {
        let error = flow.breaks();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
    }
    of_other.into_iter().for_each(Flow::end);
}

#[test]
fn a_connection_ends_with_its_port_also_when_the_container_speaks_next_and_the_numbers_are_the_same()
 {
    let (lab, daemon) = lab();
    let web = daemon.run("web", "--network n1 -p 8080:8080");
    let server = web.run(|| TcpListener::bind("[::]:8080")).unwrap();
    // Of other machines, and of the host itself.
    for clients in [&lab.client, &lab.host] {
        let connections = at(8080).map(|to| {
            let client = clients.run(|| TcpStream::connect(to)).unwrap();
            client.set_read_timeout(Some(patient(Duration::from_secs(10)))).unwrap();
            (client, server.accept().unwrap().0)
        });
        daemon.rnet("port rm web 8080");
        for (mut client, mut end) in connections {
            wait_until("the container's end is reset", || end.write_all(b"still here?").is_err());
            // Nothing of it arrives, and what the client says is refused.
            let said = client.write_all(b"hello?").and_then(|()| client.read(&mut [0; 64]));
            let error = said.expect_err("nobody is there to answer");
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
        }
        daemon.rnet("port add web 8080:8080");
    }
}

#[test]
fn a_port_that_is_taken_out_of_a_range_ends_its_connections_and_no_others() {
    let (lab, daemon) = lab();
    let range = "8000-8009:8000-8009";
    let web = daemon.run("web", &format!("--network n1 -p {range} -p {range}/udp"));
    let _echoes = [8003, 8007].map(|port| Echo::start(&web, port));
    let of_one = at(8003).map(|to| Flow::tcp(&lab.client, to));
    let others = Flow::all(&lab.client, at(8007));
    go_on(&of_one);
    go_on(&others);
    // An end is told when it sends something; a client that waits for an answer would wait.
    let pauses = of_one.each_ref().map(Flow::pauses);
    daemon.rnet("port rm web 8003 8003/udp");
    drop(pauses);
    for flow in of_one {
        let error = flow.breaks();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
    }
    go_on(&others);
    daemon.rnet("port add web 8003:8003 8003:8003/udp");
    go_on(&others);
    others.into_iter().for_each(Flow::end);
}

#[test]
fn connections_to_a_port_that_drains_go_on_for_their_time_and_new_ones_go_elsewhere() {
    let (lab, mut daemon) = lab();
    let old = daemon.run("old", "--network n1 -p 8080:80 -p 8081:80 --restart always");
    let new = daemon.run("new", "--network n1");
    let _echo = Echo::start(&old, 80);
    let flows = at(8080).map(|to| Flow::tcp(&lab.client, to));
    let longer = at(8081).map(|to| Flow::tcp(&lab.client, to));
    daemon.rnet("port rm --drain 3s old 8080:80");
    daemon.rnet("port rm --drain 1h old 8081:80");
    assert!(daemon.rnet("port ls old").contains("draining until"));
    assert!(refuses(&lab.client, 8080) && refuses(&lab.client, 8081));
    daemon.rnet("port add new 8080:80");
    let _server = new.serve(80);
    for to in at(8080) {
        assert!(lab.client.tcp(to.ip(), 8080).is_ok());
    }
    go_on(&flows);
    // Who promised to end them is gone, and the next one keeps the promise.
    daemon.kill();
    daemon.restart();
    go_on(&longer);
    for flow in flows {
        flow.breaks();
    }
    for to in at(8080) {
        assert!(lab.client.tcp(to.ip(), 8080).is_ok());
    }
    // What is published again stays.
    daemon.rnet("port add old 8081:80");
    assert!(!daemon.rnet("port ls old").contains("draining"));
    longer.into_iter().for_each(Flow::end);
}

#[test]
fn connections_that_are_carried_to_a_port_that_drains_go_on_for_their_time() {
    let (lab, mut daemon) = lab();
    daemon.rnet("network create v4");
    let old = daemon.run("old", "--network n1 -p 8080:80");
    let new = daemon.run("new", "--network n1");
    let other = daemon.run("other", "--network v4 -p 8081:80 -p 8082:80");
    let _echoes = [&old, &other].map(|container| Echo::start(container, 80));
    // The kernel translates neither what comes from `::1` nor IPv6 for who has none.
    let local: SocketAddr = "[::1]:8080".parse().unwrap();
    let [.., distant] = at(8081);
    let [v4, v6] = at(8082).map(|to| Flow::tcp(&lab.client, to));
    let flow = Flow::tcp(&lab.host, local);
    let longer = Flow::tcp(&lab.client, distant);
    daemon.rnet("port rm --drain 3s old 8080:80");
    flow.goes_on();
    daemon.rnet("port rm --drain 1h other 8081:80");
    daemon.rnet("port rm --drain 1s other [::]:8082:80");
    assert!(daemon.rnet("port ls other").contains("draining until"));
    for (host, to) in [(&lab.host, local), (&lab.client, distant)] {
        let refused = host.tcp_to(to, SILENCE).expect_err("nobody listens");
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "{to}");
    }
    daemon.rnet("port add new 8080:80");
    let _server = new.serve(80);
    assert!(lab.host.tcp(local.ip(), 8080).is_ok());
    // Who promised to end them is gone, and the next one keeps the promise.
    daemon.kill();
    daemon.restart();
    longer.goes_on();
    flow.breaks();
    v6.breaks();
    assert!(lab.host.tcp(local.ip(), 8080).is_ok());
    // The other family of that port has not gone.
    v4.end();
    // What is published again stays, until it is withdrawn for good.
    daemon.rnet("port add other 8081:80");
    longer.goes_on();
    daemon.rnet("port rm other 8081:80");
    longer.breaks();
}

#[test]
fn connections_that_go_on_end_with_the_address_that_they_are_carried_to() {
    for end in ["network disconnect n1 web", "rm --force web"] {
        let (lab, daemon) = lab();
        let web = daemon.run("web", "--network n1 -p 8080:80");
        let _echo = Echo::start(&web, 80);
        let flow = Flow::tcp(&lab.host, "[::1]:8080".parse().unwrap());
        daemon.rnet("port rm --drain 1h web 8080:80");
        flow.goes_on();
        daemon.rnet(end);
        let error = flow.breaks();
        // Nobody waits for an answer that will not come.
        assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "{end}: {error}");
    }
}

#[test]
fn what_cannot_be_is_said_before_anything_is_changed() {
    let (_lab, daemon) = lab();
    daemon.run("web", "--network n1 -p 8080:80");
    daemon.run("other", "--network n1 -p 9090:90");
    daemon.run("guest", "--network container:web");
    daemon.run("on-host", "--network host");
    let before = daemon.rnet("port web");
    for (words, complaint) in [
        ("port add web 9090:90", "container other publishes it"),
        ("port add web 7070:70 8080:80", "container web publishes 8080->80/tcp already"),
        ("port rm web 8081:80", "container web does not publish 8081->80/tcp: it publishes"),
        ("port rm web 80 81", "does not publish 81/tcp"),
        ("port add guest 7070:70", "in the network namespace of container web"),
        ("port add on-host 7070:70", "on the host's network"),
        ("port add nobody 7070:70", "No such container: nobody"),
        ("port add web 99999:80", "invalid hostPort: 99999"),
        ("port rm --drain soon web 80", "invalid duration `soon` for --drain"),
        ("port rm --drain 500h web 80", "is too long"),
    ] {
        let told = daemon.refusal(words);
        assert!(told.contains(complaint), "{words}: {told}");
    }
    assert_eq!(daemon.rnet("port web"), before);
}

#[test]
fn a_daemon_that_is_killed_while_ports_change_leaves_all_or_nothing_of_the_change() {
    let (lab, mut daemon) = lab();
    daemon.run("web", "--network n1 -p 8080:80 -p 8080:80/udp");
    for round in 0..4 {
        let mut change = daemon.begin("port add web 9090:90 9090:90/udp");
        // Sooner or later in the change.
        let started = std::time::Instant::now();
        wait_until("it is under way", || started.elapsed().as_millis() >= round * 4);
        daemon.kill();
        let _ = change.wait();
        daemon.restart();
        let web = daemon.inside("web");
        let _servers = [80, 90].map(|port| web.serve(port));
        let told = daemon.rnet("port web").contains("9090");
        assert!(opens(&lab, 8080));
        let open: Vec<IpAddr> = at(9090)
            .iter()
            .filter(|to| lab.client.tcp_to(**to, SILENCE).is_ok())
            .map(SocketAddr::ip)
            .collect();
        assert_eq!(open.len(), if told { 2 } else { 0 }, "{open:?}");
        if told {
            daemon.rnet("port rm web 90 90/udp");
        }
    }
}

#[test]
fn networks_come_and_go_under_connections_that_lose_nothing() {
    let (lab, daemon) = lab();
    daemon.rnet("network create --ipv6 a1");
    daemon.rnet("network create --ipv6 z1");
    let web = daemon.run("web", "--network n1 -p 8080:80 -p 8080:80/udp");
    let peer = daemon.run("peer", "--network n1");
    let inside = daemon.addresses("web")["n1"].clone();
    let _echo = Echo::start(&web, 80);
    let mut flows = Flow::all(&lab.client, at(8080));
    flows.extend(Flow::all(&peer, [inside[0], inside[1]].map(|host| SocketAddr::new(host, 80))));
    for _ in 0..3 {
        daemon.rnet("network connect z1 web");
        go_on(&flows);
        daemon.rnet("network disconnect z1 web");
        go_on(&flows);
    }
    flows.into_iter().for_each(Flow::end);
    // One that becomes the gateway takes new connections, and leaves old ones alone.
    let flows = at(8080).map(|to| Flow::tcp(&lab.client, to));
    daemon.rnet("network connect a1 web");
    go_on(&flows);
    assert!(at(8080).iter().all(|to| Flow::tcp(&lab.client, *to).lives()));
    daemon.rnet("network disconnect a1 web");
    flows.into_iter().for_each(Flow::end);
}
