//! What the engine must know before it opens: places, names and defaults.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use cluster::Place;
use drivers::kernel::Forwarding;
use ipnetwork::IpNetwork;

use runtime::Program;
use tree::IdMap;

/// The checked configuration of an engine.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What survives a reboot: `/var/lib/rnet`.
    pub data_root: PathBuf,
    /// What does not: `/run/rnet`.
    pub exec_root: PathBuf,
    /// The nf_tables table of the family inet: `rnet`.
    pub table: String,
    /// The first word of the aliases of our links: `rnet`.
    pub tag: String,
    /// The directory of `rnet-shim` and `rnet-dns`; `PATH` is searched where it lacks them.
    pub binaries: PathBuf,
    /// The runtimes, which a reload may change.
    pub runtimes: Arc<Runtimes>,
    /// How images are kept and fetched.
    pub images: image::Options,
    /// The default bridge network.
    pub default_bridge: DefaultBridge,
    /// `--default-address-pool`: supernets and the prefix lengths cut from them; ours if empty.
    pub default_pools: Vec<(IpNetwork, u8)>,
    /// `--cluster`: the cluster to be in.
    pub cluster: Option<Place>,
    /// `--advertise-addr`: the address for the others there, or the interface that has it.
    pub advertise: Option<String>,
    /// `--default-network-opt`: options by driver.
    pub default_network_options: BTreeMap<String, BTreeMap<String, String>>,
    /// Where plugins are looked for before Docker's places.
    pub plugin_places: Vec<PathBuf>,
    /// How long a plugin may take to answer.
    pub plugin_patience: Duration,
    /// `--ip-forward-no-drop`: whether links forward to each other that did not before.
    pub forwards_for_all: bool,
    /// `--dns`, for containers that name none.
    pub dns: Vec<IpAddr>,
    /// `--dns-search`.
    pub dns_search: Vec<String>,
    /// `--dns-opt`.
    pub dns_options: Vec<String>,
    /// The host's resolver configuration: `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
    /// `--host-gateway-ip`: what `host-gateway` stands for; the default bridge's gateway if empty.
    pub host_gateway: Vec<IpAddr>,
    /// `--default-ulimit`: name, soft, hard.
    pub default_ulimits: Vec<(String, i64, i64)>,
    /// `--default-shm-size` in bytes.
    pub default_shm_size: i64,
    /// `--log-driver`.
    pub log_driver: String,
    /// `--log-opt`.
    pub log_options: BTreeMap<String, String>,
    /// `--init`: run an init process in containers that say nothing about it.
    pub init: bool,
    /// `--init-path`: the init process, by path or by a name in `PATH`; ours if absent.
    pub init_path: Option<PathBuf>,
    /// `--cgroup-parent`.
    pub cgroup_parent: String,
    /// `--seccomp-profile`: a file, `builtin` or `unconfined`; `builtin` if absent.
    pub seccomp_profile: Option<String>,
    /// `--no-new-privileges`.
    pub no_new_privileges: bool,
    /// `--userns-remap`: whom the ids of containers are on the host, if they are not who they are called.
    pub remap: Option<IdMap>,
    /// `--shutdown-timeout` of a stop without one of its own, in seconds.
    pub stop_timeout: i64,
}

/// The OCI runtimes of an engine, as they are at the moment.
#[derive(Debug, Default)]
pub struct Runtimes(ArcSwap<KnownRuntimes>);

/// OCI runtimes.
#[derive(Clone, Debug)]
pub struct KnownRuntimes {
    /// The one that containers get which name none.
    pub default: String,
    /// Runtimes by name, with their programs; `crun` and `runc` need no entry.
    pub programs: BTreeMap<String, Program>,
}

impl Default for KnownRuntimes {
    fn default() -> Self {
        Self { default: "crun".to_owned(), programs: BTreeMap::new() }
    }
}

impl Runtimes {
    /// These, until others are set.
    pub fn new(known: KnownRuntimes) -> Self {
        Self(ArcSwap::from_pointee(known))
    }

    /// What is known now.
    pub fn now(&self) -> Arc<KnownRuntimes> {
        self.0.load_full()
    }

    /// Has whoever asks from now on find others. What runs goes on as it was started.
    pub fn set(&self, known: KnownRuntimes) {
        self.0.store(Arc::new(known));
    }
}

