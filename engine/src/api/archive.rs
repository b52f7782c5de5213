//! What is in containers, out of it and into it: `/archive`, `/changes`, `/export`, `/commit`.
//!
//! Files of containers may be on file systems that never answer: each copy has one of their
//! [places](super::transfer::places).

use std::io::BufWriter;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::{StreamExt, stream};
use hyper::StatusCode;
use hyper::header::HeaderValue;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::Api;
use super::body::{self, Response};
use super::containers::walking;
use super::request::Request;
use super::transfer::{pipe, received};
use super::wire::container_inspect;
use super::wire::time::rfc3339;
use crate::container::{Commit, PathStat, Status, Unpacking};
use engine_error::{Error, Result};
use image::Reference;
use image::rootfs::ChangeKind;

/// Pieces of an archive on their way to the client.
const PIECE: usize = 64 << 10;

/// Runs a copy on a thread of its own, once there is a place for it.
async fn apart<T: Send + 'static>(
    api: &Arc<Api>,
    left: &CancellationToken,
    copy: impl FnOnce(&Api) -> Result<T> + Send + 'static,
) -> Result<T> {
    let its = api.clone();
    api.transfers.copies.run(left, move || copy(&its)).await
}

/// `HEAD /containers/{id}/archive`.
pub async fn stat(api: &Arc<Api>, key: &str, request: &Request) -> Result<Response> {
    let (key, path) = (key.to_owned(), path(request));
    let stat = move |api: &Api| api.engine.containers.path_stat(&key, &path);
    let stat = apart(api, &request.left, stat).await?;
    Ok(told(body::empty(StatusCode::OK), &stat))
}

/// `GET /containers/{id}/archive`. The head tells what is there, so it waits until that is known.
pub async fn read(api: &Arc<Api>, key: &str, request: &Request) -> Result<Response> {
    let (key, path) = (key.to_owned(), path(request));
    let (known, stat) = oneshot::channel();
    let (writer, pieces) = pipe::writer(&api.transfers.copies);
    let (api, left) = (api.clone(), request.left.clone());
    let reading = tokio::spawn(async move {
        let copy = move |api: &Api| {
            let begin = |stat| {
                let _ = known.send(stat);
                BufWriter::with_capacity(PIECE, &writer)
            };
            let read = api.engine.containers.read_path(&key, &path, begin);
            read.inspect_err(|error| writer.fail(error))
        };
        apart(&api, &left, copy).await
    });
    if let Ok(stat) = stat.await {
        return Ok(told(body::stream("application/x-tar", received(pieces)), &stat));
    }
    reading.await.map_err(|error| Error::internal("the copy ended in a fault", error))??;
    Err(Error::not_found("there is nothing to copy"))
}

/// `PUT /containers/{id}/archive`.
pub async fn write(api: &Arc<Api>, key: &str, request: Request) -> Result<Response> {
    let (key, path) = (key.to_owned(), path(&request));
    let how = Unpacking {
        keep_kinds: request.query.flag("noOverwriteDirNonDir"),
        to_user: request.query.flag("copyUIDGID"),
    };
    let left = request.left.clone();
    let archive = pipe::reader(request.stream(), &api.transfers.copies);
    let write = move |api: &Api| api.engine.containers.write_path(&key, &path, how, archive);
    apart(api, &left, write).await?;
    Ok(body::empty(StatusCode::OK))
}

fn path(request: &Request) -> String {
    request.query.text("path").unwrap_or_default().to_owned()
}

/// A reply with the header that tells what is at a path.
fn told(mut response: Response, stat: &PathStat) -> Response {
    let text = json!({
        "name": stat.name,
        "size": stat.size,
        "mode": file_mode(stat.mode),
        "mtime": rfc3339(Some(stat.modified)),
        "linkTarget": stat.link_target,
    });
    if let Ok(value) = HeaderValue::from_str(&STANDARD.encode(text.to_string())) {
        response.headers_mut().insert("X-Docker-Container-Path-Stat", value);
    }
    response
}

/// A mode as Go has it.
fn file_mode(mode: u32) -> u32 {
    let kind = match mode & 0o17_0000 {
        0o04_0000 => 1 << 31,
        0o12_0000 => 1 << 27,
        0o06_0000 => 1 << 26,
        0o01_0000 => 1 << 25,
        0o14_0000 => 1 << 24,
        0o02_0000 => 1 << 26 | 1 << 21,
        _ => 0,
    };
    let special = [(0o4000, 1 << 23), (0o2000, 1 << 22), (0o1000, 1 << 20)];
    let bits = special.iter().filter(|(bit, _)| mode & bit != 0).map(|(_, bit)| bit);
    kind | bits.sum::<u32>() | mode & 0o777
}

