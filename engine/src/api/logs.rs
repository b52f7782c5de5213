//! `GET /containers/{id}/logs`.

use std::convert::Infallible;

use bytes::{BufMut, Bytes, BytesMut};
use chrono::{DateTime, SecondsFormat, Utc};
use futures_util::StreamExt;

use super::body::{self, Response};
use super::query::Query;
use super::request::Request;
use super::wire::time::point;
use super::{Api, hijack};
use crate::container::{LogLine, LogQuery, log_marks};
use engine_error::{Error, Result};

/// The stream of a frame that tells an error.
const SYSTEM_ERROR: u8 = 3;

/// Streams a container's log, in frames unless it has a terminal.
pub fn stream(api: &Api, key: &str, request: &Request) -> Result<Response> {
    let query = query(&request.query)?;
    let container = api.engine.containers.find(key)?;
    let (tty, timestamps) = (container.spec.tty, request.query.flag("timestamps"));
    let details = request.query.flag("details").then(|| details(&container));
    let lines = api.engine.containers.logs(&container.id, query)?;
    let bytes = lines
        .map(move |line| match line {
            Ok(line) => encode(&line, tty, timestamps, details.as_deref()),
            Err(error) => frame(SYSTEM_ERROR, error.chain().as_bytes()),
        })
        .map(Ok::<_, Infallible>);
    Ok(body::stream(hijack::content_type(tty, request.version), bytes))
}

fn query(query: &Query) -> Result<LogQuery> {
    let (stdout, stderr) = (query.flag("stdout"), query.flag("stderr"));
    if !stdout && !stderr {
        return Err(Error::invalid("Bad parameters: you must choose at least one stream"));
    }
    let now = Utc::now();
    let time = |name| point(query.text(name).unwrap_or_default(), now);
    Ok(LogQuery {
        stdout,
        stderr,
        since: time("since")?,
        // Clients say 0 for no end.
        until: time("until")?.filter(|until| *until != DateTime::UNIX_EPOCH),
        // Anything but a number is all of it, as with Docker.
        tail: query.text("tail").and_then(|tail| tail.parse().ok()),
        follow: query.flag("follow"),
    })
}

/// What the log's options add to each record, as Docker's `--details` shows it: in the order of
/// the names.
fn details(container: &crate::container::Container) -> String {
    let marks = log_marks(container).into_iter().map(|(name, value)| format!("{name}={value}"));
    marks.collect::<Vec<_>>().join(",")
}

fn encode(line: &LogLine, tty: bool, timestamps: bool, details: Option<&str>) -> Bytes {
    let mut text = BytesMut::new();
    if timestamps {
        let time = line.time.to_rfc3339_opts(SecondsFormat::Nanos, true);
        text.put_slice(time.as_bytes());
        text.put_u8(b' ');
    }
    if let Some(details) = details {
        text.put_slice(details.as_bytes());
        text.put_u8(b' ');
    }
    text.put_slice(&line.bytes);
    if tty { text.freeze() } else { frame(line.stream, &text) }
}

/// One frame of Docker's stdcopy: stream, three zeros, length, bytes.
pub fn frame(stream: u8, bytes: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(8 + bytes.len());
    frame.put_slice(&[stream, 0, 0, 0]);
    frame.put_u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
    frame.put_slice(bytes);
    frame.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(bytes: &'static str) -> LogLine {
        let time = DateTime::from_timestamp(0, 1).unwrap();
        LogLine { stream: 2, time, bytes: Bytes::from_static(bytes.as_bytes()) }
    }

    #[test]
    fn lines_are_framed_by_stream() {
        let bytes = encode(&line("hi\n"), false, false, None);
        assert_eq!(&bytes[..], b"\x02\0\0\0\0\0\0\x03hi\n");
    }

    #[test]
    fn a_terminal_s_lines_are_bare_and_may_have_times() {
        assert_eq!(&encode(&line("hi\n"), true, false, None)[..], b"hi\n");
        let timed = encode(&line("hi\n"), true, true, Some("a=b"));
        assert_eq!(&timed[..], b"1970-01-01T00:00:00.000000001Z a=b hi\n");
    }

    #[test]
    fn a_log_needs_a_stream() {
        let error = query(&Query::parse("tail=5")).unwrap_err();
        assert_eq!(error.to_string(), "Bad parameters: you must choose at least one stream");
        let all = query(&Query::parse("stdout=1&tail=all")).unwrap();
        assert_eq!(all.tail, None);
        assert_eq!(query(&Query::parse("stdout=1&tail=5")).unwrap().tail, Some(5));
    }
}
