//! From lines to instructions. What is refused here is refused before anything is built.

use engine_error::{Error, Result};

use crate::instruction::{Command, Document, Instruction, Run, Step, Transfer};
use crate::lines::{self, Line, at, document};
use crate::stages::{Dockerfile, Stage};
use crate::suggest::hint;

mod arguments;
mod flags;
mod healthcheck;

use arguments::{json, json_or_words, name_values, names_or_values};
use flags::Flags;

/// The instructions there are.
const KNOWN: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// An instruction taken apart.
struct Parts<'a> {
    name: String,
    flags: Vec<String>,
    rest: &'a str,
    line: &'a Line,
    escape: char,
}

/// Reads a Dockerfile; `name` is what it is called in errors that are about all of it.
pub fn parse(text: &str, name: &str) -> Result<Dockerfile> {
    if text.is_empty() {
        return Err(Error::invalid(format!("the Dockerfile ({name}) cannot be empty")));
    }
    let whole = |error: Error| Error::invalid(format!("failed to parse {name}: {error}"));
    let located = |error: Error| {
        if error.to_string().starts_with("dockerfile parse error") { error } else { whole(error) }
    };
    let read = lines::read(text).map_err(located)?;
    let mut file =
        Dockerfile { escape: read.escape, warnings: read.warnings, ..Dockerfile::default() };
    // As Docker does it: all lines are taken apart before any of them is understood.
    let parts: Vec<_> = read.all.iter().map(|line| take_apart(line, read.escape)).collect();
    for parts in &parts {
        arguments::check(&parts.name, parts.rest, read.escape).map_err(whole)?;
    }
    for parts in &parts {
        add(&mut file, parts)?;
    }
    if file.stages.is_empty() {
        return Err(Error::invalid("no build stage in current context"));
    }
    Ok(file)
}

/// Reads what an image defers to those that are made of it.
pub fn parse_trigger(text: &str, escape: char) -> Result<Step> {
    let line = Line { number: 1, text: text.to_owned(), documents: Vec::new() };
    let read = lines::read(text)?;
    let line = read.all.into_iter().next().unwrap_or(line);
    instruction(&take_apart(&line, escape))
}

/// Reads lines that change a configuration, and their escape character. Only what is `known` may stand
/// there.
pub(crate) fn changes(text: &str, known: &[&str]) -> Result<(Vec<Step>, char)> {
    let read = lines::read(text)?;
    let mut steps = Vec::new();
    for line in &read.all {
        let parts = take_apart(line, read.escape);
        if !known.contains(&parts.name.as_str()) {
            return Err(Error::invalid(format!("{} is not a valid change command", parts.name)));
        }
        arguments::check(&parts.name, parts.rest, read.escape)?;
        steps.push(instruction(&parts)?);
    }
    Ok((steps, read.escape))
}

fn take_apart(line: &Line, escape: char) -> Parts<'_> {
    let text = line.text.trim();
    let (name, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let (flags, rest) = flags::split(rest);
    Parts { name: name.to_ascii_uppercase(), flags, rest: rest.trim(), line, escape }
}

fn add(file: &mut Dockerfile, parts: &Parts<'_>) -> Result<()> {
    if parts.name == "FROM" {
        let stage = stage(parts).map_err(|error| at(parts.line.number, error))?;
        file.stages.push(stage);
        return Ok(());
    }
    let step = instruction(parts).map_err(|error| at(parts.line.number, error))?;
    match (file.stages.last_mut(), &step.instruction) {
        (Some(stage), _) => stage.steps.push(step),
        (None, Instruction::Arg(_)) => file.arguments.push(step),
        (None, _) => return Err(Error::invalid("no build stage in current context")),
    }
    Ok(())
}

fn stage(parts: &Parts<'_>) -> Result<Stage> {
    let mut flags = Flags::read(&parts.flags, &["platform"], &[])?;
    let words: Vec<&str> = parts.rest.split_whitespace().collect();
    let (base, name) = match words.as_slice() {
        [base] => (*base, None),
        [base, word, name] if word.eq_ignore_ascii_case("as") => (*base, Some(*name)),
        _ => return Err(Error::invalid("FROM requires either one or three arguments")),
    };
    let name = name.map(stage_name).transpose()?;
    Ok(Stage {
        line: parts.line.number,
        source: parts.line.text.trim().to_owned(),
        base: base.to_owned(),
        name,
        platform: flags.take("platform"),
        steps: Vec::new(),
    })
}

