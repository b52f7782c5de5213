//! What never answers is waited for by nobody but who needs it; what is not there is named.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::daemon::{Daemon, Scratch};

const IMAGE: &str = "rnet/toolbox";
/// Containers that hang at a time.
const HUNG: usize = 4;

/// A whole life of another container, and how long it takes.
fn life(daemon: &Daemon, network: &str) -> Duration {
    let begun = Instant::now();
    daemon.docker_ok(&[
        "run",
        "-d",
        "--name",
        "other",
        "--network",
        network,
        IMAGE,
        "sleep",
        "1000",
    ]);
    daemon.docker_ok(&["exec", "other", "cat", "/proc/self/status"]);
    daemon.docker_ok(&["pause", "other"]);
    daemon.docker_ok(&["unpause", "other"]);
    daemon.docker_ok(&["stop", "-t", "0", "other"]);
    daemon.docker_ok(&["rm", "other"]);
    begun.elapsed()
}

#[test]
fn a_runtime_that_never_answers_keeps_nobody_else_waiting() {
    let place = Scratch::new();
    let script = place.path("hung");
    let (called, over) = (place.path("called"), place.path("over"));
    fs::create_dir_all(&called).unwrap();
    let text = format!(
        "#!/bin/sh\ncase \"$*\" in *\" create \"*) : >{}/$$; while [ ! -e {} ]; do sleep 0.1; done; exit 1;; \
         esac\n",
        called.display(),
        over.display()
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let daemon = Daemon::start(&["--add-runtime", &format!("hung={}", script.display())]);
    let usual = life(&daemon, "bridge");
    thread::scope(|scope| {
        let run = || daemon.docker(&["run", "--rm", "--runtime", "hung", IMAGE, "true"]);
        let hung: Vec<_> = (0..HUNG).map(|_| scope.spawn(run)).collect();
        let end = Instant::now() + Duration::from_secs(30);
        while fs::read_dir(&called).unwrap().count() < HUNG {
            assert!(Instant::now() < end, "the runtime is not called");
            thread::yield_now();
        }
        let lives = ["bridge", "none", "bridge"].map(|network| life(&daemon, network));
        fs::write(&over, "").unwrap();
        for run in hung {
            let output = run.join().unwrap();
            assert_eq!(output.status.code(), Some(125), "{output:?}");
        }
        for took in lives {
            assert!(
                took < usual * 5 + Duration::from_secs(1),
                "{took:?}, and {usual:?} in general"
            );
        }
    });
}

#[test]
fn a_bind_of_what_is_not_there_is_refused_when_the_container_is_created() {
    let daemon = Daemon::start(&[]);
    let mount = json!({"Type": "bind", "Source": "/nonexistent", "Target": "/x"});
    let body = json!({"Image": IMAGE, "HostConfig": {"Mounts": [mount]}});
    let reply = daemon.post("/containers/create", &body);
    assert_eq!(
        (reply.status, reply.message().as_str()),
        (
            400,
            "invalid mount config for type \"bind\": bind source path does not exist: /nonexistent"
        )
    );
}
