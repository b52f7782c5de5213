//! What this host and this daemon are allowed to give to a container.

use std::path::{Path, PathBuf};

use nix::sys::resource::{Resource, getrlimit};
use oci_spec::runtime::PosixRlimitType;

use super::abilities::Abilities;
use super::apparmor::AppArmor;
use super::capabilities::CapabilitySet;
use super::seccomp::Filters;

/// Facts about the host that a specification depends on. Read once, at the daemon's start.
#[derive(Clone, Debug)]
pub struct Host {
    /// The capabilities the daemon may pass on: its own bounding set.
    pub capabilities: CapabilitySet,
    /// The cgroup hierarchies.
    pub cgroups: Cgroups,
    /// Whether the kernel has cgroup namespaces.
    pub cgroup_namespaces: bool,
    /// Whether the kernel makes mounts read-only with all that is mounted below them.
    pub recursive_readonly: bool,
    /// The daemon's own score; lower ones need a capability.
    pub oom_score_adj: i32,
    /// What the kernel has of AppArmor.
    pub apparmor: AppArmor,
    /// The directories of `/sys` that tell about the processors' temperature.
    pub thermal_throttle: Vec<String>,
    /// What is known of the runtimes' programs.
    pub abilities: Abilities,
    /// The seccomp filters compiled so far.
    pub filters: Filters,
}

/// The kind of cgroup hierarchy the host has mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cgroups {
    /// One hierarchy per controller.
    V1 {
        /// The mount of the memory controller, if there is one.
        memory: Option<PathBuf>,
        /// That of block devices.
        block: Option<PathBuf>,
        /// That of processors.
        cpu: Option<PathBuf>,
        /// That which counts the use of processors.
        accounting: Option<PathBuf>,
        /// That of processes.
        processes: Option<PathBuf>,
    },
    /// The unified hierarchy.
    V2 {
        /// Its mount.
        root: PathBuf,
    },
}

/// A limit that not every host has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Shares of all block devices.
    BlockWeight,
    /// Shares of one block device.
    BlockWeightOfDevice,
    /// Bytes or operations per second of one block device.
    BlockRate,
    /// How soon memory is swapped out.
    Swappiness,
    /// That nothing is killed when memory is out.
    OomKiller,
}

/// The part of a processor that real-time processes may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(u64);

impl Share {
    /// A runtime in a period, both in microseconds, with the kernel's precision.
    pub fn of(runtime: i64, period: u64) -> Self {
        let runtime = u64::try_from(runtime).unwrap_or_default();
        Self(runtime.saturating_mul(1 << 20) / period.max(1))
    }
}

impl Host {
    /// Reads the facts from `/proc` and `/sys`.
    pub fn probe() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let bounding = status
            .lines()
            .find_map(|line| line.strip_prefix("CapBnd:"))
            .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        let score = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
        Self {
            capabilities: CapabilitySet::from_bits(bounding.unwrap_or_default()),
            cgroups: Cgroups::probe(),
            cgroup_namespaces: Path::new("/proc/self/ns/cgroup").exists(),
            recursive_readonly: has_mount_setattr(),
            oom_score_adj: score.trim().parse().unwrap_or_default(),
            apparmor: AppArmor::probe(),
            thermal_throttle: thermal_throttle(),
            abilities: Abilities::default(),
            filters: Filters::default(),
        }
    }

    /// The highest limit of a kind that the daemon may give: its own.
    pub fn rlimit(&self, kind: PosixRlimitType) -> u64 {
        use PosixRlimitType as Type;
        let resource = match kind {
            Type::RlimitAs => Resource::RLIMIT_AS,
            Type::RlimitCore => Resource::RLIMIT_CORE,
            Type::RlimitCpu => Resource::RLIMIT_CPU,
            Type::RlimitData => Resource::RLIMIT_DATA,
            Type::RlimitFsize => Resource::RLIMIT_FSIZE,
            Type::RlimitLocks => Resource::RLIMIT_LOCKS,
            Type::RlimitMemlock => Resource::RLIMIT_MEMLOCK,
            Type::RlimitMsgqueue => Resource::RLIMIT_MSGQUEUE,
            Type::RlimitNice => Resource::RLIMIT_NICE,
            Type::RlimitNofile => Resource::RLIMIT_NOFILE,
            Type::RlimitNproc => Resource::RLIMIT_NPROC,
            Type::RlimitRss => Resource::RLIMIT_RSS,
            Type::RlimitRtprio => Resource::RLIMIT_RTPRIO,
            Type::RlimitRttime => Resource::RLIMIT_RTTIME,
            Type::RlimitSigpending => Resource::RLIMIT_SIGPENDING,
            Type::RlimitStack => Resource::RLIMIT_STACK,
        };
        getrlimit(resource).map_or(u64::MAX, |(_, hard)| hard)
    }
}

