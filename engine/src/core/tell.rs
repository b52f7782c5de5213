//! Events of volumes and of clients that leave, with Docker's attributes.

use std::collections::BTreeMap;

use crate::container::{Container, MountPoint};
use crate::core::Engine;

impl Engine {
    /// Tells an event of a local volume.
    pub(crate) fn tell_volume(&self, action: &str, name: &str, attributes: &[(&str, &str)]) {
        let attributes = attributes.iter().chain(&[("driver", "local")]);
        let attributes: BTreeMap<_, _> =
            attributes.map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        self.events().publish("volume", action, name, attributes);
    }

    /// Tells that a container has its volumes.
    pub(crate) fn tell_mounted(&self, container: &Container) {
        for (name, mount) in volumes(container) {
            let attributes = [
                ("container", container.id.as_str()),
                ("destination", &mount.target),
                ("propagation", &mount.propagation),
                ("read/write", if mount.writable { "true" } else { "false" }),
            ];
            self.tell_volume("mount", name, &attributes);
        }
    }

    /// Tells that a container is done with its volumes.
    pub(crate) fn tell_unmounted(&self, container: &Container) {
        for (name, _) in volumes(container) {
            self.tell_volume("unmount", name, &[("container", &container.id)]);
        }
    }

    /// Tells what was pruned, by kind of object, and how many bytes came free.
    pub fn tell_pruned(&self, kind: &'static str, reclaimed: u64) {
        let attributes = BTreeMap::from([("reclaimed".to_owned(), reclaimed.to_string())]);
        self.events().publish(kind, "prune", "", attributes);
    }
}

/// The volumes of a container with their names, in the order in which they are mounted.
fn volumes(container: &Container) -> Vec<(&str, &MountPoint)> {
    let mounts = container.mounts.iter();
    let mut volumes: Vec<_> =
        mounts.filter_map(|mount| Some((mount.name.as_deref()?, mount))).collect();
    volumes.sort_by(|(_, a), (_, b)| a.target.cmp(&b.target));
    volumes
}
