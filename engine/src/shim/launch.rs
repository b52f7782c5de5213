//! Calling an OCI runtime.

use std::process::Command;

use super::protocol::RuntimeCommand;
use super::system;

/// The command up to its subcommand.
pub fn command(runtime: &RuntimeCommand) -> Command {
    let mut command = Command::new(&runtime.program);
    command.args(&runtime.arguments).arg("--root").arg(&runtime.root);
    if runtime.hide_hybrid {
        system::hide_hybrid(&mut command);
    }
    command
}
