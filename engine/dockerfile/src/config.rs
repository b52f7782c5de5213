//! What instructions without files do to the configuration of an image, and what the history says.

use std::collections::BTreeMap;

use engine_error::{Error, Result};
use serde_json::{Map, Value, json};

use crate::ignore::clean;
use crate::instruction::{Command, Healthcheck, Instruction};
use crate::words::quoted;

/// The shell of images that name none.
const SHELL: [&str; 2] = ["/bin/sh", "-c"];

/// The search path of images that have none.
pub const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What an instruction did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// What the history says after `#(nop) `.
    pub comment: String,
    /// Whether it set the command: an entrypoint set later does not clear it then.
    pub sets_command: bool,
}

/// Applies an instruction to the `config` of an image. Nothing for those that make files.
pub fn apply(
    config: &mut Value,
    instruction: &Instruction,
    command_is_set: bool,
) -> Result<Option<Applied>> {
    if !config.is_object() {
        return Err(Error::invalid("invalid image configuration: config is not an object"));
    }
    let mut sets_command = false;
    let comment = match instruction {
        Instruction::Cmd(command) => {
            sets_command = true;
            format!("CMD {}", set_words(config, "Cmd", command))
        }
        Instruction::Entrypoint(command) => {
            if !command_is_set {
                remove(config, "Cmd");
            }
            format!("ENTRYPOINT {}", set_words(config, "Entrypoint", command))
        }
        Instruction::User(user) => {
            config["User"] = user.as_str().into();
            format!("USER {user}")
        }
        Instruction::StopSignal(signal) => {
            config["StopSignal"] = signal.as_str().into();
            format!("STOPSIGNAL {signal}")
        }
        Instruction::Shell(words) => {
            config["Shell"] = json!(words);
            format!("SHELL [{}]", words.join(" "))
        }
        Instruction::Healthcheck(check) => {
            config["Healthcheck"] = healthcheck(check);
            format!("HEALTHCHECK {}", check_comment(check))
        }
        Instruction::Workdir(path) => {
            config["WorkingDir"] = workdir(config, path)?.into();
            return Ok(None);
        }
        other => match add(config, other)? {
            Some(comment) => comment,
            None => return Ok(None),
        },
    };
    Ok(Some(Applied { comment, sets_command }))
}

/// Applies an instruction that adds to a list or a map.
fn add(config: &mut Value, instruction: &Instruction) -> Result<Option<String>> {
    Ok(Some(match instruction {
        Instruction::Env(pairs) => {
            set_variables(config, pairs);
            format!("ENV {}", joined(pairs))
        }
        Instruction::Label(pairs) => {
            for (name, value) in pairs {
                entries(config, "Labels")?.insert(name.clone(), value.as_str().into());
            }
            format!("LABEL {}", joined(pairs))
        }
        Instruction::Arg(arguments) => format!("ARG {}", declared(arguments)),
        Instruction::Expose(ports) => {
            let each = ports.iter().map(|port| exposed(port)).collect::<Result<Vec<_>>>()?;
            for port in each.concat() {
                entries(config, "ExposedPorts")?.insert(port, json!({}));
            }
            // Their order does not matter, and makes no other step.
            let mut ports = ports.clone();
            ports.sort();
            format!("EXPOSE {}", ports.join(" "))
        }
        Instruction::Volume(paths) => {
            for path in paths {
                entries(config, "Volumes")?.insert(path.clone(), json!({}));
            }
            format!("VOLUME [{}]", paths.join(" "))
        }
        Instruction::OnBuild(text) => {
            match config["OnBuild"].as_array_mut() {
                Some(list) => list.push(text.as_str().into()),
                None => config["OnBuild"] = json!([text]),
            }
            format!("ONBUILD {text}")
        }
        Instruction::Maintainer(name) => format!("MAINTAINER {name}"),
        _ => return Ok(None),
    }))
}

/// The entries of a field, which begins empty.
fn entries<'v>(config: &'v mut Value, field: &str) -> Result<&'v mut Map<String, Value>> {
    let value = &mut config[field];
    if value.is_null() {
        *value = json!({});
    }
    let damaged = format!("invalid image configuration: config.{field} is not an object");
    value.as_object_mut().ok_or_else(|| Error::invalid(damaged))
}

/// What the history says of a step that ran nothing.
pub fn created_by(config: &Value, comment: &str) -> String {
    format!("{} #(nop)  {comment}", shell(config).join(" "))
}

/// The shell of a configuration.
pub fn shell(config: &Value) -> Vec<String> {
    let own = strings(&config["Shell"]);
    if own.is_empty() { SHELL.map(str::to_owned).to_vec() } else { own }
}

/// The environment of a configuration.
pub fn environment(config: &Value) -> Vec<String> {
    strings(&config["Env"])
}

