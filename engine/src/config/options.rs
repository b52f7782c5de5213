//! Every option there is: dockerd's, and the few that only rnet has.
//!
//! An option that rnet does not act on has an [`Effect::Moot`] with the reason; it is accepted, and
//! a value other than its default is worth one warning. Nothing else in the daemon lists options.

use Effect::{Acts, Moot, Refused};
use Kind::{Flag, List, Map, Number, Text};

/// One option.
#[derive(Clone, Copy, Debug)]
pub struct Opt {
    /// `--flag`.
    pub flag: &'static str,
    /// `-f`.
    pub short: Option<char>,
    /// The key in `daemon.json`; empty if it can only be a flag.
    pub key: &'static str,
    /// What values look like.
    pub kind: Kind,
    /// What it does here.
    pub effect: Effect,
    /// One line for `--help`.
    pub help: &'static str,
}

/// What values of an option look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `--x`, `--x=false`; a JSON boolean.
    Flag,
    /// One text.
    Text,
    /// A whole number.
    Number,
    /// May be repeated; an array in JSON.
    List,
    /// `name=value`, may be repeated; an object in JSON.
    Map,
}

/// What an option does here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It is honoured.
    Acts,
    /// It has no meaning here unless it is set to this default.
    Moot(&'static str, &'static str),
    /// It is never silently dropped, because somebody relies on it.
    Refused(&'static str),
}

const fn opt(flag: &'static str, key: &'static str, kind: Kind, help: &'static str) -> Opt {
    Opt { flag, short: None, key, kind, effect: Acts, help }
}

const fn short(letter: char, opt: Opt) -> Opt {
    Opt { short: Some(letter), ..opt }
}

const fn moot(
    flag: &'static str,
    key: &'static str,
    kind: Kind,
    default: &'static str,
    why: &'static str,
) -> Opt {
    let help = "accepted for compatibility, without effect";
    Opt { flag, short: None, key, kind, effect: Moot(default, why), help }
}

const NO_CONTAINERD: &str = "every container has a shim of its own, there is no containerd";
const NO_PROXY: &str = "nf_tables forwards published ports for every client, there is no proxy";
const NO_IPTABLES: &str = "rules live in a table of rnet's own in nf_tables, iptables is not used";
const NO_SWARM: &str = "swarm mode has no use for it";
const SWARM_ADDRESS: &str = "give --advertise-addr to swarm init and swarm join";
const NO_REALTIME: &str = "cgroups above containers keep the real-time runtime that they have";

