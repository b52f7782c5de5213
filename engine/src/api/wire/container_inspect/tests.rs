//! A container in the shapes that clients read.

use std::collections::BTreeMap;

use cnm::{PortBinding, Protocol};
use expect_test::expect;

use super::*;
use crate::api::wire::container_create::{Defaults, spec};
use crate::api::wire::container_list::{self, Called};
use crate::container::{Health, Paths, Resolved};

fn called(names: &[String]) -> Called<'_> {
    Called { names, image: "rnet/toolbox" }
}

fn container() -> Container {
    let body = json!({
        "Image": "rnet/toolbox",
        "Cmd": ["httpd"],
        "HostConfig": {"NetworkMode": "n1", "PortBindings": {"80/tcp": [{"HostPort": "8080"}]}},
    });
    let time = |seconds| DateTime::from_timestamp(seconds, 0);
    let bound = |host: &str| PortBinding {
        host: host.parse().unwrap(),
        host_port: 8080,
        protocol: Protocol::Tcp,
        port: 80,
    };
    Container {
        id: "a1".repeat(32).try_into().unwrap(),
        name: "web".to_owned(),
        created: time(1000).unwrap(),
        spec: spec(body, &Defaults::default()).unwrap(),
        image: format!("sha256:{}", "b2".repeat(32)),
        resolved: Resolved {
            path: "/bin/httpd".to_owned(),
            args: vec!["-p".to_owned(), "a b".to_owned()],
            command: Some(vec!["httpd".to_owned()]),
            env: vec!["PATH=/bin".to_owned()],
            hostname: "a1a1a1a1a1a1".to_owned(),
            labels: BTreeMap::from([("k".to_owned(), "v".to_owned())]),
            exposed: vec![(80, Protocol::Tcp), (443, Protocol::Tcp)],
            stop_signal: "SIGTERM".to_owned(),
            ..Resolved::default()
        },
        state: State { status: Status::Running, pid: 7, started: time(1001), ..State::default() },
        joined: None,
        limits_due: false,
        sandbox: Some("c3".repeat(32).parse().unwrap()),
        sandbox_key: "/run/rnet/ns/c3".into(),
        endpoints: vec![EndpointView {
            network: "n1".to_owned(),
            network_id: Some("d4".repeat(32).parse().unwrap()),
            id: "e5".repeat(32),
            addresses: vec!["10.1.0.2/24".parse().unwrap(), "fd01::2/64".parse().unwrap()],
            gateways: vec!["10.1.0.1".parse().unwrap(), "fd01::1".parse().unwrap()],
            mac: Some("02:42:0a:01:00:02".parse().unwrap()),
            names: vec!["web".to_owned(), "a1a1a1a1a1a1".to_owned()],
            ..EndpointView::default()
        }],
        ports: vec![bound("::"), bound("0.0.0.0")],
        draining: Vec::new(),
        paths: Paths::default(),
        graph_driver: "overlay2".to_owned(),
        graph_data: BTreeMap::new(),
        mounts: Vec::new(),
        links: None,
    }
}

