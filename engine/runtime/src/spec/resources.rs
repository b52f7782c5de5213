//! Limits of memory, processors, processes and block devices.

use std::path::Path;

use oci_spec::runtime as oci;

use super::super::host::{Limit, Share};
use super::super::{Host, RuntimeError};
use super::{BundleInput, block};

/// Limits of resources; zero or `None` is no limit. Block devices are named by their paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// `-m` in bytes.
    pub memory: i64,
    /// `--memory-swap` in bytes; -1 is unlimited.
    pub memory_swap: i64,
    /// `--memory-reservation` in bytes.
    pub memory_reservation: i64,
    /// `--memory-swappiness`.
    pub memory_swappiness: Option<i64>,
    /// `--oom-kill-disable`.
    pub oom_kill_disable: bool,
    /// `--cpus` in billionths of a processor.
    pub nano_cpus: i64,
    /// `--cpu-shares`.
    pub cpu_shares: i64,
    /// `--cpu-period` in microseconds.
    pub cpu_period: i64,
    /// `--cpu-quota` in microseconds.
    pub cpu_quota: i64,
    /// `--cpu-rt-period` in microseconds.
    pub cpu_realtime_period: i64,
    /// `--cpu-rt-runtime` in microseconds.
    pub cpu_realtime_runtime: i64,
    /// `--cpuset-cpus`.
    pub cpuset_cpus: String,
    /// `--cpuset-mems`.
    pub cpuset_mems: String,
    /// `--pids-limit`.
    pub pids_limit: Option<i64>,
    /// `--blkio-weight`, from 10 to 1000.
    pub block_weight: u16,
    /// `--blkio-weight-device`.
    pub block_weights: Vec<(String, u16)>,
    /// `--device-read-bps`.
    pub block_read_bytes: Vec<(String, u64)>,
    /// `--device-write-bps`.
    pub block_write_bytes: Vec<(String, u64)>,
    /// `--device-read-iops`.
    pub block_reads: Vec<(String, u64)>,
    /// `--device-write-iops`.
    pub block_writes: Vec<(String, u64)>,
}

/// Docker's period for `--cpus`, in microseconds.
const PERIOD: i64 = 100_000;
/// The kernel's period of real-time processes, in microseconds.
const REALTIME_PERIOD: u64 = 1_000_000;
/// The least memory a container can be made with.
const LEAST_MEMORY: i64 = 6 << 20;

/// The resources object: limits, and which devices may be used.
pub(super) fn of(
    input: &BundleInput,
    devices: Vec<oci::LinuxDeviceCgroup>,
    host: &Host,
    warnings: &mut Vec<String>,
) -> Result<oci::LinuxResources, RuntimeError> {
    let mut resources = limits(&input.resources, &input.cgroups_path, host, warnings)?;
    resources.set_devices(Some(devices));
    Ok(resources)
}

/// The limits alone, as `update` takes them, of what is in a cgroup. What the host's cgroups lack
/// is left out with a warning.
pub fn limits(
    wanted: &Resources,
    cgroup: &str,
    host: &Host,
    warnings: &mut Vec<String>,
) -> Result<oci::LinuxResources, RuntimeError> {
    let mut resources = oci::LinuxResources::default();
    resources
        .set_devices(None)
        .set_memory(memory(wanted, host, warnings)?)
        .set_cpu(cpu(wanted, cgroup, host, warnings)?)
        .set_pids(pids(wanted))
        .set_block_io(block::of(wanted, host, warnings)?);
    Ok(resources)
}

fn memory(
    wanted: &Resources,
    host: &Host,
    warnings: &mut Vec<String>,
) -> Result<Option<oci::LinuxMemory>, RuntimeError> {
    let refuse = |text: &str| Err(RuntimeError::Invalid(text.to_owned()));
    if wanted.memory != 0 && wanted.memory < LEAST_MEMORY {
        return refuse("Minimum memory limit allowed is 6MB");
    }
    if wanted.memory_swap > 0 && wanted.memory == 0 {
        return refuse(
            "You should always set the Memory limit when using Memoryswap limit, see usage",
        );
    }
    if wanted.memory_swap > 0 && wanted.memory_swap < wanted.memory {
        return refuse("Minimum memoryswap limit should be larger than memory limit, see usage");
    }
    if wanted.memory_reservation > 0
        && wanted.memory > 0
        && wanted.memory < wanted.memory_reservation
    {
        return refuse(
            "Minimum memory limit can not be less than memory reservation limit, see usage",
        );
    }
    let mut memory = oci::LinuxMemory::default();
    reclaim(&mut memory, wanted, host, warnings);
    if wanted.memory > 0 {
        memory.set_limit(Some(wanted.memory));
        let swap = match wanted.memory_swap {
            0 => wanted.memory.saturating_mul(2),
            given => given,
        };
        if host.cgroups.has_swap_accounting() {
            memory.set_swap(Some(swap));
        } else if wanted.memory_swap != 0 {
            warnings.push(
                "Your kernel does not support swap limit capabilities or the cgroup is not mounted. \
                 Memory limited without swap."
                    .to_owned(),
            );
        }
    }
    if wanted.memory_reservation > 0 {
        memory.set_reservation(Some(wanted.memory_reservation));
    }
    Ok((memory != oci::LinuxMemory::default()).then_some(memory))
}

