//! Validated names.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{HasKind, Kind};

/// The longest name a network interface may have, in bytes (`IFNAMSIZ - 1`).
pub const LINK_NAME_MAX: usize = 15;

/// The name of a network interface: 1 to 15 bytes, no `/`, no white space, not `.` or `..`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LinkName(String);

/// A text that cannot be a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not a possible interface name.
    #[error("`{0}` is not an interface name: 1 to 15 bytes without `/`, `:` and white space")]
    Link(String),
    /// Not a possible name of a network.
    #[error("invalid name: name is empty")]
    Empty,
}

impl HasKind for NameError {
    fn kind(&self) -> Kind {
        Kind::Invalid
    }
}

impl LinkName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for LinkName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let forbidden = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
        let length = (1..=LINK_NAME_MAX).contains(&text.len());
        if !length || text == "." || text == ".." || text.contains(forbidden) {
            return Err(NameError::Link(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

/// Checks the name of a network: whatever is not blank, as in Docker. It is no part of any path, and of no
/// kernel object's name.
pub fn check_network(text: &str) -> Result<(), NameError> {
    if text.trim().is_empty() { Err(NameError::Empty) } else { Ok(()) }
}

impl TryFrom<String> for LinkName {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<LinkName> for String {
    fn from(name: LinkName) -> Self {
        name.0
    }
}

impl fmt::Display for LinkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_names_are_what_the_kernel_takes() {
        for text in ["eth0", "a", "br-0123456789ab", "wan.7", "...", "é"] {
            assert_eq!(text.parse::<LinkName>().unwrap().as_str(), text);
        }
        for text in
            ["", ".", "..", "a/b", "a:0", "a b", "a\n", "a\0", "0123456789abcdef", "éééééééé"]
        {
            let error = text.parse::<LinkName>().unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid);
            assert_eq!(
                error.to_string(),
                format!(
                    "`{text}` is not an interface name: 1 to 15 bytes without `/`, `:` and white space"
                )
            );
        }
    }

    #[test]
    fn names_of_networks_are_dockers() {
        for text in ["a", "net_1.x-y", "-a", ".a", "_a", "a b", " a", "a/b", "a:b", "é", "a\n"] {
            assert_eq!(check_network(text), Ok(()));
        }
        for text in ["", " ", "\t\n"] {
            assert_eq!(check_network(text), Err(NameError::Empty));
        }
    }
}
