//! Clients that leave while they wait: what has not begun for them is not begun any more.

use std::fs;
use std::io::{Read, Write};
use std::process::Stdio;
use std::time::Duration;

use serde_json::json;

use crate::daemon::Daemon;
use crate::hub::listen;
use crate::hung::until;
use crate::process::tls_daemon;
use crate::stalled::{PLACES, archive, begin, threads};

const IMAGE: &str = "rnet/toolbox";
/// Before a registry that hangs is given up by itself.
const SOON: Duration = Duration::from_secs(10);
/// What takes all places of a kind, and what its threads are called.
const TAKEN: [(&str, &str); 4] = [
    ("POST /images/load", "load"),
    ("POST /images/create?fromSrc=-", "import"),
    ("POST /build", "build"),
    ("PUT /containers/cc/archive?path=/", "copy"),
];

/// An archive of one file.
fn packed(name: &str, text: &str) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(u64::try_from(text.len()).unwrap());
    header.set_mode(0o644);
    archive.append_data(&mut header, name, text.as_bytes()).unwrap();
    archive.into_inner().unwrap()
}

/// How many connections a daemon has.
fn connections(daemon: &Daemon) -> usize {
    let path = daemon.scratch.text("sock");
    let sockets = fs::read_to_string("/proc/net/unix").unwrap();
    // Its ends of them have its path, and are in the network namespace of the other ends.
    sockets.lines().filter(|line| line.ends_with(&path)).count()
}

#[test]
fn nothing_is_done_for_a_client_that_left_the_queue() {
    let daemon = Daemon::start_with_descriptors(4096, &[]);
    daemon.docker_ok(&["create", "--name", "cc", "--network", "none", IMAGE, "true"]);
    let [saved, file] = ["saved", "file"].map(|name| daemon.scratch.text(name));
    // Little of a body is read before its turn.
    fs::write(&file, packed("other", "x")).unwrap();
    daemon.docker_ok(&["import", &file, "left/load"]);
    daemon.docker_ok(&["save", "-o", &saved, "left/load"]);
    daemon.docker_ok(&["rmi", "left/load"]);
    let mut taken: Vec<_> = Vec::new();
    for (what, name) in TAKEN {
        taken.extend((0..PLACES).map(|_| begin(&daemon, what, &archive())));
        assert!(until(|| threads(&daemon, name) == PLACES), "not all places are taken: {name}");
    }
    assert!(until(|| connections(&daemon) == taken.len()));
    let file_in = packed("left", "x");
    let context = packed("Dockerfile", "FROM scratch\nLABEL a=b\n");
    let leaving = [
        ("POST", "/images/load", fs::read(&saved).unwrap()),
        ("POST", "/images/create?fromSrc=-&repo=left/import", file_in.clone()),
        ("POST", "/build?t=left/build", context.clone()),
        ("PUT", "/containers/cc/archive?path=/", file_in),
        ("POST", "/commit?container=cc&repo=left/commit", Vec::new()),
    ];
    let leaving = leaving.map(|(method, path, body)| daemon.open(method, path, "", &body));
    // Connections are accepted in their order.
    assert_eq!(daemon.get("/info").status, 200);
    drop(leaving);
    assert!(until(|| connections(&daemon) == taken.len()), "nobody notices that they left");
    drop(taken);
    // Who comes now is behind those who left.
    daemon.docker_ok(&["load", "-i", &saved]);
    daemon.docker_ok(&["rmi", "left/load"]);
    daemon.docker_ok(&["import", &file, "other/import"]);
    assert_eq!(daemon.send("POST", "/build?t=other/build", "", &context).status, 200);
    daemon.docker_ok(&["cp", &file, "cc:/other"]);
    daemon.docker_ok(&["commit", "cc", "other/commit"]);
    let mut names: Vec<_> =
        ["build", "commit", "import"].map(|name| format!("other/{name}")).into();
    names.push(IMAGE.to_owned());
    let known = daemon.docker_ok(&["images", "--format", "{{.Repository}}"]);
    let mut known: Vec<_> = known.lines().collect();
    known.sort_unstable();
    assert_eq!(known, names);
    assert_eq!(daemon.get("/containers/cc/archive?path=/left").status, 404);
}

#[test]
fn a_registry_is_asked_no_longer_than_its_client_waits() {
    const HANGS: &str = "127.0.0.1:5010";
    let daemon = Daemon::start(&[]);
    let name = format!("{HANGS}/a");
    daemon.docker_ok(&["tag", IMAGE, &format!("{name}:1")]);
    let registry = listen(&daemon, HANGS);
    let login = json!({"serveraddress": HANGS, "username": "a", "password": "b"}).to_string();
    for (method, path, body) in [
        ("POST", format!("/images/create?fromImage={name}&tag=1"), ""),
        ("POST", format!("/images/{name}/push?tag=1"), ""),
        ("GET", format!("/distribution/{name}/json"), ""),
        ("GET", format!("/images/search?term={name}"), ""),
        ("POST", "/auth".to_owned(), &login),
    ] {
        let headers = "Content-Type: application/json\r\n";
        let client = daemon.open(method, &path, headers, body.as_bytes());
        let (mut asked, _) = registry.accept().unwrap();
        asked.set_read_timeout(Some(SOON)).unwrap();
        asked.read_exact(&mut [0]).unwrap();
        drop(client);
        asked.read_to_end(&mut Vec::new()).unwrap_or_else(|error| panic!("{path}: {error}"));
    }
}

#[test]
fn a_client_of_another_machine_that_left_was_waited_for() {
    const HANGS: &str = "127.0.0.1:5010";
    let daemon = tls_daemon();
    let registry = listen(&daemon, HANGS);
    let path = |file: &str| daemon.scratch.text(file);
    let (ca, certificate, key) = (path("ca.pem"), path("client.pem"), path("client.key"));
    let trust = ["-CAfile", &ca, "-cert", &certificate, "-key", &key];
    let connect = ["s_client", "-quiet", "-connect", "127.0.0.1:2376"];
    let mut command = daemon.beside_command("openssl", &[&connect[..], &trust].concat());
    let mut client = command.stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let pull = format!("POST /images/create?fromImage={HANGS}/a&tag=1 HTTP/1.1\r\nHost: x\r\n\r\n");
    client.stdin.as_mut().unwrap().write_all(pull.as_bytes()).unwrap();
    let (mut asked, _) = registry.accept().unwrap();
    asked.set_read_timeout(Some(SOON)).unwrap();
    asked.read_exact(&mut [0]).unwrap();
    client.kill().unwrap();
    client.wait().unwrap();
    asked.read_to_end(&mut Vec::new()).unwrap();
}
