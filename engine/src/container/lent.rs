//! What whoever had a container made lends it: mounts that are attached nowhere, and variables. Its
//! program finds them; no record has them, no inspection tells of them, and they end with the loan or
//! with the daemon.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::{MutexGuard, PoisonError};

use rustix::fs::FileType;

use super::Containers;
use super::run_spec::Parts;
use super::spec::{Mount, MountKind, Propagation};
use engine_error::{Error, Result};
use runtime::spec::Recursion;

/// Mounts and variables for one container.
#[derive(Default)]
pub(crate) struct Lent {
    pub(crate) mounts: Vec<LentMount>,
    /// `NAME=value`.
    pub(crate) env: Vec<String>,
}

/// One of the mounts.
#[derive(Debug)]
pub(crate) struct LentMount {
    /// Where the container finds it.
    pub(crate) target: String,
    pub(crate) readonly: bool,
    pub(crate) mount: OwnedFd,
}

/// A container has what it was lent until this is dropped.
#[derive(Debug)]
pub(crate) struct Loan<'a> {
    containers: &'a Containers,
    id: String,
}

impl fmt::Debug for Lent {
    /// What variables say is nobody else's.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mounts, variables) = (&self.mounts, self.env.len());
        f.debug_struct("Lent").field("mounts", mounts).field("variables", &variables).finish()
    }
}

impl Containers {
    /// Lends a container something for its next start.
    pub(crate) fn lend(&self, id: &str, lent: Lent) -> Loan<'_> {
        self.loans().insert(id.to_owned(), lent);
        Loan { containers: self, id: id.to_owned() }
    }

    /// The mounts that a container was lent, and the sources of those with their targets.
    pub(super) fn lent_mounts(&self, id: &str) -> Result<(Vec<Mount>, Parts)> {
        let (mut mounts, mut parts) = (Vec::new(), Vec::new());
        let loans = self.loans();
        for LentMount { target, readonly, mount } in loans.get(id).iter().flat_map(|it| &it.mounts)
        {
            let failed = |error| Error::internal(format!("cannot mount {target}"), error);
            let part = mount.try_clone().map_err(failed)?;
            let stat = rustix::fs::fstat(&part).map_err(|errno| failed(errno.into()))?;
            let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            mounts.push(Mount {
                kind: MountKind::Bind,
                target: target.clone(),
                readonly: *readonly,
                propagation: Propagation::RecursivePrivate,
                // Nothing is below a file.
                recursion: if directory { Recursion::default() } else { Recursion::Writable },
                ..Mount::default()
            });
            parts.push((target.clone(), part));
        }
        Ok((mounts, parts))
    }

    /// The variables that a container was lent.
    pub(super) fn lent_environment(&self, id: &str) -> Vec<String> {
        self.loans().get(id).map(|lent| lent.env.clone()).unwrap_or_default()
    }

    fn loans(&self) -> MutexGuard<'_, super::containers::Loans> {
        self.loans.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Loan<'_> {
    fn drop(&mut self) {
        self.containers.loans().remove(&self.id);
    }
}
