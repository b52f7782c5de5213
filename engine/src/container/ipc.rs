//! `--ipc`: whose IPC namespace a container has, and with it whose `/dev/shm`.
//!
//! The `/dev/shm` of a container that shares it is a file system of ours, which it and those who join
//! it find bound: nothing that a container makes of its own `/dev` decides what another one gets.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::{Container, Containers, Sharing, Spec};
use engine_error::{Error, Result};
use tree::IdMap;

/// The host's.
const HOST: &str = "/dev/shm";

impl Containers {
    /// What a container has in place of a `/dev/shm` of its own, if so.
    pub(super) fn shared_memory(&self, container: &Container) -> Result<Option<PathBuf>> {
        match &container.spec.namespaces.ipc {
            Sharing::Shareable => self.make_shared_memory(container).map(Some),
            Sharing::Container(_) => self.joined_memory(container).map(Some),
            Sharing::Default | Sharing::Private | Sharing::None | Sharing::Host => Ok(None),
        }
    }

    /// The `/dev/shm` of the container that one joins, which may have joined another one itself.
    fn joined_memory(&self, container: &Container) -> Result<PathBuf> {
        let mut donor = self.donor(&container.spec.namespaces.ipc, "IPC")?;
        let refuse = |of: &Container, why: &str| {
            Error::conflict(format!("failed to join IPC namespace: container {}: {why}", of.id))
        };
        let first = donor.clone();
        while let Some(next) =
            donor.as_ref().filter(|it| it.spec.namespaces.ipc.container().is_some())
        {
            donor = self.donor(&next.spec.namespaces.ipc, "IPC")?;
        }
        let (Some(first), Some(donor)) = (first, donor) else { return Ok(HOST.into()) };
        match donor.spec.namespaces.ipc {
            Sharing::Host => Ok(HOST.into()),
            Sharing::Shareable => {
                let directory = self.memory_dir(&donor.id);
                if is_mount(&directory) {
                    return Ok(directory);
                }
                Err(refuse(&donor, "its /dev/shm is not there any more: start it anew"))
            }
            _ => {
                let hint =
                    "non-shareable IPC (hint: use IpcMode:shareable for the donor container)";
                Err(refuse(&first, hint))
            }
        }
    }

    /// The running container whose namespace of a kind is joined.
    pub(super) fn donor(&self, wanted: &Sharing, kind: &str) -> Result<Option<Arc<Container>>> {
        let Some(key) = wanted.container() else { return Ok(None) };
        let refuse = |why| Error::conflict(format!("failed to join {kind} namespace: {why}"));
        let other = self.registry.find(key).map_err(|error| refuse(error.to_string()))?.get();
        if !other.state.has_process() || other.state.pid == 0 {
            return Err(refuse(format!("container {} is not running", other.id)));
        }
        Ok(Some(other))
    }

    fn make_shared_memory(&self, container: &Container) -> Result<PathBuf> {
        let directory = self.memory_dir(&container.id);
        let failed = |error| {
            Error::internal(format!("cannot make {} for /dev/shm", directory.display()), error)
        };
        // What an earlier run has left is not this one's.
        remove(&directory).map_err(failed)?;
        DirBuilder::new().recursive(true).mode(0o700).create(&directory).map_err(failed)?;
        let size = container.spec.shm_size.unwrap_or(self.settings.default_shm_size);
        let (uid, gid) = self.map_of(&container.spec).map_or((0, 0), IdMap::root);
        let options = format!("mode=1777,uid={uid},gid={gid},size={size}");
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        let nothing = None::<&str>;
        mount(Some("shm"), &directory, Some("tmpfs"), flags, Some(options.as_str()))
            .and_then(|()| mount(nothing, &directory, nothing, MsFlags::MS_PRIVATE, nothing))
            .map_err(|errno| failed(errno.into()))?;
        Ok(directory)
    }

    /// Lets go of what [`Self::shared_memory`] made. Those who have joined keep what they have.
    pub(super) fn release_shared_memory(&self, spec: &Spec, id: &str) {
        if spec.namespaces.ipc == Sharing::Shareable {
            self.remove_memory(id);
        }
    }

    /// Lets go of what containers had that do not run.
    pub(super) fn sweep_shared_memory(&self) {
        let entries = fs::read_dir(self.settings.exec_root.join("ipc")).into_iter().flatten();
        let ids = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        for id in ids {
            let owner = self.registry.find(&id).map(|live| live.get());
            if !owner.is_ok_and(|owner| owner.id.as_str() == id && owner.state.has_process()) {
                self.remove_memory(&id);
            }
        }
    }

    fn remove_memory(&self, id: &str) {
        let directory = self.memory_dir(id);
        if let Err(error) = remove(&directory) {
            tracing::warn!(%error, dir = %directory.display(), "cannot remove");
        }
    }

    fn memory_dir(&self, id: &str) -> PathBuf {
        self.settings.exec_root.join("ipc").join(id)
    }
}

/// Unmounts and removes a directory. That it is gone is a success.
fn remove(directory: &Path) -> std::io::Result<()> {
    match umount2(directory, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        // It is no mount, or is not there.
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
        Err(errno) => return Err(errno.into()),
    }
    match fs::remove_dir(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Whether something is mounted at a directory.
fn is_mount(directory: &Path) -> bool {
    let device = |path: &Path| fs::symlink_metadata(path).map(|of| of.dev()).ok();
    let above = directory.parent().and_then(device);
    device(directory).is_some_and(|own| Some(own) != above)
}
