//! Words as a shell reads them, without running anything: quotes, escapes, variables.

use std::cell::Cell;
use std::iter::Peekable;
use std::str::Chars;

use engine_error::{Error, Result};

mod pattern;

/// What a variable is, if it is set.
pub type Variables<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// The most that words may grow to when variables are put in.
const LONGEST: usize = 1 << 20;
const TOO_LONG: &str = "the words are too long";

/// Variables of which so many bytes are given out and no more: a value that is put in twice each time
/// would double with every line.
pub(crate) struct Limited<'a> {
    variables: &'a Variables<'a>,
    /// Nothing once there was not enough.
    left: Cell<Option<usize>>,
}

impl<'a> Limited<'a> {
    pub(crate) fn new(variables: &'a Variables<'a>) -> Self {
        Self { variables, left: Cell::new(Some(LONGEST)) }
    }

    pub(crate) fn value(&self, name: &str) -> Option<String> {
        let left = self.left.get()?;
        let value = (self.variables)(name)?;
        self.left.set(left.checked_sub(value.len()));
        self.left.get().map(|_| value)
    }

    /// Whether all that was wanted was given.
    pub(crate) fn check(&self) -> std::result::Result<(), String> {
        self.left.get().map(|_| ()).ok_or_else(|| TOO_LONG.to_owned())
    }
}

/// Reads words by the rules of one Dockerfile.
#[derive(Clone, Copy, Debug)]
pub struct Lexer {
    escape: char,
    /// Quotes and escapes stay, and variables too.
    raw: bool,
    /// Quotes are letters like others.
    unquoted: bool,
}

impl Lexer {
    /// With the escape character of the file.
    pub fn new(escape: char) -> Self {
        Self { escape, raw: false, unquoted: false }
    }

    /// One that only finds where words end.
    pub fn raw(escape: char) -> Self {
        Self { escape, raw: true, unquoted: false }
    }

    /// A text as one word: quotes off, variables put in.
    pub fn word(self, text: &str, variables: &Variables<'_>) -> Result<String> {
        Ok(self.read(text, variables)?.0)
    }

    /// A text as words.
    pub fn split(self, text: &str, variables: &Variables<'_>) -> Result<Vec<String>> {
        Ok(self.read(text, variables)?.1)
    }

    /// A document: variables put in, quotes as they are.
    pub(crate) fn document(self, text: &str, variables: &Variables<'_>) -> Result<String> {
        Ok(Self { unquoted: true, ..self }.read(text, variables)?.0)
    }

    fn read(self, text: &str, variables: &Variables<'_>) -> Result<(String, Vec<String>)> {
        let (rest, limited) = (text.chars().peekable(), Limited::new(variables));
        let variables = |name: &str| limited.value(name);
        let mut reading = Reading { lexer: self, rest, variables: &variables, depth: 0 };
        let mut words = Words::default();
        let read = reading.until(None, false, &mut words);
        let read = limited.check().and(read).and_then(|whole| {
            if whole.len() > LONGEST { Err(TOO_LONG.to_owned()) } else { Ok(whole) }
        });
        let whole = read.map_err(|error| {
            Error::invalid(format!("failed to process {}: {error}", quoted(text)))
        })?;
        Ok((whole, words.finish()))
    }
}

