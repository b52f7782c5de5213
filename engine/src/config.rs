//! Flags and `daemon.json`, turned into one checked configuration before any effect.
//!
//! One table ([`options`]) says which options there are; [`flags`] reads them from the command
//! line, [`mod@file`] from JSON, [`values`] puts both together and [`build`] makes a [`Config`] of the
//! result. All of it is pure but the reading of the one file.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use cluster::Place;
use cnm::LinkName;
use ipnetwork::IpNetwork;

pub mod build;
pub mod file;
pub mod flags;
pub mod host;
pub mod options;
mod reload;
pub mod values;

pub use flags::{Invocation, Request, parse};
pub use host::Host;

/// All that a daemon is told at its start.
#[expect(clippy::struct_excessive_bools, reason = "independent flags")]
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Where to listen.
    pub hosts: Vec<Host>,
    /// Group of the unix sockets; empty tries `docker`, then `rnet`, then root's.
    pub group: String,
    /// Where figures are served.
    pub metrics: Option<std::net::SocketAddr>,
    /// Mutual TLS for TCP listeners.
    pub tls: Option<Tls>,
    /// What survives a reboot: images, containers, the store.
    pub data_root: PathBuf,
    /// What does not: sockets, pinned namespaces, bundles.
    pub exec_root: PathBuf,
    /// Where the daemon's process id is kept while it runs.
    pub pidfile: PathBuf,
    /// The configuration file, read or not; a reload reads it again.
    pub config_file: PathBuf,
    /// Keeps several daemons on one host apart; empty for the first one.
    pub instance: String,
    /// The nf_tables table (`inet <table>`), by instance.
    pub table: String,
    /// The tag that marks links as ours (`<tag>:…` in their alias), by instance.
    pub tag: String,
    /// The network `bridge`.
    pub bridge: Bridge,
    /// Where subnets come from that nobody chose: a supernet and the prefix length to cut from it.
    /// The engine has its own if there are none.
    pub default_pools: Vec<(IpNetwork, u8)>,
    /// Driver options of every new network, by driver.
    pub default_network_options: BTreeMap<String, BTreeMap<String, String>>,
    /// The cluster that the daemon is told to be in.
    pub cluster: Option<Place>,
    /// The address for the others of a cluster, or the interface that has it; chosen by the way to
    /// the cluster's store if absent.
    pub advertise: Option<String>,
    /// Whether links forward to each other that did not before it was switched on for containers.
    pub forwards_for_all: bool,
    /// Addresses that ports are published on where nothing else says so (`--ip`).
    pub default_bindings: Vec<IpAddr>,
    /// Where plugins are looked for before Docker's places.
    pub plugin_places: Vec<PathBuf>,
    /// Seconds that a plugin may take to answer.
    pub plugin_timeout: u64,
    /// Resolver settings of containers that have none of their own.
    pub dns: Dns,
    /// What `host-gateway` stands for; empty means the default bridge's gateways.
    pub host_gateway: Vec<IpAddr>,
    /// Runtimes by the names that `--runtime` takes.
    pub runtimes: BTreeMap<String, RuntimeConfig>,
    /// The runtime of containers that name none.
    pub default_runtime: String,
    /// The seccomp profile of containers that name none.
    pub seccomp: Seccomp,
    /// Whether containers get no new privileges unless told otherwise.
    pub no_new_privileges: bool,
    /// Whether labels of SELinux are asked for.
    pub selinux: bool,
    /// Registry mirrors of Docker Hub, tried in order.
    pub mirrors: Vec<String>,
    /// Registries that may speak plain HTTP or have unverified certificates.
    pub insecure_registries: Vec<String>,
    /// Layers that are fetched at the same time.
    pub max_concurrent_downloads: usize,
    /// Layers that are pushed at the same time.
    pub max_concurrent_uploads: usize,
    /// How often a download is tried.
    pub max_download_attempts: u32,
    /// `overlay2` or `vfs`; chosen by what the file system can do if absent.
    pub storage_driver: Option<String>,
    /// Limits of processes: name, soft, hard.
    pub ulimits: Vec<(String, i64, i64)>,
    /// Size of `/dev/shm` in bytes.
    pub shm_size: i64,
    /// Whether containers have an init process unless told otherwise.
    pub init: bool,
    /// The init process, by path or by a name in `PATH`; ours if absent.
    pub init_path: Option<PathBuf>,
    /// The cgroup that containers are children of.
    pub cgroup_parent: String,
    /// `private` or `host`; by the version of cgroups if absent.
    pub cgroupns_mode: Option<String>,
    /// `private` or `shareable`.
    pub ipc_mode: String,
    /// The log driver of containers that name none.
    pub log_driver: String,
    /// Its options.
    pub log_options: BTreeMap<String, String>,
    /// Labels of the daemon, shown by `info`.
    pub labels: Vec<String>,
    /// Seconds that a stopping daemon waits for requests under way.
    pub shutdown_timeout: u64,
    /// How the daemon itself logs.
    pub log: Log,
    /// What the flags and the file said.
    pub given: values::Values,
    /// What was asked for and does not apply, one sentence each.
    pub warnings: Vec<String>,
}

