//! Whose namespaces a container lives in, kind by kind: `--network`, `--pid`, `--ipc`, `--uts`,
//! `--cgroupns`, `--userns`. Docker's words are read once, at the edge, and written back as they were.

use std::fmt;

/// What stands before the name of another container.
const CONTAINER: &str = "container:";

/// `--network`, as the host configuration has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NetworkMode {
    /// What the daemon gives to those who say nothing.
    #[default]
    Default,
    /// The network `bridge`.
    Bridge,
    /// The host's namespace.
    Host,
    /// A namespace with nothing but loopback.
    None,
    /// The namespace of another container, by the name or id that was given.
    Container(String),
    /// A network, by the name or id that was given.
    Named(String),
}

impl NetworkMode {
    /// The network that a container with this mode joins first, if it has networks of its own.
    pub fn network<'a>(&'a self, default: &'a str) -> Option<&'a str> {
        match self {
            Self::Default => Some(default),
            Self::Bridge => Some("bridge"),
            Self::Host => Some("host"),
            Self::None => Some("none"),
            Self::Named(name) => Some(name),
            Self::Container(_) => None,
        }
    }

    /// The container whose namespace is shared.
    pub fn container(&self) -> Option<&str> {
        match self {
            Self::Container(key) => Some(key),
            _ => None,
        }
    }
}

impl From<String> for NetworkMode {
    fn from(text: String) -> Self {
        match text.as_str() {
            "" | "default" => Self::Default,
            "bridge" => Self::Bridge,
            "host" => Self::Host,
            "none" => Self::None,
            other => match other.strip_prefix(CONTAINER) {
                Some(key) => Self::Container(key.to_owned()),
                None => Self::Named(text),
            },
        }
    }
}

impl From<&str> for NetworkMode {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl From<NetworkMode> for String {
    fn from(mode: NetworkMode) -> Self {
        mode.to_string()
    }
}

impl fmt::Display for NetworkMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Container(key) => write!(f, "{CONTAINER}{key}"),
            named => f.write_str(named.network("default").unwrap_or_default()),
        }
    }
}

/// Whose namespace of a kind a container has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Sharing {
    /// As it is by default.
    #[default]
    Default,
    /// One of its own.
    Private,
    /// One of its own, which others may join (`--ipc`).
    Shareable,
    /// One of its own, with nothing of its kind in it (`--ipc none`).
    None,
    /// The host's.
    Host,
    /// Another container's, by the name or id that was given.
    Container(String),
}

impl Sharing {
    /// The container whose namespace is shared.
    pub fn container(&self) -> Option<&str> {
        match self {
            Self::Container(key) => Some(key),
            _ => None,
        }
    }

    /// Whether the namespace is the container's own.
    pub fn is_own(&self) -> bool {
        !matches!(self, Self::Host | Self::Container(_))
    }
}

impl From<String> for Sharing {
    fn from(text: String) -> Self {
        match text.as_str() {
            "private" => Self::Private,
            "shareable" => Self::Shareable,
            "none" => Self::None,
            "host" => Self::Host,
            other => match other.strip_prefix(CONTAINER) {
                Some(key) => Self::Container(key.to_owned()),
                // The edge has refused every other word.
                None => Self::Default,
            },
        }
    }
}

impl From<&str> for Sharing {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl From<Sharing> for String {
    fn from(sharing: Sharing) -> Self {
        sharing.to_string()
    }
}

impl fmt::Display for Sharing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => Ok(()),
            Self::Private => f.write_str("private"),
            Self::Shareable => f.write_str("shareable"),
            Self::None => f.write_str("none"),
            Self::Host => f.write_str("host"),
            Self::Container(key) => write!(f, "{CONTAINER}{key}"),
        }
    }
}

/// The namespaces of a container besides that of its network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamespaceModes {
    /// `--pid`.
    pub pid: Sharing,
    /// `--ipc`.
    pub ipc: Sharing,
    /// `--uts`.
    pub uts: Sharing,
    /// `--cgroupns`.
    pub cgroup: Sharing,
    /// `--userns`.
    pub user: Sharing,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_s_words_come_back_as_they_were() {
        for word in ["default", "bridge", "host", "none", "container:web", "n1"] {
            assert_eq!(NetworkMode::from(word).to_string(), word);
        }
        for word in ["", "private", "shareable", "none", "host", "container:web"] {
            assert_eq!(Sharing::from(word).to_string(), word);
        }
    }

    #[test]
    fn a_container_s_name_that_looks_like_a_mode_is_a_name() {
        assert_eq!(NetworkMode::from("container:host").container(), Some("host"));
        assert_eq!(NetworkMode::from("hosts").network("bridge"), Some("hosts"));
    }
}