/// The variables of the environment; of two values the first counts.
pub fn variables(config: &Value) -> BTreeMap<String, String> {
    let entries = environment(config);
    let pairs = entries.iter().rev().filter_map(|entry| entry.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// Gives a configuration a search path if it has none.
pub fn default_path(config: &mut Value) {
    let mut entries = environment(config);
    if !entries.iter().any(|entry| entry.starts_with("PATH=")) {
        entries.push(PATH.to_owned());
        config["Env"] = json!(entries);
    }
}

/// Takes a field away.
pub fn remove(config: &mut Value, field: &str) {
    if let Some(fields) = config.as_object_mut() {
        fields.shift_remove(field);
    }
}

/// The strings of a list.
pub fn strings(value: &Value) -> Vec<String> {
    let items = value.as_array().into_iter().flatten();
    items.filter_map(Value::as_str).map(str::to_owned).collect()
}

/// A path, from the working directory of a configuration if it does not begin with `/`.
pub fn absolute(config: &Value, path: &str) -> String {
    let above = config["WorkingDir"].as_str().unwrap_or_default();
    if path.starts_with('/') { clean(path) } else { clean(&format!("/{above}/{path}")) }
}

fn workdir(config: &Value, path: &str) -> Result<String> {
    if path.is_empty() {
        return Err(Error::invalid("cannot normalize nothing"));
    }
    Ok(absolute(config, path))
}

fn set_variables(config: &mut Value, pairs: &[(String, String)]) {
    let mut entries = environment(config);
    let mut places = BTreeMap::new();
    for (at, entry) in entries.iter().enumerate() {
        let name = entry.split('=').next().unwrap_or_default();
        places.entry(name.to_owned()).or_insert(at);
    }
    for (name, value) in pairs {
        let entry = format!("{name}={value}");
        if let Some(at) = places.get(name) {
            entries[*at] = entry;
            continue;
        }
        places.insert(name.clone(), entries.len());
        entries.push(entry);
    }
    config["Env"] = json!(entries);
}

fn set_words(config: &mut Value, field: &str, command: &Command) -> String {
    let words = command.resolve(&shell(config));
    let shown: Vec<_> = words.iter().map(|word| quoted(word)).collect();
    config[field] = json!(words);
    format!("[{}]", shown.join(" "))
}

fn joined(pairs: &[(String, String)]) -> String {
    let pairs: Vec<_> = pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
    pairs.join(" ")
}

fn declared(arguments: &[(String, Option<String>)]) -> String {
    let argument = |(name, value): &(String, Option<String>)| match value {
        Some(value) => format!("{name}={value}"),
        None => name.clone(),
    };
    arguments.iter().map(argument).collect::<Vec<_>>().join(" ")
}

/// A port or each of a range, with its protocol.
fn exposed(text: &str) -> Result<Vec<String>> {
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(Error::invalid(format!("Invalid proto: {protocol}")));
    }
    // Where it is published is not for an image to say.
    let ports = ports.rsplit(':').next().unwrap_or(ports);
    let wrong = || Error::invalid(format!("Invalid containerPort: {ports}"));
    let number = |text: &str| text.parse::<u16>().map_err(|_| wrong());
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let (first, last) = (number(first)?, number(last)?);
    if first > last {
        return Err(wrong());
    }
    Ok((first..=last).map(|port| format!("{port}/{protocol}")).collect())
}

fn healthcheck(check: &Healthcheck) -> Value {
    let mut value = json!({"Test": check.test});
    for (name, number) in &check.options {
        value[*name] = (*number).into();
    }
    value
}

/// A health check as Go prints it.
fn check_comment(check: &Healthcheck) -> String {
    let option = |name| check.options.get(name).copied().unwrap_or(0);
    let durations = ["Interval", "Timeout", "StartPeriod", "StartInterval"]
        .map(|name| duration(option(name)))
        .join(" ");
    format!("&{{[{}] {durations} {}}}", check.test.join(" "), option("Retries"))
}

/// A duration as Go prints it.
fn duration(nanoseconds: i64) -> String {
    let decimal = |unit: i64, name: &str| {
        let (whole, part) = (nanoseconds / unit, nanoseconds % unit);
        let digits = format!("{part:0width$}", width = unit.ilog10() as usize);
        let digits = digits.trim_end_matches('0');
        let point = if part == 0 || digits.is_empty() { "" } else { "." };
        let digits = if part == 0 { "" } else { digits };
        format!("{whole}{point}{digits}{name}")
    };
    match nanoseconds {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanoseconds}ns"),
        1_000..1_000_000 => decimal(1_000, "\u{b5}s"),
        1_000_000..1_000_000_000 => decimal(1_000_000, "ms"),
        _ => {
            let minutes = nanoseconds / 60_000_000_000;
            let seconds = duration_seconds(nanoseconds % 60_000_000_000);
            match (minutes / 60, minutes % 60) {
                (0, 0) => seconds,
                (0, minutes) => format!("{minutes}m{seconds}"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
            }
        }
    }
}

fn duration_seconds(nanoseconds: i64) -> String {
    let (whole, part) = (nanoseconds / 1_000_000_000, nanoseconds % 1_000_000_000);
    if part == 0 {
        return format!("{whole}s");
    }
    let digits = format!("{part:09}");
    format!("{whole}.{}s", digits.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse;

    fn build(lines: &str) -> (Value, Vec<String>) {
        let file = parse(&format!("FROM x\n{lines}"), "Dockerfile").unwrap();
        let (mut config, mut comments, mut set) = (json!({}), Vec::new(), false);
        for step in &file.stages[0].steps {
            let applied = apply(&mut config, &step.instruction, set).unwrap();
            if let Some(applied) = applied {
                set |= applied.sets_command;
                comments.push(applied.comment);
            }
        }
        (config, comments)
    }

    #[test]
    fn each_instruction_changes_its_field_and_is_told_as_docker_tells_it() {
        let (config, comments) = build(
            "ENV A=b C=d\nENV A e f\nLABEL x=y\nCMD echo hi\nEXPOSE 80 53/udp 8000-8001\n\
             VOLUME /data\nUSER 1:1\nSTOPSIGNAL SIGINT\nHEALTHCHECK --interval=90s CMD true\n\
             SHELL [\"/bin/ash\",\"-c\"]\nONBUILD RUN echo a\nMAINTAINER me\nWORKDIR /w\n\
             WORKDIR ../v/\nENTRYPOINT [\"/bin/x\"]\n",
        );
        let wanted = json!({
            "Env": ["A=e f", "C=d"],
            "Labels": {"x": "y"},
            "Cmd": ["/bin/sh", "-c", "echo hi"],
            "ExposedPorts": {"80/tcp": {}, "53/udp": {}, "8000/tcp": {}, "8001/tcp": {}},
            "Volumes": {"/data": {}},
            "User": "1:1",
            "StopSignal": "SIGINT",
            "Healthcheck": {"Test": ["CMD-SHELL", "true"], "Interval": 90_000_000_000_i64},
            "Shell": ["/bin/ash", "-c"],
            "OnBuild": ["RUN echo a"],
            "WorkingDir": "/v",
            "Entrypoint": ["/bin/x"],
        });
        assert_eq!(config, wanted);
        assert_eq!(
            comments,
            [
                "ENV A=b C=d",
                "ENV A=e f",
                "LABEL x=y",
                "CMD [\"/bin/sh\" \"-c\" \"echo hi\"]",
                "EXPOSE 53/udp 80 8000-8001",
                "VOLUME [/data]",
                "USER 1:1",
                "STOPSIGNAL SIGINT",
                "HEALTHCHECK &{[CMD-SHELL true] 1m30s 0s 0s 0s 0}",
                "SHELL [/bin/ash -c]",
                "ONBUILD RUN echo a",
                "MAINTAINER me",
                "ENTRYPOINT [\"/bin/x\"]",
            ]
        );
    }

    #[test]
    fn an_instruction_on_a_damaged_configuration_is_an_error_that_names_the_field() {
        for (field, line) in
            [("Labels", "LABEL a=b"), ("ExposedPorts", "EXPOSE 80"), ("Volumes", "VOLUME /a")]
        {
            let step = parse(&format!("FROM x\n{line}\n"), "").unwrap().stages[0].steps[0].clone();
            let error = apply(&mut json!({field: ["x"]}), &step.instruction, false).unwrap_err();
            let wanted = format!("invalid image configuration: config.{field} is not an object");
            assert_eq!(error.to_string(), wanted);
            assert!(apply(&mut json!([]), &step.instruction, false).is_err());
        }
    }

    #[test]
    fn an_entrypoint_clears_a_command_that_is_inherited_only() {
        let entrypoint = |set| {
            let mut config = json!({"Cmd": ["a"]});
            let step = parse("FROM x\nENTRYPOINT b\n", "").unwrap().stages[0].steps[0].clone();
            apply(&mut config, &step.instruction, set).unwrap();
            config.get("Cmd").is_some()
        };
        assert!(entrypoint(true) && !entrypoint(false));
    }

    #[test]
    fn ports_that_are_none_are_refused_in_docker_s_words() {
        for (port, words) in [
            ("x", "Invalid containerPort: x"),
            ("9-8", "Invalid containerPort: 9-8"),
            ("80/icmp", "Invalid proto: icmp"),
        ] {
            assert_eq!(exposed(port).unwrap_err().to_string(), words);
        }
    }

    #[test]
    fn durations_are_written_as_go_writes_them() {
        for (length, wanted) in [
            (0, "0s"),
            (1_500_000, "1.5ms"),
            (30_000_000_000, "30s"),
            (1_500_000_000, "1.5s"),
            (90_000_000_000, "1m30s"),
            (3_600_000_000_000, "1h0m0s"),
        ] {
            assert_eq!(duration(length), wanted);
        }
    }
}