/// The network `bridge` and its device.
#[derive(Clone, Debug)]
pub struct DefaultBridge {
    /// `--bridge`: the device; `rnet0`. `none` leaves the network out.
    pub device: String,
    /// `--bip`: the bridge's IPv4 address with its prefix length.
    pub address: Option<IpNetwork>,
    /// `--bip6`.
    pub address6: Option<IpNetwork>,
    /// `--fixed-cidr`: the part of the subnet that addresses are handed out from.
    pub range: Option<IpNetwork>,
    /// `--fixed-cidr-v6`: the IPv6 subnet.
    pub range6: Option<IpNetwork>,
    /// `--default-gateway` and `--default-gateway-v6`.
    pub gateways: Vec<IpAddr>,
    /// `--ipv6`.
    pub ipv6: bool,
    /// `--icc`.
    pub icc: bool,
    /// `--ip-masq`.
    pub masquerade: bool,
    /// `--ip`: where ports are published by default.
    pub bindings: Vec<IpAddr>,
    /// `--mtu`.
    pub mtu: Option<u32>,
}

impl Default for DefaultBridge {
    fn default() -> Self {
        Self {
            device: "rnet0".to_owned(),
            address: None,
            address6: None,
            range: None,
            range6: None,
            gateways: Vec::new(),
            ipv6: false,
            icc: true,
            masquerade: true,
            bindings: Vec::new(),
            mtu: None,
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            data_root: PathBuf::from("/var/lib/rnet"),
            exec_root: PathBuf::from("/run/rnet"),
            table: "rnet".to_owned(),
            tag: "rnet".to_owned(),
            binaries: PathBuf::new(),
            runtimes: Arc::default(),
            images: image::Options::default(),
            default_bridge: DefaultBridge::default(),
            default_pools: Vec::new(),
            cluster: None,
            advertise: None,
            default_network_options: BTreeMap::new(),
            plugin_places: Vec::new(),
            plugin_patience: Duration::from_secs(30),
            forwards_for_all: false,
            dns: Vec::new(),
            dns_search: Vec::new(),
            dns_options: Vec::new(),
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            host_gateway: Vec::new(),
            default_ulimits: Vec::new(),
            default_shm_size: 64 << 20,
            log_driver: "json-file".to_owned(),
            log_options: BTreeMap::new(),
            init: false,
            init_path: None,
            cgroup_parent: String::new(),
            seccomp_profile: None,
            no_new_privileges: false,
            remap: None,
            stop_timeout: 10,
        }
    }
}

impl Settings {
    /// Whom forwarding is switched on for.
    pub fn forwarding(&self) -> Forwarding {
        if self.forwards_for_all { Forwarding::Everybodys } else { Forwarding::Ours }
    }

    /// The network of containers that name none.
    pub fn default_network(&self) -> &'static str {
        if self.default_bridge.device == "none" { "none" } else { "bridge" }
    }

    /// The directory of a container.
    pub fn container_dir(&self, id: &str) -> PathBuf {
        self.data_root.join("containers").join(id)
    }

    /// What a node of a swarm keeps.
    pub fn swarm(&self) -> PathBuf {
        self.data_root.join("swarm")
    }

    /// The cgroup above the containers that name none, without slashes around it.
    pub fn cgroup_parent(&self) -> &str {
        let wanted = [self.cgroup_parent.as_str(), &self.tag];
        let named = wanted.into_iter().map(|name| name.trim_matches('/'));
        named.into_iter().find(|name| !name.is_empty()).unwrap_or("rnet")
    }

    /// The run-time directory of a container's shim.
    pub fn shim_dir(&self, id: &str) -> PathBuf {
        self.exec_root.join("shim").join(id)
    }

    /// The files that network namespaces are pinned to. It is a private mount.
    pub fn pins(&self) -> PathBuf {
        self.exec_root.join("ns")
    }

    /// A private mount: what a shim attaches below it is seen by the runtime that it calls, and by
    /// nobody else.
    pub fn view_dir(&self) -> PathBuf {
        self.exec_root.join("view")
    }

    /// Where a runtime finds the root file system of its container.
    pub fn view_of_root(&self) -> PathBuf {
        self.view_dir().join("root")
    }

    /// Where a runtime finds the network namespace of its container.
    pub fn view_of_network(&self) -> PathBuf {
        self.view_dir().join("net")
    }

    /// Where a runtime finds the user namespace of its container.
    pub fn view_of_user(&self) -> PathBuf {
        self.view_dir().join("user")
    }

    /// Where a runtime finds one of the further mounts of its container: on a directory, or on a file.
    pub fn view_of_mount(&self, number: usize, directory: bool) -> PathBuf {
        let kind = if directory { "directory" } else { "file" };
        self.view_dir().join(format!("{kind}{number}"))
    }

    /// The root of the OCI runtime's own state.
    pub fn runtime_root(&self) -> PathBuf {
        self.exec_root.join("runtime")
    }

    /// Our own init process. `/run`, where the exec root is, may forbid that programs are run.
    pub fn init_program(&self) -> PathBuf {
        self.data_root.join("init")
    }

    /// One of our other programs.
    pub fn binary(&self, name: &str) -> PathBuf {
        let beside = self.binaries.join(name);
        if beside.is_file() { beside } else { PathBuf::from(name) }
    }
}
