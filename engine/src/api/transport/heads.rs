//! The heads of requests as HTTP's library wants them.
//!
//! Many recipes have `GET /containers/json?filters={"status":["exited"]}` as it stands here, and
//! Go's servers take it. What is no URI's in the target is percent-encoded before the library sees
//! it. For that it must be known where a request begins, and so where a body ends.

use bytes::{BufMut, BytesMut};

/// The longest line that is looked at; the library refuses longer ones.
const LONGEST: usize = 256 << 10;

/// Where in the requests of a connection its bytes have come to.
#[derive(Debug, Default)]
pub(super) struct Heads {
    part: Part,
    /// The beginning of a line whose end has not come.
    line: Vec<u8>,
    /// What the fields so far say of the body.
    body: Body,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Part {
    /// A request's first line.
    #[default]
    Target,
    /// The fields of a head.
    Fields,
    /// So many bytes of a body.
    Bytes(u64),
    /// The line with a chunk's size.
    Size,
    /// So many bytes of a chunk, with the line feed after it.
    Chunk(u64),
    /// The fields behind the last chunk.
    Trailer,
    /// No more HTTP, or none that is understood here.
    Bare,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Body {
    #[default]
    None,
    Length(u64),
    Chunked,
    Bare,
}

impl Heads {
    /// A connection without heads.
    pub(super) fn bare() -> Self {
        Self { part: Part::Bare, ..Self::default() }
    }

    /// Whether a request has begun and not ended.
    pub(super) fn is_within_a_request(&self) -> bool {
        self.part != Part::Target || !self.line.is_empty()
    }

    /// How many of the bytes, at their beginning, are of a body.
    pub(super) fn body(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            at += match self.part {
                Part::Target | Part::Fields => return at,
                Part::Bare => rest.len(),
                Part::Bytes(left) => {
                    let (taken, left) = take(left, rest);
                    self.part = if left == 0 { Part::Target } else { Part::Bytes(left) };
                    taken
                }
                Part::Chunk(left) => {
                    let (taken, left) = take(left, rest);
                    self.part = if left == 0 { Part::Size } else { Part::Chunk(left) };
                    taken
                }
                Part::Size | Part::Trailer => self.line_of_body(rest),
            };
        }
        at
    }

    /// Adds to `out` what HTTP's library is to get of the bytes.
    pub(super) fn pass(&mut self, mut bytes: &[u8], out: &mut BytesMut) {
        while !bytes.is_empty() {
            let (body, rest) = bytes.split_at(self.body(bytes));
            out.put_slice(body);
            let (line, rest) = rest.split_at(line_end(rest).unwrap_or(rest.len()));
            self.line.extend_from_slice(line);
            if line.ends_with(b"\n") {
                let line = std::mem::take(&mut self.line);
                self.line_of_head(&line, out);
            } else if self.line.len() > LONGEST {
                out.put_slice(&std::mem::take(&mut self.line));
                self.part = Part::Bare;
            }
            bytes = rest;
        }
    }

    /// Takes one line of a head.
    fn line_of_head(&mut self, line: &[u8], out: &mut BytesMut) {
        let text = line.trim_ascii_end();
        match self.part {
            // An empty line before a request is no request.
            Part::Target if text.is_empty() => out.put_slice(line),
            Part::Target => {
                out.put_slice(&encoded(line));
                (self.part, self.body) = (Part::Fields, Body::None);
            }
            _ => {
                out.put_slice(line);
                if text.is_empty() {
                    self.part = match self.body {
                        Body::None | Body::Length(0) => Part::Target,
                        Body::Length(length) => Part::Bytes(length),
                        Body::Chunked => Part::Size,
                        Body::Bare => Part::Bare,
                    };
                } else {
                    self.body = self.body.told(text);
                }
            }
        }
    }

    /// Takes a line, or the beginning of one, that frames a body. Returns how long it is.
    fn line_of_body(&mut self, bytes: &[u8]) -> usize {
        let end = line_end(bytes);
        let length = end.unwrap_or(bytes.len());
        self.line.extend_from_slice(&bytes[..length]);
        if end.is_some() {
            let line = std::mem::take(&mut self.line);
            let text = line.trim_ascii();
            self.part = match self.part {
                Part::Trailer if text.is_empty() => Part::Target,
                Part::Trailer => Part::Trailer,
                _ => chunk(text),
            };
        } else if self.line.len() > LONGEST {
            *self = Self::bare();
        }
        length
    }
}

impl Body {
    /// What is known of a body after one more field.
    fn told(self, field: &[u8]) -> Self {
        let field = String::from_utf8_lossy(field);
        let Some((name, value)) = field.split_once(':') else { return self };
        let value = value.trim().to_ascii_lowercase();
        match (self, name.to_ascii_lowercase().as_str()) {
            (Self::Bare, _) | (_, "upgrade") => Self::Bare,
            (_, "transfer-encoding") if value.ends_with("chunked") => Self::Chunked,
            (_, "transfer-encoding") => Self::Bare,
            (Self::None, "content-length") => value.parse().map_or(Self::Bare, Self::Length),
            _ => self,
        }
    }
}

/// What follows the line with a chunk's size.
fn chunk(line: &[u8]) -> Part {
    const LINE_FEED: u64 = 2;
    let digits = line.split(|byte| *byte == b';').next().unwrap_or_default();
    let size = std::str::from_utf8(digits.trim_ascii()).ok();
    match size.and_then(|size| u64::from_str_radix(size, 16).ok()) {
        Some(0) => Part::Trailer,
        Some(size) => size.checked_add(LINE_FEED).map_or(Part::Bare, Part::Chunk),
        None => Part::Bare,
    }
}

/// How many of the bytes are among the `left` ones, and how many are left then.
fn take(left: u64, bytes: &[u8]) -> (usize, u64) {
    let taken = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
    (taken, left - u64::try_from(taken).unwrap_or(left))
}

/// Where the first line ends.
fn line_end(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|byte| *byte == b'\n').map(|at| at + 1)
}

