//! The command lines `rnet daemon …` and `dockerd …`.

use std::ffi::OsString;

use clap::builder::BoolishValueParser;
use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::{Map, Value};

use super::options::{Kind, OPTIONS, Opt};
use super::values::{Values, merge};
use super::{Config, ConfigError, build, file};

/// The name the daemon was started by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invocation {
    /// `rnet daemon`.
    Rnet,
    /// `dockerd`: Docker's places for the socket, the configuration and the pidfile.
    Dockerd,
}

/// What a command line asks for.
#[derive(Debug)]
pub enum Request {
    /// Run with this configuration.
    Run(Box<Config>),
    /// Say that the configuration is fine.
    Validate,
}

/// Why there is nothing to run.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    /// `--help`, `--version`, or a command line that makes no sense; clap knows how to say so.
    #[error("{0}")]
    Usage(#[from] clap::Error),
    /// A value that cannot be.
    #[error("{0}")]
    Config(#[from] ConfigError),
}

/// Reads a command line (with the program's name first) and the configuration file it names.
pub fn parse(
    invocation: Invocation,
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<Request, ParseError> {
    let matches = command(invocation).try_get_matches_from(arguments)?;
    let flags = values(&matches);
    let config = load(invocation, flags)?;
    if matches.get_one("validate") == Some(&true) {
        return Ok(Request::Validate);
    }
    Ok(Request::Run(Box::new(config)))
}

/// A configuration from flags and the file they name.
pub fn load(invocation: Invocation, flags: Values) -> Result<Config, ConfigError> {
    let named = flags.text("config-file").map(Into::into);
    let path = named.clone().unwrap_or_else(|| build::places(invocation, &flags).config_file);
    let directives = file::read(&path, named.is_some())?;
    let error = |reason| ConfigError::File { path: path.display().to_string(), reason };
    let merged = merge(flags, directives).map_err(error)?;
    build::config(invocation, &merged)
}

/// The command line's grammar.
pub fn command(invocation: Invocation) -> Command {
    let (name, about) = match invocation {
        Invocation::Rnet => ("rnet daemon", "Runs the container host"),
        Invocation::Dockerd => ("dockerd", "A self-sufficient runtime for containers (rnet)"),
    };
    Command::new(name)
        .about(about)
        .version(env!("CARGO_PKG_VERSION"))
        .disable_version_flag(true)
        .arg(
            Arg::new("version")
                .short('v')
                .long("version")
                .action(ArgAction::Version)
                .help("Print the version and exit"),
        )
        .args(OPTIONS.iter().filter(|opt| !opt.flag.is_empty()).map(argument))
}

fn argument(opt: &Opt) -> Arg {
    let arg = Arg::new(opt.flag).long(opt.flag).help(opt.help);
    let arg = match opt.short {
        Some(letter) => arg.short(letter),
        None => arg,
    };
    match opt.kind {
        Kind::Flag => arg
            .action(ArgAction::Set)
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .value_parser(BoolishValueParser::new())
            .hide_possible_values(true)
            .overrides_with(opt.flag),
        Kind::Text => arg.action(ArgAction::Set).value_name("VALUE").overrides_with(opt.flag),
        Kind::Number => arg
            .action(ArgAction::Set)
            .value_name("N")
            .value_parser(clap::value_parser!(i64))
            .allow_negative_numbers(true)
            .overrides_with(opt.flag),
        Kind::List | Kind::Map => arg.action(ArgAction::Append).value_name("VALUE"),
    }
}

/// The options that were given.
pub(super) fn values(matches: &ArgMatches) -> Values {
    let mut values = Values::default();
    for opt in OPTIONS.iter().filter(|opt| !opt.flag.is_empty()) {
        if matches.value_source(opt.flag) == Some(clap::parser::ValueSource::CommandLine)
            && let Some(value) = value(opt, matches)
        {
            values.set(opt, value);
        }
    }
    values
}

fn value(opt: &Opt, matches: &ArgMatches) -> Option<Value> {
    let texts = || matches.get_many::<String>(opt.flag).into_iter().flatten();
    Some(match opt.kind {
        Kind::Flag => Value::Bool(*matches.get_one::<bool>(opt.flag)?),
        Kind::Text => Value::String(matches.get_one::<String>(opt.flag)?.clone()),
        Kind::Number => Value::from(*matches.get_one::<i64>(opt.flag)?),
        Kind::List => texts().map(|text| Value::String(text.clone())).collect(),
        Kind::Map => Value::Object(entries(opt, texts())),
    })
}

/// `name=value` texts as the object that the file would have; `driver=option=value` nests.
fn entries<'a>(opt: &Opt, texts: impl Iterator<Item = &'a String>) -> Map<String, Value> {
    let nested = opt.flag == "default-network-opt";
    let mut map = Map::new();
    for text in texts {
        let (name, rest) = text.split_once('=').unwrap_or((text, ""));
        if nested {
            let (option, value) = rest.split_once('=').unwrap_or((rest, ""));
            let inner = map.entry(name).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(inner) = inner {
                inner.insert(option.to_owned(), value.into());
            }
        } else {
            map.insert(name.to_owned(), rest.into());
        }
    }
    map
}
