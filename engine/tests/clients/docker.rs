//! The `docker` command does its work.

use serde_json::Value;

use std::process::Stdio;

use crate::daemon::{Client, Daemon};
use crate::hub::Registry;

const IMAGE: &str = "rnet/toolbox";

#[test]
fn version_and_info_are_shown() {
    let daemon = Daemon::start(&[]);
    let version = daemon.docker_ok(&["version"]);
    assert!(version.contains("Server: rnet\n Engine:\n"), "{version}");
    assert!(version.contains("(minimum version 1.24)"), "{version}");
    let info = daemon.docker_ok(&["info"]);
    for line in [" Cgroup Driver: cgroupfs", " Live Restore Enabled: true", " Swarm: inactive"] {
        assert!(info.contains(line), "{info}");
    }
}

#[test]
fn a_container_lives_as_docker_shows_it() {
    let daemon = Daemon::start(&[]);
    daemon.docker_ok(&["network", "create", "--subnet", "10.82.0.0/24", "--ipv6", "n1"]);
    let id = daemon.docker_ok(&[
        "run",
        "-d",
        "--name",
        "web",
        "--network",
        "n1",
        "-p",
        "8080:80",
        IMAGE,
        "httpd",
        "-p",
        "80",
    ]);
    assert_eq!(id.len(), 64);
    let shown =
        daemon.docker_ok(&["ps", "--format", "{{.Names}} {{.Image}} {{.State}} {{.Ports}}"]);
    assert_eq!(shown, format!("web {IMAGE} running 0.0.0.0:8080->80/tcp, [::]:8080->80/tcp"));
    let ports = daemon.docker_ok(&["port", "web"]);
    assert_eq!(ports, "80/tcp -> 0.0.0.0:8080\n80/tcp -> [::]:8080");
    let inspected: Value = serde_json::from_str(&daemon.docker_ok(&["inspect", "web"])).unwrap();
    assert_eq!(inspected[0]["NetworkSettings"]["Networks"]["n1"]["IPAddress"], "10.82.0.2");
    let network: Value =
        serde_json::from_str(&daemon.docker_ok(&["network", "inspect", "n1"])).unwrap();
    assert_eq!(network[0]["Containers"][&id]["Name"], "web");
    let answer =
        daemon.docker_ok(&["run", "--rm", "--network", "n1", IMAGE, "get", "http://web/x"]);
    assert!(answer.contains("/x"), "{answer}");
    assert_eq!(daemon.docker_ok(&["exec", "web", "echo", "yo"]), "yo");
    let (code, _) = daemon.docker_err(&["exec", "web", "nope"]);
    assert_eq!(code, Some(127));
    daemon.docker_ok(&["rename", "web", "front"]);
    daemon.docker_ok(&["stop", "-t", "1", "front"]);
    assert_eq!(daemon.docker_ok(&["ps", "-q"]), "");
    daemon.docker_ok(&["rm", "front"]);
    daemon.docker_ok(&["network", "rm", "n1"]);
    let networks =
        daemon.docker_ok(&["network", "ls", "--format", "{{.Name}} {{.Driver}} {{.Scope}}"]);
    assert_eq!(networks, "bridge bridge local\nhost host local\nnone null local");
}

#[test]
fn exit_codes_are_the_container_s_or_docker_s() {
    let daemon = Daemon::start(&[]);
    let run = |arguments: &[&str]| {
        let all = [&["run", "--rm", "--network", "none"], arguments].concat();
        daemon.docker(&all).status.code()
    };
    assert_eq!(run(&[IMAGE, "true"]), Some(0));
    assert_eq!(run(&[IMAGE, "exit", "42"]), Some(42));
    assert_eq!(run(&[IMAGE, "nope"]), Some(127));
    assert_eq!(run(&[IMAGE, "/etc"]), Some(126));
    assert_eq!(run(&["--pull", "never", "nope:1"]), Some(125));
    assert_eq!(run(&["--restart", "on-failed", IMAGE]), Some(125));
    assert_eq!(daemon.docker_ok(&["ps", "-aq"]), "");
}

#[test]
fn output_and_input_pass_through() {
    let daemon = Daemon::start(&[]);
    let mut child = daemon
        .docker_command(&["run", "--rm", "-i", "--network", "none", IMAGE, "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"a\nb\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), &b"a\nb\n"[..]));
    daemon.docker_ok(&["run", "-d", "--name", "talk", "--network", "none", IMAGE, "echo", "hi"]);
    daemon.docker_ok(&["wait", "talk"]);
    assert_eq!(daemon.docker_ok(&["logs", "talk"]), "hi");
    assert_eq!(daemon.docker_ok(&["logs", "-f", "--tail", "1", "talk"]), "hi");
}

