//! Limits of memory, processors and processes.

use oci_spec::runtime as oci;

use super::super::{Host, RuntimeError};
use crate::container::spec::Resources;

/// Docker's period for `--cpus`, in microseconds.
const PERIOD: i64 = 100_000;
/// The least memory a container can be made with.
const LEAST_MEMORY: i64 = 6 << 20;

/// The resources object: limits, and which devices may be used.
pub(super) fn of(
    wanted: &Resources,
    devices: Vec<oci::LinuxDeviceCgroup>,
    host: &Host,
    warnings: &mut Vec<String>,
) -> Result<oci::LinuxResources, RuntimeError> {
    let mut resources = limits(wanted, host, warnings)?;
    resources.set_devices(Some(devices));
    Ok(resources)
}

/// The limits alone, as `update` takes them.
pub fn limits(
    wanted: &Resources,
    host: &Host,
    warnings: &mut Vec<String>,
) -> Result<oci::LinuxResources, RuntimeError> {
    let mut resources = oci::LinuxResources::default();
    resources
        .set_devices(None)
        .set_memory(memory(wanted, host, warnings)?)
        .set_cpu(cpu(wanted)?)
        .set_pids(pids(wanted));
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
    if wanted.memory == 0 && wanted.memory_reservation == 0 {
        return Ok(None);
    }
    let mut memory = oci::LinuxMemory::default();
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
    Ok(Some(memory))
}

fn cpu(wanted: &Resources) -> Result<Option<oci::LinuxCpu>, RuntimeError> {
    if wanted.nano_cpus != 0 && (wanted.cpu_period != 0 || wanted.cpu_quota != 0) {
        return Err(RuntimeError::Invalid(
            "Conflicting options: Nano CPUs and CPU Period or Quota cannot both be set".to_owned(),
        ));
    }
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
        .set_quota((quota != 0).then_some(quota))
        .set_cpus(list(&wanted.cpuset_cpus))
        .set_mems(list(&wanted.cpuset_mems));
    Ok((cpu != oci::LinuxCpu::default()).then_some(cpu))
}

fn pids(wanted: &Resources) -> Option<oci::LinuxPids> {
    let limit = wanted.pids_limit.filter(|limit| *limit != 0)?;
    let mut pids = oci::LinuxPids::default();
    pids.set_limit(limit);
    Some(pids)
}
