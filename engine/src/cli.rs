//! The command line `rnet`: a client of the API.
//!
//! Grammar, output and exit codes are those of the `docker` command, so that scripts and fingers
//! work unchanged. Standard output is data; everything else goes to standard error. Nothing here
//! knows the engine: all that is shown came over the socket.

mod attach;
mod build;
mod changes;
mod client;
mod cluster;
mod commands;
mod container;
mod context;
mod copy;
mod create;
mod credentials;
mod docker_config;
mod error;
mod events;
mod exec;
mod image;
mod inspect;
mod list;
mod login;
mod logs;
mod manifest;
mod network;
mod port;
mod ports;
mod preferences;
mod run;
mod search;
mod ssh;
mod stats;
mod swarm;
mod system;
mod table;
mod template;
mod terminal;
mod tls;
mod transfer;
mod units;
mod update;
mod volume;

use std::ffi::OsString;
use std::io::Write;
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use futures_util::FutureExt;

use self::client::Client;
use self::commands::{Cli, Command};
use self::error::CliError;

/// What commands return: the exit code, or what went wrong.
type Outcome = Result<u8, CliError>;

/// Runs the command line and returns its exit code.
pub fn main(args: &[OsString]) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => return ExitCode::from(usage(&error)),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => {
            let outcome = runtime.block_on(dispatch(cli));
            // A read of the terminal that nobody ends must not keep the process.
            runtime.shutdown_background();
            outcome
        }
        Err(error) => Err(CliError::new(format!("cannot start: {error}"))),
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            if !error.message.is_empty() {
                complain(&error.message);
            }
            ExitCode::from(error.code)
        }
    }
}

/// The body of `POST /containers/create` that the words of `rnet create` ask for, or what is said of
/// them. Files that flags name are read.
pub fn create_body(words: &[&str]) -> Result<serde_json::Value, String> {
    let words = ["rnet", "create"].into_iter().chain(words.iter().copied());
    match Cli::try_parse_from(words).map_err(|error| error.to_string())?.command {
        Command::Create(args) => args.create.body(true).map_err(|error| error.message),
        other => Err(format!("not a container's: {other:?}")),
    }
}

/// A document as `inspect --format` shows it, or what is said of the template.
pub fn show(template: &str, document: &serde_json::Value) -> Result<String, String> {
    template::document(template, document).map_err(|error| error.message)
}

/// What a client shows of a container's frames: output and errors, and what it says if one is none.
pub fn unframed(bytes: &[u8]) -> (Vec<u8>, Vec<u8>, Result<(), String>) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut bytes = bytes;
    let done = attach::split(&mut bytes, &mut out, &mut err);
    // Nothing in memory is ever waited for.
    let done = done.now_or_never().unwrap_or(Ok(()));
    (out, err, done.map_err(|error| error.message))
}

async fn dispatch(cli: Cli) -> Outcome {
    let (host, context) = (cli.host.as_deref(), cli.context.as_deref());
    let wanted = context::Wanted { host, context };
    if let Command::Context(command) = cli.command {
        return context::command(&wanted, command);
    }
    let client = Arc::new(Client::new(context::resolve(&wanted)?, &cli.tls)?);
    match noun(&client, cli.command).await {
        ControlFlow::Break(outcome) => outcome,
        ControlFlow::Continue(command) => verb(&client, command).await,
    }
}

/// Does what begins with a noun; hands back what does not.
async fn noun(client: &Arc<Client>, command: Command) -> ControlFlow<Outcome, Command> {
    ControlFlow::Break(match command {
        Command::Builder(command) => build::command(client, command).await,
        Command::Cluster(command) => cluster::command(client, command).await,
        Command::Container(command) => container::command(client, command).await,
        Command::Image(command) => image::command(client, command).await,
        Command::Manifest(command) => manifest::command(command).await,
        Command::Network(command) => network::command(client, command).await,
        Command::Node(command) => cluster::node(client, command).await,
        Command::Swarm(command) => swarm::command(client, command).await,
        Command::System(command) => system::command(client, command).await,
        Command::Volume(command) => volume::command(client, command).await,
        other => return ControlFlow::Continue(other),
    })
}

