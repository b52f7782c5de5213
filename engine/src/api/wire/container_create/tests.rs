//! Requests as clients send them, and what becomes of them.

use serde_json::json;

use super::*;
use crate::api::wire::go::tests::check_null_is_absent;

fn defaults() -> Defaults {
    Defaults {
        network_mode: "bridge".to_owned(),
        shm_size: 64 << 20,
        ipc_mode: "private".to_owned(),
        cgroupns_mode: "host".to_owned(),
        runtime: "crun".to_owned(),
        log_driver: "json-file".to_owned(),
        log_options: BTreeMap::from([("max-size".to_owned(), "20m".to_owned())]),
        masked_paths: vec!["/proc/acpi".to_owned()],
        readonly_paths: vec!["/proc/bus".to_owned()],
        may_ignore_oom: true,
    }
}

fn of(body: &Value) -> Result<Spec> {
    spec(body.clone(), &defaults())
}

/// A request with this `HostConfig`.
fn host(host: &Value) -> Result<Spec> {
    of(&json!({"Image": "x", "HostConfig": host}))
}

#[test]
fn a_request_of_the_docker_command_is_understood() {
    let spec = of(&json!({
        "Hostname": "", "User": "", "AttachStdin": true, "AttachStdout": true, "Tty": true,
        "OpenStdin": true, "StdinOnce": true, "Env": ["A=1"], "Cmd": ["httpd", "-p", "80"],
        "Image": "rnet/toolbox", "Volumes": {"/data": {}}, "WorkingDir": "/w", "Entrypoint": null,
        "OnBuild": null, "Labels": {"a": "b"}, "ExposedPorts": {"80/tcp": {}},
        "HostConfig": {
            "Binds": ["/etc:/host:ro", "vol:/vol"], "NetworkMode": "n1", "AutoRemove": true,
            "PortBindings": {"80/tcp": [{"HostIp": "", "HostPort": "8080"}]},
            "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0}, "ConsoleSize": [24, 80],
            "Dns": ["9.9.9.9"], "ExtraHosts": ["db:10.0.0.5", "gw:host-gateway"],
            "MemorySwappiness": -1, "PidsLimit": 0, "NanoCpus": 500_000_000,
        },
        "NetworkingConfig": {"EndpointsConfig": {
            "n2": null,
            "n1": {"IPAMConfig": {"IPv4Address": "10.1.0.9"}, "Aliases": ["web"], "GwPriority": 5},
        }},
    }))
    .unwrap();
    assert_eq!(spec.command.as_deref().unwrap(), ["httpd", "-p", "80"]);
    assert_eq!((spec.entrypoint, spec.console_size), (None, Some((24, 80))));
    assert!(spec.tty && spec.open_stdin && spec.stdin_once && spec.auto_remove);
    let networks: Vec<&str> = spec.endpoints.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(networks, ["n1", "n2"]);
    assert_eq!(spec.endpoints[0].1.ipv4, Some("10.1.0.9".parse().unwrap()));
    assert_eq!(spec.endpoints[0].1.gateway_priority, 5);
    let mounts: Vec<_> =
        spec.mounts.iter().map(|m| (m.kind.as_str(), m.target.as_str(), m.readonly)).collect();
    assert_eq!(mounts, [("bind", "/host", true), ("volume", "/vol", false)]);
    assert_eq!(spec.volumes, ["/data"]);
    assert_eq!(spec.ports[0].host_ports, (8080, 8080));
    assert_eq!(spec.resources.pids_limit, None);
}

#[test]
fn inspect_shows_what_was_asked_and_what_was_filled_in() {
    let spec = host(&json!({"NetworkMode": "default", "Memory": 10 << 20})).unwrap();
    let host = &spec.wire_host_config;
    assert_eq!(host["NetworkMode"], "bridge");
    assert_eq!(host["LogConfig"], json!({"Type": "json-file", "Config": {"max-size": "20m"}}));
    assert_eq!((&host["ShmSize"], &host["Runtime"]), (&json!(64 << 20), &json!("crun")));
    assert_eq!(host["MemorySwap"], 20 << 20);
    assert_eq!(host["RestartPolicy"], json!({"Name": "no", "MaximumRetryCount": 0}));
    assert_eq!(host["MaskedPaths"][0], "/proc/acpi");
    assert_eq!(host["Binds"], Value::Null);
    assert_eq!(spec.endpoints, [("bridge".to_owned(), EndpointSpec::default())]);
}