fn stage_name(text: &str) -> Result<String> {
    let name = text.to_ascii_lowercase();
    let plain = |letter: char| {
        letter.is_ascii_lowercase() || letter.is_ascii_digit() || "-_.".contains(letter)
    };
    if !name.starts_with(|letter: char| letter.is_ascii_lowercase()) || !name.chars().all(plain) {
        return Err(Error::invalid(format!(
            "invalid name for build stage: \"{text}\", name can't start with a number or contain \
             symbols"
        )));
    }
    Ok(name)
}

fn instruction(parts: &Parts<'_>) -> Result<Step> {
    let Parts { name, rest, .. } = parts;
    let (name, rest) = (name.as_str(), *rest);
    let none = |parts: &Parts<'_>| Flags::read(&parts.flags, &[], &[]).map(drop);
    if !matches!(name, "RUN" | "ADD" | "COPY" | "HEALTHCHECK") && KNOWN.contains(&name) {
        none(parts)?;
    }
    let instruction = match name {
        "RUN" => Instruction::Run(run(parts)?),
        "ADD" => Instruction::Add(transfer(parts)?),
        "COPY" => Instruction::Copy(transfer(parts)?),
        "ENV" => Instruction::Env(pairs(name, rest, parts.escape)?),
        "LABEL" => Instruction::Label(pairs(name, rest, parts.escape)?),
        "ARG" => Instruction::Arg(build_arguments(rest, parts.escape)?),
        "CMD" => Instruction::Cmd(command(rest)?),
        "ENTRYPOINT" => Instruction::Entrypoint(command(rest)?),
        "EXPOSE" => Instruction::Expose(several(name, rest.split_whitespace().map(str::to_owned))?),
        "VOLUME" => {
            let paths = json_or_words(rest)?.into_iter().map(|path| path.trim().to_owned());
            Instruction::Volume(several(name, paths)?)
        }
        "USER" => Instruction::User(exactly_one(name, rest)?),
        "WORKDIR" => Instruction::Workdir(exactly_one(name, rest)?),
        "STOPSIGNAL" => Instruction::StopSignal(exactly_one(name, rest)?),
        "MAINTAINER" => Instruction::Maintainer(exactly_one(name, rest)?),
        "SHELL" => Instruction::Shell(shell(rest)?),
        "HEALTHCHECK" => Instruction::Healthcheck(healthcheck::read(&parts.flags, rest)?),
        "ONBUILD" => Instruction::OnBuild(on_build(parts)?),
        other => {
            let hint = hint(other, &KNOWN);
            return Err(Error::invalid(format!("unknown instruction: {other}{hint}")));
        }
    };
    Ok(Step { line: parts.line.number, source: parts.line.text.trim().to_owned(), instruction })
}

fn run(parts: &Parts<'_>) -> Result<Run> {
    let mut flags = Flags::read(&parts.flags, &["mount*", "network", "security"], &[])?;
    Ok(Run {
        command: command(parts.rest)?,
        documents: parts.line.documents.clone(),
        mounts: flags.all("mount"),
        network: flags.take("network"),
        security: flags.take("security"),
    })
}