impl Cgroups {
    fn probe() -> Self {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        Self::of_mounts(&mounts, |mount| mount.join("cgroup.procs").exists())
    }

    /// From the text of `/proc/self/mounts`. A host with any v1 controller is v1, as runtimes see
    /// it, unless `/sys/fs/cgroup` itself is the unified hierarchy. What is mounted and not seen, for
    /// something else is mounted over it, does not count.
    fn of_mounts(mounts: &str, is_seen: impl Fn(&Path) -> bool) -> Self {
        let (mut memory, mut block, mut cpu) = (None, None, None);
        let (mut accounting, mut processes) = (None, None);
        for line in mounts.lines() {
            let mut fields = line.split(' ').skip(1);
            let (Some(target), Some(kind), Some(options)) =
                (fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            if kind.starts_with("cgroup") && !is_seen(Path::new(target)) {
                continue;
            }
            match kind {
                "cgroup2" if target == "/sys/fs/cgroup" => {
                    return Self::V2 { root: target.into() };
                }
                "cgroup" => {
                    let has = |name: &str| options.split(',').any(|option| option == name);
                    let known = [
                        ("memory", &mut memory),
                        ("blkio", &mut block),
                        ("cpu", &mut cpu),
                        ("cpuacct", &mut accounting),
                        ("pids", &mut processes),
                    ];
                    for (_, mount) in known.into_iter().filter(|(name, _)| has(name)) {
                        *mount = Some(PathBuf::from(target));
                    }
                }
                _ => {}
            }
        }
        Self::V1 { memory, block, cpu, accounting, processes }
    }

    /// 1 or 2, for `info`.
    pub fn version(&self) -> u8 {
        match self {
            Self::V1 { .. } => 1,
            Self::V2 { .. } => 2,
        }
    }

    /// Whether there is anything to mount at `/sys/fs/cgroup`.
    pub fn is_mounted(&self) -> bool {
        !matches!(self, Self::V1 { memory: None, .. })
    }

    /// What to tell a user of cgroups that are not there.
    pub fn warning(&self) -> Option<&'static str> {
        let text = "WARNING: there are no cgroups at /sys/fs/cgroup: no container can be started";
        (!self.is_mounted()).then_some(text)
    }

    /// Whether swap is counted, and so can be limited.
    pub fn has_swap_accounting(&self) -> bool {
        match self {
            Self::V1 { memory, .. } => memory
                .as_ref()
                .is_some_and(|mount| mount.join("memory.memsw.limit_in_bytes").exists()),
            Self::V2 { .. } => Path::new("/proc/swaps").exists(),
        }
    }

    /// Whether there is what a limit needs.
    pub fn has(&self, limit: Limit) -> bool {
        match self {
            Self::V1 { memory, block, .. } => {
                let (mount, file) = match limit {
                    Limit::BlockWeight => (block, "blkio.weight"),
                    Limit::BlockWeightOfDevice => (block, "blkio.weight_device"),
                    Limit::BlockRate => (block, "blkio.throttle.read_bps_device"),
                    Limit::Swappiness => (memory, "memory.swappiness"),
                    Limit::OomKiller => (memory, "memory.oom_control"),
                };
                mount.as_ref().is_some_and(|mount| mount.join(file).exists())
            }
            Self::V2 { root } => match limit {
                // The files themselves are in the cgroups below only, and there only once the
                // controller is enabled.
                Limit::BlockWeight => {
                    root.join("io.cost.qos").exists() || exists_below(root, "io.bfq.weight")
                }
                Limit::BlockWeightOfDevice => exists_below(root, "io.bfq.weight"),
                Limit::BlockRate => {
                    let text = std::fs::read_to_string(root.join("cgroup.controllers"));
                    text.is_ok_and(|text| text.split_whitespace().any(|name| name == "io"))
                }
                Limit::Swappiness | Limit::OomKiller => false,
            },
        }
    }

    /// The processors (`cpus`) or memory nodes (`mems`) that there are for cgroups.
    pub fn available(&self, what: &str) -> Option<String> {
        let (directory, file) = match self {
            Self::V1 { .. } => (Path::new("/sys/fs/cgroup/cpuset"), format!("cpuset.{what}")),
            Self::V2 { root } => (root.as_path(), format!("cpuset.{what}.effective")),
        };
        let text = std::fs::read_to_string(directory.join(file)).ok()?;
        Some(text.trim().to_owned())
    }

    /// Takes the limit of processes away from a running cgroup: runtimes differ in how they are told.
    pub fn lift_process_limit(&self, path: &str) {
        match self {
            Self::V1 { processes, .. } => lift(processes.as_deref(), path, "pids.max", "max"),
            Self::V2 { root } => lift(Some(root), path, "pids.max", "max"),
        }
    }

    /// Takes the limit of processor time away, too: some releases of crun write a number for it that
    /// is none.
    pub fn lift_processor_limit(&self, path: &str) {
        match self {
            Self::V1 { cpu, .. } => lift(cpu.as_deref(), path, "cpu.cfs_quota_us", "-1"),
            Self::V2 { root } => lift(Some(root), path, "cpu.max", "max"),
        }
    }