/// A text in quotes, as Go writes it.
pub(crate) fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for letter in text.chars() {
        match letter {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            other if other.is_control() => {
                quoted.extend(["\\x".to_owned(), format!("{:02x}", u32::from(other))]);
            }
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

/// Words as they come.
#[derive(Default)]
struct Words {
    done: Vec<String>,
    open: Option<String>,
}

impl Words {
    /// A letter outside of quotes: blanks end words.
    fn letter(&mut self, letter: char) {
        if letter.is_whitespace() {
            self.done.extend(self.open.take());
        } else {
            self.open.get_or_insert_default().push(letter);
        }
    }

    /// What came of a variable outside of quotes: its blanks end words too.
    fn value(&mut self, text: &str) {
        text.chars().for_each(|letter| self.letter(letter));
    }

    /// What belongs to the word as it is.
    fn literal(&mut self, text: &str) {
        self.open.get_or_insert_default().push_str(text);
    }

    fn finish(mut self) -> Vec<String> {
        self.done.extend(self.open);
        self.done
    }
}

type Read = Result<String, String>;

struct Reading<'a> {
    lexer: Lexer,
    rest: Peekable<Chars<'a>>,
    variables: &'a Variables<'a>,
    depth: usize,
}

impl Reading<'_> {
    /// Reads up to a letter, which it takes, or to the end.
    fn until(&mut self, stop: Option<char>, raw_escapes: bool, words: &mut Words) -> Read {
        let mut result = String::new();
        loop {
            let Some(&next) = self.rest.peek() else {
                return if stop.is_some() {
                    Err("syntax error: missing '}'".into())
                } else {
                    Ok(result)
                };
            };
            if Some(next) == stop {
                self.rest.next();
                return Ok(result);
            }
            if result.len() > LONGEST {
                return Err(TOO_LONG.into());
            }
            match next {
                '\'' if !self.lexer.unquoted => {
                    let text = self.single()?;
                    words.literal(&text);
                    result.push_str(&text);
                }
                '"' if !self.lexer.unquoted => {
                    let text = self.double()?;
                    words.literal(&text);
                    result.push_str(&text);
                }
                '$' if !self.lexer.raw => {
                    let text = self.dollar()?;
                    words.value(&text);
                    result.push_str(&text);
                }
                _ => {
                    self.rest.next();
                    self.plain(next, raw_escapes, &mut result, words);
                }
            }
        }
    }

    fn plain(&mut self, letter: char, raw_escapes: bool, result: &mut String, words: &mut Words) {
        if letter != self.lexer.escape {
            words.letter(letter);
            result.push(letter);
            return;
        }
        if self.lexer.raw || raw_escapes {
            words.letter(letter);
            result.push(letter);
        }
        // What is escaped is no blank; an escape at the end is nothing.
        if let Some(escaped) = self.rest.next() {
            words.literal(escaped.encode_utf8(&mut [0; 4]));
            result.push(escaped);
        }
    }

    fn single(&mut self) -> Read {
        let mut text = String::new();
        let raw = self.lexer.raw;
        let quote = self.rest.next();
        text.extend(quote.filter(|_| raw));
        for letter in self.rest.by_ref() {
            if letter == '\'' {
                text.extend(Some(letter).filter(|_| raw));
                return Ok(text);
            }
            text.push(letter);
        }
        Err("unexpected end of statement while looking for matching single-quote".into())
    }

    fn double(&mut self) -> Read {
        let mut text = String::new();
        let raw = self.lexer.raw;
        let quote = self.rest.next();
        text.extend(quote.filter(|_| raw));
        while let Some(&letter) = self.rest.peek() {
            if letter == '$' && !raw {
                text.push_str(&self.dollar()?);
                if text.len() > LONGEST {
                    return Err(TOO_LONG.into());
                }
                continue;
            }
            self.rest.next();
            if letter == '"' {
                text.extend(Some(letter).filter(|_| raw));
                return Ok(text);
            }
            if letter != self.lexer.escape {
                text.push(letter);
                continue;
            }
            let Some(escaped) = self.rest.next() else { break };
            let drops = matches!(escaped, '"' | '$') || escaped == self.lexer.escape;
            if raw || !drops {
                text.push(letter);
            }
            text.push(escaped);
        }
        Err("unexpected end of statement while looking for matching double-quote".into())
    }

    fn dollar(&mut self) -> Read {
        self.rest.next();
        if self.rest.peek() != Some(&'{') {
            let name = self.name();
            return Ok(if name.is_empty() { "$".to_owned() } else { self.value(&name) });
        }
        self.rest.next();
        match self.rest.peek() {
            None => return Err("syntax error: missing '}'".into()),
            Some('{' | '}' | ':') => return Err("syntax error: bad substitution".into()),
            Some(_) => {}
        }
        let name = self.name();
        self.depth += 1;
        if self.depth > 64 {
            return Err("syntax error: substitutions are nested too deeply".into());
        }
        let value = self.modified(&name);
        self.depth -= 1;
        value
    }

    fn value(&self, name: &str) -> String {
        (self.variables)(name).unwrap_or_default()
    }

    /// What follows the name in `${name…}`.
    fn modified(&mut self, name: &str) -> Read {
        let unsupported =
            |modifier: &str| format!("unsupported modifier ({modifier}) in substitution");
        let mut modifier = match self.rest.next() {
            Some('}') => return Ok(self.value(name)),
            Some(modifier) => modifier.to_string(),
            None => return Err(unsupported("\u{fffd}")),
        };
        if modifier == ":" {
            modifier.extend(self.rest.next());
        }
        match modifier.trim_start_matches(':') {
            kind @ ("-" | "+" | "?") => self.alternative(name, kind, modifier.len() == 2),
            "#" | "%" if modifier.len() == 1 => self.trimmed(name, modifier == "#"),
            "/" if modifier.len() == 1 => self.replaced(name),
            _ => Err(unsupported(&modifier)),
        }
    }

    /// `-`, `+`, `?`, and with a colon for what is empty too.
    fn alternative(&mut self, name: &str, kind: &str, or_empty: bool) -> Read {
        let word = self.until(Some('}'), false, &mut Words::default())?;
        let value = (self.variables)(name);
        let why = match &value {
            None => "is not allowed to be unset",
            Some(_) => "is not allowed to be empty",
        };
        let set = value.filter(|value| !(or_empty && value.is_empty()));
        match (kind, set) {
            ("-", None) | ("+", Some(_)) => Ok(word),
            ("?", None) if word.is_empty() => Err(format!("{name}: {why}")),
            ("?", None) => Err(format!("{name}: {word}")),
            (_, Some(value)) => Ok(value),
            (_, None) => Ok(String::new()), // of `+`
        }
    }

    /// `#`, `##`, `%`, `%%`: a pattern taken off an end.
    fn trimmed(&mut self, name: &str, front: bool) -> Read {
        let twice = if front { '#' } else { '%' };
        let longest = self.rest.next_if_eq(&twice).is_some();
        let pattern = self.until(Some('}'), true, &mut Words::default())?;
        pattern::trim(&self.value(name), &pattern, front, longest)
    }

    /// `/` and `//`: a pattern replaced.
    fn replaced(&mut self, name: &str) -> Read {
        let all = self.rest.next_if_eq(&'/').is_some();
        let pattern = self.until(Some('/'), true, &mut Words::default())?;
        let with = self.until(Some('}'), true, &mut Words::default())?;
        pattern::replace(&self.value(name), &pattern, &with, all)
    }

    /// A variable's name: letters, digits and `_`, digits alone, or one of the special letters.
    fn name(&mut self) -> String {
        let mut name = String::new();
        let special = |letter: &char| matches!(letter, '@' | '*' | '#' | '?' | '-' | '$' | '!');
        match self.rest.peek() {
            Some(first) if first.is_ascii_digit() => {
                while let Some(digit) = self.rest.next_if(char::is_ascii_digit) {
                    name.push(digit);
                }
            }
            Some(first) if special(first) => name.extend(self.rest.next()),
            _ => {
                let belongs = |letter: &char| letter.is_alphanumeric() || *letter == '_';
                while let Some(letter) = self.rest.next_if(belongs) {
                    name.push(letter);
                }
            }
        }
        name
    }
}

#[cfg(test)]
mod tests;