fn transfer(parts: &Parts<'_>) -> Result<Transfer> {
    let name = parts.name.as_str();
    let (texts, switches): (&[&str], &[&str]) = match name {
        "ADD" => (&["chown", "chmod", "checksum", "exclude*"], &["link", "keep-git-dir", "unpack"]),
        _ => (&["from", "chown", "chmod", "exclude*"], &["link", "parents"]),
    };
    let mut flags = Flags::read(&parts.flags, texts, switches)?;
    // What would come out otherwise than it is meant is refused; `--link` makes no other files.
    for refused in ["parents", "keep-git-dir"] {
        if flags.switch(refused) == Some(true) {
            return Err(Error::invalid(format!(
                "{name} --{refused} is not served by this builder"
            )));
        }
    }
    let mut words = json_or_words(parts.rest)?;
    let destination = match words.len() {
        0 => return Err(Error::invalid(format!("{name} requires at least one argument"))),
        1 => {
            return Err(Error::invalid(format!(
                "{name} requires at least two arguments, but only one was provided. Destination \
                 could not be determined"
            )));
        }
        _ => words.pop().unwrap_or_default(),
    };
    let mut documents: Vec<(usize, Document)> = Vec::new();
    for (at, word) in words.iter().enumerate() {
        let Some(named) = document(word, parts.escape)? else { continue };
        let text = parts.line.documents.iter().find(|known| known.name == named.name);
        documents.extend(text.map(|text| (at, text.clone())));
    }
    Ok(Transfer {
        sources: words,
        documents,
        destination,
        from: flags.take("from").filter(|from| !from.is_empty()),
        chown: flags.take("chown"),
        chmod: flags.take("chmod"),
        checksum: flags.take("checksum"),
        exclude: flags.all("exclude"),
        unpack: flags.switch("unpack"),
    })
}

fn command(rest: &str) -> Result<Command> {
    Ok(match json(rest)? {
        Some(words) => Command { words, shell: false },
        None if rest.is_empty() => Command { words: Vec::new(), shell: true },
        None => Command { words: vec![rest.to_owned()], shell: true },
    })
}

fn shell(rest: &str) -> Result<Vec<String>> {
    match json(rest)? {
        Some(words) if words.is_empty() => {
            Err(Error::invalid("SHELL requires at least one argument"))
        }
        Some(words) => Ok(words),
        None if rest.is_empty() => Err(Error::invalid("SHELL requires at least one argument")),
        None => Err(Error::invalid("SHELL requires the arguments to be in JSON form")),
    }
}

fn pairs(name: &str, rest: &str, escape: char) -> Result<Vec<(String, String)>> {
    let pairs = name_values(name, rest, escape)?;
    if pairs.is_empty() {
        return Err(Error::invalid(format!("{name} requires at least one argument")));
    }
    if pairs.iter().any(|(key, _)| key.is_empty()) {
        return Err(Error::invalid(format!("{name} names can not be blank")));
    }
    Ok(pairs)
}

fn build_arguments(rest: &str, escape: char) -> Result<Vec<(String, Option<String>)>> {
    let arguments = names_or_values(rest, escape);
    if arguments.is_empty() {
        return Err(Error::invalid("ARG requires at least one argument"));
    }
    if arguments.iter().any(|(name, _)| name.is_empty()) {
        return Err(Error::invalid("ARG names can not be blank"));
    }
    Ok(arguments)
}

fn several(name: &str, words: impl Iterator<Item = String>) -> Result<Vec<String>> {
    let words: Vec<_> = words.collect();
    if words.is_empty() {
        return Err(Error::invalid(format!("{name} requires at least one argument")));
    }
    Ok(words)
}

fn exactly_one(name: &str, rest: &str) -> Result<String> {
    if rest.is_empty() {
        return Err(Error::invalid(format!("{name} requires exactly one argument")));
    }
    Ok(rest.to_owned())
}

fn on_build(parts: &Parts<'_>) -> Result<String> {
    let text = parts.line.text.trim();
    let deferred = text.split_once(char::is_whitespace).map_or("", |(_, rest)| rest).trim();
    let first = deferred.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
    match first.as_str() {
        "" => Err(Error::invalid("ONBUILD requires at least one argument")),
        "ONBUILD" => Err(Error::invalid("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")),
        "MAINTAINER" | "FROM" => {
            Err(Error::invalid(format!("{first} isn't allowed as an ONBUILD trigger")))
        }
        _ => {
            // What is wrong with it is told now, and not to those who use the image.
            let line = Line {
                number: parts.line.number,
                text: deferred.to_owned(),
                documents: parts.line.documents.clone(),
            };
            instruction(&take_apart(&line, parts.escape))?;
            let documents = parts.line.documents.iter();
            let texts = documents.map(|it| format!("\n{}{}", it.text, it.name));
            Ok([deferred.to_owned()].into_iter().chain(texts).collect())
        }
    }
}

#[cfg(test)]
mod tests;
