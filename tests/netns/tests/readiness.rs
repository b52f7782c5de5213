//! Published ports that open when their container is ready for them.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use netns_tests::{Daemon, Echo, Flow, Host, Lab, SILENCE, wait_until};

fn lab() -> (Lab, Daemon) {
    let lab = Lab::new();
    let daemon = Daemon::start(&lab.host, &[]);
    daemon.rnet("network create --ipv6 n1");
    (lab, daemon)
}

/// The host's addresses with a port, and its loopbacks'.
fn at(port: u16) -> Vec<SocketAddr> {
    Lab::both(Lab::HOST).into_iter().map(|host| SocketAddr::new(host, port)).collect()
}

/// How TCP ends that is not answered: refused at once, or not at all.
fn refused(client: &Host, to: SocketAddr) -> bool {
    let ended = client.tcp_to(to, SILENCE).expect_err("nobody is to be reached");
    ended.kind() == std::io::ErrorKind::ConnectionRefused
}

fn state(daemon: &Daemon, container: &str) -> String {
    let mut states: Vec<_> = daemon
        .rnet(&format!("port ls {container} --format {{{{.State}}}}"))
        .lines()
        .map(str::to_owned)
        .collect();
    states.dedup();
    states.join(" ")
}

#[test]
fn a_port_opens_when_somebody_listens_and_closes_when_nobody_does() {
    let (lab, daemon) = lab();
    let flags = "--network n1 --publish-when listening -p 8080:80 -p 8080:80/udp";
    let web = daemon.run("web", flags);
    let near = Lab::both(["127.0.0.1", "::1"]).map(|host| SocketAddr::new(host, 8080));
    for _ in 0..2 {
        wait_until("it is closed", || state(&daemon, "web") == "waiting");
        assert!(at(8080).into_iter().all(|to| refused(&lab.client, to)));
        assert!(near.into_iter().all(|to| refused(&lab.host, to)));
        let server = web.serve(80);
        wait_until("it is open", || state(&daemon, "web") == "open");
        for to in at(8080) {
            assert!(lab.client.tcp(to.ip(), 8080).is_ok() && lab.client.udp(to.ip(), 8080).is_ok());
        }
        assert!(near.into_iter().all(|to| lab.host.tcp(to.ip(), 8080).is_ok()));
        drop(server);
    }
}

#[test]
fn who_listens_at_the_loopback_alone_is_not_reached_and_opens_nothing() {
    let (_lab, daemon) = lab();
    let web =
        daemon.run("web", "--network n1 --label rnet.publish-when=listening -p 8080:80 -p 81:81");
    let _hidden = web.run(|| std::net::TcpListener::bind("127.0.0.1:80")).unwrap();
    let _shown = web.run(|| std::net::TcpListener::bind("0.0.0.0:81")).unwrap();
    let open = "81/tcp=open\n81/tcp=open";
    wait_until("the other one is open", || {
        daemon.rnet("port ls web --format {{.Port}}={{.State}}").ends_with(open)
    });
    assert!(daemon.rnet("port ls web --format {{.Port}}={{.State}}").starts_with("80/tcp=waiting"));
}

