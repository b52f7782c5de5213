//! fluentd's forward protocol: `MessagePack` over TCP or a unix socket.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, UNIX_EPOCH};

use super::super::jsonfile::Stream;
use super::super::protocol::{Fluentd as Wanted, FluentdTo};
use super::Taker;
use super::queue::Message;
use super::syslog::{dial, tcp};

/// How long a receiver may take for a connection or a message.
const PATIENCE: Duration = Duration::from_secs(5);

/// A fluentd that can be reached.
pub(super) struct Fluentd {
    stream: Box<dyn Write + Send>,
    wanted: Wanted,
}

impl Fluentd {
    pub(super) fn connect(wanted: &Wanted) -> io::Result<Self> {
        let stream: Box<dyn Write + Send> = match &wanted.to {
            FluentdTo::Tcp { address } => Box::new(tcp(address)?),
            FluentdTo::Unix { path } => {
                let stream = UnixStream::connect(path)
                    .map_err(|error| dial("unix", &path.to_string_lossy(), &error))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                Box::new(stream)
            }
        };
        Ok(Self { stream, wanted: wanted.clone() })
    }
}

impl Taker for Fluentd {
    fn take(&mut self, message: &Message) -> io::Result<()> {
        self.stream.write_all(&encode(&self.wanted, message))
    }
}

/// `[tag, time, record]`.
fn encode(wanted: &Wanted, message: &Message) -> Vec<u8> {
    let mut out = vec![0x93];
    text(&mut out, wanted.tag.as_bytes());
    let since = message.time.duration_since(UNIX_EPOCH).unwrap_or_default();
    if wanted.fine {
        // The extension type 0: seconds and nanoseconds.
        out.extend_from_slice(&[0xd7, 0x00]);
        let seconds = u32::try_from(since.as_secs()).unwrap_or(u32::MAX);
        out.extend_from_slice(&seconds.to_be_bytes());
        out.extend_from_slice(&since.subsec_nanos().to_be_bytes());
    } else {
        out.push(0xcf);
        out.extend_from_slice(&since.as_secs().to_be_bytes());
    }
    let source: &[u8] = if message.stream == Stream::Stderr { b"stderr" } else { b"stdout" };
    let mut fields: Vec<(&[u8], &[u8])> = Vec::new();
    fields.extend(wanted.fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())));
    fields.push((b"source", source));
    fields.push((b"log", &message.text));
    if message.partial {
        fields.push((b"partial_message", b"true"));
    }
    let count = u32::try_from(fields.len()).unwrap_or_default();
    out.push(0xdf);
    out.extend_from_slice(&count.to_be_bytes());
    for (name, value) in fields {
        text(&mut out, name);
        text(&mut out, value);
    }
    out
}

fn text(out: &mut Vec<u8>, text: &[u8]) {
    if let Ok(length) = u8::try_from(text.len()) {
        out.extend_from_slice(&[0xd9, length]);
    } else {
        out.push(0xdb);
        out.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
    }
    out.extend_from_slice(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_tag_time_and_record() {
        let wanted = Wanted {
            to: FluentdTo::Tcp { address: String::new() },
            tag: "t".to_owned(),
            fields: vec![("container_name".to_owned(), "/web".to_owned())],
            fine: false,
            may_be_away: false,
        };
        let time = UNIX_EPOCH + Duration::from_secs(5);
        let message =
            Message { stream: Stream::Stdout, text: b"hi".to_vec(), partial: false, time };
        let expected = [
            &b"\x93\xd9\x01t\xcf\0\0\0\0\0\0\0\x05\xdf\0\0\0\x03"[..],
            b"\xd9\x0econtainer_name\xd9\x04/web\xd9\x06source\xd9\x06stdout\xd9\x03log\xd9\x02hi",
        ];
        assert_eq!(encode(&wanted, &message), expected.concat());
    }
}
