//! `image` and its commands.

use std::collections::HashMap;
use std::io::{IsTerminal, Write};

use hyper::Method;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::client::{Body, Client, documents, escape, filters, full, good, streamed};
use super::commands::{
    HistoryArgs, ImageCommand, ImagePruneArgs, ImagesArgs, ImportArgs, LoadArgs, PullArgs, RmiArgs,
    SaveArgs, TagArgs,
};
use super::error::CliError;
use super::template::{Format, short, size};
use super::{Outcome, build, complain, confirmed, inspect, say, units};

/// `image …`.
pub(crate) async fn command(client: &Client, command: ImageCommand) -> Outcome {
    match command {
        ImageCommand::Build(args) => build::build(client, *args).await,
        ImageCommand::History(args) => history(client, args).await,
        ImageCommand::Import(args) => import(client, args).await,
        ImageCommand::Inspect(args) => inspect::image(client, args).await,
        ImageCommand::Load(args) => load(client, args).await,
        ImageCommand::Ls(args) => list(client, args).await,
        ImageCommand::Prune(args) => prune(client, args).await,
        ImageCommand::Pull(args) => pull(client, args).await,
        ImageCommand::Rm(args) => rm(client, args).await,
        ImageCommand::Save(args) => save(client, args).await,
        ImageCommand::Tag(args) => tag(client, args).await,
    }
}

/// A reference with its tag, `latest` if it has none.
pub(crate) fn with_tag(reference: &str) -> String {
    let last = reference.rsplit('/').next().unwrap_or(reference);
    if last.contains(':') || last.contains('@') {
        reference.to_owned()
    } else {
        format!("{reference}:latest")
    }
}

/// `pull`.
pub(crate) async fn pull(client: &Client, args: PullArgs) -> Outcome {
    if !args.quiet && with_tag(&args.image) != args.image {
        say("Using default tag: latest");
    }
    pull_image(client, &args.image, args.platform.as_deref(), args.quiet, false).await?;
    say(&canonical(&with_tag(&args.image)));
    Ok(0)
}

/// The name with its registry: what `pull` prints last.
fn canonical(reference: &str) -> String {
    let first = reference.split('/').next().unwrap_or_default();
    if !reference.contains('/') {
        format!("docker.io/library/{reference}")
    } else if first.contains(['.', ':']) || first == "localhost" {
        reference.to_owned()
    } else {
        format!("docker.io/{reference}")
    }
}

/// Pulls an image; progress goes to standard error if `aside`, for `run`.
pub(crate) async fn pull_image(
    client: &Client,
    image: &str,
    platform: Option<&str>,
    quiet: bool,
    aside: bool,
) -> Result<(), CliError> {
    let reference = with_tag(image);
    let (name, tag) = match reference.split_once('@') {
        Some((name, digest)) => (name, digest),
        None => reference.rsplit_once(':').unwrap_or((&reference, "latest")),
    };
    let mut path = format!("/images/create?fromImage={}&tag={}", escape(name), escape(tag));
    if let Some(platform) = platform {
        path.push_str("&platform=");
        path.push_str(&escape(platform));
    }
    // The credentials of nobody: base64url of `{}`.
    let headers = [("x-registry-auth", "e30=")];
    let response = good(client.request(Method::POST, &path, full(""), &headers).await?).await?;
    let mut progress = Progress::new(quiet, aside);
    documents(response, |message| progress.show(&message)).await
}

