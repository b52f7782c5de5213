//! The nf_tables table of the host: one table, constant chains and rules, and the elements that
//! published ports, networks and permissions are.

mod sandbox;

use std::io;
use std::os::fd::OwnedFd;

use cnm::{Element, Step, Value};

pub use sandbox::SandboxTable;

/// The table of one daemon, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Nft {
    table: String,
}

/// Whether foreign programs can be kept from changing the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// Own the table where the kernel can; otherwise say so in the log and go on without.
    Preferred,
    /// Never own it: what others change is noticed and restored.
    Declined,
}

/// What nf_tables would not do.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// A socket could not be opened, written or read.
    #[error("cannot {verb} the nf_tables socket")]
    Socket {
        /// `open`, `write`, `read`.
        verb: &'static str,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Somebody else owns the table.
    #[error("table inet {table} belongs to another process: is another daemon running with it?")]
    Owned {
        /// The table.
        table: String,
    },
    /// One of the steps was refused; none of them was done.
    #[error("cannot {verb} {object}")]
    Step {
        /// Its position among the steps given.
        index: usize,
        /// `add`, `change`, `remove`.
        verb: &'static str,
        /// The object, as its key is printed.
        object: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Something that concerns the whole table was refused.
    #[error("cannot {verb} table {table}")]
    Table {
        /// `install`, `list`, `remove`, `change`.
        verb: &'static str,
        /// The table with its family.
        table: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

impl Nft {
    /// Opens the table and installs its constant part, or adopts what an earlier daemon left.
    ///
    /// `owner` is a socket that owns the table already, kept by `rnet-dns` meanwhile.
    pub fn open(
        table: &str,
        owner: Option<OwnedFd>,
        ownership: Ownership,
    ) -> Result<Self, NftError> {
        todo!("{table} {owner:?} {ownership:?}")
    }

    /// Changes any number of elements in one transaction: all of them, or none.
    ///
    /// Only steps whose key is an [`cnm::Key::Element`] may be given. To add what is there
    /// already is an error; to remove what is gone is not. If the table was removed by somebody,
    /// it is installed again first; the next observation then finds what else was lost.
    pub fn apply(&self, steps: &[&Step]) -> Result<(), NftError> {
        todo!("{steps:?}")
    }

    /// All elements of our sets and maps, of one moment.
    pub fn observe(&self) -> Result<Vec<(Element, Value)>, NftError> {
        todo!()
    }

    /// Installs the constant part if it is missing or not as it should be. Says whether it was.
    pub fn ensure_skeleton(&self) -> Result<bool, NftError> {
        todo!()
    }

    /// A duplicate of the socket that owns the table, for a process that outlives this one.
    /// `None` where the table has no owner.
    pub fn owner_socket(&self) -> Option<OwnedFd> {
        todo!()
    }

    /// Removes the table. The users' table stays.
    pub fn remove_table(&self) -> Result<(), NftError> {
        todo!("{}", self.table)
    }

    /// A socket that receives nf_tables notifications; read it, and ask [`Nft::concerns`].
    pub fn events(&self) -> Result<OwnedFd, NftError> {
        todo!()
    }

    /// Whether a datagram from [`Nft::events`] tells of a change of our table that we did not
    /// make ourselves.
    pub fn concerns(&self, datagram: &[u8]) -> bool {
        todo!("{datagram:?}")
    }
}
