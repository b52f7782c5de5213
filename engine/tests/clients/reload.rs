//! A configuration that is read again while the daemon runs.

use std::fs;
use std::time::Instant;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::daemon::{Daemon, PATIENCE, Scratch};

/// Has the daemon read its configuration again, and waits until it has said so once more.
fn reload(daemon: &Daemon, said: &str) {
    let times = || daemon.log().matches(said).count();
    let (before, end) = (times(), Instant::now() + PATIENCE);
    daemon.signal(Signal::SIGHUP);
    while times() == before {
        assert!(Instant::now() < end, "{}", daemon.log());
        std::thread::yield_now();
    }
}

#[test]
fn a_reload_changes_what_may_change_and_tells_of_what_needs_a_restart() {
    let scratch = Scratch::new();
    let file = scratch.path("daemon.json");
    let own = json!({"own": {"path": "runc"}});
    fs::write(&file, json!({"labels": ["a=1"]}).to_string()).unwrap();
    let flags = ["--config-file", file.to_str().unwrap(), "--registry-mirror=https://flag.test"];
    let daemon = Daemon::start_with_descriptors(4096, &flags);
    let info = |format: &str| daemon.docker_ok(&["info", "-f", format]);
    assert_eq!(daemon.get("/debug/vars").status, 404);
    assert_eq!(info("{{.Labels}}"), "[a=1]");

    let directives = json!({
        "labels": ["a=2"], "debug": true, "insecure-registries": ["10.0.0.0/8"],
        "runtimes": own, "default-runtime": "own", "max-concurrent-downloads": 7,
        "mtu": 1400, "bip": "10.9.0.1/24",
    });
    fs::write(&file, directives.to_string()).unwrap();
    reload(&daemon, "configuration read again");
    assert_eq!(info("{{.Labels}} {{.Debug}} {{.DefaultRuntime}}"), "[a=2] true own");
    let registries = "{{.RegistryConfig.InsecureRegistryCIDRs}} {{.RegistryConfig.Mirrors}}";
    assert_eq!(info(registries), "[10.0.0.0/8 ::1/128 127.0.0.0/8] [https://flag.test/]");
    let vars = daemon.get("/debug/vars").json();
    assert!(vars["figures"]["resident"].as_u64().unwrap() > 0, "{vars}");
    assert_eq!(vars["cmdline"][1], "daemon");
    let log = daemon.log();
    assert!(log.contains("these take effect at the next start options=\"bip, mtu\""), "{log}");
    let subnet = "{{(index .IPAM.Config 0).Gateway}}";
    let gateway = daemon.docker_ok(&["network", "inspect", "bridge", "-f", subnet]);
    assert_ne!(gateway, "10.9.0.1");
    let until = ["events", "--since", "1m", "--until", "0s", "--filter", "event=reload"];
    // It asks up to a whole second.
    let (mut events, end) = (String::new(), Instant::now() + PATIENCE);
    while events.is_empty() {
        assert!(Instant::now() < end, "nothing is told of it");
        events = daemon.docker_ok(&until);
    }
    for attribute in ["max-concurrent-downloads=7", "labels=[\"a=2\"]", "default-runtime=own"] {
        assert!(events.contains(attribute), "{events}");
    }

    // What makes no sense changes nothing, and what no longer stands there is as if it never had.
    for wrong in ["{", r#"{"registry-mirrors": ["https://twice.test"]}"#, r#"{"labels": ["a"]}"#] {
        fs::write(&file, wrong).unwrap();
        reload(&daemon, "configuration not changed");
        assert_eq!(info("{{.Labels}} {{.DefaultRuntime}}"), "[a=2] own");
    }
    fs::write(&file, "{}").unwrap();
    reload(&daemon, "configuration read again");
    assert_eq!(info("{{.Labels}} {{.Debug}}"), "[] false");
    assert_eq!(daemon.get("/debug/vars").status, 404);
}