/// Shows the progress of pull, load and build: in place on a terminal, line by line elsewhere.
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
        let status = message["status"].as_str().unwrap_or_default();
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
    let data = http_body_util::BodyExt::into_data_stream(response.into_body());
    let data = futures_util::TryStreamExt::map_err(data, std::io::Error::other);
    let mut reader = tokio_util::io::StreamReader::new(data);
    if let Some(path) = &args.output {
        // A half-written archive must not stand under the name that was asked for.
        let part = path.with_extension("part");
        let mut file = tokio::fs::File::create(&part).await?;
        tokio::io::copy(&mut reader, &mut file).await?;
        file.sync_all().await?;
        tokio::fs::rename(&part, path).await?;
    } else {
        let mut out = tokio::io::stdout();
        tokio::io::copy(&mut reader, &mut out).await?;
        out.flush().await?;
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

/// `tag`.
pub(crate) async fn tag(client: &Client, args: TagArgs) -> Outcome {
    let target = with_tag(&args.target);
    let (name, tag) = target.rsplit_once(':').unwrap_or((&args.target, "latest"));
    let source = escape(&args.source);
    let path = format!("/images/{source}/tag?repo={}&tag={}", escape(name), escape(tag));
    client.post(&path, None).await?;
    Ok(0)
}

/// `rmi`.
pub(crate) async fn rm(client: &Client, args: RmiArgs) -> Outcome {
    let mut code = 0;
    for image in &args.images {
        let query = format!("force={}&noprune={}", u8::from(args.force), u8::from(args.no_prune));
        match client.delete(&format!("/images/{}?{query}", escape(image))).await {
            Ok(removed) => removed.as_array().into_iter().flatten().for_each(|entry| {
                for (key, verb) in [("Untagged", "Untagged"), ("Deleted", "Deleted")] {
                    if let Some(text) = entry[key].as_str() {
                        say(&format!("{verb}: {text}"));
                    }
                }
            }),
            Err(error) if args.force && error.status == Some(404) => complain(&error.message),
            Err(error) => {
                complain(&error.message);
                code = 1;
            }
        }
    }
    Ok(code)
}

/// `images`: a line a name.
pub(crate) async fn list(client: &Client, args: ImagesArgs) -> Outcome {
    let mut flags = args.filter.clone();
    flags.extend(args.repository.as_ref().map(|name| format!("reference={name}")));
    let all = if args.all { "&all=1" } else { "" };
    let answer = client.get(&format!("/images/json?{}{all}", filters(&flags)?)).await?;
    let mut rows = Vec::new();
    for image in answer.as_array().into_iter().flatten() {
        rows.extend(image_rows(image, &args));
    }
    if args.quiet {
        for row in &rows {
            say(row["ID"].as_str().unwrap_or_default());
        }
        return Ok(0);
    }
    let mut columns = vec![("REPOSITORY", "Repository"), ("TAG", "Tag")];
    if args.digests {
        columns.push(("DIGEST", "Digest"));
    }
    columns.extend([("IMAGE ID", "ID"), ("CREATED", "CreatedSince"), ("SIZE", "Size")]);
    let others = [("CREATED AT", "CreatedAt"), ("DIGEST", "Digest")];
    Format::parse(super::preferences::format(args.format.clone(), "imagesFormat").as_deref())
        .print(&columns, &others, &rows)?;
    Ok(0)
}

fn image_rows(image: &Value, args: &ImagesArgs) -> Vec<Value> {
    let strings = |field: &str| -> Vec<String> {
        let list = image[field].as_array().into_iter().flatten();
        list.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let mut names = strings("RepoTags");
    if names.is_empty() {
        names.push("<none>:<none>".to_owned());
    }
    let digests: HashMap<_, _> = strings("RepoDigests")
        .iter()
        .filter_map(|digest| digest.split_once('@'))
        .map(|(name, digest)| (name.to_owned(), digest.to_owned()))
        .collect();
    let created = image["Created"].as_i64().unwrap_or_default();
    let at = chrono::DateTime::from_timestamp(created, 0).unwrap_or_default();
    let row = |name: &String| {
        let (repository, tag) = name.rsplit_once(':').unwrap_or((name, "<none>"));
        json!({
            "Repository": repository, "Tag": tag,
            "Digest": digests.get(repository).map_or("<none>", String::as_str),
            "ID": short(image["Id"].as_str().unwrap_or_default(), args.no_trunc),
            "CreatedSince": units::ago(created), "CreatedAt": at.to_string(),
            "Size": size(&image["Size"]), "Containers": "N/A",
        })
    };
    names.iter().map(row).collect()
}

/// `history`.
pub(crate) async fn history(client: &Client, args: HistoryArgs) -> Outcome {
    let answer = client.get(&format!("/images/{}/history", escape(&args.image))).await?;
    let entries = answer.as_array().cloned().unwrap_or_default();
    let text = |entry: &Value, field: &str| entry[field].as_str().unwrap_or_default().to_owned();
    if args.quiet {
        for entry in &entries {
            say(&short(&text(entry, "Id"), args.no_trunc));
        }
        return Ok(0);
    }
    let row = |entry: &Value| {
        let created = entry["Created"].as_i64().unwrap_or_default();
        let at = chrono::DateTime::from_timestamp(created, 0).unwrap_or_default().to_rfc3339();
        let by = text(entry, "CreatedBy").replace('\t', " ");
        let by = if args.no_trunc || by.chars().count() <= 45 {
            by
        } else {
            by.chars().take(44).chain(['…']).collect()
        };
        let bytes = entry["Size"].as_i64().unwrap_or_default();
        json!({
            "ID": short(&text(entry, "Id"), args.no_trunc),
            "CreatedSince": if args.human { units::ago(created) } else { at.clone() },
            "CreatedAt": at, "CreatedBy": by, "Comment": text(entry, "Comment"),
            "Size": if args.human { units::human_size(bytes) } else { bytes.to_string() },
        })
    };
    let rows: Vec<_> = entries.iter().map(row).collect();
    let columns = [
        ("IMAGE", "ID"),
        ("CREATED", "CreatedSince"),
        ("CREATED BY", "CreatedBy"),
        ("SIZE", "Size"),
        ("COMMENT", "Comment"),
    ];
    Format::parse(args.format.as_deref()).print(&columns, &[("CREATED AT", "CreatedAt")], &rows)?;
    Ok(0)
}

async fn prune(client: &Client, args: ImagePruneArgs) -> Outcome {
    let question = if args.all {
        "WARNING! This will remove all images without at least one container associated to them.\n\
         Are you sure you want to continue?"
    } else {
        "WARNING! This will remove all dangling images.\nAre you sure you want to continue?"
    };
    if !args.prune.force && !confirmed(question) {
        return Ok(0);
    }
    let mut flags = args.prune.filter;
    flags.push(format!("dangling={}", !args.all));
    let answer = client.post(&format!("/images/prune?{}", filters(&flags)?), None).await?;
    let deleted = answer["ImagesDeleted"].as_array().cloned().unwrap_or_default();
    if !deleted.is_empty() {
        say("Deleted Images:");
        for entry in &deleted {
            for (key, verb) in [("Untagged", "untagged"), ("Deleted", "deleted")] {
                if let Some(text) = entry[key].as_str() {
                    say(&format!("{verb}: {text}"));
                }
            }
        }
        say("");
    }
    let space = answer["SpaceReclaimed"].as_i64().unwrap_or_default();
    say(&format!("Total reclaimed space: {}", units::human_size(space)));
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_get_their_tag_and_registry() {
        assert_eq!(with_tag("a"), "a:latest");
        assert_eq!(with_tag("localhost:5000/a"), "localhost:5000/a:latest");
        assert_eq!(with_tag("a:1"), "a:1");
        assert_eq!(canonical("a:1"), "docker.io/library/a:1");
        assert_eq!(canonical("b/a:1"), "docker.io/b/a:1");
        assert_eq!(canonical("localhost:5000/a:1"), "localhost:5000/a:1");
    }
}
