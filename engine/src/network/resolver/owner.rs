//! The socket that owns the nf_tables table, which `rnet-dns` keeps between two daemons.

use std::os::fd::OwnedFd;
use std::path::Path;

use super::process::{Found, Program};
use engine_error::{Error, Result};

/// The owner socket that an earlier daemon left with the resolver. One who has it and does not give
/// it out is ended: the table stays in force, and can be owned anew.
pub(crate) fn take_owner(socket: &Path) -> Result<Option<OwnedFd>> {
    let program = Program::new(socket.to_owned(), "rnet-dns".into());
    match program.find() {
        Found::Nobody => Ok(None),
        Found::Answering(client, _) => Ok(client.take_owner()?),
        Found::Useless(process, error) => {
            tracing::warn!(error = Error::from(error).chain(), "a useless rnet-dns is ended");
            program.kill(&process)?;
            Ok(None)
        }
    }
}
