//! journald, by its native protocol: a datagram of fields a message.

use std::io;
use std::os::unix::net::UnixDatagram;

use super::super::jsonfile::Stream;
use super::Taker;
use super::queue::Message;

/// Where journald listens.
const SOCKET: &str = "/run/systemd/journal/socket";

/// A journald that can be reached.
pub(super) struct Journald {
    socket: UnixDatagram,
    /// The fields of every message.
    head: Vec<u8>,
}

impl Journald {
    pub(super) fn connect(fields: &[(String, String)]) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(SOCKET).map_err(|error| {
            io::Error::new(error.kind(), "journald is not enabled on this host")
        })?;
        let mut head = Vec::new();
        for (name, value) in fields {
            field(&mut head, name, value.as_bytes());
        }
        Ok(Self { socket, head })
    }
}

impl Taker for Journald {
    fn take(&mut self, message: &Message) -> io::Result<()> {
        let text = encode(&self.head, message);
        match self.socket.send(&text) {
            // Longer than a datagram may be: it would be so the next time, too.
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => {
                Err(io::Error::new(io::ErrorKind::InvalidInput, error))
            }
            other => other.map(drop),
        }
    }
}

fn encode(head: &[u8], message: &Message) -> Vec<u8> {
    let mut text = head.to_vec();
    let priority: &[u8] = if message.stream == Stream::Stderr { b"3" } else { b"6" };
    field(&mut text, "PRIORITY", priority);
    if message.partial {
        field(&mut text, "CONTAINER_PARTIAL_MESSAGE", b"true");
    }
    field(&mut text, "MESSAGE", &message.text);
    text
}

/// `NAME=value`, or with its length where the value has lines.
fn field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    if value.contains(&b'\n') {
        out.push(b'\n');
        out.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        out.push(b'=');
    }
    out.extend_from_slice(value);
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_a_datagram_of_fields() {
        let mut head = Vec::new();
        field(&mut head, "CONTAINER_NAME", b"web");
        let message = Message::new(Stream::Stderr, b"out of luck", true);
        assert_eq!(
            String::from_utf8(encode(&head, &message)).unwrap(),
            "CONTAINER_NAME=web\nPRIORITY=3\nCONTAINER_PARTIAL_MESSAGE=true\nMESSAGE=out of luck\n"
        );
        let mut lines = Vec::new();
        field(&mut lines, "LABEL", b"a\nb");
        assert_eq!(lines, b"LABEL\n\x03\0\0\0\0\0\0\0a\nb\n");
    }
}
