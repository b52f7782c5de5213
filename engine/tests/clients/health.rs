//! Health checks, as `docker` shows them and as compose waits for them.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::daemon::{Client, Daemon};

/// A check that is run ten times a second.
fn start(daemon: &Daemon, name: &str, test: &Value, timeout: u64) {
    let check = json!({
        "Test": test, "Interval": 100_000_000, "Timeout": timeout, "Retries": 2,
    });
    let body = json!({
        "Image": "rnet/toolbox", "Healthcheck": check, "HostConfig": {"NetworkMode": "none"},
    });
    let reply = daemon.post(&format!("/containers/create?name={name}"), &body);
    assert_eq!(reply.status, 201, "{}", reply.text());
    let started = daemon.post(&format!("/containers/{name}/start"), &json!({}));
    assert_eq!(started.status, 204, "{}", started.text());
}

fn health(daemon: &Daemon, name: &str) -> Value {
    daemon.get(&format!("/containers/{name}/json")).json()["State"]["Health"].clone()
}

/// Waits until a container has a status.
fn until(daemon: &Daemon, name: &str, status: &str) -> Value {
    loop {
        let health = health(daemon, name);
        if health["Status"] == status {
            return health;
        }
    }
}

#[test]
fn a_container_is_healthy_when_its_check_goes_well_and_unhealthy_when_it_fails() {
    let daemon = Daemon::start(&[]);
    start(&daemon, "good", &json!(["CMD", "get", "http://127.0.0.1/"]), 0);
    start(&daemon, "bad", &json!(["CMD", "cat", "/nothing"]), 0);
    let good = until(&daemon, "good", "healthy");
    assert_eq!(good["FailingStreak"], 0);
    let last = good["Log"].as_array().unwrap().last().unwrap();
    assert!(last["Output"].as_str().unwrap().contains("peer: 127.0.0.1"), "{last}");
    let bad = until(&daemon, "bad", "unhealthy");
    assert!(bad["FailingStreak"].as_i64().unwrap() >= 2, "{bad}");
    for client in Client::ALL {
        let words = ["ps", "--filter", "health=healthy", "--format", "{{.Names}} {{.Status}}"];
        let shown = daemon.ok(client, &words);
        assert!(shown.starts_with("good Up ") && shown.ends_with(" (healthy)"), "{shown}");
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let now = (now.as_secs() + 1).to_string();
    let filter =
        ["--filter", "event=health_status", "--format", "{{.Actor.Attributes.name}} {{.Action}}"];
    let events =
        daemon.docker_ok(&[&["events", "--since", "0", "--until", &now], &filter[..]].concat());
    for line in ["good health_status: healthy", "bad health_status: unhealthy"] {
        assert!(events.lines().any(|event| event == line), "{events}");
    }
    daemon.docker_ok(&["rm", "-f", "good", "bad"]);
}

#[test]
fn a_check_that_takes_too_long_is_killed() {
    let daemon = Daemon::start(&[]);
    start(&daemon, "slow", &json!(["CMD", "sleep", "1000"]), 50_000_000);
    let slow = until(&daemon, "slow", "unhealthy");
    let last = slow["Log"].as_array().unwrap().last().unwrap();
    assert_eq!(last["ExitCode"], -1);
    assert_eq!(last["Output"], "Health check exceeded timeout (50ms)");
    let processes = || daemon.get("/containers/slow/top").json()["Processes"].clone();
    while processes().as_array().unwrap().len() > 1 {}
    daemon.docker_ok(&["rm", "-f", "slow"]);
}

#[test]
fn what_a_check_printed_before_it_took_too_long_was_lost() {
    let daemon = Daemon::start(&[]);
    start(&daemon, "slow", &json!(["CMD", "signals"]), 1_000_000_000);
    let slow = until(&daemon, "slow", "unhealthy");
    let last = slow["Log"].as_array().unwrap().last().unwrap();
    let output = last["Output"].as_str().unwrap();
    assert!(output.starts_with("Health check exceeded timeout (1s): ready\n"), "{output}");
    daemon.docker_ok(&["rm", "-f", "slow"]);
}

#[test]
fn the_flags_of_run_make_a_check_and_no_healthcheck_none() {
    let daemon = Daemon::start(&[]);
    for client in Client::ALL {
        let flags =
            ["--health-cmd", "exit 0", "--health-interval", "90s", "--health-start-period", "5s"];
        let create = [&["create", "--name", "checked"][..], &flags, &["rnet/toolbox"]].concat();
        daemon.ok(client, &create);
        let check = daemon.get("/containers/checked/json").json()["Config"]["Healthcheck"].clone();
        assert_eq!(check["Test"], json!(["CMD-SHELL", "exit 0"]), "{client:?}");
        assert_eq!(check["Interval"], 90_000_000_000_i64);
        assert_eq!(check["StartPeriod"], 5_000_000_000_i64);
        daemon.ok(client, &["rm", "checked"]);
        daemon.ok(client, &["run", "-d", "--name", "bare", "--no-healthcheck", "rnet/toolbox"]);
        assert_eq!(health(&daemon, "bare"), Value::Null);
        daemon.ok(client, &["rm", "-f", "bare"]);
    }
}
