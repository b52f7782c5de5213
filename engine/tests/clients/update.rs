//! Limits and restart policies change while containers are there, and stay changed.

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::daemon::{Client, Daemon, Lines};

const IMAGE: &str = "rnet/toolbox";

/// What the cgroup of a container says: its memory limit and its limit of processes.
fn limits_inside(daemon: &Daemon, name: &str) -> (u64, u64) {
    let stats = daemon.get(&format!("/containers/{name}/stats?stream=0&one-shot=1")).json();
    let number = |value: &Value| value.as_u64().unwrap_or_default();
    (number(&stats["memory_stats"]["limit"]), number(&stats["pids_stats"]["limit"]))
}

fn shown(daemon: &Daemon, name: &str) -> Value {
    daemon.get(&format!("/containers/{name}/json")).json()["HostConfig"].clone()
}

#[test]
fn limits_change_under_a_running_container_and_stay() {
    for runtime in ["crun", "runc"] {
        let mut daemon = Daemon::start(&[]);
        let run = ["run", "-d", "--name", "c1", "--network", "none", "--runtime", runtime];
        daemon.docker_ok(&[&run[..], &[IMAGE, "trap"]].concat());
        for (client, memory, bytes) in
            [(Client::Docker, "64m", 64 << 20), (Client::Rnet, "128m", 128 << 20)]
        {
            let limits = ["--memory", memory, "--memory-swap", memory, "--pids-limit", "50"];
            let said = daemon.ok(client, &[&["update"][..], &limits, &["c1"]].concat());
            assert_eq!(said, "c1", "{client:?}");
            assert_eq!(limits_inside(&daemon, "c1"), (bytes, 50), "{runtime} {client:?}");
            // Down again, which is the other order of memory and swap.
            let less = ["update", "-m", "32m", "--memory-swap", "32m", "--pids-limit=-1", "c1"];
            daemon.ok(client, &less);
            let (memory, pids) = limits_inside(&daemon, "c1");
            assert!(memory == 32 << 20 && (pids == 0 || pids == u64::MAX), "{runtime} {pids}");
        }
        daemon.docker_ok(&["update", "--cpus", "0.5", "--cpuset-cpus", "0", "c1"]);
        let host = shown(&daemon, "c1");
        assert_eq!((&host["Memory"], &host["NanoCpus"]), (&json!(32 << 20), &json!(500_000_000)));
        assert_eq!((&host["CpusetCpus"], &host["PidsLimit"]), (&json!("0"), &json!(0)));
        let _ = daemon.restart_after(Signal::SIGKILL, &[]);
        assert_eq!(shown(&daemon, "c1"), host);
        daemon.docker_ok(&["restart", "-t", "0", "c1"]);
        assert_eq!(limits_inside(&daemon, "c1").0, 32 << 20, "{runtime}");
    }
}

#[test]
fn a_quota_of_processor_time_could_not_be_lifted() {
    let daemon = Daemon::start(&[]);
    let run = ["run", "-d", "--network", "none", "--cpu-quota", "-1", "--name", "c1", IMAGE];
    daemon.docker_ok(&[&run[..], &["trap", "0"]].concat());
    for quota in ["15000", "-1", "20000", "-1"] {
        daemon.docker_ok(&["update", "--cpu-quota", quota, "c1"]);
        assert_eq!(shown(&daemon, "c1")["CpuQuota"].to_string(), quota);
        for file in ["/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu.max"] {
            let (code, told, _) = daemon.ask(Client::Docker, &["exec", "c1", "cat", file]);
            let own = told.split(' ').next().unwrap_or_default().replace("max", "-1");
            assert!(code != Some(0) || own == quota, "{file}: {told}");
        }
    }
    daemon.docker_ok(&["rm", "-f", "c1"]);
}

#[test]
fn what_does_not_go_together_is_refused_in_docker_s_words() {
    let daemon = Daemon::start(&[]);
    let create = ["create", "--network", "none", "--name"];
    let plain = daemon.docker_ok(&[&create[..], &["c1", IMAGE, "trap"]].concat());
    daemon.docker_ok(&[&create[..], &["c2", "--rm", "--cpus", "0.5", IMAGE, "trap"]].concat());
    let update = |name: &str, body: Value| {
        let reply = daemon.post(&format!("/containers/{name}/update"), &body);
        let message = reply.message().replace(&plain, "ID");
        (reply.status, message)
    };
    let refused = |status: u16, text: &str| (status, text.to_owned());
    assert_eq!(
        update("c1", json!({"Memory": 300 << 20})),
        refused(
            409,
            "Cannot update container ID: Memory limit should be smaller than already set \
             memoryswap limit, update the memoryswap at the same time"
        )
    );
    assert_eq!(update("c2", json!({"CpuQuota": 50_000})).0, 409);
    assert_eq!(update("c2", json!({"RestartPolicy": {"Name": "always"}})).0, 409);
    assert_eq!(
        update("c1", json!({"Memory": 1000})),
        refused(400, "Minimum memory limit allowed is 6MB")
    );
    assert_eq!(update("nope", json!({})), refused(404, "No such container: nope"));
    let many = update("c1", json!({"CpusetCpus": "4000"}));
    assert!(many.0 == 400 && many.1.contains("Requested CPUs are not available"), "{many:?}");
    assert_eq!(daemon.get("/containers/c1/json").json()["HostConfig"]["Memory"], 0);
    let reply = daemon.post("/containers/c1/update", &json!({"CpuShares": 512}));
    assert_eq!((reply.status, reply.json()), (200, json!({"Warnings": null})));
    for client in Client::ALL {
        let (code, _, error) = daemon.ask(client, &["update", "c1"]);
        assert_eq!(code, Some(1), "{client:?}");
        let text = "you must provide one or more flags when using this command";
        assert!(error.starts_with(text), "{client:?} {error}");
        let (code, out, error) = daemon.ask(client, &["update", "-c", "2", "c1", "nope"]);
        assert_eq!((code, out.as_str()), (Some(1), "c1"), "{client:?}");
        assert!(error.contains("No such container: nope"), "{client:?} {error}");
    }
}

#[test]
fn a_new_restart_policy_is_the_one_that_counts() {
    let daemon = Daemon::start(&[]);
    let mut events = daemon.docker_command(&[
        "events",
        "--filter",
        "event=update",
        "--format",
        "{{.Action}} {{.Actor.Attributes.name}}",
    ]);
    let mut events = events.stdout(std::process::Stdio::piped()).spawn().unwrap();
    daemon.docker_ok(&["run", "-d", "--name", "c1", "--network", "none", IMAGE, "trap"]);
    daemon.docker_ok(&["update", "--restart", "on-failure:3", "c1"]);
    let policy = json!({"Name": "on-failure", "MaximumRetryCount": 3});
    assert_eq!(shown(&daemon, "c1")["RestartPolicy"], policy);
    let line = Lines::of(events.stdout.take().unwrap()).first(|_| true);
    events.kill().unwrap();
    events.wait().unwrap();
    assert_eq!(line.as_deref(), Some("update c1"));
    let pid = || daemon.get("/containers/c1/json").json()["State"]["Pid"].as_i64().unwrap();
    let first = pid();
    // Whom nobody of the API has ended has failed.
    let process = nix::unistd::Pid::from_raw(i32::try_from(first).unwrap());
    nix::sys::signal::kill(process, Signal::SIGKILL).unwrap();
    let end = std::time::Instant::now() + crate::daemon::PATIENCE;
    while [0, first].contains(&pid()) {
        assert!(std::time::Instant::now() < end, "it is not started again");
    }
}
