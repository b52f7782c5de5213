//! Who may change the table, and what it takes to have it as it should be.
//!
//! A table with the flags `owner` and `persist` can be changed by one socket only, whichever
//! process holds it, and stays in force when the socket is closed. Then anybody may remove it,
//! and the first one who asks owns it again.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use cnm::{Element, Value};
use netlink_sys::protocols::NETLINK_NETFILTER;

use super::super::nfnetlink::{Received, Refusal, SUBSYSTEM_NFTABLES, Socket};
use super::encoder::{
    self, GETRULE, GETSETELEM, GETTABLE, NFTA_RULE_CHAIN, NFTA_RULE_TABLE, NFTA_RULE_USERDATA,
    NFTA_TABLE_FLAGS, NFTA_TABLE_NAME, NFTA_TABLE_OWNER, NFTA_TABLE_USERDATA, OWNER, PERSIST,
    TableBatch,
};
use super::expression::Family;
use super::rule::Rule;
use super::set::SetDefinition;
use super::skeleton::{Chain, USER_CHAINS};
use super::{Closed, NftError, element, guard, holder, sets, skeleton};

const NFNLGRP_NFTABLES: u32 = libc::NFNLGRP_NFTABLES.cast_unsigned();
const EVENT_BUFFER: usize = 1 << 20;
/// All tables have their name in the first attribute of every message; this one names none.
const NEWGEN: u16 = 15;

/// What the comments of our tables begin with.
pub(super) const MARK: &str = "rnet, ruleset ";

/// What the kernel refuses where it does not know ownership.
const OWN: &str = "own";

/// Whether foreign programs can be kept from changing the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// Own the table where the kernel can; otherwise say so in the log and go on without.
    Preferred,
    /// Never own it: what others change is noticed and restored.
    Declined,
}

/// One of our tables, which have the same name in different families.
struct Part {
    family: Family,
    word: &'static str,
    sets: &'static [&'static SetDefinition],
    chains: &'static [Chain],
    rules: fn() -> Vec<Rule>,
}

/// What packets go through.
const HOST: Part = Part {
    family: Family::Inet,
    word: "inet",
    sets: &sets::SETS,
    chains: &skeleton::CHAINS,
    rules: skeleton::rules,
};

/// What frames go through that come from containers.
const GUARD: Part = Part {
    family: Family::Bridge,
    word: "bridge",
    sets: &guard::SETS,
    chains: &guard::CHAINS,
    rules: guard::rules,
};

/// The socket that changes the tables, and owns them where the kernel has that.
#[derive(Debug)]
pub(super) struct Writer {
    socket: Socket,
    table: String,
    // `OWNER | PERSIST`, or nothing.
    flags: u32,
    /// Whether the kernel filters frames of bridges.
    guards: bool,
    /// Links between which nothing is forwarded.
    closed: Closed,
}

/// The table as the kernel has it.
#[derive(Debug, Default)]
struct Found {
    flags: u32,
    owner: Option<u32>,
    version: Option<String>,
    // Chain and comment of every rule, in the order of the kernel's list.
    rules: Vec<(String, String)>,
}

impl Writer {
    pub(super) fn open(
        table: &str,
        owner: Option<OwnedFd>,
        ownership: Ownership,
    ) -> Result<Self, NftError> {
        let socket = match owner {
            Some(fd) => Socket::adopt(fd),
            None => Socket::open(NETLINK_NETFILTER),
        };
        let socket = socket.map_err(|source| NftError::Socket { verb: "open", source })?;
        let flags = match ownership {
            Ownership::Preferred => OWNER | PERSIST,
            Ownership::Declined => 0,
        };
        let mut writer = Self {
            socket,
            table: table.to_owned(),
            flags,
            guards: true,
            closed: Closed::default(),
        };
        writer.install_or_go_without_owner()?;
        writer.install_user_table()?;
        Ok(writer)
    }

    pub(super) fn port(&self) -> u32 {
        self.socket.port()
    }

    pub(super) fn name(&self) -> String {
        self.name_of(&HOST)
    }

