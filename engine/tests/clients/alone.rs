//! A swarm of one machine that no other one reaches, as development machines and suites of clients have it.

use crate::daemon::Daemon;

#[test]
fn a_swarm_of_one_was_refused_at_the_loopback_address_that_was_named() {
    let mut daemon = Daemon::start(&[]);
    let said = daemon.docker_ok(&["swarm", "init", "--advertise-addr", "127.0.0.1"]);
    assert!(said.contains(" 127.0.0.1:2377"), "{said}");
    let state = ["info", "-f", "{{.Swarm.LocalNodeState}} {{.Swarm.NodeAddr}}"];
    for _ in 0..2 {
        assert_eq!(daemon.docker_ok(&state), "active 127.0.0.1");
        daemon.docker_ok(&["network", "create", "-d", "overlay", "--attachable", "over"]);
        let run =
            ["run", "--rm", "--network", "over", "--name", "cc", "rnet/toolbox", "nslookup", "cc"];
        daemon.docker_ok(&run);
        daemon.docker_ok(&["network", "rm", "over"]);
        daemon.restart(&[]);
    }
    daemon.docker_ok(&["swarm", "leave", "--force"]);
    assert_eq!(daemon.docker_ok(&state).trim(), "inactive");
}
