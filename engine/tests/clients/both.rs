//! What `docker` and `rnet` do alike: each test runs with both of them.

use crate::daemon::{Client, Daemon};

const IMAGE: &str = "rnet/toolbox";

/// A test for each client, with a daemon of its own.
macro_rules! with_both {
    ($($(#[$meta:meta])* $name:ident;)*) => {
        mod docker {
            $(#[test] fn $name() { super::$name(crate::daemon::Client::Docker); })*
        }
        mod rnet {
            $(#[test] fn $name() { super::$name(crate::daemon::Client::Rnet); })*
        }
    };
}

with_both! {
    the_flags_of_run_reach_the_container;
    networks_come_and_go_while_a_container_runs;
    a_static_address_is_lent_to_who_names_it_while_its_container_is_stopped;
    a_container_can_be_paused_renamed_and_restarted;
    logs_are_shown_in_part;
    stopping_ends_with_137_when_sigterm_is_ignored;
    events_come_in_docker_s_order;
    one_label_is_shown_by_ps;
}

/// Runs a tool in a container that goes away.
fn tool(daemon: &Daemon, client: Client, flags: &[&str], words: &[&str]) -> String {
    daemon.ok(client, &[&["run", "--rm"], flags, &[IMAGE], words].concat())
}

fn network(daemon: &Daemon, client: Client, name: &str, v4: &str, v6: &str) {
    let flags = ["network", "create", "--subnet", v4, "--ipv6", "--subnet", v6, name];
    assert_eq!(daemon.ok(client, &flags).len(), 64);
}

fn the_flags_of_run_reach_the_container(client: Client) {
    let daemon = Daemon::start(&[]);
    let ok = |arguments: &[&str]| daemon.ok(client, arguments);
    network(&daemon, client, "n1", "10.91.0.0/24", "fd91::/64");
    network(&daemon, client, "n2", "10.92.0.0/24", "fd92::/64");
    std::fs::write(daemon.scratch.path("env"), "A=1\n# none\nC=x y\n").unwrap();
    std::fs::create_dir(daemon.scratch.path("bound")).unwrap();
    std::fs::write(daemon.scratch.path("bound/file"), "").unwrap();
    let (env, bound) = (daemon.scratch.text("env"), daemon.scratch.text("bound:/mnt:ro"));
    let flags = "run -d --name web --network n1 --network n2 --network-alias other -p 8080:80 \
                 -p 127.0.0.1::81/udp --expose 99 -P --hostname host1 --dns 192.0.2.9 \
                 --dns-search example.org --add-host foo:192.0.2.7 --add-host up:host-gateway \
                 -e X=1 -w /tmp -u 12:34 -l a=b -v data:/data --restart unless-stopped";
    let mut arguments: Vec<_> = flags.split_whitespace().collect();
    arguments.extend(["--env-file", &env, "-v", &bound, IMAGE, "httpd", "-p", "80"]);
    ok(&arguments);
    let exec = |words: &[&str]| ok(&[&["exec", "web"], words].concat());
    let environment = exec(&["env"]);
    for line in ["A=1", "C=x y", "X=1", "HOSTNAME=host1", "HOME=/"] {
        assert!(environment.lines().any(|found| found == line), "{environment}");
    }
    assert!(exec(&["id"]).starts_with("uid=12 gid=34"));
    assert_eq!((exec(&["pwd"]), exec(&["hostname"])), ("/tmp".into(), "host1".into()));
    assert_eq!(exec(&["ls", "/mnt"]), "file");
    let hosts = exec(&["cat", "/etc/hosts"]);
    for line in ["192.0.2.7\tfoo", "172.17.0.1\tup", "10.91.0.2\thost1", "fd92::2\thost1"] {
        assert!(hosts.lines().any(|found| found == line), "{line}: {hosts}");
    }
    let resolv = exec(&["cat", "/etc/resolv.conf"]);
    assert_eq!(
        resolv,
        "nameserver 127.0.0.11\nsearch example.org\noptions ndots:0\n\n\
         # ExtServers: [192.0.2.9]\n# Overrides: [nameservers search]"
    );
    for (name, addresses) in [("other", "10.91.0.2\nfd91::2"), ("web.n2", "10.92.0.2\nfd92::2")] {
        assert_eq!(exec(&["lookup", name]), addresses);
    }
    assert_eq!(ok(&["port", "web", "80"]), "0.0.0.0:8080\n[::]:8080");
    let ports = ok(&["port", "web"]);
    assert!(ports.contains("81/udp -> 127.0.0.1:32768"), "{ports}");
    assert!(ports.contains("99/tcp -> 0.0.0.0:"), "{ports}");
    let fixed = "--network n1 --ip 10.91.0.77 --ip6 fd91::77 --mac-address 02:11:22:33:44:55";
    let fixed: Vec<_> = fixed.split(' ').collect();
    let answer = tool(&daemon, client, &fixed, &["get", "-6", "http://web/"]);
    assert!(answer.starts_with("peer: [fd91::77]:"), "{answer}");
    let mac = tool(&daemon, client, &fixed, &["cat", "/sys/class/net/eth0/address"]);
    assert_eq!(mac, "02:11:22:33:44:55");
    assert_eq!(tool(&daemon, client, &["--network", "none"], &["ls", "/sys/class/net"]), "lo");
    let shared = tool(&daemon, client, &["--network", "container:web"], &["get", "http://[::1]/"]);
    assert!(shared.contains("hostname: host1"), "{shared}");
    let links = tool(&daemon, client, &["--network", "host"], &["ls", "/sys/class/net"]);
    assert!(links.contains("br-"), "{links}");
    assert_eq!(tool(&daemon, client, &["--entrypoint", "echo"], &["hi"]), "hi");
}

fn networks_come_and_go_while_a_container_runs(client: Client) {
    let daemon = Daemon::start(&[]);
    let ok = |arguments: &[&str]| daemon.ok(client, arguments);
    network(&daemon, client, "n1", "10.91.0.0/24", "fd91::/64");
    ok(&["network", "create", "n2"]);
    ok(&["run", "-d", "--name", "web", "-p", "8080:80", IMAGE, "httpd", "-p", "80"]);
    let links = || ok(&["exec", "web", "ls", "/sys/class/net"]);
    let answers = || {
        let answer = daemon.beside("curl", &["-s", "-m", "10", "http://127.0.0.1:8080/"]);
        String::from_utf8(answer.stdout).unwrap().starts_with("peer: ")
    };
    assert_eq!((links().as_str(), answers()), ("eth0\nlo", true));
    ok(&["network", "connect", "--ip", "10.91.0.50", "--alias", "zed", "n1", "web"]);
    assert_eq!((links().as_str(), answers()), ("eth0\neth1\nlo", true));
    assert_eq!(
        tool(&daemon, client, &["--network", "n1"], &["lookup", "zed"]).lines().next(),
        Some("10.91.0.50")
    );
    let answer = tool(&daemon, client, &["--network", "n1"], &["get", "-6", "http://web/"]);
    assert!(answer.contains("peer: [fd91::"), "{answer}");
    ok(&["network", "connect", "n2", "web"]);
    ok(&["network", "disconnect", "bridge", "web"]);
    assert_eq!((links().as_str(), answers()), ("eth1\neth2\nlo", true));
    let inspected = ok(&[
        "network",
        "inspect",
        "-f",
        "{{range .Containers}}{{.Name}} {{.IPv4Address}}{{end}}",
        "n1",
    ]);
    assert_eq!(inspected, "web 10.91.0.50/24");
    let (code, _, error) = daemon.ask(client, &["network", "rm", "n1"]);
    assert_eq!(code, Some(1));
    assert!(error.contains("has active endpoints"), "{error}");
    ok(&["rm", "-f", "web"]);
    ok(&["network", "prune", "-f"]);
    assert_eq!(ok(&["network", "ls", "-q", "--filter", "type=custom"]), "");
}

fn a_static_address_is_lent_to_who_names_it_while_its_container_is_stopped(client: Client) {
    let daemon = Daemon::start(&[]);
    network(&daemon, client, "n1", "10.91.0.0/24", "fd91::/64");
    daemon.ok(client, &["run", "-d", "--name", "late", IMAGE]);
    daemon.ok(client, &["network", "connect", "--ip", "10.91.0.50", "n1", "late"]);
    daemon.ok(
        client,
        &["run", "-d", "--name", "early", "--network", "n1", "--ip", "10.91.0.51", IMAGE],
    );
    let take = |address: &str| {
        let (code, _, error) =
            daemon.ask(client, &["run", "--rm", "--network", "n1", "--ip", address, IMAGE, "true"]);
        assert!(code == Some(0) || error.contains("Address already in use"), "{error}");
        code == Some(0)
    };
    assert!(!take("10.91.0.50") && !take("10.91.0.51"), "they are in use");
    daemon.ok(client, &["stop", "-t", "1", "late", "early"]);
    assert!(take("10.91.0.50") && take("10.91.0.51"), "who names them gets them meanwhile");
    daemon.ok(client, &["start", "late", "early"]);
    for name in ["late", "early"] {
        daemon.ok(client, &["network", "disconnect", "n1", name]);
    }
    assert!(take("10.91.0.50") && take("10.91.0.51"), "they are free when disconnected");
}

fn a_container_can_be_paused_renamed_and_restarted(client: Client) {
    let daemon = Daemon::start(&[]);
    let ok = |arguments: &[&str]| daemon.ok(client, arguments);
    ok(&["network", "create", "n1"]);
    ok(&["run", "-d", "--name", "old", "--network", "n1", IMAGE]);
    ok(&["pause", "old"]);
    assert!(ok(&["ps", "--format", "{{.Status}}"]).ends_with(" (Paused)"));
    let (code, _, error) = daemon.ask(client, &["exec", "old", "true"]);
    assert_eq!(code, Some(1));
    assert!(error.contains("is paused, unpause the container"), "{error}");
    ok(&["unpause", "old"]);
    ok(&["rename", "old", "new"]);
    let lookup =
        |name| daemon.ask(client, &["run", "--rm", "--network", "n1", IMAGE, "lookup", name]).0;
    assert_eq!((lookup("new"), lookup("old")), (Some(0), Some(1)));
    ok(&["restart", "-t", "1", "new"]);
    assert_eq!(lookup("new"), Some(0));
    ok(&["run", "-d", "--name", "again", "--restart", "on-failure:2", IMAGE, "exit", "3"]);
    let state = "{{.RestartCount}} {{.State.Status}} {{.State.ExitCode}}";
    let end = std::time::Instant::now() + crate::daemon::PATIENCE;
    while ok(&["inspect", "-f", state, "again"]) != "2 exited 3" {
        assert!(std::time::Instant::now() < end, "{}", ok(&["inspect", "-f", state, "again"]));
    }
}

fn logs_are_shown_in_part(client: Client) {
    let daemon = Daemon::start(&[]);
    let ok = |arguments: &[&str]| daemon.ok(client, arguments);
    ok(&["run", "-d", "--name", "talk", "--network", "none", IMAGE, "flood", "5"]);
    assert_eq!(ok(&["wait", "talk"]), "0");
    assert_eq!(ok(&["logs", "talk"]).lines().count(), 5);
    assert_eq!(ok(&["logs", "-f", "--tail", "2", "talk"]).lines().count(), 2);
    assert_eq!(ok(&["logs", "--since", "2099-01-01T00:00:00Z", "talk"]), "");
    assert_eq!(ok(&["logs", "--since", "1h", "talk"]).lines().count(), 5);
    let stamped = ok(&["logs", "-t", "-n", "1", "talk"]);
    let (time, line) = stamped.split_once(' ').unwrap();
    assert!(time.ends_with('Z') && time.len() == 30 && line.starts_with("line "), "{stamped}");
}

fn stopping_ends_with_137_when_sigterm_is_ignored(client: Client) {
    let daemon = Daemon::start(&[]);
    let ok = |arguments: &[&str]| daemon.ok(client, arguments);
    ok(&["run", "-d", "--name", "deaf", "--network", "none", IMAGE, "ignore"]);
    let began = std::time::Instant::now();
    assert_eq!(ok(&["stop", "-t", "1", "deaf"]), "deaf");
    assert!(began.elapsed() >= std::time::Duration::from_secs(1));
    assert_eq!(ok(&["wait", "deaf"]), "137");
    let (code, _, error) = daemon.ask(client, &["kill", "deaf"]);
    assert_eq!(code, Some(1));
    assert!(error.contains("is not running"), "{error}");
    ok(&["start", "deaf"]);
    let (code, ..) = daemon.ask(client, &["rm", "deaf"]);
    assert_eq!(code, Some(1));
    ok(&["rm", "-f", "deaf"]);
    let (code, _, error) = daemon.ask(client, &["rm", "-f", "deaf"]);
    assert_eq!(
        (code, error.as_str()),
        (Some(0), "Error response from daemon: No such container: deaf")
    );
}

fn events_come_in_docker_s_order(client: Client) {
    let daemon = Daemon::start(&[]);
    daemon.ok(client, &["network", "create", "n1"]);
    daemon.ok(client, &["run", "--rm", "--name", "once", "--network", "n1", IMAGE, "exit", "0"]);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let until = (now.as_secs() + 1).to_string();
    let format = "{{.Type}} {{.Action}}";
    let events =
        daemon.ok(client, &["events", "--since", "0", "--until", &until, "--format", format]);
    let expected = "network create\ncontainer create\ncontainer attach\nnetwork connect\n\
                    container start\ncontainer die\nnetwork disconnect\ncontainer destroy";
    assert_eq!(events, expected);
}

fn one_label_is_shown_by_ps(client: Client) {
    let daemon = Daemon::start(&[]);
    daemon.ok(client, &["create", "--name", "box", "-l", "a=b,c", IMAGE]);
    let shown = daemon.ok(client, &["ps", "-a", "--format", "{{.Names}} {{.Label \"a\"}}"]);
    assert_eq!(shown, "box b,c");
}