    /// What the cgroup above this one has left for real-time processes; `None` if no cgroup can
    /// have any.
    pub fn realtime_left(&self, path: &str) -> Option<Share> {
        let Self::V1 { cpu: Some(mount), .. } = self else { return None };
        share_of(mount)?;
        let own = mount.join(path.trim_matches('/'));
        let above = own.parent()?;
        let Some(Share(all)) = share_of(above) else { return Some(Share(0)) };
        let others = std::fs::read_dir(above).into_iter().flatten().flatten();
        let others = others.map(|entry| entry.path()).filter(|path| *path != own);
        let taken: u64 = others.filter_map(|path| share_of(&path)).map(|Share(share)| share).sum();
        Some(Share(all.saturating_sub(taken)))
    }

    /// The file with the `oom_kill` counter of the cgroup at `path` (as in the specification).
    pub fn oom_events(&self, path: &str) -> Option<PathBuf> {
        let relative = path.trim_start_matches('/');
        match self {
            Self::V1 { memory, .. } => {
                memory.as_ref().map(|mount| mount.join(relative).join("memory.oom_control"))
            }
            Self::V2 { root } => Some(root.join(relative).join("memory.events")),
        }
    }
}

/// The host's memory in bytes.
pub fn memory() -> u64 {
    kibibytes("/proc/meminfo", "MemTotal:")
}

/// A line of a file of `/proc`, in bytes.
pub fn kibibytes(file: &str, name: &str) -> u64 {
    kibibytes_of(&std::fs::read_to_string(file).unwrap_or_default(), name)
}

fn kibibytes_of(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    number.unwrap_or_default() * 1024
}

/// Whether the kernel has `mount_setattr`: since 5.12.
fn has_mount_setattr() -> bool {
    let release = nix::sys::utsname::uname().ok();
    let release = release.and_then(|names| names.release().to_str().map(str::to_owned));
    let mut numbers = release.as_deref().unwrap_or_default().split(['.', '-']);
    let mut number =
        || numbers.next().and_then(|text| text.parse::<u32>().ok()).unwrap_or_default();
    (number(), number()) >= (5, 12)
}

/// Takes a limit away, if the cgroups of its kind are mounted.
fn lift(mount: Option<&Path>, cgroup: &str, file: &str, unlimited: &str) {
    let Some(mount) = mount else { return };
    let path = mount.join(cgroup.trim_matches('/')).join(file);
    if let Err(error) = std::fs::write(path, unlimited) {
        tracing::warn!(%error, cgroup, file, "cannot lift a limit");
    }
}

/// What a cgroup has for real-time processes.
fn share_of(cgroup: &Path) -> Option<Share> {
    let number = |file: &str| std::fs::read_to_string(cgroup.join(file)).ok();
    let runtime = number("cpu.rt_runtime_us")?.trim().parse().ok()?;
    Some(Share::of(runtime, number("cpu.rt_period_us")?.trim().parse().ok()?))
}

/// Whether any cgroup just below this one has a file.
fn exists_below(root: &Path, file: &str) -> bool {
    let entries = std::fs::read_dir(root).into_iter().flatten().flatten();
    entries.map(|entry| entry.path().join(file)).any(|path| path.exists())
}

fn thermal_throttle() -> Vec<String> {
    let Ok(processors) = std::fs::read_dir("/sys/devices/system/cpu") else { return Vec::new() };
    let mut paths: Vec<String> = processors
        .flatten()
        .filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"cpu"))
        .map(|entry| entry.path().join("thermal_throttle"))
        .filter(|path| path.is_dir())
        .map(|path| path.to_string_lossy().into_owned())
        .collect();
    paths.sort();
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_told_in_kibibytes() {
        let text = "MemTotal:       24731708 kB\nMemFree: 1 kB\n";
        assert_eq!(kibibytes_of(text, "MemTotal:"), 25_325_268_992);
        assert_eq!(kibibytes_of(text, "VmRSS:"), 0);
    }

    #[test]
    fn cgroups_that_something_is_mounted_over_are_not_there() {
        let mounts = "cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n\
                      cgroup /sys/fs/cgroup/cpu cgroup rw,cpu,cpuacct 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n\
                      sysfs /sys sysfs rw 0 0\n";
        let seen = Cgroups::of_mounts(mounts, |_| true);
        assert!(seen.is_mounted() && seen.version() == 1, "{seen:?}");
        assert_eq!(seen.warning(), None);
        let hidden = Cgroups::of_mounts(mounts, |_| false);
        assert!(!hidden.is_mounted() && hidden.warning().is_some(), "{hidden:?}");
        let unified = Cgroups::of_mounts("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n", |_| true);
        assert_eq!(unified.version(), 2);
    }
}
