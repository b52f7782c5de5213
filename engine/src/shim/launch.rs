//! Calling an OCI runtime.

use std::io;
use std::os::fd::OwnedFd;
use std::process::Command;

use super::protocol::{RuntimeCommand, View};
use super::system;

/// The command up to its subcommand.
pub fn command(runtime: &RuntimeCommand) -> Command {
    let mut command = bare(runtime);
    if runtime.hide_hybrid {
        system::with_mounts(&mut command, true, None);
    }
    command
}

/// The same for a container whose root file system is a mount of its own.
pub(super) fn with_view(
    runtime: &RuntimeCommand,
    root: OwnedFd,
    view: &View,
) -> io::Result<Command> {
    let mut command = bare(runtime);
    let scene = system::Scene::new(root, view)?;
    system::with_mounts(&mut command, runtime.hide_hybrid, Some(scene));
    Ok(command)
}

fn bare(runtime: &RuntimeCommand) -> Command {
    let mut command = Command::new(&runtime.program);
    command.args(&runtime.arguments).arg("--root").arg(&runtime.root);
    command
}
