//! What strangers claim in labels, archives and settings: none of it is a command of the host, none of it
//! takes the daemon's memory.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use crate::daemon::{Daemon, Scratch};

const IMAGE: &str = "rnet/toolbox";

/// The most memory that the daemon has had, in KiB.
fn peak(daemon: &Daemon) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn cve_2026_53488_labels_and_variables_are_in_no_command_of_the_host() {
    let scratch = Scratch::new();
    let (script, told, canary) =
        (scratch.path("runtime"), scratch.path("told"), scratch.text("canary"));
    // What a runtime is given besides the specification: its words and its environment.
    let text = format!(
        "#!/bin/sh\n{{ printf '%s\\n' \"$@\"; env; }} >>{}\nexec runc \"$@\"\n",
        told.display()
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let file = scratch.path("daemon.json");
    fs::write(&file, json!({"runtimes": {"own": {"path": script}}}).to_string()).unwrap();
    let daemon = Daemon::start(&["--config-file", file.to_str().unwrap()]);
    let hostile = [
        format!("$(touch {canary})"),
        format!("`touch {canary}`"),
        format!("; touch {canary} #"),
        format!("'\"\n touch {canary}\n"),
        format!("--root=/ touch {canary}"),
        format!("%{canary}%s%n touch"),
    ];
    let mut labels = serde_json::Map::new();
    for (number, value) in hostile.iter().enumerate() {
        labels.insert(format!("io.label.{number}"), json!(value));
        labels.insert(value.clone(), json!("key"));
    }
    let variables: Vec<_> = hostile.iter().map(|value| format!("X={value}")).collect();
    let body = json!({
        "Image": IMAGE, "Cmd": ["sleep", "1000"], "Labels": labels, "Env": variables,
        "HostConfig": {"Runtime": "own", "NetworkMode": "none", "Annotations": labels},
    });
    let reply = daemon.post("/containers/create?name=box", &body);
    assert_eq!(reply.status, 201, "{}", reply.text());
    daemon.docker_ok(&["start", "box"]);
    for value in &hostile {
        let said = daemon.docker_ok(&["exec", "-e", &format!("Y={value}"), "box", "echo", value]);
        assert_eq!(said, value.trim_end());
    }
    daemon.docker_ok(&["rm", "-f", "box"]);
    let told = fs::read_to_string(told).unwrap();
    assert!(told.contains("create") && told.contains("exec"), "{told}");
    assert!(!told.contains("touch"), "{told}");
    assert!(!fs::exists(&canary).unwrap());
}

#[test]
fn cve_2017_14992_half_a_gigabyte_of_nothing_around_an_archive_take_no_memory() {
    let daemon = Daemon::start(&[]);
    daemon.docker_ok(&["save", "-o", &daemon.scratch.text("image.tar"), IMAGE]);
    let image = fs::read(daemon.scratch.path("image.tar")).unwrap();
    let padded = |name: &str| {
        let path = daemon.scratch.path(name);
        let mut encoder = zstd::Encoder::new(fs::File::create(&path).unwrap(), 1).unwrap();
        encoder.write_all(&image).unwrap();
        std::io::copy(&mut std::io::repeat(0).take(1 << 29), &mut encoder).unwrap();
        encoder.finish().unwrap();
        path.display().to_string()
    };
    let archive = padded("padded.tar.zst");
    let before = peak(&daemon);
    for words in [&["import", &archive, "padded"][..], &["load", "-q", "-i", &archive]] {
        daemon.docker_ok(words);
    }
    let more = peak(&daemon) - before;
    assert!(more < 100 << 10, "{more} KiB more at its peak");
    assert_eq!(daemon.get("/_ping").status, 200);
}
