//! Daemons with names, preferences of a user, and daemons of other hosts.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::process::{Command, Output, Stdio};

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

/// What `inspect` tells of a context.
fn shown(scratch: &Scratch, name: &str) -> Value {
    let text = ok(scratch, &["context", "inspect", name]);
    serde_json::from_str::<Value>(&text).unwrap()[0].take()
}

/// A context with certificates, for a daemon that is not verified.
fn create_with_certificates(scratch: &Scratch, name: &str) {
    let file = |name: &str| {
        std::fs::write(scratch.path(name), name).unwrap();
        scratch.text(name)
    };
    let docker = format!(
        "host=tcp://h:1,ca={},cert={},key={},skip-tls-verify=1",
        file("ca"),
        file("cert"),
        file("key")
    );
    ok(scratch, &["context", "create", name, "--description", "d", "--docker", &docker]);
}

#[test]
fn a_context_made_of_another_one_has_all_that_it_has() {
    let scratch = Scratch::new();
    create_with_certificates(&scratch, "one");
    ok(&scratch, &["context", "create", "two", "--from", "one"]);
    ok(&scratch, &["--context", "one", "context", "create", "three", "--description", "e"]);
    let one = shown(&scratch, "one");
    assert_eq!(one["Endpoints"]["docker"]["SkipTLSVerify"], true);
    assert_eq!(one["TLSMaterial"]["docker"].as_array().map(Vec::len), Some(3));
    for (name, description) in [("two", "d"), ("three", "e")] {
        let other = shown(&scratch, name);
        assert_eq!(other["Endpoints"], one["Endpoints"], "{name}");
        assert_eq!(other["TLSMaterial"], one["TLSMaterial"], "{name}");
        assert_eq!(other["Metadata"]["Description"], description);
    }
    let key = shown(&scratch, "two")["Storage"]["TLSPath"].as_str().unwrap().to_owned();
    let key = std::path::Path::new(&key).join("docker/key.pem");
    assert_eq!(std::fs::read_to_string(&key).unwrap(), "key");
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode();
    let modes = (mode(&key) & 0o777, mode(key.parent().unwrap()) & 0o777);
    assert_eq!(modes, (0o600, 0o700));
    let both = ["context", "create", "four", "--from", "one", "--docker", "host=tcp://x:1"];
    let (code, _, error) = rnet(&scratch, &both);
    assert_eq!((code, &*error), (Some(1), "cannot use --docker flag when --from is set"));
    let (code, _, error) =
        rnet(&scratch, &["context", "create", "four", "--docker", "skip-tls-verify=maybe"]);
    assert!(code == Some(1) && error.contains("parsing \"maybe\""), "{error}");
}

#[test]
fn an_update_of_a_context_changes_what_it_names() {
    let scratch = Scratch::new();
    create_with_certificates(&scratch, "one");
    let before = shown(&scratch, "one");
    let meta = std::path::Path::new(before["Storage"]["MetadataPath"].as_str().unwrap());
    let meta = meta.join("meta.json");
    // What other clients keep there.
    let mut kept: Value = serde_json::from_slice(&std::fs::read(&meta).unwrap()).unwrap();
    kept["Metadata"]["Mine"] = "m".into();
    kept["Endpoints"]["other"] = serde_json::json!({"Host": "o"});
    std::fs::write(&meta, kept.to_string()).unwrap();
    ok(&scratch, &["context", "update", "one", "--description", "e"]);
    let after = shown(&scratch, "one");
    assert_eq!(after["Metadata"], serde_json::json!({"Description": "e", "Mine": "m"}));
    assert_eq!(after["Endpoints"], kept["Endpoints"]);
    assert_eq!(after["TLSMaterial"], before["TLSMaterial"]);
    // An endpoint that is named is named as a whole.
    ok(&scratch, &["context", "update", "one", "--docker", "host=tcp://new:2"]);
    let after = shown(&scratch, "one");
    let endpoint = serde_json::json!({"Host": "tcp://new:2", "SkipTLSVerify": false});
    assert_eq!(after["Endpoints"]["docker"], endpoint);
    assert_eq!(after["Endpoints"]["other"]["Host"], "o");
    assert_eq!(
        (&after["TLSMaterial"], &after["Metadata"]["Mine"]),
        (&serde_json::json!({}), &"m".into())
    );
}

#[test]
fn a_description_of_a_context_that_is_none_is_told() {
    let scratch = Scratch::new();
    create_with_certificates(&scratch, "one");
    ok(&scratch, &["context", "create", "two", "--from", "one"]);
    let place = shown(&scratch, "one")["Storage"]["MetadataPath"].as_str().unwrap().to_owned();
    std::fs::write(std::path::Path::new(&place).join("meta.json"), "[1]").unwrap();
    for words in [&["context", "inspect", "one"][..], &["-c", "one", "ps"]] {
        let (code, _, error) = rnet(&scratch, words);
        assert!(code == Some(1) && error.contains("context \"one\": parsing"), "{error}");
    }
    assert_eq!(ok(&scratch, &["context", "ls", "-q"]), "default\ntwo");
    // An archive of such a one, too.
    std::fs::write(scratch.path("meta.json"), "[1]").unwrap();
    let tar = ["-cf", &scratch.text("archive"), "-C", &scratch.text(""), "meta.json"];
    assert!(Command::new("tar").args(tar).status().unwrap().success());
    let (code, _, error) =
        rnet(&scratch, &["context", "import", "three", &scratch.text("archive")]);
    assert!(code == Some(1) && error.contains("cannot use meta.json"), "{error}");
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
    // Who asks runs, too, and is known to before it asks.
    daemon.docker_ok(&["run", "-d", "--name", "c2", "--network", "host", IMAGE, "trap"]);
    let text = daemon.docker_ok(&["exec", "c2", "get", "http://127.0.0.1:9323/metrics"]);
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

/// A daemon may refuse what it has not heard to its end, and then reads no more.
#[test]
fn an_answer_in_the_middle_of_a_request_comes_through_dial_stdio() {
    let scratch = Scratch::new();
    let daemon = UnixListener::bind(scratch.path("daemon")).unwrap();
    let host = format!("unix://{}", scratch.text("daemon"));
    let mut dialled = Command::new(env!("CARGO_BIN_EXE_rnet"))
        .args(["--host", &host, "system", "dial-stdio"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut connection, _) = daemon.accept().unwrap();
    connection.shutdown(Shutdown::Read).unwrap();
    let mut input = dialled.stdin.take().unwrap();
    // More than all that lies between the two holds.
    let much = vec![7; 4 << 20];
    input.write_all(&much).expect("it is read to its end");
    connection.write_all(b"refused").unwrap();
    drop(connection);
    let mut answer = String::new();
    dialled.stdout.take().unwrap().read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "refused");
    drop(input);
    assert!(dialled.wait().unwrap().success());
}