/// The network `bridge` as flags shape it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub struct Bridge {
    /// `--bridge none`: there is no such network.
    pub disabled: bool,
    /// The device.
    pub device: LinkName,
    /// `--bip` and `--bip6`: the bridge's own addresses.
    pub addresses: Vec<IpNetwork>,
    /// `--fixed-cidr` and `--fixed-cidr-v6`: what containers get addresses from.
    pub ranges: Vec<IpNetwork>,
    /// `--default-gateway` and `--default-gateway-v6`, if not the bridge itself.
    pub gateways: Vec<IpAddr>,
    /// `--ipv6`.
    pub ipv6: bool,
    /// `--icc`: whether its containers may talk to each other.
    pub icc: bool,
    /// `--ip-masq`.
    pub masquerade: bool,
    /// `--mtu`.
    pub mtu: Option<u32>,
    /// Whether names are answered on it; `false` is Docker's bare default bridge.
    pub names: bool,
}

/// Certificates of TCP listeners.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// Signs the clients that may come in.
    pub authority: PathBuf,
    /// The daemon's certificate, with its chain.
    pub certificate: PathBuf,
    /// The daemon's private key.
    pub key: PathBuf,
}

/// `--dns`, `--dns-search`, `--dns-opt`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dns {
    /// Name servers.
    pub servers: Vec<IpAddr>,
    /// Search domains.
    pub search: Vec<String>,
    /// `resolv.conf` options.
    pub options: Vec<String>,
}

/// A runtime that can be named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuntimeConfig {
    /// The program, a path or a name to look up.
    pub path: String,
    /// Arguments before its command.
    pub arguments: Vec<String>,
}

/// A seccomp profile.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Seccomp {
    /// The one that is compiled in.
    #[default]
    Builtin,
    /// None.
    Unconfined,
    /// One in Docker's JSON.
    File(PathBuf),
}

/// How the daemon logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    /// What is worth a line.
    pub level: Level,
    /// How a line looks.
    pub format: LogFormat,
    /// `-D`: the level is debug, and `info` says so.
    pub debug: bool,
}

/// `--log-level`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Everything.
    Debug,
    /// What an operator would tell a colleague.
    Info,
    /// What needs attention some day.
    Warn,
    /// What went wrong.
    Error,
}

/// `--log-format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// What makes a configuration unusable.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("unable to configure the daemon with file {path}: {reason}")]
    File {
        /// Which file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An option cannot have this value.
    #[error("invalid value for --{option}: {reason}")]
    Value {
        /// The flag's name.
        option: &'static str,
        /// What is wrong with the value.
        reason: String,
    },
    /// Options that do not go together.
    #[error("{0}")]
    Together(String),
}

impl Default for Config {
    /// A daemon without any flag.
    fn default() -> Self {
        let invocation = Invocation::Rnet;
        build::config(invocation, &values::Values::default())
            .unwrap_or_else(|error| unreachable!("no option is no error: {error}"))
    }
}

#[cfg(test)]
mod tests;
