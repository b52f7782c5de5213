//! The context as an archive, written while it is sent.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use dockerfile::Ignore;
use flate2::write::GzEncoder;
use futures_util::stream;
use tar::{EntryType, Header};
use tokio::sync::mpsc;

use super::super::client::{Body, streamed};
use super::super::{say, units};
use super::CliError;

/// Pieces on their way.
const DEPTH: usize = 8;
/// Bytes in one.
const PIECE: usize = 64 << 10;

/// What a context leaves out.
const IGNORE: &str = ".dockerignore";

/// What is sent.
pub(super) struct Context {
    pub(super) directory: PathBuf,
    pub(super) ignore: Ignore,
    /// The Dockerfile in it, which is sent whatever the patterns say.
    pub(super) dockerfile: String,
    /// A Dockerfile from elsewhere.
    pub(super) extra: Option<Extra>,
}

/// A file that is not in the directory.
pub(super) struct Extra {
    pub(super) name: String,
    pub(super) text: Vec<u8>,
}

/// The body of a request: the archive, made on a thread of its own.
pub(super) fn body(context: Context, compress: bool, quiet: bool) -> Body {
    let (sender, receiver) = mpsc::channel(DEPTH);
    tokio::task::spawn_blocking(move || {
        let mut pipe = Pipe { sender: sender.clone(), size: 0 };
        let written = if compress {
            let mut packed = GzEncoder::new(&mut pipe, flate2::Compression::default());
            write(&context, &mut packed).and_then(|()| packed.finish().map(drop))
        } else {
            write(&context, &mut pipe)
        };
        if let Err(error) = written {
            drop(sender.blocking_send(Err(error)));
        } else if !quiet {
            let size = i64::try_from(pipe.size).unwrap_or(i64::MAX);
            say(&format!("Sending build context to rnet daemon  {}", units::human_size(size)));
        }
    });
    pieces(receiver)
}

/// Standard input from here on, after what was read of it.
pub(super) fn passed(start: Vec<u8>) -> Body {
    let (sender, receiver) = mpsc::channel(DEPTH);
    tokio::task::spawn_blocking(move || {
        let mut pipe = Pipe { sender: sender.clone(), size: 0 };
        let mut all = start.as_slice().chain(io::stdin());
        if let Err(error) = io::copy(&mut all, &mut pipe) {
            drop(sender.blocking_send(Err(error)));
        }
    });
    pieces(receiver)
}

/// An archive of one Dockerfile.
pub(super) fn of_dockerfile(text: &[u8]) -> Result<Vec<u8>, CliError> {
    let mut archive = tar::Builder::new(Vec::new());
    add_text(&mut archive, "Dockerfile", text)?;
    Ok(archive.into_inner()?)
}

fn pieces(receiver: mpsc::Receiver<io::Result<Bytes>>) -> Body {
    let pieces = stream::unfold(receiver, |mut receiver| async move {
        let piece = receiver.recv().await?;
        Some((piece, receiver))
    });
    streamed(tokio_util::io::StreamReader::new(Box::pin(pieces)))
}

