//! Flags of instructions: `--name=value` before the arguments.

use engine_error::{Error, Result};

use crate::suggest::hint;

/// The words before the first that is no flag, and the rest.
pub(super) fn split(line: &str) -> (Vec<String>, &str) {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while rest.starts_with("--") {
        let (word, after) = word(rest);
        rest = after.trim_start();
        if word == "--" {
            break;
        }
        words.push(word);
    }
    (words, rest)
}

/// A word with quotes and escapes off, and what comes after it.
fn word(text: &str) -> (String, &str) {
    let mut word = String::new();
    let mut quote = None;
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '\\' => word.extend(letters.next().map(|(_, escaped)| escaped)),
            letter if Some(letter) == quote => quote = None,
            '\'' | '"' if quote.is_none() => quote = Some(letter),
            letter if quote.is_none() && letter.is_whitespace() => return (word, &text[at..]),
            letter => word.push(letter),
        }
    }
    (word, "")
}

/// The flags of one instruction.
#[derive(Debug)]
pub(super) struct Flags(Vec<(String, String)>);

impl Flags {
    /// Reads flags, of which some have a text and others are switches; a `*` marks those that may
    /// come more than once.
    pub(super) fn read(words: &[String], texts: &[&str], switches: &[&str]) -> Result<Self> {
        let mut flags: Vec<(String, String)> = Vec::new();
        for word in words {
            let flag = word.trim_start_matches("--");
            let (name, value) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (flag, None),
            };
            let many = texts.contains(&format!("{name}*").as_str());
            let switch = switches.contains(&name);
            if !many && !switch && !texts.contains(&name) {
                let known: Vec<_> =
                    texts.iter().chain(switches).map(|name| name.trim_end_matches('*')).collect();
                let hint = hint(name, &known);
                return Err(Error::invalid(format!("unknown flag: --{name}{hint}")));
            }
            if !many && flags.iter().any(|(known, _)| known == name) {
                return Err(Error::invalid(format!("duplicate flag specified: {name}")));
            }
            let value = match (switch, value) {
                (true, None) => "true",
                (true, Some(value)) => boolean(name, value)?,
                (false, Some(value)) => value,
                (false, None) => {
                    return Err(Error::invalid(format!("missing a value on flag: {name}")));
                }
            };
            flags.push((name.to_owned(), value.to_owned()));
        }
        Ok(Self(flags))
    }

    /// Takes the text of a flag.
    pub(super) fn take(&mut self, name: &str) -> Option<String> {
        let at = self.0.iter().position(|(known, _)| known == name)?;
        Some(self.0.remove(at).1)
    }

    /// Takes all texts of a flag.
    pub(super) fn all(&mut self, name: &str) -> Vec<String> {
        let all = std::mem::take(&mut self.0);
        let (wanted, others) = all.into_iter().partition::<Vec<_>, _>(|(known, _)| known == name);
        self.0 = others;
        wanted.into_iter().map(|(_, value)| value).collect()
    }

    /// Whether a switch is on or off, if it is there.
    pub(super) fn switch(&self, name: &str) -> Option<bool> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value == "true")
    }
}

fn boolean<'a>(name: &str, value: &'a str) -> Result<&'a str> {
    match value.to_ascii_lowercase().as_str() {
        "true" => Ok("true"),
        "false" => Ok("false"),
        _ => Err(Error::invalid(format!("expecting boolean value for flag {name}, not: {value}"))),
    }
}
