//! Bodies of replies: nothing, JSON, or a stream.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, BodyStream, Empty, Full, StreamBody};
use hyper::StatusCode;
use hyper::body::{Body as _, Frame};
use hyper::header::{CONTENT_TYPE, HeaderValue, LOCATION};
use serde::Serialize;
use serde_json::Value;
use tokio_util::sync::DropGuard;

use engine_error::{Error, Kind};

/// Why a body could not be sent to its end.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// A body of any kind.
pub type Body = UnsyncBoxBody<Bytes, BodyError>;

/// A reply.
pub type Response = hyper::Response<Body>;

/// JSON's media type.
pub const JSON: HeaderValue = HeaderValue::from_static("application/json");

fn never(error: Infallible) -> BodyError {
    match error {}
}

/// A status and nothing else.
pub fn empty(status: StatusCode) -> Response {
    with_status(status, Empty::new().map_err(never).boxed_unsync())
}

/// `204 No Content`.
pub fn no_content() -> Response {
    empty(StatusCode::NO_CONTENT)
}

/// JSON with status 200.
pub fn json(value: &impl Serialize) -> Response {
    json_with(StatusCode::OK, value)
}

/// JSON with a status and a line feed, as Go's encoder writes it.
pub fn json_with(status: StatusCode, value: &impl Serialize) -> Response {
    let mut text = serde_json::to_vec(value).unwrap_or_default();
    text.push(b'\n');
    typed(with_status(status, Full::from(text).map_err(never).boxed_unsync()), JSON)
}

/// `301 Moved Permanently`.
pub fn moved(location: &str) -> Result<Response, Error> {
    let mut response = empty(StatusCode::MOVED_PERMANENTLY);
    let invalid = |error| Error::caused(Kind::Invalid, "the path cannot be cleaned", error);
    let location = HeaderValue::from_str(location).map_err(invalid)?;
    response.headers_mut().insert(LOCATION, location);
    Ok(response)
}

/// Plain text.
pub fn text(status: StatusCode, text: impl Into<Bytes>) -> Response {
    let response = with_status(status, Full::new(text.into()).map_err(never).boxed_unsync());
    typed(response, HeaderValue::from_static("text/plain; charset=utf-8"))
}

/// A stream of bytes. The head is sent at once, whenever the first byte comes.
pub fn stream<E: Into<BodyError>>(
    content_type: &'static str,
    bytes: impl Stream<Item = Result<Bytes, E>> + Send + 'static,
) -> Response {
    let frames = bytes.map(|bytes| bytes.map(Frame::data).map_err(Into::into));
    let response = with_status(StatusCode::OK, StreamBody::new(frames).boxed_unsync());
    typed(response, HeaderValue::from_static(content_type))
}

/// A stream of JSON values, one per line.
pub fn json_lines(values: impl Stream<Item = Value> + Send + 'static) -> Response {
    stream("application/json", values.map(|value| Ok::<_, Infallible>(line(&value))))
}

/// A value as a line.
pub fn line(value: &Value) -> Bytes {
    let mut text = value.to_string();
    text.push_str("\r\n");
    text.into()
}

/// A body whose client is known to have left if it is dropped before its end.
pub fn watched(body: Body, left: DropGuard) -> Body {
    if body.size_hint().exact().is_some() {
        // It is here as a whole: nothing is done for it any more.
        left.disarm();
        return body;
    }
    let frames = stream::unfold((BodyStream::new(body), left), |(mut frames, left)| async move {
        if let Some(frame) = frames.next().await {
            return Some((frame, (frames, left)));
        }
        left.disarm();
        None
    });
    StreamBody::new(frames).boxed_unsync()
}

fn with_status(status: StatusCode, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}

fn typed(mut response: Response, content_type: HeaderValue) -> Response {
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::*;

    /// Whether a client has left that is answered so and gets so many lines.
    async fn has_left(response: Response, lines: usize) -> bool {
        let left = CancellationToken::new();
        let mut body = watched(response.into_body(), left.clone().drop_guard());
        for _ in 0..lines {
            let _ = body.frame().await;
        }
        drop(body);
        left.is_cancelled()
    }

    #[tokio::test]
    async fn a_client_has_left_if_it_does_not_get_the_end_of_a_stream() {
        let lines = || json_lines(stream::iter([Value::Null]));
        assert!(has_left(lines(), 0).await && has_left(lines(), 1).await);
        assert!(!has_left(lines(), 2).await);
        assert!(!has_left(no_content(), 0).await && !has_left(json(&Value::Null), 0).await);
    }
}
