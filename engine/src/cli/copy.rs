//! `cp`: files out of containers and into them.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::body::Incoming;
use hyper::{Method, Response};
use rustix::fs::{CWD, Mode, OFlags};
use serde_json::Value;
use tokio::io::AsyncRead;
use tokio::net::unix::pipe;
use tokio_util::io::InspectReader;

use super::changes::{reader, to_stdout};
use super::client::{Client, escape, full, good, streamed};
use super::commands::CpArgs;
use super::error::CliError;
use super::units::human_size;
use super::{Outcome, complain};
use image::pack::Packer;
use image::unpack::{Owner, Plain, unpack};

/// Go's bit of directories.
const DIRECTORY: u64 = 1 << 31;
/// Go's bit of symbolic links.
const LINK: u64 = 1 << 27;
/// Go's bits of everything that is no regular file.
const KIND: u64 = 1 << 31 | 1 << 27 | 1 << 26 | 1 << 25 | 1 << 24 | 1 << 21 | 1 << 19;

/// `cp`.
pub(crate) async fn copy(client: &Client, args: CpArgs) -> Outcome {
    if args.source.is_empty() {
        return Err(CliError::new("source can not be empty"));
    }
    if args.destination.is_empty() {
        return Err(CliError::new("destination can not be empty"));
    }
    match (in_container(&args.source), in_container(&args.destination)) {
        (Some(_), Some(_)) => Err(CliError::new("copying between containers is not supported")),
        (None, None) => Err(CliError::new("must specify at least one container source")),
        (Some((container, path)), None) => from(client, &args, container, path).await,
        (None, Some((container, path))) => to(client, &args, container, path).await,
    }
}

/// The container and the path of `container:path`; nothing for a path of this host.
fn in_container(text: &str) -> Option<(&str, &str)> {
    if text.starts_with('/') {
        return None;
    }
    text.split_once(':').filter(|(container, _)| !container.starts_with('.'))
}

/// What the daemon says is at a path of a container.
struct Found {
    mode: u64,
    link_target: String,
}

impl Found {
    fn of(response: &Response<Incoming>) -> Result<Self, CliError> {
        let header = response.headers().get("x-docker-container-path-stat");
        let text = header.and_then(|value| STANDARD.decode(value.as_bytes()).ok());
        let stat = text.and_then(|text| serde_json::from_slice::<Value>(&text).ok());
        let stat = stat.ok_or_else(|| CliError::new("the daemon does not say what is there"))?;
        Ok(Self {
            mode: stat["mode"].as_u64().unwrap_or_default(),
            link_target: stat["linkTarget"].as_str().unwrap_or_default().to_owned(),
        })
    }

    fn is_directory(&self) -> bool {
        self.mode & DIRECTORY != 0
    }
}

fn archive_path(container: &str, path: &str) -> String {
    format!("/containers/{}/archive?path={}", escape(container), escape(path))
}

/// What is at a path of a container; nothing if that cannot be said.
async fn look(client: &Client, container: &str, path: &str) -> Result<Option<Found>, CliError> {
    let path = archive_path(container, path);
    let response = client.request(Method::HEAD, &path, full(""), &[]).await?;
    if response.status().is_success() { Found::of(&response).map(Some) } else { Ok(None) }
}

// === out of a container ===

async fn from(client: &Client, args: &CpArgs, container: &str, path: &str) -> Outcome {
    let mut source = path.to_owned();
    if args.follow_link
        && let Some(found) = look(client, container, path).await?
        && found.mode & LINK != 0
    {
        source = found.link_target;
    }
    let destination = Path::new(&args.destination);
    if args.destination != "-" {
        check_destination(destination)?;
    }
    let path_of = archive_path(container, &source);
    let response = client.checked(Method::GET, &path_of, None).await?;
    if args.destination == "-" {
        if io::stdout().is_terminal() {
            return Err(CliError::new(
                "cowardly refusing to save to a terminal. Use the -o flag or redirect",
            ));
        }
        to_stdout(response).await?;
        return Ok(0);
    }
    let found = Found::of(&response)?;
    let (old, wanted) = (base(&source), base(path));
    let place =
        Place::of(&args.destination, std::fs::metadata(destination).ok().map(|m| m.is_dir()));
    let (directory, new) = place.for_source(&wanted, found.is_directory())?;
    let size = receive(response, directory, old, new, Progress::new(args, "from")).await?;
    told(args, size, &args.destination);
    Ok(0)
}

/// Refuses a destination whose directory is not there.
fn check_destination(path: &Path) -> Result<(), CliError> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let Some(parent) = parent else { return Ok(()) };
    if parent.is_dir() {
        return Ok(());
    }
    Err(CliError::new(format!(
        "invalid output path: directory {:?} does not exist",
        parent.display().to_string()
    )))
}

