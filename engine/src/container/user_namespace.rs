//! Whose users a container has: those of the host, or those that the daemon was told to give to
//! containers (`--userns-remap`) unless a container asks for the host's (`--userns=host`).
//!
//! Each sandbox has a user namespace of its own, which its network namespace belongs to. Who lives in the
//! sandbox of another container, or joins its processes or its memory, is in the other's.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use cnm::SandboxId;
use drivers::kernel::UserNamespace as Owned;
use tree::IdMap;

use super::{Container, Containers, NetworkMode, Sharing, Spec};
use engine_error::{Error, Result};
use image::rootfs::RootFs;
use runtime::spec::{Namespace, UserNamespace};
use shim::namespaces::Origin;

/// Docker's words for what needs the host's users.
const PRIVILEGED: &str = "privileged mode is incompatible with user namespaces.  You must run the \
                          container in the host namespace when running privileged mode";
const HOST_NETWORK: &str =
    "cannot share the host's network namespace when user namespaces are enabled";
const HOST_PID: &str = "cannot share the host PID namespace when user namespaces are enabled";

impl Containers {
    /// Whom the users of containers are on the host that ask for nothing else.
    pub(crate) fn map(&self) -> Option<&IdMap> {
        self.settings.remap.as_ref()
    }

    /// Whom the users of a container are on the host, if they are not who they are called.
    pub(crate) fn map_of(&self, spec: &Spec) -> Option<&IdMap> {
        self.map().filter(|_| spec.namespaces.user != Sharing::Host)
    }

    /// A root file system as the users of a container see it.
    pub(super) fn seen_by(&self, spec: &Spec, root: RootFs) -> RootFs {
        if self.map_of(spec).is_some() { root.remapped(&self.images) } else { root }
    }

    /// Refuses what only the host's users can have.
    pub(super) fn check_users(&self, spec: &Spec) -> Result<()> {
        if self.map_of(spec).is_none() {
            return Ok(());
        }
        let refused = [
            (spec.privileged, PRIVILEGED),
            (*spec.network_mode() == NetworkMode::Host, HOST_NETWORK),
            (spec.namespaces.pid == Sharing::Host, HOST_PID),
        ];
        match refused.into_iter().find(|(wanted, _)| *wanted) {
            Some((_, words)) => Err(Error::invalid(words)),
            None => Ok(()),
        }
    }

    /// The namespaces of a sandbox that is to come, if it is to belong to a user namespace.
    pub(super) fn own_namespaces(&self, container: &Container) -> Result<Option<Owned>> {
        let Some(map) = self.map_of(&container.spec) else { return Ok(None) };
        let joined = self.joined_users(container)?;
        let (uids, gids) = map.lines();
        let origin = match &joined {
            Some(path) => Origin::Existing(path),
            None => Origin::New { uids: &uids, gids: &gids },
        };
        self.runner.own_namespaces(origin).map(Some)
    }

    /// The user namespace of a container whose interfaces are in this network namespace, which is that
    /// of a sandbox of ours or of a process.
    pub(super) fn user_namespace(
        &self,
        container: &Container,
        network: &Namespace,
        sandbox: Option<&SandboxId>,
    ) -> Result<Option<UserNamespace>> {
        let Some(map) = self.map_of(&container.spec) else { return Ok(None) };
        let of_network = match (sandbox, network) {
            (Some(sandbox), _) => self.networks.kernel().user_namespace_path(sandbox),
            // It is that of a process, which is in the user namespace too.
            (None, Namespace::Path(path)) => path.with_file_name("user"),
            (None, Namespace::Host | Namespace::Private) => {
                return Err(Error::conflict(HOST_NETWORK));
            }
        };
        Ok(Some(UserNamespace { path: of_network, map: map.clone() }))
    }

    /// Refuses a container that lives with others whose users are not the same.
    pub(super) fn check_joined_users(
        &self,
        container: &Container,
        users: Option<&UserNamespace>,
    ) -> Result<()> {
        let Some(users) = users else { return Ok(()) };
        let wanted = identity(&users.path);
        if wanted.is_none() || wanted == identity(Path::new("/proc/self/ns/user")) {
            return Err(other("the container of its network"));
        }
        match self.joined_users(container)? {
            Some(joined) if identity(&joined) != wanted => {
                Err(other("a container whose processes or memory it joins"))
            }
            _ => Ok(()),
        }
    }

    /// The user namespace of the containers whose processes or memory one joins.
    fn joined_users(&self, container: &Container) -> Result<Option<PathBuf>> {
        let modes = &container.spec.namespaces;
        let mut joined: Option<PathBuf> = None;
        for (wanted, kind) in [(&modes.pid, "PID"), (&modes.ipc, "IPC")] {
            let Some(donor) = self.donor(wanted, kind)? else { continue };
            let path = PathBuf::from(format!("/proc/{}/ns/user", donor.state.pid));
            let is_host = identity(&path) == identity(Path::new("/proc/self/ns/user"));
            if is_host || joined.is_some_and(|known| identity(&known) != identity(&path)) {
                return Err(other(&format!("container {}", donor.name)));
            }
            joined = Some(path);
        }
        Ok(joined)
    }
}

/// Docker leaves it to the runtime, which says less.
fn other(who: &str) -> Error {
    Error::conflict(format!(
        "cannot join the namespaces of others: {who} is in another user namespace; containers that share \
         namespaces have to share the user namespace (--userns)"
    ))
}

/// Which namespace a file is.
fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|of| (of.dev(), of.ino()))
}