/// All options, by name.
pub const OPTIONS: &[Opt] = &[
    opt("add-runtime", "runtimes", Map, "A runtime that containers may name: name=path"),
    opt(
        "advertise-addr",
        "advertise-addr",
        Text,
        "Address of this host, or the interface that has it, for the others of its cluster",
    ),
    moot(
        "allow-direct-routing",
        "allow-direct-routing",
        Flag,
        "false",
        "use the network option com.docker.network.bridge.gateway_mode_ipv4=nat-unprotected",
    ),
    Opt {
        flag: "authorization-plugin",
        short: None,
        key: "authorization-plugins",
        kind: List,
        effect: Refused("plugins are not supported, and requests would pass without being checked"),
        help: "refused: there are no plugins",
    },
    opt("bip", "bip", Text, "IPv4 address of the default bridge, in CIDR notation"),
    opt("bip6", "bip6", Text, "IPv6 address of the default bridge, in CIDR notation"),
    short(
        'b',
        opt("bridge", "bridge", Text, "Device of the default network; none for no such network"),
    ),
    moot("bridge-accept-fwmark", "bridge-accept-fwmark", Text, "", "marks are not looked at"),
    moot("cdi-spec-dir", "cdi-spec-dirs", List, "", "CDI devices are not supported"),
    opt("cgroup-parent", "cgroup-parent", Text, "Parent cgroup of all containers"),
    opt("cluster", "cluster", Text, "Cluster to be in: etcd://host:port,host:port[/name]"),
    opt("cluster-advertise", "cluster-advertise", Text, "As --advertise-addr; a port is left out"),
    opt(
        "cluster-opt",
        "cluster-opts",
        Map,
        "How to get into the cluster's store: cacert, cert, key, user, password-file; node: a name",
    ),
    opt("cluster-store", "cluster-store", Text, "As --cluster"),
    opt("cluster-store-opt", "cluster-store-opts", Map, "As --cluster-opt: kv.cacertfile=file"),
    opt("config-file", "", Text, "The daemon's configuration file"),
    moot("containerd", "containerd", Text, "", NO_CONTAINERD),
    moot("containerd-namespace", "containerd-namespace", Text, "moby", NO_CONTAINERD),
    moot(
        "containerd-plugins-namespace",
        "containerd-plugin-namespace",
        Text,
        "plugins.moby",
        NO_CONTAINERD,
    ),
    moot("cpu-rt-period", "cpu-rt-period", Number, "0", NO_REALTIME),
    moot("cpu-rt-runtime", "cpu-rt-runtime", Number, "0", NO_REALTIME),
    moot("cri-containerd", "cri-containerd", Flag, "false", NO_CONTAINERD),
    opt("data-root", "data-root", Text, "Root directory of what survives a reboot"),
    short('D', opt("debug", "debug", Flag, "Log everything")),
    opt(
        "default-address-pool",
        "default-address-pools",
        List,
        "Pool for networks without a subnet: base=CIDR,size=N",
    ),
    opt(
        "default-bridge-names",
        "default-bridge-names",
        Flag,
        "Answer names on the default network too (default true)",
    ),
    opt(
        "default-cgroupns-mode",
        "default-cgroupns-mode",
        Text,
        "cgroup namespace of containers: host or private",
    ),
    opt("default-gateway", "default-gateway", Text, "IPv4 gateway of the default network"),
    opt("default-gateway-v6", "default-gateway-v6", Text, "IPv6 gateway of the default network"),
    opt(
        "default-ipc-mode",
        "default-ipc-mode",
        Text,
        "ipc namespace of containers: shareable or private",
    ),
    opt(
        "default-network-opt",
        "default-network-opts",
        Map,
        "Option of new networks: driver=option=value",
    ),
    opt(
        "default-runtime",
        "default-runtime",
        Text,
        "Runtime of containers that name none: crun or runc",
    ),
    opt("default-shm-size", "default-shm-size", Text, "Size of /dev/shm of containers"),
    opt("default-ulimit", "default-ulimits", Map, "Limit of containers: name=soft[:hard]"),
    opt("dns", "dns", List, "Name server of containers"),
    opt("dns-opt", "dns-opts", List, "Option of containers' resolv.conf"),
    opt("dns-search", "dns-search", List, "Search domain of containers"),
    moot(
        "exec-opt",
        "exec-opts",
        List,
        "native.cgroupdriver=cgroupfs",
        "cgroups are made directly, in cgroupfs",
    ),
    opt("exec-root", "exec-root", Text, "Root directory of what a reboot ends"),
    moot("experimental", "experimental", Flag, "false", "there are no experimental features"),
    moot("feature", "features", Map, "", "there are no feature flags"),
    moot("firewall-backend", "firewall-backend", Text, "nftables", "nf_tables is the only one"),
    opt("fixed-cidr", "fixed-cidr", Text, "IPv4 range of addresses on the default network"),
    opt("fixed-cidr-v6", "fixed-cidr-v6", Text, "IPv6 range of addresses on the default network"),
    short('G', opt("group", "group", Text, "Group of the unix socket")),
    short('H', opt("host", "hosts", List, "Where to listen: unix://, tcp:// (with TLS), fd://")),
    opt(
        "host-gateway-ip",
        "host-gateway-ips",
        List,
        "Address that host-gateway stands for in --add-host",
    ),
    moot("http-proxy", "http-proxy", Text, "", "proxies are taken from the environment"),
    moot("https-proxy", "https-proxy", Text, "", "proxies are taken from the environment"),
    opt(
        "icc",
        "icc",
        Flag,
        "Let containers of the default network talk to each other (default true)",
    ),
    opt("init", "init", Flag, "Run an init process in containers"),
    opt("init-path", "init-path", Text, "Program of --init; static (default: one of rnet's own)"),
    opt("insecure-registry", "insecure-registries", List, "Registry that may speak plain HTTP"),
    opt(
        "instance",
        "instance",
        Text,
        "Keeps several daemons on one host apart: directories, bridge, table",
    ),
    opt("ip", "ip", Text, "Address that ports are published on by default"),
    moot("ip-forward", "ip-forward", Flag, "true", "a bridge network works by forwarding"),
    opt(
        "ip-forward-no-drop",
        "ip-forward-no-drop",
        Flag,
        "Let links forward to each other that did not before forwarding was switched on for containers",
    ),
    opt("ip-masq", "ip-masq", Flag, "Masquerade what leaves the default network (default true)"),
    moot("ip6tables", "ip6tables", Flag, "true", NO_IPTABLES),
    moot("iptables", "iptables", Flag, "true", NO_IPTABLES),
    opt("ipv6", "ipv6", Flag, "IPv6 on the default network"),
    opt("label", "labels", List, "Label of the daemon: key=value"),
    moot("live-restore", "live-restore", Flag, "true", "containers always outlive the daemon"),
    opt(
        "log-driver",
        "log-driver",
        Text,
        "Log driver of containers: json-file, local, none, syslog, journald or fluentd",
    ),
    opt("log-format", "log-format", Text, "Format of the daemon's log: text or json"),
    short(
        'l',
        opt(
            "log-level",
            "log-level",
            Text,
            "What the daemon logs: debug, info, warn, error, fatal",
        ),
    ),
    opt("log-opt", "log-opts", Map, "Option of the log driver: max-size=20m, max-file=5"),
    opt(
        "max-concurrent-downloads",
        "max-concurrent-downloads",
        Number,
        "Layers that are fetched at the same time",
    ),
    opt(
        "max-concurrent-uploads",
        "max-concurrent-uploads",
        Number,
        "Layers that are pushed at the same time",
    ),
    opt("max-download-attempts", "max-download-attempts", Number, "How often a download is tried"),
    opt(
        "metrics-addr",
        "metrics-addr",
        Text,
        "Address and port of GET /metrics, for Prometheus; anybody may ask there",
    ),
    moot(
        "min-api-version",
        "min-api-version",
        Text,
        "1.24",
        "every version from 1.24 on is served",
    ),
    opt("mtu", "mtu", Number, "MTU of the default network"),
    moot("network-control-plane-mtu", "network-control-plane-mtu", Number, "1500", NO_SWARM),
    moot("network-diagnostic-port", "network-diagnostic-port", Number, "0", NO_SWARM),
    opt(
        "no-new-privileges",
        "no-new-privileges",
        Flag,
        "No new privileges for containers by default",
    ),
    moot("no-proxy", "no-proxy", Text, "", "proxies are taken from the environment"),
    moot("node-generic-resource", "node-generic-resources", List, "", NO_SWARM),
    moot("oom-score-adjust", "oom-score-adjust", Number, "0", "set it in the supervisor"),
    short('p', opt("pidfile", "pidfile", Text, "File with the daemon's process id")),
    opt("plugin-dir", "plugin-dirs", List, "Directory of plugins, looked into before Docker's"),
    opt("plugin-timeout", "plugin-timeout", Number, "Seconds that a plugin may take (default 30)"),
    moot("raw-logs", "raw-logs", Flag, "false", "logs have no colours unless stderr is a terminal"),
    opt("registry-mirror", "registry-mirrors", List, "Mirror of Docker Hub"),
    moot("rootless", "rootless", Flag, "false", "the daemon needs root"),
    opt(
        "seccomp-profile",
        "seccomp-profile",
        Text,
        "Seccomp profile: builtin, unconfined or a file",
    ),
    moot("selinux-enabled", "selinux-enabled", Flag, "false", "SELinux labels are not supported"),
    opt(
        "shutdown-timeout",
        "shutdown-timeout",
        Number,
        "Seconds that a stopping daemon waits for requests",
    ),
    short('s', opt("storage-driver", "storage-driver", Text, "Storage driver: overlay2 or vfs")),
    moot("storage-opt", "storage-opts", List, "", "storage drivers have no options"),
    moot("swarm-default-advertise-addr", "swarm-default-advertise-addr", Text, "", SWARM_ADDRESS),
    opt("tls", "tls", Flag, "As --tlsverify: clients are always verified"),
    opt("tlscacert", "tlscacert", Text, "Certificate that signs clients"),
    opt("tlscert", "tlscert", Text, "The daemon's certificate"),
    opt("tlskey", "tlskey", Text, "The daemon's private key"),
    opt("tlsverify", "tlsverify", Flag, "Serve TCP with TLS and verify clients"),
    moot("userland-proxy", "userland-proxy", Flag, "false", NO_PROXY),
    moot("userland-proxy-path", "userland-proxy-path", Text, "", NO_PROXY),
    opt("userns-remap", "userns-remap", Text, "User and group that containers are mapped to"),
    opt("validate", "", Flag, "Check the configuration and exit"),
    // Keys without a flag.
    moot("", "builder", Map, "", "the build cache is pruned by `rnet builder prune`"),
    moot(
        "",
        "max-upload-attempts",
        Number,
        "5",
        "an upload is tried five times from where it got to",
    ),
    moot("", "proxies", Map, "", "proxies are taken from the environment"),
];

