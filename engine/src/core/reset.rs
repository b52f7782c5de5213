//! `rnet system reset`: away with everything that is ours, and with nothing else.

use std::fs;
use std::path::Path;

use super::{Engine, directories, unmanaged};
use crate::cluster::Leave;
use crate::container::Remove;
use engine_error::{Error, Result};
use runtime::cgroup;

/// What we make in the data root.
const DATA: [&str; 7] = ["build", "containers", "volumes", "images", "init", "store.redb", "swarm"];

/// What we make in the exec root.
const EXEC: [&str; 11] = [
    "etcd.log",
    "ns",
    "instance",
    "closed-links",
    "ipc",
    "shim",
    "runtime",
    "view",
    "dns.sock",
    "dns.sock.lock",
    "dns.log",
];

impl Engine {
    /// Removes everything that is ours: containers, networks, images, directories, the table. The
    /// engine is of no use afterwards but to be dropped.
    pub async fn reset(&self) -> Result<()> {
        // Before anything goes: what is in there is somebody else's.
        refuse_mounted(self.volumes.foreign_mount()?.as_deref())?;
        let how = Remove { force: true, volumes: true, link: false };
        for container in self.containers.list() {
            match self.containers.remove(&container.id, how).await {
                Ok(()) => {}
                // With `--rm` it may have gone by itself.
                Err(error) if error.kind() == cnm::Kind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        // The others are told, if they can be; so while the store is still there.
        self.swarm.reset().await?;
        let (containers, volumes) =
            (self.containers.clone(), self.settings.data_root.join("volumes"));
        let (networks, settings) = (self.networks.clone(), self.settings.clone());
        let membership = self.membership.clone();
        let work = tokio::task::spawn_blocking(move || {
            // The others are told, if they can be.
            if membership.member().is_some()
                && let Err(error) = membership.leave(Leave::Forced)
            {
                tracing::warn!(error = error.chain(), "the cluster is not left in order");
            }
            containers.unmount_unused_volumes();
            let mounted = tree::mount_in(&volumes);
            let unseen = |error| Error::internal("cannot read what is mounted", error);
            refuse_mounted(mounted.map_err(unseen)?.as_deref())?;
            networks.part_with_plugins();
            networks.demolish()?;
            directories::unmount(&settings)?;
            unmanaged::withdraw(&settings);
            cgroup::remove_empty(settings.cgroup_parent());
            let data = DATA.iter().map(|name| settings.data_root.join(name));
            let exec = EXEC.iter().map(|name| settings.exec_root.join(name));
            for path in data.chain(exec) {
                remove(&path)?;
            }
            // Only if nobody else put something there.
            let _ = fs::remove_dir(&settings.data_root);
            let _ = fs::remove_dir(&settings.exec_root);
            Ok(())
        });
        work.await.map_err(|error| Error::internal("cannot reset", error))?
    }
}

fn refuse_mounted(mount: Option<&Path>) -> Result<()> {
    let Some(mount) = mount else { return Ok(()) };
    Err(Error::conflict(format!(
        "cannot remove the volumes: something is mounted at {}: unmount it first",
        mount.display()
    )))
}

fn remove(path: &Path) -> Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::internal(format!("cannot remove {}", path.display()), error))
        }
        _ => Ok(()),
    }
}
