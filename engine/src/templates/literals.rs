//! Strings in Go's text templates, which the crate that renders templates does not read as Go does: some of
//! Go's escapes it does not know, some it reads wrongly in raw strings, and an incomplete one it reads for ever.

use std::borrow::Cow;
use std::str::Chars;

/// A string that Go does not read either.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct InvalidSyntax {
    pub(super) line: usize,
}

/// The same source with strings that anybody reads alike.
pub(super) fn plain(source: &str) -> Result<Cow<'_, str>, InvalidSyntax> {
    if !source.contains('\\') {
        return Ok(Cow::Borrowed(source));
    }
    let mut reader = Reader { source, rest: source, out: String::with_capacity(source.len()) };
    while let Some(at) = reader.rest.find("{{") {
        reader.copy(at + 2);
        reader.action()?;
    }
    reader.copy(reader.rest.len());
    Ok(Cow::Owned(reader.out))
}

struct Reader<'a> {
    source: &'a str,
    rest: &'a str,
    out: String,
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(length);
        self.rest = rest;
        taken
    }

    fn copy(&mut self, length: usize) {
        let taken = self.take(length);
        self.out.push_str(taken);
    }

    /// What follows up to the end of an action. What has no end is left as it is: it is refused anyway.
    fn action(&mut self) -> Result<(), InvalidSyntax> {
        let trimmed = self.rest.strip_prefix('-').unwrap_or(self.rest).trim_start();
        if trimmed.starts_with("/*") {
            let end = self.rest.find("*/").map_or(self.rest.len(), |at| at + 2);
            self.copy(end);
        }
        while !self.rest.is_empty() && !self.rest.starts_with("}}") {
            let length = match self.rest.chars().next() {
                Some(quote @ ('"' | '\'' | '`')) => match end_of(self.rest, quote) {
                    None => self.rest.len(),
                    Some(end) => {
                        self.literal(quote, end)?;
                        continue;
                    }
                },
                Some(other) => other.len_utf8(),
                None => 0,
            };
            self.copy(length);
        }
        Ok(())
    }

    /// A string or a character with its quotes, so long.
    fn literal(&mut self, quote: char, length: usize) -> Result<(), InvalidSyntax> {
        let line = self.source[..self.source.len() - self.rest.len()].matches('\n').count() + 1;
        let wrong = InvalidSyntax { line };
        let inside = &self.take(length)[1..length - 1];
        let text = match quote {
            '`' => inside.replace('\r', ""),
            quote => unescape(inside, quote).ok_or(wrong)?,
        };
        let quote = match quote {
            '\'' => '\'',
            _ if !text.contains('`') => '`',
            // The crate takes a backslash before the closing quote for an escape of that, even an escaped one.
            _ if text.ends_with('\\') => return Err(wrong),
            _ => '"',
        };
        self.out.push(quote);
        for c in text.chars() {
            match c {
                '\\' => self.out.push_str("\\\\"),
                '\n' if quote != '`' => self.out.push_str("\\n"),
                c if c == quote => self.out.extend(['\\', c]),
                c => self.out.push(c),
            }
        }
        self.out.push(quote);
        Ok(())
    }
}

/// How long a string is that a text begins with, with its quotes.
fn end_of(text: &str, quote: char) -> Option<usize> {
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            c if c == quote => return Some(at + 1),
            '\\' if quote != '`' => drop(chars.next().filter(|(_, c)| *c != '\n')?),
            '\n' if quote != '`' => return None,
            _ => {}
        }
    }
    None
}

/// What a string says (Go's specification, "Rune literals" and "String literals").
fn unescape(inside: &str, quote: char) -> Option<String> {
    let mut said = Vec::with_capacity(inside.len());
    let mut chars = inside.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => escape(&mut chars, quote, &mut said)?,
            c => push(&mut said, c),
        }
    }
    Some(String::from_utf8_lossy(&said).into_owned())
}

fn push(said: &mut Vec<u8>, c: char) {
    said.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}

/// What one escape says: a character, or a byte, which may be part of one.
fn escape(chars: &mut Chars<'_>, quote: char, said: &mut Vec<u8>) -> Option<()> {
    let named = chars.next()?;
    let mut number = |digits: usize, radix: u32| {
        let mut value = 0_u32;
        for _ in 0..digits {
            value = value.checked_mul(radix)?.checked_add(chars.next()?.to_digit(radix)?)?;
        }
        Some(value)
    };
    let byte = match named {
        'x' => number(2, 16)?,
        first @ '0'..='7' => first.to_digit(8)? * 64 + number(2, 8)?,
        named => {
            let c = match named {
                'a' => '\u{7}',
                'b' => '\u{8}',
                'f' => '\u{c}',
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                'v' => '\u{b}',
                '\\' => '\\',
                'u' => char::from_u32(number(4, 16)?)?,
                'U' => char::from_u32(number(8, 16)?)?,
                named if named == quote => named,
                _ => return None,
            };
            push(said, c);
            return Some(());
        }
    };
    let byte = u8::try_from(byte).ok()?;
    match quote {
        // A character is a number in Go, and no part of a text.
        '\'' => push(said, char::from(byte)),
        _ => said.push(byte),
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use gtmpl_ng::{Context, Value};

    fn shown(source: &str) -> Result<String, String> {
        let template = super::super::compile("", source, &[])?;
        template.render(&Context::from(Value::Nil)).map_err(|error| error.to_string())
    }

    /// What Docker's client shows of each (`docker context ls --format`).
    #[test]
    fn strings_say_what_they_say_in_go() {
        for (source, expected) in [
            (r#"{{"\101\x42\u00e9\U0001F4A9\a"}}"#, "ABé💩\u{7}"),
            (r#"{{"\xc3\xa9"}}"#, "é"),
            (r#"{{"\x5cABCD"}}"#, "\\ABCD"),
            (r#"{{"\xff"}}"#, "\u{fffd}"),
            (r#"{{"\\"}}"#, "\\"),
            (r#"{{"a\"b`"}}"#, "a\"b`"),
            (r"{{`\u1`}}", "\\u1"),
            (r"{{`a\`}}", "a\\"),
            (r#"{{/* "\u1" */}}x\u1"#, "x\\u1"),
            (r#"{{- /* "\u1" */ -}} {{"\""}}"#, "\""),
            (r#"\{{"}}"}}\"#, "\\}}\\"),
        ] {
            assert_eq!(shown(source).as_deref(), Ok(expected), "{source}");
        }
    }

    #[test]
    fn an_escape_that_is_incomplete_is_refused_and_not_read_for_ever() {
        for source in [
            r#"{{"\u12"}}"#,
            r#"{{"\x1"}}"#,
            r#"{{"\x1é"}}"#,
            r#"{{"\q"}}"#,
            r#"{{"\ud83d"}}"#,
            r#"{{"\'"}}"#,
            r#"{{"\400"}}"#,
            r#"{{'\"'}}"#,
        ] {
            assert_eq!(shown(source), Err("template: :1: invalid syntax".to_owned()), "{source}");
        }
        let second = shown("{{1}}\n{{\"\\u\"}}");
        assert_eq!(second, Err("template: :2: invalid syntax".to_owned()));
        for source in [r#"{{"\"}}"#, "{{\"\\\n\"}}", "{{`\\", "{{'\\", "{{/* \\", "{{\\"] {
            shown(source).unwrap_err();
        }
    }
}
