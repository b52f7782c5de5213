//! What a cgroup has used of processors, memory, processes and block devices, in either version.
//!
//! A file that is not there counts as nothing: hosts differ in what they count.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::Cgroups;

/// What a cgroup has used so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processors.
    pub cpu: CpuUsage,
    /// Memory.
    pub memory: MemoryUsage,
    /// Processes.
    pub pids: PidUsage,
    /// Block devices.
    pub block: BlockUsage,
}

/// Time on processors, in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuUsage {
    /// All of it.
    pub total: u64,
    /// By processor, where that is counted.
    pub by_processor: Vec<u64>,
    /// In the kernel.
    pub kernel: u64,
    /// Outside of it.
    pub user: u64,
    /// Periods of a quota.
    pub periods: u64,
    /// Periods in which the quota was used up.
    pub throttled_periods: u64,
    /// Time without a processor because of that.
    pub throttled: u64,
}

/// Memory, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryUsage {
    /// What is used.
    pub usage: u64,
    /// The most that was used at once, where that is counted.
    pub most: u64,
    /// What may be used; the largest number for no limit.
    pub limit: u64,
    /// How often the limit was met.
    pub failures: u64,
    /// The kernel's own figures, by its names.
    pub figures: BTreeMap<String, u64>,
}

/// Processes and threads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PidUsage {
    /// How many there are.
    pub current: u64,
    /// How many there may be; zero where there is no limit in version 1, the largest number in
    /// version 2, as Docker tells it.
    pub limit: u64,
}

/// What went to and from block devices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockUsage {
    /// Bytes.
    pub bytes: Vec<BlockEntry>,
    /// Operations; `None` where Docker does not tell of them.
    pub operations: Option<Vec<BlockEntry>>,
}

/// One figure of one device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockEntry {
    /// Its numbers.
    pub device: (u64, u64),
    /// What was done.
    pub operation: String,
    /// How much.
    pub value: u64,
}

/// The kernel counts processor time of version 1 in such parts of a second.
const TICK: u64 = 1_000_000_000 / 100;

/// The figures of version 1 that are told.
const FIGURES_V1: [&str; 15] = [
    "active_anon",
    "active_file",
    "cache",
    "dirty",
    "inactive_anon",
    "inactive_file",
    "mapped_file",
    "pgfault",
    "pgmajfault",
    "pgpgin",
    "pgpgout",
    "rss",
    "rss_huge",
    "unevictable",
    "writeback",
];

/// Those of version 2.
const FIGURES_V2: [&str; 31] = [
    "active_anon",
    "active_file",
    "anon",
    "anon_thp",
    "file",
    "file_dirty",
    "file_mapped",
    "file_writeback",
    "inactive_anon",
    "inactive_file",
    "kernel_stack",
    "pgactivate",
    "pgdeactivate",
    "pgfault",
    "pglazyfree",
    "pglazyfreed",
    "pgmajfault",
    "pgrefill",
    "pgscan",
    "pgsteal",
    "shmem",
    "slab",
    "slab_reclaimable",
    "slab_unreclaimable",
    "sock",
    "thp_collapse_alloc",
    "thp_fault_alloc",
    "unevictable",
    "workingset_activate",
    "workingset_nodereclaim",
    "workingset_refault",
];

impl Cgroups {
    /// What the cgroup at `path` (as in the specification) has used. Blocks, and not for long.
    pub fn usage(&self, path: &str) -> Usage {
        let relative = path.trim_matches('/');
        let place = |mount: &Option<PathBuf>| mount.as_ref().map(|mount| mount.join(relative));
        match self {
            Self::V1 { memory, block, cpu, accounting, processes } => Usage {
                cpu: cpu_v1(place(accounting).as_deref(), place(cpu).as_deref()),
                memory: place(memory).as_deref().map(memory_v1).unwrap_or_default(),
                pids: place(processes).as_deref().map(|place| pids(place, 0)).unwrap_or_default(),
                block: place(block).as_deref().map(block_v1).unwrap_or_default(),
            },
            Self::V2 { root } => {
                let place = root.join(relative);
                Usage {
                    cpu: cpu_v2(&place),
                    memory: memory_v2(&place),
                    pids: pids(&place, u64::MAX),
                    block: block_v2(&text(&place, "io.stat")),
                }
            }
        }
    }
}

