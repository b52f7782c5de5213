//! OCI runtimes: the bundle, and the program that makes a container of it.
//!
//! [`spec::build`] turns what the engine decided into an OCI specification for this [`Host`]. The
//! shim runs the program; the daemon only pauses, resumes, updates and removes through [`Runtime`].

use std::fmt;
use std::path::{Path, PathBuf};

use cnm::{HasKind, Kind};

use shim::protocol::RuntimeCommand;

pub mod abilities;
pub mod apparmor;
pub mod capabilities;
pub mod cgroup;
pub mod host;
pub mod mount_namespace;
pub mod program;
pub mod root;
pub mod seccomp;
pub mod spec;
pub mod usage;
pub mod user;

pub use apparmor::AppArmor;
pub use host::{Cgroups, Host, Limit};
pub use mount_namespace::{MountNamespace, MountNamespaces};
pub use program::{Crun, Program, Runc, find};
pub use seccomp::Filters;
pub use usage::Usage;

/// How a runtime wants a seccomp filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeccompForm {
    /// As BPF instructions, compiled beforehand.
    Instructions,
    /// As the specification's own JSON.
    Profile,
}

/// An OCI runtime: a program with runc's command line.
pub trait Runtime: fmt::Debug + Send + Sync {
    /// The name it is chosen by: `crun`, `runc`, or what `--add-runtime` said.
    fn name(&self) -> &str;

    /// The executable.
    fn program(&self) -> &Path;

    /// How it wants its seccomp filter.
    fn seccomp_form(&self) -> SeccompForm;

    /// First line of `--version`, for `info`.
    fn version(&self) -> Result<String, RuntimeError> {
        program::version(self.program())
    }

    /// How a shim has to call it, with its state under `root`.
    fn command(&self, root: &Path) -> RuntimeCommand;

    /// Freezes all processes of a container. Blocks.
    fn pause(&self, root: &Path, id: &str) -> Result<(), RuntimeError> {
        program::call(&self.command(root), "pause", &["pause", id], b"")
    }

    /// Lets a paused container go on. Blocks.
    fn resume(&self, root: &Path, id: &str) -> Result<(), RuntimeError> {
        program::call(&self.command(root), "resume", &["resume", id], b"")
    }

    /// Changes a running container's limits. Blocks.
    fn update(
        &self,
        root: &Path,
        id: &str,
        resources: &oci_spec::runtime::LinuxResources,
    ) -> Result<(), RuntimeError> {
        let text = serde_json::to_vec(resources).unwrap_or_default();
        program::call(&self.command(root), "update", &["update", "--resources", "-", id], &text)
    }

    /// Kills what is left of a container and removes the runtime's state and cgroups: for a
    /// container whose shim was killed. Removing what is gone is not an error. Blocks.
    fn delete(&self, root: &Path, id: &str) -> Result<(), RuntimeError> {
        match program::call(&self.command(root), "delete", &["delete", "--force", id], b"") {
            Err(RuntimeError::Refused { message, .. }) if message.contains("does not exist") => {
                Ok(())
            }
            other => other,
        }
    }
}

/// A failure of a runtime, or of making its input.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// No usable program.
    #[error(
        "unknown or invalid runtime name: {name}: install crun or runc, or name one with --add-runtime"
    )]
    NotFound {
        /// What was looked for.
        name: String,
    },
    /// The program could not be run.
    #[error("cannot run {}", program.display())]
    Call {
        /// The executable.
        program: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The program ran and refused.
    #[error("{runtime} did not {action} container {container}: {message}")]
    Refused {
        /// The program's name.
        runtime: String,
        /// What was asked.
        action: String,
        /// The container.
        container: String,
        /// Its own words.
        message: String,
    },
    /// What the user asked for is wrong.
    #[error("{0}")]
    Invalid(String),
    /// A file could not be read or written.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
}

impl HasKind for RuntimeError {
    fn kind(&self) -> Kind {
        match self {
            Self::NotFound { .. } | Self::Invalid(_) => Kind::Invalid,
            Self::Call { .. } | Self::Refused { .. } | Self::Io { .. } => Kind::Internal,
        }
    }
}
