//! What kind of failure an error is: the one question a front end asks of it.

/// The kind of a failure. The API maps it to an HTTP status, the CNI plugin to an error code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The named object does not exist.
    NotFound,
    /// The request contradicts the present state: a name taken, an object in use.
    Conflict,
    /// The request itself is wrong.
    Invalid,
    /// The request is understood and refused.
    Forbidden,
    /// The caller did not say who it is, or not convincingly.
    Unauthorized,
    /// Nothing to do: the object is in the requested state already.
    NotModified,
    /// Something that this service depends on does not answer.
    Unavailable,
    /// The request is valid and this host or version cannot do it.
    NotImplemented,
    /// Our fault, or the kernel's.
    Internal,
}

/// An error that knows its [`Kind`].
pub trait HasKind: std::error::Error {
    /// The kind of this failure.
    fn kind(&self) -> Kind;
}
