//! `/info`, `/version` and `/system/df` as Docker's clients read them.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::api::system::limits::Limits;
use crate::api::version::{NEWEST, OLDEST, Version};
use crate::core::check::Finding;
use shim::protocol::LOG_DRIVERS;

/// Our version, that of the daemon and of the command line.
pub const RNET: &str = env!("CARGO_PKG_VERSION");

/// What the version is built from, where the build says so.
const COMMIT: &str = match option_env!("RNET_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};
const BUILT: &str = match option_env!("RNET_BUILT") {
    Some(time) => time,
    None => "",
};
/// Clients label it "Go version".
const LANGUAGE: &str = concat!("rust", env!("CARGO_PKG_RUST_VERSION"));

/// What `/info` tells of the machine.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// The kernel's release.
    pub kernel: String,
    /// The distribution's name.
    pub system: String,
    /// Its version.
    pub system_version: String,
    /// `x86_64`.
    pub architecture: String,
    /// The host's name.
    pub name: String,
    /// Processors.
    pub processors: usize,
    /// Bytes of memory.
    pub memory: u64,
    /// `1` or `2`.
    pub cgroup_version: &'static str,
    /// Which limits it can keep.
    pub limits: Limits,
    /// Whether the kernel forwards.
    pub forwarding: bool,
    /// The HTTP proxies of the daemon's environment: plain, TLS, exceptions.
    pub proxies: [String; 3],
}

/// What `/info` tells of the daemon.
#[derive(Clone, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Daemon {
    /// A stable id.
    pub id: String,
    /// Containers that run, are paused, and do not run.
    pub containers: [usize; 3],
    /// Images.
    pub images: usize,
    /// The storage driver.
    pub driver: &'static str,
    /// The data root.
    pub root: String,
    /// Whether it logs everything.
    pub debug: bool,
    /// Open descriptors.
    pub descriptors: usize,
    /// Tasks that run.
    pub tasks: usize,
    /// Now.
    pub time: String,
    /// The log driver of containers.
    pub log_driver: String,
    /// `key=value`.
    pub labels: Vec<String>,
    /// Runtimes with their programs.
    pub runtimes: BTreeMap<String, String>,
    /// The default one.
    pub default_runtime: String,
    /// Whether containers have an AppArmor profile.
    pub apparmor: bool,
    /// The seccomp profile's name.
    pub seccomp: String,
    /// Whether containers get no new privileges.
    pub no_new_privileges: bool,
    /// Whether containers have users of their own.
    pub remapped: bool,
    /// Mirrors of Docker Hub.
    pub mirrors: Vec<String>,
    /// Insecure registries.
    pub insecure: Vec<String>,
    /// Drivers of networks.
    pub drivers: Vec<String>,
    /// The drivers of volumes.
    pub volume_drivers: Vec<String>,
    /// The cluster that this host is in, and the address that it has there.
    pub cluster: Option<(String, String)>,
    /// Pools of subnets.
    pub pools: Vec<(String, u8)>,
    /// What a user should know.
    pub warnings: Vec<String>,
}

