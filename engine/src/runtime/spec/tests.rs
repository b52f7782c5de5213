//! What the specification says, without running it.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::super::{Cgroups, Crun, Filters, Runc};
use super::*;

/// A host that is the same everywhere.
fn host() -> Host {
    Host {
        capabilities: CapabilitySet::all(),
        cgroups: Cgroups::V1 { memory: Some(PathBuf::from("/nowhere")) },
        cgroup_namespaces: true,
        oom_score_adj: 0,
        thermal_throttle: vec!["/sys/devices/system/cpu/cpu0/thermal_throttle".to_owned()],
        filters: Filters::default(),
    }
}

fn input() -> BundleInput {
    BundleInput {
        args: vec!["sleep".to_owned(), "1".to_owned()],
        rootfs: "/rootfs".into(),
        hostname: "box".to_owned(),
        cgroups_path: "/rnet/abc".to_owned(),
        ..BundleInput::default()
    }
}

fn built(input: &BundleInput) -> Value {
    let bundle = build(input, &host(), &Crun::new("crun", "/usr/bin/crun")).unwrap();
    serde_json::to_value(bundle.spec).unwrap()
}

fn refused(input: &BundleInput) -> String {
    build(input, &host(), &Crun::new("crun", "/usr/bin/crun")).unwrap_err().to_string()
}

fn mount_at<'a>(spec: &'a Value, target: &str) -> &'a Value {
    let mounts = spec["mounts"].as_array().unwrap();
    mounts.iter().find(|mount| mount["destination"] == target).unwrap()
}

#[test]
fn the_defaults_are_dockers() {
    let spec = built(&input());
    let process = &spec["process"];
    assert_eq!(process["noNewPrivileges"], false);
    assert_eq!(process["capabilities"]["bounding"].as_array().unwrap().len(), 14);
    assert_eq!(process["capabilities"]["inheritable"], json!([]));
    assert_eq!(process["capabilities"]["ambient"], json!([]));
    assert_eq!(process["rlimits"], json!([]));
    assert_eq!(
        process["env"],
        json!([
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOSTNAME=box",
            "HOME=/"
        ])
    );
    assert_eq!(
        mount_at(&spec, "/dev/shm")["options"],
        json!(["nosuid", "noexec", "nodev", "mode=1777", "size=67108864"])
    );
    assert!(mount_at(&spec, "/sys")["options"].as_array().unwrap().contains(&json!("ro")));
    let linux = &spec["linux"];
    let masked = linux["maskedPaths"].as_array().unwrap();
    for path in ["/proc/kcore", "/proc/interrupts", "/sys/devices/virtual/powercap"] {
        assert!(masked.contains(&json!(path)), "{path}");
    }
    assert!(masked.contains(&json!("/sys/devices/system/cpu/cpu0/thermal_throttle")));
    assert_eq!(linux["resources"]["devices"][0], json!({"allow": false, "access": "rwm"}));
    assert_eq!(linux["sysctl"]["net.ipv4.ip_unprivileged_port_start"], "0");
    let kinds: Vec<_> =
        linux["namespaces"].as_array().unwrap().iter().map(|known| &known["type"]).collect();
    assert_eq!(kinds, ["mount", "network", "pid", "ipc", "uts"]);
}

#[test]
fn a_filter_goes_the_way_the_runtime_takes() {
    let input = input();
    let crun = build(&input, &host(), &Crun::new("crun", "crun")).unwrap().spec;
    assert!(crun.annotations().as_ref().unwrap().contains_key(seccomp::ANNOTATION));
    assert_eq!(*crun.linux().as_ref().unwrap().seccomp(), None);
    let runc = build(&input, &host(), &Runc::new("runc", "runc")).unwrap().spec;
    assert!(!runc.annotations().as_ref().unwrap().contains_key(seccomp::ANNOTATION));
    assert!(runc.linux().as_ref().unwrap().seccomp().is_some());
    let open = BundleInput { seccomp: Seccomp::Unconfined, ..input };
    let crun = build(&open, &host(), &Crun::new("crun", "crun")).unwrap().spec;
    assert!(crun.annotations().as_ref().unwrap().is_empty());
}

#[test]
fn a_privileged_container_is_not_confined() {
    let spec = built(&BundleInput { privileged: true, ..input() });
    assert_eq!(spec["linux"]["maskedPaths"], Value::Null);
    assert_eq!(spec["linux"]["readonlyPaths"], Value::Null);
    assert_eq!(spec["linux"]["resources"]["devices"], json!([{"allow": true, "access": "rwm"}]));
    assert!(mount_at(&spec, "/sys")["options"].as_array().unwrap().contains(&json!("rw")));
    assert_eq!(spec["annotations"], json!({}));
    assert_eq!(spec["process"]["capabilities"]["effective"].as_array().unwrap().len(), 41);
}

#[test]
fn a_user_other_than_root_has_nothing_in_force() {
    let user = User { uid: 33, gid: 33, groups: vec![10], home: "/srv".to_owned() };
    let spec = built(&BundleInput { user, ..input() });
    let process = &spec["process"];
    assert_eq!(process["user"], json!({"uid": 33, "gid": 33, "additionalGids": [10]}));
    assert_eq!(process["capabilities"]["effective"], json!([]));
    assert_eq!(process["capabilities"]["bounding"].as_array().unwrap().len(), 14);
    assert!(process["env"].as_array().unwrap().contains(&json!("HOME=/srv")));
}

