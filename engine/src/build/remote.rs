//! What a build takes from elsewhere: contexts by URL, and what `ADD` fetches.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use sha2::{Digest as _, Sha256};

use super::Builds;
use super::context::{self, Context};
use super::output::{Output, cancelled};
use engine_error::{Error, Kind, Result};

/// How long a server may say nothing.
const PATIENCE: Duration = Duration::from_secs(60);
/// The most that is fetched.
const LARGEST: u64 = 16 << 30;
/// How long all of a clone may take.
const LONGEST_CLONE: Duration = Duration::from_secs(30 * 60);
/// How often is looked how far it has come.
const LOOK: Duration = Duration::from_secs(1);
/// How much of an error's text is told.
const TOLD: u64 = 4096;

/// Whether a word is something to be fetched.
pub(super) fn is_url(word: &str) -> bool {
    word.starts_with("http://") || word.starts_with("https://")
}

/// Whether a context is a repository of git's.
fn is_repository(word: &str) -> bool {
    word.starts_with("github.com/") || is_git(word)
}

/// Whether a word can mean nothing but a repository of git's.
pub(super) fn is_git(word: &str) -> bool {
    let place = word.split('#').next().unwrap_or(word);
    ["git://", "git@", "ssh://"].iter().any(|start| place.starts_with(start))
        || is_url(place) && Path::new(place).extension().is_some_and(|end| end == "git")
}

/// The last part of a URL's path.
pub(super) fn name(url: &str) -> Result<String> {
    let parsed = reqwest::Url::parse(url)
        .map_err(|error| Error::caused(Kind::Invalid, format!("invalid URL {url}"), error))?;
    let name = parsed.path_segments().and_then(|mut parts| parts.next_back()).unwrap_or_default();
    Ok(if name.is_empty() { "__unnamed__".to_owned() } else { name.to_owned() })
}

/// Fetches a file into a directory, by the name that [`name`] says. It is checked if there is a
/// checksum, and refused if it has no name of its own and needs one.
pub(super) fn file(
    builds: &Builds,
    url: &str,
    into: &Path,
    (checksum, named): (Option<&str>, bool),
    output: &Output,
) -> Result<()> {
    let name = name(url)?;
    if name == "__unnamed__" && !named {
        return Err(Error::invalid(format!("cannot determine filename from url: {url}")));
    }
    let path = into.join(&name);
    let digest = fetch(builds, url, &path, output)?;
    let found = format!("sha256:{digest}");
    if checksum.is_some_and(|wanted| wanted != found) {
        let wanted = checksum.unwrap_or_default();
        return Err(Error::invalid(format!("digest mismatch {found}: {wanted}")));
    }
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(&path, mode)
        .map_err(|error| Error::internal(format!("cannot store {url}"), error))
}

/// Fetches a URL into a file: its digest.
fn fetch(builds: &Builds, url: &str, path: &Path, output: &Output) -> Result<String> {
    let failed = |error: reqwest::Error| {
        Error::caused(Kind::Invalid, format!("cannot fetch {url}"), error.without_url())
    };
    let unwritten = |error| Error::internal(format!("cannot store {url}"), error);
    let cancel = output.cancel().clone();
    let mut file = File::create(path).map_err(unwritten)?;
    builds.tasks.block_on(async move {
        let client = reqwest::Client::builder().read_timeout(PATIENCE).connect_timeout(PATIENCE);
        let client = client.build().map_err(failed)?;
        let fetching = async {
            let reply = client.get(url).send().await.map_err(failed)?;
            if !reply.status().is_success() {
                return Err(Error::invalid(format!(
                    "failed to GET {url} with status {}",
                    reply.status()
                )));
            }
            let (mut pieces, mut hash, mut size) = (reply.bytes_stream(), Sha256::new(), 0);
            while let Some(piece) = pieces.next().await {
                let piece = piece.map_err(failed)?;
                size += piece.len() as u64;
                if size > LARGEST {
                    return Err(Error::invalid(format!("{url} has more than {LARGEST} bytes")));
                }
                hash.update(&piece);
                file.write_all(&piece).map_err(unwritten)?;
            }
            Ok(dockerfile::key::hex(&hash.finalize()))
        };
        tokio::select! {
            () = cancel.cancelled() => Err(cancelled()),
            fetched = fetching => fetched,
        }
    })
}