struct Pipe {
    sender: mpsc::Sender<io::Result<Bytes>>,
    size: u64,
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = &bytes[..bytes.len().min(PIECE)];
        let sent = self.sender.blocking_send(Ok(Bytes::copy_from_slice(piece)));
        sent.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        self.size += piece.len() as u64;
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write(context: &Context, to: impl Write) -> io::Result<()> {
    let mut archive = tar::Builder::new(to);
    add_below(&mut archive, context, Path::new(""))?;
    if let Some(Extra { name, text }) = &context.extra {
        add_text(&mut archive, name, text)?;
        // It is none of the files of the context: steps are not to see it, as docker has it.
        let mut ignore = match fs::read(context.directory.join(IGNORE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => IGNORE.as_bytes().to_vec(),
            read => read?,
        };
        ignore.extend(format!("\n{name}\n").as_bytes());
        add_text(&mut archive, IGNORE, &ignore)?;
    }
    archive.into_inner()?.flush()
}

fn add_text(archive: &mut tar::Builder<impl Write>, name: &str, text: &[u8]) -> io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_size(text.len() as u64);
    header.set_mode(0o644);
    archive.append_data(&mut header, name, text)
}

/// Adds what is in a directory, names in order.
fn add_below(
    archive: &mut tar::Builder<impl Write>,
    context: &Context,
    within: &Path,
) -> io::Result<()> {
    let mut names = Vec::new();
    for entry in fs::read_dir(context.directory.join(within))? {
        names.push(entry?.file_name());
    }
    names.sort();
    for name in names {
        let path = within.join(&name);
        let place = context.directory.join(&path);
        let text = path.to_string_lossy();
        if text == IGNORE && context.extra.is_some() {
            continue;
        }
        let needed = text == context.dockerfile || text == IGNORE;
        let excluded = context.ignore.excludes(&text) && !needed;
        let metadata = fs::symlink_metadata(&place)?;
        if metadata.is_dir() {
            if !excluded {
                add(archive, &place, &path, &metadata)?;
            }
            let holds_dockerfile = Path::new(&context.dockerfile).starts_with(&path);
            if !excluded || holds_dockerfile || context.ignore.may_include_below(&text) {
                add_below(archive, context, &path)?;
            }
        } else if !excluded {
            add(archive, &place, &path, &metadata)?;
        }
    }
    Ok(())
}

/// Adds one thing, as nobody's in particular.
fn add(
    archive: &mut tar::Builder<impl Write>,
    place: &Path,
    path: &Path,
    metadata: &fs::Metadata,
) -> io::Result<()> {
    let unread = |error: io::Error| {
        io::Error::new(error.kind(), format!("cannot send {}: {error}", place.display()))
    };
    let kind = metadata.file_type();
    if kind.is_socket() {
        // What listens there is not part of an image.
        return Ok(());
    }
    let mut header = Header::new_gnu();
    header.set_mode(metadata.mode() & 0o7777);
    header.set_mtime(u64::try_from(metadata.mtime()).unwrap_or(0));
    header.set_size(0);
    if kind.is_dir() {
        header.set_entry_type(EntryType::Directory);
        return archive.append_data(&mut header, path, io::empty());
    }
    if kind.is_symlink() {
        header.set_entry_type(EntryType::Symlink);
        return archive.append_link(&mut header, path, fs::read_link(place).map_err(unread)?);
    }
    if kind.is_fifo() {
        header.set_entry_type(EntryType::Fifo);
        return archive.append_data(&mut header, path, io::empty());
    }
    if !kind.is_file() {
        header.set_entry_type(if kind.is_block_device() {
            EntryType::Block
        } else {
            EntryType::Char
        });
        header.set_device_major(libc::major(metadata.rdev()))?;
        header.set_device_minor(libc::minor(metadata.rdev()))?;
        return archive.append_data(&mut header, path, io::empty());
    }
    let file = File::open(place).map_err(unread)?;
    header.set_size(metadata.len());
    // A file that shrinks while it is sent is filled up: the rest of the archive stays where it is.
    let content = file.chain(io::repeat(0)).take(metadata.len());
    archive.append_data(&mut header, path, content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ignored_is_not_sent_and_what_is_needed_is() {
        let directory = std::env::temp_dir().join(format!("rnet-send-{}", std::process::id()));
        fs::create_dir_all(directory.join("docs/keep")).unwrap();
        for name in ["Dockerfile", ".dockerignore", "a", "docs/b", "docs/keep/c", "docs/keep/d"] {
            fs::write(directory.join(name), name).unwrap();
        }
        let ignore = Ignore::parse("docs\nDockerfile\n!docs/keep/c\n").unwrap();
        let context = Context {
            directory: directory.clone(),
            ignore,
            dockerfile: "Dockerfile".to_owned(),
            extra: Some(Extra { name: "x".to_owned(), text: b"y".to_vec() }),
        };
        let mut bytes = Vec::new();
        let written = write(&context, &mut bytes);
        fs::remove_dir_all(&directory).unwrap();
        written.unwrap();
        let mut archive = tar::Archive::new(bytes.as_slice());
        let (mut names, mut last) = (Vec::new(), String::new());
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            names.push(entry.path().unwrap().to_string_lossy().into_owned());
            last.clear();
            entry.read_to_string(&mut last).unwrap();
        }
        assert_eq!(names, ["Dockerfile", "a", "docs/keep/c", "x", ".dockerignore"]);
        assert_eq!(last, ".dockerignore\nx\n");
    }
}