fn text(place: &Path, file: &str) -> String {
    fs::read_to_string(place.join(file)).unwrap_or_default()
}

fn number(place: &Path, file: &str) -> u64 {
    text(place, file).trim().parse().unwrap_or_default()
}

/// The lines `name number`.
fn figures(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.lines().filter_map(|line| {
        let (name, value) = line.split_once(' ')?;
        Some((name, value.trim().parse().ok()?))
    })
}

fn figure(text: &str, name: &str) -> u64 {
    figures(text).find(|(known, _)| *known == name).map_or(0, |(_, value)| value)
}

fn cpu_v1(accounting: Option<&Path>, cpu: Option<&Path>) -> CpuUsage {
    let throttling = cpu.map(|place| text(place, "cpu.stat")).unwrap_or_default();
    let mut usage = CpuUsage {
        periods: figure(&throttling, "nr_periods"),
        throttled_periods: figure(&throttling, "nr_throttled"),
        throttled: figure(&throttling, "throttled_time"),
        ..CpuUsage::default()
    };
    let Some(place) = accounting else { return usage };
    let ticks = text(place, "cpuacct.stat");
    let each = text(place, "cpuacct.usage_percpu");
    usage.total = number(place, "cpuacct.usage");
    usage.by_processor = each.split_whitespace().filter_map(|text| text.parse().ok()).collect();
    usage.kernel = figure(&ticks, "system").saturating_mul(TICK);
    usage.user = figure(&ticks, "user").saturating_mul(TICK);
    usage
}

fn cpu_v2(place: &Path) -> CpuUsage {
    let text = text(place, "cpu.stat");
    let micros = |name| figure(&text, name).saturating_mul(1_000);
    CpuUsage {
        total: micros("usage_usec"),
        by_processor: Vec::new(),
        kernel: micros("system_usec"),
        user: micros("user_usec"),
        periods: figure(&text, "nr_periods"),
        throttled_periods: figure(&text, "nr_throttled"),
        throttled: micros("throttled_usec"),
    }
}

fn memory_v1(place: &Path) -> MemoryUsage {
    let text = text(place, "memory.stat");
    let wanted = |name: &str| {
        FIGURES_V1.contains(&name.strip_prefix("total_").unwrap_or(name))
            || name.starts_with("hierarchical_")
    };
    MemoryUsage {
        usage: number(place, "memory.usage_in_bytes"),
        most: number(place, "memory.max_usage_in_bytes"),
        limit: number(place, "memory.limit_in_bytes"),
        failures: number(place, "memory.failcnt"),
        figures: figures(&text)
            .filter(|(name, _)| wanted(name))
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
    }
}

fn memory_v2(place: &Path) -> MemoryUsage {
    let limit = text(place, "memory.max");
    let told = text(place, "memory.stat");
    MemoryUsage {
        usage: number(place, "memory.current"),
        most: 0,
        limit: limit.trim().parse().unwrap_or(u64::MAX),
        failures: figure(&text(place, "memory.events"), "oom"),
        // What this kernel does not count is told, too.
        figures: FIGURES_V2.map(|name| (name.to_owned(), figure(&told, name))).into(),
    }
}

fn pids(place: &Path, none: u64) -> PidUsage {
    let limit = text(place, "pids.max");
    PidUsage { current: number(place, "pids.current"), limit: limit.trim().parse().unwrap_or(none) }
}

fn block_v1(place: &Path) -> BlockUsage {
    let entries = |kind: &str| {
        let all = fs::read_to_string(place.join(format!("blkio.throttle.{kind}_recursive")));
        all.map_or_else(
            |_| entries_v1(&text(place, &format!("blkio.throttle.{kind}"))),
            |text| entries_v1(&text),
        )
    };
    BlockUsage { bytes: entries("io_service_bytes"), operations: Some(entries("io_serviced")) }
}

