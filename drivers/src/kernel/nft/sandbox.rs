//! The table in a sandbox's own namespace, which leads port 53 of 127.0.0.11 to the resolver.
//!
//! The resolver listens on a high port, so that a container may serve DNS itself on all of its
//! addresses. The port is replaced in each packet, and back in those that answer: a rule of the kind
//! `nat` would have the kernel look for the connection of every packet of the container. One that
//! does so itself sees port 53 in both directions.

use std::io;
use std::net::Ipv4Addr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use cnm::Protocol;
use netlink_sys::protocols::NETLINK_NETFILTER;

use super::super::RESOLVER_PORT;
use super::super::nfnetlink::Socket;
use super::NftError;
use super::encoder::{self, GETRULE, NFTA_RULE_TABLE, NFTA_RULE_USERDATA, TableBatch};
use super::expression::Family;
use super::rule::Rule;
use super::skeleton::{Chain, Hook};

const TABLE: &str = "rnet-dns";
const COMMENT: &str = "rnet: names are answered on a high port";
const RESOLVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);
const DNS: u16 = 53;
/// After conntrack, if the container has it.
const ASKING: Chain = chain("asking", libc::NF_IP_PRI_MANGLE);
/// Before it.
const ANSWERS: Chain = chain("answers", libc::NF_IP_PRI_RAW);

const fn chain(name: &'static str, priority: i32) -> Chain {
    Chain { name, hook: Some(Hook { kind: "filter", number: libc::NF_INET_LOCAL_OUT, priority }) }
}

/// A socket in the network namespace of the thread that opened it.
///
/// The thread must be one that was made for that namespace; the value may be used from anywhere.
#[derive(Debug)]
pub struct SandboxTable {
    socket: Mutex<Socket>,
}

impl SandboxTable {
    /// Opens the socket.
    pub fn open() -> Result<Self, NftError> {
        let socket = Socket::open(NETLINK_NETFILTER)
            .map_err(|source| NftError::Socket { verb: "open", source })?;
        Ok(Self { socket: Mutex::new(socket) })
    }

    /// Installs the redirection; what is there of an earlier time is replaced.
    pub fn install(&self) -> Result<(), NftError> {
        let mut batch = TableBatch::new(Family::Ipv4, TABLE);
        batch.create_table(COMMENT);
        encode(&mut batch);
        match self.commit("install", batch) {
            // The socket would wait for what was removed to be gone (10 ms) when it is closed,
            // so nothing is removed for nothing.
            Err(error) if is(&error, libc::EEXIST) => {
                let mut batch = TableBatch::new(Family::Ipv4, TABLE);
                batch.remove_table();
                batch.create_table(COMMENT);
                encode(&mut batch);
                self.commit("install", batch)
            }
            other => other,
        }
    }

    /// Removes the redirection. It is no error if there is none.
    pub fn remove(&self) -> Result<(), NftError> {
        let mut batch = TableBatch::new(Family::Ipv4, TABLE);
        batch.remove_table();
        match self.commit("remove", batch) {
            Err(error) if is(&error, libc::ENOENT) => Ok(()),
            other => other,
        }
    }

    /// Whether the redirection is installed, and whole.
    pub fn is_installed(&self) -> Result<bool, NftError> {
        let found = self.socket().dump(
            encoder::query(GETRULE, Family::Ipv4),
            |request| request.text(NFTA_RULE_TABLE, TABLE),
            |message| {
                let userdata = message.attributes().find(NFTA_RULE_USERDATA)?;
                encoder::comment(userdata).map(str::to_owned)
            },
        );
        let found = found.map_err(|source| table_error("list", source))?;
        Ok(found.iter().eq(redirections().iter().map(|rule| rule.comment)))
    }

    fn commit(&self, verb: &'static str, batch: TableBatch<'_>) -> Result<(), NftError> {
        let outcome = self.socket().transact(batch.batch);
        let outcome = outcome.map_err(|source| NftError::Socket { verb: "use", source })?;
        outcome.map_err(|refusal| {
            let source = refusal.0.into_values().next();
            table_error(verb, source.unwrap_or_else(|| io::ErrorKind::Other.into()))
        })
    }

    fn socket(&self) -> MutexGuard<'_, Socket> {
        self.socket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn encode(batch: &mut TableBatch<'_>) {
    batch.add_chain(&ASKING);
    batch.add_chain(&ANSWERS);
    for rule in &redirections() {
        batch.add_rule(rule);
    }
}

fn is(error: &NftError, code: i32) -> bool {
    matches!(error, NftError::Table { source, .. } if source.raw_os_error() == Some(code))
}

fn redirections() -> [Rule; 4] {
    let there = |comment, protocol| {
        Rule::new(ASKING.name, comment)
            .destination_is(RESOLVER)
            .destination_port_is(protocol, DNS)
            .write_destination_port(protocol, RESOLVER_PORT)
    };
    let back = |comment, protocol| {
        Rule::new(ANSWERS.name, comment)
            .source_is(RESOLVER)
            .source_port_is(protocol, RESOLVER_PORT)
            .write_source_port(protocol, DNS)
    };
    [
        there("to the resolver", Protocol::Udp),
        there("to the resolver, for long answers", Protocol::Tcp),
        back("as from who was asked", Protocol::Udp),
        back("as from who was asked, for long answers", Protocol::Tcp),
    ]
}

fn table_error(verb: &'static str, source: io::Error) -> NftError {
    NftError::Table { verb, table: format!("ip {TABLE}"), source }
}