async fn verb(client: &Arc<Client>, command: Command) -> Outcome {
    match command {
        Command::Attach(args) => attach::attach(client, args).await,
        Command::Build(args) => build::build(client, *args).await,
        Command::Commit(args) => changes::commit(client, args).await,
        Command::Cp(args) => copy::copy(client, args).await,
        Command::Create(args) => run::create(client, *args).await,
        Command::Diff(args) => changes::diff(client, args).await,
        Command::Export(args) => changes::export(client, args).await,
        Command::Events(args) => events::events(client, args).await,
        Command::Exec(args) => exec::exec(client, args).await,
        Command::History(args) => image::history(client, args).await,
        Command::Images(args) => image::list(client, args).await,
        Command::Import(args) => transfer::import(client, args).await,
        Command::Info(args) => system::info(client, args).await,
        Command::Inspect(args) => inspect::any(client, args).await,
        Command::Kill(args) => container::kill(client, args).await,
        Command::Load(args) => transfer::load(client, args).await,
        Command::Login(args) => login::login(client, args).await,
        Command::Logout(args) => login::logout(args).await,
        Command::Logs(args) => logs::logs(client, args).await,
        Command::Pause(args) => container::each(client, args, "pause").await,
        Command::Port(args) => port::command(client, args).await,
        Command::Ps(args) => list::ps(client, args).await,
        Command::Pull(args) => transfer::pull(client, args).await,
        Command::Push(args) => transfer::push(client, args).await,
        Command::Rename(args) => container::rename(client, args).await,
        Command::Restart(args) => container::restart(client, args).await,
        Command::Rm(args) => container::rm(client, args).await,
        Command::Rmi(args) => image::rm(client, args).await,
        Command::Run(args) => run::run(client, *args).await,
        Command::Save(args) => transfer::save(client, args).await,
        Command::Search(args) => search::search(client, args).await,
        Command::Start(args) => container::start(client, args).await,
        Command::Stats(args) => stats::stats(client, args).await,
        Command::Stop(args) => container::stop(client, args).await,
        Command::Tag(args) => image::tag(client, args).await,
        Command::Top(args) => container::top(client, args).await,
        Command::Unpause(args) => container::each(client, args, "unpause").await,
        Command::Update(args) => update::update(client, args).await,
        Command::Version(args) => system::version(client, args).await,
        Command::Wait(args) => container::wait(client, args).await,
        Command::Completion(args) => Ok(commands::completion(&args)),
        Command::Man(args) => commands::man(&args),
        Command::Daemon(_) => Err(CliError::new(
            "the daemon does not run inside the client: call `rnet daemon` by its own name",
        )),
        // `noun` has done these, and `dispatch` what needs no client.
        Command::Builder(_)
        | Command::Cluster(_)
        | Command::Container(_)
        | Command::Context(_)
        | Command::Image(_)
        | Command::Manifest(_)
        | Command::Network(_)
        | Command::Node(_)
        | Command::Swarm(_)
        | Command::System(_)
        | Command::Volume(_) => Err(CliError::new("the command is no verb")),
    }
}

/// Prints a usage error as the docker command does; 125 for flags, 1 for the rest.
fn usage(error: &clap::Error) -> u8 {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        _ => None,
    };
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let _ = error.print();
            0
        }
        ErrorKind::UnknownArgument => {
            let argument = context(ContextKind::InvalidArg).unwrap_or_default();
            complain(&unknown_flag(&argument));
            hint(error);
            125
        }
        ErrorKind::InvalidSubcommand => {
            let name = context(ContextKind::InvalidSubcommand).unwrap_or_default();
            complain(&format!("rnet: unknown command: {name}"));
            hint(error);
            1
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
        | ErrorKind::MissingRequiredArgument => {
            let _ = error.print();
            1
        }
        _ => {
            let _ = error.print();
            125
        }
    }
}

fn unknown_flag(argument: &str) -> String {
    let flag = argument.split_whitespace().next().unwrap_or(argument);
    if flag.starts_with("--") {
        format!("unknown flag: {flag}")
    } else {
        let letter = flag.trim_start_matches('-').chars().next().unwrap_or('-');
        format!("unknown shorthand flag: '{letter}' in {flag}")
    }
}

/// The usage line of the command, without the lines around it.
fn hint(error: &clap::Error) {
    let text = error.render().to_string();
    if let Some(usage) = text.lines().find(|line| line.starts_with("Usage:")) {
        complain(&format!("\n{usage}\n\nRun the command with '--help' for more information"));
    }
}

/// Does one thing to each of several objects, prints the names of those it worked for, and ends
/// with 1 if it failed for any.
async fn for_each<'a, F>(names: &'a [String], operation: impl Fn(&'a str) -> F) -> Outcome
where
    F: Future<Output = Result<String, CliError>>,
{
    let results = futures_util::future::join_all(names.iter().map(|name| operation(name))).await;
    let mut code = 0;
    for result in results {
        match result {
            Ok(line) => say(&line),
            Err(error) => {
                complain(&error.message);
                code = error.code;
            }
        }
    }
    Ok(code)
}

/// Writes a line to standard error.
fn complain(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Writes a line of data. A reader that went away ends the output and is no error.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}");
}

/// Asks a yes-or-no question on the terminal; only `y` is a yes.
fn confirmed(question: &str) -> bool {
    {
        let mut out = std::io::stdout().lock();
        let _ = write!(out, "{question} [y/N] ");
        let _ = out.flush();
    }
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).is_ok() && answer.trim().eq_ignore_ascii_case("y")
}
