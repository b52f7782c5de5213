//! Containers: what they are ([`Spec`]), what state they are in, and the operations on them.

mod archive;
mod attach;
mod commit;
mod connect;
mod containers;
mod create;
mod detach;
mod etc;
mod exec;
mod execs;
mod foresee;
pub mod health;
mod id;
pub(crate) mod init;
mod ipc;
pub(crate) mod join;
pub(crate) mod lent;
mod links;
pub(crate) mod live;
mod lodging;
mod logs;
mod merge;
pub mod modes;
pub(crate) mod monitor;
mod mounts;
mod names;
mod parts;
mod publish;
mod readiness;
mod record;
mod recover;
pub(crate) mod registry;
pub(crate) mod remove;
pub mod request;
mod run_spec;
mod security;
mod signal;
pub mod spec;
pub(crate) mod start;
pub mod state;
pub mod stats;
mod stop;
mod tell;
mod top;
mod turns;
mod update;
mod update_network;
mod user_namespace;
mod view;

use std::collections::BTreeMap;
use std::path::PathBuf;

use chrono::{DateTime, Utc};
use cnm::{Mac, NetworkId, PortBinding, Protocol, SandboxId};
use ipnetwork::IpNetwork;

pub use archive::{PathStat, Unpacking};
pub use commit::{Commit, change_config};
pub(crate) use containers::Below;
pub use containers::Containers;
pub use create::missing_other;
pub(crate) use create::rootfs_dir;
pub use detach::detach_bytes;
pub use health::{Health, Healthcheck};
pub use id::ContainerId;
pub use links::LinkTo;
pub(crate) use logs::driver::{DELIVERY as LOG_DELIVERY, marks as log_marks};
pub use logs::parse as log_line;
pub(crate) use logs::rotation::bytes as log_bytes;
pub use modes::{NamespaceModes, NetworkMode, Sharing};
pub use publish::{Draining, PortChange};
pub use request::{
    Attach, Attached, Created, ExecSpec, ExecStart, ExecView, LogLine, LogQuery, Process,
    Processes, Remove, WaitCondition, Waited,
};
pub(crate) use signal::parse as parse_signal;
pub use spec::{EndpointSpec, MountKind, Propagation, PublishWhen, PublishedPort, Spec};
pub use state::{State, Status};
pub use stats::Sample;
pub use update::Update;
pub use update_network::NetworkUpdated;

/// A container as it is at one moment. The engine replaces it whole; nothing in it changes.
#[derive(Clone, Debug, Default)]
pub struct Container {
    /// Its identifier.
    pub id: ContainerId,
    /// The name, without the slash that Docker's API puts before it.
    pub name: String,
    /// When it was created.
    pub created: DateTime<Utc>,
    /// What was asked for.
    pub spec: Spec,
    /// The image's id, `sha256:` and 64 digits.
    pub image: String,
    /// What the request and the image's configuration make together.
    pub resolved: Resolved,
    /// Its state.
    pub state: State,
    /// Its own sandbox: while it runs, and as long as others live in it.
    pub sandbox: Option<SandboxId>,
    /// The sandbox of another container that it lives in while it runs.
    pub joined: Option<SandboxId>,
    /// The path of its network namespace.
    pub sandbox_key: PathBuf,
    /// The networks it is to join or has joined, in order.
    pub endpoints: Vec<EndpointView>,
    /// Published ports while it runs.
    pub ports: Vec<PortBinding>,
    /// Withdrawn ports whose connections still go on.
    pub draining: Vec<Draining>,
    /// Its files on the host.
    pub paths: Paths,
    /// The name of the driver of its root file system, `overlay2` or `vfs`.
    pub graph_driver: String,
    /// What that driver tells of itself (`LowerDir`, `UpperDir`, `WorkDir`, `MergedDir`).
    pub graph_data: BTreeMap<String, String>,
    /// Its mounts.
    pub mounts: Vec<MountPoint>,
    /// Whether its limits are to be changed to what is asked for, which it may not have yet.
    pub limits_due: bool,
    /// The containers that it links to on the default network; `None` where an earlier release kept
    /// only what was asked for.
    pub links: Option<Vec<LinkTo>>,
}

