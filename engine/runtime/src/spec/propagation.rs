//! How mounts spread between a bind and the host (`mount_namespaces(7)`).

/// The propagation of a bind; one that is recursive is that of all mounts below it, too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Propagation {
    /// Nobody has asked for one.
    #[default]
    Unset,
    /// Nothing spreads.
    Private,
    /// The same, recursively.
    RecursivePrivate,
    /// To both sides.
    Shared,
    /// The same, recursively.
    RecursiveShared,
    /// From the host to the container.
    Slave,
    /// The same, recursively.
    RecursiveSlave,
}

impl Propagation {
    const ALL: [Self; 7] = [
        Self::Unset,
        Self::Private,
        Self::RecursivePrivate,
        Self::Shared,
        Self::RecursiveShared,
        Self::Slave,
        Self::RecursiveSlave,
    ];

    /// The one that Docker calls so; nothing is called by no word at all.
    pub fn named(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|propagation| propagation.as_str() == word)
    }

    /// Docker's word, which is also the option of a runtime.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unset => "",
            Self::Private => "private",
            Self::RecursivePrivate => "rprivate",
            Self::Shared => "shared",
            Self::RecursiveShared => "rshared",
            Self::Slave => "slave",
            Self::RecursiveSlave => "rslave",
        }
    }

    /// Whether what is mounted in the container is seen on the host.
    pub fn is_shared(self) -> bool {
        matches!(self, Self::Shared | Self::RecursiveShared)
    }

    /// Whether what is mounted on the host is seen in the container, and nothing the other way.
    pub fn is_slave(self) -> bool {
        matches!(self, Self::Slave | Self::RecursiveSlave)
    }

    /// The same of the one mount alone.
    #[must_use]
    pub fn alone(self) -> Self {
        match self {
            Self::RecursivePrivate => Self::Private,
            Self::RecursiveShared => Self::Shared,
            Self::RecursiveSlave => Self::Slave,
            other => other,
        }
    }
}

impl From<String> for Propagation {
    fn from(text: String) -> Self {
        // The edge has refused every other word.
        Self::named(&text).unwrap_or_default()
    }
}

impl From<Propagation> for String {
    fn from(propagation: Propagation) -> Self {
        propagation.as_str().to_owned()
    }
}