/// The context at a URL: an archive, a Dockerfile, or a repository.
pub(super) fn context(
    builds: &Builds,
    url: &str,
    into: &Path,
    dockerfile: &str,
    output: &Output,
) -> Result<Context> {
    if is_repository(url) {
        let within = clone(url, into, output)?;
        return context::of_directory(&within, dockerfile);
    }
    if !is_url(url) {
        return Err(Error::invalid(format!("unable to prepare context: {url} is no URL")));
    }
    let fetched = into.with_extension("fetched");
    fetch(builds, url, &fetched, output)?;
    let unread = |error| Error::internal(format!("cannot read what {url} brought"), error);
    let mut start = Vec::new();
    let file = File::open(&fetched).map_err(unread)?;
    (&file).take(512).read_to_end(&mut start).map_err(unread)?;
    let whole = io::Cursor::new(start.clone()).chain(file);
    let found = if image::context::looks_like_archive(&start) {
        context::of_archive(whole, into, dockerfile)
    } else {
        let mut text = Vec::new();
        whole.take(dockerfile::LONGEST as u64 + 1).read_to_end(&mut text).map_err(unread)?;
        context::of_dockerfile(&text, into)
    };
    drop(fs::remove_file(&fetched));
    found
}

/// Clones a repository, and says which directory of it is the context: `url[#reference[:directory]]`.
fn clone(url: &str, into: &Path, output: &Output) -> Result<std::path::PathBuf> {
    let (place, fragment) = url.split_once('#').unwrap_or((url, ""));
    let (reference, directory) = fragment.split_once(':').unwrap_or((fragment, ""));
    // Neither may be taken for an option of git's.
    if place.starts_with('-') || reference.starts_with('-') {
        return Err(Error::invalid(format!("invalid URL of a repository: {url}")));
    }
    let place = match place.strip_prefix("github.com/") {
        Some(rest) => format!("https://github.com/{rest}"),
        None => place.to_owned(),
    };
    let limits = Limits { end: Instant::now() + LONGEST_CLONE, size: LARGEST };
    let git = |arguments: &[&str]| git(into, arguments, limits, output);
    git(&["init", "--quiet"])?;
    git(&["remote", "add", "origin", &place])?;
    let wanted = if reference.is_empty() { "HEAD" } else { reference };
    let fetch = ["fetch", "--quiet", "--depth", "1", "origin", wanted];
    if git(&fetch).is_ok() {
        git(&["checkout", "--quiet", "FETCH_HEAD"])?;
    } else {
        // What is no branch and no tag is fetched with all the rest.
        git(&["fetch", "--quiet", "origin"])?;
        git(&["checkout", "--quiet", wanted, "--"])?;
    }
    drop(fs::remove_dir_all(into.join(".git")));
    if directory.is_empty() {
        return Ok(into.to_owned());
    }
    let unread = |error| Error::internal(format!("cannot open {directory} of {place}"), error);
    let tree = tree::Tree::open(into).map_err(unread)?;
    let within = tree.resolve(Path::new(directory)).map_err(unread)?;
    let within = within.ok_or_else(|| {
        Error::invalid(format!("error setting subdirectory: {directory} is not in {place}"))
    })?;
    Ok(into.join(within))
}

/// What a clone may come to.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// When it is to be done.
    end: Instant,
    /// Bytes.
    size: u64,
}