    fn name_of(&self, part: &Part) -> String {
        format!("{} {}", part.word, self.table)
    }

    /// Whether the kernel has the tables of a family.
    pub(super) fn has(&self, family: Family) -> bool {
        self.guards || family != GUARD.family
    }

    pub(super) fn owner_socket(&self) -> Option<OwnedFd> {
        if self.flags & OWNER == 0 {
            return None;
        }
        self.socket.try_clone().ok()
    }

    /// Commits a batch. `Err` within `Ok` is the kernel's refusal of some of the messages.
    pub(super) fn commit(
        &mut self,
        batch: TableBatch<'_>,
    ) -> Result<Result<(), Refusal>, NftError> {
        self.socket.transact(batch.batch).map_err(|source| NftError::Socket { verb: "use", source })
    }

    /// Removes our tables.
    pub(super) fn remove_tables(&mut self) -> Result<(), NftError> {
        for part in self.parts() {
            let table = self.table.clone();
            let mut batch = TableBatch::new(part.family, &table);
            batch.remove_table();
            match self.commit(batch)? {
                Err(refusal) if !is(&refusal, libc::ENOENT) => {
                    return Err(self.refused("remove", part, refusal));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Has nothing forwarded between links, whether the table knows them or not.
    pub(super) fn close(&mut self, links: Closed) -> Result<(), NftError> {
        self.closed = links;
        if self.closed.is_empty() {
            return Ok(());
        }
        let table = self.table.clone();
        let mut batch = TableBatch::new(HOST.family, &table);
        self.closed.iter().flat_map(element::closed).for_each(|entry| batch.ensure_entry(&entry));
        self.commit(batch)?.map_err(|refusal| self.refused("change", &HOST, refusal))
    }

    fn parts(&self) -> &'static [&'static Part] {
        if self.guards { &[&HOST, &GUARD] } else { &[&HOST] }
    }

    /// Removes the users' table, unless somebody put a rule into it.
    pub(super) fn remove_user_table(&mut self) -> Result<(), NftError> {
        let table = self.user_table();
        let found = self.socket.dump(
            encoder::query(GETRULE, Family::Inet),
            |request| request.text(NFTA_RULE_TABLE, &table),
            |message| message.attributes().text(NFTA_RULE_CHAIN).map(str::to_owned),
        );
        match found {
            Ok(rules) if rules.is_empty() => {}
            Ok(_) => return Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(()),
            Err(source) => return Err(user_error("list", &table, source)),
        }
        let mut batch = TableBatch::new(Family::Inet, &table);
        batch.remove_table();
        match self.commit(batch)? {
            Err(refusal) if !is(&refusal, libc::ENOENT) => {
                Err(user_error("remove", &table, first(refusal)))
            }
            _ => Ok(()),
        }
    }

    /// All elements of our sets; those of a set that is missing are none.
    pub(super) fn list(&mut self) -> Result<Vec<(Element, Value)>, NftError> {
        let mut elements = Vec::new();
        for part in self.parts() {
            elements.extend(self.list_part(part)?);
        }
        Ok(elements)
    }

    fn list_part(&mut self, part: &Part) -> Result<Vec<(Element, Value)>, NftError> {
        let mut elements = Vec::new();
        for set in part.sets {
            let listed = self.socket.dump(
                encoder::query(GETSETELEM, part.family),
                |request| encoder::name_set(request, &self.table, set.name),
                |message| Some(encoder::listed(message.attributes()).collect::<Vec<_>>()),
            );
            match listed {
                Ok(messages) => elements.extend(element::decode(set, &messages.concat())),
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
                Err(source) => return Err(self.unreadable(part, source)),
            }
        }
        Ok(elements)
    }

    fn install_or_go_without_owner(&mut self) -> Result<(), NftError> {
        match self.install() {
            Err(NftError::Table { source, .. }) if self.flags != 0 && is_unsupported(&source) => {
                tracing::warn!(
                    table = self.table,
                    "this kernel has no persistent table ownership (Linux 6.9): \
                     a foreign `nft flush ruleset` is noticed and repaired, but not prevented"
                );
                self.flags = 0;
                self.install().map(drop)
            }
            other => other.map(drop),
        }
    }

    /// Has the constant part as it should be, and owned. Returns the families of the tables that were
    /// made anew.
    pub(super) fn install(&mut self) -> Result<Vec<Family>, NftError> {
        let mut anew = Vec::new();
        for part in self.parts() {
            match self.install_part(part) {
                Ok(made) => anew.extend(made.then_some(part.family)),
                Err(NftError::Table { source, .. })
                    if part.family == GUARD.family && is_unsupported(&source) =>
                {
                    tracing::warn!(
                        table = self.table,
                        "this kernel does not filter the frames of bridges (NF_TABLES_BRIDGE): \
                         containers can forge addresses of their neighbours"
                    );
                    self.guards = false;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(anew)
    }

    fn install_part(&mut self, part: &Part) -> Result<bool, NftError> {
        let table = self.table.clone();
        let mut batch = TableBatch::new(part.family, &table);
        let mut kept = Vec::new();
        if let Some(found) = self.find(part)? {
            let is_ours = found.owner == Some(self.port());
            if let Some(port) = found.owner.filter(|_| !is_ours) {
                return Err(owned(table, Some(port)));
            }
            let is_orphan = found.owner.is_none() && found.flags & PERSIST != 0;
            match (found.is_current(part), is_ours || self.flags == 0) {
                (true, true) => return Ok(false),
                (true, false) if is_orphan => {
                    batch.add_table(self.flags, None);
                    self.commit(batch)?.map_err(|refusal| self.refused("adopt", part, refusal))?;
                    return Ok(false);
                }
                _ => {}
            }
            kept = self.list_part(part)?;
            batch.remove_table();
        }
        let ownership = batch.add_table(self.flags, Some(&version(part)));
        encode_constants(part, &mut batch);
        if part.family == HOST.family {
            self.closed
                .iter()
                .flat_map(element::closed)
                .for_each(|entry| batch.ensure_entry(&entry));
        }
        for entry in kept.iter().filter_map(|(key, value)| element::entries(key, value)).flatten() {
            batch.add_entry(&entry);
        }
        self.commit(batch)?.map_err(|refusal| match refusal.0.get(&ownership) {
            Some(error) if self.flags != 0 && is_unsupported(error) => {
                self.refused(OWN, part, refusal)
            }
            _ => self.refused("install", part, refusal),
        })?;
        Ok(true)
    }

    /// The users' chains. What is there once is theirs.
    fn install_user_table(&mut self) -> Result<(), NftError> {
        let table = self.user_table();
        let mut batch = TableBatch::new(Family::Inet, &table);
        batch.create_table("yours: rnet made it and never changes it");
        for chain in &USER_CHAINS {
            batch.add_chain(chain);
        }
        match self.commit(batch)? {
            Err(refusal) if !is(&refusal, libc::EEXIST) => {
                Err(user_error("install", &table, first(refusal)))
            }
            _ => Ok(()),
        }
    }

    fn user_table(&self) -> String {
        format!("{}-user", self.table)
    }

    fn find(&mut self, part: &Part) -> Result<Option<Found>, NftError> {
        let mut found = None;
        let answer = self.socket.request(
            encoder::query(GETTABLE, part.family),
            |request| request.text(NFTA_TABLE_NAME, &self.table),
            |message| {
                let table = message.attributes();
                let version = table.find(NFTA_TABLE_USERDATA).and_then(encoder::comment);
                found = Some(Found {
                    flags: table.number(NFTA_TABLE_FLAGS).unwrap_or_default(),
                    owner: table.number(NFTA_TABLE_OWNER),
                    version: version.map(str::to_owned),
                    rules: Vec::new(),
                });
            },
        );
        match answer {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
            other => other.map_err(|source| self.unreadable(part, source))?,
        }
        let rules = self.socket.dump(
            encoder::query(GETRULE, part.family),
            |request| request.text(NFTA_RULE_TABLE, &self.table),
            |message| {
                let rule = message.attributes();
                let comment = rule.find(NFTA_RULE_USERDATA).and_then(encoder::comment);
                Some((
                    rule.text(NFTA_RULE_CHAIN)?.to_owned(),
                    comment.unwrap_or_default().to_owned(),
                ))
            },
        );
        let rules = rules.map_err(|source| self.unreadable(part, source))?;
        Ok(found.map(|found| Found { rules, ..found }))
    }

    fn unreadable(&self, part: &Part, source: io::Error) -> NftError {
        NftError::Table { verb: "list", table: self.name_of(part), source }
    }

    fn refused(&self, verb: &'static str, part: &Part, refusal: Refusal) -> NftError {
        if is(&refusal, libc::EPERM) && self.flags & OWNER != 0 {
            return owned(self.table.clone(), None);
        }
        NftError::Table { verb, table: self.name_of(part), source: first(refusal) }
    }
}

/// The error about a table of somebody else, whose socket has this number.
fn owned(table: String, port: Option<u32>) -> NftError {
    let holders = port.and_then(holder::holders);
    NftError::Owned { table, holders: holders.unwrap_or_else(|| "unknown".to_owned()) }
}

fn user_error(verb: &'static str, table: &str, source: io::Error) -> NftError {
    NftError::Table { verb, table: format!("inet {table}"), source }
}

impl Found {
    /// Whether chains and rules are those of this program, untouched.
    fn is_current(&self, part: &Part) -> bool {
        let mut expected: Vec<_> = (part.rules)()
            .iter()
            .map(|rule| (rule.chain.to_owned(), rule.comment.to_owned()))
            .collect();
        let mut found = self.rules.clone();
        // The kernel lists chain by chain; the order within a chain is what counts.
        expected.sort_by(|a, b| a.0.cmp(&b.0));
        found.sort_by(|a, b| a.0.cmp(&b.0));
        self.flags & !(OWNER | PERSIST) == 0
            && self.version.as_deref() == Some(version(part).as_str())
            && found == expected
    }
}

fn encode_constants(part: &Part, batch: &mut TableBatch<'_>) {
    for (id, set) in (1..).zip(part.sets) {
        batch.add_set(set, id);
    }
    for chain in part.chains {
        batch.add_chain(chain);
    }
    for rule in &(part.rules)() {
        batch.add_rule(rule);
    }
}

/// The comment of a table: two tables with the same one have the same constant part.
fn version(part: &Part) -> String {
    let mut batch = TableBatch::new(part.family, "");
    encode_constants(part, &mut batch);
    // FNV-1a: nobody forges this, it only has to differ when the rules do.
    let digest = batch.batch.content().iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{MARK}{digest:016x}")
}

pub(super) fn events() -> io::Result<OwnedFd> {
    let mut socket = netlink_sys::Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.set_rx_buf_sz(EVENT_BUFFER)?;
    socket.add_membership(NFNLGRP_NFTABLES)?;
    socket.as_fd().try_clone_to_owned()
}

/// Whether a datagram tells of a change of the table by anybody else than the socket of a port.
pub(super) fn tells_of(datagram: &[u8], table: &str, port: u32) -> bool {
    Received::all(datagram).any(|message| {
        let (subsystem, kind) = (message.kind >> 8, message.kind & 0xff);
        subsystem == SUBSYSTEM_NFTABLES
            && kind != NEWGEN
            && message.port != port
            && [HOST.family, GUARD.family]
                .iter()
                .any(|f| message.payload().first() == Some(&(*f as u8)))
            && message.attributes().text(NFTA_TABLE_NAME) == Some(table)
    })
}

fn is(refusal: &Refusal, code: i32) -> bool {
    refusal.0.values().any(|error| error.raw_os_error() == Some(code))
}

fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EAFNOSUPPORT | libc::EINVAL))
}

fn first(refusal: Refusal) -> io::Error {
    refusal.0.into_values().next().unwrap_or_else(|| io::ErrorKind::Other.into())
}