#[test]
fn older_clients_set_the_hardware_address_of_the_container() {
    let body = json!({"Image": "x", "MacAddress": "02:42:ac:11:00:02", "HostConfig": {}});
    let spec = of(&body).unwrap();
    assert_eq!(spec.endpoints[0].1.mac, Some("02:42:ac:11:00:02".parse().unwrap()));
}

#[test]
fn an_empty_entrypoint_is_not_none() {
    let entrypoint = |value| of(&json!({"Image": "x", "Entrypoint": value})).unwrap().entrypoint;
    assert_eq!(entrypoint(json!([""])), Some(vec![String::new()]));
    assert_eq!(entrypoint(json!([])), Some(Vec::new()));
    assert_eq!(entrypoint(json!(null)), None);
    assert_eq!(entrypoint(json!("/bin/x")), Some(vec!["/bin/x".to_owned()]));
}

#[test]
fn another_container_s_network_leaves_no_endpoints() {
    let spec = host(&json!({"NetworkMode": "container:web"})).unwrap();
    assert_eq!(
        (spec.network_mode.to_string().as_str(), spec.endpoints.len()),
        ("container:web", 0)
    );
}

#[test]
fn mounts_of_all_kinds_are_one_list() {
    let spec = host(&json!({
        "Mounts": [
            {"Type": "bind", "Source": "/etc", "Target": "/a", "BindOptions": {"Propagation": "rslave"}},
            {"Type": "volume", "Source": "vol", "Target": "/b", "ReadOnly": true},
            {"Type": "tmpfs", "Target": "/c", "TmpfsOptions": {"SizeBytes": 1024, "Mode": 0o700}},
        ],
        "Tmpfs": {"/d": "size=1m,noexec"},
    }))
    .unwrap();
    let options: Vec<_> =
        spec.mounts.iter().map(|m| (m.target.as_str(), m.options.join(","))).collect();
    let expected = [("/a", ""), ("/b", ""), ("/c", "size=1024,mode=700"), ("/d", "size=1m,noexec")];
    assert_eq!(options, expected.map(|(target, options)| (target, options.to_owned())));
    assert_eq!(spec.mounts[0].propagation.as_str(), "rslave");
}

/// Checks that a request is refused, and how.
fn refused(result: Result<Spec>, message: &str) {
    assert_eq!(result.unwrap_err().to_string(), message);
}

#[test]
fn what_cannot_be_is_refused_in_docker_s_words() {
    refused(of(&json!(null)), "config cannot be empty in order to create a container");
    refused(
        of(&json!({"HostConfig": {}})),
        "config cannot be empty in order to create a container",
    );
    refused(
        of(&json!({"Image": "x", "WorkingDir": "here"})),
        "the working directory 'here' is invalid, it needs to be an absolute path",
    );
    refused(of(&json!({"Image": "x", "Env": ["=x"]})), "invalid environment variable: =x");
    refused(of(&json!({"Image": "x", "StopSignal": "SIGNOPE"})), "invalid signal: SIGNOPE");
    refused(
        of(&json!({"Image": "x", "MacAddress": "zz"})),
        "invalid config for network bridge: invalid MAC address zz",
    );
    refused(
        of(
            &json!({"Image": "x", "NetworkingConfig": {"EndpointsConfig": {"n": {"IPAMConfig": {"IPv4Address": "fd00::1"}}}}}),
        ),
        "invalid config for network n: invalid endpoint settings:\ninvalid IPv4 address: fd00::1",
    );
    for (value, message) in [
        (
            json!({"RestartPolicy": {"Name": "on-failed"}}),
            "invalid restart policy: unknown policy 'on-failed'; use one of \
             'no', 'always', 'on-failure', or 'unless-stopped'",
        ),
        (
            json!({"RestartPolicy": {"Name": "always", "MaximumRetryCount": 3}}),
            "invalid restart policy: maximum retry count can only be used with 'on-failure'",
        ),
        (
            json!({"AutoRemove": true, "RestartPolicy": {"Name": "always"}}),
            "can't create 'AutoRemove' container with restart policy",
        ),
        (json!({"Memory": 1}), "Minimum memory limit allowed is 6MB"),
        (
            json!({"NanoCpus": 1, "CpuPeriod": 1000}),
            "Conflicting options: Nano CPUs and CPU Period cannot both be set",
        ),
    ] {
        refused(host(&value), message);
    }
}

