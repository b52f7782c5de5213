//! Arguments of instructions: JSON, words, names with values.

use engine_error::{Error, Result};

/// What Docker finds before it understands anything.
pub(super) fn check(name: &str, rest: &str, escape: char) -> Result<()> {
    match name {
        "ENV" | "LABEL" => name_values(name, rest, escape).map(drop),
        "ADD" | "COPY" | "CMD" | "ENTRYPOINT" | "RUN" | "SHELL" | "VOLUME" => json(rest).map(drop),
        _ => Ok(()),
    }
}

/// The JSON form, if it is that.
pub(super) fn json(rest: &str) -> Result<Option<Vec<String>>> {
    if !rest.starts_with('[') {
        return Ok(None);
    }
    let Ok(values) = serde_json::from_str::<Vec<serde_json::Value>>(rest) else { return Ok(None) };
    let text = |value: serde_json::Value| match value {
        serde_json::Value::String(text) => Ok(text),
        _ => Err(Error::invalid(
            "when using JSON array syntax, arrays must be comprised of strings only",
        )),
    };
    values.into_iter().map(text).collect::<Result<_>>().map(Some)
}

/// The JSON form or words.
pub(super) fn json_or_words(rest: &str) -> Result<Vec<String>> {
    Ok(match json(rest)? {
        Some(words) => words,
        None => rest.split_whitespace().map(str::to_owned).collect(),
    })
}

/// `name=value` words, or the old form `name value with blanks`.
pub(super) fn name_values(name: &str, rest: &str, escape: char) -> Result<Vec<(String, String)>> {
    let words = words(rest, escape);
    let Some(first) = words.first() else { return Ok(Vec::new()) };
    if !first.contains('=') {
        let Some((key, value)) = rest.split_once(char::is_whitespace) else {
            return Err(Error::invalid(format!("{name} must have two arguments")));
        };
        return Ok(vec![(key.to_owned(), value.trim_start().to_owned())]);
    }
    let pair = |word: &String| match word.split_once('=') {
        Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
        None => Err(Error::invalid(format!(
            "Syntax error - can't find = in {}. Must be of the form: name=value",
            crate::words::quoted(word)
        ))),
    };
    words.iter().map(pair).collect()
}

/// `name` or `name=value` words.
pub(super) fn names_or_values(rest: &str, escape: char) -> Vec<(String, Option<String>)> {
    let pair = |word: String| match word.split_once('=') {
        Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
        None => (word, None),
    };
    words(rest, escape).into_iter().map(pair).collect()
}

/// Words with their quotes and escapes still on.
fn words(text: &str, escape: char) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        if quote.is_none() && letter.is_whitespace() {
            words.extend(word.take());
            continue;
        }
        let word = word.get_or_insert_default();
        word.push(letter);
        if letter == escape {
            word.extend(letters.next());
        } else if Some(letter) == quote {
            quote = None;
        } else if quote.is_none() && matches!(letter, '"' | '\'') {
            quote = Some(letter);
        }
    }
    words.extend(word);
    words
}
