//! `rnet-dns`: answers names in sandboxes, and keeps sockets for the daemon.

use std::io::Write;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use dns::log::Log;
use dns::process::{self, Options};
use tracing::Level;

const USAGE: &str = "\
Usage: rnet-dns --socket PATH [OPTIONS]

Answers names in the sandboxes of an rnet daemon, and outlives it.

Options:
  --socket PATH        Control socket; made with mode 0600
  --resolv-conf PATH   File with the host's resolvers (default /etc/resolv.conf)
  --upstream-port N    Port that resolvers are asked at (default 53)
  --user UID           User to become when started as root; 0 stays root (default 64053)
  --log-level LEVEL    error, warn, info, debug or trace (default info)
  --help, --version
";

/// A user that no distribution gives to anybody.
const USER: u32 = 64_053;

enum Command {
    Run(Options, Level),
    Print(String),
}

fn main() -> ExitCode {
    match parse(std::env::args().skip(1)).and_then(execute) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "rnet-dns: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn execute(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Print(text) => Ok(std::io::stdout().write_all(text.as_bytes())?),
        Command::Run(options, level) => {
            let log = std::io::stderr().as_fd().try_clone_to_owned().context("cannot log")?;
            tracing_subscriber::fmt()
                .with_max_level(level)
                .with_writer(std::sync::Mutex::new(Log::of(log)))
                .with_ansi(false)
                .with_target(false)
                // The log's reader may go away; that must not end this process.
                .log_internal_errors(false)
                .init();
            Ok(process::run(options)?)
        }
    }
}

fn parse(mut arguments: impl Iterator<Item = String>) -> anyhow::Result<Command> {
    let mut socket = None;
    let mut options = Options {
        socket: PathBuf::new(),
        resolv_conf: PathBuf::from("/etc/resolv.conf"),
        upstream_port: 53,
        user: USER,
    };
    let mut level = Level::INFO;
    while let Some(argument) = arguments.next() {
        let (flag, inline) = match argument.split_once('=') {
            Some((flag, value)) => (flag.to_owned(), Some(value.to_owned())),
            None => (argument, None),
        };
        let mut value = || {
            inline
                .clone()
                .or_else(|| arguments.next())
                .with_context(|| format!("{flag} needs a value"))
        };
        match flag.as_str() {
            "--socket" => socket = Some(PathBuf::from(value()?)),
            "--resolv-conf" => options.resolv_conf = value()?.into(),
            "--upstream-port" => {
                options.upstream_port = value()?.parse().context("--upstream-port")?;
            }
            "--user" => options.user = value()?.parse().context("--user")?,
            "--log-level" => level = value()?.parse().context("--log-level")?,
            "--help" | "-h" => return Ok(Command::Print(USAGE.to_owned())),
            "--version" => {
                return Ok(Command::Print(format!("rnet-dns {}\n", env!("CARGO_PKG_VERSION"))));
            }
            _ => bail!("unknown argument {flag}: see rnet-dns --help"),
        }
    }
    options.socket = socket.context("--socket is missing: see rnet-dns --help")?;
    Ok(Command::Run(options, level))
}
