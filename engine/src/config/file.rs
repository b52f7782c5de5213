//! `daemon.json`.

use std::io::ErrorKind;
use std::path::Path;

use serde_json::Value;

use super::ConfigError;
use super::options::{Kind, Opt, by_key};
use super::values::Values;

/// Reads a configuration file. Only one that was asked for must exist.
pub fn read(path: &Path, required: bool) -> Result<Values, ConfigError> {
    let error = |reason: String| ConfigError::File { path: path.display().to_string(), reason };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(cause) if cause.kind() == ErrorKind::NotFound && !required => {
            return Ok(Values::default());
        }
        Err(cause) => return Err(error(cause.to_string())),
    };
    parse(&text).map_err(error)
}

/// The options in a configuration file's text.
pub fn parse(text: &str) -> Result<Values, String> {
    let text = text.trim_start_matches('\u{feff}').trim();
    if text.is_empty() {
        return Ok(Values::default());
    }
    let value: Value =
        serde_json::from_str(text).map_err(|error| format!("invalid JSON: {error}"))?;
    let Value::Object(directives) = value else {
        return Err("invalid JSON: an object with directives is expected".to_owned());
    };
    let unknown: Vec<&str> =
        directives.keys().filter(|key| by_key(key).is_none()).map(String::as_str).collect();
    if !unknown.is_empty() {
        let unknown = unknown.join(", ");
        return Err(format!(
            "the following directives don't match any configuration option: {unknown}"
        ));
    }
    let mut values = Values::default();
    for (key, value) in directives {
        if let Some(opt) = by_key(&key)
            && !value.is_null()
        {
            check(opt, &value)?;
            values.set(opt, value);
        }
    }
    Ok(values)
}

fn check(opt: &Opt, value: &Value) -> Result<(), String> {
    let (fits, wanted) = match opt.kind {
        Kind::Flag => (value.is_boolean(), "true or false"),
        Kind::Text => (value.is_string(), "a string"),
        Kind::Number => (value.is_i64(), "a whole number"),
        Kind::List => (value.is_array(), "an array"),
        Kind::Map => (value.is_object(), "an object"),
    };
    if fits {
        Ok(())
    } else {
        Err(format!("directive {}: {wanted} is expected, not {value}", opt.key))
    }
}
