//! What `create` refuses, in Docker's words: nothing is made of a request that is wrong.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::container_config::{Config, HostConfig};
use crate::container::LOG_DELIVERY;
use crate::container::spec::Mount;
use engine_error::{Error, Result};
use runtime::capabilities::CapabilitySet;
use serde_json::Value;

/// Refuses what cannot be.
pub fn check(config: &Config, host: &HostConfig) -> Result<()> {
    check_config(config)?;
    check_restart(host)?;
    check_namespaces(config, host)?;
    check_network_mode(config, host)?;
    check_memory(host)?;
    check_cpu(host)?;
    check_limits(host)?;
    check_weights(host)?;
    check_extra_hosts(host)?;
    check_capabilities("CapAdd", host.cap_add.as_deref().unwrap_or_default())?;
    check_capabilities("CapDrop", host.cap_drop.as_deref().unwrap_or_default())?;
    check_log(host)?;
    if host.annotations.as_ref().is_some_and(|annotations| annotations.contains_key("")) {
        return invalid(
            "invalid Annotations: the empty string is not permitted as an annotation key",
        );
    }
    check_unsupported(host)
}

/// Refuses what no container can be changed to. Memory with swap is judged where both are known.
pub fn check_update(host: &HostConfig) -> Result<()> {
    check_restart(host)?;
    let swap = if host.memory == 0 { 0 } else { host.memory_swap };
    check_memory(&HostConfig { memory_swap: swap, ..host.clone() })?;
    check_cpu(host)?;
    check_weights(host)
}

fn invalid<T>(message: impl Into<String>) -> Result<T> {
    Err(Error::invalid(message))
}

fn check_config(config: &Config) -> Result<()> {
    let workdir = &config.working_dir;
    if !workdir.is_empty() && !workdir.starts_with('/') {
        return invalid(format!(
            "the working directory '{workdir}' is invalid, it needs to be an absolute path"
        ));
    }
    for entry in config.env.iter().flatten() {
        if entry.starts_with('=') || entry.is_empty() || entry.contains('\0') {
            return invalid(format!("invalid environment variable: {entry}"));
        }
    }
    if !config.stop_signal.is_empty() && !is_signal(&config.stop_signal) {
        return invalid(format!("invalid signal: {}", config.stop_signal));
    }
    let texts = config.cmd.iter().chain(&config.entrypoint).flatten();
    if texts.chain([&config.hostname, &config.user, workdir]).any(|text| text.contains('\0')) {
        return invalid("invalid container configuration: a NUL byte in a text");
    }
    if config.hostname.len() > 63 {
        return invalid(format!("invalid hostname: {}: longer than 63 bytes", config.hostname));
    }
    Ok(())
}

/// A signal by number or by name, with or without `SIG`.
pub fn is_signal(text: &str) -> bool {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=64).contains(&number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let offset = |prefix: &str| name.strip_prefix(prefix)?.parse::<u8>().ok();
    let real_time = matches!(name, "RTMIN" | "RTMAX")
        || offset("RTMIN+").is_some_and(|n| n <= 15)
        || offset("RTMAX-").is_some_and(|n| n <= 14);
    real_time
        || matches!(name, "CLD" | "POLL")
        || format!("SIG{name}").parse::<nix::sys::signal::Signal>().is_ok()
}

fn check_restart(host: &HostConfig) -> Result<()> {
    let policy = &host.restart_policy;
    let count = policy.maximum_retry_count;
    match policy.name.as_str() {
        "" | "no" | "always" | "unless-stopped" if count != 0 => {
            let hint = if count < 0 { " and cannot be negative" } else { "" };
            return invalid(format!(
                "invalid restart policy: maximum retry count can only be used with 'on-failure'{hint}"
            ));
        }
        "on-failure" if count < 0 => {
            return invalid("invalid restart policy: maximum retry count cannot be negative");
        }
        "" | "no" | "always" | "unless-stopped" | "on-failure" => {}
        other => {
            return invalid(format!(
                "invalid restart policy: unknown policy '{other}'; use one of 'no', 'always', \
                 'on-failure', or 'unless-stopped'"
            ));
        }
    }
    if host.auto_remove && !matches!(policy.name.as_str(), "" | "no") {
        return invalid("can't create 'AutoRemove' container with restart policy");
    }
    Ok(())
}

