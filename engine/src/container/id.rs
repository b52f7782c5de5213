//! The identifier of a container: 64 hexadecimal digits.

use std::borrow::Borrow;
use std::fmt;
use std::ops::Deref;

use serde::{Deserialize, Serialize};

/// How many digits it has.
const DIGITS: usize = 64;

/// Identifies a container.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContainerId(String);

impl ContainerId {
    /// An identifier from 32 random bytes.
    pub fn from_random(bytes: [u8; 32]) -> Self {
        Self(cnm::SandboxId::from_random(bytes).into())
    }

    /// All digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first 12 digits, the form that people see.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

/// Nothing but zeros: no container has it.
impl Default for ContainerId {
    fn default() -> Self {
        Self("0".repeat(DIGITS))
    }
}

impl TryFrom<String> for ContainerId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if text.len() == DIGITS && text.bytes().all(hex) {
            return Ok(Self(text));
        }
        Err(format!("`{text}` is no container id: {DIGITS} lower-case hexadecimal digits are"))
    }
}

impl From<ContainerId> for String {
    fn from(id: ContainerId) -> Self {
        id.0
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Deref for ContainerId {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for ContainerId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl AsRef<std::path::Path> for ContainerId {
    fn as_ref(&self) -> &std::path::Path {
        std::path::Path::new(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_64_digits_are_an_id_and_the_short_form_is_always_there() {
        for text in ["", "abc", &"A".repeat(64), &"é".repeat(32)] {
            let error = ContainerId::try_from(text.to_owned()).unwrap_err();
            assert!(error.contains(text), "{error}");
        }
        let id = ContainerId::try_from("ab".repeat(32)).unwrap();
        assert_eq!((id.short(), ContainerId::default().short()), ("abababababab", "000000000000"));
        assert_eq!(serde_json::to_string(&id).unwrap(), format!("\"{id}\""));
    }
}
