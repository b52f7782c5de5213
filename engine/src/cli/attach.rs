//! Streams between the user's terminal and a container: `attach`, and what `run`, `start` and
//! `exec` have in common with it.

use hyper::Method;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::Outcome;
use super::client::{Client, Stream, escape};
use super::commands::AttachArgs;
use super::error::CliError;
use super::terminal::{self, Escape, Input, RawMode};

/// How much of what a daemon complains of within a stream is shown.
const LONGEST_COMPLAINT: u64 = 64 << 10;

/// How a stream ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The other side closed it.
    Closed,
    /// The user typed the keys that detach.
    Detached,
}

/// What to do with a stream.
#[derive(Debug)]
pub(crate) struct Session {
    /// Raw bytes of a terminal rather than frames.
    pub(crate) tty: bool,
    /// Whether standard input is sent.
    pub(crate) stdin: bool,
    /// The keys that detach.
    pub(crate) keys: Vec<u8>,
    /// Where the size of the terminal is told, without the query.
    pub(crate) resize: String,
}

impl Session {
    /// Copies in both directions until the other side closes.
    pub(crate) async fn run(self, client: &Client, stream: Stream) -> Result<End, CliError> {
        let _raw = if self.tty && self.stdin { Some(RawMode::enter()?) } else { None };
        let (reader, writer) = tokio::io::split(stream);
        let (detach, mut detached) = mpsc::channel(1);
        let keys = (self.tty && terminal::is_terminal()).then(|| self.keys.clone());
        let input = self.stdin.then(|| tokio::spawn(send_input(writer, keys, detach)));
        let mut sizes = signal(SignalKind::window_change())?;
        if self.tty {
            self.tell_size(client).await;
        }
        let output = copy_output(reader, self.tty);
        tokio::pin!(output);
        let end = loop {
            tokio::select! {
                // The daemon answers the keys by closing, and is not to be quicker.
                biased;
                Some(()) = detached.recv() => break Ok(End::Detached),
                ended = &mut output => break ended.map(|()| End::Closed),
                Some(()) = sizes.recv(), if self.tty => self.tell_size(client).await,
            }
        };
        if let Some(input) = input {
            if matches!(end, Ok(End::Detached)) {
                // The daemon gets the keys. That it closed meanwhile is no failure.
                let _ = input.await;
            } else {
                input.abort();
            }
        }
        end
    }

    async fn tell_size(&self, client: &Client) {
        if let Some((rows, columns)) = terminal::size() {
            let path = format!("{}?h={rows}&w={columns}", self.resize);
            // The container may have ended meanwhile; that is told by its stream.
            let _ = client.post(&path, None).await;
        }
    }
}

/// Sends standard input until its end, then closes that direction.
async fn send_input(
    mut writer: WriteHalf<Stream>,
    keys: Option<Vec<u8>>,
    detach: mpsc::Sender<()>,
) -> std::io::Result<()> {
    let mut escape = keys.map(Escape::new);
    let mut stdin = tokio::io::stdin();
    let mut buffer = vec![0; 16 << 10];
    loop {
        let count = stdin.read(&mut buffer).await?;
        if count == 0 {
            return writer.shutdown().await;
        }
        let bytes = &buffer[..count];
        let (bytes, leave) = match escape.as_mut().map(|escape| escape.feed(bytes)) {
            None => (bytes.to_vec(), false),
            Some(Input::Pass(bytes)) => (bytes, false),
            Some(Input::Detach(bytes)) => (bytes, true),
        };
        if leave {
            let _ = detach.send(()).await;
        }
        writer.write_all(&bytes).await?;
        writer.flush().await?;
        if leave {
            return Ok(());
        }
    }
}

async fn copy_output(mut reader: ReadHalf<Stream>, tty: bool) -> Result<(), CliError> {
    if tty {
        tokio::io::copy(&mut reader, &mut tokio::io::stdout()).await?;
        tokio::io::stdout().flush().await?;
        return Ok(());
    }
    demultiplex(&mut reader).await
}

/// Copies stdcopy frames to standard output and error.
pub(crate) async fn demultiplex(reader: &mut (impl AsyncRead + Unpin)) -> Result<(), CliError> {
    split(reader, &mut tokio::io::stdout(), &mut tokio::io::stderr()).await
}

