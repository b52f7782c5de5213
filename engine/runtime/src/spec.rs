//! The OCI specification of a container: Docker's defaults, what the user asked for, and what this
//! host is able to give.
//!
//! [`build`] looks at nothing but its arguments (and, for `--device` and `--privileged`, at the
//! nodes in `/dev`; for read-only binds the runtime is asked once what it is able to do). What the host lacks and nobody asked for is left out with a warning; what was
//! asked for and cannot be had is an error.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use oci_spec::runtime as oci;
use tree::{IdMap, IdRange};

use super::capabilities::CapabilitySet;
use super::seccomp::{self, Filter};
use super::user::User;
use super::{Host, Runtime, RuntimeError, SeccompForm};
pub use mounts::{Mount, MountKind, Recursion};
pub use resources::Resources;

mod block;
mod devices;
mod mounts;
mod process;
mod propagation;
mod resources;
#[cfg(test)]
mod tests;

pub use devices::device_rules;
pub use mounts::{masked_paths, readonly_paths};
pub use process::{ExecInput, check_directory, exec};
pub use propagation::Propagation;
pub use resources::limits;

/// Where an init program is found inside a container (`--init`), as Docker has it.
const INIT: &str = "/sbin/docker-init";

/// Everything a container's specification is made of.
#[derive(Clone, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the user's")]
pub struct BundleInput {
    /// The command with its arguments, entrypoint included.
    pub args: Vec<String>,
    /// The environment: the image's and the user's. `PATH`, `HOSTNAME`, `HOME` and `TERM` are added
    /// where missing.
    pub env: Vec<String>,
    /// The working directory; `/` if empty.
    pub cwd: String,
    /// Who the process runs as.
    pub user: User,
    /// The host name inside.
    pub hostname: String,
    /// The domain name inside; empty for none.
    pub domainname: String,
    /// Whether there is a terminal.
    pub tty: bool,
    /// The terminal's rows and columns at start.
    pub console_size: Option<(u16, u16)>,
    /// The mounted root file system.
    pub rootfs: PathBuf,
    /// `--read-only`.
    pub readonly_rootfs: bool,
    /// Which namespaces are the container's own.
    pub namespaces: Namespaces,
    /// Binds (volumes, `hosts`, `hostname` and `resolv.conf` among them) and tmpfs, sources being
    /// paths on the host.
    pub mounts: Vec<Mount>,
    /// Bytes of `/dev/shm`; `None` is 64 MiB.
    pub shm_size: Option<i64>,
    /// A directory to use as `/dev/shm` instead: of the container whose IPC namespace is shared.
    pub shm_source: Option<PathBuf>,
    /// `--ipc none`: neither `/dev/shm` nor message queues.
    pub no_shared_memory: bool,
    /// `--cap-add`.
    pub cap_add: Vec<String>,
    /// `--cap-drop`.
    pub cap_drop: Vec<String>,
    /// `--privileged`.
    pub privileged: bool,
    /// `--security-opt no-new-privileges`.
    pub no_new_privileges: bool,
    /// `--security-opt seccomp=…`.
    pub seccomp: Seccomp,
    /// The AppArmor profile, which is there; none to leave the process in the daemon's.
    pub apparmor: Option<String>,
    /// `--security-opt systempaths=unconfined`: nothing masked, nothing read-only below `/proc`.
    pub unconfined_paths: bool,
    /// Whether it may make cgroups of its own, if that was said; privileged containers may.
    pub writable_cgroups: Option<bool>,
    /// What is hidden instead of the usual ([`masked_paths`]).
    pub masked_paths: Option<Vec<String>>,
    /// What is read-only instead of the usual ([`readonly_paths`]).
    pub readonly_paths: Option<Vec<String>>,
    /// `--device`: path on the host, path inside, permissions.
    pub devices: Vec<(String, String, String)>,
    /// `--device-cgroup-rule`.
    pub device_rules: Vec<String>,
    /// `--ulimit`: name, soft, hard; -1 is unlimited.
    pub ulimits: Vec<(String, i64, i64)>,
    /// `--oom-score-adj`.
    pub oom_score_adj: i64,
    /// Limits of resources.
    pub resources: Resources,
    /// The container's cgroup: `/rnet/<id>`, or below `--cgroup-parent`.
    pub cgroups_path: String,
    /// `--sysctl`. Those of a network namespace given by path are the engine's to set
    /// ([`network_sysctls`]).
    pub sysctls: BTreeMap<String, String>,
    /// `--annotation`.
    pub annotations: BTreeMap<String, String>,
    /// `--init`: a static program on the host that reaps children and passes signals on.
    pub init: Option<PathBuf>,
}

/// A namespace of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Namespace {
    /// Made for the container.
    #[default]
    Private,
    /// The host's.
    Host,
    /// One that exists, by its file.
    Path(PathBuf),
}

