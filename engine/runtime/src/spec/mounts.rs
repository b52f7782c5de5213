//! What is mounted in a container, and what of `/proc` and `/sys` is hidden from it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use oci_spec::runtime as oci;

use super::super::{Host, Runtime, RuntimeError};
use super::{BundleInput, INIT, Namespace, Propagation};

/// A mount of the user's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mount {
    /// What is mounted.
    pub kind: MountKind,
    /// The path on the host, the volume's name, or the image.
    pub source: String,
    /// The path inside.
    pub target: String,
    /// `ro`.
    pub readonly: bool,
    /// How mounts below a bind spread.
    pub propagation: Propagation,
    /// Whether a missing bind source is made (`-v`) or an error (`--mount`).
    pub create_source: bool,
    /// Whether an empty volume stays empty instead of getting what the image has at its place.
    pub no_copy: bool,
    /// Options of a tmpfs.
    pub options: Vec<String>,
    /// What becomes of mounts below the source of a bind.
    pub recursion: Recursion,
    /// What of a volume or an image is mounted, as a path in it; all of it if empty.
    pub subpath: String,
    /// The driver of a volume that is made for it.
    pub driver: String,
    /// What that driver is told.
    pub driver_options: BTreeMap<String, String>,
    /// The labels of that volume.
    pub labels: BTreeMap<String, String>,
}

/// What is mounted in a container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MountKind {
    /// A file or a directory of the host.
    #[default]
    Bind,
    /// A volume.
    Volume,
    /// An empty file system in memory.
    Tmpfs,
    /// The content of an image, for reading only.
    Image,
}

impl MountKind {
    /// The kind that Docker calls so.
    pub fn named(word: &str) -> Option<Self> {
        let all = [Self::Bind, Self::Volume, Self::Tmpfs, Self::Image];
        all.into_iter().find(|kind| kind.as_str() == word)
    }

    /// Docker's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bind => "bind",
            Self::Volume => "volume",
            Self::Tmpfs => "tmpfs",
            Self::Image => "image",
        }
    }
}

impl fmt::Display for MountKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What becomes of the mounts below the source of a bind: `bind-recursive`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Recursion {
    /// They come along, and are read-only where the bind is, if the kernel is able to.
    #[default]
    Enabled,
    /// They stay away.
    Disabled,
    /// They come along, and can be written although the bind cannot.
    Writable,
    /// They come along and are read-only, or there is no container.
    Readonly,
}

/// Docker's size of `/dev/shm`.
const SHM_SIZE: i64 = 64 << 20;

/// Files of `/proc` that tell about the machine, which some would have told otherwise; as runc has it.
const FILES_OF_PROC: [&str; 10] = [
    "cpuinfo",
    "diskstats",
    "loadavg",
    "meminfo",
    "slabinfo",
    "stat",
    "swaps",
    "sys/crypto/fips_enabled",
    "sys/kernel/ns_last_pid",
    "uptime",
];

/// All mounts, in an order in which no later one hides an earlier one.
pub(super) fn of(
    input: &BundleInput,
    host: &Host,
    runtime: &dyn Runtime,
) -> Result<Vec<oci::Mount>, RuntimeError> {
    let taken = |destination: &str| {
        input.mounts.iter().any(|mount| clean(&mount.target) == Path::new(destination))
    };
    let mut mounts: Vec<oci::Mount> = defaults(input, host)
        .into_iter()
        .filter(|mount| !taken(&mount.destination().to_string_lossy()))
        .collect();
    let mut own = Vec::with_capacity(input.mounts.len() + 1);
    for mount in &input.mounts {
        own.push(of_user(mount, host, runtime)?);
    }
    if let Some(program) = &input.init {
        own.push(fixed(INIT, "bind", program, &["bind", "ro", "rprivate"]));
    }
    own.sort_by_key(|mount| mount.destination().components().count());
    mounts.extend(own);
    Ok(mounts)
}

fn fixed(target: &str, kind: &str, source: &Path, options: &[&str]) -> oci::Mount {
    mount(target, kind, source, options.iter().map(ToString::to_string).collect())
}

fn mount(
    target: impl Into<PathBuf>,
    kind: &str,
    source: &Path,
    options: Vec<String>,
) -> oci::Mount {
    let mut mount = oci::Mount::default();
    mount
        .set_destination(target.into())
        .set_typ(Some(kind.to_owned()))
        .set_source(Some(source.to_owned()))
        .set_options(Some(options));
    mount
}

fn defaults(input: &BundleInput, host: &Host) -> Vec<oci::Mount> {
    let access = if input.privileged { "rw" } else { "ro" };
    let make = |target: &str, kind: &str, source: &str, options: &[&str]| {
        mount(target, kind, Path::new(source), options.iter().map(ToString::to_string).collect())
    };
    let hardened = ["nosuid", "noexec", "nodev"];
    let shm = format!("size={}", input.shm_size.filter(|size| *size > 0).unwrap_or(SHM_SIZE));
    let mut mounts = vec![
        make("/proc", "proc", "proc", &hardened),
        make("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        make(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        make("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", access]),
    ];
    if host.cgroups.is_mounted() {
        let access = if input.writable_cgroups.unwrap_or(input.privileged) { "rw" } else { "ro" };
        let options = ["nosuid", "noexec", "nodev", "relatime", access];
        mounts.push(make("/sys/fs/cgroup", "cgroup", "cgroup", &options));
    }
    let bind = ["rbind", "nosuid", "noexec", "nodev"];
    if input.no_shared_memory {
        return mounts;
    }
    if input.namespaces.ipc == Namespace::Host {
        mounts.push(make("/dev/mqueue", "bind", "/dev/mqueue", &bind));
        mounts.push(make("/dev/shm", "bind", "/dev/shm", &bind));
        mounts.retain(|mount| {
            mount.typ().as_deref() != Some("bind")
                || mount.source().as_ref().is_some_and(|source| source.exists())
        });
    } else {
        mounts.push(make("/dev/mqueue", "mqueue", "mqueue", &hardened));
        mounts.push(match &input.shm_source {
            Some(source) => make("/dev/shm", "bind", &source.to_string_lossy(), &bind),
            None => {
                make("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", &shm])
            }
        });
    }
    mounts
}

