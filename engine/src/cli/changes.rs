//! `diff`, `export`, `commit`: what a container has changed.

use std::io::IsTerminal;
use std::path::Path;

use hyper::body::Incoming;
use hyper::{Method, Response};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWriteExt};

use super::client::{Client, escape};
use super::commands::{CommitArgs, DiffArgs, ExportArgs};
use super::error::CliError;
use super::{Outcome, say};

/// `diff`.
pub(crate) async fn diff(client: &Client, args: DiffArgs) -> Outcome {
    let path = format!("/containers/{}/changes", escape(&args.container));
    for change in client.get(&path).await?.as_array().into_iter().flatten() {
        let letter = match change["Kind"].as_u64() {
            Some(0) => 'C',
            Some(1) => 'A',
            _ => 'D',
        };
        say(&format!("{letter} {}", change["Path"].as_str().unwrap_or_default()));
    }
    Ok(0)
}

/// `export`.
pub(crate) async fn export(client: &Client, args: ExportArgs) -> Outcome {
    if args.output.is_none() && std::io::stdout().is_terminal() {
        return Err(CliError::new(
            "cowardly refusing to save to a terminal. Use the -o flag or redirect",
        ));
    }
    let path = format!("/containers/{}/export", escape(&args.container));
    let response = client.checked(Method::GET, &path, None).await?;
    match &args.output {
        Some(output) => to_file(response, output, "export container").await?,
        None => to_stdout(response).await?,
    }
    Ok(0)
}

/// Writes a file, which has its name only when it is whole.
pub(crate) async fn to_file(
    response: Response<Incoming>,
    path: &Path,
    what: &str,
) -> Result<(), CliError> {
    let failed = |why: &dyn std::fmt::Display| CliError::new(format!("failed to {what}: {why}"));
    let there = std::fs::metadata(path).map(|metadata| metadata.file_type());
    if let Some(is) = there.ok().filter(|is| !is.is_file()) {
        // No file takes its place.
        let kind = if is.is_dir() { "directory" } else { "device, a pipe or a socket" };
        return Err(failed(&format!("cannot write to a {kind}")));
    }
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    let part = Path::new(&name);
    let written = async {
        let mut file = tokio::fs::File::create(part).await?;
        tokio::io::copy(&mut reader(response), &mut file).await?;
        file.sync_all().await?;
        tokio::fs::rename(part, path).await
    };
    let written = written.await;
    if written.is_err() {
        // What counts is why.
        let _ = tokio::fs::remove_file(part).await;
    }
    written.map_err(|error| failed(&error))
}

/// Writes an answer to standard output.
pub(crate) async fn to_stdout(response: Response<Incoming>) -> Result<(), CliError> {
    let mut out = tokio::io::stdout();
    tokio::io::copy(&mut reader(response), &mut out).await?;
    Ok(out.flush().await?)
}

/// The body of an answer as it comes.
pub(crate) fn reader(response: Response<Incoming>) -> impl AsyncRead + Unpin {
    let data = http_body_util::BodyExt::into_data_stream(response.into_body());
    tokio_util::io::StreamReader::new(futures_util::TryStreamExt::map_err(
        data,
        std::io::Error::other,
    ))
}

/// `commit`: prints the id.
pub(crate) async fn commit(client: &Client, args: CommitArgs) -> Outcome {
    let mut query = vec![
        format!("container={}", escape(&args.container)),
        format!("pause={}", u8::from(args.pause && !args.no_pause)),
    ];
    query.extend(args.author.iter().map(|author| format!("author={}", escape(author))));
    query.extend(args.message.iter().map(|message| format!("comment={}", escape(message))));
    query.extend(args.change.iter().map(|change| format!("changes={}", escape(change))));
    if let Some(image) = &args.image {
        let last = image.rfind('/').map_or(0, |at| at + 1);
        match image[last..].split_once(':').filter(|_| !image.contains('@')) {
            Some((name, tag)) => {
                let repository = format!("{}{name}", &image[..last]);
                query.push(format!("repo={}&tag={}", escape(&repository), escape(tag)));
            }
            None => query.push(format!("repo={}", escape(image))),
        }
    }
    let made = client.post(&format!("/commit?{}", query.join("&")), None).await?;
    let id = match &made["Id"] {
        Value::String(id) => id.clone(),
        _ => return Err(CliError::new("the daemon's answer has no id")),
    };
    say(&id);
    Ok(0)
}
