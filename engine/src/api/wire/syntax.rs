//! What is wrong with JSON that is none, in the words of Go's decoder: clients look for them.

/// What is expected next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Value,
    /// The same or the end of an array.
    ValueOrEnd,
    Key,
    /// The same or the end of an object.
    KeyOrEnd,
    Colon,
    /// A comma or the end of what is open.
    Separator,
}

/// Reads one value and says what is wrong with it. `None` if nothing is.
pub fn complaint(text: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(text);
    Scanner { rest: &text, open: Vec::new() }.scan().err()
}

struct Scanner<'a> {
    rest: &'a str,
    /// The brackets that are open: whether each is of an object.
    open: Vec<bool>,
}

impl Scanner<'_> {
    fn scan(&mut self) -> Result<(), String> {
        let mut expected = Expected::Value;
        loop {
            self.rest = self.rest.trim_start_matches([' ', '\t', '\r', '\n']);
            expected = match expected {
                Expected::Separator if self.open.is_empty() => return Ok(()),
                Expected::Separator => self.separator()?,
                Expected::Colon => {
                    self.expect(':', "after object key")?;
                    Expected::Value
                }
                Expected::KeyOrEnd if self.rest.starts_with('}') => self.close(),
                Expected::Key | Expected::KeyOrEnd => {
                    self.expect('"', "looking for beginning of object key string")?;
                    self.string()?;
                    Expected::Colon
                }
                Expected::ValueOrEnd if self.rest.starts_with(']') => self.close(),
                Expected::Value | Expected::ValueOrEnd => self.value()?,
            };
        }
    }

    fn close(&mut self) -> Expected {
        self.rest = &self.rest[1..];
        self.open.pop();
        Expected::Separator
    }

    fn separator(&mut self) -> Result<Expected, String> {
        let in_object = self.open.last() == Some(&true);
        let (end, place) = if in_object {
            ('}', "after object key:value pair")
        } else {
            (']', "after array element")
        };
        if self.rest.starts_with(end) {
            return Ok(self.close());
        }
        self.expect(',', place)?;
        Ok(if in_object { Expected::Key } else { Expected::Value })
    }

    fn value(&mut self) -> Result<Expected, String> {
        let first = self.rest.chars().next().ok_or_else(ended)?;
        match first {
            '{' | '[' => {
                self.rest = &self.rest[1..];
                self.open.push(first == '{');
                return Ok(if first == '{' { Expected::KeyOrEnd } else { Expected::ValueOrEnd });
            }
            '"' => {
                self.rest = &self.rest[1..];
                self.string()?;
            }
            't' => self.literal("true")?,
            'f' => self.literal("false")?,
            'n' => self.literal("null")?,
            '-' | '0'..='9' => self.number()?,
            other => return Err(invalid(other, "looking for beginning of value")),
        }
        Ok(Expected::Separator)
    }

    fn expect(&mut self, wanted: char, place: &str) -> Result<(), String> {
        match self.rest.chars().next() {
            None => Err(ended()),
            Some(found) if found == wanted => {
                self.rest = &self.rest[found.len_utf8()..];
                Ok(())
            }
            Some(found) => Err(invalid(found, place)),
        }
    }

    fn literal(&mut self, word: &str) -> Result<(), String> {
        for letter in word.chars() {
            let place = format!("in literal {word} (expecting {})", quoted(letter));
            self.expect(letter, &place)?;
        }
        Ok(())
    }

    /// The rest of a string whose quotation mark was read.
    fn string(&mut self) -> Result<(), String> {
        loop {
            let first = self.rest.chars().next().ok_or_else(ended)?;
            match first {
                '"' | '\\' => self.rest = &self.rest[1..],
                control if control < ' ' => return Err(invalid(control, "in string literal")),
                other => self.rest = &self.rest[other.len_utf8()..],
            }
            match first {
                '"' => return Ok(()),
                '\\' => self.escape()?,
                _ => {}
            }
        }
    }

    fn escape(&mut self) -> Result<(), String> {
        let first = self.rest.chars().next().ok_or_else(ended)?;
        if first == 'u' {
            self.rest = &self.rest[1..];
            for _ in 0..4 {
                let digit = self.rest.chars().next().ok_or_else(ended)?;
                if !digit.is_ascii_hexdigit() {
                    return Err(invalid(digit, "in \\u hexadecimal character escape"));
                }
                self.rest = &self.rest[1..];
            }
            return Ok(());
        }
        if !matches!(first, '"' | '\\' | '/' | 'b' | 'f' | 'n' | 'r' | 't') {
            return Err(invalid(first, "in string escape code"));
        }
        self.rest = &self.rest[1..];
        Ok(())
    }

    fn number(&mut self) -> Result<(), String> {
        self.rest = self.rest.strip_prefix('-').unwrap_or(self.rest);
        match self.rest.strip_prefix('0') {
            Some(rest) => self.rest = rest,
            None => self.digits("in numeric literal")?,
        }
        if let Some(rest) = self.rest.strip_prefix('.') {
            self.rest = rest;
            self.digits("after decimal point in numeric literal")?;
        }
        if let Some(rest) = self.rest.strip_prefix(['e', 'E']) {
            self.rest = rest.strip_prefix(['+', '-']).unwrap_or(rest);
            self.digits("in exponent of numeric literal")?;
        }
        Ok(())
    }

    /// At least one digit.
    fn digits(&mut self, place: &str) -> Result<(), String> {
        let first = self.rest.chars().next().ok_or_else(ended)?;
        if !first.is_ascii_digit() {
            return Err(invalid(first, place));
        }
        self.rest = self.rest.trim_start_matches(|c: char| c.is_ascii_digit());
        Ok(())
    }
}

