//! `--change`: lines of a Dockerfile that change a configuration.

use serde_json::{Map, Value, json};

use engine_error::{Error, Result};

/// Applies one instruction to the `config` of an image.
pub fn apply(config: &mut Value, line: &str) -> Result<()> {
    let line = line.trim();
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = rest.trim();
    let instruction = word.to_ascii_uppercase();
    if rest.is_empty() {
        return Err(Error::invalid(format!("{instruction} requires at least one argument")));
    }
    if !config.is_object() {
        return Err(Error::invalid("invalid configuration: it is not an object"));
    }
    match instruction.as_str() {
        "CMD" => config["Cmd"] = command(rest),
        "ENTRYPOINT" => config["Entrypoint"] = command(rest),
        "ENV" => {
            for (key, value) in pairs(&instruction, rest)? {
                set_env(config, &key, &value);
            }
        }
        "LABEL" => {
            for (key, value) in pairs(&instruction, rest)? {
                entries(config, "Labels")?.insert(key, value.into());
            }
        }
        "EXPOSE" => {
            for port in words(rest)? {
                entries(config, "ExposedPorts")?.insert(exposed(&port)?, json!({}));
            }
        }
        "VOLUME" => {
            let paths = string_list(rest).map_or_else(|| words(rest), Ok)?;
            for path in paths {
                entries(config, "Volumes")?.insert(path, json!({}));
            }
        }
        "USER" => config["User"] = rest.into(),
        "WORKDIR" => {
            let above = config["WorkingDir"].as_str().unwrap_or_default();
            let path = if rest.starts_with('/') {
                rest.to_owned()
            } else {
                format!("{}/{rest}", above.trim_end_matches('/'))
            };
            config["WorkingDir"] = path.into();
        }
        "STOPSIGNAL" => config["StopSignal"] = rest.into(),
        "ONBUILD" => match config["OnBuild"].as_array_mut() {
            Some(list) => list.push(rest.into()),
            None => config["OnBuild"] = json!([rest]),
        },
        "HEALTHCHECK" => config["Healthcheck"] = healthcheck(rest)?,
        _ => {
            return Err(Error::invalid(format!(
                "{instruction} is not a valid change command: use CMD, ENTRYPOINT, ENV, EXPOSE, \
                 HEALTHCHECK, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME or WORKDIR"
            )));
        }
    }
    Ok(())
}

/// The entries of a field, which begins empty. What somebody gave may be anything.
fn entries<'v>(config: &'v mut Value, field: &str) -> Result<&'v mut Map<String, Value>> {
    let value = &mut config[field];
    if value.is_null() {
        *value = json!({});
    }
    let damaged = || Error::invalid(format!("invalid configuration: {field} is not an object"));
    value.as_object_mut().ok_or_else(damaged)
}

/// The JSON form as it is, the shell form through a shell.
fn command(text: &str) -> Value {
    match string_list(text) {
        Some(words) => json!(words),
        None => json!(["/bin/sh", "-c", text]),
    }
}

fn string_list(text: &str) -> Option<Vec<String>> {
    if text.starts_with('[') { serde_json::from_str(text).ok() } else { None }
}

fn set_env(config: &mut Value, key: &str, value: &str) {
    let entry: Value = format!("{key}={value}").into();
    let same = |known: &Value| known.as_str().is_some_and(|s| s.split('=').next() == Some(key));
    match config["Env"].as_array_mut() {
        Some(list) => match list.iter_mut().find(|known| same(known)) {
            Some(known) => *known = entry,
            None => list.push(entry),
        },
        None => config["Env"] = json!([entry]),
    }
}

/// `key=value` words, or the old form `key value with spaces`.
fn pairs(instruction: &str, text: &str) -> Result<Vec<(String, String)>> {
    let words = words(text)?;
    let first = words.first().map_or("", String::as_str);
    if !first.contains('=') {
        let (key, value) = text
            .split_once(char::is_whitespace)
            .ok_or_else(|| Error::invalid(format!("{instruction} must have two arguments")))?;
        return Ok(vec![(key.to_owned(), value.trim().to_owned())]);
    }
    words
        .iter()
        .map(|word| match word.split_once('=') {
            Some(("", _)) | None => Err(Error::invalid(format!(
                "Syntax error - can't find = in {word:?}. Must be of the form: name=value"
            ))),
            Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
        })
        .collect()
}

/// Words with quotes and backslashes taken off.
fn words(text: &str) -> Result<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match (letter, quote) {
            ('\\', quote) if quote != Some('\'') => {
                word.get_or_insert_default().extend(letters.next());
            }
            (letter, Some(open)) if letter == open => quote = None,
            ('"' | '\'', None) => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (letter, None) if letter.is_whitespace() => words.extend(word.take()),
            (letter, _) => word.get_or_insert_default().push(letter),
        }
    }
    if quote.is_some() {
        return Err(Error::invalid(format!("unterminated quote in {text:?}")));
    }
    words.extend(word);
    Ok(words)
}

fn exposed(text: &str) -> Result<String> {
    let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let known = matches!(protocol, "tcp" | "udp" | "sctp");
    let (first, last) = port.split_once('-').unwrap_or((port, port));
    let number = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
    match (number(first), number(last)) {
        (Some(first), Some(last)) if known && first <= last => Ok(format!("{port}/{protocol}")),
        _ => Err(Error::invalid(format!("invalid containerPort: {text}"))),
    }
}

