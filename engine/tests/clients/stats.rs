//! What containers use is told once, as a stream, and as a table.

use std::io::BufReader;
use std::process::{Child, Stdio};
use std::time::Instant;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::daemon::{Client, Daemon, Lines, PATIENCE, Reply, read_chunk};

const IMAGE: &str = "rnet/toolbox";

/// The answers of a stream, one after the other.
struct Answers(BufReader<std::os::unix::net::UnixStream>);

impl Answers {
    fn of(daemon: &Daemon, key: &str) -> Self {
        let path = format!("/containers/{key}/stats");
        let mut stream = BufReader::new(daemon.open("GET", &path, "", b""));
        let head = Reply::read_head(&mut stream);
        assert_eq!((head.status, head.header("content-type")), (200, Some("application/json")));
        Self(stream)
    }

    fn next(&mut self) -> Option<Value> {
        read_chunk(&mut self.0).map(|chunk| serde_json::from_slice(&chunk).unwrap())
    }
}

#[test]
fn a_container_s_use_is_told_as_docker_tells_it() {
    let daemon = Daemon::start(&[]);
    let run = ["run", "-d", "--name", "web", "-m", "64m", "--pids-limit", "50"];
    let id = daemon.docker_ok(&[&run[..], &[IMAGE, "httpd", "-p", "80"]].concat());
    daemon.docker_ok(&["run", "--rm", IMAGE, "get", "http://web/"]);
    let both = daemon.get("/containers/web/stats?stream=0").json();
    assert_eq!((both["name"].as_str(), both["id"].as_str()), (Some("/web"), Some(&*id)));
    let number = |value: &Value| value.as_u64().unwrap_or_default();
    let cpu = |when: &str, what: &str| number(&both[when][what]);
    assert!(cpu("cpu_stats", "system_cpu_usage") > cpu("precpu_stats", "system_cpu_usage"));
    assert!(cpu("precpu_stats", "system_cpu_usage") > 0 && cpu("cpu_stats", "online_cpus") > 0);
    assert!(number(&both["cpu_stats"]["cpu_usage"]["total_usage"]) > 0, "{both}");
    assert_eq!(both["memory_stats"]["limit"], 64 << 20);
    assert!(number(&both["memory_stats"]["usage"]) > 0, "{both}");
    let pids = &both["pids_stats"];
    assert!(number(&pids["current"]) >= 1 && pids["limit"] == 50, "{both}");
    assert!(number(&both["networks"]["eth0"]["rx_bytes"]) > 0, "{both}");
    assert!(number(&both["networks"]["eth0"]["tx_packets"]) > 0, "{both}");
    assert!(both["preread"].as_str() < both["read"].as_str(), "{both}");
    let one = daemon.get("/containers/web/stats?stream=0&one-shot=1").json();
    assert!(one.get("name").is_none() && one["preread"] == "0001-01-01T00:00:00Z", "{one}");
    assert_eq!(one["precpu_stats"]["cpu_usage"]["total_usage"], 0);
    // Before that version it was not known.
    let old = daemon.get("/v1.40/containers/web/stats?stream=0&one-shot=1").json();
    assert_eq!(old["name"], "/web");
    let reply = daemon.get("/containers/web/stats?one-shot=1");
    assert_eq!(
        (reply.status, &*reply.message()),
        (400, "cannot have stream=true and one-shot=true")
    );
    let reply = daemon.get("/containers/nope/stats");
    assert_eq!((reply.status, &*reply.message()), (404, "No such container: nope"));
}

#[test]
fn a_stream_goes_on_over_an_end_and_ends_with_the_container() {
    let daemon = Daemon::start(&[]);
    daemon.docker_ok(&["run", "-d", "--name", "c1", "--network", "none", IMAGE, "trap"]);
    let mut answers = Answers::of(&daemon, "c1");
    let first = answers.next().unwrap();
    assert_eq!(
        (&first["name"], &first["precpu_stats"]["system_cpu_usage"]),
        (&json!("/c1"), &Value::Null)
    );
    let second = answers.next().unwrap();
    assert_eq!(second["preread"], first["read"]);
    assert!(second.get("networks").is_none(), "{second}");
    daemon.docker_ok(&["kill", "c1"]);
    let mut rest = std::iter::from_fn(|| answers.next());
    let zeros = rest.find(|answer| answer["memory_stats"] == json!({})).unwrap();
    assert_eq!(
        (&zeros["read"], &zeros["pids_stats"]),
        (&json!("0001-01-01T00:00:00Z"), &json!({}))
    );
    let whole = daemon.get("/containers/c1/stats?stream=0").json();
    assert_eq!((&whole["name"], &whole["cpu_stats"]), (&json!("/c1"), &zeros["cpu_stats"]));
    daemon.docker_ok(&["start", "c1"]);
    assert!(rest.any(|answer| answer["memory_stats"] != json!({})));
    daemon.docker_ok(&["rm", "-f", "c1"]);
    assert!(rest.all(|answer| answer["name"] == "/c1"), "it does not end");
}

