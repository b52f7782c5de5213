//! The whole way from a command line and a file's text to a configuration.

use std::path::PathBuf;

use super::values::{Values, merge};
use super::*;

fn flags(line: &str) -> Result<Values, String> {
    let words = std::iter::once("rnet daemon").chain(line.split_whitespace());
    let matches = flags::command(Invocation::Rnet).try_get_matches_from(words);
    matches.map(|matches| flags::values(&matches)).map_err(|error| error.to_string())
}

/// The configuration of a command line and a file's text.
fn load(line: &str, file: &str) -> Result<Config, String> {
    let merged = merge(flags(line)?, file::parse(file)?)?;
    build::config(Invocation::Rnet, &merged).map_err(|error| error.to_string())
}

/// What it comes to, in whichever words it was said.
fn meaning(line: &str, file: &str) -> Config {
    Config { given: Values::default(), ..load(line, file).unwrap() }
}

fn error(line: &str, file: &str) -> String {
    load(line, file).unwrap_err()
}

#[test]
fn without_options_everything_is_below_rnet() {
    let config = Config::default();
    assert_eq!(config.hosts, [Host::Unix("/run/rnet/rnet.sock".into())]);
    assert_eq!(config.data_root, PathBuf::from("/var/lib/rnet"));
    assert_eq!(config.pidfile, PathBuf::from("/run/rnet/rnet.pid"));
    assert_eq!(config.config_file, PathBuf::from("/etc/rnet/daemon.json"));
    assert_eq!((config.table.as_str(), config.bridge.device.as_str()), ("rnet", "rnet0"));
    assert_eq!(config.warnings, [""; 0]);
    let at_once = (config.max_concurrent_downloads, config.max_concurrent_uploads);
    assert_eq!((at_once, config.max_download_attempts), ((3, 5), 5));
    assert_eq!((config.shutdown_timeout, config.no_new_privileges), (15, false));
}

#[test]
fn an_instance_has_its_own_places_and_names() {
    let config = load("--instance blue", "").unwrap();
    assert_eq!(config.hosts, [Host::Unix("/run/rnet-blue/rnet.sock".into())]);
    assert_eq!(config.data_root, PathBuf::from("/var/lib/rnet-blue"));
    assert_eq!((config.table.as_str(), config.tag.as_str()), ("rnet-blue", "rnet-blue"));
    assert_eq!(config.bridge.device.as_str(), "rnet-blue");
    assert!(error("--instance Not/This", "").contains("`Not/This`"));
}

#[test]
fn dockerd_is_found_where_clients_look_for_it() {
    let config = build::config(Invocation::Dockerd, &Values::default()).unwrap();
    assert_eq!(config.hosts, [Host::Unix("/run/docker.sock".into())]);
    assert_eq!(config.pidfile, PathBuf::from("/run/docker.pid"));
    assert_eq!(config.config_file, PathBuf::from("/etc/docker/daemon.json"));
    assert_eq!(config.data_root, PathBuf::from("/var/lib/rnet"));
}

#[test]
fn dockerd_has_dockers_bridge_and_pools() {
    let config = build::config(Invocation::Dockerd, &Values::default()).unwrap();
    assert_eq!(config.bridge.device.as_str(), "docker0");
    let pools: Vec<_> =
        config.default_pools.iter().map(|(base, size)| format!("{base} {size}")).collect();
    assert_eq!(pools[..2], ["172.17.0.0/16 16", "172.18.0.0/16 16"]);
    assert_eq!(pools[6], "192.168.0.0/16 20");
    let config = build::config(Invocation::Rnet, &Values::default()).unwrap();
    assert_eq!((config.bridge.device.as_str(), config.default_pools.len()), ("rnet0", 0));
}

#[test]
fn flags_and_file_say_the_same_things() {
    let line = "-H unix:///a -H tcp://127.0.0.1:1 --tlsverify --bip 10.1.0.1/24 --bip6 fd01::1/64 \
                --fixed-cidr 10.1.0.128/25 --default-address-pool base=10.9.0.0/16,size=24 \
                --default-network-opt bridge=com.docker.network.driver.mtu=1400 --dns 9.9.9.9 \
                --dns-search example.org --default-ulimit nofile=10:20 --log-opt max-size=1m \
                --default-shm-size 128m --icc=false --mtu 1450 --add-runtime other=/opt/other \
                --max-concurrent-downloads 7 --init --label a=b --registry-mirror https://m:5000 \
                --insecure-registry r:5000 --host-gateway-ip 10.2.0.1 --default-runtime other \
                --init-path /opt/init";
    let file = r#"{
        "hosts": ["unix:///a", "tcp://127.0.0.1:1"], "tlsverify": true,
        "bip": "10.1.0.1/24", "bip6": "fd01::1/64", "fixed-cidr": "10.1.0.128/25",
        "default-address-pools": [{"base": "10.9.0.0/16", "size": 24}],
        "default-network-opts": {"bridge": {"com.docker.network.driver.mtu": "1400"}},
        "dns": ["9.9.9.9"], "dns-search": ["example.org"],
        "default-ulimits": {"nofile": {"Name": "nofile", "Soft": 10, "Hard": 20}},
        "log-opts": {"max-size": "1m"}, "default-shm-size": "128m", "icc": false, "mtu": 1450,
        "runtimes": {"other": {"path": "/opt/other"}}, "max-concurrent-downloads": 7,
        "init": true, "labels": ["a=b"], "registry-mirrors": ["https://m:5000"],
        "insecure-registries": ["r:5000"], "host-gateway-ips": ["10.2.0.1"],
        "default-runtime": "other", "init-path": "/opt/init"
    }"#;
    let config = meaning(line, "");
    assert_eq!(config, meaning("", file));
    assert_eq!(config.bridge.addresses.len(), 2);
    assert_eq!(config.default_pools, [("10.9.0.0/16".parse().unwrap(), 24)]);
    assert_eq!(config.ulimits, [("nofile".to_owned(), 10, 20)]);
    assert_eq!(config.shm_size, 128 << 20);
    assert_eq!(config.runtimes["other"].path, "/opt/other");
    assert!(!config.bridge.icc && config.init);
    assert_eq!(config.init_path, Some("/opt/init".into()));
}

