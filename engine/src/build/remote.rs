//! What a build takes from elsewhere: contexts by URL, and what `ADD` fetches.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

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
/// How much of an error's text is told.
const TOLD: u64 = 4096;

/// Whether a word is something to be fetched.
pub(super) fn is_url(word: &str) -> bool {
    word.starts_with("http://") || word.starts_with("https://")
}

/// Whether a word names a repository of git's.
fn is_repository(word: &str) -> bool {
    let place = word.split('#').next().unwrap_or(word);
    let plain = ["git://", "git@", "ssh://", "github.com/"];
    plain.iter().any(|start| place.starts_with(start))
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
        let within = clone(builds, url, into, output)?;
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
fn clone(builds: &Builds, url: &str, into: &Path, output: &Output) -> Result<std::path::PathBuf> {
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
    git(builds, into, &["init", "--quiet"], output)?;
    git(builds, into, &["remote", "add", "origin", &place], output)?;
    let wanted = if reference.is_empty() { "HEAD" } else { reference };
    let fetch = ["fetch", "--quiet", "--depth", "1", "origin", wanted];
    if git(builds, into, &fetch, output).is_ok() {
        git(builds, into, &["checkout", "--quiet", "FETCH_HEAD"], output)?;
    } else {
        // What is no branch and no tag is fetched with all the rest.
        git(builds, into, &["fetch", "--quiet", "origin"], output)?;
        git(builds, into, &["checkout", "--quiet", wanted, "--"], output)?;
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

/// Runs git, without anything of the host's configuration and without asking anybody.
fn git(builds: &Builds, within: &Path, arguments: &[&str], output: &Output) -> Result<()> {
    let cancel = output.cancel().clone();
    builds.tasks.block_on(async move {
        let mut command = tokio::process::Command::new("git");
        command.args(["-c", "protocol.file.allow=never", "-c", "core.hooksPath=/dev/null"]);
        command.args(arguments).current_dir(within).stdin(Stdio::null()).stdout(Stdio::null());
        command.env("GIT_TERMINAL_PROMPT", "0").env("GIT_CONFIG_NOSYSTEM", "1").env("HOME", within);
        command.env("GIT_CONFIG_GLOBAL", "/dev/null");
        let mut child =
            command.stderr(Stdio::piped()).kill_on_drop(true).spawn().map_err(|error| {
                Error::caused(
                    Kind::Invalid,
                    "unable to find git: it is needed for this context",
                    error,
                )
            })?;
        let mut said = String::new();
        let ending = async {
            if let Some(stderr) = child.stderr.take() {
                use tokio::io::AsyncReadExt as _;
                let mut stderr = tokio::io::AsyncReadExt::take(stderr, TOLD);
                drop(stderr.read_to_string(&mut said).await);
            }
            child.wait().await
        };
        let ended = tokio::select! {
            () = cancel.cancelled() => return Err(cancelled()),
            ended = ending => ended,
        };
        let ended = ended.map_err(|error| Error::internal("cannot run git", error))?;
        if ended.success() {
            return Ok(());
        }
        Err(Error::invalid(format!("error fetching: {}", said.trim())))
    })
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
    fn a_file_is_called_by_the_end_of_its_url() {
        assert_eq!(name("https://a/b/c.txt?x=/y#z").unwrap(), "c.txt");
        assert_eq!(name("https://a/").unwrap(), "__unnamed__");
        assert!(name("https://").is_err());
    }
}
