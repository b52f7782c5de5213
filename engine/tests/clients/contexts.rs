//! Daemons with names, preferences of a user, and daemons of other hosts.

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

use serde_json::Value;

use crate::daemon::{Daemon, Scratch};

const IMAGE: &str = "rnet/toolbox";

/// One of the clients with a configuration directory of its own, and nothing said of a daemon.
fn client(program: &str, scratch: &Scratch, words: &[&str]) -> Output {
    let mut command = Command::new(program);
    command.args(words).env("DOCKER_CONFIG", scratch.path("config"));
    for name in ["DOCKER_HOST", "RNET_HOST", "DOCKER_CONTEXT"] {
        command.env_remove(name);
    }
    command.output().unwrap()
}

fn rnet(scratch: &Scratch, words: &[&str]) -> (Option<i32>, String, String) {
    let output = client(env!("CARGO_BIN_EXE_rnet"), scratch, words);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().trim_end().to_owned();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn ok(scratch: &Scratch, words: &[&str]) -> String {
    let (code, out, error) = rnet(scratch, words);
    assert_eq!(code, Some(0), "{words:?} {error}");
    out
}

#[test]
fn a_context_of_docker_s_is_one_of_ours_and_the_other_way_round() {
    let daemon = Daemon::start(&[]);
    let scratch = Scratch::new();
    let host = format!("unix://{}", daemon.socket().display());
    let docker = |words: &[&str]| {
        let output = client("docker", &scratch, words);
        assert!(output.status.success(), "{words:?} {output:?}");
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    };
    ok(&scratch, &["context", "create", "ours", "--docker", &format!("host={host}")]);
    docker(&[
        "context",
        "create",
        "theirs",
        "--description",
        "d",
        "--docker",
        &format!("host={host}"),
    ]);
    for name in ["ours", "theirs"] {
        ok(&scratch, &["-c", name, "ps"]);
        docker(&["-c", name, "ps"]);
        let mine: Value =
            serde_json::from_str(&ok(&scratch, &["context", "inspect", name])).unwrap();
        let its: Value = serde_json::from_str(&docker(&["context", "inspect", name])).unwrap();
        assert_eq!(mine, its);
    }
    assert_eq!(ok(&scratch, &["context", "use", "ours"]), "ours");
    assert_eq!(docker(&["context", "show"]), "ours");
    ok(&scratch, &["ps"]);
    let archive = scratch.text("archive");
    docker(&["context", "export", "theirs", &archive]);
    ok(&scratch, &["context", "import", "third", &archive]);
    let list = ["context", "ls", "--format", "{{.Name}} {{.Description}} {{.DockerEndpoint}}"];
    let listed = ok(&scratch, &list);
    assert!(listed.ends_with(&format!("third d {host}")), "{listed}");
    assert_eq!(ok(&scratch, &["context", "ls", "-q"]), "default\nours\ntheirs\nthird");
    let (code, _, error) = rnet(&scratch, &["context", "rm", "ours"]);
    assert_eq!(
        (code, &*error),
        (Some(1), "context \"ours\" is in use, set -f flag to force remove")
    );
    ok(&scratch, &["context", "rm", "-f", "ours", "third"]);
    assert_eq!(docker(&["context", "show"]), "default");
    let (code, _, error) = rnet(&scratch, &["--context", "nope", "ps"]);
    assert!(code == Some(1) && error.contains("context \"nope\": context not found"), "{error}");
    let (_, _, error) = rnet(&scratch, &["-H", &host, "-c", "theirs", "ps"]);
    assert_eq!(error, "conflicting options: cannot specify both --host and --context");
}

#[test]
fn what_a_user_prefers_is_the_default() {
    let daemon = Daemon::start(&[]);
    let scratch = Scratch::new();
    let host = format!("unix://{}", daemon.socket().display());
    std::fs::create_dir_all(scratch.path("config")).unwrap();
    let preferences = serde_json::json!({
        "psFormat": "<{{.Names}}>", "HttpHeaders": {"X-Mine": "1"},
        "proxies": {"default": {"httpProxy": "http://proxy:1"}},
    });
    std::fs::write(scratch.path("config/config.json"), preferences.to_string()).unwrap();
    let flags = ["-H", &host, "run", "--name", "c1", "--network", "none", IMAGE, "env"];
    let environment = ok(&scratch, &flags);
    assert!(environment.contains("http_proxy=http://proxy:1"), "{environment}");
    assert_eq!(ok(&scratch, &["-H", &host, "ps", "-a"]), "<c1>");
    assert_eq!(ok(&scratch, &["-H", &host, "ps", "-a", "--format", "{{.Image}}"]), IMAGE);
}

/// A program that does on this host what `ssh` has done on another one.
const SSH: &str = "#!/bin/sh\nwhile [ \"$1\" != -- ]; do shift; done\nshift 2\nexec sh -c \"$*\"\n";

#[test]
fn a_daemon_of_another_host_is_reached_by_ssh() {
    let daemon = Daemon::start(&[]);
    let scratch = Scratch::new();
    let programs = scratch.path("bin");
    std::fs::create_dir_all(&programs).unwrap();
    std::fs::write(programs.join("ssh"), SSH).unwrap();
    std::fs::set_permissions(programs.join("ssh"), PermissionsExt::from_mode(0o755)).unwrap();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_rnet"), programs.join("rnet")).unwrap();
    let path = std::env::var("PATH").unwrap();
    let there = |words: &[&str]| {
        let host = format!("ssh://me@there:22{}", daemon.socket().display());
        let output = Command::new(env!("CARGO_BIN_EXE_rnet"))
            .args(["-H", &host])
            .args(words)
            .env("PATH", format!("{}:{path}", programs.display()))
            .env("DOCKER_CONFIG", scratch.path("config"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{words:?} {output:?}");
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    };
    assert_eq!(there(&["run", "--name", "c1", "--network", "none", IMAGE, "echo", "hi"]), "hi");
    assert_eq!(there(&["ps", "-a", "--format", "{{.Names}}"]), "c1");
    assert_eq!(there(&["logs", "c1"]), "hi");
}

#[test]
fn figures_are_served_for_graphs() {
    let daemon = Daemon::start(&["--metrics-addr", "127.0.0.1:9323"]);
    daemon.docker_ok(&["run", "-d", "--name", "c1", "-p", "8085:80", IMAGE, "trap"]);
    let toolbox = |words: &[&str]| {
        let run = ["run", "--rm", "--network", "host", IMAGE];
        daemon.docker_ok(&[&run[..], words].concat())
    };
    let text = toolbox(&["get", "http://127.0.0.1:9323/metrics"]);
    // Who asks runs, too.
    for line in [
        "engine_daemon_container_states_containers{state=\"running\"} 2",
        "engine_daemon_container_states_containers{state=\"stopped\"} 0",
        "rnet_networks{driver=\"bridge\"} 1",
        "rnet_endpoints 1",
        "rnet_published_ports 2",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in {text}");
    }
    assert!(text.contains("engine_daemon_engine_info{version="), "{text}");
}