#[test]
fn an_option_is_in_one_place_only() {
    assert_eq!(
        error("-H unix:///a --debug", r#"{"hosts": ["unix:///b"], "debug": false}"#),
        "the following directives are specified both as a flag and in the configuration file: \
         debug: (from flag: true, from file: false), \
         hosts: (from flag: [unix:///a], from file: [unix:///b])"
    );
}

#[test]
fn runtimes_of_both_places_add_up() {
    let config = load("--add-runtime a=/a", r#"{"runtimes": {"b": {"path": "/b"}}}"#).unwrap();
    let names: Vec<&str> = config.runtimes.keys().map(String::as_str).collect();
    assert_eq!(names, ["a", "b", "crun", "runc"]);
}

#[test]
fn a_file_that_is_wrong_says_what_is() {
    for (file, message) in [
        ("{", "invalid JSON: EOF while parsing an object at line 1 column 1"),
        ("[]", "invalid JSON: an object with directives is expected"),
        (
            r#"{"bipp": "x", "debug": true, "zz": 1}"#,
            "the following directives don't match any configuration option: bipp, zz",
        ),
        (r#"{"debug": "yes"}"#, "directive debug: true or false is expected, not \"yes\""),
        (r#"{"dns": "9.9.9.9"}"#, "directive dns: an array is expected, not \"9.9.9.9\""),
    ] {
        assert_eq!(file::parse(file).unwrap_err(), message);
    }
    assert_eq!(file::parse(" \n").unwrap(), Values::default());
}

#[test]
fn only_a_named_file_must_exist() {
    let missing = PathBuf::from("/nonexistent/daemon.json");
    assert_eq!(file::read(&missing, false).unwrap(), Values::default());
    assert_eq!(
        file::read(&missing, true).unwrap_err().to_string(),
        "unable to configure the daemon with file /nonexistent/daemon.json: \
         No such file or directory (os error 2)"
    );
}

#[test]
fn impossible_values_name_their_option() {
    for (line, message) in [
        (
            "--bip 10.1.0.0/24",
            "invalid value for --bip: `10.1.0.0/24` is the subnet's own address, not one in it",
        ),
        (
            "--bip 10.1.0.1/24 --fixed-cidr 10.2.0.0/24",
            "invalid value for --fixed-cidr: 10.2.0.0/24 is not in the bridge's 10.1.0.1/24",
        ),
        ("--log-level loud", "invalid value for --log-level: invalid logging level: loud"),
        ("--mtu 10", "invalid value for --mtu: 10 is not between 68 and 65535"),
        (
            "--default-address-pool base=10.0.0.0/16,size=8",
            "invalid value for --default-address-pool: size 8 does not fit 10.0.0.0/16",
        ),
        (
            "--default-runtime nope",
            "invalid value for --default-runtime: specified default runtime 'nope' does not exist",
        ),
        (
            "--storage-driver zfs",
            "invalid value for --storage-driver: `zfs` is not one of overlay2, vfs",
        ),
        ("--label x", "invalid value for --label: bad attribute format: x; use key=value"),
        (
            "--registry-mirror m",
            "invalid value for --registry-mirror: invalid mirror: `m` is not http(s)://host",
        ),
        (
            "--default-ulimit nofile=9:8",
            "invalid value for --default-ulimit: nofile: soft limit 9 is above the hard limit 8",
        ),
        (
            "--max-concurrent-downloads 0",
            "invalid value for --max-concurrent-downloads: 0 is less than 1",
        ),
    ] {
        assert_eq!(error(line, ""), message);
    }
}

#[test]
fn tcp_needs_mutual_tls() {
    let message = error("-H tcp://127.0.0.1:2375", "");
    assert!(message.contains("TCP needs --tlsverify"), "{message}");
    let config = load("-H tcp://127.0.0.1:2376 --tls --tlscacert /ca", "").unwrap();
    assert_eq!(config.tls.unwrap().authority, PathBuf::from("/ca"));
}

#[test]
fn what_does_not_apply_is_worth_one_warning_each() {
    let line = "--containerd /run/containerd.sock --userland-proxy=false --live-restore \
                --iptables=false --experimental=false --storage-opt a=b";
    let warnings = load(line, "").unwrap().warnings;
    let names: Vec<&str> = warnings.iter().filter_map(|w| w.split(' ').next()).collect();
    assert_eq!(names, ["--containerd", "--iptables", "--storage-opt"], "{warnings:?}");
}

#[test]
fn what_somebody_relies_on_is_refused() {
    let message = error("--authorization-plugin x", "");
    assert!(message.starts_with("invalid value for --authorization-plugin"), "{message}");
}

#[test]
fn whom_containers_are_mapped_to_is_said_by_a_flag_or_in_the_file() {
    let given = |line, file| {
        load(line, file).unwrap().given.text("userns-remap").unwrap_or_default().to_owned()
    };
    assert_eq!(given("--userns-remap default", ""), "default");
    assert_eq!(given("", r#"{"userns-remap": "web:staff"}"#), "web:staff");
    assert_eq!(given("", r#"{"userns-remap": ""}"#), "");
}

#[test]
fn every_flag_of_dockerd_is_known() {
    let line = "--containerd-namespace moby --containerd-plugins-namespace p --userland-proxy-path /x \
                --allow-direct-routing --cpu-rt-period 1 --raw-logs \
                --selinux-enabled --swarm-default-advertise-addr eth0 --oom-score-adjust -500 \
                --node-generic-resource a=1 --metrics-addr 127.0.0.1:1 --cri-containerd \
                --exec-opt native.cgroupdriver=cgroupfs --ip6tables --ip-forward --ipv6 \
                --fixed-cidr-v6 fd00::/64 --seccomp-profile builtin --default-ipc-mode shareable \
                --default-cgroupns-mode host -s overlay2 -G docker -p /run/x.pid -b none -D";
    let config = load(line, "").unwrap();
    assert!(config.bridge.disabled && config.log.debug);
    assert_eq!(config.log.level, Level::Debug);
    assert!(flags("--no-such-flag").unwrap_err().contains("--no-such-flag"));
    assert!(flags("positional").is_err());
}

#[test]
fn a_cluster_is_named_by_our_words_or_by_dockerds_old_ones() {
    let ours = "--cluster etcd://h1,h2/blue --advertise-addr eth0 --cluster-opt cacert=/ca";
    let old = "--cluster-store etcd://h1,h2/blue --cluster-advertise eth0:2376 \
               --cluster-store-opt kv.cacertfile=/ca";
    let file = r#"{"cluster": "etcd://h1,h2/blue", "advertise-addr": "eth0",
                   "cluster-opts": {"cacert": "/ca"}}"#;
    let config = meaning(ours, "");
    assert_eq!(config.cluster.as_ref().unwrap().endpoints, ["h1:2379", "h2:2379"]);
    assert_eq!(config.advertise.as_deref(), Some("eth0"));
    assert_eq!(meaning(old, ""), config);
    assert_eq!(meaning("", file), config);
    assert_eq!(load("", "").unwrap().cluster, None);
}

#[test]
fn a_cluster_that_cannot_be_is_refused_before_anything_happens() {
    assert!(error("--cluster zk://h1", "").starts_with("invalid value for --cluster: `zk://h1`"));
    assert!(error("--cluster-opt user=a", "").contains("needs --cluster"));
    let two = error("--cluster etcd://h1 --cluster-store etcd://h2", "");
    assert!(two.contains("say different things"), "{two}");
}

#[test]
fn names_of_options_that_take_effect_at_once_are_names_of_options() {
    for name in reload::AT_ONCE {
        assert!(options::OPTIONS.iter().any(|opt| opt.name() == *name), "{name}");
    }
}

#[test]
fn what_is_read_again_takes_effect_but_for_what_needs_a_restart() {
    let load = |file| load("--icc=false --max-concurrent-uploads 2", file).unwrap();
    let old = load(r#"{"labels": ["a=1"], "mtu": 1400, "log-format": "json"}"#);
    let new = load(
        r#"{"labels": ["a=2"], "registry-mirrors": ["https://mirror.test"], "debug": true,
            "bip": "10.9.0.1/24", "max-concurrent-downloads": 7, "default-runtime": "runc"}"#,
    );
    let now = old.reloaded(&new);
    assert_eq!(now.labels, ["a=2"]);
    assert_eq!(now.mirrors, ["https://mirror.test/"]);
    assert_eq!((now.max_concurrent_downloads, now.max_concurrent_uploads), (7, 2));
    assert_eq!(now.default_runtime, "runc");
    assert!(now.log.debug);
    assert_eq!((now.log.format, &now.bridge), (old.log.format, &old.bridge));
    assert!(!now.bridge.icc);
    assert_eq!(old.needs_restart(&new), ["bip", "log-format", "mtu"]);
    assert!(old.needs_restart(&now).is_empty());
    // What was told of once is told of again as long as it waits.
    assert_eq!(now.needs_restart(&new), ["bip", "log-format", "mtu"]);
}