#[test]
fn a_sandbox_keeps_its_sysctls() {
    let mut input = input();
    input.namespaces.network = Namespace::Path("/run/rnet/ns/x".into());
    input.sysctls = [("net.core.somaxconn".to_owned(), "99".to_owned())].into();
    assert_eq!(built(&input)["linux"]["sysctl"], json!({}));
    assert_eq!(network_sysctls(&input.sysctls)["net.core.somaxconn"], "99");
    input.namespaces.network = Namespace::Host;
    assert!(
        refused(&input).contains("\"net.core.somaxconn\" is not allowed in the host's network")
    );
    input.sysctls = [("kernel.panic".to_owned(), "1".to_owned())].into();
    assert!(refused(&input).contains("\"kernel.panic\""));
}

#[test]
fn what_the_daemon_may_not_raise_is_a_warning() {
    let mut host = host();
    host.capabilities = CapabilitySet::default_set();
    let mut input = input();
    input.oom_score_adj = -500;
    let bundle = build(&input, &host, &Runc::new("runc", "runc")).unwrap();
    assert!(bundle.warnings[0].contains("oom score adjustment -500"), "{:?}", bundle.warnings);
    assert_eq!(bundle.spec.process().as_ref().unwrap().oom_score_adj(), None);
    input.oom_score_adj = -2000;
    assert!(refused(&input).contains("[-1000, 1000]"));
}

#[test]
fn hidden_and_read_only_paths_may_be_chosen_but_not_for_who_is_privileged() {
    let mut input = input();
    input.masked_paths = Some(vec!["/proc/version".to_owned()]);
    input.readonly_paths = Some(vec![]);
    let linux = &built(&input)["linux"];
    assert_eq!(linux["maskedPaths"], json!(["/proc/version"]));
    assert_eq!(linux["readonlyPaths"], json!([]));
    input.privileged = true;
    let linux = &built(&input)["linux"];
    assert_eq!((&linux["maskedPaths"], &linux["readonlyPaths"]), (&Value::Null, &Value::Null));
}

#[test]
fn limits_are_checked_before_anything_is_made() {
    let with = |resources: Resources| BundleInput { resources, ..input() };
    let little = Resources { memory: 1 << 20, ..Resources::default() };
    assert!(refused(&with(little)).contains("6MB"));
    let swap = Resources { memory_swap: 1 << 30, ..Resources::default() };
    assert!(refused(&with(swap)).contains("Memoryswap"));
    let both = Resources { nano_cpus: 1, cpu_quota: 1, ..Resources::default() };
    assert!(refused(&with(both)).contains("Nano CPUs"));
    let cpus = Resources { nano_cpus: 1_500_000_000, pids_limit: Some(9), ..Resources::default() };
    let spec = built(&with(cpus));
    assert_eq!(spec["linux"]["resources"]["cpu"], json!({"quota": 150_000, "period": 100_000}));
    assert_eq!(spec["linux"]["resources"]["pids"], json!({"limit": 9}));
}

#[test]
fn mounts_of_the_users_replace_the_defaults_and_are_sorted() {
    let bind = |source: &str, target: &str| Mount {
        kind: "bind".to_owned(),
        source: source.to_owned(),
        target: target.to_owned(),
        ..Mount::default()
    };
    let mounts = vec![bind("/a", "/data/deep/"), bind("/b", "/data"), bind("/c", "/dev/shm")];
    let spec = built(&BundleInput { mounts, ..input() });
    let targets: Vec<_> = spec["mounts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|mount| mount["destination"].as_str().unwrap().trim_end_matches('/'))
        .collect();
    assert_eq!(targets.iter().filter(|target| **target == "/dev/shm").count(), 1);
    let position = |wanted: &str| targets.iter().position(|target| *target == wanted).unwrap();
    assert!(position("/data") < position("/data/deep"));
    assert_eq!(mount_at(&spec, "/data")["options"], json!(["rbind", "rw", "rprivate"]));
    let outside = BundleInput { mounts: vec![bind("/a", "data")], ..input() };
    assert!(refused(&outside).contains("must be absolute"));
}

#[test]
fn an_exec_is_as_the_container_but_for_what_was_asked() {
    let bundle = build(&input(), &host(), &Crun::new("crun", "crun")).unwrap();
    let container = bundle.spec.process().clone().unwrap();
    let wanted = ExecInput {
        args: vec!["id".to_owned()],
        env: vec!["A=1".to_owned(), "HOSTNAME=other".to_owned()],
        user: Some(User { uid: 5, gid: 6, ..User::default() }),
        ..ExecInput::default()
    };
    let process = serde_json::to_value(exec(&container, &wanted, &host())).unwrap();
    assert_eq!(process["args"], json!(["id"]));
    assert_eq!(process["env"][1], "HOSTNAME=other");
    assert_eq!(process["user"]["uid"], 5);
    assert_eq!(process["capabilities"]["effective"], json!([]));
    assert_eq!(process["capabilities"]["inheritable"], json!([]));
    let privileged = ExecInput { privileged: true, ..wanted };
    let process = serde_json::to_value(exec(&container, &privileged, &host())).unwrap();
    assert_eq!(process["capabilities"]["bounding"].as_array().unwrap().len(), 41);
}
