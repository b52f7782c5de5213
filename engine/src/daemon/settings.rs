//! What the engine needs of the daemon's configuration.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnetwork::IpNetwork;

use crate::config::{self, Config, Seccomp};
use crate::settings::{DefaultBridge, KnownRuntimes, Runtimes, Settings};
use image::rootfs::StorageDriver;
use runtime::Program;
use tree::IdMap;

/// The engine's settings by a configuration, and by whom the ids of containers are on the host.
pub fn of(config: &Config, remap: Option<IdMap>) -> Settings {
    let default = Settings::default();
    Settings {
        data_root: config.data_root.clone(),
        exec_root: config.exec_root.clone(),
        table: config.table.clone(),
        tag: config.tag.clone(),
        binaries: beside(),
        runtimes: Arc::new(Runtimes::new(runtimes(config))),
        default_bridge: default_bridge(config),
        images: images(config),
        default_pools: config.default_pools.clone(),
        cluster: config.cluster.clone(),
        advertise: config.advertise.clone(),
        default_network_options: config.default_network_options.clone(),
        plugin_places: config.plugin_places.clone(),
        plugin_patience: Duration::from_secs(config.plugin_timeout),
        forwards_for_all: config.forwards_for_all,
        dns: config.dns.servers.clone(),
        dns_search: config.dns.search.clone(),
        dns_options: config.dns.options.clone(),
        host_gateway: config.host_gateway.clone(),
        default_ulimits: config.ulimits.clone(),
        default_shm_size: config.shm_size,
        log_driver: config.log_driver.clone(),
        log_options: config.log_options.clone(),
        init: config.init,
        init_path: config.init_path.clone(),
        cgroup_parent: config.cgroup_parent.clone(),
        seccomp_profile: match &config.seccomp {
            Seccomp::Builtin => None,
            Seccomp::Unconfined => Some("unconfined".to_owned()),
            Seccomp::File(path) => Some(path.display().to_string()),
        },
        no_new_privileges: config.no_new_privileges,
        remap,
        ..default
    }
}

/// How images are kept and fetched.
pub fn images(config: &Config) -> image::Options {
    image::Options {
        driver: match config.storage_driver.as_deref() {
            Some("overlay2") => StorageDriver::Overlay,
            Some("vfs") => StorageDriver::Vfs,
            _ => StorageDriver::Auto,
        },
        mirrors: config.mirrors.clone(),
        insecure: config.insecure_registries.clone(),
        downloads: config.max_concurrent_downloads,
        uploads: config.max_concurrent_uploads,
        attempts: config.max_download_attempts,
    }
}

/// The OCI runtimes that there are.
pub fn runtimes(config: &Config) -> KnownRuntimes {
    let programs = config.runtimes.iter().map(|(name, runtime)| {
        let (path, arguments) = (PathBuf::from(&runtime.path), runtime.arguments.clone());
        (name.clone(), Program { path, arguments })
    });
    let preferred = KnownRuntimes::default().default;
    KnownRuntimes { default: default_runtime(config, preferred), programs: programs.collect() }
}

/// The directory of the running program, where its siblings are.
fn beside() -> PathBuf {
    let program = std::env::current_exe().ok();
    program.and_then(|path| path.parent().map(PathBuf::from)).unwrap_or_default()
}

/// The configured runtime, else the first of the engine's default and runc that is installed.
fn default_runtime(config: &Config, preferred: String) -> String {
    if !config.default_runtime.is_empty() {
        return config.default_runtime.clone();
    }
    let installed = |name: &str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|directory| directory.join(name).is_file())
    };
    if !installed(&preferred) && installed("runc") { "runc".to_owned() } else { preferred }
}

fn default_bridge(config: &Config) -> DefaultBridge {
    let config::Bridge { addresses, ranges, .. } = &config.bridge;
    let of = |list: &[IpNetwork], ipv6| list.iter().copied().find(|net| net.is_ipv6() == ipv6);
    DefaultBridge {
        device: if config.bridge.disabled {
            "none".to_owned()
        } else {
            config.bridge.device.to_string()
        },
        address: of(addresses, false),
        address6: of(addresses, true),
        range: of(ranges, false),
        range6: of(ranges, true),
        gateways: config.bridge.gateways.clone(),
        ipv6: config.bridge.ipv6,
        icc: config.bridge.icc,
        masquerade: config.bridge.masquerade,
        bindings: config.default_bindings.clone(),
        mtu: config.bridge.mtu,
    }
}
