//! The cluster that a daemon is told to be in: by our options, or by those that dockerd once had.

use std::collections::BTreeMap;

use cluster::Place;

use super::{Result, strings, wrong};
use crate::config::ConfigError;
use crate::config::values::Values;

/// The cluster, if the options name one.
pub(super) fn place(values: &Values) -> Result<Option<Place>> {
    let mut options = strings("cluster-store-opt", values)?;
    options.extend(strings("cluster-opt", values)?);
    match either(values, "cluster", "cluster-store")? {
        Some((option, text)) => {
            Place::parse(text, &options).map(Some).map_err(|error| wrong(option, error))
        }
        None if options.is_empty() => Ok(None),
        None => Err(alone(&options)),
    }
}

/// What to tell the others. One who joins later is known by it, too.
pub(super) fn advertise(values: &Values) -> Result<Option<String>> {
    let given = either(values, "advertise-addr", "cluster-advertise")?;
    Ok(given.map(|(_, text)| without_port(text).to_owned()))
}

fn alone(options: &BTreeMap<String, String>) -> ConfigError {
    let given: Vec<_> = options.keys().map(String::as_str).collect();
    let given = given.join(", ");
    ConfigError::Together(format!("--cluster-opt {given} needs --cluster, which names the cluster"))
}

/// A text under its own name, or under the one that dockerd had for it.
fn either<'v>(
    values: &'v Values,
    own: &'static str,
    old: &'static str,
) -> Result<Option<(&'static str, &'v str)>> {
    match (values.text(own), values.text(old)) {
        (Some(text), Some(other)) if text != other => Err(ConfigError::Together(format!(
            "--{own} {text} and --{old} {other} say different things: leave one out"
        ))),
        (Some(text), _) => Ok(Some((own, text))),
        (None, Some(text)) => Ok(Some((old, text))),
        (None, None) => Ok(None),
    }
}

/// dockerd wanted the port of its API there.
fn without_port(text: &str) -> &str {
    if let Some((address, _)) = text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return address;
    }
    match text.rsplit_once(':') {
        Some((address, port)) if !address.contains(':') && port.parse::<u16>().is_ok() => address,
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_of_an_advertised_address_is_left_out() {
        for (text, address) in [
            ("eth0:2376", "eth0"),
            ("10.0.0.1:2376", "10.0.0.1"),
            ("10.0.0.1", "10.0.0.1"),
            ("fd00::1", "fd00::1"),
            ("[fd00::1]:2376", "fd00::1"),
        ] {
            assert_eq!(without_port(text), address);
        }
    }
}
