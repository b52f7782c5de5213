//! Events of containers, with Docker's attributes.

use std::collections::BTreeMap;

use super::{Container, Containers, EndpointView, MountKind, MountPoint};

impl Containers {
    /// Tells an event of a container.
    pub(crate) fn tell(&self, container: &Container, action: &str, attributes: &[(&str, &str)]) {
        let mut all = container.resolved.labels.clone();
        all.insert("image".to_owned(), container.spec.image.clone());
        all.insert("name".to_owned(), container.name.clone());
        all.extend(attributes.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        self.events.publish("container", action, container.id.as_str(), all);
    }

    /// Tells an event of a container on a network.
    pub(crate) fn tell_network(
        &self,
        action: &str,
        endpoint: &EndpointView,
        container: &Container,
    ) {
        let Some(id) = &endpoint.network_id else { return };
        let kind = self.networks.network(id.as_str()).map_or("bridge", |n| n.driver.name());
        let attributes = BTreeMap::from([
            ("container".to_owned(), container.id.to_string()),
            ("name".to_owned(), endpoint.network.clone()),
            ("type".to_owned(), kind.to_owned()),
        ]);
        self.events.publish("network", action, id.as_str(), attributes);
    }

    /// Tells that a container has its volumes.
    pub(crate) fn tell_mounted(&self, container: &Container) {
        for (name, mount) in volumes(container) {
            let attributes = [
                ("container", container.id.as_str()),
                ("destination", &mount.target),
                ("driver", driver(mount)),
                ("propagation", mount.propagation.as_str()),
                ("read/write", if mount.writable { "true" } else { "false" }),
            ];
            self.events.volume("mount", name, &attributes);
        }
    }

    /// Tells that a container is done with its volumes.
    pub(crate) fn tell_unmounted(&self, container: &Container) {
        for (name, mount) in volumes(container) {
            let attributes = [("container", container.id.as_str()), ("driver", driver(mount))];
            self.events.volume("unmount", name, &attributes);
        }
    }
}

fn driver(mount: &MountPoint) -> &str {
    if mount.driver.is_empty() { volume::LOCAL } else { &mount.driver }
}

/// The volumes of a container with their names, in the order in which they are mounted.
fn volumes(container: &Container) -> Vec<(&str, &MountPoint)> {
    let mounts = container.mounts.iter().filter(|mount| mount.kind == MountKind::Volume);
    let mut volumes: Vec<_> =
        mounts.filter_map(|mount| Some((mount.name.as_deref()?, mount))).collect();
    volumes.sort_by(|(_, a), (_, b)| a.target.cmp(&b.target));
    volumes
}
