//! The kernel: the one place in the workspace that changes the host.

pub mod conntrack;
mod nfnetlink;
pub mod nft;
pub mod reserve;

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use cnm::controller::HostFacts;
use cnm::{HasKind, Kind, Plan, PortBinding, SandboxId, State};

/// Something that holds kernel objects: Linux, or a fake of it.
pub trait Kernel: Send + Sync + std::fmt::Debug {
    /// Reads the objects that rnet owns, in the vocabulary of [`cnm::Key`] and [`cnm::Value`].
    fn observe(&self) -> Result<State, KernelError>;

    /// Runs the steps in order and stops at the first failure; the error names the step.
    ///
    /// Neighbouring steps go to the kernel in one batch: links, addresses and routes of one
    /// namespace as one netlink message train, all set elements as one nf_tables transaction.
    fn apply(&self, plan: &Plan) -> Result<(), KernelError>;

    /// Runs the steps of a teardown: goes on after a failure and returns all failures.
    fn dismantle(&self, plan: &Plan) -> Vec<KernelError>;
}

/// What the kernel would not do.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// A step failed.
    #[error("cannot {verb} {object}")]
    Step {
        /// `add`, `change`, `remove`, `list`.
        verb: &'static str,
        /// The object, as its key is printed.
        object: String,
        /// The kernel's answer, with its extended acknowledgement where it gave one.
        #[source]
        source: std::io::Error,
    },
    /// The kernel lacks something that rnet needs.
    #[error("this kernel cannot do {what}: {hint}")]
    Unsupported {
        /// What is missing.
        what: &'static str,
        /// What to do about it.
        hint: &'static str,
    },
}

impl HasKind for KernelError {
    fn kind(&self) -> Kind {
        match self {
            Self::Step { .. } => Kind::Internal,
            Self::Unsupported { .. } => Kind::NotImplemented,
        }
    }
}

/// How the real kernel is used. Several daemons on one host differ in all of it.
#[derive(Clone, Debug)]
pub struct LinuxConfig {
    /// Where sandbox namespaces are pinned, `/run/rnet/ns`.
    pub namespaces: PathBuf,
    /// The nf_tables table of the family inet, `rnet`; the users' is this and `-user`.
    pub table: String,
    /// The first word of link aliases, `rnet`: what starts with it and a colon is ours.
    pub tag: String,
    /// A socket that owns the table already, kept by `rnet-dns` while the daemon was away.
    pub owner: Option<OwnedFdSlot>,
}

/// A file descriptor that can be cloned with its configuration.
pub type OwnedFdSlot = std::sync::Arc<OwnedFd>;

/// The sockets of a sandbox's resolver, bound at 127.0.0.11 inside it.
#[derive(Debug)]
pub struct ResolverSockets {
    /// Bound to the resolver's port.
    pub udp: OwnedFd,
    /// Bound and listening.
    pub tcp: OwnedFd,
}

/// The Linux kernel of this machine, and the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Linux;

/// The port of a sandbox's resolver at 127.0.0.11; port 53 there is redirected to it.
pub const RESOLVER_PORT: u16 = 64_053;

impl Linux {
    /// Opens the sockets and installs the constant part of the nf_tables table.
    pub fn open(config: LinuxConfig) -> Result<Self, KernelError> {
        todo!("{config:?}")
    }

    /// What the host uses already: routes of all tables, resolvers.
    pub fn host_facts(&self) -> Result<HostFacts, KernelError> {
        todo!()
    }

    /// Opens the sockets of a sandbox's resolver.
    pub fn resolver_sockets(&self, sandbox: &SandboxId) -> Result<ResolverSockets, KernelError> {
        todo!("{sandbox}")
    }

    /// Binds a host port, so that nobody else takes it. `None` if somebody has it.
    pub fn reserve_port(&self, binding: &PortBinding) -> Result<Option<OwnedFd>, KernelError> {
        todo!("{binding:?}")
    }

    /// Forgets connections to these host ports, so that their packets find the new owner.
    pub fn flush_ports(&self, bindings: &[PortBinding]) -> Result<(), KernelError> {
        todo!("{bindings:?}")
    }

    /// Forgets connections from and to these addresses.
    pub fn flush_addresses(&self, addresses: &[std::net::IpAddr]) -> Result<(), KernelError> {
        todo!("{addresses:?}")
    }

    /// The socket that owns the table, to be kept by a process that outlives this one; `None`
    /// where the kernel has no table ownership.
    pub fn table_owner(&self) -> Option<OwnedFd> {
        todo!()
    }

    /// The namespace of a sandbox, as a path for a runtime.
    pub fn namespace_path(&self, sandbox: &SandboxId) -> PathBuf {
        todo!("{sandbox}")
    }

    /// Tells when something of ours was changed by somebody else. The receiver gets one message
    /// per burst of changes; what changed is found by observing.
    pub fn changes(&self) -> Result<std::sync::mpsc::Receiver<()>, KernelError> {
        todo!()
    }

    /// Removes the table, for `rnet system reset`.
    pub fn remove_table(&self) -> Result<(), KernelError> {
        todo!()
    }
}