fn check_namespaces(config: &Config, host: &HostConfig) -> Result<()> {
    let one = |what: &str, value: &str, allowed: &[&str], container: bool| {
        let named = |name: &str| container && !name.is_empty();
        if allowed.contains(&value) || value.strip_prefix("container:").is_some_and(named) {
            return Ok(());
        }
        invalid(format!("invalid {what} mode: {value}"))
    };
    one("PID", &host.pid_mode, &["", "host"], true)?;
    one("IPC", &host.ipc_mode, &["", "none", "private", "shareable", "host"], true)?;
    if host.uts_mode == "host" && !config.hostname.is_empty() {
        return invalid("conflicting options: hostname and the UTS mode");
    }
    one("UTS", &host.uts_mode, &["", "host"], false)?;
    one("userns", &host.userns_mode, &["", "host"], false)?;
    one("cgroup namespace", &host.cgroupns_mode, &["", "private", "host"], false)
}

fn check_network_mode(config: &Config, host: &HostConfig) -> Result<()> {
    let mode = host.network_mode.as_str();
    if mode == "container" || mode == "container:" {
        return invalid("invalid network mode: invalid container format container:<name|id>");
    }
    if !mode.starts_with("container:") && mode != "host" {
        return Ok(());
    }
    let shared = mode.starts_with("container:");
    let published = host.port_bindings.as_ref().is_some_and(|map| !map.is_empty());
    let conflicts = [
        (
            shared && !config.hostname.is_empty(),
            "conflicting options: hostname and the network mode",
        ),
        (
            shared && host.links.iter().flatten().next().is_some(),
            "conflicting options: container type network can't be used with links. This would result in undefined behavior",
        ),
        (
            host.links.iter().flatten().next().is_some(),
            "conflicting options: host type networking can't be used with links. This would result in undefined behavior",
        ),
        (
            shared && host.dns.iter().flatten().next().is_some(),
            "conflicting options: dns and the network mode",
        ),
        (
            shared && host.extra_hosts.iter().flatten().next().is_some(),
            "conflicting options: custom host-to-IP mapping and the network mode",
        ),
        (
            shared && (host.publish_all_ports || published),
            "conflicting options: port publishing and the container type network mode",
        ),
        (
            shared && config.exposed_ports.as_ref().is_some_and(|ports| !ports.is_empty()),
            "conflicting options: port exposing and the container type network mode",
        ),
    ];
    match conflicts.into_iter().find(|(found, _)| *found) {
        Some((_, message)) => invalid(message),
        None => Ok(()),
    }
}

fn check_memory(host: &HostConfig) -> Result<()> {
    const LEAST: i64 = 6 << 20;
    let (memory, swap, reservation) = (host.memory, host.memory_swap, host.memory_reservation);
    if memory != 0 && memory < LEAST {
        return invalid("Minimum memory limit allowed is 6MB");
    }
    if memory > 0 && swap > 0 && swap < memory {
        return invalid("Minimum memoryswap limit should be larger than memory limit, see usage");
    }
    if memory == 0 && swap > 0 {
        return invalid(
            "You should always set the Memory limit when using Memoryswap limit, see usage",
        );
    }
    if swap < -1 || reservation < 0 {
        return invalid("invalid memory limit: less than zero");
    }
    if reservation > 0 && reservation < LEAST {
        return invalid("Minimum memory reservation allowed is 6MB");
    }
    if memory > 0 && reservation > memory {
        return invalid(
            "Minimum memory limit can not be less than memory reservation limit, see usage",
        );
    }
    if host.memory_swappiness.is_some_and(|value| !(-1..=100).contains(&value)) {
        let value = host.memory_swappiness.unwrap_or_default();
        return invalid(format!("Invalid value: {value}, valid memory swappiness range is 0-100"));
    }
    Ok(())
}

fn check_cpu(host: &HostConfig) -> Result<()> {
    if host.nano_cpus != 0 && host.cpu_period != 0 {
        return invalid("Conflicting options: Nano CPUs and CPU Period cannot both be set");
    }
    if host.nano_cpus != 0 && host.cpu_quota != 0 {
        return invalid("Conflicting options: Nano CPUs and CPU Quota cannot both be set");
    }
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let most = i64::try_from(processors).unwrap_or(i64::MAX).saturating_mul(1_000_000_000);
    if host.nano_cpus < 0 || host.nano_cpus > most {
        return invalid(format!(
            "range of CPUs is from 0.01 to {processors}.00, as there are only {processors} CPUs available"
        ));
    }
    if host.cpu_shares < 0 {
        return invalid(format!(
            "invalid CPU shares ({}): value must be a positive integer",
            host.cpu_shares
        ));
    }
    if host.cpu_period != 0 && !(1_000..=1_000_000).contains(&host.cpu_period) {
        return invalid(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
        );
    }
    if host.cpu_quota > 0 && host.cpu_quota < 1_000 {
        return invalid("CPU cfs quota can not be less than 1ms (i.e. 1000)");
    }
    let (period, runtime) = (host.cpu_realtime_period, host.cpu_realtime_runtime);
    if period < 0 || runtime < 0 {
        return invalid("cpu real-time period and runtime cannot be negative");
    }
    if period != 0 && runtime > period {
        return invalid("cpu real-time runtime cannot be higher than cpu real-time period");
    }
    for (name, list) in [("cpuset cpus", &host.cpuset_cpus), ("cpuset mems", &host.cpuset_mems)] {
        if let Some(fault) = fault_of_cpuset(list) {
            return invalid(format!("Invalid value {list} for {name}: {fault}"));
        }
    }
    check_processors(&host.cpuset_cpus)
}