/// The namespaces of a container; mounts are always its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespaces {
    /// Interfaces and ports: in general the sandbox's.
    pub network: Namespace,
    /// Processes.
    pub pid: Namespace,
    /// Shared memory, semaphores, queues.
    pub ipc: Namespace,
    /// Host name.
    pub uts: Namespace,
    /// cgroups; `None` is private on cgroup v2 and the host's on v1.
    pub cgroup: Option<Namespace>,
    /// Users: the host's, or one that is there.
    pub user: Option<UserNamespace>,
}

/// A user namespace that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserNamespace {
    /// Its file.
    pub path: PathBuf,
    /// Whom its ids are on the host.
    pub map: IdMap,
}

/// What a container's processes may ask of the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Seccomp {
    /// The built-in profile.
    #[default]
    Default,
    /// Everything.
    Unconfined,
    /// A profile in Docker's JSON format (the text, not a path).
    Profile(String),
}

/// A specification, ready to be written.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// The content of `config.json`.
    pub spec: oci::Spec,
    /// What was left out because this host cannot do it.
    pub warnings: Vec<String>,
}

impl Bundle {
    /// Writes `config.json` into the directory, which is made if missing.
    pub fn write(&self, directory: &Path) -> Result<(), RuntimeError> {
        let failed = |action, path: &Path| {
            let path = path.to_owned();
            move |source| RuntimeError::Io { action, path, source }
        };
        let file = directory.join("config.json");
        let text = serde_json::to_vec(&self.spec)
            .map_err(|error| failed("encode", &file)(std::io::Error::from(error)))?;
        std::fs::create_dir_all(directory).map_err(failed("make", directory))?;
        std::fs::write(&file, text).map_err(failed("write", &file))
    }
}

/// Reads the specification of a bundle back.
pub fn load(directory: &Path) -> Result<oci::Spec, RuntimeError> {
    let path = directory.join("config.json");
    let failed = |source| RuntimeError::Io { action: "read", path: path.clone(), source };
    let text = std::fs::read(&path).map_err(failed)?;
    serde_json::from_slice(&text).map_err(|error| failed(error.into()))
}

/// The specification of a container for this host and runtime.
///
/// # Errors
/// [`RuntimeError::Invalid`] if what the user asked for is malformed or cannot be had here.
pub fn build(
    input: &BundleInput,
    host: &Host,
    runtime: &dyn Runtime,
) -> Result<Bundle, RuntimeError> {
    let mut warnings = Vec::new();
    let capabilities = CapabilitySet::of_container(
        input.privileged,
        &input.cap_add,
        &input.cap_drop,
        host.capabilities,
    )?;
    let mut linux = linux(input, host, &mut warnings)?;
    let mut annotations: std::collections::HashMap<String, String> =
        input.annotations.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
    match (filter(input, host, capabilities)?, runtime.seccomp_form()) {
        (None, _) => {}
        (Some(filter), SeccompForm::Instructions) => {
            annotations.insert(seccomp::ANNOTATION.to_owned(), filter.base64().to_owned());
        }
        (Some(filter), SeccompForm::Profile) => {
            linux.set_seccomp(Some(filter.profile().to_oci()?));
        }
    }
    let mut root = oci::Root::default();
    root.set_path(input.rootfs.clone()).set_readonly(Some(input.readonly_rootfs));
    let mut spec = oci::Spec::default();
    spec.set_version("1.0.2".to_owned())
        .set_root(Some(root))
        .set_mounts(Some(mounts::of(input, host, runtime)?))
        .set_process(Some(process::init(input, host, capabilities, &mut warnings)?))
        .set_hostname(match input.namespaces.uts {
            Namespace::Private if !input.hostname.is_empty() => Some(input.hostname.clone()),
            _ => None,
        })
        .set_annotations(Some(annotations))
        .set_linux(Some(linux));
    Ok(Bundle { spec, warnings })
}

/// The sysctls of a container's own network namespace: Docker's two defaults and the user's
/// `net.*`. The engine sets them where it makes the namespace: a runtime refuses to set them in a
/// namespace that it did not make.
pub fn network_sysctls(user: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let defaults = [
        ("net.ipv4.ip_unprivileged_port_start", "0"),
        ("net.ipv4.ping_group_range", "0 2147483647"),
    ];
    let mut all: BTreeMap<String, String> =
        defaults.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let of_network = user.iter().filter(|(name, _)| name.starts_with("net."));
    all.extend(of_network.map(|(name, value)| (name.clone(), value.clone())));
    all
}

