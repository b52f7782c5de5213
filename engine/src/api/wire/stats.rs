//! What a container uses, as clients read it.

#![expect(clippy::struct_field_names, reason = "the names of the wire")]

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Value, json};

use super::time::rfc3339;
use crate::container::{Container, Sample, stats::Interface};
use runtime::usage::{BlockEntry, BlockUsage, CpuUsage, MemoryUsage, PidUsage};

/// One answer of `stats`.
#[derive(Debug, Serialize)]
pub struct Stats {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    read: String,
    preread: String,
    pids_stats: Pids,
    blkio_stats: Block,
    num_procs: u32,
    storage_stats: BTreeMap<String, u64>,
    cpu_stats: Cpu,
    precpu_stats: Cpu,
    memory_stats: Memory,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    networks: BTreeMap<String, Value>,
}

#[derive(Debug, Default, Serialize)]
struct Pids {
    #[serde(skip_serializing_if = "is_zero")]
    current: u64,
    #[serde(skip_serializing_if = "is_zero")]
    limit: u64,
}

/// What nobody counts any more is told as nothing.
#[derive(Debug, Default, Serialize)]
struct Block {
    io_service_bytes_recursive: Value,
    io_serviced_recursive: Value,
    io_queue_recursive: Value,
    io_service_time_recursive: Value,
    io_wait_time_recursive: Value,
    io_merged_recursive: Value,
    io_time_recursive: Value,
    sectors_recursive: Value,
}

#[derive(Debug, Default, Serialize)]
struct Cpu {
    cpu_usage: CpuTime,
    #[serde(skip_serializing_if = "is_zero")]
    system_cpu_usage: u64,
    #[serde(skip_serializing_if = "is_none")]
    online_cpus: u32,
    throttling_data: Throttling,
}

#[derive(Debug, Default, Serialize)]
struct CpuTime {
    total_usage: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    percpu_usage: Vec<u64>,
    usage_in_kernelmode: u64,
    usage_in_usermode: u64,
}

#[derive(Debug, Default, Serialize)]
struct Throttling {
    periods: u64,
    throttled_periods: u64,
    throttled_time: u64,
}

#[derive(Debug, Default, Serialize)]
struct Memory {
    #[serde(skip_serializing_if = "is_zero")]
    usage: u64,
    #[serde(skip_serializing_if = "is_zero")]
    max_usage: u64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    stats: BTreeMap<String, u64>,
    #[serde(skip_serializing_if = "is_zero")]
    failcnt: u64,
    #[serde(skip_serializing_if = "is_zero")]
    limit: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "what the derived code calls")]
fn is_zero(value: &u64) -> bool {
    *value == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "what the derived code calls")]
fn is_none(value: &u32) -> bool {
    *value == 0
}

/// A container's answer: what it uses now, and what it used before. One without a process has
/// zeros.
pub fn stats(container: &Container, now: Option<&Sample>, before: Option<&Sample>) -> Stats {
    let name = Some(format!("/{}", container.name));
    Stats { name, id: Some(container.id.to_string()), ..nameless(now, before) }
}

/// The same as Docker gives it to who wants it at once.
pub fn nameless(now: Option<&Sample>, before: Option<&Sample>) -> Stats {
    let time =
        |sample: Option<&Sample>| rfc3339(sample.map(|sample| -> DateTime<Utc> { sample.time }));
    Stats {
        name: None,
        id: None,
        read: time(now),
        preread: time(before),
        pids_stats: now.map(|now| pids(&now.usage.pids)).unwrap_or_default(),
        blkio_stats: now.map(|now| block(&now.usage.block)).unwrap_or_default(),
        num_procs: 0,
        storage_stats: BTreeMap::new(),
        cpu_stats: now.map(cpu).unwrap_or_default(),
        precpu_stats: before.map(cpu).unwrap_or_default(),
        memory_stats: now.map(|now| memory(&now.usage.memory, now.memory)).unwrap_or_default(),
        networks: now.map(networks).unwrap_or_default(),
    }
}

fn pids(usage: &PidUsage) -> Pids {
    Pids { current: usage.current, limit: usage.limit }
}

fn block(usage: &BlockUsage) -> Block {
    let entry = |entry: &BlockEntry| {
        let (major, minor) = entry.device;
        json!({"major": major, "minor": minor, "op": entry.operation, "value": entry.value})
    };
    let entries = |list: &[BlockEntry]| list.iter().map(entry).collect::<Value>();
    // Of version 2 only bytes are told.
    let other = || if usage.operations.is_some() { json!([]) } else { Value::Null };
    Block {
        io_service_bytes_recursive: entries(&usage.bytes),
        io_serviced_recursive: usage.operations.as_deref().map_or(Value::Null, entries),
        io_queue_recursive: other(),
        io_service_time_recursive: other(),
        io_wait_time_recursive: other(),
        io_merged_recursive: other(),
        io_time_recursive: other(),
        sectors_recursive: other(),
    }
}

fn cpu(sample: &Sample) -> Cpu {
    let CpuUsage { total, by_processor, kernel, user, periods, throttled_periods, throttled } =
        &sample.usage.cpu;
    Cpu {
        cpu_usage: CpuTime {
            total_usage: *total,
            percpu_usage: by_processor.clone(),
            usage_in_kernelmode: *kernel,
            usage_in_usermode: *user,
        },
        system_cpu_usage: sample.system,
        online_cpus: sample.processors,
        throttling_data: Throttling {
            periods: *periods,
            throttled_periods: *throttled_periods,
            throttled_time: *throttled,
        },
    }
}

/// Without a limit of its own a container may use what the host has.
fn memory(usage: &MemoryUsage, host: u64) -> Memory {
    Memory {
        usage: usage.usage,
        max_usage: usage.most,
        stats: usage.figures.clone(),
        failcnt: usage.failures,
        limit: if host > 0 { usage.limit.min(host) } else { usage.limit },
    }
}

fn networks(sample: &Sample) -> BTreeMap<String, Value> {
    let one = |(name, Interface { received, sent }): (&String, &Interface)| {
        let told = json!({
            "rx_bytes": received.bytes, "rx_packets": received.packets,
            "rx_errors": received.errors, "rx_dropped": received.dropped,
            "tx_bytes": sent.bytes, "tx_packets": sent.packets,
            "tx_errors": sent.errors, "tx_dropped": sent.dropped,
        });
        (name.clone(), told)
    };
    sample.networks.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_without_a_process_has_docker_s_zeros() {
        let told = serde_json::to_value(nameless(None, None)).unwrap();
        let cpu = json!({
            "cpu_usage": {"total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0},
            "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0},
        });
        assert_eq!((&told["cpu_stats"], &told["precpu_stats"]), (&cpu, &cpu));
        assert_eq!(told["read"], "0001-01-01T00:00:00Z");
        assert_eq!((&told["memory_stats"], &told["pids_stats"]), (&json!({}), &json!({})));
        assert_eq!(told["blkio_stats"]["sectors_recursive"], Value::Null);
        assert!(told.get("networks").is_none() && told.get("name").is_none());
    }

    #[test]
    fn memory_without_a_limit_is_the_host_s() {
        let usage = MemoryUsage { usage: 5, limit: u64::MAX, ..MemoryUsage::default() };
        assert_eq!(memory(&usage, 100).limit, 100);
        assert_eq!(memory(&MemoryUsage { limit: 7, ..usage }, 100).limit, 7);
    }
}