/// Processors that this machine has not cannot be given away.
fn check_processors(list: &str) -> Result<()> {
    let Ok(online) = std::fs::read_to_string("/sys/devices/system/cpu/online") else {
        return Ok(());
    };
    let ends = |part: &str| {
        let (from, to) = part.trim().split_once('-').unwrap_or((part.trim(), part.trim()));
        Some((from.trim().parse::<u32>().ok()?, to.trim().parse::<u32>().ok()?))
    };
    let there: Vec<_> = online.trim().split(',').filter_map(ends).collect();
    let is_there = |number: u32| there.iter().any(|(a, b)| (*a..=*b).contains(&number));
    let wanted = list.split(',').filter_map(ends);
    if wanted.into_iter().all(|(first, last)| (first..=last).all(is_there)) {
        return Ok(());
    }
    invalid(format!(
        "Requested CPUs are not available - requested {list}, available: {}",
        online.trim()
    ))
}

/// What is wrong with a list such as `0-3,5`, if anything: in Docker's words.
fn fault_of_cpuset(text: &str) -> Option<String> {
    const MOST: u64 = 8192;
    let unreadable = || Some(format!("invalid format: {text}"));
    for part in text.split(',').filter(|_| !text.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (Ok(first), Ok(last)) = (first.trim().parse::<u64>(), last.trim().parse::<u64>())
        else {
            return unreadable();
        };
        if first.max(last) > MOST {
            return Some(format!("value of out range, maximum is {MOST}"));
        }
        if first > last {
            return unreadable();
        }
    }
    None
}

fn check_weights(host: &HostConfig) -> Result<()> {
    let devices = host.blkio_weight_device.iter().flatten().map(|device| device.weight);
    let mut weights = devices.chain([host.blkio_weight].into_iter().filter(|weight| *weight != 0));
    if weights.all(|weight| (10..=1000).contains(&weight)) {
        return Ok(());
    }
    invalid("Range of blkio weight is from 10 to 1000")
}

fn check_limits(host: &HostConfig) -> Result<()> {
    if host.shm_size < 0 {
        return invalid("SHM size can not be less than 0");
    }
    if !(-1000..=1000).contains(&host.oom_score_adj) {
        return invalid(format!(
            "Invalid value {}, range for oom score adj is [-1000, 1000]",
            host.oom_score_adj
        ));
    }
    for limit in host.ulimits.iter().flatten() {
        let Some(_) = Some(&limit.name).filter(|name| is_ulimit(name)) else {
            return invalid(format!("invalid ulimit type: {}", limit.name));
        };
        if limit.hard != -1 && (limit.soft > limit.hard || limit.soft == -1) {
            return invalid(format!(
                "ulimit soft limit must be less than or equal to hard limit: {} > {}",
                limit.soft, limit.hard
            ));
        }
    }
    Ok(())
}

fn is_ulimit(name: &str) -> bool {
    matches!(
        name,
        "core"
            | "cpu"
            | "data"
            | "fsize"
            | "locks"
            | "memlock"
            | "msgqueue"
            | "nice"
            | "nofile"
            | "nproc"
            | "rss"
            | "rtprio"
            | "rttime"
            | "sigpending"
            | "stack"
            | "as"
    )
}

fn check_extra_hosts(host: &HostConfig) -> Result<()> {
    for entry in host.extra_hosts.iter().flatten() {
        let split = entry.split_once([':', '=']).filter(|(name, _)| !name.is_empty());
        let Some((_, address)) = split else {
            return invalid(format!("bad format for add-host: \"{entry}\""));
        };
        let bare = address.trim_start_matches('[').trim_end_matches(']');
        if address != "host-gateway" && bare.parse::<IpAddr>().is_err() {
            return invalid(format!("invalid IP address in add-host: \"{address}\""));
        }
    }
    for server in host.dns.iter().flatten() {
        if server.parse::<IpAddr>().is_err() {
            return invalid(format!("bad nameserver address {server}"));
        }
    }
    Ok(())
}

