//! What the specification says, without running it.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::super::abilities::Abilities;
use super::super::{AppArmor, Cgroups, Crun, Filters, Limit, Runc};
use super::*;

/// A host that is the same everywhere.
fn host() -> Host {
    Host {
        capabilities: CapabilitySet::all(),
        cgroups: Cgroups::V1 {
            memory: Some(PathBuf::from("/nowhere")),
            block: None,
            cpu: None,
            accounting: None,
            processes: None,
        },
        cgroup_namespaces: true,
        recursive_readonly: true,
        oom_score_adj: 0,
        apparmor: AppArmor::default(),
        thermal_throttle: vec!["/sys/devices/system/cpu/cpu0/thermal_throttle".to_owned()],
        abilities: Abilities::default(),
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
        kind: MountKind::Bind,
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

/// What is made of a read-only bind by a runtime whose program says this of itself.
fn readonly_by(name: &str, features: &str, recursion: Recursion) -> Result<Value, String> {
    let directory = std::env::temp_dir().join(format!("rnet-rro-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let program = directory.join("runtime");
    std::fs::write(&program, format!("#!/bin/sh\necho '{features}'\n")).unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&program, executable).unwrap();
    let (source, target) = ("/a".to_owned(), "/data".to_owned());
    let mount = Mount { source, target, readonly: true, recursion, ..Mount::default() };
    let input = BundleInput { mounts: vec![mount], ..input() };
    let built = build(&input, &host(), &Runc::new("own", &program));
    std::fs::remove_dir_all(&directory).unwrap();
    let spec = serde_json::to_value(built.map_err(|error| error.to_string())?.spec).unwrap();
    Ok(mount_at(&spec, "/data")["options"][1].clone())
}

#[test]
fn a_bind_is_recursively_read_only_if_the_runtime_is_able_to() {
    let (able, unable) = (r#"{"mountOptions": ["rro"]}"#, r#"{"mountOptions": ["ro"]}"#);
    assert_eq!(readonly_by("able", able, Recursion::Enabled), Ok(json!("rro")));
    assert_eq!(readonly_by("able", able, Recursion::Readonly), Ok(json!("rro")));
    assert_eq!(readonly_by("unable", unable, Recursion::Enabled), Ok(json!("ro")));
    let error = readonly_by("unable", unable, Recursion::Readonly).unwrap_err();
    assert!(error.contains("the runtime own makes no mounts read-only recursively"), "{error}");
}

#[test]
fn an_exec_is_as_the_container_but_for_what_was_asked() {
    let input = BundleInput { apparmor: Some("rnet-default".to_owned()), ..input() };
    let bundle = build(&input, &host(), &Crun::new("crun", "crun")).unwrap();
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
    assert_eq!(process["apparmorProfile"], "rnet-default");
    let privileged = ExecInput { privileged: true, ..wanted };
    let process = serde_json::to_value(exec(&container, &privileged, &host())).unwrap();
    assert_eq!(process["apparmorProfile"], "rnet-default", "as Docker has it");
    assert_eq!(process["capabilities"]["bounding"].as_array().unwrap().len(), 41);
}

/// A block device of this machine, if it has one.
fn disk() -> Option<(String, String)> {
    let disks = std::fs::read_dir("/sys/block").ok()?.flatten();
    disks.filter_map(|disk| disk.file_name().into_string().ok()).find_map(|name| {
        let numbers = std::fs::read_to_string(format!("/sys/block/{name}/dev")).ok()?;
        let path = format!("/dev/{name}");
        Path::new(&path).exists().then(|| (path, numbers.trim().to_owned()))
    })
}

/// A directory with cgroup files, for a test.
fn cgroups(name: &str, files: &[(&str, &str)]) -> PathBuf {
    let root = std::env::temp_dir().join(format!("rnet-cgroups-{name}-{}", std::process::id()));
    for (file, content) in files {
        let path = root.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    root
}

fn every_limit() -> Resources {
    let rate = |rate: u64| disk().map(|(path, _)| (path, rate)).into_iter().collect();
    Resources {
        memory: 64 << 20,
        memory_swappiness: Some(7),
        oom_kill_disable: true,
        cpu_realtime_period: 1_000_000,
        cpu_realtime_runtime: 9_000,
        block_weight: 300,
        block_weights: disk().map(|(path, _)| (path, 400)).into_iter().collect(),
        block_read_bytes: rate(1),
        block_write_bytes: rate(2),
        block_reads: rate(3),
        block_writes: rate(4),
        ..Resources::default()
    }
}

#[test]
fn every_limit_is_in_the_specification_where_the_cgroups_have_it() {
    let root = cgroups(
        "all",
        &[
            ("memory.swappiness", ""),
            ("memory.oom_control", ""),
            ("blkio.weight", ""),
            ("blkio.weight_device", ""),
            ("blkio.throttle.read_bps_device", ""),
            ("cpu.rt_period_us", "1000000\n"),
            ("cpu.rt_runtime_us", "950000\n"),
            ("rnet/cpu.rt_period_us", "1000000\n"),
            ("rnet/cpu.rt_runtime_us", "10000\n"),
        ],
    );
    let mount = || Some(root.clone());
    let cgroups = Cgroups::V1 {
        memory: mount(),
        block: mount(),
        cpu: mount(),
        accounting: None,
        processes: None,
    };
    let (host, mut warnings) = (Host { cgroups, ..host() }, Vec::new());
    let made = limits(&every_limit(), "/rnet/abc", &host, &mut warnings).unwrap();
    let made = serde_json::to_value(made).unwrap();
    assert_eq!(warnings, [""; 0]);
    assert_eq!(made["memory"]["swappiness"], 7);
    assert_eq!(made["memory"]["disableOOMKiller"], true);
    assert_eq!(made["cpu"], json!({"realtimeRuntime": 9_000, "realtimePeriod": 1_000_000}));
    assert_eq!(made["blockIO"]["weight"], 300);
    if let Some((_, numbers)) = disk() {
        let (major, minor) = numbers.split_once(':').unwrap();
        let (major, minor): (i64, i64) = (major.parse().unwrap(), minor.parse().unwrap());
        let rate = |rate: u64| json!([{"major": major, "minor": minor, "rate": rate}]);
        let block = &made["blockIO"];
        assert_eq!(block["weightDevice"], json!([{"major": major, "minor": minor, "weight": 400}]));
        assert_eq!(block["throttleReadBpsDevice"], rate(1));
        assert_eq!(block["throttleWriteBpsDevice"], rate(2));
        assert_eq!(block["throttleReadIOPSDevice"], rate(3));
        assert_eq!(block["throttleWriteIOPSDevice"], rate(4));
    }
    // A neighbour has what was left.
    let other = root.join("rnet/other");
    std::fs::create_dir_all(&other).unwrap();
    std::fs::write(other.join("cpu.rt_period_us"), "1000000").unwrap();
    std::fs::write(other.join("cpu.rt_runtime_us"), "5000").unwrap();
    let made = limits(&every_limit(), "/rnet/abc", &host, &mut warnings).unwrap();
    assert_eq!(made.cpu(), &None);
    assert!(warnings[0].starts_with("The cgroup /rnet has not enough real-time"), "{warnings:?}");
    std::fs::remove_dir_all(root).unwrap();
}

#[test]
fn limits_that_the_cgroups_lack_are_left_out_and_said() {
    let disks = usize::from(disk().is_some());
    let unified = cgroups("unified", &[("cgroup.controllers", "cpu io memory\n")]);
    let bare =
        Cgroups::V1 { memory: None, block: None, cpu: None, accounting: None, processes: None };
    for (cgroups, count) in
        [(bare, 4 + 5 * disks), (Cgroups::V2 { root: unified.clone() }, 4 + disks)]
    {
        let (host, mut warnings) = (Host { cgroups, ..host() }, Vec::new());
        let made = limits(&every_limit(), "/rnet/abc", &host, &mut warnings).unwrap();
        let discarded = warnings.iter().filter(|text| text.ends_with("discarded.")).count();
        assert_eq!(discarded, count, "{warnings:?}");
        assert_eq!(made.memory().unwrap().swappiness(), None);
        assert_eq!(made.memory().unwrap().disable_oom_killer(), None);
        assert_eq!((made.cpu(), host.cgroups.version() == 2), (&None, made.block_io().is_some()));
    }
    std::fs::create_dir(unified.join("some.slice")).unwrap();
    std::fs::write(unified.join("some.slice/io.bfq.weight"), "").unwrap();
    let has = |limit| Cgroups::V2 { root: unified.clone() }.has(limit);
    assert!(has(Limit::BlockWeight) && has(Limit::BlockWeightOfDevice) && has(Limit::BlockRate));
    std::fs::remove_dir_all(unified).unwrap();
}

#[test]
fn only_whole_disks_are_limited() {
    for (path, why) in [("/nosuch", "no such file"), ("/dev/null", "not a block device")] {
        let block_reads = vec![(path.to_owned(), 1)];
        let resources = Resources { block_reads, ..Resources::default() };
        let error = refused(&BundleInput { resources, ..input() });
        assert!(error.contains(path) && error.contains(why), "{error}");
    }
}

#[test]
fn device_rules_come_after_the_usual_ones() {
    let device_rules = vec!["c 42:* rm".to_owned()];
    let spec = built(&BundleInput { device_rules, ..input() });
    let rules = spec["linux"]["resources"]["devices"].as_array().unwrap().clone();
    let own = json!({"allow": true, "type": "c", "major": 42, "access": "rm"});
    assert_eq!(rules.last(), Some(&own));
    let device_rules = vec!["x 1:2 r".to_owned()];
    assert!(refused(&BundleInput { device_rules, ..input() }).contains("'x 1:2 r'"));
}

#[test]
fn cve_2025_52881_nothing_is_mounted_over_what_tells_of_processes() {
    let at = |kind: MountKind, source: &str, target: &str| {
        let [source, target] = [source, target].map(str::to_owned);
        BundleInput { mounts: vec![Mount { kind, source, target, ..Mount::default() }], ..input() }
    };
    for target in ["/proc", "/proc/", "/proc/self/attr", "/x/../proc/1", "/proc/sys", "/proc/keys"]
    {
        for (kind, source) in [(MountKind::Bind, "/srv"), (MountKind::Tmpfs, "")] {
            let error = refused(&at(kind, source, target));
            assert!(error.contains("because it is inside /proc"), "{target}: {error}");
        }
    }
    refused(&at(MountKind::Tmpfs, "", "/proc/meminfo"));
    for (source, target) in [
        ("/srv", "/proc/meminfo"),
        ("/proc", "/proc"),
        ("/srv", "/process"),
        ("/proc", "/host/proc"),
    ] {
        built(&at(MountKind::Bind, source, target));
    }
}

#[test]
fn cve_2024_21626_a_process_is_not_put_where_the_runtime_is() {
    for cwd in [
        "/proc/self/fd/7",
        "/proc/self/fd/7/../..",
        "/proc/thread-self/cwd",
        "/proc/1/root",
        "//proc/./self/task/1/fd/3",
    ] {
        let error = refused(&BundleInput { cwd: cwd.to_owned(), ..input() });
        assert_eq!(
            error,
            format!("the working directory '{cwd}' is invalid, it is what a process has open")
        );
    }
    for cwd in ["/proc", "/proc/self", "/proc/sys/fs", "/root", "/fd", "/srv/proc/self/fd"] {
        built(&BundleInput { cwd: cwd.to_owned(), ..input() });
    }
}