/// `GET /info`.
pub fn info(host: &Host, daemon: &Daemon) -> Value {
    let [running, paused, stopped] = daemon.containers;
    let mut info = json!({
        "ID": daemon.id,
        "Containers": running + paused + stopped,
        "ContainersRunning": running,
        "ContainersPaused": paused,
        "ContainersStopped": stopped,
        "Images": daemon.images,
        "Driver": daemon.driver,
        "DriverStatus": [["Supports d_type", "true"], ["Native Overlay Diff", "true"]],
        "DockerRootDir": daemon.root,
        "Plugins": {
            "Volume": daemon.volume_drivers,
            "Network": daemon.drivers,
            "Authorization": null,
            "Log": LOG_DRIVERS,
        },
        "Debug": daemon.debug,
        "NFd": daemon.descriptors,
        "NGoroutines": daemon.tasks,
        "SystemTime": daemon.time,
        "LoggingDriver": daemon.log_driver,
        "NEventsListener": 0,
        "IndexServerAddress": "https://index.docker.io/v1/",
        "RegistryConfig": registries(daemon),
        "GenericResources": null,
        "Labels": daemon.labels,
        "ExperimentalBuild": false,
        "ServerVersion": RNET,
        "Runtimes": runtimes(daemon),
        "DefaultRuntime": daemon.default_runtime,
        "Swarm": super::swarm::none(None),
        "LiveRestoreEnabled": true,
        "Isolation": "",
        "InitBinary": "docker-init",
        "ContainerdCommit": {"ID": "", "Expected": ""},
        "RuncCommit": {"ID": "", "Expected": ""},
        "InitCommit": {"ID": "", "Expected": ""},
        "SecurityOptions": security(host, daemon),
        "ProductLicense": "Apache-2.0",
        "FirewallBackend": {"Driver": "nftables"},
        "CDISpecDirs": [],
        "Warnings": if daemon.warnings.is_empty() { Value::Null } else { json!(daemon.warnings) },
    });
    if !daemon.pools.is_empty() {
        let pool = |(base, size): &(String, u8)| json!({"Base": base, "Size": size});
        info["DefaultAddressPools"] = daemon.pools.iter().map(pool).collect();
    }
    if let Some((store, advertise)) = &daemon.cluster {
        info["ClusterStore"] = json!(store);
        info["ClusterAdvertise"] = json!(advertise);
    }
    if let (Value::Object(info), Value::Object(machine)) = (&mut info, machine(host)) {
        info.extend(machine);
    }
    info
}

/// Leaves out what newer versions of the API do not tell any more.
pub fn leave_out(info: &mut Value, version: Version) {
    let Value::Object(info) = info else { return };
    if version >= Version(49) {
        for commit in ["ContainerdCommit", "RuncCommit", "InitCommit"] {
            if let Some(Value::Object(commit)) = info.get_mut(commit) {
                commit.remove("Expected");
            }
        }
    }
    if version >= Version(50) {
        info.remove("BridgeNfIptables");
        info.remove("BridgeNfIp6tables");
    }
}

/// `GET /rnet/check`.
pub fn findings(findings: &[Finding]) -> Value {
    let wire = |finding: &Finding| {
        let Finding { subject, problem, advice } = finding;
        json!({"Subject": subject, "Problem": problem, "Advice": advice})
    };
    json!({"Findings": findings.iter().map(wire).collect::<Vec<_>>()})
}

fn machine(host: &Host) -> Value {
    let [http, https, none] = &host.proxies;
    let limits = &host.limits;
    json!({
        "MemoryLimit": limits.memory,
        "SwapLimit": limits.swap,
        "CpuCfsPeriod": limits.cpu_period,
        "CpuCfsQuota": limits.cpu_quota,
        "CPUShares": limits.cpu_shares,
        "CPUSet": limits.cpu_set,
        "PidsLimit": limits.pids,
        "OomKillDisable": limits.oom_kill_disable,
        "IPv4Forwarding": host.forwarding,
        "BridgeNfIptables": limits.bridge_ipv4,
        "BridgeNfIp6tables": limits.bridge_ipv6,
        "CgroupDriver": "cgroupfs",
        "CgroupVersion": host.cgroup_version,
        "KernelVersion": host.kernel,
        "OperatingSystem": host.system,
        "OSVersion": host.system_version,
        "OSType": "linux",
        "Architecture": host.architecture,
        "NCPU": host.processors,
        "MemTotal": host.memory,
        "HttpProxy": http,
        "HttpsProxy": https,
        "NoProxy": none,
        "Name": host.name,
    })
}

fn runtimes(daemon: &Daemon) -> Value {
    let entry = |(name, path): (&String, &String)| (name.clone(), json!({"path": path}));
    Value::Object(daemon.runtimes.iter().map(entry).collect())
}

fn security(host: &Host, daemon: &Daemon) -> Vec<String> {
    let mut options = Vec::new();
    if daemon.apparmor {
        options.push("name=apparmor".to_owned());
    }
    options.push(format!("name=seccomp,profile={}", daemon.seccomp));
    if daemon.remapped {
        options.push("name=userns".to_owned());
    }
    if daemon.no_new_privileges {
        options.push("name=no-new-privileges".to_owned());
    }
    if host.cgroup_version == "2" {
        options.push("name=cgroupns".to_owned());
    }
    options
}