fn check_capabilities(list: &str, names: &[String]) -> Result<()> {
    for name in names {
        let upper = name.to_ascii_uppercase();
        let full = if upper == "ALL" || upper.starts_with("CAP_") {
            upper
        } else {
            format!("CAP_{upper}")
        };
        if full != "ALL" && !CapabilitySet::all().contains(&full) {
            return invalid(format!("invalid {list}: unknown capability: \"{full}\""));
        }
    }
    Ok(())
}

fn check_log(host: &HostConfig) -> Result<()> {
    const OPTIONS: [&str; 8] =
        ["max-size", "max-file", "compress", "labels", "labels-regex", "env", "env-regex", "tag"];
    const LOCAL: usize = 3;
    let driver = host.log_config.driver.as_str();
    if driver == "none" {
        return Ok(());
    }
    check_delivery(host)?;
    // The others are judged where they are known.
    if !matches!(driver, "" | "json-file" | "local") {
        return Ok(());
    }
    let options = if driver == "local" { &OPTIONS[..LOCAL] } else { &OPTIONS[..] };
    let known =
        |name: &&String| options.contains(&name.as_str()) || LOG_DELIVERY.contains(&name.as_str());
    match host.log_config.config.keys().find(|name| !known(name)) {
        Some(name) => {
            let driver =
                if driver == "local" { "log driver local" } else { "json-file log driver" };
            invalid(format!("unknown log opt '{name}' for {driver}"))
        }
        None => Ok(()),
    }
}

/// No container ever waits for the reader of its log here, so there is nothing to do in either mode.
fn check_delivery(host: &HostConfig) -> Result<()> {
    let option = |name| host.log_config.config.get(name).map(String::as_str);
    let mode = option("mode").unwrap_or_default();
    if !matches!(mode, "" | "blocking" | "non-blocking") {
        return invalid(format!("logger: logging mode not supported: {mode}"));
    }
    let Some(size) = option("max-buffer-size") else { return Ok(()) };
    if mode != "non-blocking" {
        return invalid(
            "logger: max-buffer-size option is only supported with 'mode=non-blocking'",
        );
    }
    if crate::container::log_bytes(size).is_none() {
        return invalid(format!("error parsing option max-buffer-size: invalid size: '{size}'"));
    }
    Ok(())
}

/// There is no driver for devices that are asked for by what they can do.
fn no_device_driver(request: &Value) -> String {
    let words = |list: &Value| {
        let words: Vec<_> =
            list.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        format!("[{}]", words.join(" "))
    };
    let sets = request["Capabilities"].as_array().into_iter().flatten();
    let sets: Vec<_> = sets.map(words).collect();
    let driver = request["Driver"].as_str().unwrap_or_default();
    format!("could not select device driver \"{driver}\" with capabilities: [{}]", sets.join(" "))
}

fn check_unsupported(host: &HostConfig) -> Result<()> {
    if let Some(request) = host.device_requests.iter().flatten().next() {
        return invalid(no_device_driver(request));
    }
    if host.storage_opt.iter().flatten().next().is_some() {
        return invalid(
            "--storage-opt is supported only for overlay over xfs with 'pquota' mount option",
        );
    }
    if !matches!(host.isolation.as_str(), "" | "default") {
        let isolation = &host.isolation;
        let text = format!("invalid isolation ({isolation}): linux only supports 'default'");
        return invalid(text);
    }
    Ok(())
}

/// Refuses relative targets and a target twice.
pub fn check_mounts(mounts: &[Mount]) -> Result<()> {
    let mut targets = BTreeSet::new();
    for mount in mounts {
        let target = mount.target.as_str();
        let kind = format!("invalid mount config for type \"{}\"", mount.kind);
        if !target.starts_with('/') {
            return invalid(format!(
                "{kind}: invalid mount path: '{target}' mount path must be absolute"
            ));
        }
        if target.split('/').all(|part| matches!(part, "" | ".")) {
            return invalid(format!("{kind}: invalid specification: destination can't be '/'"));
        }
        if !targets.insert(target.trim_end_matches('/')) {
            return invalid(format!("Duplicate mount point: {target}"));
        }
    }
    Ok(())
}
