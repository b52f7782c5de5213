//! Every flag of `docker run`: what it does inside the container, what is shown of it, or in which
//! words it is refused; by both clients.

use std::collections::BTreeSet;
use std::path::Path;

use crate::daemon::{Client, Daemon};

const IMAGE: &str = "rnet/toolbox";

/// How it is seen that a flag is understood.
enum Seen {
    /// A command inside prints this.
    Inside(&'static str, &'static str),
    /// The file of a cgroup says this: in version 1, and in version 2.
    Cgroup([(&'static str, &'static str); 2]),
    /// `inspect` shows it by a template.
    Shown(&'static str, &'static str),
    /// It is there, or a warning says that this host cannot.
    Warned(&'static str),
    /// It is refused with this code and these words.
    Refused(i32, &'static str),
    /// Another test shows it.
    Elsewhere,
}

use Seen::{Cgroup, Elsewhere, Inside, Refused, Shown, Warned};

const WINDOWS: Seen = Refused(1, "is only supported on a Docker daemon running on windows");

const RESOURCES: &[(&str, &str, Seen)] = &[
    ("blkio-weight", "--blkio-weight 300", Warned("Block I/O weight")),
    (
        "blkio-weight-device",
        "--blkio-weight-device sda:300",
        Refused(125, "bad format for device path: sda:300"),
    ),
    (
        "cpu-period",
        "--cpu-period 50000",
        Cgroup([("cpu/cpu.cfs_period_us", "50000"), ("cpu.max", "50000")]),
    ),
    (
        "cpu-quota",
        "--cpu-quota 25000",
        Cgroup([("cpu/cpu.cfs_quota_us", "25000"), ("cpu.max", "25000")]),
    ),
    ("cpu-rt-period", "--cpu-rt-period -1", Refused(125, "cpu real-time period")),
    (
        "cpu-rt-runtime",
        "--cpu-rt-period 5 --cpu-rt-runtime 9",
        Refused(125, "cpu real-time runtime cannot be higher than cpu real-time period"),
    ),
    ("cpu-shares", "--cpu-shares 512", Cgroup([("cpu/cpu.shares", "512"), ("cpu.weight", "")])),
    (
        "cpus",
        "--cpus 0.5",
        Cgroup([("cpu/cpu.cfs_quota_us", "50000"), ("cpu.max", "50000 100000")]),
    ),
    ("cpuset-cpus", "--cpuset-cpus 0", Cgroup([("cpuset/cpuset.cpus", "0"), ("cpuset.cpus", "0")])),
    ("cpuset-mems", "--cpuset-mems 0", Cgroup([("cpuset/cpuset.mems", "0"), ("cpuset.mems", "0")])),
    ("device", "--device /dev/zero:/dev/nought:r", Inside("ls /dev", "nought")),
    (
        "device-cgroup-rule",
        "--device-cgroup-rule bogus",
        Refused(125, "invalid device cgroup format 'bogus'"),
    ),
    (
        "device-read-bps",
        "--device-read-bps /dev/nope:1mb",
        Refused(127, "no such file or directory"),
    ),
    ("device-read-iops", "--device-read-iops /dev/sda:x", Refused(125, "invalid rate for device")),
    ("device-write-bps", "--device-write-bps sda:1mb", Refused(125, "bad format for device path")),
    ("device-write-iops", "--device-write-iops /dev/sda", Refused(125, "bad format")),
    (
        "gpus",
        "--gpus all",
        Refused(125, "could not select device driver \"\" with capabilities: [[gpu]]"),
    ),
    (
        "memory",
        "--memory 64m",
        Cgroup([("memory/memory.limit_in_bytes", "67108864"), ("memory.max", "67108864")]),
    ),
    (
        "memory-reservation",
        "--memory-reservation 32m",
        Cgroup([("memory/memory.soft_limit_in_bytes", "33554432"), ("memory.low", "33554432")]),
    ),
    (
        "memory-swap",
        "--memory 64m --memory-swap 96m",
        Shown("{{.HostConfig.MemorySwap}}", "100663296"),
    ),
    ("memory-swappiness", "--memory-swappiness 7", Shown("{{.HostConfig.MemorySwappiness}}", "7")),
    ("oom-kill-disable", "--oom-kill-disable", Warned("OOM killer is disabled")),
    ("oom-score-adj", "--oom-score-adj 500", Inside("cat /proc/self/oom_score_adj", "500")),
    ("pids-limit", "--pids-limit 77", Cgroup([("pids/pids.max", "77"), ("pids.max", "77")])),
    ("shm-size", "--shm-size 16m", Inside("cat /proc/self/mountinfo", "size=16384k")),
    (
        "storage-opt",
        "--storage-opt size=1G",
        Refused(
            125,
            "--storage-opt is supported only for overlay over xfs with 'pquota' mount option",
        ),
    ),
    (
        "ulimit",
        "--ulimit nofile=123:456",
        Inside("cat /proc/self/limits", "Max open files            123                  456"),
    ),
];

const PROCESS: &[(&str, &str, Seen)] = &[
    ("annotation", "--annotation a=b", Shown("{{json .HostConfig.Annotations}}", "{\"a\":\"b\"}")),
    ("attach", "--attach stdout", Inside("echo hi", "hi")),
    (
        "cap-add",
        "--cap-drop ALL --cap-add NET_ADMIN",
        Inside("cat /proc/self/status", "CapEff:\t0000000000001000"),
    ),
    ("cap-drop", "--cap-drop ALL", Inside("cat /proc/self/status", "CapEff:\t0000000000000000")),
    ("cgroupns", "--cgroupns private", Shown("{{.HostConfig.CgroupnsMode}}", "private")),
    (
        "domainname",
        "--domainname example.org",
        Inside("cat /proc/sys/kernel/domainname", "example.org"),
    ),
    ("entrypoint", "--entrypoint echo", Inside("hi there", "hi there")),
    ("env", "--env A=b", Inside("env", "A=b")),
    ("group-add", "--group-add 4242", Inside("id", "4242")),
    (
        "health-cmd",
        "--health-cmd true",
        Shown("{{json .Config.Healthcheck.Test}}", "[\"CMD-SHELL\",\"true\"]"),
    ),
    (
        "health-interval",
        "--health-interval 7s",
        Shown("{{.Config.Healthcheck.Interval}}", "7s|7000000000"),
    ),
    ("health-retries", "--health-retries 7", Shown("{{.Config.Healthcheck.Retries}}", "7")),
    (
        "health-start-interval",
        "--health-start-interval 7s",
        Shown("{{.Config.Healthcheck.StartInterval}}", "7s|7000000000"),
    ),
    (
        "health-start-period",
        "--health-start-period 7s",
        Shown("{{.Config.Healthcheck.StartPeriod}}", "7s|7000000000"),
    ),
    (
        "health-timeout",
        "--health-timeout 7s",
        Shown("{{.Config.Healthcheck.Timeout}}", "7s|7000000000"),
    ),
    (
        "no-healthcheck",
        "--no-healthcheck",
        Shown("{{json .Config.Healthcheck.Test}}", "[\"NONE\"]"),
    ),
    ("hostname", "--hostname box", Inside("hostname", "box")),
    ("init", "--init", Inside("cat /proc/1/cmdline", "init")),
    ("ipc", "--ipc host", Shown("{{.HostConfig.IpcMode}}", "host")),
    (
        "isolation",
        "--isolation process",
        Refused(125, "invalid isolation (process): linux only supports 'default'"),
    ),
    ("label", "--label a=b", Shown("{{index .Config.Labels \"a\"}}", "b")),
    ("log-driver", "--log-driver none", Shown("{{.HostConfig.LogConfig.Type}}", "none")),
    (
        "log-opt",
        "--log-opt nope=1",
        Refused(125, "unknown log opt 'nope' for json-file log driver"),
    ),
    ("name", "--name someone", Shown("{{.Name}}", "/someone")),
    ("pid", "--pid host", Shown("{{.HostConfig.PidMode}}", "host")),
    ("platform", "--pull never --platform linux/riscv64", Refused(125, "linux/riscv64")),
    ("privileged", "--privileged", Shown("{{.HostConfig.Privileged}}", "true")),
    ("pull", "--pull sometimes", Refused(125, "sometimes")),
    ("read-only", "--read-only", Inside("cat /proc/self/mountinfo", " / / ro,")),
    ("restart", "--restart sometimes", Refused(125, "restart")),
    ("runtime", "--runtime runc", Shown("{{.HostConfig.Runtime}}", "runc")),
    (
        "security-opt",
        "--security-opt no-new-privileges",
        Inside("cat /proc/self/status", "NoNewPrivs:\t1"),
    ),
    ("stop-signal", "--stop-signal SIGUSR1", Shown("{{.Config.StopSignal}}", "SIGUSR1")),
    ("stop-timeout", "--stop-timeout 3", Shown("{{.Config.StopTimeout}}", "3")),
    ("sysctl", "--sysctl kernel.msgmax=12345", Inside("cat /proc/sys/kernel/msgmax", "12345")),
    ("tty", "--tty", Shown("{{.Config.Tty}}", "true")),
    ("user", "--user 12:34", Inside("id", "uid=12")),
    ("userns", "--userns host", Shown("{{.HostConfig.UsernsMode}}", "host")),
    ("uts", "--uts host", Shown("{{.HostConfig.UTSMode}}", "host")),
    ("workdir", "--workdir /etc", Inside("pwd", "/etc")),
    ("cpu-count", "--cpu-count 1", WINDOWS),
    ("cpu-percent", "--cpu-percent 1", WINDOWS),
    ("io-maxbandwidth", "--io-maxbandwidth 1m", WINDOWS),
    ("io-maxiops", "--io-maxiops 1", WINDOWS),
];

const SURROUNDINGS: &[(&str, &str, Seen)] = &[
    (
        "add-host",
        "--network bridge --add-host foo:192.0.2.7",
        Inside("cat /etc/hosts", "192.0.2.7\tfoo"),
    ),
    ("dns", "--network bridge --dns 192.0.2.9", Shown("{{.HostConfig.Dns}}", "[192.0.2.9]")),
    (
        "dns-option",
        "--network bridge --dns-option ndots:3",
        Inside("cat /etc/resolv.conf", "ndots:3"),
    ),
    (
        "dns-search",
        "--network bridge --dns-search example.org",
        Inside("cat /etc/resolv.conf", "search example.org"),
    ),
    ("expose", "--expose 99", Shown("{{json .Config.ExposedPorts}}", "{\"99/tcp\":{}}")),
    ("ip", "--network n1 --ip 10.93.0.9", Inside("cat /etc/hosts", "10.93.0.9")),
    ("ip6", "--network n1 --ip6 fd93::9", Inside("cat /etc/hosts", "fd93::9")),
    (
        "link-local-ip",
        "--network n1 --link-local-ip 169.254.7.7",
        Inside("cat /proc/net/fib_trie", "169.254.7.7"),
    ),
    (
        "mac-address",
        "--network n1 --mac-address 02:00:00:00:00:07",
        Inside("cat /sys/class/net/eth0/address", "02:00:00:00:00:07"),
    ),
    ("mount", "--mount type=tmpfs,target=/x", Inside("cat /proc/self/mountinfo", " /x ")),
    ("network", "--network n1", Inside("ls /sys/class/net", "eth0")),
    (
        "network-alias",
        "--network n1 --network-alias other",
        Shown("{{json .NetworkSettings.Networks.n1.Aliases}}", "[\"other\"]"),
    ),
    (
        "publish",
        "--network bridge --publish 8085:80",
        Shown(
            "{{json .HostConfig.PortBindings}}",
            "{\"80/tcp\":[{\"HostIp\":\"\",\"HostPort\":\"8085\"}]}",
        ),
    ),
    (
        "publish-all",
        "--network bridge --publish-all",
        Shown("{{.HostConfig.PublishAllPorts}}", "true"),
    ),
    ("tmpfs", "--tmpfs /x:size=1m", Inside("cat /proc/self/mountinfo", " /x ")),
    ("volume", "--volume v1:/x", Inside("cat /proc/self/mountinfo", " /x ")),
    (
        "volume-driver",
        "--volume-driver local --volume v1:/x",
        Inside("cat /proc/self/mountinfo", " /x "),
    ),
    ("use-api-socket", "--use-api-socket", Inside("ls /var/run", "docker.sock")),
];

/// Flags that take more than a line to show, or are of the client alone.
const OTHERS: &[(&str, &str, Seen)] = &[
    // This file.
    ("cgroup-parent", "", Elsewhere),
    ("cidfile", "", Elsewhere),
    ("env-file", "", Elsewhere),
    ("label-file", "", Elsewhere),
    ("rm", "", Elsewhere),
    ("detach", "", Elsewhere),
    // `terminal.rs`, `process.rs`, `links.rs`, `both.rs`.
    ("detach-keys", "", Elsewhere),
    ("interactive", "", Elsewhere),
    ("sig-proxy", "", Elsewhere),
    ("link", "", Elsewhere),
    ("volumes-from", "", Elsewhere),
    // Of the client.
    ("help", "", Elsewhere),
    ("quiet", "", Elsewhere),
    ("disable-content-trust", "", Elsewhere),
    ("kernel-memory", "", Elsewhere),
];

fn names() -> BTreeSet<&'static str> {
    let tables = [RESOURCES, PROCESS, SURROUNDINGS, OTHERS];
    tables.into_iter().flatten().map(|(name, ..)| *name).collect()
}

/// The flags in a client's help.
fn listed(help: &str) -> BTreeSet<String> {
    let words = help.lines().filter_map(|line| {
        let line = line.trim_start();
        let long = line.split_whitespace().take(2).find_map(|word| word.strip_prefix("--"))?;
        let end = long.find(|c: char| !c.is_ascii_alphanumeric() && c != '-');
        Some(long[..end.unwrap_or(long.len())].to_owned())
    });
    words.filter(|name| !name.is_empty()).collect()
}

#[test]
fn every_flag_of_docker_run_is_in_these_tables_and_in_the_help_of_rnet() {
    let help = |program: &str| {
        let output = std::process::Command::new(program).args(["run", "--help"]).output().unwrap();
        listed(&String::from_utf8(output.stdout).unwrap())
    };
    let (docker, rnet) = (help("docker"), help(env!("CARGO_BIN_EXE_rnet")));
    assert!(docker.len() > 80, "{docker:?}");
    let known = names();
    // Understood, and of no use here.
    let hidden = [
        "disable-content-trust",
        "kernel-memory",
        "cpu-count",
        "cpu-percent",
        "io-maxbandwidth",
        "io-maxiops",
    ];
    for flag in &docker {
        assert!(known.contains(&**flag), "--{flag} of docker run is in no table");
        assert!(rnet.contains(flag) || hidden.contains(&&**flag), "rnet run has no --{flag}");
    }
}

fn check_all(table: &[(&str, &str, Seen)]) {
    let daemon = Daemon::start(&[]);
    daemon.docker_ok(&[
        "network",
        "create",
        "--subnet",
        "10.93.0.0/24",
        "--ipv6",
        "--subnet",
        "fd93::/64",
        "n1",
    ]);
    let mut wrong = Vec::new();
    for client in Client::ALL {
        for (name, flags, seen) in table {
            if let Err(why) = check(&daemon, client, flags, seen) {
                wrong.push(format!("{client:?} --{name}: {why}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn check(daemon: &Daemon, client: Client, flags: &str, seen: &Seen) -> Result<(), String> {
    let mut words: Vec<&str> = flags.split(' ').collect();
    if !flags.contains("--network") {
        words.extend(["--network", "none"]);
    }
    let run = |command: &[&str]| {
        let (code, out, error) =
            daemon.ask(client, &[&["run", "--rm"], &words[..], &[IMAGE], command].concat());
        (code, format!("{out}\n{error}"))
    };
    let wants = |(code, told): (Option<i32>, String), wanted: i32, text: &str| {
        let fits = code == Some(wanted) && told.contains(text);
        if fits { Ok(()) } else { Err(format!("{code:?}, not {wanted} {text:?}: {told}")) }
    };
    match seen {
        Inside(command, text) => wants(run(&command.split(' ').collect::<Vec<_>>()), 0, text),
        Cgroup(versions) => {
            let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
            let (file, text) = versions[usize::from(unified)];
            wants(run(&["cat", &format!("/sys/fs/cgroup/{file}")]), 0, text)
        }
        Shown(template, text) => {
            let (code, id, error) =
                daemon.ask(client, &[&["create"], &words[..], &[IMAGE, "true"]].concat());
            if code != Some(0) {
                return Err(format!("{code:?} {error}"));
            }
            let shown = daemon.docker_ok(&["inspect", "-f", template, &id]);
            daemon.docker_ok(&["rm", "-v", &id]);
            let fits = text.split('|').any(|text| text == shown);
            if fits { Ok(()) } else { Err(format!("{shown}, not {text}")) }
        }
        Warned(text) => wants(run(&["true"]), 0, text),
        Refused(code, text) => wants(run(&["true"]), *code, text),
        Elsewhere => Ok(()),
    }
}

#[test]
fn limits_are_honoured_or_refused_by_name() {
    check_all(RESOURCES);
}

#[test]
fn what_is_said_of_the_process_is_honoured_or_refused_by_name() {
    check_all(PROCESS);
}

#[test]
fn what_is_said_of_the_surroundings_is_honoured() {
    check_all(SURROUNDINGS);
}

#[test]
fn flags_that_name_files_and_cgroups_are_honoured() {
    let daemon = Daemon::start(&[]);
    std::fs::write(daemon.scratch.path("env"), "# none\nA=1\n").unwrap();
    std::fs::write(daemon.scratch.path("labels"), "k=v\n").unwrap();
    let (env, labels) = (daemon.scratch.text("env"), daemon.scratch.text("labels"));
    for client in Client::ALL {
        let file = daemon.scratch.text(&format!("cid-{client:?}"));
        let parent = format!("/rnet-flags-{}", std::process::id());
        let flags =
            ["run", "-d", "--network", "none", "--cidfile", &file, "--cgroup-parent", &parent];
        let more = ["--env-file", &env, "--label-file", &labels, IMAGE, "trap"];
        let id = daemon.ok(client, &[&flags[..], &more].concat());
        assert_eq!(std::fs::read_to_string(&file).unwrap().trim_end(), id, "{client:?}");
        assert!(daemon.docker_ok(&["exec", &id, "env"]).contains("A=1"), "{client:?}");
        let label =
            daemon.docker_ok(&["inspect", "-f", "{{.Config.Labels.k}} {{.State.Pid}}", &id]);
        let pid = label.strip_prefix("v ").unwrap_or_else(|| panic!("{client:?} {label}"));
        let cgroup = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        assert!(cgroup.contains(&format!(":{parent}/{id}")), "{client:?} {cgroup}");
        let (code, _, error) = daemon.ask(client, &[&flags[..], &more].concat());
        let text = "container ID file found, make sure the other container isn't running";
        assert!(code == Some(125) && error.contains(text), "{client:?} {code:?} {error}");
        daemon.docker_ok(&["rm", "-f", &id]);
        for mount in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            let _ = std::fs::remove_dir(mount.path().join(parent.trim_start_matches('/')));
        }
    }
}