fn linux(
    input: &BundleInput,
    host: &Host,
    warnings: &mut Vec<String>,
) -> Result<oci::Linux, RuntimeError> {
    let (nodes, rules) = devices::of(input)?;
    let confined = !input.privileged && !input.unconfined_paths;
    let (masked, readonly) = (input.masked_paths.clone(), input.readonly_paths.clone());
    let mut linux = oci::Linux::default();
    linux
        .set_sysctl(Some(sysctls(input)?))
        .set_resources(Some(resources::of(input, rules, host, warnings)?))
        .set_cgroups_path(Some(PathBuf::from(&input.cgroups_path)))
        .set_namespaces(Some(namespaces(&input.namespaces, host)))
        .set_devices(Some(nodes))
        .set_masked_paths(confined.then(|| masked.unwrap_or_else(|| masked_paths(host))))
        .set_readonly_paths(confined.then(|| readonly.unwrap_or_else(readonly_paths)))
        .set_rootfs_propagation(mounts::rootfs_propagation(&input.mounts).map(str::to_owned));
    if let Some(UserNamespace { map, .. }) = &input.namespaces.user {
        linux.set_uid_mappings(Some(mappings(map.uids())?));
        linux.set_gid_mappings(Some(mappings(map.gids())?));
    }
    Ok(linux)
}

fn filter(
    input: &BundleInput,
    host: &Host,
    capabilities: CapabilitySet,
) -> Result<Option<std::sync::Arc<Filter>>, RuntimeError> {
    match &input.seccomp {
        Seccomp::Unconfined => Ok(None),
        Seccomp::Default if input.privileged => Ok(None),
        Seccomp::Default => host.filters.default_profile(capabilities).map(Some),
        Seccomp::Profile(json) => host.filters.user_profile(json, capabilities).map(Some),
    }
}

fn namespaces(wanted: &Namespaces, host: &Host) -> Vec<oci::LinuxNamespace> {
    use oci::LinuxNamespaceType as Type;
    let cgroup = match &wanted.cgroup {
        _ if !host.cgroup_namespaces => Namespace::Host,
        Some(namespace) => namespace.clone(),
        None if host.cgroups.version() == 2 => Namespace::Private,
        None => Namespace::Host,
    };
    let user = wanted.user.as_ref();
    let user = user.map_or(Namespace::Host, |user| Namespace::Path(user.path.clone()));
    [
        (Type::User, &user),
        (Type::Mount, &Namespace::Private),
        (Type::Network, &wanted.network),
        (Type::Pid, &wanted.pid),
        (Type::Ipc, &wanted.ipc),
        (Type::Uts, &wanted.uts),
        (Type::Cgroup, &cgroup),
    ]
    .into_iter()
    .filter_map(|(kind, wanted)| {
        let path = match wanted {
            Namespace::Host => return None,
            Namespace::Private => None,
            Namespace::Path(path) => Some(path.clone()),
        };
        let mut namespace = oci::LinuxNamespace::default();
        namespace.set_typ(kind).set_path(path);
        Some(namespace)
    })
    .collect()
}

/// Ranges of ids. The kernel knows them already: it is for the runtime, which opens what the container's
/// root cannot.
fn mappings(ranges: &[IdRange]) -> Result<Vec<oci::LinuxIdMapping>, RuntimeError> {
    let mapping = |range: &IdRange| {
        let builder = oci::LinuxIdMappingBuilder::default().container_id(range.inside);
        let mapping = builder.host_id(range.outside).size(range.count).build();
        mapping.map_err(|error| RuntimeError::Invalid(error.to_string()))
    };
    ranges.iter().map(mapping).collect()
}

/// The sysctls the runtime has to set; which ones a container may have depends on which namespaces
/// are its own.
fn sysctls(input: &BundleInput) -> Result<std::collections::HashMap<String, String>, RuntimeError> {
    let mut sysctls = std::collections::HashMap::new();
    if input.namespaces.network == Namespace::Private {
        sysctls.extend(network_sysctls(&input.sysctls));
    }
    for (name, value) in &input.sysctls {
        let shared = |namespace: &str| {
            RuntimeError::Invalid(format!(
                "sysctl {name:?} is not allowed in the host's {namespace} namespace"
            ))
        };
        match name.as_str() {
            name if name.starts_with("net.") => match input.namespaces.network {
                Namespace::Host => return Err(shared("network")),
                // Set already, by us or by whoever made the namespace.
                Namespace::Private | Namespace::Path(_) => continue,
            },
            "kernel.msgmax"
            | "kernel.msgmnb"
            | "kernel.msgmni"
            | "kernel.sem"
            | "kernel.shmall"
            | "kernel.shmmax"
            | "kernel.shmmni"
            | "kernel.shm_rmid_forced" => {
                if input.namespaces.ipc == Namespace::Host {
                    return Err(shared("IPC"));
                }
            }
            name if name.starts_with("fs.mqueue.") => {
                if input.namespaces.ipc == Namespace::Host {
                    return Err(shared("IPC"));
                }
            }
            "kernel.domainname" => {
                if input.namespaces.uts == Namespace::Host {
                    return Err(shared("UTS"));
                }
            }
            _ => {
                return Err(RuntimeError::Invalid(format!(
                    "sysctl {name:?} is not separate for each container and cannot be set for one"
                )));
            }
        }
        sysctls.insert(name.clone(), value.clone());
    }
    if !input.domainname.is_empty() && input.namespaces.uts == Namespace::Private {
        sysctls.entry("kernel.domainname".to_owned()).or_insert_with(|| input.domainname.clone());
    }
    Ok(sysctls)
}
