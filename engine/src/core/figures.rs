//! How many there are of everything, for whoever draws graphs.

use std::collections::BTreeMap;
use std::fs;

use serde::Serialize;

use super::Engine;
use crate::container::Status;
use image::rootfs::StorageDriver;
use runtime::host;

/// The figures of one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Figures {
    /// Containers by state: `running`, `paused`, `stopped`.
    pub containers: BTreeMap<&'static str, u64>,
    /// Networks by driver.
    pub networks: BTreeMap<String, u64>,
    /// Sandboxes.
    pub sandboxes: u64,
    /// Endpoints.
    pub endpoints: u64,
    /// Published ports.
    pub ports: u64,
    /// Events told so far.
    pub events: u64,
    /// The host's processors.
    pub processors: u64,
    /// The host's memory in bytes.
    pub memory: u64,
    /// The kernel's release.
    pub kernel: String,
    /// The storage driver.
    pub storage_driver: String,
    /// The daemon's open files.
    pub descriptors: u64,
    /// The daemon's memory in bytes.
    pub resident: u64,
}

impl Engine {
    /// Counts. Blocks, and not for long.
    pub fn figures(&self) -> Figures {
        let mut figures = Figures {
            containers: ["paused", "running", "stopped"].map(|state| (state, 0)).into(),
            events: self.events.told(),
            processors: count(
                std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            ),
            memory: host::memory(),
            kernel: nix::sys::utsname::uname()
                .map(|names| names.release().to_string_lossy().into_owned())
                .unwrap_or_default(),
            storage_driver: match self.images.driver() {
                StorageDriver::Vfs => "vfs".to_owned(),
                _ => "overlay2".to_owned(),
            },
            descriptors: fs::read_dir("/proc/self/fd").map_or(0, |files| count(files.count())),
            resident: host::kibibytes("/proc/self/status", "VmRSS:"),
            ..Figures::default()
        };
        for container in self.containers.list() {
            let state = match container.state.status {
                Status::Paused => "paused",
                Status::Running | Status::Restarting => "running",
                _ => "stopped",
            };
            *figures.containers.entry(state).or_default() += 1;
            figures.ports += count(container.ports.len());
        }
        let model = self.networks.controller();
        for network in model.networks() {
            *figures.networks.entry(network.driver.name().to_owned()).or_default() += 1;
            figures.endpoints += count(model.endpoints_of(&network.id).len());
        }
        figures.sandboxes = count(model.sandboxes().len());
        figures
    }
}

fn count(number: usize) -> u64 {
    number as u64
}
