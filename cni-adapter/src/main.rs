//! `rnet-cni`: rnet's bridge networks for Kubernetes and other users of the Container Network
//! Interface.
//!
//! It works by itself, without a daemon: with the same model, planners and kernel as the daemon,
//! but with a store and an nf_tables table of its own, so that the two never meet. There is no mode
//! in which it asks a daemon. What it is told is parsed by [`config`] before anything happens;
//! [`command`] does it; [`result`] is what it answers.

#![forbid(unsafe_code)]

mod check;
mod command;
mod config;
mod plan;
mod result;
mod standalone;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::process::ExitCode;

use result::{Code, Failure, Version};
use serde_json::Value;

fn main() -> ExitCode {
    let mut input = Vec::new();
    let read = std::io::stdin().lock().take(config::INPUT_MAX).read_to_end(&mut input);
    let version = config::version_text(&input);
    let version = version.as_deref().unwrap_or(Version::V1_1_0.as_str());
    let answer = match read {
        Ok(_) => answer(&input),
        Err(error) => Err(Failure::caused(Code::Io, "cannot read stdin", &error)),
    };
    let (text, code) = match answer {
        Ok(None) => return ExitCode::SUCCESS,
        Ok(Some(value)) => (value, ExitCode::SUCCESS),
        Err(failure) => (failure.to_json(version), ExitCode::FAILURE),
    };
    // Who does not read the answer is told by the exit code.
    let written = writeln!(std::io::stdout(), "{text:#}");
    if written.is_ok() { code } else { ExitCode::FAILURE }
}

fn answer(input: &[u8]) -> Result<Option<Value>, Failure> {
    let variable = |name: &'static str| {
        let value = std::env::var_os(name)?;
        Some((name, value.to_string_lossy().into_owned()))
    };
    let environment: BTreeMap<_, _> = config::VARIABLES.into_iter().filter_map(variable).collect();
    command::run(config::parse(&environment, input)?)
}
