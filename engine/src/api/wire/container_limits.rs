//! Devices and limits of a `HostConfig`.

use super::container_config::{Device, HostConfig, ThrottleDevice};
use crate::container::spec::Resources;

/// `Devices`: path on the host, path inside, permissions.
pub fn devices(host: &HostConfig) -> Vec<(String, String, String)> {
    let device = |device: &Device| {
        let inside = match device.path_in_container.as_str() {
            "" => &device.path_on_host,
            _ => &device.path_in_container,
        };
        let permissions = match device.cgroup_permissions.as_str() {
            "" => "rwm",
            permissions => permissions,
        };
        (device.path_on_host.clone(), inside.clone(), permissions.to_owned())
    };
    host.devices.iter().flatten().map(device).collect()
}

/// The limits.
pub fn resources(host: &HostConfig) -> Resources {
    let weights = host.blkio_weight_device.iter().flatten();
    Resources {
        memory: host.memory,
        memory_swap: host.memory_swap,
        memory_reservation: host.memory_reservation,
        memory_swappiness: host.memory_swappiness,
        oom_kill_disable: host.oom_kill_disable.unwrap_or(false),
        nano_cpus: host.nano_cpus,
        cpu_shares: host.cpu_shares,
        cpu_period: host.cpu_period,
        cpu_quota: host.cpu_quota,
        cpu_realtime_period: host.cpu_realtime_period,
        cpu_realtime_runtime: host.cpu_realtime_runtime,
        cpuset_cpus: host.cpuset_cpus.clone(),
        cpuset_mems: host.cpuset_mems.clone(),
        pids_limit: host.pids_limit,
        block_weight: host.blkio_weight,
        block_weights: weights.map(|device| (device.path.clone(), device.weight)).collect(),
        block_read_bytes: rates(host.blkio_device_read_bps.as_deref()),
        block_write_bytes: rates(host.blkio_device_write_bps.as_deref()),
        block_reads: rates(host.blkio_device_read_iops.as_deref()),
        block_writes: rates(host.blkio_device_write_iops.as_deref()),
    }
}

fn rates(devices: Option<&[ThrottleDevice]>) -> Vec<(String, u64)> {
    devices.into_iter().flatten().map(|device| (device.path.clone(), device.rate)).collect()
}
