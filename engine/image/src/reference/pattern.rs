//! Go's `path.Match`: what users of a `reference` filter rely on.

/// A pattern that Go would refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("syntax error in pattern")]
pub struct BadPattern;

/// A shell pattern: `*` and `?` stop at `/`, `[a-z]` and `[^a-z]` are classes, a backslash takes the
/// next character as it is.
#[derive(Debug)]
pub struct Pattern(Vec<Part>);

impl Pattern {
    /// Reads a pattern.
    pub fn parse(text: &str) -> Result<Self, BadPattern> {
        parse(text).map(Self)
    }

    /// Whether it matches the whole of a name.
    pub fn matches(&self, name: &str) -> bool {
        matches(&self.0, &name.chars().collect::<Vec<_>>())
    }
}

#[derive(Debug)]
enum Part {
    Any,
    One,
    Exactly(char),
    Class { negated: bool, ranges: Vec<(char, char)> },
}

fn parse(pattern: &str) -> Result<Vec<Part>, BadPattern> {
    let mut parts = Vec::new();
    let mut rest = pattern.chars();
    while let Some(next) = rest.next() {
        parts.push(match next {
            '*' => Part::Any,
            '?' => Part::One,
            '\\' => Part::Exactly(rest.next().ok_or(BadPattern)?),
            '[' => class(&mut rest)?,
            other => Part::Exactly(other),
        });
    }
    Ok(parts)
}

fn class(rest: &mut std::str::Chars<'_>) -> Result<Part, BadPattern> {
    let negated = rest.as_str().starts_with('^');
    if negated {
        rest.next();
    }
    let mut ranges = Vec::new();
    loop {
        if rest.as_str().starts_with(']') && !ranges.is_empty() {
            rest.next();
            return Ok(Part::Class { negated, ranges });
        }
        let low = bound(rest)?;
        let high = if rest.as_str().starts_with('-') {
            rest.next();
            bound(rest)?
        } else {
            low
        };
        ranges.push((low, high));
    }
}

fn bound(rest: &mut std::str::Chars<'_>) -> Result<char, BadPattern> {
    match rest.next().ok_or(BadPattern)? {
        '-' | ']' => Err(BadPattern),
        '\\' => rest.next().ok_or(BadPattern),
        other => Ok(other),
    }
}

/// Greedy with one point of return: linear space, no recursion, so no pattern is a trap.
fn matches(parts: &[Part], name: &[char]) -> bool {
    let (mut part, mut at) = (0, 0);
    let mut retry = None;
    loop {
        match parts.get(part) {
            Some(Part::Any) => {
                retry = Some((part, at));
                part += 1;
                continue;
            }
            Some(wanted) if name.get(at).is_some_and(|&c| accepts(wanted, c)) => {
                part += 1;
                at += 1;
                continue;
            }
            None if at == name.len() => return true,
            _ => {}
        }
        let Some((star, from)) = retry else { return false };
        match name.get(from) {
            Some('/') | None => return false,
            Some(_) => {
                retry = Some((star, from + 1));
                part = star + 1;
                at = from + 1;
            }
        }
    }
}

fn accepts(part: &Part, c: char) -> bool {
    match part {
        Part::Any => false,
        Part::One => c != '/',
        Part::Exactly(wanted) => *wanted == c,
        Part::Class { negated, ranges } => {
            c != '/' && ranges.iter().any(|&(low, high)| low <= c && c <= high) != *negated
        }
    }
}