fn ended() -> String {
    "unexpected EOF".to_owned()
}

fn invalid(found: char, place: &str) -> String {
    format!("invalid character {} {place}", quoted(found))
}

/// A character as Go shows it.
fn quoted(found: char) -> String {
    match found {
        '\'' => r"'\''".to_owned(),
        '"' => "'\"'".to_owned(),
        control if control < ' ' => match control {
            '\t' => r"'\t'".to_owned(),
            '\n' => r"'\n'".to_owned(),
            '\r' => r"'\r'".to_owned(),
            other => format!("'\\x{:02x}'", u32::from(other)),
        },
        other => format!("'{other}'"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mistake_is_told_as_go_tells_it() {
        for (text, told) in [
            ("{i: 1}", "invalid character 'i' looking for beginning of object key string"),
            ("{\"Image\":", "unexpected EOF"),
            ("{", "unexpected EOF"),
            ("{'a':1}", r"invalid character '\'' looking for beginning of object key string"),
            ("{,}", "invalid character ',' looking for beginning of object key string"),
            ("{\"a\":1,}", "invalid character '}' looking for beginning of object key string"),
            ("{\"a\" 1}", "invalid character '1' after object key"),
            ("{\"a\":1 \"b\":2}", "invalid character '\"' after object key:value pair"),
            ("{\"a\":01}", "invalid character '1' after object key:value pair"),
            ("[1,]", "invalid character ']' looking for beginning of value"),
            ("[1 2]", "invalid character '2' after array element"),
            ("{\"a\":tru}", "invalid character '}' in literal true (expecting 'e')"),
            ("{\"a\":-}", "invalid character '}' in numeric literal"),
            ("{\"a\":1.}", "invalid character '}' after decimal point in numeric literal"),
            ("{\"a\":1e}", "invalid character '}' in exponent of numeric literal"),
            ("{\"a\":+1}", "invalid character '+' looking for beginning of value"),
            ("{\"a\":\"x\ty\"}", r"invalid character '\t' in string literal"),
            ("{\"a\":\"\\x\"}", "invalid character 'x' in string escape code"),
            ("{\"a\":\"\\u00z\"}", r"invalid character 'z' in \u hexadecimal character escape"),
            ("é", "invalid character 'é' looking for beginning of value"),
        ] {
            assert_eq!(complaint(text.as_bytes()).as_deref(), Some(told), "{text}");
        }
    }

    #[test]
    fn what_is_json_has_nothing_wrong_with_it() {
        for text in [
            "{}",
            "[]",
            " null ",
            "{\"a\":[1,-0.5e+3,\"\\u00e9\\n\",true,{}]}",
            "{} and more",
            "\"x\"",
        ] {
            assert_eq!(complaint(text.as_bytes()), None, "{text}");
        }
    }
}
