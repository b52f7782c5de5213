//! Daemons of other hosts by `ssh://`: the bytes of each connection go through `ssh` to
//! `rnet system dial-stdio` there.

use std::io;
use std::pin::Pin;
use std::process::Stdio;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, Join, ReadBuf, join};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::error::CliError;

/// A connection through `ssh`. The program ends with it.
pub(crate) struct Connection {
    streams: Join<ChildStdout, ChildStdin>,
    _program: Child,
}

/// What `ssh` is called with for `[user@]host[:port][/path]`.
pub(crate) fn arguments(address: &str) -> Result<Vec<String>, CliError> {
    let (place, path) = address.split_once('/').map_or((address, ""), |(a, b)| (a, b));
    let (user, host) = place.rsplit_once('@').map_or((None, place), |(u, h)| (Some(u), h));
    let (host, port) = match host.rsplit_once(':') {
        Some((host, port)) if !port.is_empty() && port.parse::<u16>().is_ok() => (host, Some(port)),
        _ => (host, None),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let plain = |text: &str| !text.is_empty() && !text.starts_with('-');
    if !plain(host) || user.is_some_and(|user| !plain(user) || user.contains(':')) {
        return Err(CliError::new(format!(
            "invalid SSH URL `ssh://{address}`: use ssh://[user@]host[:port]"
        )));
    }
    // It has no terminal to ask at, as with Docker: where it would ask, it says why and ends.
    let options = ["-o", "ConnectTimeout=30", "-o", "BatchMode=yes", "-T"];
    let mut words: Vec<_> = options.map(str::to_owned).to_vec();
    for (flag, value) in [("-l", user), ("-p", port)] {
        words.extend(value.map(|value| [flag.to_owned(), value.to_owned()]).into_iter().flatten());
    }
    words.extend(["--".to_owned(), host.to_owned(), "rnet".to_owned()]);
    if !path.is_empty() {
        words.extend(["--host".to_owned(), format!("'unix:///{}'", path.replace('\'', ""))]);
    }
    words.extend(["system".to_owned(), "dial-stdio".to_owned()]);
    Ok(words)
}

/// Opens a connection.
pub(crate) fn connect(arguments: &[String]) -> io::Result<Connection> {
    let mut program = Command::new("ssh")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        // What is typed at the terminal, an interrupt above all, is not for it. In the background
        // it would be stopped for good if it asked anything there.
        .process_group(0)
        .spawn()?;
    let missing = || io::Error::other("ssh has no streams");
    let output = program.stdout.take().ok_or_else(missing)?;
    let input = program.stdin.take().ok_or_else(missing)?;
    Ok(Connection { streams: join(output, input), _program: program })
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.streams).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.streams).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.streams).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.streams).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_not_to_ask_at_a_terminal_that_it_may_not_read() {
        assert_eq!(arguments("h1").unwrap()[2..4], ["-o", "BatchMode=yes"]);
    }

    #[test]
    fn a_url_becomes_the_words_of_ssh() {
        let words = |text| arguments(text).map(|words| words[5..].join(" ")).map_err(|e| e.message);
        assert_eq!(words("h1").unwrap(), "-- h1 rnet system dial-stdio");
        assert_eq!(words("me@h1:22").unwrap(), "-l me -p 22 -- h1 rnet system dial-stdio");
        let path = "-- h1 rnet --host 'unix:///run/x.sock' system dial-stdio";
        assert_eq!(words("h1/run/x.sock").unwrap(), path);
        assert!(words("-oProxyCommand=x").is_err() && words("").is_err() && words("-l@h").is_err());
    }
}
