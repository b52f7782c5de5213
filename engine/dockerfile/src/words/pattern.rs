//! Shell patterns in substitutions: `*`, `?` and what an escape takes literally.

/// Takes what a pattern matches off the front or the end.
pub(super) fn trim(value: &str, pattern: &str, front: bool, longest: bool) -> String {
    let (value, parts) = (value.chars().collect::<Vec<_>>(), parts(pattern));
    let lengths: Vec<usize> = (0..=value.len()).collect();
    let fits = |length: &&usize| {
        let (from, to) = if front { (0, **length) } else { (value.len() - **length, value.len()) };
        matches(&parts, &value[from..to])
    };
    let found = if longest { lengths.iter().rev().find(fits) } else { lengths.iter().find(fits) };
    let length = found.copied().unwrap_or(0);
    let rest = if front { &value[length..] } else { &value[..value.len() - length] };
    rest.iter().collect()
}

/// Replaces the first place that a pattern matches, or all of them; the longest match counts.
pub(super) fn replace(value: &str, pattern: &str, with: &str, all: bool) -> String {
    let (value, parts) = (value.chars().collect::<Vec<_>>(), parts(pattern));
    let (mut result, mut at) = (String::new(), 0);
    while at < value.len() {
        let end = (at + 1..=value.len()).rev().find(|end| matches(&parts, &value[at..*end]));
        let Some(end) = end else {
            result.push(value[at]);
            at += 1;
            continue;
        };
        result.push_str(with);
        at = end;
        if !all {
            break;
        }
    }
    result.extend(&value[at..]);
    result
}

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
    parts
}

/// Greedy with one point of return: no pattern is a trap.
fn matches(parts: &[Part], value: &[char]) -> bool {
    let (mut part, mut at, mut retry) = (0, 0, None);
    loop {
        match parts.get(part) {
            Some(Part::Any) => {
                retry = Some((part, at));
                part += 1;
                continue;
            }
            Some(wanted) => {
                let fits = |letter: &char| matches!(wanted, Part::One) || exactly(wanted, *letter);
                if value.get(at).is_some_and(fits) {
                    (part, at) = (part + 1, at + 1);
                    continue;
                }
            }
            None if at == value.len() => return true,
            None => {}
        }
        match retry {
            Some((star, from)) if from < value.len() => {
                retry = Some((star, from + 1));
                (part, at) = (star + 1, from + 1);
            }
            _ => return false,
        }
    }
}

fn exactly(part: &Part, letter: char) -> bool {
    matches!(part, Part::Exactly(wanted) if *wanted == letter)
}
