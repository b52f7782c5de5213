//! A namespace that was made for a sandbox to come, until the sandbox has an id.

use std::sync::{Mutex, PoisonError};

use drivers::kernel::UserNamespace;

/// The namespace, if there is one, for whoever needs it first.
#[derive(Debug, Default)]
pub(super) struct Offer(Mutex<Option<UserNamespace>>);

impl Offer {
    /// One that nobody has taken.
    pub(super) fn new(namespace: Option<UserNamespace>) -> Self {
        Self(Mutex::new(namespace))
    }

    /// Takes it.
    pub(super) fn take(&self) -> Option<UserNamespace> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