/// The option that a flag or a key stands for.
pub fn by_key(key: &str) -> Option<&'static Opt> {
    OPTIONS.iter().find(|opt| !opt.key.is_empty() && opt.key == key)
}

impl Opt {
    /// What identifies the option: its flag, or its key where it has none.
    pub fn name(&self) -> &'static str {
        if self.flag.is_empty() { self.key } else { self.flag }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_name_stands_for_one_option() {
        let keys: Vec<_> = OPTIONS.iter().map(|o| o.key).filter(|k| !k.is_empty()).collect();
        assert_eq!(keys.len(), keys.iter().collect::<BTreeSet<_>>().len());
        let flags: Vec<_> = OPTIONS.iter().map(|o| o.flag).filter(|k| !k.is_empty()).collect();
        assert_eq!(flags.len(), flags.iter().collect::<BTreeSet<_>>().len());
        let letters: Vec<_> = OPTIONS.iter().filter_map(|o| o.short).collect();
        assert_eq!(letters.len(), letters.iter().collect::<BTreeSet<_>>().len());
    }

    #[test]
    fn flags_are_in_order() {
        let flags: Vec<_> = OPTIONS.iter().map(|o| o.flag).filter(|f| !f.is_empty()).collect();
        assert!(flags.is_sorted(), "{flags:?}");
    }
}
