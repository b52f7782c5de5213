//! From bytes to logical lines: directives, comments, continuations, documents.

use engine_error::{Error, Result};

use crate::instruction::Document;
use crate::words::Lexer;

/// The longest physical line, as the scanner of Docker's parser has it.
const LONGEST_LINE: usize = 65_535;

/// An instruction as it is written.
#[derive(Debug)]
pub(crate) struct Line {
    /// The number of its first line, from 1.
    pub(crate) number: usize,
    /// Its text on one line.
    pub(crate) text: String,
    /// The documents that follow it.
    pub(crate) documents: Vec<Document>,
}

/// What a file says of itself at its top.
#[derive(Debug)]
pub(crate) struct Lines {
    pub(crate) escape: char,
    pub(crate) all: Vec<Line>,
    pub(crate) warnings: Vec<String>,
}

/// An error at a line, in Docker's words.
pub(crate) fn at(number: usize, message: impl std::fmt::Display) -> Error {
    Error::invalid(format!("dockerfile parse error on line {number}: {message}"))
}

/// Reads the logical lines of a Dockerfile.
pub(crate) fn read(text: &str) -> Result<Lines> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let escape = directives(text)?;
    let mut physical = text.split_inclusive('\n').enumerate();
    let (mut lines, mut warnings) = (Vec::new(), Vec::new());
    while let Some((number, first)) = physical.next() {
        let number = number + 1;
        if is_comment(first) {
            continue;
        }
        let (mut text, mut goes_on) = continuation(checked(first, number)?.trim_start(), escape);
        if text.is_empty() && !goes_on {
            continue;
        }
        let mut empty = false;
        while goes_on {
            let Some((at, next)) = physical.next() else { break };
            if is_comment(next) {
                continue;
            }
            if next.trim().is_empty() {
                empty = true;
                continue;
            }
            let (more, on) = continuation(checked(next, at + 1)?, escape);
            text.push_str(&more);
            goes_on = on;
        }
        if text.trim().is_empty() {
            continue;
        }
        if empty {
            warnings.push(format!("Empty continuation line found in: {text}"));
        }
        let documents = documents(&text, escape, number, &mut physical)?;
        lines.push(Line { number, text, documents });
    }
    if lines.is_empty() {
        return Err(Error::invalid("file with no instructions"));
    }
    Ok(Lines { escape, all: lines, warnings })
}

/// The escape character that the directives choose. They stand before anything else, and the first
/// line that is none ends them.
fn directives(text: &str) -> Result<char> {
    let mut seen: Vec<String> = Vec::new();
    let mut escape = '\\';
    for (number, line) in text.lines().enumerate() {
        let Some((name, value)) = directive(line) else { break };
        if seen.contains(&name) {
            return Err(at(number + 1, format!("only one {name} parser directive can be used")));
        }
        if name == "escape" {
            escape = match value {
                "\\" => '\\',
                "`" => '`',
                _ => {
                    let text = format!("invalid escape token '{value}' does not match ` or \\");
                    return Err(at(number + 1, text));
                }
            };
        }
        seen.push(name);
    }
    Ok(escape)
}

/// `# name=value`, of a name that is known.
fn directive(line: &str) -> Option<(String, &str)> {
    let (name, value) = line.trim_start().strip_prefix('#')?.split_once('=')?;
    let name = name.trim().to_ascii_lowercase();
    let known = matches!(name.as_str(), "escape" | "syntax" | "check");
    known.then(|| (name, value.trim()))
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with('#')
}

fn checked(line: &str, number: usize) -> Result<&str> {
    if line.len() > LONGEST_LINE {
        let text = format!("dockerfile line greater than maximum allowed size of {LONGEST_LINE}");
        return Err(at(number, text));
    }
    Ok(line)
}

/// A line without its end, and whether the next one belongs to it: it ends with one escape character,
/// whatever blanks follow.
fn continuation(line: &str, escape: char) -> (String, bool) {
    let line = line.strip_suffix('\n').unwrap_or(line);
    let line = line.strip_suffix('\r').unwrap_or(line);
    let bare = line.trim_end_matches([' ', '\t']);
    match bare.strip_suffix(escape) {
        Some(before) if !before.ends_with(escape) => (before.to_owned(), true),
        _ => (line.to_owned(), false),
    }
}

/// The documents that an instruction names by `<<NAME`, taken from the lines after it.
fn documents<'a>(
    text: &str,
    escape: char,
    number: usize,
    physical: &mut impl Iterator<Item = (usize, &'a str)>,
) -> Result<Vec<Document>> {
    if !text.contains("<<") || !may_have_documents(text) {
        return Ok(Vec::new());
    }
    let mut documents = named(text, escape).map_err(|error| at(number, error))?;
    for document in &mut documents {
        loop {
            let Some((_, line)) = physical.next() else {
                return Err(at(number, "unterminated heredoc"));
            };
            let line = if document.chomp { line.trim_start_matches('\t') } else { line };
            let bare = line.strip_suffix('\n').unwrap_or(line);
            if bare.strip_suffix('\r').unwrap_or(bare) == document.name {
                break;
            }
            document.text.push_str(line);
        }
    }
    Ok(documents)
}

/// Documents go with what copies and what runs, also where that is deferred.
fn may_have_documents(text: &str) -> bool {
    let mut words = text.split_whitespace().map(str::to_ascii_lowercase);
    let mut first = words.next().unwrap_or_default();
    if first == "onbuild" {
        first = words.next().unwrap_or_default();
    }
    matches!(first.as_str(), "add" | "copy" | "run")
}

fn named(text: &str, escape: char) -> Result<Vec<Document>> {
    let words = Lexer::raw(escape).split(text, &|_| None)?;
    words.iter().filter_map(|word| document(word, escape).transpose()).collect()
}

/// The document that a word names: `<<NAME`, `<<-NAME`, `<<"NAME"`, with the number of a file before.
pub(crate) fn document(word: &str, escape: char) -> Result<Option<Document>> {
    let digits = word.trim_start_matches(|letter: char| letter.is_ascii_digit());
    let Some(rest) = digits.strip_prefix("<<") else { return Ok(None) };
    let (chomp, rest) = rest.strip_prefix('-').map_or((false, rest), |rest| (true, rest));
    if rest.is_empty() || rest.contains('<') {
        return Ok(None);
    }
    let names = Lexer::new(escape).split(rest, &|_| None)?;
    let [name] = names.as_slice() else { return Ok(None) };
    let (name, expand) = (name.clone(), *name == rest);
    Ok(Some(Document { name, text: String::new(), expand, chomp }))
}