fn of_user(wanted: &Mount, host: &Host, runtime: &dyn Runtime) -> Result<oci::Mount, RuntimeError> {
    let refuse =
        |why: &str| Err(RuntimeError::Invalid(format!("invalid mount {:?}: {why}", wanted.target)));
    let target = clean(&wanted.target);
    if !target.is_absolute() {
        return refuse("mount path must be absolute");
    }
    if target == Path::new("/") {
        return refuse("destination can't be '/'");
    }
    if let Ok(file) = target.strip_prefix("/proc")
        && !may_cover(file, wanted)
    {
        return refuse("it cannot be mounted because it is inside /proc");
    }
    if wanted.kind == MountKind::Tmpfs {
        let mut options: Vec<String> = ["noexec", "nosuid", "nodev"].map(String::from).into();
        for option in &wanted.options {
            let opposite = ["noexec", "nosuid", "nodev"]
                .into_iter()
                .find(|negative| negative.strip_prefix("no") == Some(option));
            options.retain(|known| Some(known.as_str()) != opposite && known != option);
            options.push(option.clone());
        }
        if wanted.readonly {
            options.push("ro".to_owned());
        }
        return Ok(mount(target, "tmpfs", Path::new("tmpfs"), options));
    }
    if !Path::new(&wanted.source).is_absolute() {
        return refuse("the source of a bind must be an absolute path");
    }
    let propagation = match wanted.propagation {
        Propagation::Unset => Propagation::RecursivePrivate,
        own => own,
    };
    let (bind, propagation) = match wanted.recursion {
        // crun takes a recursive propagation for a recursive bind.
        Recursion::Disabled => ("bind", propagation.alone()),
        _ => ("rbind", propagation),
    };
    let access = match access(wanted, host, runtime) {
        Ok(access) => access,
        Err(why) => return refuse(&why),
    };
    let options = [bind, access, propagation.as_str()].map(String::from).into();
    Ok(mount(target, "bind", Path::new(&wanted.source), options))
}

/// Whether a bind can be written: it and what is below it.
fn access(wanted: &Mount, host: &Host, runtime: &dyn Runtime) -> Result<&'static str, String> {
    let is_able =
        || host.recursive_readonly && host.abilities.recursive_readonly(runtime.program());
    match wanted.recursion {
        _ if !wanted.readonly => Ok("rw"),
        Recursion::Enabled | Recursion::Readonly if is_able() => Ok("rro"),
        Recursion::Enabled | Recursion::Disabled | Recursion::Writable => Ok("ro"),
        Recursion::Readonly if host.recursive_readonly => Err(format!(
            "the runtime {} makes no mounts read-only recursively (runc 1.1 and crun 1.8 do)",
            runtime.name()
        )),
        Recursion::Readonly => {
            Err("this kernel makes no mounts read-only recursively (Linux 5.12 does)".to_owned())
        }
    }
}

/// Whether a mount may be over a file of `/proc`, or over all of it: a process's confinement is written
/// there, and read from there by whoever trusts it.
fn may_cover(file: &Path, wanted: &Mount) -> bool {
    let is_bind = wanted.kind == MountKind::Bind;
    is_bind && (FILES_OF_PROC.iter().any(|known| file == Path::new(known)))
        || is_bind && file.as_os_str().is_empty() && Path::new(&wanted.source) == Path::new("/proc")
}

/// Without `.`, `..`, doubled and trailing slashes.
fn clean(path: &str) -> PathBuf {
    let mut clean = PathBuf::new();
    for component in Path::new(path).components() {
        match component {
            std::path::Component::ParentDir => {
                clean.pop();
            }
            std::path::Component::CurDir => {}
            other => clean.push(other),
        }
    }
    clean
}

/// A bind that is to be shared needs a root whose propagation allows it.
pub(super) fn rootfs_propagation(mounts: &[Mount]) -> Option<&'static str> {
    if mounts.iter().any(|mount| mount.propagation.is_shared()) {
        Some("shared")
    } else if mounts.iter().any(|mount| mount.propagation.is_slave()) {
        Some("rslave")
    } else {
        None
    }
}

/// What nobody in a container needs to see: it tells about the host, or is a way to harm it.
pub fn masked_paths(host: &Host) -> Vec<String> {
    // In Docker's order, which is told.
    let fixed = [
        "/proc/asound",
        "/proc/acpi",
        "/proc/interrupts",
        "/proc/kcore",
        "/proc/keys",
        "/proc/latency_stats",
        "/proc/timer_list",
        "/proc/timer_stats",
        "/proc/sched_debug",
        "/proc/scsi",
        "/sys/firmware",
        "/sys/devices/virtual/powercap",
    ];
    fixed.map(str::to_owned).into_iter().chain(host.thermal_throttle.iter().cloned()).collect()
}

/// What may be seen and not changed.
pub fn readonly_paths() -> Vec<String> {
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
        .map(str::to_owned)
        .into()
}