#[test]
fn inspect_tells_state_config_and_networks() {
    let value = inspect(&container(), &Beside::default());
    assert_eq!(value["Name"], "/web");
    assert_eq!(value["Created"], "1970-01-01T00:16:40Z");
    assert_eq!(value["State"]["Running"], true);
    assert_eq!(value["State"]["FinishedAt"], "0001-01-01T00:00:00Z");
    assert_eq!(value["Config"]["Image"], "rnet/toolbox");
    assert_eq!(value["Config"]["Env"], json!(["PATH=/bin"]));
    assert_eq!(value["Config"]["ExposedPorts"], json!({"80/tcp": {}, "443/tcp": {}}));
    assert_eq!(value["Config"].get("StopSignal"), None);
    assert_eq!(value["HostConfig"]["PortBindings"]["80/tcp"][0]["HostPort"], "8080");
    assert_eq!(value.get("SizeRw"), None);
    let settings = &value["NetworkSettings"];
    assert_eq!(settings["IPAddress"], "", "it is not on the default network");
    assert_eq!(settings["Ports"]["443/tcp"], Value::Null);
    assert_eq!(settings["Ports"]["80/tcp"].as_array().map(Vec::len), Some(2));
    expect![[r#"
        {
          "IPAMConfig": null,
          "Links": null,
          "Aliases": null,
          "DriverOpts": null,
          "GwPriority": 0,
          "NetworkID": "d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4",
          "EndpointID": "e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5",
          "Gateway": "10.1.0.1",
          "IPAddress": "10.1.0.2",
          "IPPrefixLen": 24,
          "IPv6Gateway": "fd01::1",
          "GlobalIPv6Address": "fd01::2",
          "GlobalIPv6PrefixLen": 64,
          "MacAddress": "02:42:0a:01:00:02",
          "DNSNames": [
            "web",
            "a1a1a1a1a1a1"
          ]
        }"#]]
    .assert_eq(&serde_json::to_string_pretty(&settings["Networks"]["n1"]).unwrap());
}

#[test]
fn a_stopped_container_has_no_ports() {
    let mut container = container();
    container.state.status = Status::Exited;
    assert_eq!(inspect(&container, &Beside::default())["NetworkSettings"]["Ports"], json!({}));
    let now = DateTime::from_timestamp(2000, 0).unwrap();
    assert_eq!(container_list::entry(&container, &called(&[]), None, now)["Ports"], json!([]));
}

#[test]
fn what_was_not_asked_for_is_not_shown() {
    let body = json!({
        "Image": "x", "Healthcheck": {"Test": ["CMD", "true"], "Interval": 5_000_000},
        "HostConfig": {"Tmpfs": {"/by-flag": "size=1m"}},
    });
    let mut container = container();
    container.spec = spec(body, &Defaults::default()).unwrap();
    container.resolved.healthcheck =
        go::from_value(container.spec.healthcheck.clone().unwrap()).unwrap();
    let tmpfs = |target: &str| MountPoint {
        kind: MountKind::Tmpfs,
        target: target.to_owned(),
        ..MountPoint::default()
    };
    container.mounts = vec![tmpfs("/by-flag"), tmpfs("/by-mount")];
    let shown = inspect(&container, &Beside::default());
    let check = json!({"Test": ["CMD", "true"], "Interval": 5_000_000});
    assert_eq!(shown["Config"]["Healthcheck"], check);
    assert_eq!(shown["Mounts"].as_array().unwrap().len(), 1);
    assert_eq!(shown["Mounts"][0]["Destination"], "/by-mount");
}

#[test]
fn a_container_without_networks_exposes_nothing() {
    let mut container = container();
    container.ports.clear();
    container.endpoints.clear();
    let now = DateTime::from_timestamp(2000, 0).unwrap();
    assert_eq!(container_list::entry(&container, &called(&[]), None, now)["Ports"], json!([]));
}

#[test]
fn a_container_that_is_reached_past_the_host_exposes_nothing() {
    let mut container = container();
    container.ports.clear();
    container.endpoints[0].unpublished = true;
    let now = DateTime::from_timestamp(2000, 0).unwrap();
    assert_eq!(container_list::entry(&container, &called(&[]), None, now)["Ports"], json!([]));
    let told = inspect(&container, &Beside::default());
    assert_eq!(told["NetworkSettings"]["Ports"], json!({}));
}

#[test]
fn a_list_s_entry_has_the_columns_of_ps() {
    let now = DateTime::from_timestamp(1006, 0).unwrap();
    let names = ["/app/db", "/web"].map(str::to_owned);
    let entry =
        container_list::entry(&container(), &called(&names), Some(Sizes { own: 1, all: 2 }), now);
    assert_eq!(entry["Names"], json!(["/app/db", "/web"]));
    assert_eq!(entry["Command"], "/bin/httpd -p 'a b'");
    assert_eq!((&entry["State"], &entry["Status"]), (&json!("running"), &json!("Up 5 seconds")));
    assert_eq!((&entry["SizeRw"], &entry["SizeRootFs"]), (&json!(1), &json!(2)));
    let ports = json!([
        {"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"},
        {"IP": "::", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"},
        {"PrivatePort": 443, "Type": "tcp"},
    ]);
    assert_eq!(entry["Ports"], ports);
}

#[test]
fn every_state_has_docker_s_words() {
    let time = DateTime::from_timestamp(0, 0);
    let now = DateTime::from_timestamp(7200, 0).unwrap();
    let check = |is: Status, exit_code, expected: &str| {
        let state =
            State { status: is, exit_code, started: time, finished: time, ..State::default() };
        assert_eq!(status(&state, now), expected);
    };
    check(Status::Created, 0, "Created");
    check(Status::Running, 0, "Up 2 hours");
    check(Status::Paused, 0, "Up 2 hours (Paused)");
    check(Status::Restarting, 1, "Restarting (1) 2 hours ago");
    check(Status::Exited, 137, "Exited (137) 2 hours ago");
    check(Status::Removing, 0, "Removal In Progress");
    check(Status::Dead, 0, "Dead");
    let health = Some(Health::default());
    let state = State { status: Status::Running, started: time, health, ..State::default() };
    assert_eq!(status(&state, now), "Up 2 hours (health: starting)");
}
