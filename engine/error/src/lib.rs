//! The error of the engine and its crates: a message for a person, a kind for the front end, a cause.
//!
//! It is no [`HasKind`] itself, so that everything that is one converts into it.

use std::fmt;

use cnm::HasKind;
pub use cnm::Kind;

/// A failed operation of the engine.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// What operations of the engine return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// What kind of failure it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// An error of a kind, with its message: what could not be done to which object, lower case,
    /// no full stop.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    /// The same with a cause.
    pub fn caused(
        kind: Kind,
        message: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { kind, message: message.into(), source: Some(source.into()) }
    }

    /// [`Kind::NotFound`].
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, message)
    }

    /// [`Kind::Conflict`].
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(Kind::Conflict, message)
    }

    /// [`Kind::Invalid`].
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, message)
    }

    /// [`Kind::Internal`] with a cause.
    pub fn internal(
        message: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::caused(Kind::Internal, message, source)
    }

    /// Message and causes, joined by colons: what a user is shown.
    pub fn chain(&self) -> String {
        chain(self)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

/// Errors of the crates below are taken in as they are: their kind, their message, their causes.
impl<E: HasKind> From<E> for Error {
    fn from(error: E) -> Self {
        let source = std::error::Error::source(&error).map(|cause| chain(cause).into());
        Self { kind: error.kind(), message: error.to_string(), source }
    }
}

/// An error with its causes, joined by colons.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
