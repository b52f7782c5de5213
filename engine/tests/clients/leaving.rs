//! Clients that leave while they wait: what has not begun for them is not begun any more.

use std::fs;
use std::io::Read;
use std::time::Duration;

use serde_json::json;

use crate::daemon::Daemon;
use crate::hub::listen;
use crate::hung::until;
use crate::stalled::{PLACES, archive, begin, threads};

const IMAGE: &str = "rnet/toolbox";
/// Before a registry that hangs is given up by itself.
const SOON: Duration = Duration::from_secs(30);
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
    assert_eq!(daemon.get("/info").status, 200);
    drop(leaving);
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