fn healthcheck(text: &str) -> Result<Value> {
    let mut check = Map::new();
    let mut rest = text;
    while let Some(option) = rest.strip_prefix("--") {
        let (option, after) = option.split_once(char::is_whitespace).unwrap_or((option, ""));
        let (key, value) = option.split_once('=').unwrap_or((option, ""));
        let name = match key {
            "interval" => "Interval",
            "timeout" => "Timeout",
            "start-period" => "StartPeriod",
            "start-interval" => "StartInterval",
            "retries" => "Retries",
            _ => return Err(Error::invalid(format!("unknown flag: {key}"))),
        };
        let wrong = || Error::invalid(format!("invalid value {value:?} of HEALTHCHECK --{key}"));
        let number = if name == "Retries" {
            value.parse::<i64>().ok().filter(|retries| *retries >= 0)
        } else {
            duration(value)
        };
        check.insert(name.to_owned(), number.ok_or_else(wrong)?.into());
        rest = after.trim_start();
    }
    let (kind, argument) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let probe = match kind.to_ascii_uppercase().as_str() {
        "NONE" => json!(["NONE"]),
        "CMD" if !argument.is_empty() => match string_list(argument.trim()) {
            Some(mut words) => {
                words.insert(0, "CMD".to_owned());
                json!(words)
            }
            None => json!(["CMD-SHELL", argument.trim()]),
        },
        "CMD" => return Err(Error::invalid("Missing command after HEALTHCHECK CMD")),
        other => {
            return Err(Error::invalid(format!("Unknown type {other:?} in HEALTHCHECK (try CMD)")));
        }
    };
    check.insert("Test".to_owned(), probe);
    Ok(Value::Object(check))
}

/// Go's durations in nanoseconds: `1m30s`, `1.5h`, `500ms`.
fn duration(text: &str) -> Option<i64> {
    let mut total = 0.0;
    let mut rest = text;
    if rest == "0" {
        return Some(0);
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        total += number
            * match &rest[..unit] {
                "ns" => 1.0,
                "us" | "µs" => 1e3,
                "ms" => 1e6,
                "s" => 1e9,
                "m" => 60e9,
                "h" => 3600e9,
                _ => return None,
            };
        rest = &rest[unit..];
    }
    #[expect(clippy::cast_possible_truncation, reason = "checked to be in range")]
    (!text.is_empty() && total < 9e18).then_some(total as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(lines: &[&str]) -> Value {
        let mut config = json!({});
        for line in lines {
            apply(&mut config, line).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
        config
    }

    #[test]
    fn each_instruction_changes_its_field() {
        let config = changed(&[
            r#"CMD ["a", "b c"]"#,
            "entrypoint exec run",
            "ENV A=1 B=\"two words\"",
            "ENV A three",
            "LABEL x.y=z",
            "EXPOSE 80 53/udp 8000-8010",
            r#"VOLUME ["/data"]"#,
            "VOLUME /a /b",
            "USER 1000:1000",
            "WORKDIR /srv",
            "WORKDIR app",
            "STOPSIGNAL SIGQUIT",
            "ONBUILD RUN x",
            "HEALTHCHECK --interval=1m30s --retries=2 CMD [\"/bin/true\"]",
        ]);
        let wanted = json!({
            "Cmd": ["a", "b c"],
            "Entrypoint": ["/bin/sh", "-c", "exec run"],
            "Env": ["A=three", "B=two words"],
            "Labels": {"x.y": "z"},
            "ExposedPorts": {"80/tcp": {}, "53/udp": {}, "8000-8010/tcp": {}},
            "Volumes": {"/data": {}, "/a": {}, "/b": {}},
            "User": "1000:1000",
            "WorkingDir": "/srv/app",
            "StopSignal": "SIGQUIT",
            "OnBuild": ["RUN x"],
            "Healthcheck": {"Interval": 90_000_000_000_i64, "Retries": 2,
                "Test": ["CMD", "/bin/true"]},
        });
        assert_eq!(config, wanted);
    }

    #[test]
    fn a_change_of_a_list_where_an_object_belongs_is_an_error() {
        for (field, line) in
            [("Labels", "LABEL a=b"), ("ExposedPorts", "EXPOSE 80"), ("Volumes", "VOLUME /a")]
        {
            let mut config = json!({field: ["x"]});
            let error = apply(&mut config, line).unwrap_err().to_string();
            assert_eq!(error, format!("invalid configuration: {field} is not an object"));
        }
        assert!(apply(&mut json!([]), "USER me").is_err());
        // What is null is not there.
        let mut config = json!({"Labels": null, "OnBuild": {}, "Env": "x"});
        for line in ["LABEL a=b", "ONBUILD RUN x", "ENV a=b"] {
            apply(&mut config, line).unwrap();
        }
        assert_eq!(config["Labels"], json!({"a": "b"}));
    }

    #[test]
    fn wrong_changes_are_refused_by_name() {
        for (line, part) in [
            ("RUN x", "RUN is not a valid change command"),
            ("CMD", "CMD requires"),
            ("ENV A", "two arguments"),
            ("ENV A=1 B", "can't find ="),
            ("EXPOSE 80/icmp", "invalid containerPort: 80/icmp"),
            ("EXPOSE 0", "invalid containerPort"),
            ("LABEL \"a=b", "unterminated quote"),
            ("HEALTHCHECK --interval=x CMD a", "--interval"),
            ("HEALTHCHECK PING", "Unknown type"),
        ] {
            let error = apply(&mut json!({}), line).unwrap_err().to_string();
            assert!(error.contains(part), "{line}: {error}");
        }
    }
}