#[test]
fn a_host_configuration_that_cannot_be_is_refused_in_docker_s_words() {
    for (value, message) in [
        (json!({"PidMode": "nope"}), "invalid PID mode: nope"),
        (json!({"CapAdd": ["NOPE"]}), "invalid CapAdd: unknown capability: \"CAP_NOPE\""),
        (json!({"ExtraHosts": ["nope"]}), "bad format for add-host: \"nope\""),
        (json!({"ExtraHosts": ["a:b"]}), "invalid IP address in add-host: \"b\""),
        (json!({"Binds": ["a:b:c:d"]}), "invalid volume specification: 'a:b:c:d'"),
        (json!({"Binds": ["/a:/b:nope"]}), "invalid mode: nope"),
        (
            json!({"Binds": ["/a:b"]}),
            "invalid volume specification: '/a:b': invalid mount config for type \"bind\": \
             invalid mount path: 'b' mount path must be absolute",
        ),
        (json!({"Binds": ["/a:/x", "/b:/x/"]}), "Duplicate mount point: /x/"),
        (
            json!({"Mounts": [{"Type": "bind", "Source": "/a", "Target": "/x",
                               "BindOptions": {"ReadOnlyNonRecursive": true}}]}),
            "invalid mount config for type \"bind\": mount options conflict: !ReadOnly && \
             BindOptions.ReadOnlyNonRecursive",
        ),
        (
            json!({"Mounts": [{"Type": "bind", "Source": "/a", "Target": "/x",
                               "BindOptions": {"Propagation": "bogus"}}]}),
            "invalid mount config for type \"bind\": invalid propagation mode: bogus",
        ),
        (json!({"PortBindings": {"80/x": []}}), "invalid port specification: \"80/x\""),
        (
            json!({"CpusetMems": "1-9223372036854775807"}),
            "Invalid value 1-9223372036854775807 for cpuset mems: value of out range, maximum is 8192",
        ),
        (
            json!({"OomScoreAdj": 2000}),
            "Invalid value 2000, range for oom score adj is [-1000, 1000]",
        ),
        (
            json!({"NetworkMode": "container:"}),
            "invalid network mode: invalid container format container:<name|id>",
        ),
        (
            json!({"NetworkMode": "container:a", "PortBindings": {"1/tcp": []}}),
            "conflicting options: port publishing and the container type network mode",
        ),
    ] {
        refused(host(&value), message);
    }
}

#[test]
fn hidden_and_read_only_paths_are_the_usual_ones_unless_a_request_has_its_own() {
    let usual = host(&json!({"MaskedPaths": null})).unwrap();
    assert_eq!((&usual.masked_paths, &usual.readonly_paths), (&None, &None));
    assert_eq!(usual.wire_host_config["MaskedPaths"], json!(["/proc/acpi"]));
    assert_eq!(usual.wire_host_config["ReadonlyPaths"], json!(["/proc/bus"]));
    let own = host(&json!({"MaskedPaths": [], "ReadonlyPaths": ["/etc"]})).unwrap();
    assert_eq!(own.masked_paths, Some(vec![]));
    assert_eq!(own.readonly_paths, Some(vec!["/etc".to_owned()]));
    assert_eq!(own.wire_host_config["MaskedPaths"], json!([]));
    assert_eq!(own.wire_host_config["ReadonlyPaths"], json!(["/etc"]));
    let none = host(&json!({"SecurityOpt": ["systempaths=unconfined"]})).unwrap();
    assert_eq!(none.wire_host_config["MaskedPaths"], json!([]));
    let all = host(&json!({"Privileged": true})).unwrap();
    assert_eq!(all.wire_host_config["MaskedPaths"], Value::Null);
}