#[test]
fn a_client_never_gets_a_connection_that_says_nothing_while_its_server_starts() {
    let (lab, daemon) = lab();
    let web = daemon.run("web", "--network n1 --publish-when listening -p 8080:80");
    let refusals = AtomicUsize::new(0);
    let ask = &|to: SocketAddr| {
        while let Err(error) = lab.client.tcp_to(to, SILENCE) {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{error}");
            refusals.fetch_add(1, Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| {
        let clients = at(8080).into_iter().map(|to| scope.spawn(move || ask(to)));
        let clients: Vec<_> = clients.collect();
        wait_until("clients were refused", || refusals.load(Ordering::Relaxed) > 20);
        let _server = web.serve(80);
        for client in clients {
            client.join().unwrap();
        }
    });
}

#[test]
fn a_port_opens_when_its_container_is_healthy_and_old_connections_outlive_its_illness() {
    let (lab, daemon) = lab();
    let test = ["CMD", "send", "-t", "1", "127.0.0.1", "81", "x"];
    let check = serde_json::json!({"Test": test, "Interval": 100_000_000, "Retries": 1});
    let ports = serde_json::json!({"80/tcp": [{"HostPort": "8080"}]});
    let body = serde_json::json!({
        "Image": "rnet/toolbox", "Cmd": ["sleep", "1000"], "Healthcheck": check,
        "Labels": {"rnet.publish-when": "healthy"},
        "HostConfig": {"NetworkMode": "n1", "PortBindings": ports},
    });
    daemon.post("/containers/create?name=web", &body);
    daemon.rnet("start web");
    let web = daemon.inside("web");
    let _echo = Echo::start(&web, 80);
    wait_until("it is closed", || state(&daemon, "web") == "waiting");
    assert!(at(8080).into_iter().all(|to| refused(&lab.client, to)));
    let health = Echo::start(&web, 81);
    wait_until("it is open", || state(&daemon, "web") == "open");
    let flows: Vec<_> = at(8080).into_iter().map(|to| Flow::tcp(&lab.client, to)).collect();
    drop(health);
    wait_until("it is closed again", || state(&daemon, "web") == "waiting");
    assert!(at(8080).into_iter().all(|to| refused(&lab.client, to)));
    flows.into_iter().for_each(Flow::end);
}

#[test]
fn readiness_is_kept_by_the_next_daemon_and_asked_anew_by_the_next_start() {
    let (lab, mut daemon) = lab();
    let web = daemon.run("web", "--network n1 --publish-when listening -p 8080:80");
    let server = web.serve(80);
    wait_until("it is open", || state(&daemon, "web") == "open");
    daemon.kill();
    // What was open stays so without a daemon.
    assert!(at(8080).into_iter().all(|to| lab.client.tcp(to.ip(), 8080).is_ok()));
    daemon.restart();
    assert_eq!(state(&daemon, "web"), "open");
    drop(server);
    wait_until("it is closed", || state(&daemon, "web") == "waiting");
    daemon.kill();
    daemon.restart();
    assert_eq!(state(&daemon, "web"), "waiting");
    daemon.rnet("restart -t 0 web");
    assert_eq!(state(&daemon, "web"), "waiting");
    let _server = daemon.inside("web").serve(80);
    wait_until("it is open", || state(&daemon, "web") == "open");
}

#[test]
fn a_port_that_is_added_may_wait_and_others_do_not_notice() {
    let (lab, daemon) = lab();
    let web = daemon.run("web", "--network n1 -p 8080:80 -p 8080:80/udp");
    let _echo = Echo::start(&web, 80);
    let pair = [at(8080)[0], at(8080)[1]];
    let flows = Flow::all(&lab.client, pair);
    daemon.rnet("port add --publish-when listening web 9090:90");
    assert!(at(9090).into_iter().all(|to| refused(&lab.client, to)));
    let _server = web.serve(90);
    wait_until("it is open", || {
        at(9090).into_iter().all(|to| lab.client.tcp_to(to, SILENCE).is_ok())
    });
    flows.into_iter().for_each(Flow::end);
}

#[test]
fn a_wrong_condition_is_refused_before_there_is_a_container() {
    let (_lab, daemon) = lab();
    for (flags, complaint) in [
        ("--publish-when soon -p 80", "invalid label rnet.publish-when=soon: use always"),
        ("--publish-when healthy -p 80", "it has no health check: add --health-cmd"),
        ("--publish-when listening -p 80:80/sctp", "whether somebody listens at port 80/sctp"),
    ] {
        let told = daemon.refusal(&format!("create --name wrong {flags} rnet/toolbox sleep 1"));
        assert!(told.contains(complaint), "{flags}: {told}");
        assert!(daemon.refusal("inspect wrong").contains("No such object"));
    }
    daemon.run("web", "--network n1 -p 8080:80");
    let told = daemon.refusal("port add --publish-when listening web 8081:80");
    assert!(told.contains("both always and listening"), "{told}");
}
