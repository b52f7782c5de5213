//! The engine's error: a message for a person, a kind for the front end, a cause.

use std::fmt;

use cnm::{HasKind, Kind};

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
        let mut text = self.message.clone();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}

impl HasKind for Error {
    fn kind(&self) -> Kind {
        self.kind
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

macro_rules! from_kinded {
    ($($error:ty),* $(,)?) => {$(
        impl From<$error> for Error {
            fn from(error: $error) -> Self {
                let source = std::error::Error::source(&error).map(|cause| {
                    let mut text = cause.to_string();
                    let mut next = cause.source();
                    while let Some(error) = next {
                        text.push_str(": ");
                        text.push_str(&error.to_string());
                        next = error.source();
                    }
                    text.into()
                });
                Self { kind: error.kind(), message: error.to_string(), source }
            }
        }
    )*};
}

from_kinded!(cnm::controller::ControllerError, cnm::PlanError, cnm::store::StoreError);
from_kinded!(drivers::kernel::KernelError);
from_kinded!(dns::client::ClientError);
from_kinded!(crate::runtime::RuntimeError, crate::shim::client::ShimError);
