//! What a container is made of, as the user asked for it.
//!
//! The API turns `POST /containers/create` into a [`Spec`] and a container back into `inspect`.
//! What rnet keeps and does not act on yet round-trips in [`Spec::wire_config`] and
//! [`Spec::wire_host_config`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use cnm::{Mac, Protocol};
pub use runtime::spec::{Mount, MountKind, Propagation, Resources};

use super::modes::{NamespaceModes, NetworkMode};

/// A container as it was asked for.
#[derive(Clone, Debug, Default, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "independent switches of the API")]
pub struct Spec {
    /// The image as the user named it.
    pub image: String,
    /// `--entrypoint`; `None` takes the image's, `Some([])` clears it.
    pub entrypoint: Option<Vec<String>>,
    /// The command; `None` takes the image's (unless the entrypoint was replaced).
    pub command: Option<Vec<String>>,
    /// `KEY=value`, over the image's; `KEY` alone removes.
    pub env: Vec<String>,
    /// `-w`.
    pub working_dir: String,
    /// `-u`: `user`, `user:group`, numbers or names.
    pub user: String,
    /// `--group-add`.
    pub groups: Vec<String>,
    /// `-l`.
    pub labels: BTreeMap<String, String>,
    /// `--hostname`; the short id if empty.
    pub hostname: String,
    /// `--domainname`.
    pub domainname: String,
    /// `-t`.
    pub tty: bool,
    /// `-i`: keep stdin open.
    pub open_stdin: bool,
    /// Close stdin after the first client that attached to it leaves.
    pub stdin_once: bool,
    /// Rows and columns at start, where the client told them.
    pub console_size: Option<(u16, u16)>,
    /// Streams the creating client is going to attach to.
    pub attach: (bool, bool, bool),
    /// `--rm`.
    pub auto_remove: bool,
    /// `--init`; `None` is as the daemon has it.
    pub init: Option<bool>,
    /// `--restart`.
    pub restart: RestartPolicy,
    /// `--stop-signal`, as given; the image's or SIGTERM if absent.
    pub stop_signal: Option<String>,
    /// `--stop-timeout` in seconds; negative waits for ever.
    pub stop_timeout: Option<i64>,
    /// `--network` of the host configuration.
    pub network_mode: NetworkMode,
    /// No network at all, whatever the mode says.
    pub network_disabled: bool,
    /// Networks to join, by the name or id the user gave, in order.
    pub endpoints: Vec<(String, EndpointSpec)>,
    /// `-p`.
    pub ports: Vec<PublishedPort>,
    /// `-P`.
    pub publish_all: bool,
    /// `--expose`, over the image's.
    pub exposed: Vec<(u16, Protocol)>,
    /// `--mac-address` of the container as a whole (older clients).
    pub mac: Option<Mac>,
    /// `--dns`.
    pub dns: Vec<IpAddr>,
    /// `--dns-search`.
    pub dns_search: Vec<String>,
    /// `--dns-option`.
    pub dns_options: Vec<String>,
    /// `--add-host`, `name:address`; the address may be `host-gateway`.
    pub extra_hosts: Vec<String>,
    /// `--link`, `container:alias`.
    pub links: Vec<String>,
    /// Sysctls.
    pub sysctls: BTreeMap<String, String>,
    /// `--mount`, `--tmpfs`, and `-v` with a source.
    pub mounts: Vec<Mount>,
    /// `-v` without a source: paths that get a volume of their own where nothing else is mounted.
    pub volumes: Vec<String>,
    /// `--volumes-from`: containers whose mounts to take, `container[:mode]`.
    pub volumes_from: Vec<String>,
    /// `--read-only`.
    pub readonly_rootfs: bool,
    /// `--privileged`.
    pub privileged: bool,
    /// `--cap-add`, with or without `CAP_`.
    pub cap_add: Vec<String>,
    /// `--cap-drop`.
    pub cap_drop: Vec<String>,
    /// `--security-opt`.
    pub security_options: Vec<String>,
    /// What is hidden; `None` is as always.
    pub masked_paths: Option<Vec<String>>,
    /// What is read-only; `None` is as always.
    pub readonly_paths: Option<Vec<String>>,
    /// `--device`: path on the host, path inside, permissions.
    pub devices: Vec<(String, String, String)>,
    /// `--device-cgroup-rule`.
    pub device_rules: Vec<String>,
    /// `--ulimit`: name, soft, hard.
    pub ulimits: Vec<(String, i64, i64)>,
    /// `--shm-size` in bytes; 64 MiB by default.
    pub shm_size: Option<i64>,
    /// `--oom-score-adj`.
    pub oom_score_adj: i64,
    /// `--runtime`.
    pub runtime: Option<String>,
    /// `--cgroup-parent`.
    pub cgroup_parent: String,
    /// Limits of resources.
    pub resources: Resources,
    /// `--pid`, `--ipc`, `--uts`, `--cgroupns`, `--userns`.
    pub namespaces: NamespaceModes,
    /// `--log-driver`: `json-file` and `none` are ours.
    pub log_driver: String,
    /// `--log-opt`: `max-size`, `max-file`.
    pub log_options: BTreeMap<String, String>,
    /// `--annotation`.
    pub annotations: BTreeMap<String, String>,
    /// `--health-cmd` and its kin, as the API has it.
    pub healthcheck: Option<serde_json::Value>,
    /// The `Config` of the request as it came, for `inspect`. Records are copied at every change; this is not.
    pub wire_config: Arc<serde_json::Value>,
    /// The `HostConfig` of the request as it came, for `inspect`: as long as the list of its ports.
    pub wire_host_config: Arc<serde_json::Value>,
}

