//! Identifiers: 64 hexadecimal digits, as Docker's, one type per noun.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A text that is no identifier.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an identifier: 64 lower-case hexadecimal digits are expected")]
pub struct IdError(String);

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// An identifier from 32 random bytes.
            pub fn from_random(bytes: [u8; 32]) -> Self {
                use fmt::Write;
                let mut text = String::with_capacity(64);
                for byte in bytes {
                    let _ = write!(text, "{byte:02x}");
                }
                Self(text)
            }

            /// All 64 digits.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The first 12 digits, the form that people see.
            pub fn short(&self) -> &str {
                &self.0[..12]
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
                if text.len() == 64 && text.bytes().all(hex) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(IdError(text.to_owned()))
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;

            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }
    };
}

id!(
    /// Identifies a network.
    NetworkId
);
id!(
    /// Identifies an endpoint: one sandbox on one network.
    EndpointId
);
id!(
    /// Identifies a sandbox: one network namespace.
    SandboxId
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_64_lower_case_hexadecimal_digits() {
        let id = NetworkId::from_random([0xab; 32]);
        assert_eq!(id.as_str(), "ab".repeat(32));
        assert_eq!(id.short(), "abababababab");
        assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn anything_else_is_refused() {
        let long = "a".repeat(65);
        for text in ["", "abc", &long, &"A".repeat(64), &"g".repeat(64), &"é".repeat(32)] {
            let error = text.parse::<SandboxId>().unwrap_err();
            assert_eq!(
                error.to_string(),
                format!(
                    "`{text}` is not an identifier: 64 lower-case hexadecimal digits are expected"
                )
            );
        }
    }

    #[test]
    fn a_record_with_a_wrong_id_is_refused() {
        let id = EndpointId::from_random([7; 32]);
        let text = serde_json::to_string(&id).unwrap();
        assert_eq!(text, format!("\"{id}\""));
        assert_eq!(serde_json::from_str::<EndpointId>(&text).unwrap(), id);
        assert!(serde_json::from_str::<EndpointId>("\"7\"").is_err());
    }
}
