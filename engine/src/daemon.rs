//! The daemon: listeners, signals, start and end.
//!
//! It is the composition root of `rnet daemon` and `dockerd`: configuration in, exit code out.
//! Containers do not end with it.

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::api::{Api, listener, server, system};
use crate::config::flags::ParseError;
use crate::config::{Config, Invocation, Request, parse};
use crate::core::Engine;
use tree::IdMap;

mod cgroups;
pub mod log;
mod memory;
mod metrics;
pub mod notify;
pub mod pidfile;
mod reload;
mod remap;
mod selinux;
pub mod settings;

use log::Logger;
use pidfile::Pidfile;

/// Runs the daemon as its command line says, the program's name first.
pub fn main(invocation: Invocation, arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let config = match parse(invocation, arguments.iter().cloned()) {
        Ok(Request::Run(config)) => *config,
        Ok(Request::Validate) => {
            say(&mut std::io::stdout(), "configuration OK");
            return ExitCode::SUCCESS;
        }
        Err(ParseError::Usage(usage)) => {
            // A closed stdout is no failure of ours.
            let _ = usage.print();
            return ExitCode::from(u8::from(usage.use_stderr()));
        }
        Err(ParseError::Config(error)) => {
            say(&mut std::io::stderr(), &format!("rnet daemon: {error}"));
            return ExitCode::FAILURE;
        }
    };
    memory::bound();
    let logger = log::start(config.log);
    let again = || match parse(invocation, arguments.iter().cloned()) {
        Ok(Request::Run(config)) => Ok(*config),
        Ok(Request::Validate) => anyhow::bail!("nothing is to run"),
        Err(error) => Err(error.into()),
    };
    match start(config, &again, logger) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn say(stream: &mut dyn Write, text: &str) {
    // Nobody to tell is no reason to fail.
    let _ = writeln!(stream, "{text}");
}

/// Reads the configuration once more.
type Reader<'a> = dyn Fn() -> anyhow::Result<Config> + 'a;

/// All that must be there before the first task, then the run itself.
fn start(mut config: Config, again: &Reader<'_>, logger: Logger) -> anyhow::Result<()> {
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    if !nix::unistd::geteuid().is_root() {
        anyhow::bail!("the daemon changes the network and must be started as root");
    }
    if let Some(why) = selinux::refusal(config.selinux, Path::new(selinux::PLACE)) {
        anyhow::bail!(why);
    }
    if let Some(warning) = cgroups::provide() {
        tracing::error!("{warning}");
    }
    raise_descriptor_limit();
    // What the daemon makes is for itself, unless it says otherwise.
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    let wanted = config.given.text("userns-remap").unwrap_or_default();
    let remap = remap::find(wanted, Path::new("/etc"))?;
    if let Some(map) = &remap {
        // What such a daemon keeps belongs to other users: it has a place of its own, as in Docker.
        let (uid, gid) = map.root();
        config.data_root.push(format!("{uid}.{gid}"));
        tracing::info!(uid, gid, "root of containers");
    }
    let pidfile = Pidfile::take(&config.pidfile)?;
    // With two providers compiled in, the first one asked for counts.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ended = runtime.block_on(run(config, remap, again, logger));
    runtime.shutdown_timeout(Duration::from_secs(1));
    drop(pidfile);
    ended
}

/// Thousands of containers need more than the soft limit of a login shell.
fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

async fn run(
    config: Config,
    remap: Option<IdMap>,
    again: &Reader<'_>,
    logger: Logger,
) -> anyhow::Result<()> {
    // Listeners first: two daemons on one socket must not both touch the state.
    let listeners = listener::bind_all(&config)?;
    let figures = match config.metrics {
        Some(address) => Some(metrics::bind(address).await?),
        None => None,
    };
    let mut signals = Signals::new()?;
    let engine = Engine::open(settings::of(&config, remap))
        .await
        .map_err(|error| anyhow::anyhow!("cannot open the engine: {}", error.chain()))?;
    let api = Api::new(engine.clone(), config);
    let tasks = server::Tasks::default();
    let mut stop = api.stop.subscribe();
    for listener in listeners {
        tracing::info!(address = %listener, "listening");
        tokio::spawn(server::serve(api.clone(), listener, api.stop.subscribe(), tasks.clone()));
    }
    if let Some(figures) = figures {
        tokio::spawn(metrics::serve(figures, engine.clone()));
    }
    tokio::spawn(memory::watch());
    notify::ready();
    tracing::info!(version = env!("CARGO_PKG_VERSION"), pid = std::process::id(), "ready");
    loop {
        tokio::select! {
            _ = signals.interrupt.recv() => break,
            _ = signals.terminate.recv() => break,
            _ = stop.wait_for(|stop| *stop) => break,
            _ = signals.hangup.recv() => reload(&api, again, &logger),
        }
    }
    notify::stopping();
    end(&api, engine, &tasks).await;
    Ok(())
}

/// Lets requests under way finish, within the time that the configuration gives them.
async fn end(api: &Arc<Api>, engine: Arc<Engine>, tasks: &server::Tasks) {
    tracing::info!("stopping; containers go on");
    api.stop.send_replace(true);
    engine.builds.stop();
    let left = tasks.end(Duration::from_secs(api.config().shutdown_timeout)).await;
    if left > 0 {
        tracing::warn!(left, "requests did not finish in time");
    }
    engine.close().await;
    tracing::info!("stopped");
}

/// SIGHUP: reads flags and the configuration file again, and does at once what can be done at once.
fn reload(api: &Api, again: &Reader<'_>, logger: &Logger) {
    notify::reloading();
    match again() {
        Ok(new) => {
            let old = api.config();
            let late = old.needs_restart(&new);
            let config = old.reloaded(&new);
            logger.set(config.log.level);
            api.engine.images.reconfigure(settings::images(&config));
            api.engine.settings.runtimes.set(settings::runtimes(&config));
            let attributes = reload::attributes(&api.engine.settings, &config);
            let id = system::id(&config.data_root);
            api.reconfigure(config);
            api.engine.events.publish("daemon", "reload", &id, attributes);
            tracing::info!("configuration read again");
            if !late.is_empty() {
                tracing::warn!(options = late.join(", "), "these take effect at the next start");
            }
        }
        Err(error) => tracing::error!("configuration not changed: {error:#}"),
    }
    notify::ready();
}

/// The signals that a daemon hears.
#[derive(Debug)]
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }
}