#[test]
fn limits_of_devices_and_of_real_time_are_understood_and_checked() {
    let spec = host(&json!({
        "BlkioWeight": 10, "BlkioWeightDevice": [{"Path": "/dev/a", "Weight": 20}],
        "BlkioDeviceReadBps": [{"Path": "/dev/a", "Rate": 1}], "BlkioDeviceWriteBps": null,
        "BlkioDeviceReadIOps": [], "BlkioDeviceWriteIOps": [{"Path": "/dev/b", "Rate": 2}],
        "MemorySwappiness": 5, "OomKillDisable": true, "DeviceCgroupRules": ["c 1:2 r"],
        "CpuRealtimePeriod": 2000, "CpuRealtimeRuntime": 1000, "KernelMemoryTCP": 5,
    }))
    .unwrap();
    let limits = &spec.resources;
    assert_eq!((limits.block_weight, limits.memory_swappiness), (10, Some(5)));
    assert_eq!(limits.block_weights, [("/dev/a".to_owned(), 20)]);
    assert_eq!(limits.block_read_bytes, [("/dev/a".to_owned(), 1)]);
    assert_eq!(limits.block_writes, [("/dev/b".to_owned(), 2)]);
    assert_eq!((limits.cpu_realtime_period, limits.cpu_realtime_runtime), (2000, 1000));
    assert!(limits.oom_kill_disable);
    assert_eq!(spec.device_rules, ["c 1:2 r"]);
    let shown = &spec.wire_host_config["BlkioDeviceReadBps"];
    assert_eq!(*shown, json!([{"Path": "/dev/a", "Rate": 1}]));
    for (body, message) in [
        (json!({"BlkioWeight": 9}), "Range of blkio weight is from 10 to 1000"),
        (
            json!({"BlkioWeightDevice": [{"Path": "/dev/a", "Weight": 1001}]}),
            "Range of blkio weight is from 10 to 1000",
        ),
        (
            json!({"CpuRealtimePeriod": 1, "CpuRealtimeRuntime": 2}),
            "cpu real-time runtime cannot be higher than cpu real-time period",
        ),
    ] {
        assert_eq!(host(&body).unwrap_err().to_string(), message);
    }
}

#[test]
fn null_is_the_same_as_nothing_in_any_field_of_a_request() {
    let request: Value = serde_json::from_str(include_str!("request.json")).unwrap();
    assert!(of(&request).is_ok(), "{:?}", of(&request));
    check_null_is_absent(&request, |body| of(&body));
}

#[test]
fn a_health_check_may_have_null_in_it() {
    let check = json!({"Test": ["CMD", "true"], "Interval": null, "Retries": null});
    let spec = of(&json!({"Image": "x", "Healthcheck": check})).unwrap();
    assert_eq!(spec.healthcheck.unwrap()["Interval"], 0);
}

#[test]
fn commands_are_lists_or_one_string() {
    let command = |cmd: Value| of(&json!({"Image": "x", "Cmd": cmd})).map(|spec| spec.command);
    assert_eq!(command(json!("sh")).unwrap().unwrap(), ["sh"]);
    assert_eq!(command(json!(["a", null])).unwrap().unwrap(), ["a", ""]);
    assert_eq!(command(Value::Null).unwrap(), None);
    assert!(command(json!({})).is_err() && command(json!([5])).is_err());
}

#[test]
fn cve_2018_20699_lists_and_ranges_of_numbers_have_an_end() {
    const MOST: u64 = u64::MAX / 2;
    for list in [format!("1-{MOST}"), format!("0,{MOST}"), "0-8193".to_owned(), "1-".to_owned()] {
        for field in ["CpusetMems", "CpusetCpus"] {
            assert!(host(&json!({ field: list })).is_err(), "{field} {list}");
        }
    }
    for range in [format!("1-{MOST}"), "0-65536".to_owned(), "9-1".to_owned(), "1-2-3".to_owned()] {
        let port = format!("{range}/tcp");
        assert!(of(&json!({"Image": "x", "ExposedPorts": {&port: {}}})).is_err(), "{range}");
        let bindings = json!({"80/tcp": [{"HostPort": range}]});
        assert!(host(&json!({"PortBindings": bindings})).is_err(), "{range}");
        assert!(host(&json!({"PortBindings": {port: []}})).is_err(), "{range}");
    }
    let all = json!({"Image": "x", "ExposedPorts": {"1-65535/tcp": {}}});
    assert_eq!(of(&all).unwrap().exposed.len(), 65_535);
}
