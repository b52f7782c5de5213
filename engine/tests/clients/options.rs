//! What a request asks of a container's surroundings is what the container gets.

use serde_json::{Value, json};

use crate::daemon::{Client, Daemon};

const IMAGE: &str = "rnet/toolbox";

/// Creates a container by the API: its id and the whole reply.
fn create(daemon: &Daemon, body: &Value) -> (String, Value) {
    let reply = daemon.post("/containers/create", body);
    assert_eq!(reply.status, 201, "{}", reply.text());
    let reply = reply.json();
    (reply["Id"].as_str().unwrap().to_owned(), reply)
}

/// Runs a container to its end and gives back what it wrote.
fn output_of(daemon: &Daemon, id: &str) -> String {
    daemon.docker_ok(&["start", "-a", id])
}

#[test]
fn paths_are_hidden_and_read_only_as_the_request_says() {
    let daemon = Daemon::start(&[]);
    let mounts = |host: &Value| {
        let command = ["cat", "/proc/self/mountinfo"];
        let body = json!({"Image": IMAGE, "Cmd": command, "HostConfig": host});
        let (id, _) = create(&daemon, &body);
        let shown = daemon.get(&format!("/containers/{id}/json")).json()["HostConfig"].clone();
        (output_of(&daemon, &id), shown)
    };
    let has = |mounts: &str, place: &str| {
        mounts.lines().any(|line| line.split(' ').nth(4) == Some(place))
    };
    let (usual, shown) = mounts(&json!({"NetworkMode": "none"}));
    assert!(has(&usual, "/proc/interrupts") && has(&usual, "/proc/sys"), "{usual}");
    assert!(shown["MaskedPaths"].as_array().unwrap().contains(&json!("/proc/interrupts")));
    let own = json!({
        "NetworkMode": "none", "MaskedPaths": ["/proc/version"], "ReadonlyPaths": ["/tmp"],
    });
    let (mine, shown) = mounts(&own);
    assert!(has(&mine, "/proc/version") && has(&mine, "/tmp"), "{mine}");
    assert!(!has(&mine, "/proc/interrupts") && !has(&mine, "/proc/sys"), "{mine}");
    assert_eq!(shown["MaskedPaths"], own["MaskedPaths"]);
    assert_eq!(shown["ReadonlyPaths"], own["ReadonlyPaths"]);
    let privileged = json!({"NetworkMode": "none", "Privileged": true, "MaskedPaths": ["/tmp"]});
    assert!(!has(&mounts(&privileged).0, "/tmp"));
    for client in Client::ALL {
        let run = ["run", "--name", "c1", "--network", "none"];
        let words = ["--security-opt", "systempaths=unconfined", IMAGE, "cat"];
        let all = daemon.ok(client, &[&run[..], &words, &["/proc/self/mountinfo"]].concat());
        assert!(!has(&all, "/proc/interrupts") && !has(&all, "/proc/sys"), "{client:?} {all}");
        let shown = ["inspect", "-f", "{{json .HostConfig.MaskedPaths}}", "c1"];
        assert_eq!(daemon.ok(client, &shown), "[]", "{client:?}");
        daemon.ok(client, &["rm", "c1"]);
    }
}

#[test]
fn a_container_whose_network_is_disabled_has_none() {
    let daemon = Daemon::start(&[]);
    for mode in ["default", "bridge", "host"] {
        let body = json!({
            "Image": IMAGE, "Cmd": ["ls", "/sys/class/net"], "NetworkDisabled": true,
            "ExposedPorts": {"80/tcp": {}}, "HostConfig": {"NetworkMode": mode, "PublishAllPorts": true},
        });
        let (id, reply) = create(&daemon, &body);
        assert_eq!(reply["Warnings"], json!([]));
        assert_eq!(output_of(&daemon, &id), "lo", "{mode}");
        let shown = daemon.get(&format!("/containers/{id}/json")).json();
        assert_eq!(shown["Config"]["NetworkDisabled"], true);
        let asked = if mode == "default" { "bridge" } else { mode };
        assert_eq!(shown["HostConfig"]["NetworkMode"], asked);
        assert_eq!(shown["NetworkSettings"]["Networks"], json!({}));
    }
}
