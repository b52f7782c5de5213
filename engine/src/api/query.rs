//! Query parameters.

use std::collections::BTreeMap;
use std::str::FromStr;

use engine_error::{Error, Result};

/// The parameters of a request's query; of one that is repeated, all values.
#[derive(Clone, Debug, Default)]
pub struct Query(BTreeMap<String, Vec<String>>);

impl Query {
    /// Reads a query string.
    pub fn parse(text: &str) -> Self {
        let mut parameters: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            parameters.entry(decode(name, true)).or_default().push(decode(value, true));
        }
        Self(parameters)
    }

    /// The first value of a parameter, if it is there and not empty.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.first().map(String::as_str).filter(|text| !text.is_empty())
    }

    /// All values of a parameter.
    pub fn all(&self, name: &str) -> &[String] {
        self.0.get(name).map(Vec::as_slice).unwrap_or_default()
    }

    /// A boolean by Docker's rule: absent, empty, 0, no, false and none are false.
    pub fn flag(&self, name: &str) -> bool {
        self.flag_or(name, false)
    }

    /// The same with another default.
    pub fn flag_or(&self, name: &str, default: bool) -> bool {
        let Some(value) = self.0.get(name).and_then(|values| values.first()) else {
            return default;
        };
        let value = value.trim().to_ascii_lowercase();
        !matches!(value.as_str(), "" | "0" | "no" | "false" | "none")
    }

    /// A number, if it is there.
    pub fn number<T: FromStr>(&self, name: &str) -> Result<Option<T>> {
        let invalid = |text: &str| Error::invalid(format!("invalid value for {name}: {text}"));
        self.text(name).map(|text| text.parse().map_err(|_| invalid(text))).transpose()
    }
}

/// Undoes percent-encoding. What is not encoded properly stays as it is.
pub fn decode(text: &str, plus_is_space: bool) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let escaped = || {
            let digits = text.get(at + 1..at + 3)?;
            u8::from_str_radix(digits, 16).ok().filter(|_| !digits.starts_with('+'))
        };
        match byte {
            b'%' => match escaped() {
                Some(value) => {
                    decoded.push(value);
                    at += 2;
                }
                None => decoded.push(byte),
            },
            b'+' if plus_is_space => decoded.push(b' '),
            other => decoded.push(other),
        }
        at += 1;
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_decoded() {
        let query = Query::parse("a=1%2F2&b=x+y&b=z&c&d=%zz%");
        assert_eq!(query.text("a"), Some("1/2"));
        assert_eq!(query.all("b"), ["x y", "z"]);
        assert_eq!(query.text("c"), None);
        assert_eq!(query.text("d"), Some("%zz%"));
    }

    #[test]
    fn booleans_are_true_unless_they_say_no() {
        for text in ["", "0", "no", "false", "none", "False", "NO"] {
            assert!(!Query::parse(&format!("x={text}")).flag("x"), "{text}");
        }
        for text in ["1", "true", "True", "yes", "2"] {
            assert!(Query::parse(&format!("x={text}")).flag("x"), "{text}");
        }
        assert!(!Query::default().flag("x"));
        assert!(Query::default().flag_or("x", true));
    }

    #[test]
    fn numbers_that_are_none_are_named() {
        let error = Query::parse("t=ten").number::<i64>("t").unwrap_err();
        assert_eq!(error.to_string(), "invalid value for t: ten");
    }
}