/// The process of a container, with nothing left to look up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolved {
    /// The program.
    pub path: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// The entrypoint, for `inspect`.
    pub entrypoint: Option<Vec<String>>,
    /// The command, for `inspect`.
    pub command: Option<Vec<String>>,
    /// Its environment.
    pub env: Vec<String>,
    /// Its working directory.
    pub working_dir: String,
    /// Whom it runs as.
    pub user: String,
    /// The host name.
    pub hostname: String,
    /// The domain name.
    pub domainname: String,
    /// The labels of image and request.
    pub labels: BTreeMap<String, String>,
    /// The ports that image and request expose.
    pub exposed: Vec<(u16, Protocol)>,
    /// The image's volumes.
    pub volumes: Vec<String>,
    /// The signal that stops it, `SIGTERM` by default.
    pub stop_signal: String,
    /// The health check of image and request.
    pub healthcheck: Option<Healthcheck>,
    /// The image's shell, which runs the lines of health checks.
    pub shell: Vec<String>,
}

/// A container on one network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointView {
    /// The network's name; as the user gave it while the network is not known.
    pub network: String,
    /// The network's id, if it exists.
    pub network_id: Option<NetworkId>,
    /// What was asked for.
    pub spec: EndpointSpec,
    /// The endpoint's id; empty unless the container runs.
    pub id: String,
    /// Its addresses, at most one of each family.
    pub addresses: Vec<IpNetwork>,
    /// The gateways of the network, at most one of each family.
    pub gateways: Vec<std::net::IpAddr>,
    /// The hardware address.
    pub mac: Option<Mac>,
    /// The names that are answered on this network.
    pub names: Vec<String>,
    /// Whether no port is published on it: its network is cut off, or leads past the host.
    pub unpublished: bool,
}

/// The files of a container on the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Paths {
    /// Its directory.
    pub dir: PathBuf,
    /// `hostname`.
    pub hostname: PathBuf,
    /// `hosts`.
    pub hosts: PathBuf,
    /// `resolv.conf`.
    pub resolv_conf: PathBuf,
    /// The log.
    pub log: PathBuf,
}

/// A mount of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountPoint {
    /// What is mounted.
    pub kind: MountKind,
    /// The volume's name, or that of the image.
    pub name: Option<String>,
    /// The path on the host.
    pub source: PathBuf,
    /// The path inside.
    pub target: String,
    /// Whether it can be written.
    pub writable: bool,
    /// How mounts below it spread.
    pub propagation: Propagation,
    /// Whether the volume was made for this container and goes with it.
    pub anonymous: bool,
    /// Options of a tmpfs.
    pub options: Vec<String>,
    /// What of the volume or the image it is, as a path in it; all of it if empty.
    pub subpath: String,
    /// The driver of the volume.
    pub driver: String,
    /// The id of the image.
    pub image: String,
    /// The layers of the image, lowest first.
    pub layers: Vec<String>,
}

impl MountPoint {
    /// Whether it is a volume that a plugin makes.
    pub(crate) fn is_of_plugin(&self) -> bool {
        let local = matches!(self.driver.as_str(), "" | volume::LOCAL);
        self.kind == MountKind::Volume && !local
    }
}

impl Container {
    /// The ports that it publishes: those that were asked for, and those that are exposed if all of
    /// them are published.
    pub fn published(&self) -> Vec<PublishedPort> {
        let mut ports = self.spec.ports.clone();
        if self.spec.publish_all {
            for &(port, protocol) in &self.resolved.exposed {
                if !ports.iter().any(|known| (known.port, known.protocol) == (port, protocol)) {
                    ports.push(PublishedPort { port, protocol, ..PublishedPort::default() });
                }
            }
        }
        ports
    }

    /// Whether its ports are told: those that it exposes, and where they are published. A container
    /// that is not reached by the host tells of none.
    pub fn tells_ports(&self) -> bool {
        self.state.is_running() && self.endpoints.iter().any(|endpoint| !endpoint.unpublished)
    }

    /// The first 12 digits of the id.
    pub fn short_id(&self) -> &str {
        self.id.short()
    }
}
