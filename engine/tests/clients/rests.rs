//! How containers come to rest, and come back: what a client is told has happened, has.

use std::time::Instant;

use crate::daemon::{Client, Daemon, PATIENCE};

const IMAGE: &str = "rnet/toolbox";

#[test]
fn a_restart_does_not_lose_a_container_that_goes_at_its_end() {
    let daemon = Daemon::start(&[]);
    for client in Client::ALL {
        daemon.ok(client, &["run", "-d", "--rm", "--name", "c1", IMAGE, "trap", "0"]);
        for _ in 0..3 {
            daemon.ok(client, &["restart", "-t", "1", "c1"]);
            let state = daemon.docker_ok(&["inspect", "-f", "{{.State.Status}}", "c1"]);
            assert_eq!(state, "running", "{client:?}");
        }
        daemon.ok(client, &["stop", "-t", "1", "c1"]);
        let end = Instant::now() + PATIENCE;
        while !daemon.docker_ok(&["ps", "-aq"]).is_empty() {
            assert!(Instant::now() < end, "{client:?}: it stays");
        }
    }
}

#[test]
fn waiting_for_a_container_that_is_restarted_for_ever_ends_with_its_first_end() {
    let daemon = Daemon::start(&[]);
    for client in Client::ALL {
        daemon
            .ok(client, &["run", "-d", "--restart", "always", "--name", "c1", IMAGE, "exit", "3"]);
        assert_eq!(daemon.ok(client, &["wait", "c1"]), "3", "{client:?}");
        daemon.ok(client, &["rm", "-f", "c1"]);
    }
}

#[test]
fn the_network_of_a_container_that_is_exited_can_be_removed_at_once() {
    let daemon = Daemon::start(&[]);
    for round in 0..20 {
        daemon.docker_ok(&["network", "create", "n1"]);
        daemon.docker_ok(&["run", "-d", "--name", "c1", "--network", "n1", IMAGE, "exit", "0"]);
        let end = Instant::now() + PATIENCE;
        while daemon.get("/containers/c1/json").json()["State"]["Status"] != "exited" {
            assert!(Instant::now() < end, "it goes on");
        }
        let reply = daemon.call("DELETE", "/networks/n1", None);
        assert_eq!(reply.status, 204, "{round}: {}", reply.text());
        daemon.docker_ok(&["rm", "c1"]);
    }
}

#[test]
fn an_empty_home_is_filled_in() {
    let daemon = Daemon::start(&[]);
    let run = ["run", "--rm", "--network", "none", "-e", "HOME=", IMAGE, "env"];
    daemon.docker_ok(&["run", "-d", "--name", "c1", "--network", "none", IMAGE, "trap", "0"]);
    for client in Client::ALL {
        for words in [&run[..], &["exec", "-e", "HOME=", "c1", "env"]] {
            let env = daemon.ok(client, words);
            assert!(env.lines().any(|line| line.starts_with("HOME=/")), "{client:?}: {env}");
        }
    }
}

#[test]
fn the_built_in_image_is_there_once_it_is_asked_for() {
    let daemon = Daemon::start(&[]);
    assert_eq!(daemon.docker_ok(&["image", "ls", "-q"]), "");
    assert_eq!(daemon.ask(Client::Docker, &["image", "inspect", "rnet/other"]).0, Some(1));
    assert_eq!(daemon.docker_ok(&["image", "ls", "-q"]), "");
    daemon.docker_ok(&["create", IMAGE]);
    let listed = daemon.docker_ok(&["image", "ls", "--format", "{{.Repository}}:{{.Tag}}"]);
    assert_eq!(listed, "rnet/toolbox:latest");
}

#[test]
fn a_file_is_bound_read_only_and_a_read_only_container_starts_again() {
    let daemon = Daemon::start(&[]);
    let bound = daemon.scratch.text("file") + ":/etc/words:ro";
    std::fs::write(daemon.scratch.text("file"), "words").unwrap();
    for client in Client::ALL {
        let make = ["run", "-d", "--name", "c1", "--network", "none", "--read-only", "-v", &bound];
        daemon.ok(client, &[&make[..], &[IMAGE, "trap", "0"]].concat());
        daemon.ok(client, &["restart", "-t", "1", "c1"]);
        let write = daemon.ask(client, &["exec", "c1", "write", "/etc/words", "more"]);
        assert_ne!(write.0, Some(0), "{client:?}");
        daemon.ok(client, &["rm", "-f", "c1"]);
    }
}
