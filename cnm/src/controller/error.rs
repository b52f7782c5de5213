//! What the controller says when it refuses.

use crate::ipam::IpamError;
use crate::name::NameError;
use crate::options::OptionError;
use crate::ports::PortError;
use crate::store::StoreError;
use crate::{HasKind, Kind, PlanError};

/// A request that the controller refuses.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct ControllerError {
    kind: Kind,
    message: String,
    passing: bool,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl ControllerError {
    pub(super) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), passing: false, source: None }
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, message)
    }

    pub(super) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(Kind::Forbidden, message)
    }

    pub(super) fn conflict(message: impl Into<String>) -> Self {
        Self::new(Kind::Conflict, message)
    }

    /// A network is being changed.
    pub(super) fn passing(network: &str) -> Self {
        let message = format!("network {network} is being changed: try again when it is done");
        Self { passing: true, ..Self::new(Kind::Conflict, message) }
    }

    /// Whether the same request is possible in a moment: when the change of a network is over.
    pub fn is_passing(&self) -> bool {
        self.passing
    }

    pub(super) fn not_found(noun: &str, key: impl std::fmt::Display) -> Self {
        Self::new(Kind::NotFound, format!("{noun} {key} not found"))
    }
}

impl HasKind for ControllerError {
    fn kind(&self) -> Kind {
        self.kind
    }
}

macro_rules! from {
    ($($error:ty),*) => {
        $(impl From<$error> for ControllerError {
            fn from(error: $error) -> Self {
                Self::new(error.kind(), error.to_string())
            }
        })*
    };
}

from!(IpamError, NameError, OptionError, PlanError, PortError);

impl From<StoreError> for ControllerError {
    fn from(error: StoreError) -> Self {
        let StoreError { source, .. } = &error;
        Self {
            kind: error.kind(),
            message: format!("{error}: {source}"),
            passing: false,
            source: Some(error.into()),
        }
    }
}
