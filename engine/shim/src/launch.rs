//! Calling an OCI runtime.

use std::process::Command;

use super::protocol::RuntimeCommand;
use super::system::{self, Scene};

/// The command up to its subcommand.
pub fn command(runtime: &RuntimeCommand) -> Command {
    let mut command = bare(runtime);
    if runtime.hide_hybrid {
        system::hide_hybrid(&mut command);
    }
    command
}

/// The same for a container whose root file system is a mount of its own.
pub(super) fn with_view(runtime: &RuntimeCommand, scene: Scene) -> Command {
    let mut command = bare(runtime);
    scene.enter(&mut command);
    command
}

fn bare(runtime: &RuntimeCommand) -> Command {
    let mut command = Command::new(&runtime.program);
    command.args(&runtime.arguments).arg("--root").arg(&runtime.root);
    command
}
