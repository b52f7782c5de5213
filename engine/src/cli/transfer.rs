//! Images on their way: pull, push, load, save, import, and how they show how they go.

use std::collections::HashMap;
use std::io::{IsTerminal, Write};

use hyper::Method;
use image::{Platform, Reference};
use serde_json::{Value, json};

use super::changes::{to_file, to_stdout};
use super::client::{Body, Client, documents, escape, full, good, streamed};
use super::commands::{ImportArgs, LoadArgs, PullArgs, PushArgs, SaveArgs};
use super::error::CliError;
use super::{Outcome, credentials, say};

/// A reference with its tag, `latest` if it has none.
pub(crate) fn with_tag(reference: &str) -> String {
    let last = reference.rsplit('/').next().unwrap_or(reference);
    if last.contains(':') || last.contains('@') {
        reference.to_owned()
    } else {
        format!("{reference}:latest")
    }
}

/// The parsed name of an image.
fn parse(text: &str) -> Result<Reference, CliError> {
    Reference::parse(text).map_err(|error| CliError::new(error.to_string()))
}

/// What `pull` and `push` are to do: one name, with its tag, or all tags of a repository.
fn wanted(image: &str, all_tags: bool, quiet: bool) -> Result<Reference, CliError> {
    let reference = parse(image)?;
    let bare = reference.tag().is_none() && reference.digest().is_none();
    if all_tags && !bare {
        return Err(CliError::new("tag can't be used with --all-tags/-a"));
    }
    if all_tags {
        return Ok(reference);
    }
    if bare && !quiet {
        say("Using default tag: latest");
    }
    Ok(reference.or_latest())
}

/// `pull`.
pub(crate) async fn pull(client: &Client, args: PullArgs) -> Outcome {
    let reference = wanted(&args.image, args.all_tags, args.quiet)?;
    let mut progress = Progress::new(args.quiet, false);
    fetch(client, &reference, args.platform.as_deref(), &mut progress).await?;
    say(&reference.canonical());
    Ok(0)
}

/// Pulls an image; progress goes to standard error if `aside`, for `run`.
pub(crate) async fn pull_image(
    client: &Client,
    image: &str,
    platform: Option<&str>,
    quiet: bool,
    aside: bool,
) -> Result<(), CliError> {
    let reference = parse(image)?.or_latest();
    fetch(client, &reference, platform, &mut Progress::new(quiet, aside)).await
}

async fn fetch(
    client: &Client,
    reference: &Reference,
    platform: Option<&str>,
    progress: &mut Progress,
) -> Result<(), CliError> {
    let mut query = vec![format!("fromImage={}", escape(&reference.familiar_name()))];
    let digest = reference.digest().map(|digest| digest.to_string());
    let tag = digest.as_deref().or(reference.tag());
    query.extend(tag.map(|tag| format!("tag={}", escape(tag))));
    query.extend(platform.map(|platform| format!("platform={}", escape(platform))));
    let path = format!("/images/create?{}", query.join("&"));
    let auth = credentials::header(reference).await?;
    let headers = [("x-registry-auth", auth.as_str())];
    let response = good(client.request(Method::POST, &path, full(""), &headers).await?).await?;
    documents(response, |message| progress.show(&message)).await
}

/// `push`.
pub(crate) async fn push(client: &Client, args: PushArgs) -> Outcome {
    let reference = wanted(&args.image, args.all_tags, args.quiet)?;
    let mut query = Vec::new();
    query.extend(reference.tag().map(|tag| format!("tag={}", escape(tag))));
    if let Some(platform) = &args.platform {
        let wrong =
            |error: engine_error::Error| CliError::new(format!("Invalid platform: {error}"));
        let platform: Platform = platform.parse().map_err(wrong)?;
        let json = json!({"os": platform.os, "architecture": platform.architecture,
            "variant": platform.variant});
        query.push(format!("platform={}", escape(&json.to_string())));
    }
    let path = format!("/images/{}/push?{}", escape(&reference.familiar_name()), query.join("&"));
    let auth = credentials::header(&reference).await?;
    let headers = [("x-registry-auth", auth.as_str())];
    let response = good(client.request(Method::POST, &path, full(""), &headers).await?).await?;
    let mut progress = Progress::new(args.quiet, false);
    documents(response, |message| progress.show(&message)).await?;
    if args.quiet {
        say(&reference.canonical());
    }
    Ok(0)
}

/// Shows the progress of transfers and builds: in place on a terminal, line by line elsewhere.
pub(crate) struct Progress {
    quiet: bool,
    aside: bool,
    terminal: bool,
    lines: HashMap<String, usize>,
    count: usize,
}

impl Progress {
    pub(crate) fn new(quiet: bool, aside: bool) -> Self {
        let terminal =
            if aside { std::io::stderr().is_terminal() } else { std::io::stdout().is_terminal() };
        Self { quiet, aside, terminal, lines: HashMap::new(), count: 0 }
    }