impl Spec {
    /// The network mode that is in force.
    pub fn network_mode(&self) -> &NetworkMode {
        if self.network_disabled { &NetworkMode::None } else { &self.network_mode }
    }
}

/// What is wanted of one endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointSpec {
    /// `--network-alias`.
    pub aliases: Vec<String>,
    /// `--ip`.
    pub ipv4: Option<IpAddr>,
    /// `--ip6`.
    pub ipv6: Option<IpAddr>,
    /// `--link-local-ip`.
    pub link_local: Vec<IpAddr>,
    /// `--mac-address`.
    pub mac: Option<Mac>,
    /// Decides the default route; the highest wins.
    pub gateway_priority: i32,
    /// `--driver-opt`.
    pub options: BTreeMap<String, String>,
    /// `--link`.
    pub links: Vec<String>,
}

/// One `-p`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublishedPort {
    /// The container's port.
    pub port: u16,
    /// The protocol.
    pub protocol: Protocol,
    /// The host's address, if one was named.
    pub host: Option<IpAddr>,
    /// Host ports to choose from; `(0, 0)` for any.
    pub host_ports: (u16, u16),
    /// When it opens; as the container's label says if there is nothing.
    pub when: Option<PublishWhen>,
}

/// The ports of ranges. What is in several is counted once: it takes no longer to write them all in many
/// ways.
pub fn ports_of(
    ranges: impl IntoIterator<Item = ((u16, u16), Protocol)>,
) -> BTreeSet<(u16, Protocol)> {
    let ranges: BTreeSet<_> = ranges.into_iter().collect();
    let (mut ports, mut taken) = (BTreeSet::new(), BTreeMap::<Protocol, u32>::new());
    for ((first, last), protocol) in ranges {
        let taken = taken.entry(protocol).or_default();
        let first = u32::from(first).max(*taken);
        let new = (first..=last.into()).filter_map(|port| u16::try_from(port).ok());
        ports.extend(new.map(|port| (port, protocol)));
        *taken = (*taken).max(u32::from(last) + 1);
    }
    ports
}

/// When a published port opens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PublishWhen {
    /// With the container.
    #[default]
    Always,
    /// When somebody listens at it, and as long.
    Listening,
    /// When the container is healthy, and as long.
    Healthy,
}

impl PublishWhen {
    /// Reads what a user writes.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Always, Self::Listening, Self::Healthy].into_iter().find(|it| it.as_str() == text)
    }

    /// What a user writes.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::Listening => "listening",
            Self::Healthy => "healthy",
        }
    }
}

/// `--restart`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RestartPolicy {
    /// Never.
    #[default]
    No,
    /// Always, also after a restart of the daemon.
    Always,
    /// Always, unless it was stopped by hand.
    UnlessStopped,
    /// If it ended with a code other than 0, at most this often; 0 is no limit.
    OnFailure(u32),
}
