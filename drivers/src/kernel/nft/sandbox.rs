//! The table in a sandbox's own namespace, which leads port 53 of 127.0.0.11 to the resolver.

use super::NftError;

/// A socket in the network namespace of the thread that opened it.
///
/// The thread must be one that was made for that namespace; the value may be used from anywhere.
#[derive(Debug)]
pub struct SandboxTable {}

impl SandboxTable {
    /// Opens the socket.
    pub fn open() -> Result<Self, NftError> {
        todo!()
    }

    /// Installs the redirection; what is there of an earlier time is replaced.
    pub fn install(&self) -> Result<(), NftError> {
        todo!()
    }

    /// Removes the redirection. It is no error if there is none.
    pub fn remove(&self) -> Result<(), NftError> {
        todo!()
    }

    /// Whether the redirection is installed.
    pub fn is_installed(&self) -> Result<bool, NftError> {
        todo!()
    }
}
