//! `HEALTHCHECK`.

use std::collections::BTreeMap;

use engine_error::{Error, Result};

use super::arguments::json;
use super::flags::Flags;
use crate::instruction::Healthcheck;

/// The flags, and what they are called in a configuration.
const OPTIONS: [(&str, &str); 4] = [
    ("interval", "Interval"),
    ("timeout", "Timeout"),
    ("start-period", "StartPeriod"),
    ("start-interval", "StartInterval"),
];

/// The shortest duration that means anything.
const SHORTEST: i64 = 1_000_000;

pub(super) fn read(flags: &[String], rest: &str) -> Result<Healthcheck> {
    let names = ["interval", "timeout", "start-period", "start-interval", "retries"];
    let mut flags = Flags::read(flags, &names, &[])?;
    let (kind, argument) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let argument = argument.trim();
    let test = match kind.to_ascii_uppercase().as_str() {
        "" => return Err(Error::invalid("HEALTHCHECK requires at least one argument")),
        "NONE" if argument.is_empty() => vec!["NONE".to_owned()],
        "NONE" => return Err(Error::invalid("HEALTHCHECK NONE takes no arguments")),
        "CMD" => match json(argument)? {
            Some(words) if words.is_empty() => return Err(missing()),
            Some(words) => [vec!["CMD".to_owned()], words].concat(),
            None if argument.is_empty() => return Err(missing()),
            None => vec!["CMD-SHELL".to_owned(), argument.to_owned()],
        },
        other => {
            return Err(Error::invalid(format!(
                "Unknown type {} in HEALTHCHECK (try CMD)",
                crate::words::quoted(other)
            )));
        }
    };
    let mut options = BTreeMap::new();
    for (flag, name) in OPTIONS {
        let Some(given) = flags.take(flag).filter(|given| !given.is_empty()) else { continue };
        let length = duration(&given).ok_or_else(|| {
            Error::invalid(format!("time: invalid duration {}", crate::words::quoted(&given)))
        })?;
        if length != 0 && length < SHORTEST {
            return Err(Error::invalid(format!("Interval \"{flag}\" cannot be less than 1ms")));
        }
        options.insert(name, length);
    }
    if let Some(given) = flags.take("retries").filter(|given| !given.is_empty()) {
        let quoted = crate::words::quoted(&given);
        let retries = given.parse::<i32>().map_err(|_| {
            Error::invalid(format!("strconv.ParseInt: parsing {quoted}: invalid syntax"))
        })?;
        if retries < 0 {
            return Err(Error::invalid(format!("--retries cannot be negative ({retries})")));
        }
        options.insert("Retries", retries.into());
    }
    options.retain(|_, value| *value != 0);
    Ok(Healthcheck { test, options })
}

fn missing() -> Error {
    Error::invalid("Missing command after HEALTHCHECK CMD")
}

/// Go's durations in nanoseconds: `1m30s`, `1.5h`, `500ms`.
fn duration(text: &str) -> Option<i64> {
    const UNITS: [(&str, f64); 7] = [
        ("ns", 1.0),
        ("us", 1e3),
        ("\u{b5}s", 1e3),
        ("ms", 1e6),
        ("s", 1e9),
        ("m", 60e9),
        ("h", 3600e9),
    ];
    if text == "0" {
        return Some(0);
    }
    let (mut total, mut rest) = (0.0, text);
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let end = rest.find(|letter: char| letter.is_ascii_digit() || letter == '.');
        let unit = &rest[..end.unwrap_or(rest.len())];
        total += number * UNITS.iter().find(|(name, _)| *name == unit)?.1;
        rest = &rest[unit.len()..];
    }
    #[expect(clippy::cast_possible_truncation, reason = "checked to be in range")]
    (!text.is_empty() && total < 9e18).then_some(total as i64)
}
