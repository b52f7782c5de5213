//! Firewalls of others that keep packets from containers: they are told, and what is advised helps.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails where it stands")]

use std::net::SocketAddr;
use std::process::Command;

use netns_tests::{Daemon, Lab, SILENCE};

/// Runs `nft` or what else is advised, on the host.
fn run(lab: &Lab, command: &str) {
    let output = lab.host.run(|| Command::new("sh").args(["-c", command]).output().unwrap());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {errors}");
}

/// A base chain at the hook `forward`, and a rule of it.
fn firewall(policy: &str, rule: &str) -> String {
    format!(
        "nft 'table inet mine {{ chain through {{ type filter hook forward priority 0; \
         policy {policy}; ct state established accept; {rule}; }}; }}'"
    )
}

#[test]
fn a_foreign_chain_that_refuses_what_containers_send_is_told_and_the_advice_helps() {
    let lab = Lab::new();
    let daemon = Daemon::start(&lab.host, &[]);
    let web = daemon.run("web", "-p 8080:80");
    let _server = web.serve(80);
    let reached = || {
        let servers = Lab::both(Lab::HOST).map(|address| SocketAddr::new(address, 8080));
        servers.map(|server| lab.client.tcp_to(server, SILENCE).is_ok())
    };
    assert_eq!((reached(), daemon.rnet("system check").as_str()), ([true; 2], ""));
    for rules in [firewall("drop", "counter"), firewall("accept", "counter reject")] {
        run(&lab, &rules);
        assert_eq!(reached(), [false; 2], "{rules}");
        let told = daemon.output("system check");
        assert!(told.starts_with("chain through of table inet mine: it refuses"), "{told}");
        assert!(told.contains("containers on rnet0 do not reach the outside"), "{told}");
        let warnings = daemon.rnet("info -f {{.Warnings}}");
        assert!(warnings.contains("chain through of table inet mine"), "{warnings}");
        for advice in told.split('`').skip(1).step_by(2) {
            run(&lab, advice);
        }
        assert_eq!((reached(), daemon.rnet("system check").as_str()), ([true; 2], ""), "{rules}");
        run(&lab, "nft delete table inet mine");
    }
    // What refuses nothing, or is not on the way, is nobody's trouble.
    run(&lab, &firewall("accept", "tcp dport 9999 drop"));
    run(
        &lab,
        "nft 'table ip other { chain arrivals { type filter hook input priority 0; policy drop; }; }'",
    );
    assert_eq!(daemon.rnet("system check"), "");
}

#[test]
fn a_table_that_a_daemon_left_is_told() {
    let lab = Lab::new();
    drop(lab.open_as("rnet-old"));
    let daemon = Daemon::start(&lab.host, &[]);
    let told = daemon.output("system check");
    assert!(told.contains("table inet rnet-old: a daemon of rnet made it"), "{told}");
    for advice in told.split('`').skip(1).step_by(2) {
        run(&lab, advice);
    }
    assert_eq!(daemon.rnet("system check"), "");
}