    pub(crate) fn show(&mut self, message: &Value) -> Result<(), CliError> {
        if let Some(error) =
            message["errorDetail"]["message"].as_str().or(message["error"].as_str())
        {
            return Err(CliError::new(error));
        }
        if self.quiet {
            return Ok(());
        }
        if let Some(text) = message["stream"].as_str() {
            self.write(text);
            return Ok(());
        }
        // What is for programs has no status.
        let Some(status) = message["status"].as_str() else { return Ok(()) };
        let id = message["id"].as_str().unwrap_or_default();
        let bar = message["progress"].as_str().unwrap_or_default();
        if id.is_empty() {
            self.count += usize::from(self.terminal);
            self.write(&format!("{status}\n"));
        } else if self.terminal {
            self.in_place(id, &format!("{id}: {status} {bar}"));
        } else if bar.is_empty() && message["progressDetail"]["current"].is_null() {
            self.write(&format!("{id}: {status}\n"));
        }
        Ok(())
    }

    /// Writes the line of one layer where it stands.
    fn in_place(&mut self, id: &str, line: &str) {
        let (at, fresh) = match self.lines.get(id) {
            Some(at) => (*at, false),
            None => (self.count, true),
        };
        if fresh {
            self.lines.insert(id.to_owned(), at);
            self.count += 1;
            self.write("\n");
        }
        let up = self.count - at;
        self.write(&format!("\x1b[{up}A\r\x1b[2K{line}\x1b[{up}B\r"));
    }

    fn write(&self, text: &str) {
        if self.aside {
            let _ = write!(std::io::stderr(), "{text}");
        } else {
            let mut out = std::io::stdout();
            let _ = write!(out, "{text}").and_then(|()| out.flush());
        }
    }
}

/// `load`.
pub(crate) async fn load(client: &Client, args: LoadArgs) -> Outcome {
    let body: Body = match &args.input {
        Some(path) => {
            let file = tokio::fs::File::open(path).await;
            let file = file.map_err(|e| CliError::new(format!("open {}: {e}", path.display())))?;
            streamed(file)
        }
        None if std::io::stdin().is_terminal() => {
            return Err(CliError::new("requested load from stdin, but stdin is empty"));
        }
        None => streamed(tokio::io::stdin()),
    };
    let path = format!("/images/load?quiet={}", u8::from(args.quiet));
    let headers = [("content-type", "application/x-tar")];
    let response = client.request(Method::POST, &path, body, &headers).await?;
    let loaded = async {
        let mut progress = Progress::new(false, false);
        documents(good(response).await?, |message| progress.show(&message)).await
    };
    loaded.await.map_err(|mut error| {
        if let Some(path) = &args.input {
            error.message = format!("cannot load {}: {}", path.display(), error.message);
        }
        error
    })?;
    Ok(0)
}

/// `save`.
pub(crate) async fn save(client: &Client, args: SaveArgs) -> Outcome {
    if args.output.is_none() && std::io::stdout().is_terminal() {
        return Err(CliError::new(
            "cowardly refusing to save to a terminal. Use the -o flag or redirect",
        ));
    }
    let names: Vec<_> = args.images.iter().map(|name| format!("names={}", escape(name))).collect();
    let path = format!("/images/get?{}", names.join("&"));
    let response = client.checked(Method::GET, &path, None).await?;
    match &args.output {
        Some(output) => to_file(response, output, "save image").await?,
        None => to_stdout(response).await?,
    }
    Ok(0)
}

/// `import`: prints the id.
pub(crate) async fn import(client: &Client, args: ImportArgs) -> Outcome {
    let body: Body = if args.source == "-" {
        streamed(tokio::io::stdin())
    } else {
        let file = tokio::fs::File::open(&args.source).await;
        streamed(file.map_err(|error| CliError::new(format!("open {}: {error}", args.source)))?)
    };
    let mut query = vec!["fromSrc=-".to_owned()];
    if let Some(image) = &args.image {
        let with_tag = with_tag(image);
        let (name, tag) = with_tag.rsplit_once(':').unwrap_or((image, "latest"));
        query.push(format!("repo={}&tag={}", escape(name), escape(tag)));
    }
    query.extend(args.change.iter().map(|change| format!("changes={}", escape(change))));
    query.extend(args.message.iter().map(|message| format!("message={}", escape(message))));
    query.extend(args.platform.iter().map(|platform| format!("platform={}", escape(platform))));
    let path = format!("/images/create?{}", query.join("&"));
    let headers = [("content-type", "application/x-tar")];
    let response = good(client.request(Method::POST, &path, body, &headers).await?).await?;
    let mut progress = Progress::new(false, false);
    documents(response, |message| progress.show(&message)).await?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_get_their_tag() {
        assert_eq!(with_tag("a"), "a:latest");
        assert_eq!(with_tag("localhost:5000/a"), "localhost:5000/a:latest");
        assert_eq!(with_tag("a:1"), "a:1");
    }
}
