//! `rnet`: the command line, and with `daemon` or under the name `dockerd` the daemon.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use engine::config::Invocation;

fn main() -> ExitCode {
    let mut arguments: Vec<OsString> = std::env::args_os().collect();
    let name = arguments.first().map(|program| Path::new(program).file_name().map(OsString::from));
    if name.flatten().is_some_and(|name| name == "dockerd") {
        return engine::daemon::main(Invocation::Dockerd, arguments);
    }
    if arguments.get(1).is_some_and(|command| command == "daemon") {
        arguments.remove(1);
        return engine::daemon::main(Invocation::Rnet, arguments);
    }
    engine::cli::main(&arguments)
}
