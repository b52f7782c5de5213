//! Calling an OCI runtime.

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;

use super::protocol::RuntimeCommand;
use super::system;

/// The command up to its subcommand.
pub fn command(runtime: &RuntimeCommand) -> Command {
    let mut command = bare(runtime);
    if runtime.hide_hybrid {
        system::with_mounts(&mut command, true, None);
    }
    command
}

/// The same for a container whose root file system is a mount of its own, to be attached at a
/// path.
pub(super) fn with_root(runtime: &RuntimeCommand, root: OwnedFd, at: &Path) -> io::Result<Command> {
    let mut command = bare(runtime);
    let at = CString::new(at.as_os_str().as_bytes())?;
    system::with_mounts(&mut command, runtime.hide_hybrid, Some((root, at)));
    Ok(command)
}

fn bare(runtime: &RuntimeCommand) -> Command {
    let mut command = Command::new(&runtime.program);
    command.args(&runtime.arguments).arg("--root").arg(&runtime.root);
    command
}
