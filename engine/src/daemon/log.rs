//! The daemon's own log, on stderr.

use std::io::IsTerminal;

use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt, reload};

use crate::config::{Level, Log, LogFormat};

/// Changes the level of a log that runs.
#[derive(Debug)]
pub struct Logger {
    level: reload::Handle<LevelFilter, Registry>,
}

/// Starts to log. Only the first call of a process has an effect.
pub fn start(log: Log) -> Logger {
    let (filter, level) = reload::Layer::new(filter(log.level));
    let plain = fmt::layer().with_writer(std::io::stderr);
    let lines = match log.format {
        LogFormat::Json => plain.json().boxed(),
        LogFormat::Text => plain.with_ansi(std::io::stderr().is_terminal()).boxed(),
    };
    // A second daemon in one process, as in tests, logs where the first one does.
    let _ = tracing_subscriber::registry().with(filter).with(lines).try_init();
    Logger { level }
}

impl Logger {
    /// Changes what is worth a line.
    pub fn set(&self, level: Level) {
        if let Err(error) = self.level.reload(filter(level)) {
            tracing::warn!(%error, "cannot change the level of the log");
        }
    }
}

fn filter(level: Level) -> LevelFilter {
    match level {
        Level::Debug => LevelFilter::DEBUG,
        Level::Info => LevelFilter::INFO,
        Level::Warn => LevelFilter::WARN,
        Level::Error => LevelFilter::ERROR,
    }
}
