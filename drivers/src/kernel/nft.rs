//! The nf_tables table of the host: one table, constant chains and rules, and the elements that
//! published ports, networks and permissions are.
//!
//! Spoken natively: a process of `nft` costs more than everything else that a container's start
//! does to the network, and the right to change an owned table belongs to a socket.

mod element;
mod encoder;
mod expression;
mod foreign;
mod guard;
mod holder;
mod owner;
mod rule;
mod sandbox;
mod set;
mod sets;
mod skeleton;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use cnm::{Element, Key, LinkName, Step, Value};

use encoder::{Entry, TableBatch};
use expression::Family;
pub use foreign::{Foreign, ForeignChain};
pub use owner::Ownership;
use owner::Writer;
pub use sandbox::SandboxTable;

/// How often a transaction is tried again after others changed what it builds on.
const ATTEMPTS: usize = 4;

/// The table of one daemon, in the network namespace of the thread that opened it.
///
/// It may be used from threads of any namespace.
#[derive(Debug)]
pub struct Nft {
    table: String,
    port: u32,
    writer: Mutex<Writer>,
    /// Elements for which the kernel has no table: they count as if they were there.
    absent: Mutex<BTreeMap<Element, Value>>,
}

/// Links between which nothing is forwarded: whether in IPv6, and their names.
pub type Closed = BTreeSet<(bool, LinkName)>;