fn registries(daemon: &Daemon) -> Value {
    let (blocks, names): (Vec<_>, Vec<_>) =
        daemon.insecure.iter().partition(|registry| registry.contains('/'));
    let mut blocks: Vec<String> = blocks.into_iter().cloned().collect();
    for block in ["::1/128", "127.0.0.0/8"] {
        if !blocks.iter().any(|known| known == block) {
            blocks.push(block.to_owned());
        }
    }
    let index = |name: &str, official: bool, mirrors: &[String]| json!({"Name": name, "Mirrors": mirrors, "Secure": official, "Official": official});
    let mut indexes = json!({"docker.io": index("docker.io", true, &daemon.mirrors)});
    for name in names {
        indexes[name.as_str()] = index(name, false, &[]);
    }
    json!({"InsecureRegistryCIDRs": blocks, "IndexConfigs": indexes, "Mirrors": daemon.mirrors})
}

/// `GET /version`. `runtimes` are names and versions of the OCI runtimes.
pub fn version(kernel: &str, runtimes: &[(String, String)]) -> Value {
    let engine = json!({
        "Name": "Engine",
        "Version": RNET,
        "Details": {
            "ApiVersion": NEWEST.to_string(),
            "Arch": go_architecture(),
            "BuildTime": BUILT,
            "Experimental": "false",
            "GitCommit": COMMIT,
            "GoVersion": LANGUAGE,
            "KernelVersion": kernel,
            "MinAPIVersion": OLDEST.to_string(),
            "Os": "linux",
        },
    });
    let runtime = |(name, version): &(String, String)| json!({"Name": name, "Version": version, "Details": {}});
    let components: Vec<Value> =
        std::iter::once(engine).chain(runtimes.iter().map(runtime)).collect();
    json!({
        "Platform": {"Name": "rnet"},
        "Components": components,
        "Version": RNET,
        "ApiVersion": NEWEST.to_string(),
        "MinAPIVersion": OLDEST.to_string(),
        "GitCommit": COMMIT,
        "GoVersion": LANGUAGE,
        "Os": "linux",
        "Arch": go_architecture(),
        "KernelVersion": kernel,
        "BuildTime": BUILT,
    })
}

/// The architecture in Go's words.
pub fn go_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn info_tells_what_clients_decide_by() {
        let host = Host { cgroup_version: "2", ..Host::default() };
        let daemon = Daemon {
            containers: [2, 1, 3],
            apparmor: true,
            seccomp: "builtin".to_owned(),
            insecure: vec!["10.0.0.0/8".to_owned(), "registry:5000".to_owned()],
            drivers: ["bridge", "host", "null"].map(str::to_owned).to_vec(),
            volume_drivers: vec!["local".to_owned()],
            ..Daemon::default()
        };
        let info = info(&host, &daemon);
        assert_eq!(info["Containers"], 6);
        assert_eq!(info["Swarm"]["LocalNodeState"], "inactive");
        assert_eq!(info["LiveRestoreEnabled"], true);
        assert_eq!(info["FirewallBackend"]["Driver"], "nftables");
        assert_eq!(
            info["SecurityOptions"],
            json!(["name=apparmor", "name=seccomp,profile=builtin", "name=cgroupns"])
        );
        let registries = &info["RegistryConfig"];
        assert_eq!(
            registries["InsecureRegistryCIDRs"],
            json!(["10.0.0.0/8", "::1/128", "127.0.0.0/8"])
        );
        assert_eq!(registries["IndexConfigs"]["registry:5000"]["Secure"], false);
    }

    #[test]
    fn version_has_the_engine_first() {
        let version = version("6.1", &[("crun".to_owned(), "1.8".to_owned())]);
        assert_eq!(version["Components"][0]["Name"], "Engine");
        assert_eq!(version["Components"][1]["Version"], "1.8");
        assert_eq!(
            (&version["ApiVersion"], &version["MinAPIVersion"]),
            (&json!("1.51"), &json!("1.24"))
        );
    }
}
