//! From an error's kind to the status of the reply: the only such mapping.

use cnm::Kind;
use hyper::StatusCode;
use serde_json::json;

use super::body::{self, Response};
use engine_error::Error;

/// The status of a kind.
pub fn status(kind: Kind) -> StatusCode {
    match kind {
        Kind::NotFound => StatusCode::NOT_FOUND,
        Kind::Conflict => StatusCode::CONFLICT,
        Kind::Invalid => StatusCode::BAD_REQUEST,
        Kind::Forbidden => StatusCode::FORBIDDEN,
        Kind::Unauthorized => StatusCode::UNAUTHORIZED,
        Kind::NotModified => StatusCode::NOT_MODIFIED,
        Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Kind::NotImplemented => StatusCode::NOT_IMPLEMENTED,
        Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The reply that tells an error.
pub fn response(error: &Error) -> Response {
    let status = status(error.kind());
    if status == StatusCode::NOT_MODIFIED {
        return body::empty(status);
    }
    body::json_with(status, &json!({"message": error.chain()}))
}

/// Unknown routes and methods alike.
pub fn page_not_found() -> Error {
    Error::not_found("page not found")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_docker_s_status() {
        let table = [
            (Kind::NotFound, 404),
            (Kind::Conflict, 409),
            (Kind::Invalid, 400),
            (Kind::Forbidden, 403),
            (Kind::Unauthorized, 401),
            (Kind::NotModified, 304),
            (Kind::Unavailable, 503),
            (Kind::NotImplemented, 501),
            (Kind::Internal, 500),
        ];
        for (kind, expected) in table {
            assert_eq!(response(&Error::new(kind, "x")).status().as_u16(), expected, "{kind:?}");
        }
    }
}