/// `GET /containers/{id}/changes`.
pub async fn changes(api: &Arc<Api>, key: &str, request: &Request) -> Result<Response> {
    let key = key.to_owned();
    let changes = move |api: &Api| api.engine.containers.changes(&key);
    let changes = walking(api, &request.left, changes).await?;
    let kind = |kind| match kind {
        ChangeKind::Modified => 0,
        ChangeKind::Added => 1,
        ChangeKind::Deleted => 2,
    };
    let changes =
        changes.iter().map(|change| json!({"Path": change.path, "Kind": kind(change.kind)}));
    let changes: Vec<Value> = changes.collect();
    Ok(body::json(&if changes.is_empty() { Value::Null } else { Value::Array(changes) }))
}

/// `GET /containers/{id}/export`.
pub async fn export(api: &Arc<Api>, key: &str, request: &Request) -> Result<Response> {
    let key = key.to_owned();
    let (writer, mut pieces) = pipe::writer(&api.transfers.copies);
    let (api, left) = (api.clone(), request.left.clone());
    let exporting = tokio::spawn(async move {
        let export = move |api: &Api| {
            let to = BufWriter::with_capacity(PIECE, &writer);
            let exported = api.engine.containers.export(&key, to);
            exported.inspect_err(|error| writer.fail(error))
        };
        apart(&api, &left, export).await
    });
    // An error before the first piece is a status; later the transfer breaks off.
    if let Some(Ok(first)) = pieces.recv().await {
        let pieces = stream::once(async { Ok(first) }).chain(received(pieces));
        return Ok(body::stream("application/octet-stream", pieces));
    }
    exporting.await.map_err(|error| Error::internal("the export ended in a fault", error))??;
    Ok(body::stream("application/octet-stream", received(pieces)))
}

/// `POST /commit`.
pub async fn commit(api: &Arc<Api>, request: Request) -> Result<Response> {
    let (query, left) = (request.query.clone(), request.left.clone());
    let given = request.value().await?;
    let text = |name: &str| query.text(name).unwrap_or_default().to_owned();
    let key = text("container");
    let container = match key.as_str() {
        "" => return Err(Error::invalid("invalid name or ID supplied: \"\"")),
        key => api.engine.containers.find(key)?,
    };
    let commit = Commit {
        own: container_inspect::config(&container),
        given: Some(given).filter(Value::is_object),
        changes: query.all("changes").to_vec(),
        author: text("author"),
        comment: text("comment"),
        name: name(&text("repo"), &text("tag"))?,
    };
    let containers = api.engine.containers.clone();
    // Before it is paused: nothing stands still because others copy.
    let place = api.transfers.copies.take(&left).await?;
    let pause = query.flag_or("pause", true) && container.state.status == Status::Running;
    // It may have ended meanwhile; then there is nothing to pause.
    let paused = pause && containers.pause(&container.id).await.is_ok();
    let (its, id) = (containers.clone(), container.id.to_string());
    let committed = place.run(move || its.commit(&id, &commit)).await;
    if paused && let Err(error) = containers.unpause(&container.id).await {
        tracing::warn!(container = %container.id, error = error.chain(), "it stays paused");
    }
    Ok(body::json_with(StatusCode::CREATED, &json!({"Id": committed?.to_string()})))
}

/// What the image is to be called.
fn name(repository: &str, tag: &str) -> Result<Option<Reference>> {
    if repository.is_empty() {
        return Ok(None);
    }
    let parsed = Reference::parse(repository)?;
    if parsed.digest().is_some() {
        return Err(Error::invalid("cannot import digest reference"));
    }
    if tag.is_empty() {
        return Ok(Some(parsed.or_latest()));
    }
    let tagged = Reference::parse(&format!("{}:{tag}", parsed.canonical_name()));
    tagged.map(Some).map_err(|_| Error::invalid("invalid tag format"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_go_s() {
        let modes = [
            (0o04_0755, 2_147_484_141),
            (0o12_0777, 134_218_239),
            (0o01_0644, 33_554_852),
            (0o10_0644, 420),
            (0o02_0666, 69_206_454),
            (0o10_4755, 8_389_101),
            (0o04_1777, 2_148_532_735),
        ];
        for (mode, wanted) in modes {
            assert_eq!(file_mode(mode), wanted, "{mode:o}");
        }
    }

    #[test]
    fn an_image_is_named_by_repository_and_tag() {
        let text = |repository, tag| name(repository, tag).map(|name| name.map(|n| n.to_string()));
        assert_eq!(text("", "x").unwrap(), None);
        assert_eq!(text("a/b", "").unwrap().as_deref(), Some("a/b:latest"));
        assert_eq!(text("docker.io/library/cm", "1").unwrap().as_deref(), Some("cm:1"));
        assert_eq!(text("a", "b:c").unwrap_err().to_string(), "invalid tag format");
    }
}
