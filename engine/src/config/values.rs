//! Values of options, wherever they come from.

use std::collections::BTreeMap;

use serde_json::Value;

use super::ConfigError;
use super::options::{Effect, OPTIONS, Opt};

/// Values by the option's name, in the shape that `daemon.json` has them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Values(BTreeMap<&'static str, Value>);

impl Values {
    /// Sets an option.
    pub fn set(&mut self, opt: &Opt, value: Value) {
        self.0.insert(opt.name(), value);
    }

    /// The value of an option, if it was given.
    pub fn get(&self, name: &'static str) -> Option<&Value> {
        debug_assert!(OPTIONS.iter().any(|opt| opt.name() == name), "no option {name}");
        self.0.get(name)
    }

    /// Text; empty is as good as absent.
    pub fn text(&self, name: &'static str) -> Option<&str> {
        self.get(name).and_then(Value::as_str).filter(|text| !text.is_empty())
    }

    /// A switch.
    pub fn flag(&self, name: &'static str) -> Option<bool> {
        self.get(name).and_then(Value::as_bool)
    }

    /// The items of a list.
    pub fn list(&self, name: &'static str) -> &[Value] {
        self.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
    }

    /// The items of a list that are text.
    pub fn texts(&self, name: &'static str) -> Vec<String> {
        self.list(name).iter().filter_map(Value::as_str).map(str::to_owned).collect()
    }

    /// The entries of a map.
    pub fn map(&self, name: &'static str) -> impl Iterator<Item = (&String, &Value)> {
        self.get(name).and_then(Value::as_object).into_iter().flatten()
    }

    /// One sentence for each option that is set and does not apply here.
    pub fn warnings(&self) -> Vec<String> {
        let moot = |opt: &Opt| match opt.effect {
            Effect::Moot(default, why) => {
                let value = self.0.get(opt.name())?;
                let set = !shown(value).is_empty() && shown(value) != default;
                set.then(|| format!("{} does not apply: {why}", shown_name(opt)))
            }
            Effect::Acts | Effect::Refused(_) => None,
        };
        OPTIONS.iter().filter_map(moot).collect()
    }

    /// The first option that is set and must not be.
    pub fn refused(&self) -> Result<(), ConfigError> {
        for opt in OPTIONS {
            if let (Effect::Refused(why), Some(value)) = (opt.effect, self.0.get(opt.name()))
                && !shown(value).is_empty()
            {
                return Err(ConfigError::Value { option: opt.flag, reason: why.to_owned() });
            }
        }
        Ok(())
    }
}

fn shown_name(opt: &Opt) -> String {
    if opt.flag.is_empty() { opt.key.to_owned() } else { format!("--{}", opt.flag) }
}

/// A value as Docker's messages show it.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(shown).collect::<Vec<_>>().join(" "),
        Value::Object(map) if map.is_empty() => String::new(),
        other => other.to_string(),
    }
}

/// Flags and file together. An option may be in one of them only, as with dockerd; runtimes are the
/// exception, they add up.
pub fn merge(flags: Values, file: Values) -> Result<Values, String> {
    const ADDS_UP: &str = "add-runtime";
    let bracketed = |value: &Value| match value {
        Value::Array(_) | Value::Object(_) => format!("[{}]", shown(value)),
        other => shown(other),
    };
    let twice: Vec<String> = OPTIONS
        .iter()
        .filter(|opt| opt.name() != ADDS_UP)
        .filter_map(|opt| {
            let (flag, file) = (flags.0.get(opt.name())?, file.0.get(opt.name())?);
            let (flag, file) = (bracketed(flag), bracketed(file));
            Some(format!("{}: (from flag: {flag}, from file: {file})", opt.key))
        })
        .collect();
    if !twice.is_empty() {
        return Err(format!(
            "the following directives are specified both as a flag and in the configuration file: {}",
            twice.join(", ")
        ));
    }
    let mut merged = file;
    for (name, value) in flags.0 {
        match (merged.0.get_mut(name), value) {
            (Some(Value::Object(old)), Value::Object(new)) => old.extend(new),
            (_, value) => {
                merged.0.insert(name, value);
            }
        }
    }
    Ok(merged)
}