/// The lines `8:0 Read 4096`; the sum over all devices has no numbers.
fn entries_v1(text: &str) -> Vec<BlockEntry> {
    let entry = |line: &str| {
        let mut words = line.split_whitespace();
        let (device, operation, value) = (words.next()?, words.next()?, words.next()?);
        Some(BlockEntry {
            device: numbers(device)?,
            operation: operation.to_owned(),
            value: value.parse().ok()?,
        })
    };
    text.lines().filter_map(entry).collect()
}

/// The lines `8:0 rbytes=4096 wbytes=0 rios=1 …`.
fn block_v2(text: &str) -> BlockUsage {
    let mut bytes = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let Some(device) = words.next().and_then(numbers) else { continue };
        let known: BTreeMap<_, _> = words.filter_map(|word| word.split_once('=')).collect();
        for (name, operation) in [("rbytes", "read"), ("wbytes", "write")] {
            let value = known.get(name).and_then(|text| text.parse().ok()).unwrap_or_default();
            bytes.push(BlockEntry { device, operation: operation.to_owned(), value });
        }
    }
    BlockUsage { bytes, operations: None }
}

fn numbers(device: &str) -> Option<(u64, u64)> {
    let (major, minor) = device.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(device: (u64, u64), operation: &str, value: u64) -> BlockEntry {
        BlockEntry { device, operation: operation.to_owned(), value }
    }

    #[test]
    fn the_figures_of_devices_are_read_in_either_version() {
        let v1 = entries_v1("8:0 Read 4096\n8:0 Total 4096\n259:1 Write 7\nTotal 4103\n");
        let expected = [
            entry((8, 0), "Read", 4096),
            entry((8, 0), "Total", 4096),
            entry((259, 1), "Write", 7),
        ];
        assert_eq!(v1, expected);
        let v2 = block_v2("8:0 rbytes=4096 wbytes=12 rios=1 wios=3 dbytes=0 dios=0\n7:0 \n");
        assert_eq!(v2.bytes[..2], [entry((8, 0), "read", 4096), entry((8, 0), "write", 12)]);
        assert_eq!(v2.operations, None);
    }

    #[test]
    fn a_cgroup_of_version_two_is_read_as_docker_tells_it() {
        let root = std::env::temp_dir().join(format!("rnet-usage-{}", std::process::id()));
        let place = root.join("rnet/c1");
        fs::create_dir_all(&place).unwrap();
        for (file, text) in [
            ("cpu.stat", "usage_usec 5\nuser_usec 3\nsystem_usec 2\nnr_periods 4\n"),
            ("memory.current", "4096\n"),
            ("memory.max", "max\n"),
            ("memory.stat", "anon 1\nfile 2\npercpu 3\n"),
            ("memory.events", "low 0\noom 9\noom_kill 1\n"),
            ("pids.current", "2\n"),
            ("pids.max", "max\n"),
        ] {
            fs::write(place.join(file), text).unwrap();
        }
        let usage = Cgroups::V2 { root: root.clone() }.usage("/rnet/c1");
        fs::remove_dir_all(root).unwrap();
        assert_eq!((usage.cpu.total, usage.cpu.user, usage.cpu.periods), (5_000, 3_000, 4));
        assert_eq!((usage.memory.usage, usage.memory.limit), (4096, u64::MAX));
        assert_eq!(usage.memory.failures, 9);
        let figure = |name: &str| usage.memory.figures.get(name).copied();
        let told = ["anon", "file", "pgscan", "percpu"].map(figure);
        assert_eq!(told, [Some(1), Some(2), Some(0), None]);
        assert_eq!((usage.pids.current, usage.pids.limit), (2, u64::MAX));
    }

    #[test]
    fn a_cgroup_that_is_gone_has_used_nothing() {
        let cgroups = Cgroups::V2 { root: PathBuf::from("/nowhere") };
        assert_eq!(cgroups.usage("/rnet/c1").cpu, CpuUsage::default());
    }
}