/// Unpacks an answer in a directory of this host.
async fn receive(
    response: Response<Incoming>,
    directory: PathBuf,
    old: Vec<u8>,
    new: Vec<u8>,
    progress: Progress,
) -> Result<u64, CliError> {
    let (archive, writer) = io::pipe()?;
    let mut to = pipe::Sender::from_owned_fd(writer.into())?;
    let unpacking = tokio::task::spawn_blocking(move || {
        let directory = std::path::absolute(directory)?;
        let (root, into) = (File::open("/")?, File::open(&directory)?);
        let plain = Plain {
            map: None,
            root: root.as_fd(),
            directory: into.as_fd(),
            path: directory.as_os_str().as_bytes(),
            keep_kinds: true,
            owner: Owner::Caller,
            rename: (old != new).then_some((&old, &new)),
        };
        unpack(archive, &plain)
    });
    let copied = tokio::io::copy(&mut progress.watch(reader(response)), &mut to).await;
    drop(to);
    // Whoever unpacks knows why the other one was stopped.
    unpacking.await.map_err(|error| CliError::new(error.to_string()))??;
    let size = copied.map_err(|error| CliError::new(format!("the copy broke off: {error}")))?;
    progress.end();
    Ok(size)
}

// === into a container ===

async fn to(client: &Client, args: &CpArgs, container: &str, path: &str) -> Outcome {
    let (mut path, mut found) = (path.to_owned(), look(client, container, path).await?);
    if let Some(link) = found.take_if(|found| found.mode & LINK != 0) {
        path = link.link_target;
        found = look(client, container, &path).await?;
    }
    if found.as_ref().is_some_and(|found| found.mode & KIND & !DIRECTORY != 0) {
        return Err(CliError::new(format!(
            "destination \"{container}:{path}\" must be a directory or a regular file"
        )));
    }
    let place = Place::of(&path, found.map(|found| found.is_directory()));
    let progress = Progress::new(args, "to");
    let (directory, body, packing) = if args.source == "-" {
        if place.is_directory != Some(true) {
            let text = format!("destination \"{container}:{path}\" must be a directory");
            return Err(CliError::new(text));
        }
        (PathBuf::from(&path), streamed(progress.clone().into_watch(tokio::io::stdin())), None)
    } else {
        let source = open(&args.source, args.follow_link)?;
        let is_directory = rustix::fs::fstat(&source).is_ok_and(|stat| {
            rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory
        });
        let (directory, name) = place.for_source(&base(&args.source), is_directory)?;
        let (archive, writer) = io::pipe()?;
        let packing = tokio::task::spawn_blocking(move || {
            let mut packer = Packer::new(BufWriter::with_capacity(64 << 10, writer));
            packer.opened(&source, &name)?;
            packer.finish().map(drop)
        });
        let archive = pipe::Receiver::from_owned_fd(archive.into())?;
        (directory, streamed(progress.clone().into_watch(archive)), Some(packing))
    };
    let to = directory.to_string_lossy();
    let query = format!("noOverwriteDirNonDir=true&copyUIDGID={}", args.archive);
    let request = format!("{}&{query}", archive_path(container, &to));
    let headers = [("content-type", "application/x-tar")];
    let answer = client.request(Method::PUT, &request, body, &headers).await;
    let answer = match answer {
        Ok(answer) => good(answer).await.map(drop),
        Err(error) => Err(error),
    };
    // An answer that came before all was read stops the packing, and says why.
    let packed = match packing {
        Some(packing) => packing.await.map_err(|error| CliError::new(error.to_string()))?,
        None => Ok(()),
    };
    answer?;
    packed?;
    progress.end();
    told(args, progress.bytes(), &args.destination);
    Ok(0)
}

/// Opens what is to be copied; a link itself, unless links are to be followed.
fn open(path: &str, follow: bool) -> Result<OwnedFd, CliError> {
    let nofollow = if follow { OFlags::empty() } else { OFlags::NOFOLLOW };
    let flags = OFlags::PATH | OFlags::CLOEXEC | nofollow;
    rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(|error| {
        let full = std::path::absolute(path).unwrap_or_else(|_| PathBuf::from(path));
        let why = match error {
            rustix::io::Errno::NOENT => "no such file or directory".to_owned(),
            other => other.to_string(),
        };
        CliError::new(format!("lstat {}: {why}", full.display()))
    })
}

// === which place gets what ===

/// A destination, and whether it is a directory if it is there.
struct Place<'a> {
    path: &'a str,
    is_directory: Option<bool>,
}