/// Runs git in a directory, within limits, without anything of the host's configuration and without asking
/// anybody.
fn git(within: &Path, arguments: &[&str], limits: Limits, output: &Output) -> Result<()> {
    let mut command = tokio::process::Command::new("git");
    command.args(["-c", "protocol.file.allow=never", "-c", "core.hooksPath=/dev/null"]);
    command.args(arguments).current_dir(within).stdin(Stdio::null()).stdout(Stdio::null());
    command.env("GIT_TERMINAL_PROMPT", "0").env("GIT_CONFIG_NOSYSTEM", "1").env("HOME", within);
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").process_group(0);
    command.stderr(Stdio::piped()).kill_on_drop(true);
    output.wait(async {
        let mut child = command.spawn().map_err(|error| {
            let text = "unable to find git: it is needed for this context";
            Error::caused(Kind::Invalid, text, error)
        })?;
        let mut group = Group(child.id());
        let mut said = String::new();
        let ending = async {
            if let Some(stderr) = child.stderr.take() {
                let mut stderr = tokio::io::AsyncReadExt::take(stderr, TOLD);
                drop(tokio::io::AsyncReadExt::read_to_string(&mut stderr, &mut said).await);
            }
            child.wait().await
        };
        let ended = tokio::select! {
            ended = ending => ended,
            error = exceeded(within, limits) => return Err(error),
        };
        let ended = ended.map_err(|error| Error::internal("cannot run git", error))?;
        group.0 = None;
        if ended.success() {
            return Ok(());
        }
        Err(Error::invalid(format!("error fetching: {}", said.trim())))
    })?
}

/// Returns when a limit is exceeded.
async fn exceeded(within: &Path, limits: Limits) -> Error {
    let mut looks = tokio::time::interval(LOOK);
    loop {
        looks.tick().await;
        if tree::size_of(within) > limits.size {
            return Error::invalid(format!("the repository has more than {} bytes", limits.size));
        }
        if Instant::now() >= limits.end {
            return Error::invalid("the repository takes too long to fetch");
        }
    }
}

/// A process with those that it began, which end when this is dropped.
struct Group(Option<u32>);

impl Drop for Group {
    fn drop(&mut self) {
        let leader = self.0.and_then(|leader| i32::try_from(leader).ok());
        if let Some(leader) = leader.and_then(rustix::process::Pid::from_raw) {
            // They may have ended.
            let _ = rustix::process::kill_process_group(leader, rustix::process::Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_and_files_are_told_apart() {
        for repository in ["https://a/b.git", "https://a/b.git#c:d", "git@a:b", "github.com/a/b"] {
            assert!(is_repository(repository), "{repository}");
        }
        for other in ["https://a/b", "https://a/b.git.tar", "b.git", "./git"] {
            assert!(!is_repository(other), "{other}");
        }
    }

    #[test]
    fn a_repository_that_is_too_large_or_too_slow_is_not_fetched_to_its_end() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let (lines, _queue) = tokio::sync::mpsc::channel(1);
        let cancel = tokio_util::sync::CancellationToken::new();
        let output = Output::new(lines, true, &cancel, runtime.handle());
        let directory = std::env::temp_dir().join(format!("rnet-git-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("file"), "12345").unwrap();
        // It says nothing to anybody: whatever git does, it would not end by itself.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("git://{}/x", listener.local_addr().unwrap());
        let fetch = |limits| git(&directory, &["ls-remote", &url], limits, &output);
        let later = Instant::now() + PATIENCE;
        let large = fetch(Limits { end: later, size: 4 });
        let slow = fetch(Limits { end: Instant::now(), size: 5 });
        fs::remove_dir_all(&directory).unwrap();
        assert_eq!(large.unwrap_err().to_string(), "the repository has more than 4 bytes");
        assert_eq!(slow.unwrap_err().to_string(), "the repository takes too long to fetch");
    }

    #[test]
    fn a_file_is_called_by_the_end_of_its_url() {
        assert_eq!(name("https://a/b/c.txt?x=/y#z").unwrap(), "c.txt");
        assert_eq!(name("https://a/").unwrap(), "__unnamed__");
        assert!(name("https://").is_err());
    }
}
