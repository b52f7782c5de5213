//! What an error of etcd's means: whether anything can have happened, and what to say.

use std::error::Error as _;

use etcd_client::Error;

use crate::store::StoreError;

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It was answered, with a refusal: it did not happen.
    Answered,
    /// Nobody saw it.
    Unsent,
    /// It may have happened.
    Unknown,
}

/// A request that failed.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) fate: Fate,
    pub(super) error: StoreError,
}

/// gRPC's codes, as far as they tell something.
mod code {
    pub(super) const INVALID_ARGUMENT: i32 = 3;
    pub(super) const NOT_FOUND: i32 = 5;
    pub(super) const PERMISSION_DENIED: i32 = 7;
    pub(super) const RESOURCE_EXHAUSTED: i32 = 8;
    pub(super) const FAILED_PRECONDITION: i32 = 9;
    pub(super) const OUT_OF_RANGE: i32 = 11;
    pub(super) const UNAUTHENTICATED: i32 = 16;
}

impl Failure {
    pub(super) fn of(error: &Error) -> Self {
        match error {
            Error::GRpcStatus(status) => {
                let causes = causes(status.source());
                let text = [status.message(), &causes].join(": ");
                Self::of_status(status.code().into(), text.trim_end_matches(": "))
            }
            Error::LeaseKeepAliveError(_) => {
                Self { fate: Fate::Answered, error: StoreError::LeaseEnded }
            }
            Error::InvalidArgs(_) | Error::InvalidUri(_) | Error::InvalidMetadataValue(_) => {
                Self { fate: Fate::Answered, error: StoreError::Refused(error.to_string()) }
            }
            Error::TransportError(transport) => {
                let causes = causes(transport.source());
                Self::of_transport(&format!("{transport}: {causes}"))
            }
            other => {
                Self { fate: Fate::Unknown, error: StoreError::Unavailable(other.to_string()) }
            }
        }
    }

    fn of_status(code: i32, text: &str) -> Self {
        let answered = |error| Self { fate: Fate::Answered, error };
        let text = text.to_owned();
        match code {
            code::OUT_OF_RANGE if text.contains("compacted") => answered(StoreError::Compacted(0)),
            code::NOT_FOUND if text.contains("lease") => answered(StoreError::LeaseEnded),
            code::PERMISSION_DENIED | code::UNAUTHENTICATED => answered(StoreError::Denied(text)),
            // A wrong password; a store that asks for a user, and none is given.
            code::INVALID_ARGUMENT | code::FAILED_PRECONDITION
                if text.contains("authentication") || text.contains("user") =>
            {
                answered(StoreError::Denied(text))
            }
            code::RESOURCE_EXHAUSTED if text.contains("too many requests") => {
                Self { fate: Fate::Unsent, error: StoreError::Unavailable(text) }
            }
            code::INVALID_ARGUMENT | code::RESOURCE_EXHAUSTED | code::OUT_OF_RANGE => {
                answered(StoreError::Refused(text))
            }
            // Said before anything is proposed.
            _ if text.contains("etcdserver: no leader") => {
                Self { fate: Fate::Unsent, error: StoreError::Unavailable(text) }
            }
            _ => Self::of_transport(&text),
        }
    }

    fn of_transport(text: &str) -> Self {
        let denied = ["ertificate", "UnknownIssuer", "UnknownCA", "alert"];
        if denied.iter().any(|word| text.contains(word)) {
            return Self { fate: Fate::Answered, error: StoreError::Denied(text.to_owned()) };
        }
        let unsent = ["connect error", "dns error", "Service was not ready"];
        let unsent = unsent.iter().any(|words| text.contains(words));
        let fate = if unsent { Fate::Unsent } else { Fate::Unknown };
        Self { fate, error: StoreError::Unavailable(text.to_owned()) }
    }

    /// The same of a call that nothing was sent by.
    pub(super) fn unsent(self) -> Self {
        let fate = if self.fate == Fate::Unknown { Fate::Unsent } else { self.fate };
        Self { fate, ..self }
    }

    /// The same of the first thing that a member was asked on a connection.
    pub(super) fn at_the_door(self, url: &str) -> Self {
        let failure = self.unsent();
        let closed = |why: &String| why.contains("connection closed") || why.contains("reset");
        match failure.error {
            StoreError::Unavailable(why) if url.starts_with("https") && closed(&why) => Self {
                error: StoreError::Denied(format!(
                    "{url} closes the connection; it may not take this host's certificate: {why}"
                )),
                ..failure
            },
            error => Self { error, ..failure },
        }
    }

    /// What the caller is told; whether its request only reads.
    pub(super) fn told(self, reads: bool) -> StoreError {
        match (self.fate, self.error) {
            (Fate::Unknown, StoreError::Unavailable(why)) if !reads => StoreError::Unknown(why),
            (_, error) => error,
        }
    }
}

fn causes(mut cause: Option<&(dyn std::error::Error + 'static)>) -> String {
    let mut texts = Vec::new();
    while let Some(error) = cause {
        texts.push(error.to_string());
        cause = error.source();
    }
    texts.dedup();
    texts.join(": ")
}
