//! How connections begin, change hands and end: what real clients lost on the way.

use std::io::{BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Instant;

use serde_json::{Value, json};

use crate::daemon::{Daemon, PATIENCE, Reply};

const IMAGE: &str = "rnet/toolbox";
const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: tcp\r\n";

fn exec(daemon: &Daemon, container: &str, command: &[&str], tty: bool) -> String {
    let body = json!({"AttachStdout": true, "AttachStderr": true, "Tty": tty, "Cmd": command});
    let reply = daemon.post(&format!("/containers/{container}/exec"), &body);
    assert_eq!(reply.status, 201, "{}", reply.text());
    reply.json()["Id"].as_str().unwrap().to_owned()
}

/// Starts an exec and reads as programs do that take the socket from under the buffer through which
/// they have read the head.
fn start(daemon: &Daemon, id: &str, body: &Value) -> (Reply, Vec<u8>) {
    let headers = format!("Content-Type: application/json\r\n{UPGRADE}");
    let body = body.to_string();
    let path = format!("/v1.51/exec/{id}/start");
    let mut reader = BufReader::new(daemon.open("POST", &path, &headers, body.as_bytes()));
    let head = Reply::read_head(&mut reader);
    let mut output = Vec::new();
    reader.into_inner().read_to_end(&mut output).unwrap();
    (head, output)
}

#[test]
fn no_output_of_a_short_exec_is_lost_with_the_head_of_the_reply() {
    let daemon = Daemon::start(&[]);
    daemon.docker_ok(&["run", "-d", "--name", "c1", "--network", "none", IMAGE, "trap", "0"]);
    for _ in 0..200 {
        let id = exec(&daemon, "c1", &["echo", "hi"], false);
        let (head, output) = start(&daemon, &id, &json!({}));
        assert_eq!((head.status, head.reason.as_str()), (101, "UPGRADED"));
        assert_eq!(output, b"\x01\0\0\0\0\0\0\x03hi\n");
    }
}

#[test]
fn the_size_of_an_exec_that_did_not_run_yet_was_refused() {
    let daemon = Daemon::start(&[]);
    daemon.docker_ok(&["run", "-d", "--name", "c1", "--network", "none", IMAGE, "trap", "0"]);
    let id = exec(&daemon, "c1", &["sleep", "infinity"], true);
    let size =
        daemon.open("POST", &format!("/exec/{id}/resize?h=30&w=90"), "Connection: close\r\n", b"");
    let begun = daemon.post(&format!("/exec/{id}/start"), &json!({"Detach": true, "Tty": true}));
    assert_eq!(begun.status, 200, "{}", begun.text());
    let reply = Reply::read(size);
    assert_eq!(reply.status, 200, "{}", reply.text());
}

#[test]
fn a_signal_right_after_the_first_output_was_refused() {
    let daemon = Daemon::start(&[]);
    let body = json!({"Image": IMAGE, "Cmd": ["flood"], "HostConfig": {"NetworkMode": "none"}});
    for number in 0..12 {
        let created = daemon.post(&format!("/containers/create?name=c{number}"), &body);
        assert_eq!(created.status, 201, "{}", created.text());
        let path = format!("/containers/c{number}");
        let attach = format!("{path}/attach?stream=1&stdout=1");
        let mut output = BufReader::new(daemon.open("POST", &attach, UPGRADE, b""));
        assert_eq!(Reply::read_head(&mut output).status, 101);
        let start = daemon.open("POST", &format!("{path}/start"), "Connection: close\r\n", b"");
        output.read_exact(&mut [0; 9]).unwrap();
        let killed = daemon.post(&format!("{path}/kill"), &json!({}));
        assert_eq!(killed.status, 204, "{}", killed.text());
        assert_eq!(Reply::read(start).status, 204);
    }
}

#[test]
fn an_exec_that_ended_with_its_container_was_not_known_any_more() {
    let daemon = Daemon::start(&[]);
    daemon.docker_ok(&["run", "-d", "--name", "cc", "--network", "none", IMAGE, "trap", "0"]);
    let id = exec(&daemon, "cc", &["sleep", "1000"], true);
    let started = daemon.post(&format!("/exec/{id}/start"), &json!({"Detach": true, "Tty": true}));
    assert_eq!(started.status, 200, "{}", started.text());
    daemon.docker_ok(&["kill", "cc"]);
    let told = daemon.get(&format!("/exec/{id}/json")).json();
    assert_eq!((&told["Running"], &told["ExitCode"]), (&json!(false), &json!(137)));
    let resized = daemon.post(&format!("/exec/{id}/resize?h=40&w=40"), &json!({}));
    assert_eq!(resized.status, 409);
    assert!(resized.message().ends_with(" is not running"), "{}", resized.message());
    daemon.docker_ok(&["rm", "-f", "cc"]);
    assert_eq!(daemon.get(&format!("/exec/{id}/json")).status, 404);
}

#[test]
fn docker_py_gets_the_output_of_every_exec_and_of_an_attached_container() {
    const SCRIPT: &str = r#"
import docker, sys
client = docker.DockerClient(base_url=sys.argv[1])
box = client.containers.get("c1")
for _ in range(200):
    code, output = box.exec_run("echo hi")
    assert (code, output) == (0, b"hi\n"), (code, output)
code, output = box.exec_run("nosuch")
assert code == 127 and b"not found" in output, (code, output)
# Made with a terminal, started without: the output is in frames.
made = client.api.exec_create("c1", "echo hi", tty=True)
assert client.api.exec_start(made["Id"]) == b"hi\r\n"
for _ in range(50):
    attached = client.containers.run("rnet/toolbox", "echo hi", remove=True, network_mode="none")
    assert attached == b"hi\n", attached
stream = client.containers.get("talk").attach(stream=True, logs=True)
assert next(iter(stream)).startswith(b"line "), "attach"
print("done")
"#;
    let daemon = Daemon::start(&[]);
    daemon.docker_ok(&["run", "-d", "--name", "c1", "--network", "none", IMAGE, "trap", "0"]);
    daemon.docker_ok(&["run", "-d", "--name", "talk", "--network", "none", IMAGE, "flood", "5"]);
    let host = format!("unix://{}", daemon.socket().display());
    let run = Command::new("python3").args(["-c", SCRIPT, &host]).output().unwrap();
    let error = String::from_utf8_lossy(&run.stderr);
    assert_eq!(String::from_utf8_lossy(&run.stdout), "done\n", "{error}");
}

#[test]
fn frames_follow_the_terminal_of_the_request_that_starts_an_exec() {
    let daemon = Daemon::start(&[]);
    daemon.docker_ok(&["run", "-d", "--name", "c1", "--network", "none", IMAGE, "trap", "0"]);
    for (made, started, output) in [
        (false, false, &b"\x01\0\0\0\0\0\0\x03hi\n"[..]),
        (true, false, b"\x01\0\0\0\0\0\0\x04hi\r\n"),
        (false, true, b"hi\n"),
        (true, true, b"hi\r\n"),
    ] {
        let id = exec(&daemon, "c1", &["echo", "hi"], made);
        let (head, got) = start(&daemon, &id, &json!({"Tty": started}));
        assert_eq!(got, output, "{made} {started}");
        let kind = if started { "raw" } else { "multiplexed" };
        let kind = format!("application/vnd.docker.{kind}-stream");
        assert_eq!(head.header("content-type"), Some(kind.as_str()));
    }
}

#[test]
fn a_query_that_is_not_percent_encoded_is_understood() {
    let daemon = Daemon::start(&[]);
    daemon.docker_ok(&["create", "--name", "c1", "-l", "a=x y", IMAGE]);
    for (filters, found) in [
        (r#"{"status":["created"]}"#, 1),
        (r#"{"status":["exited"]}"#, 0),
        (r#"{"label":["a=x y"]}"#, 1),
        (r#"{"name":["grün"]}"#, 0),
    ] {
        let reply = daemon.get(&format!("/containers/json?all=1&filters={filters}"));
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(reply.json().as_array().unwrap().len(), found, "{filters}");
    }
    // One connection after another request's body.
    let mut stream =
        daemon.open("POST", "/volumes/create", "Content-Type: application/json\r\n", b"{}");
    let head = "GET /volumes?filters={\"name\":[\"nope\"]} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(
        text.contains("201 Created") && text.ends_with("{\"Volumes\":[],\"Warnings\":null}\n"),
        "{text}"
    );
}

#[test]
fn a_refusal_is_heard_by_a_client_that_is_still_sending() {
    let daemon = Daemon::start(&[]);
    let rubbish = vec![b'x'; 16 << 20];
    for _ in 0..10 {
        for (method, path, status) in [
            ("POST", "/images/load?quiet=1", 200),
            ("POST", "/images/create?fromSrc=-&repo=UPPER", 400),
            ("POST", "/build?t=x", 400),
            ("PUT", "/containers/nope/archive?path=/", 404),
            ("POST", "/nope", 404),
            ("POST", "/containers/create", 400),
        ] {
            // The helper writes all of the body before it reads.
            let reply = daemon.send(method, path, "Content-Type: application/x-tar\r\n", &rubbish);
            assert_eq!(reply.status, status, "{path}: {}", reply.text());
            assert!(!reply.text().is_empty(), "{path}");
        }
    }
    let file = daemon.scratch.path("rubbish");
    std::fs::write(&file, &rubbish).unwrap();
    for _ in 0..10 {
        let (code, error) = daemon.docker_err(&["load", "-q", "-i", file.to_str().unwrap()]);
        assert_eq!(code, Some(1));
        assert!(!error.contains("broken pipe") && !error.contains("EOF"), "{error}");
    }
}

/// Ticks of the processor that a process has taken.
fn ticks(pid: &str) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn clients_that_hold_connections_take_no_descriptors_from_containers() {
    let daemon = Daemon::start_with_descriptors(256, &[]);
    let held: Vec<_> = (0..100).map(|_| UnixStream::connect(daemon.socket()).unwrap()).collect();
    let told = || daemon.log().matches("too many connections").count();
    let end = Instant::now() + PATIENCE;
    while told() == 0 {
        assert!(Instant::now() < end, "{}", daemon.log());
    }
    // While all places are taken nothing spins, and nothing more is said.
    let before = ticks(&daemon.id());
    let mut waiting = daemon.open("GET", "/_ping", "Connection: close\r\n", b"");
    waiting.set_read_timeout(Some(std::time::Duration::from_millis(500))).unwrap();
    assert!(waiting.read(&mut [0]).is_err(), "there was no place");
    assert!(ticks(&daemon.id()) - before < 10, "the daemon spins");
    assert_eq!(told(), 1);
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", daemon.id())).unwrap().count();
    assert!(descriptors < 200, "{descriptors}");
    drop(held);
    waiting.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(Reply::read(waiting).text(), "OK");
    let run = ["run", "--rm", "--network", "none", IMAGE, "echo", "hi"];
    assert_eq!(daemon.docker_ok(&run), "hi");
}

#[test]
fn the_log_tells_whose_a_request_is_and_sockets_are_not_for_everybody() {
    let daemon = Daemon::start_with_descriptors(4096, &["--log-level", "debug"]);
    let reply = daemon.call("DELETE", "/volumes/nope", None);
    assert_eq!(reply.status, 404);
    let peer = format!("uid 0 pid {}", std::process::id());
    let log = daemon.log();
    let line = log.lines().find(|line| line.contains("/volumes/nope")).unwrap();
    assert!(line.contains(&peer), "{line}");
    for (name, mode) in [("sock", 0o660), ("data", 0o700), ("run", 0o700), ("run/dns.sock", 0o600)]
    {
        let metadata = std::fs::metadata(daemon.scratch.path(name));
        let Ok(metadata) = metadata else {
            assert_eq!(name, "run/dns.sock", "only the resolver comes later");
            continue;
        };
        assert_eq!(metadata.permissions().mode() & 0o777, mode, "{name}");
    }
}

#[test]
fn log_options_of_the_way_of_delivery_are_understood() {
    let daemon = Daemon::start(&[]);
    let run = |options: &[&str]| {
        let options = options.iter().flat_map(|option| ["--log-opt", option]);
        let mut words = vec!["run", "--rm", "--network", "none"];
        words.extend(options);
        words.extend([IMAGE, "echo", "hi"]);
        let output = daemon.docker(&words);
        let text = [output.stdout, output.stderr].concat();
        String::from_utf8(text).unwrap().lines().next().unwrap_or_default().to_owned()
    };
    assert_eq!(run(&["mode=non-blocking", "max-buffer-size=4m"]), "hi");
    assert_eq!(run(&["mode=blocking", "max-size=1m"]), "hi");
    for (options, complaint) in [
        (&["mode=x"][..], "logger: logging mode not supported: x"),
        (
            &["max-buffer-size=4m"],
            "logger: max-buffer-size option is only supported with 'mode=non-blocking'",
        ),
        (
            &["mode=non-blocking", "max-buffer-size=x"],
            "error parsing option max-buffer-size: invalid size: 'x'",
        ),
    ] {
        assert!(run(options).ends_with(complaint), "{}", run(options));
    }
}
