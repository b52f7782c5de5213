//! What is remembered of a cluster that was joined.

use std::net::IpAddr;

use cluster::Place;
use cnm::Store;
use cnm::store::record::{self, Reading, Record};
use serde::{Deserialize, Serialize};

use engine_error::Result;

/// The record's key.
pub(super) const KEY: &str = "meta/joined";

/// A cluster that this host is in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Joined {
    /// Where its store is.
    pub(super) place: Place,
    /// The address for the others, or the interface that has it, as the user named it.
    #[serde(default)]
    pub(super) advertise: Option<String>,
    /// The address that it was last.
    #[serde(default)]
    pub(super) address: Option<IpAddr>,
}

impl Record for Joined {
    const VERSION: u32 = 1;
}

pub(super) fn encode(joined: &Joined) -> Vec<u8> {
    record::encode(joined)
}

/// What was joined, if that can be read.
pub(super) fn read(store: &dyn Store) -> Result<Option<Joined>> {
    let mut reading = Reading::new(store);
    let joined = reading.get_with(KEY, record::decode::<Joined>)?;
    for unreadable in reading.finish() {
        tracing::error!(record = unreadable.key, "{}", unreadable.why);
    }
    Ok(joined)
}
