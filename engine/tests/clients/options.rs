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
fn cgroups_could_not_be_made_writable() {
    let daemon = Daemon::start(&[]);
    let access = |option: &[&str]| {
        let run = ["run", "--rm", "--network", "none"];
        let words = [IMAGE, "cat", "/proc/self/mountinfo"];
        let mounts = daemon.docker_ok(&[&run[..], option, &words].concat());
        let fields = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let mut own =
            mounts.lines().map(fields).filter(|line| line[4].starts_with("/sys/fs/cgroup/"));
        own.next().map(|line| line[5][..2].to_owned())
    };
    let read_only = access(&[]);
    assert_ne!(read_only.as_deref(), Some("rw"));
    let writable = access(&["--security-opt", "writable-cgroups=true"]);
    assert!(read_only.is_none() || writable.as_deref() == Some("rw"), "{writable:?}");
    for option in [&["--security-opt", "writable-cgroups=false"][..], &["--privileged"]] {
        let both = [option, &["--security-opt", "writable-cgroups=false"]].concat();
        assert_eq!(access(&both), read_only, "{option:?}");
    }
}

#[test]
fn a_working_directory_was_told_as_it_was_written_and_a_nameless_annotation_taken() {
    let daemon = Daemon::start(&[]);
    let body = json!({"Image": IMAGE, "WorkingDir": "/tmp/../x//y/"});
    let (id, _) = create(&daemon, &body);
    let told = daemon.get(&format!("/containers/{id}/json")).json();
    assert_eq!(told["Config"]["WorkingDir"], "/x/y");
    let list = |version: &str| {
        let all = daemon.get(&format!("/{version}/containers/json?all=1")).json();
        all[0]["HostConfig"]["Annotations"].clone()
    };
    daemon.docker_ok(&["rm", &id]);
    create(&daemon, &json!({"Image": IMAGE, "HostConfig": {"Annotations": {"a": "b"}}}));
    assert_eq!((list("v1.45"), list("v1.46")), (json!(null), json!({"a": "b"})));
    let body = json!({"Image": IMAGE, "HostConfig": {"Annotations": {"": "b"}}});
    let reply = daemon.post("/containers/create", &body);
    let said = "invalid Annotations: the empty string is not permitted as an annotation key";
    assert_eq!((reply.status, reply.message().as_str()), (400, said));
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

/// A whole disk that the kernel lets be limited.
fn disk() -> Option<(String, String)> {
    let disks = std::fs::read_dir("/sys/block").ok()?.flatten();
    disks.filter_map(|disk| disk.file_name().into_string().ok()).find_map(|name| {
        let numbers = std::fs::read_to_string(format!("/sys/block/{name}/dev")).ok()?;
        let path = format!("/dev/{name}");
        std::path::Path::new(&path).exists().then(|| (path, numbers.trim().to_owned()))
    })
}

#[test]
fn limits_reach_the_cgroup_or_are_said_to_be_discarded() {
    let daemon = Daemon::start(&[]);
    let disk = disk();
    let rate = |rate: u64| disk.as_ref().map(|(path, _)| json!([{"Path": path, "Rate": rate}]));
    let weight = disk.as_ref().map(|(path, _)| json!([{"Path": path, "Weight": 300}]));
    let body = json!({"Image": IMAGE, "Cmd": ["trap"], "HostConfig": {
        "NetworkMode": "none", "BlkioWeight": 300, "BlkioWeightDevice": weight,
        "BlkioDeviceReadBps": rate(1 << 20), "BlkioDeviceWriteBps": rate(2 << 20),
        "BlkioDeviceReadIOps": rate(100), "BlkioDeviceWriteIOps": rate(200),
        "Memory": 64 << 20, "MemorySwappiness": 7, "OomKillDisable": true,
        "CpuRealtimePeriod": 1_000_000, "CpuRealtimeRuntime": 1_000,
        "DeviceCgroupRules": ["c 42:* rwm"],
    }});
    let (id, reply) = create(&daemon, &body);
    daemon.docker_ok(&["start", &id]);
    let warnings = reply["Warnings"].to_string();
    // The files of cgroup v1; on v2 the last of the block limits is one of `io.max`.
    let numbers = disk.map(|(_, numbers)| numbers).unwrap_or_default();
    for (file, line, what) in [
        ("memory/memory.swappiness", "7".to_owned(), "swappiness"),
        ("memory/memory.oom_control", "oom_kill_disable 1".to_owned(), "OomKillDisable"),
        ("devices/devices.list", "c 42:* rwm".to_owned(), "-"),
        (
            "blkio/blkio.throttle.read_bps_device",
            format!("{numbers} 1048576"),
            "BPS Block I/O read",
        ),
        ("blkio/blkio.throttle.write_iops_device", format!("{numbers} 200"), "IOPS Block write"),
    ] {
        let shown = daemon.docker(&["exec", &id, "cat", &format!("/sys/fs/cgroup/{file}")]);
        let shown = String::from_utf8(shown.stdout).unwrap();
        let unified =
            shown.is_empty() && std::path::Path::new("/sys/fs/cgroup/cgroup.procs").exists();
        let applied = shown.lines().any(|found| found == line) || numbers.is_empty() || unified;
        assert!(applied || warnings.contains(what), "{file}: {shown} {warnings}");
    }
}

#[test]
fn limits_that_cannot_be_are_refused_when_the_container_is_created() {
    let daemon = Daemon::start(&[]);
    for (flag, value, message) in [
        (
            "--device-read-bps",
            "/dev/null:1mb",
            "cannot limit device \"/dev/null\": not a block device",
        ),
        ("--device-write-iops", "/dev/nosuch:1", "cannot limit device \"/dev/nosuch\""),
        ("--blkio-weight", "5000", "Range of blkio weight is from 10 to 1000"),
    ] {
        let (_, error) = daemon.docker_err(&["create", flag, value, IMAGE]);
        assert!(error.contains(message), "{flag}: {error}");
    }
    assert_eq!(daemon.docker_ok(&["ps", "-aq"]), "");
}

#[test]
fn without_the_default_network_containers_have_none_unless_they_name_one() {
    let mut daemon = Daemon::start(&[]);
    let networks = |daemon: &Daemon| daemon.docker_ok(&["network", "ls", "--format", "{{.Name}}"]);
    assert_eq!(networks(&daemon), "bridge\nhost\nnone");
    daemon.restart(&["--bridge", "none"]);
    assert_eq!(networks(&daemon), "host\nnone");
    daemon.docker_ok(&["network", "create", "n1"]);
    for client in Client::ALL {
        let links = |flags: &[&str]| {
            let words =
                [&["run", "--name", "c1"], flags, &[IMAGE, "ls", "/sys/class/net"]].concat();
            let links = daemon.ok(client, &words);
            let mode = daemon.ok(client, &["inspect", "-f", "{{.HostConfig.NetworkMode}}", "c1"]);
            daemon.ok(client, &["rm", "c1"]);
            (mode, links)
        };
        assert_eq!(links(&[]), ("none".to_owned(), "lo".to_owned()), "{client:?}");
        assert_eq!(links(&["--network", "n1"]), ("n1".to_owned(), "eth0\nlo".to_owned()));
        let (code, _, error) = daemon.ask(client, &["run", "--network", "bridge", IMAGE, "true"]);
        assert_eq!(code, Some(125), "{client:?}");
        assert!(error.contains("network bridge not found"), "{error}");
    }
    daemon.restart(&[]);
    assert_eq!(daemon.docker_ok(&["run", "--rm", IMAGE, "ls", "/sys/class/net"]), "eth0\nlo");
}

#[test]
fn new_settings_of_the_default_network_count_once_nobody_is_on_it() {
    let mut daemon = Daemon::start(&["--bip", "10.61.0.1/24", "--mtu", "1400"]);
    daemon.docker_ok(&["run", "-d", "--name", "c1", IMAGE, "trap"]);
    let flags = [
        ["--bip", "10.62.0.1/24"],
        ["--fixed-cidr", "10.62.0.128/25"],
        ["--bip6", "fd62::1/64"],
        ["--mtu", "1300"],
    ]
    .concat();
    let told = daemon.restart(&flags);
    for difference in [
        "--bip 10.62.0.1/24 is not in force: network bridge has 10.61.0.1/24",
        "--fixed-cidr 10.62.0.128/25 is not in force: network bridge has the default",
        "--ipv6 true is not in force: network bridge has false",
        "--mtu 1300 is not in force: network bridge has 1400",
    ] {
        let advice = "and containers are attached to it; stop them and start the daemon again";
        let line = told.lines().find(|line| line.contains(difference));
        assert!(line.is_some_and(|line| line.contains(advice)), "{difference}: {told}");
    }
    let address = |format: &str| daemon.docker_ok(&["inspect", "-f", format, "c1"]);
    assert_eq!(address("{{.NetworkSettings.IPAddress}}"), "10.61.0.2");
    daemon.docker_ok(&["stop", "-t", "0", "c1"]);
    let told = daemon.restart(&flags);
    assert!(!told.contains("not in force"), "{told}");
    daemon.docker_ok(&["start", "c1"]);
    let shown = daemon.docker_ok(&[
        "inspect",
        "-f",
        "{{.NetworkSettings.IPAddress}} {{.NetworkSettings.GlobalIPv6Address}}",
        "c1",
    ]);
    assert_eq!(shown, "10.62.0.128 fd62::2");
    let mtu = daemon.docker_ok(&["exec", "c1", "cat", "/sys/class/net/eth0/mtu"]);
    assert_eq!(mtu, "1300");
    let told = daemon.restart(&flags);
    assert!(!told.contains("not in force"), "nothing changed: {told}");
    daemon.docker_ok(&["rm", "-f", "c1"]);
    let told = daemon.restart(&["--default-gateway", "10.63.0.9"]);
    assert!(told.contains("--default-gateway 10.63.0.9 is not in force"), "{told}");
    assert!(told.contains("choose it with --bip"), "{told}");
    let show = ["network", "inspect", "-f", "{{(index .IPAM.Config 0).Subnet}}", "bridge"];
    assert_eq!(daemon.docker_ok(&show), "172.17.0.0/24");
}

#[test]
fn an_unchanged_default_network_stays_the_same_one() {
    for flags in [&[][..], &["--default-network-opt", "bridge=com.docker.network.driver.mtu=1400"]]
    {
        let mut daemon = Daemon::start(flags);
        let id = |daemon: &Daemon| daemon.docker_ok(&["network", "ls", "-qf", "name=bridge"]);
        let before = id(&daemon);
        daemon.restart(flags);
        assert_eq!(id(&daemon), before, "{flags:?}");
    }
}
