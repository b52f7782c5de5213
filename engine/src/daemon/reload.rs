//! What the event of a reload tells: dockerd's attributes, in the form that it has them.

use std::collections::BTreeMap;

use crate::api::system;
use crate::config::Config;
use crate::settings::Settings;

/// The configuration that counts from now on.
pub(super) fn attributes(settings: &Settings, config: &Config) -> BTreeMap<String, String> {
    let runtimes = settings.runtimes.now();
    let programs = runtimes.programs.iter();
    let programs = programs.map(|(name, program)| format!("{name}:{}", program.path.display()));
    let programs: Vec<_> = programs.collect();
    let host = nix::unistd::gethostname().unwrap_or_default();
    let attributes = [
        ("debug", config.log.debug.to_string()),
        ("default-cgroupns-mode", system::cgroupns_mode(config)),
        ("default-ipc-mode", config.ipc_mode.clone()),
        ("default-runtime", runtimes.default.clone()),
        ("default-shm-size", config.shm_size.to_string()),
        ("insecure-registries", list(&config.insecure_registries)),
        ("labels", list(&config.labels)),
        ("live-restore", true.to_string()),
        ("max-concurrent-downloads", config.max_concurrent_downloads.to_string()),
        ("max-concurrent-uploads", config.max_concurrent_uploads.to_string()),
        ("max-download-attempts", config.max_download_attempts.to_string()),
        ("name", host.to_string_lossy().into_owned()),
        ("registry-mirrors", list(&config.mirrors)),
        ("runtimes", programs.join(" ")),
        ("shutdown-timeout", config.shutdown_timeout.to_string()),
    ];
    attributes.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// A list as Go's JSON has it.
fn list(texts: &[String]) -> String {
    serde_json::to_string(texts).unwrap_or_default()
}
