//! A swarm of one machine that no other one reaches, as development machines and suites of clients have it.

use serde_json::{Value, json};

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

/// A swarm of one, as a client asks for it.
fn begin(daemon: &Daemon, wanted: &Value) {
    let mut body = json!({"ListenAddr": "127.0.0.1:2377", "AdvertiseAddr": "127.0.0.1"});
    let wanted = wanted.as_object().unwrap().clone();
    body.as_object_mut().unwrap().extend(wanted);
    let reply = daemon.post("/swarm/init", &body);
    assert_eq!(reply.status, 200, "{}", reply.text());
}

#[test]
fn a_pool_and_a_port_that_were_named_for_a_swarm_were_refused() {
    let mut daemon = Daemon::start(&[]);
    let named =
        json!({"DefaultAddrPool": ["10.201.7.0/24"], "SubnetSize": 26, "DataPathPort": 4242});
    begin(&daemon, &named);
    for _ in 0..2 {
        let told = daemon.get("/swarm").json();
        for (field, value) in named.as_object().unwrap() {
            assert_eq!(&told[field], value);
        }
        let make = ["network", "create", "-d", "overlay", "--attachable", "over"];
        daemon.docker_ok(&make);
        let subnet = ["network", "inspect", "-f", "{{(index .IPAM.Config 0).Subnet}}", "over"];
        assert_eq!(daemon.docker_ok(&subnet), "10.201.7.0/26");
        daemon.docker_ok(&[
            "run",
            "-d",
            "--network",
            "over",
            "--name",
            "cc",
            "rnet/toolbox",
            "cat",
        ]);
        let links = daemon.beside("ip", &["-d", "link", "show", "type", "vxlan"]);
        let links = String::from_utf8(links.stdout).unwrap();
        assert!(links.contains("dstport 4242"), "{links}");
        daemon.docker_ok(&["rm", "-f", "cc"]);
        daemon.docker_ok(&["network", "rm", "over"]);
        daemon.restart(&[]);
    }
    daemon.docker_ok(&["swarm", "leave", "--force"]);
    begin(&daemon, &json!({}));
    let told = daemon.get("/swarm").json();
    assert_eq!(told["DefaultAddrPool"], json!(["10.128.0.0/9"]), "what networks are cut from");
    assert_eq!((&told["SubnetSize"], &told["DataPathPort"]), (&json!(20), &json!(4789)));
    daemon.docker_ok(&["swarm", "leave", "--force"]);
}

#[test]
fn what_a_swarm_was_told_of_snapshots_and_tasks_was_dropped() {
    let daemon = Daemon::start(&[]);
    begin(&daemon, &json!({"Spec": {"Raft": {"SnapshotInterval": 5000}}}));
    let told = || daemon.get("/swarm").json()["Spec"].clone();
    assert_eq!(told()["Raft"]["SnapshotInterval"], 5000);
    daemon.docker_ok(&["swarm", "update", "--task-history-limit", "2", "--max-snapshots", "3"]);
    let raft = &told()["Raft"];
    assert_eq!((&raft["SnapshotInterval"], &raft["KeepOldSnapshots"]), (&json!(5000), &json!(3)));
    assert_eq!(told()["Orchestration"]["TaskHistoryRetentionLimit"], 2);
    daemon.docker_ok(&["swarm", "leave", "--force"]);
}