/// What is to be done when memory runs short.
fn reclaim(
    memory: &mut oci::LinuxMemory,
    wanted: &Resources,
    host: &Host,
    warnings: &mut Vec<String>,
) {
    if let Some(swappiness) = wanted.memory_swappiness.and_then(|value| u64::try_from(value).ok()) {
        if host.cgroups.has(Limit::Swappiness) {
            memory.set_swappiness(Some(swappiness));
        } else {
            let text = "Your kernel does not support memory swappiness capabilities or the cgroup \
                        is not mounted. Memory swappiness discarded.";
            warnings.push(text.to_owned());
        }
    }
    if !wanted.oom_kill_disable {
        return;
    }
    if !host.cgroups.has(Limit::OomKiller) {
        let text = "Your kernel does not support OomKillDisable. OomKillDisable discarded.";
        warnings.push(text.to_owned());
        return;
    }
    memory.set_disable_oom_killer(Some(true));
    if wanted.memory == 0 {
        let text = "OOM killer is disabled for the container, but no memory limit is set, this \
                    can result in the system running out of resources.";
        warnings.push(text.to_owned());
    }
}

fn cpu(
    wanted: &Resources,
    cgroup: &str,
    host: &Host,
    warnings: &mut Vec<String>,
) -> Result<Option<oci::LinuxCpu>, RuntimeError> {
    if wanted.nano_cpus != 0 && (wanted.cpu_period != 0 || wanted.cpu_quota != 0) {
        return Err(RuntimeError::Invalid(
            "Conflicting options: Nano CPUs and CPU Period or Quota cannot both be set".to_owned(),
        ));
    }
    available("CPUs", &wanted.cpuset_cpus, host.cgroups.available("cpus"))?;
    available("memory nodes", &wanted.cpuset_mems, host.cgroups.available("mems"))?;
    let (period, quota) = if wanted.nano_cpus > 0 {
        (PERIOD, wanted.nano_cpus.saturating_mul(PERIOD) / 1_000_000_000)
    } else {
        (wanted.cpu_period, wanted.cpu_quota)
    };
    let list = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let positive = |value: i64| u64::try_from(value).ok().filter(|value| *value > 0);
    let mut cpu = oci::LinuxCpu::default();
    cpu.set_shares(positive(wanted.cpu_shares))
        .set_period(positive(period))
        // None is unlimited, as less than nothing is.
        .set_quota((quota > 0).then_some(quota))
        .set_cpus(list(&wanted.cpuset_cpus))
        .set_mems(list(&wanted.cpuset_mems));
    realtime(&mut cpu, wanted, cgroup, host, warnings);
    Ok((cpu != oci::LinuxCpu::default()).then_some(cpu))
}

/// Refuses processors or memory nodes that this host has not.
fn available(what: &str, wanted: &str, here: Option<String>) -> Result<(), RuntimeError> {
    let Some(here) = here.filter(|here| !here.is_empty()) else { return Ok(()) };
    let known = ranges(&here);
    let all = ranges(wanted).all(|(first, last)| {
        (first..=last).all(|number| known.clone().any(|(from, to)| (from..=to).contains(&number)))
    });
    if all {
        return Ok(());
    }
    let text =
        format!("Requested {what} are not available - requested {wanted}, available: {here}");
    Err(RuntimeError::Invalid(text))
}

/// The ranges of `0-3,5`.
fn ranges(text: &str) -> impl Iterator<Item = (u32, u32)> + Clone {
    text.split(',').filter_map(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some((first.trim().parse().ok()?, last.trim().parse().ok()?))
    })
}

/// Real-time processes. The kernel refuses a share that the cgroup above has not left.
fn realtime(
    cpu: &mut oci::LinuxCpu,
    wanted: &Resources,
    cgroup: &str,
    host: &Host,
    warnings: &mut Vec<String>,
) {
    let positive = |value: i64| u64::try_from(value).ok().filter(|value| *value > 0);
    let (period, runtime) = (wanted.cpu_realtime_period, wanted.cpu_realtime_runtime);
    if period <= 0 && runtime <= 0 {
        return;
    }
    let share = Share::of(runtime, positive(period).unwrap_or(REALTIME_PERIOD));
    match host.cgroups.realtime_left(cgroup) {
        Some(left) if share <= left => {
            cpu.set_realtime_period(positive(period))
                .set_realtime_runtime((runtime > 0).then_some(runtime));
        }
        Some(_) => {
            let above = Path::new(cgroup).parent().unwrap_or(Path::new("/")).display();
            warnings.push(format!(
                "The cgroup {above} has not enough real-time runtime left: raise its \
                 cpu.rt_runtime_us. Real-time limits discarded."
            ));
        }
        None => {
            let text = "Your kernel does not support CPU real-time scheduler or the cgroup is not \
                        mounted. Real-time limits discarded.";
            warnings.push(text.to_owned());
        }
    }
}

fn pids(wanted: &Resources) -> Option<oci::LinuxPids> {
    let limit = wanted.pids_limit.filter(|limit| *limit != 0)?;
    let mut pids = oci::LinuxPids::default();
    pids.set_limit(limit);
    Some(pids)
}
