//! Shell patterns in substitutions: `*`, `?` and what an escape takes literally. As in Docker they are
//! expressions, so no pattern is a trap: the work is bounded by its length and the value's.

use regex::{Regex, RegexBuilder};

use super::{LONGEST, TOO_LONG};

/// The most that a pattern may come to.
const LARGEST: usize = 1 << 17;

/// Takes what a pattern matches off the front or the end.
pub(super) fn trim(
    value: &str,
    pattern: &str,
    front: bool,
    longest: bool,
) -> Result<String, String> {
    let mut parts = parts(pattern);
    // An expression is matched from the front: for the end, all is read backwards.
    let turned = |text: &str| if front { text.to_owned() } else { text.chars().rev().collect() };
    if !front {
        parts.reverse();
    }
    let (value, expression) = (turned(value), expression(&parts, longest));
    let end = compiled(&format!("^{expression}"))?.find(&value).map_or(0, |found| found.end());
    Ok(turned(&value[end..]))
}

/// Replaces the first place that a pattern matches, or all of them; the longest match counts.
pub(super) fn replace(value: &str, pattern: &str, with: &str, all: bool) -> Result<String, String> {
    let expression = compiled(&expression(&parts(pattern), true))?;
    let found = expression.find_iter(value).filter(|found| !found.is_empty());
    let (mut result, mut at) = (String::new(), 0);
    for found in found.take(if all { usize::MAX } else { 1 }) {
        result.push_str(&value[at..found.start()]);
        result.push_str(with);
        at = found.end();
        if result.len() > LONGEST {
            return Err(TOO_LONG.to_owned());
        }
    }
    result.push_str(&value[at..]);
    Ok(result)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Any,
    One,
    Exactly(char),
}

fn parts(pattern: &str) -> Vec<Part> {
    let mut letters = pattern.chars();
    let mut parts = Vec::new();
    while let Some(letter) = letters.next() {
        parts.push(match letter {
            '*' => Part::Any,
            '?' => Part::One,
            '\\' => Part::Exactly(letters.next().unwrap_or('\\')),
            other => Part::Exactly(other),
        });
    }
    parts.dedup_by(|part, before| *part == Part::Any && *before == Part::Any);
    parts
}

fn expression(parts: &[Part], longest: bool) -> String {
    let mut expression = String::new();
    for part in parts {
        match part {
            Part::Any if longest => expression.push_str(".*"),
            Part::Any => expression.push_str(".*?"),
            Part::One => expression.push('.'),
            Part::Exactly(letter) => expression.push_str(&regex::escape(&letter.to_string())),
        }
    }
    expression
}

fn compiled(expression: &str) -> Result<Regex, String> {
    let mut expression = RegexBuilder::new(expression);
    let built = expression.dot_matches_new_line(true).size_limit(LARGEST).build();
    built.map_err(|_| "the pattern is too long".to_owned())
}