/// What nf_tables would not do.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// A socket could not be opened, written or read.
    #[error("cannot {verb} the nf_tables socket")]
    Socket {
        /// `open`, `use`.
        verb: &'static str,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Somebody else owns the table.
    #[error(
        "table inet {table} belongs to another daemon, process {holders}: a network namespace has \
         one; stop that, or start this one in a network namespace of its own"
    )]
    Owned {
        /// The table.
        table: String,
        /// Those who have the owner's socket, with their command lines.
        holders: String,
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
        /// `own`, `adopt`, `install`, `list`, `remove`, `change`.
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
        let writer = Writer::open(table, owner, ownership)?;
        let table = table.to_owned();
        let absent = Mutex::default();
        Ok(Self { table, port: writer.port(), writer: Mutex::new(writer), absent })
    }

    /// Changes any number of elements in one transaction: all of them, or none.
    ///
    /// Only steps whose key is a [`Key::Element`] may be given. To add what is there already is
    /// an error; to remove what is gone is not. If the table was removed by somebody, it is
    /// installed again first; the next observation then finds what else was lost.
    pub fn apply(&self, steps: &[&Step]) -> Result<(), NftError> {
        if steps.is_empty() {
            return Ok(());
        }
        let changes = steps
            .iter()
            .enumerate()
            .map(|(index, step)| Change::new(step).map_err(|source| refused(index, step, source)))
            .collect::<Result<Vec<_>, _>>()?;
        let mut gone = HashSet::new();
        let mut writer = self.writer();
        let changes = self.with_table(changes, steps, &writer);
        for _ in 0..ATTEMPTS {
            let (batch, parts) = self.encode(&changes, &gone);
            let Err(refusal) = writer.commit(batch)? else { return Ok(()) };
            if refusal.0.values().any(is_missing) {
                let anew = writer.install()?;
                if !anew.is_empty() {
                    // A new table holds nothing that could be removed.
                    gone.extend(removals(&changes, &anew));
                    continue;
                }
            }
            for (position, source) in refusal.0 {
                let part = usize::try_from(position).ok().and_then(|at| parts.get(at));
                match part.copied().unwrap_or_default() {
                    Part { removal: Some(removal), .. } if is_missing(&source) => {
                        gone.insert(removal);
                    }
                    Part { step, .. } => return Err(refused(step, steps[step], source)),
                }
            }
        }
        let source = io::Error::new(
            io::ErrorKind::ResourceBusy,
            "others change the table faster than it can be restored",
        );
        Err(NftError::Table { verb: "change", table: writer.name(), source })
    }

    /// The batch, and what each of its messages is part of.
    fn encode(&self, changes: &[Change], gone: &HashSet<Removal>) -> (TableBatch<'_>, Vec<Part>) {
        let mut batch = TableBatch::new(Family::Inet, &self.table);
        let mut parts = Vec::with_capacity(changes.len());
        for (step, change) in changes.iter().enumerate() {
            for (entry, removed) in change.remove.iter().enumerate() {
                let removal = Removal { step, entry };
                if !gone.contains(&removal) {
                    batch.remove_entry(removed);
                    parts.push(Part { step, removal: Some(removal) });
                }
            }
            for added in &change.add {
                batch.add_entry(added);
                parts.push(Part { step, removal: None });
            }
        }
        (batch, parts)
    }

    /// The changes of tables that the kernel has. What it has none for is noted.
    fn with_table(&self, changes: Vec<Change>, steps: &[&Step], writer: &Writer) -> Vec<Change> {
        let has = |entry: &Entry| writer.has(entry.family);
        let mut absent = self.absent.lock().unwrap_or_else(PoisonError::into_inner);
        let with_table = |(mut change, step): (Change, &&Step)| {
            if !change.remove.iter().chain(&change.add).all(has) {
                change = Change::default();
                match (step, step.key()) {
                    (Step::Remove(..), Key::Element(element)) => drop(absent.remove(element)),
                    (_, Key::Element(element)) => {
                        absent.insert(element.clone(), Value::Present);
                    }
                    _ => {}
                }
            }
            change
        };
        changes.into_iter().zip(steps).map(with_table).collect()
    }

    /// All elements of our sets and maps. None if the table is missing.
    pub fn observe(&self) -> Result<Vec<(Element, Value)>, NftError> {
        let mut elements = self.writer().list()?;
        let absent = self.absent.lock().unwrap_or_else(PoisonError::into_inner);
        elements.extend(absent.iter().map(|(element, value)| (element.clone(), value.clone())));
        Ok(elements)
    }

    /// Installs the constant part if it is missing or not as it should be, with the elements
    /// that are there. Says whether that was necessary.
    pub fn ensure_skeleton(&self) -> Result<bool, NftError> {
        self.writer().install().map(|anew| !anew.is_empty())
    }

    /// Forwards nothing between these links from now on. They are part of the table as its rules are.
    pub fn close(&self, links: &Closed) -> Result<(), NftError> {
        self.writer().close(links.clone())
    }

    /// A duplicate of the socket that owns the table, for a process that outlives this one.
    /// `None` where the table has no owner.
    pub fn owner_socket(&self) -> Option<OwnedFd> {
        self.writer().owner_socket()
    }

    /// Removes the table, and the users' table if they put no rule into it.
    pub fn remove_table(&self) -> Result<(), NftError> {
        let mut writer = self.writer();
        writer.remove_tables()?;
        writer.remove_user_table()
    }

    /// What others have beside the table, in the network namespace of the calling thread.
    pub fn foreign(&self) -> Result<Foreign, NftError> {
        foreign::read(&self.table).map_err(|source| NftError::Socket { verb: "use", source })
    }

    /// A socket that receives nf_tables notifications; read it, and ask [`Nft::concerns`].
    ///
    /// It is one of the calling thread's network namespace. An overrun (`ENOBUFS`) may hide
    /// anything, and so concerns us.
    pub fn events(&self) -> Result<OwnedFd, NftError> {
        owner::events().map_err(|source| NftError::Socket { verb: "open", source })
    }

    /// Whether a datagram from [`Nft::events`] tells of a change of our table that we did not
    /// make ourselves.
    pub fn concerns(&self, datagram: &[u8]) -> bool {
        owner::tells_of(datagram, &self.table, self.port)
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A step as the kernel's elements that it removes and adds.
#[derive(Debug, Default)]
struct Change {
    remove: Vec<Entry>,
    add: Vec<Entry>,
}

impl Change {
    fn new(step: &Step) -> io::Result<Self> {
        Ok(match step {
            Step::Add(key, value) => Self { remove: Vec::new(), add: entries(key, value)? },
            Step::Remove(key, value) => Self { remove: entries(key, value)?, add: Vec::new() },
            Step::Change { key, from, to } => {
                Self { remove: entries(key, from)?, add: entries(key, to)? }
            }
        })
    }
}

fn entries(key: &Key, value: &Value) -> io::Result<Vec<Entry>> {
    let invalid = |why| io::Error::new(io::ErrorKind::InvalidInput, why);
    let Key::Element(element) = key else {
        return Err(invalid("it is no element of a set"));
    };
    element::entries(element, value).ok_or_else(|| invalid("its value does not fit"))
}

fn refused(index: usize, step: &Step, source: io::Error) -> NftError {
    let (verb, key) = match step {
        Step::Add(key, _) => ("add", key),
        Step::Change { key, .. } => ("change", key),
        Step::Remove(key, _) => ("remove", key),
    };
    NftError::Step { index, verb, object: key.to_string(), source }
}

/// What a message of a batch is part of.
#[derive(Clone, Copy, Debug, Default)]
struct Part {
    step: usize,
    removal: Option<Removal>,
}

/// An entry that a step removes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Removal {
    step: usize,
    entry: usize,
}

/// The removals from tables of these families.
fn removals(changes: &[Change], families: &[Family]) -> Vec<Removal> {
    let of = |(step, change): (usize, &Change)| {
        let entries = change.remove.iter().enumerate();
        let there = entries.filter(|(_, entry)| families.contains(&entry.family));
        there.map(|(entry, _)| Removal { step, entry }).collect::<Vec<_>>()
    };
    changes.iter().enumerate().flat_map(of).collect()
}

fn is_missing(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOENT)
}