#[test]
fn images_are_saved_loaded_tagged_and_removed() {
    let daemon = Daemon::start(&[]);
    let id = daemon.docker_ok(&["image", "inspect", "-f", "{{.Id}}", IMAGE]);
    assert_eq!(daemon.docker_ok(&["images", "-q", "--no-trunc", IMAGE]), id);
    assert!(id.starts_with("sha256:"), "{id}");
    daemon.docker_ok(&["tag", IMAGE, "mine:1"]);
    let archive = daemon.scratch.text("image.tar");
    daemon.docker_ok(&["save", "-o", &archive, "mine:1"]);
    assert_eq!(daemon.docker_ok(&["rmi", "mine:1"]), "Untagged: mine:1");
    assert_eq!(daemon.docker_ok(&["load", "-q", "-i", &archive]), "Loaded image: mine:1");
    let shown = daemon.docker_ok(&["images", "--format", "{{.Repository}}:{{.Tag}}", "mine"]);
    assert_eq!(shown, "mine:1");
    let history = daemon.docker_ok(&["history", "-q", "mine:1"]);
    assert!(!history.is_empty());
    let (code, error) = daemon.docker_err(&["rmi", "nope"]);
    assert_eq!(
        (code, error.as_str()),
        (Some(1), "Error response from daemon: No such image: nope:latest")
    );
}

/// Puts an image into a registry, out of an archive.
fn push(daemon: &Daemon, archive: &str, name: &str) {
    let from = format!("docker-archive:{archive}");
    let to = format!("docker://{}/{name}", Registry::OPEN);
    let copy = ["copy", "--insecure-policy", "--dest-tls-verify=false", &from, &to];
    let output = daemon.beside("skopeo", &copy);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
}

#[test]
fn an_image_is_pulled_from_docker_s_own_registry() {
    let daemon = Daemon::start(&[]);
    let _registry = Registry::open(&daemon);
    let tree = daemon.scratch.path("tree");
    std::fs::create_dir(&tree).unwrap();
    std::fs::write(tree.join("motd"), "hello").unwrap();
    let (files, archive) = (daemon.scratch.text("files.tar"), daemon.scratch.text("image.tar"));
    let tar = ["-C", tree.to_str().unwrap(), "-cf", &files, "motd"];
    assert!(std::process::Command::new("tar").args(tar).status().unwrap().success());
    let id = daemon.docker_ok(&["import", &files, "mine:1"]);
    daemon.docker_ok(&["save", "-o", &archive, "mine:1"]);
    push(&daemon, &archive, "team/tool:1");
    let name = format!("{}/team/tool:1", Registry::OPEN);
    for client in Client::ALL {
        daemon.docker_ok(&["image", "prune", "-af"]);
        let told = daemon.ok(client, &["pull", &name]);
        let status = format!("Status: Downloaded newer image for {name}");
        assert!(told.contains(": Pull complete\n"), "{client:?} {told}");
        assert!(told.contains("\nDigest: sha256:") && told.contains(&status), "{client:?} {told}");
        assert_eq!(daemon.docker_ok(&["images", "-q", "--no-trunc", &name]), id, "{client:?}");
        let told = daemon.ok(client, &["pull", &name]);
        assert!(told.contains(&format!("Status: Image is up to date for {name}")), "{told}");
    }
    let missing = format!("{}/team/tool:2", Registry::OPEN);
    let (code, error) = daemon.docker_err(&["pull", &missing]);
    assert_eq!(code, Some(1));
    assert!(error.contains("manifest unknown") || error.contains("not found"), "{error}");
}

#[test]
fn mistakes_are_told_in_docker_s_words() {
    let daemon = Daemon::start(&[]);
    let check = |arguments: &[&str], code: i32, message: &str| {
        let (got, error) = daemon.docker_err(arguments);
        assert_eq!(got, Some(code), "{arguments:?}: {error}");
        assert!(error.contains(message), "{arguments:?}: {error}");
    };
    check(&["inspect", "nope"], 1, "Error: No such object: nope");
    check(&["network", "rm", "bridge"], 1, "bridge is a pre-defined network and cannot be removed");
    check(&["network", "create", "--subnet", "10.0.0.300/24", "x"], 1, "10.0.0.300/24");
    check(&["network", "create", "-d", "nope", "x"], 1, "nope");
    check(&["run", "--network", "nonet", IMAGE], 125, "network nonet not found");
    check(&["create", "--name", "w", IMAGE], 1, "Invalid container name (w)");
    check(&["rm", "nope"], 1, "No such container: nope");
    check(&["ps", "--filter", "bogus=1"], 1, "invalid filter 'bogus'");
}