/// A request's first line with its target percent-encoded. The target is all between the first and
/// the last blank.
fn encoded(line: &[u8]) -> Vec<u8> {
    let blank = |byte: &u8| *byte == b' ';
    let text = line.trim_ascii_end();
    let (Some(first), Some(last)) = (text.iter().position(blank), text.iter().rposition(blank))
    else {
        return line.to_vec();
    };
    if first == last || text[first + 1..last].iter().all(|byte| is_of_a_target(*byte)) {
        return line.to_vec();
    }
    let mut encoded = line[..=first].to_vec();
    for &byte in &line[first + 1..last] {
        if is_of_a_target(byte) {
            encoded.push(byte);
        } else {
            encoded.extend(format!("%{byte:02X}").bytes());
        }
    }
    encoded.extend_from_slice(&line[last..]);
    encoded
}

fn is_of_a_target(byte: u8) -> bool {
    byte.is_ascii_graphic()
        && !matches!(byte, b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn passed(text: &[u8], piece: usize) -> Vec<u8> {
        let (mut heads, mut out) = (Heads::default(), BytesMut::new());
        for piece in text.chunks(piece) {
            heads.pass(piece, &mut out);
        }
        assert!(!heads.is_within_a_request());
        out.to_vec()
    }

    #[test]
    fn filters_need_not_be_encoded() {
        let check = |target: &str, expected: &str| {
            let request = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n");
            let passed = passed(request(target).as_bytes(), 7);
            assert_eq!(String::from_utf8(passed).unwrap(), request(expected));
        };
        check(
            r#"/containers/json?filters={"status":["exited"]}"#,
            "/containers/json?filters=%7B%22status%22:[%22exited%22]%7D",
        );
        check(
            r#"/events?filters={"label":["a b"]}"#,
            "/events?filters=%7B%22label%22:[%22a%20b%22]%7D",
        );
        check("/containers/grün/json", "/containers/gr%C3%BCn/json");
        check("/a%20b?c=%7B", "/a%20b?c=%7B");
    }

    #[test]
    fn only_heads_are_changed() {
        for body in [
            "Content-Length: 12\r\n\r\nGET {\"} x\r\n\r",
            "Transfer-Encoding: chunked\r\n\r\n5;x\r\nGET {\r\n3\r\n\"}\n\r\n0\r\nTrailer: {}\r\n\r\n",
            "transfer-encoding: gzip, chunked\r\ncontent-length: 3\r\n\r\n1\r\n{\r\n0\r\n\r\n",
            "\r\n",
        ] {
            let request = |target: &str| format!("POST {target} HTTP/1.1\r\n{body}").repeat(2);
            for piece in [1, 3, 1000] {
                let passed = passed(request("/{").as_bytes(), piece);
                assert_eq!(String::from_utf8(passed).unwrap(), request("/%7B"), "{piece}");
            }
        }
    }

    #[test]
    fn a_connection_that_is_to_be_another_one_is_left_alone() {
        let text = b"POST /a HTTP/1.1\r\nUpgrade: tcp\r\n\r\nPOST {} HTTP/1.1\r\n";
        let (mut heads, mut out) = (Heads::default(), BytesMut::new());
        heads.pass(text, &mut out);
        assert_eq!(&out[..], text);
    }

    proptest! {
        #[test]
        fn bytes_are_told_apart_however_they_come(bytes: Vec<u8>, piece in 1_usize..20) {
            let (mut whole, mut out) = (Heads::default(), BytesMut::new());
            whole.pass(&bytes, &mut out);
            let (mut parts, mut other) = (Heads::default(), BytesMut::new());
            for piece in bytes.chunks(piece) {
                let body = parts.body(piece);
                other.put_slice(&piece[..body]);
                parts.pass(&piece[body..], &mut other);
            }
            prop_assert_eq!(out, other);
        }
    }
}
