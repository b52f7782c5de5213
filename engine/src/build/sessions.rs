//! What clients hand over for the steps of a build of theirs: secrets, and ways to SSH agents that they
//! reach. All of it is in memory, is told to nobody but the steps that ask for it, and is gone with the
//! client's connection.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dockerfile::LARGEST_SECRET;
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use engine_error::{Error, Result};

/// The most bytes of all secrets of a build.
pub const LARGEST_OF_ALL: usize = 2 << 20;
/// How many clients have something handed over at the same time.
const MOST: usize = 64;
/// How many secrets or agents a client may name.
const MOST_NAMES: usize = 256;
/// How many lines to one agent wait for somebody who needs one.
const LINES: usize = 4;

/// Bytes that nobody is told.
#[derive(Clone)]
pub struct Secret(Arc<[u8]>);

/// What one client hands over.
#[derive(Debug, Default)]
pub struct Handover {
    /// Secrets by their ids.
    pub secrets: BTreeMap<String, Secret>,
    /// Agents by theirs.
    pub agents: BTreeSet<String>,
}

/// Lines to an agent: each is one connection to it.
pub(super) type Lines = Arc<tokio::sync::Mutex<mpsc::Receiver<UnixStream>>>;

#[derive(Debug)]
struct Entry {
    secrets: BTreeMap<String, Secret>,
    agents: BTreeMap<String, (mpsc::Sender<UnixStream>, Lines)>,
}

type Table = BTreeMap<String, Entry>;

/// All of them, by the names of builds.
#[derive(Debug, Default)]
pub struct Sessions(Arc<Mutex<Table>>);

/// A build's steps have what was handed over until this is dropped.
#[derive(Debug)]
pub struct Session {
    build: String,
    table: Arc<Mutex<Table>>,
}

impl Secret {
    /// Takes bytes for a secret.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Sessions {
    /// Takes what a client hands over for a build.
    pub fn open(&self, build: &str, handover: Handover) -> Result<Session> {
        let Handover { secrets, agents } = handover;
        if build.is_empty() {
            return Err(Error::invalid("build ID not provided"));
        }
        let sizes = || secrets.values().map(|secret| secret.bytes().len());
        if let Some((id, _)) =
            secrets.iter().find(|(_, secret)| secret.bytes().len() > LARGEST_SECRET)
        {
            let text = format!("secret {id} is larger than {LARGEST_SECRET} bytes");
            return Err(Error::invalid(text));
        }
        if sizes().sum::<usize>() > LARGEST_OF_ALL || secrets.len() + agents.len() > MOST_NAMES {
            return Err(Error::invalid("more secrets are handed over than a build may have"));
        }
        let mut table = locked(&self.0);
        if table.contains_key(build) {
            return Err(Error::conflict(format!(
                "something is handed over to build {build} already"
            )));
        }
        if table.len() >= MOST {
            return Err(Error::conflict("secrets are handed over to too many builds at a time"));
        }
        let lines = |agent| {
            let (sender, receiver) = mpsc::channel(LINES);
            (agent, (sender, Arc::new(tokio::sync::Mutex::new(receiver))))
        };
        let agents = agents.into_iter().map(lines).collect();
        table.insert(build.to_owned(), Entry { secrets, agents });
        Ok(Session { build: build.to_owned(), table: Arc::clone(&self.0) })
    }

    /// Takes a line to an agent, for whoever needs the next one.
    pub fn offer(&self, build: &str, agent: &str, line: UnixStream) -> Result<()> {
        let table = locked(&self.0);
        let known = table.get(build).and_then(|entry| entry.agents.get(agent));
        let Some((lines, _)) = known else {
            return Err(Error::not_found(format!(
                "no agent {agent} is handed over to build {build}"
            )));
        };
        let full = |_| Error::conflict(format!("enough lines to agent {agent} wait already"));
        lines.try_send(line).map_err(full)
    }

    pub(super) fn secret(&self, build: &str, id: &str) -> Option<Secret> {
        locked(&self.0).get(build)?.secrets.get(id).cloned()
    }

    pub(super) fn agent(&self, build: &str, id: &str) -> Option<Lines> {
        locked(&self.0).get(build)?.agents.get(id).map(|(_, lines)| Arc::clone(lines))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        locked(&self.table).remove(&self.build);
    }
}

fn locked(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handover(size: usize) -> Handover {
        let secrets = [("id".to_owned(), Secret::new(vec![b'x'; size]))].into();
        Handover { secrets, agents: ["default".to_owned()].into() }
    }

    #[tokio::test]
    async fn what_is_handed_over_is_one_build_s_and_goes_with_its_client() {
        let sessions = Sessions::default();
        let session = sessions.open("b", handover(3)).unwrap();
        assert_eq!(sessions.secret("b", "id").unwrap().bytes(), b"xxx");
        assert!(sessions.secret("b", "other").is_none() && sessions.secret("c", "id").is_none());
        assert!(sessions.open("b", handover(1)).is_err(), "it is another client's");
        let line = || UnixStream::pair().unwrap().0;
        assert!(sessions.offer("b", "other", line()).is_err());
        let taken = (0..=LINES).filter(|_| sessions.offer("b", "default", line()).is_ok()).count();
        assert_eq!(taken, LINES);
        let lines = sessions.agent("b", "default").unwrap();
        drop(session);
        assert!(sessions.secret("b", "id").is_none());
        let mut lines = lines.lock().await;
        for _ in 0..LINES {
            assert!(lines.recv().await.is_some());
        }
        assert!(lines.recv().await.is_none(), "nobody waits for a client that has left");
    }

    #[test]
    fn neither_one_secret_nor_all_of_them_are_without_bounds() {
        let sessions = Sessions::default();
        assert!(sessions.open("", handover(1)).is_err());
        assert!(sessions.open("b", handover(LARGEST_SECRET + 1)).is_err());
        let all: Vec<_> =
            (0..MOST).map(|at| sessions.open(&at.to_string(), handover(1)).unwrap()).collect();
        assert!(sessions.open("b", handover(1)).is_err());
        drop(all);
        let open = sessions.open("b", handover(LARGEST_SECRET)).unwrap();
        assert!(!format!("{sessions:?} {open:?}").contains("xx"), "it is in no log");
    }
}
