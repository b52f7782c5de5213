//! What a running daemon takes from a configuration that was read again.

use super::options::{Effect, OPTIONS, Opt};
use super::{Config, Log};

/// The options that take effect at once: dockerd's.
pub(super) const AT_ONCE: &[&str] = &[
    "add-runtime",
    "debug",
    "default-runtime",
    "insecure-registry",
    "label",
    "log-level",
    "max-concurrent-downloads",
    "max-concurrent-uploads",
    "max-download-attempts",
    "registry-mirror",
    "shutdown-timeout",
];

impl Config {
    /// This configuration with what takes effect at once of another one.
    #[must_use]
    pub fn reloaded(&self, new: &Self) -> Self {
        Self {
            labels: new.labels.clone(),
            mirrors: new.mirrors.clone(),
            insecure_registries: new.insecure_registries.clone(),
            max_concurrent_downloads: new.max_concurrent_downloads,
            max_concurrent_uploads: new.max_concurrent_uploads,
            max_download_attempts: new.max_download_attempts,
            runtimes: new.runtimes.clone(),
            default_runtime: new.default_runtime.clone(),
            shutdown_timeout: new.shutdown_timeout,
            log: Log { format: self.log.format, ..new.log },
            ..self.clone()
        }
    }

    /// The options in which another configuration differs that take effect at the next start.
    pub fn needs_restart(&self, new: &Self) -> Vec<&'static str> {
        let acts = OPTIONS.iter().filter(|opt| opt.effect == Effect::Acts);
        let late = acts.map(Opt::name).filter(|name| !AT_ONCE.contains(name));
        late.filter(|name| self.given.get(name) != new.given.get(name)).collect()
    }
}
