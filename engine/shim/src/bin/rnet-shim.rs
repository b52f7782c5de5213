//! `rnet-shim`: the parent of one container. Started by the daemon, told what to do on its stdin.

use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(ended) = shim::namespaces::main(std::env::args_os().skip(1)) {
        return ended;
    }
    if std::env::args_os().nth(1).is_some() {
        return shim::run::usage();
    }
    shim::run::main()
}
