//! Keys of the build cache.
//!
//! A result is taken again only for the very same step: what is below it, what it says, all of the
//! configuration it runs with, and the contents it takes. All of that is in the key, so there is
//! nothing to compare and nothing to forget.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

/// What makes a step the same.
#[derive(Clone, Copy, Debug)]
pub struct Key<'a> {
    /// The image below; empty for none.
    pub parent: &'a str,
    /// `os/architecture`.
    pub platform: &'a str,
    /// What the history will say of it.
    pub created_by: &'a str,
    /// The configuration after it.
    pub config: &'a serde_json::Value,
    /// What else it depends on: digests of files, mounts, the network.
    pub contents: &'a [String],
}

impl Key<'_> {
    /// 64 hexadecimal digits.
    pub fn digest(&self) -> String {
        let config = sorted(self.config).to_string();
        let mut hash = Sha256::new();
        let fields = [self.parent, self.platform, self.created_by, &config];
        let contents = self.contents.iter().map(String::as_str);
        for field in fields.into_iter().chain(contents) {
            // With its length, so that no two lists of fields are the same bytes.
            hash.update((field.len() as u64).to_le_bytes());
            hash.update(field.as_bytes());
        }
        hex(&hash.finalize())
    }
}

/// Bytes in hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The same value with the keys of its objects in order.
fn sorted(value: &serde_json::Value) -> serde_json::Value {
    use serde_json::Value;
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by_key(|(name, _)| *name);
            fields.into_iter().map(|(name, value)| (name.clone(), sorted(value))).collect()
        }
        Value::Array(items) => items.iter().map(sorted).collect(),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn whatever_differs_is_another_key() {
        let (config, other) = (json!({"A": 1, "B": {}}), json!({"A": 1, "Healthcheck": {}}));
        let contents = ["x".to_owned()];
        let key = Key {
            parent: "p",
            platform: "linux/amd64",
            created_by: "c",
            config: &config,
            contents: &contents,
        };
        let same = json!({"B": {}, "A": 1});
        assert_eq!(key.digest(), Key { config: &same, ..key }.digest());
        for different in [
            Key { parent: "q", ..key },
            Key { parent: "", created_by: "pc", ..key },
            Key { platform: "linux/arm64", ..key },
            Key { created_by: "d", ..key },
            Key { config: &other, ..key },
            Key { contents: &[], ..key },
        ] {
            assert_ne!(key.digest(), different.digest(), "{different:?}");
        }
    }
}
