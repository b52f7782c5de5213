//! The kernel: the one place in the workspace that changes the host.

pub mod address;
mod announce;
pub mod conntrack;
pub mod echo;
mod egress;
mod facts;
mod host;
pub mod link;
mod linux;
mod listening;
mod memory;
mod monitor;
pub mod neighbour;
pub mod netlink;
pub mod netns;
pub mod nexthop;
mod nfnetlink;
pub mod nft;
mod packet;
mod probe;
pub mod reserve;
pub mod route;
mod shortcut;
mod sockets;
pub mod sysctl;
mod tag;
mod wireguard;

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use cnm::{HasKind, Kind, Plan, State};

pub use host::{BindPorts, Host};
pub use linux::{Announcements, HostPorts, Linux};
pub use listening::Listeners;
pub use memory::Memory;
pub use netns::Netns;
pub use wireguard::PrivateKey;

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
    /// Somebody else has an address.
    #[error("address {address} is in use already: {by}; nothing was started with it")]
    Taken {
        /// The address.
        address: std::net::IpAddr,
        /// Who has it, in words.
        by: String,
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
            Self::Taken { .. } => Kind::Conflict,
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
    /// Whether foreign programs are kept from changing the table, or what they change repaired.
    pub ownership: nft::Ownership,
    /// Whom forwarding is switched on for.
    pub forwarding: Forwarding,
}

/// Whom forwarding is switched on for, where it is off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarding {
    /// Our networks: between links that did not forward before, it stays off.
    Ours,
    /// All links of the host.
    Everybodys,
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

/// A network namespace that belongs to a user namespace of its own, not to the host's.
#[derive(Debug)]
pub struct UserNamespace {
    /// The user namespace.
    pub user: OwnedFd,
    /// The network namespace, whose loopback is down.
    pub network: Netns,
}

/// The port of a sandbox's resolver at 127.0.0.11; port 53 there is redirected to it.
pub const RESOLVER_PORT: u16 = 64_053;

/// Brings a kernel to the desired state; returns the plan that did it.
pub fn reconcile(kernel: &dyn Kernel, desired: &State) -> Result<Plan, KernelError> {
    let plan = cnm::diff(&kernel.observe()?, desired);
    kernel.apply(&plan)?;
    Ok(plan)
}
