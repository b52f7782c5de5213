//! A swarm of one machine that no other one reaches, as development machines and suites of clients have it.

use crate::daemon::{Client, Daemon};

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

#[test]
fn a_swarm_was_begun_at_the_bridge_of_its_containers() {
    let daemon = Daemon::start(&[]);
    let ip = |words: &str| {
        let words: Vec<_> = words.split(' ').collect();
        assert!(daemon.beside("ip", &words).status.success(), "{words:?}");
    };
    let refused = |text: &str| {
        for client in Client::ALL {
            let (code, _, error) = daemon.ask(client, &["swarm", "init"]);
            let said = format!(
                "Error response from daemon: could not {text} - specify one with --advertise-addr"
            );
            assert_eq!((code, error), (Some(1), said));
        }
    };
    refused("find the system's IP address");
    ip("link add bb type veth peer name aa");
    ip("link set aa up");
    ip("addr add 192.0.2.1/24 dev aa");
    let said = daemon.docker_ok(&["swarm", "init"]);
    assert!(said.contains(" 192.0.2.1:2377"), "{said}");
    daemon.docker_ok(&["swarm", "leave", "--force"]);
    ip("addr add 192.0.2.2/24 dev aa");
    let choose =
        "choose an IP address to advertise since this system has multiple addresses on ".to_owned();
    refused(&(choose.clone() + "interface aa (192.0.2.1 and 192.0.2.2)"));
    ip("addr del 192.0.2.2/24 dev aa");
    ip("link set bb up");
    ip("addr add 198.51.100.1/24 dev bb");
    refused(&(choose + "different interfaces (192.0.2.1 on aa and 198.51.100.1 on bb)"));
}