#[test]
fn both_clients_show_the_same_table() {
    let daemon = Daemon::start(&[]);
    daemon.docker_ok(&["run", "-d", "--name", "web", "-m", "64m", IMAGE, "trap"]);
    daemon.docker_ok(&["create", "--name", "idle", IMAGE, "true"]);
    let shown = Client::ALL.map(|client| {
        let stats = ["stats", "--no-stream", "--format"];
        let ask = |rest: &[&str]| daemon.ok(client, &[&stats[..], rest].concat());
        let row = ask(&["{{.Name}} {{.MemUsage}} {{.PIDs}} {{.NetIO}} {{.BlockIO}}", "idle"]);
        assert_eq!(row, "idle 0B / 0B 0 0B / 0B 0B / 0B", "{client:?}");
        let names = |rest: &[&str]| {
            let text = ask(&[&["{{.Name}} {{.PIDs}}"], rest].concat());
            let mut names: Vec<_> = text.lines().map(str::to_owned).collect();
            names.sort();
            names
        };
        assert_eq!(names(&[]), ["web 1"], "{client:?}");
        assert_eq!(names(&["-a"]), ["idle 0", "web 1"], "{client:?}");
        let json: Value = serde_json::from_str(&ask(&["json", "web"])).unwrap();
        assert!(json["MemUsage"].as_str().unwrap().ends_with(" / 64MiB"), "{json}");
        let keys: Vec<_> = json.as_object().unwrap().keys().cloned().collect();
        let table = daemon.ok(client, &["stats", "--no-stream"]);
        let (code, _, error) = daemon.ask(client, &["stats", "--no-stream", "nope"]);
        assert_eq!(code, Some(1), "{client:?} {error}");
        assert!(error.contains("No such container: nope"), "{client:?} {error}");
        (keys, table.lines().next().unwrap().to_owned())
    });
    assert_eq!(shown[0], shown[1]);
}

#[test]
fn the_table_keeps_itself_up_to_date() {
    let daemon = Daemon::start(&[]);
    for client in Client::ALL {
        let mut command = daemon.client(client, &["stats", "--format", "<{{.Name}} {{.PIDs}}>"]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = Lines::of(child.stdout.take().unwrap());
        daemon.docker_ok(&["run", "-d", "--name", "late", "--network", "none", IMAGE, "trap"]);
        assert!(lines.first(|line| line.contains("<late 1>")).is_some(), "{client:?}");
        daemon.docker_ok(&["rm", "-f", "late"]);
        // A frame without it, which is the start of a screen that is empty.
        let mut frame = 0;
        let gone = lines.first(|line| {
            frame = if line.contains("late") { 0 } else { frame + 1 };
            frame > 2
        });
        assert!(gone.is_some() || client == Client::Docker, "{client:?}");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

/// Our client's table of all that runs.
fn table(daemon: &Daemon) -> (Child, Lines) {
    let mut command = daemon.client(Client::Rnet, &["stats", "--format", "<{{.Name}} {{.PIDs}}>"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let lines = Lines::of(child.stdout.take().unwrap());
    (child, lines)
}

/// Waits until it is so.
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn a_table_of_all_containers_ends_with_the_daemon() {
    let mut daemon = Daemon::start(&[]);
    daemon.docker_ok(&["run", "-d", "--name", "web", "--network", "none", IMAGE, "trap"]);
    let (mut child, mut lines) = table(&daemon);
    assert!(lines.first(|line| line.contains("<web 1>")).is_some());
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait(), Some(0));
    let mut ended = None;
    wait_until("it goes on without a daemon", || {
        ended = child.try_wait().unwrap();
        ended.is_some()
    });
    assert_eq!(ended.and_then(|status| status.code()), Some(0));
}

#[test]
fn a_container_that_starts_again_and_again_is_listened_to_once() {
    let daemon = Daemon::start(&[]);
    daemon.docker_ok(&["run", "-d", "--name", "web", "--network", "none", IMAGE, "trap"]);
    let (mut child, mut lines) = table(&daemon);
    assert!(lines.first(|line| line.contains("<web 1>")).is_some());
    let descriptors = format!("/proc/{}/fd", child.id());
    let sockets = || {
        let files = std::fs::read_dir(&descriptors).unwrap().flatten();
        let targets = files.filter_map(|file| std::fs::read_link(file.path()).ok());
        targets.filter(|target| target.to_string_lossy().starts_with("socket:")).count()
    };
    let before = sockets();
    for _ in 0..3 {
        daemon.docker_ok(&["restart", "-t", "0", "web"]);
    }
    // What is told of a new one comes after all that was told of the others.
    daemon.docker_ok(&["run", "-d", "--name", "late", "--network", "none", IMAGE, "trap"]);
    assert!(lines.first(|line| line.contains("<late 1>")).is_some());
    wait_until("streams of earlier runs are kept", || sockets() <= before + 1);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_stream_of_figures_ends_with_the_daemon() {
    let mut daemon = Daemon::start(&[]);
    daemon.docker_ok(&["create", "--name", "idle", "--network", "none", IMAGE, "trap"]);
    let mut answers = Answers::of(&daemon, "idle");
    assert!(answers.next().is_some());
    daemon.signal(Signal::SIGTERM);
    // It is not cut off: its last chunk comes.
    assert!(std::iter::from_fn(|| answers.next()).all(|answer| answer["name"] == "/idle"));
    assert_eq!(daemon.wait(), Some(0));
}
