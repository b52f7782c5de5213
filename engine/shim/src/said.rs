//! What a runtime says when it fails: its log, or what it wrote to standard error.
//!
//! The text is read by its structure, whichever runtime and version wrote it: JSON objects, on one
//! line each or on several; lines of `key=value`; plain text; and all of these mixed. A runtime
//! warns in the same places, so what it calls an error goes before what it says otherwise.

use serde_json::Value;

/// The keys that messages are found under; some runtimes have them in an object of their own.
const MESSAGES: [&str; 4] = ["msg", "message", "error", "err"];
/// The keys of the object that some runtimes put the message in.
const NESTED: [&str; 2] = ["fields", "error"];
/// The levels of what ends a runtime.
const FATAL: [&str; 6] = ["error", "fatal", "panic", "critical", "crit", "emerg"];
/// The levels of what does not.
const HARMLESS: [&str; 6] = ["trace", "debug", "info", "notice", "warn", "warning"];

/// One thing that a runtime said.
#[derive(Debug)]
struct Saying {
    weight: Weight,
    message: String,
}

/// How much it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Weight {
    /// The runtime says that it is no error.
    Harmless,
    /// It says nothing of that.
    Unknown,
    /// The runtime says that it is an error.
    Fatal,
}

/// Why the runtime failed, in its own words: the last of the gravest things that it said. `None` if
/// it said nothing.
pub fn reason(text: &str) -> Option<String> {
    let all = sayings(text);
    let gravest = all.iter().map(|saying| saying.weight).max()?;
    all.into_iter().rfind(|saying| saying.weight == gravest).map(|saying| saying.message)
}

fn sayings(text: &str) -> Vec<Saying> {
    let mut all = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (saying, length) = object(rest).unwrap_or_else(|| line(rest));
        all.extend(saying);
        rest = rest[length..].trim_start();
    }
    all
}

/// A JSON object at the beginning of a text, and its length.
fn object(text: &str) -> Option<(Option<Saying>, usize)> {
    if !text.starts_with('{') {
        return None;
    }
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    let value = stream.next()?.ok()?;
    let message = message(&value);
    let level = ["level", "severity", "lvl"].iter().find_map(|key| value[key].as_str());
    // An object without a message is kept as it is: better than nothing.
    let message = message.unwrap_or_else(|| value.to_string());
    Some((saying(level, &message), stream.byte_offset()))
}

fn message(value: &Value) -> Option<String> {
    let of = |value: &Value| {
        let texts = MESSAGES.iter().filter_map(|key| value[key].as_str());
        texts.map(str::to_owned).next()
    };
    of(value).or_else(|| NESTED.iter().find_map(|key| of(&value[key])))
}

/// A line at the beginning of a text, and its length.
fn line(text: &str) -> (Option<Saying>, usize) {
    let line = text.lines().next().unwrap_or_default();
    let fields = fields(line);
    let of = |keys: &[&str]| {
        fields.iter().find(|(key, _)| keys.contains(key)).map(|(_, value)| value.as_str())
    };
    let level = of(&["level", "lvl"]);
    let said = match of(&MESSAGES) {
        Some(message) if level.is_some() => saying(level, message),
        _ => saying(None, line),
    };
    (said, line.len())
}

fn saying(level: Option<&str>, message: &str) -> Option<Saying> {
    let message = message.trim();
    let level = level.map(str::to_ascii_lowercase);
    let weight = match level.as_deref() {
        Some(level) if FATAL.contains(&level) => Weight::Fatal,
        Some(level) if HARMLESS.contains(&level) => Weight::Harmless,
        _ => Weight::Unknown,
    };
    (!message.is_empty()).then(|| Saying { weight, message: message.to_owned() })
}

/// The `key=value` pairs of a line, if it consists of them; values may be quoted.
fn fields(line: &str) -> Vec<(&str, String)> {
    let mut fields = Vec::new();
    let mut rest = line.trim();
    while let Some((key, value)) = rest.split_once('=') {
        if key.is_empty() || key.contains(|c: char| c.is_whitespace() || c == '"') {
            return Vec::new();
        }
        let (value, length) = if value.starts_with('"') { quoted(value) } else { bare(value) };
        fields.push((key, value));
        rest = rest[key.len() + 1 + length..].trim_start();
    }
    if rest.is_empty() { fields } else { Vec::new() }
}

/// A word, and its length.
fn bare(text: &str) -> (String, usize) {
    let word = text.split_whitespace().next().unwrap_or_default();
    let word = if text.starts_with(char::is_whitespace) { "" } else { word };
    (word.to_owned(), word.len())
}

/// What is in quotes, without its escapes, and its length with them.
fn quoted(text: &str) -> (String, usize) {
    let mut value = String::new();
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => {
                escaped = false;
                value.push(if c == 'n' { '\n' } else { c });
            }
            '\\' => escaped = true,
            '"' => return (value, at + 1),
            _ => value.push(c),
        }
    }
    // The line ends within the quotes.
    (value, text.len())
}

#[cfg(test)]
mod tests {
    use super::reason;

    fn check(text: &str, expected: &str) {
        assert_eq!(reason(text).as_deref(), Some(expected), "{text}");
    }

    #[test]
    fn an_object_may_be_on_one_line_or_on_several() {
        check(r#"{"msg":"one line","level":"error"}"#, "one line");
        check("{\n  \"msg\": \"several `\\/a`\",\n  \"level\": \"error\"\n}\n", "several `/a`");
        let two = "{\n  \"msg\": \"first\",\n  \"level\": \"error\"\n}{\"level\": \"fatal\",\
                   \"msg\": \"last\"}";
        check(two, "last");
    }

    #[test]
    fn what_is_called_an_error_goes_before_what_is_said_otherwise() {
        check(
            "{\"level\":\"error\",\"msg\":\"the error\"}\n{\"level\":\"warning\",\"msg\":\"w\"}",
            "the error",
        );
        check("{\"level\":\"info\",\"msg\":\"i\"}\nplain words\n", "plain words");
        check("time=\"x\" level=warning msg=\"only a warning\"", "only a warning");
    }

    #[test]
    fn lines_of_pairs_are_understood() {
        check(
            r#"time="2026-01-01T00:00:00Z" level=error msg="exec: \"nope\": not found""#,
            r#"exec: "nope": not found"#,
        );
        check("level=fatal msg=short", "short");
        check("a=b is no pair of a logger", "a=b is no pair of a logger");
    }

    #[test]
    fn forms_may_be_mixed_and_broken_off() {
        let mixed = "warming up\n{\"level\":\"ERROR\",\"fields\":{\"message\":\"deep down\"}}\n\
                     time=x level=debug msg=bye\n";
        check(mixed, "deep down");
        check("{\"level\":\"error\",\"msg\":\"whole\"}\n{\"level\":\"err", "whole");
        check("{ is no object", "{ is no object");
        check("{\"code\":7}", "{\"code\":7}");
    }

    #[test]
    fn silence_is_no_reason() {
        for text in ["", "\n \n", "{\"msg\":\"\"}"] {
            assert_eq!(reason(text), None, "{text:?}");
        }
    }
}