impl<'a> Place<'a> {
    fn of(path: &'a str, is_directory: Option<bool>) -> Self {
        Self { path, is_directory }
    }

    /// The directory to unpack in, and what the source is called there: what is copied to a directory
    /// goes into it, and everywhere else it gets the destination's name.
    fn for_source(&self, source: &[u8], directory: bool) -> Result<(PathBuf, Vec<u8>), CliError> {
        let path = Path::new(self.path);
        match self.is_directory {
            Some(true) => return Ok((path.to_owned(), source.to_owned())),
            Some(false) if directory => return Err(CliError::new("cannot copy directory")),
            None if !directory && (self.path.ends_with('/') || self.path.ends_with("/.")) => {
                return Err(CliError::new("no such directory"));
            }
            _ => {}
        }
        let name = path.file_name().unwrap_or(OsStr::new("."));
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new(if path.is_absolute() { "/" } else { "." }));
        Ok((parent.to_owned(), name.as_bytes().to_owned()))
    }
}

/// What a path is called in an archive.
fn base(path: &str) -> Vec<u8> {
    if path == "." || path.ends_with("/.") {
        return b".".to_vec();
    }
    let name = Path::new(path).file_name().map(|name| name.as_bytes().to_vec());
    name.unwrap_or_else(|| if path.starts_with('/') { b"/".to_vec() } else { b".".to_vec() })
}

// === progress ===

/// How many bytes have been copied, shown in place on a terminal.
#[derive(Clone)]
struct Progress {
    bytes: Arc<AtomicU64>,
    ticker: Option<Arc<tokio::task::JoinHandle<()>>>,
}

impl Progress {
    fn new(args: &CpArgs, way: &'static str) -> Self {
        let bytes = Arc::new(AtomicU64::new(0));
        let shows = !args.quiet.unwrap_or(!io::stdout().is_terminal())
            && io::stderr().is_terminal()
            && args.destination != "-";
        let its = bytes.clone();
        let ticker = shows.then(|| {
            Arc::new(tokio::spawn(async move {
                let mut ticks = tokio::time::interval(Duration::from_millis(200));
                loop {
                    ticks.tick().await;
                    let size = shown(its.load(Ordering::Relaxed));
                    let _ = write!(io::stderr(), "\r\x1b[KCopying {way} container - {size}");
                }
            }))
        });
        Self { bytes, ticker }
    }

    fn watch(&self, reader: impl AsyncRead) -> impl AsyncRead {
        self.clone().into_watch(reader)
    }

    fn into_watch<R: AsyncRead>(self, reader: R) -> InspectReader<R, impl FnMut(&[u8])> {
        let bytes = self.bytes;
        InspectReader::new(reader, move |piece| {
            bytes.fetch_add(piece.len() as u64, Ordering::Relaxed);
        })
    }

    fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    fn end(&self) {
        if let Some(ticker) = &self.ticker {
            ticker.abort();
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

fn shown(size: u64) -> String {
    human_size(i64::try_from(size).unwrap_or(i64::MAX))
}

fn told(args: &CpArgs, size: u64, place: &str) {
    if !args.quiet.unwrap_or(!io::stdout().is_terminal()) {
        complain(&format!("Successfully copied {} to {place}", shown(size)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_named_before_a_colon() {
        assert_eq!(in_container("web:/etc"), Some(("web", "/etc")));
        assert_eq!(in_container("web:a:b"), Some(("web", "a:b")));
        for local in ["/web:/etc", "./web:x", "../a:b", "plain", "-"] {
            assert_eq!(in_container(local), None, "{local}");
        }
    }

    #[test]
    fn what_is_copied_goes_into_a_directory_or_gets_the_new_name() {
        let place = |path, is, source: &str, directory| {
            let placed = Place::of(path, is).for_source(&base(source), directory);
            placed.map(|(to, name)| format!("{} {}", to.display(), String::from_utf8_lossy(&name)))
        };
        assert_eq!(place("/there", Some(true), "x/dir", true).unwrap(), "/there dir");
        assert_eq!(place("/there/", Some(true), "x/dir/.", true).unwrap(), "/there/ .");
        assert_eq!(place("/a/new", None, "x/dir/.", true).unwrap(), "/a new");
        assert_eq!(place("/a/new", None, "f", false).unwrap(), "/a new");
        assert_eq!(place("file", Some(false), "x/f", false).unwrap(), ". file");
        assert_eq!(place("/new", None, "f", false).unwrap(), "/ new");
        let error = |path, is, directory| place(path, is, "x", directory).unwrap_err().message;
        assert_eq!(error("/f", Some(false), true), "cannot copy directory");
        assert_eq!(error("/no/", None, false), "no such directory");
    }
}