/// Takes stdcopy frames (`[stream, 0, 0, 0, length as u32 BE]`) apart.
pub(super) async fn split(
    reader: &mut (impl AsyncRead + Unpin),
    out: &mut (impl AsyncWrite + Unpin),
    err: &mut (impl AsyncWrite + Unpin),
) -> Result<(), CliError> {
    let mut header = [0; 8];
    loop {
        match reader.read_exact(&mut header).await {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => break,
            Err(error) => return Err(error.into()),
        }
        let length = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
        let mut frame = reader.take(u64::from(length));
        match header[0] {
            0 | 1 => {
                tokio::io::copy(&mut frame, out).await?;
                out.flush().await?;
            }
            2 => {
                tokio::io::copy(&mut frame, err).await?;
                err.flush().await?;
            }
            3 => {
                let mut text = Vec::new();
                frame.take(LONGEST_COMPLAINT).read_to_end(&mut text).await?;
                let text = String::from_utf8_lossy(&text);
                return Err(CliError::new(format!("error from daemon in stream: {text}")));
            }
            other => return Err(CliError::new(format!("unrecognized stream: {other}"))),
        }
    }
    Ok(())
}

/// Passes the signals this process gets on to a container, for as long as it is alive.
#[derive(Debug)]
pub(crate) struct SignalProxy(tokio::task::JoinHandle<()>);

impl SignalProxy {
    /// Starts to pass signals on.
    pub(crate) fn start(
        client: &std::sync::Arc<Client>,
        container: &str,
    ) -> Result<Self, CliError> {
        let (client, container) = (std::sync::Arc::clone(client), container.to_owned());
        let mut signals = Vec::new();
        for (kind, name) in [
            (SignalKind::interrupt(), "INT"),
            (SignalKind::terminate(), "TERM"),
            (SignalKind::hangup(), "HUP"),
            (SignalKind::quit(), "QUIT"),
            (SignalKind::user_defined1(), "USR1"),
            (SignalKind::user_defined2(), "USR2"),
        ] {
            signals.push((signal(kind)?, name));
        }
        let (sender, mut received) = mpsc::unbounded_channel();
        for (mut signal, name) in signals {
            let sender = sender.clone();
            tokio::task::spawn(async move {
                while signal.recv().await.is_some() {
                    let _ = sender.send(name);
                }
            });
        }
        Ok(Self(tokio::task::spawn(async move {
            while let Some(name) = received.recv().await {
                let path = format!("/containers/{}/kill?signal={name}", escape(&container));
                let _ = client.post(&path, None).await;
            }
        })))
    }
}

impl Drop for SignalProxy {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// `attach`.
pub(crate) async fn attach(client: &std::sync::Arc<Client>, args: AttachArgs) -> Outcome {
    let name = escape(&args.container);
    let found = client.get(&format!("/containers/{name}/json")).await?;
    if found["State"]["Running"] != Value::Bool(true) {
        return Err(CliError::new("cannot attach to a stopped container, start it first"));
    }
    if found["State"]["Paused"] == Value::Bool(true) {
        return Err(CliError::new("cannot attach to a paused container, unpause it first"));
    }
    let tty = found["Config"]["Tty"] == Value::Bool(true);
    let stdin = !args.no_stdin && found["Config"]["OpenStdin"] == Value::Bool(true);
    if tty && stdin && !terminal::is_terminal() {
        return Err(CliError::new("the input device is not a TTY"));
    }
    let wait = client
        .checked(Method::POST, &format!("/containers/{name}/wait?condition=not-running"), None)
        .await?;
    let wanted = super::preferences::detach_keys(args.detach_keys.as_deref());
    let keys = terminal::detach_keys(wanted.as_deref())?;
    let told = terminal::detach_query(wanted.as_deref());
    let path = format!(
        "/containers/{name}/attach?stream=1&stdout=1&stderr=1&stdin={}{told}",
        u8::from(stdin)
    );
    let stream = client.hijack(&path, None).await?;
    let _proxy = if args.sig_proxy && !tty {
        Some(SignalProxy::start(client, &args.container)?)
    } else {
        None
    };
    let session = Session { tty, stdin, keys, resize: format!("/containers/{name}/resize") };
    match session.run(client, stream).await? {
        End::Detached => Ok(0),
        End::Closed => super::run::exit_code(wait).await,
    }
}

#[cfg(test)]
mod tests {
    use crate::cli::unframed;

    #[test]
    fn frames_go_to_their_streams_and_a_complaint_of_any_length_is_cut() {
        let frame = |stream: u8, bytes: &[u8]| {
            let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
            [&[stream, 0, 0, 0], &length[..], bytes].concat()
        };
        let stream = [frame(1, b"out"), frame(2, b"err"), frame(0, b"put")].concat();
        assert_eq!(unframed(&stream), (b"output".to_vec(), b"err".to_vec(), Ok(())));
        let complaint = "no \u{e9}".repeat(1 << 20);
        let head: &[u8] = &[3, 0, 0, 0, 255, 255, 255, 255];
        let (_, _, done) = unframed(&[head, complaint.as_bytes()].concat());
        let said = done.unwrap_err();
        assert!(said.starts_with("error from daemon in stream: no \u{e9}"), "{said:.60}");
        assert!(said.len() < 70_000);
        let (_, _, done) = unframed(&frame(7, b""));
        assert_eq!(done, Err("unrecognized stream: 7".to_owned()));
    }
}
