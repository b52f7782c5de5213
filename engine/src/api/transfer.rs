//! Images on their way in and out: pull, import, load, save.
//!
//! All of them stream. A failure before the first line is a status; after it, a line. Archives come and
//! go as fast as their clients like: each has one of the [places].

use std::sync::Arc;

use futures_util::{Stream, StreamExt, stream};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::body::{self, Response};
use super::request::Request;
use super::route::unsupported;
use super::waiting::wanted;
use super::wire::{image as wire, registry};
use super::{Api, images};
use crate::container::change_config;
use engine_error::{Error, Result};
use image::{Loaded, Platform, Progress, PullRequest, Reference};

pub(super) mod pipe;
pub mod places;

/// `POST /images/create`: a pull, or with `fromSrc` an import.
pub async fn create(api: &Arc<Api>, request: Request) -> Result<Response> {
    match request.query.text("fromImage") {
        Some(image) => {
            let image = image.to_owned();
            pull(api, &image, &request).await
        }
        None if request.query.text("fromSrc").is_some() => import(api, request).await,
        None => Err(Error::invalid("the parameter fromImage or fromSrc is required")),
    }
}

// === pull ===

async fn pull(api: &Arc<Api>, image: &str, request: &Request) -> Result<Response> {
    let wrong_tag = |tag: &str| {
        !tag.contains(':')
            && Reference::parse(image).is_ok_and(|reference| reference.with_tag(tag).is_err())
    };
    if request.query.text("tag").is_some_and(wrong_tag) {
        return Err(Error::invalid("invalid tag format"));
    }
    let reference = match request.query.text("tag") {
        Some(digest) if digest.contains(':') => format!("{image}@{digest}"),
        Some(tag) => format!("{image}:{tag}"),
        None => image.to_owned(),
    };
    let parsed = Reference::parse(&reference)?;
    let wanted = PullRequest {
        reference: reference.clone(),
        platform: request.query.text("platform").map(platform).transpose()?,
        auth: registry::auth(request),
        all_tags: parsed.tag().is_none() && parsed.digest().is_none(),
    };
    let (sender, lines) = mpsc::channel(64);
    let engine = api.engine.clone();
    let pulling = async move { engine.images.pull(wanted, sender).await };
    // Dropping the handle, because the client left, ends the transfer.
    let pulling = AbortOnDropHandle::new(tokio::spawn(pulling));
    let api = api.clone();
    let end = async move {
        let fault = |error| Error::internal("the pull ended in a fault", error);
        pulling.await.map_err(fault)??;
        publish_pull(&api, &parsed);
        Ok(())
    };
    streamed(lines, |line: Progress| wire::progress(&line), end, &request.left).await
}

/// The reply of work that tells how it goes. Nothing is answered before the first line is there or
/// the work has ended: until then an error is a status, and only later a line. With a client that has
/// `left` before, `end` is dropped.
pub async fn streamed<T: Send + 'static>(
    mut lines: mpsc::Receiver<T>,
    wire: impl Fn(T) -> Value + Send + 'static,
    end: impl Future<Output = Result<()>> + Send + 'static,
    left: &CancellationToken,
) -> Result<Response> {
    let Some(first) = wanted(left, lines.recv()).await? else {
        end.await?;
        return Ok(body::json_lines(stream::empty()));
    };
    Ok(stream_of(stream::once(async { first }).chain(received(lines)), wire, end))
}

/// Lines, and after them the error of what they are of.
fn stream_of<T: Send + 'static>(
    lines: impl Stream<Item = T> + Send + 'static,
    wire: impl Fn(T) -> Value + Send + 'static,
    end: impl Future<Output = Result<()>> + Send + 'static,
) -> Response {
    let end =
        stream::once(end).filter_map(async |ended| Some(wire::stream_error(&ended.err()?.chain())));
    body::json_lines(lines.map(wire).chain(end).boxed())
}

/// What a received line is followed by, until the sender is gone.
pub(super) fn received<T: Send + 'static>(
    receiver: mpsc::Receiver<T>,
) -> impl Stream<Item = T> + Send {
    stream::unfold(receiver, |mut receiver| async move {
        let item = receiver.recv().await?;
        Some((item, receiver))
    })
}

fn publish_pull(api: &Api, reference: &Reference) {
    let familiar = reference.familiar_name();
    let name = match (reference.tag(), reference.digest()) {
        (_, Some(digest)) => format!("{familiar}@{digest}"),
        (Some(tag), None) => format!("{familiar}:{tag}"),
        (None, None) => familiar.clone(),
    };
    images::publish(api, "pull", &name, &familiar);
}

/// `os/architecture[/variant]` of what may leave out some of it.
pub(super) fn platform_in_full(text: &str) -> Result<String> {
    let Platform { os, architecture, variant } = platform(text)?;
    let variant = if variant.is_empty() { variant } else { format!("/{variant}") };
    Ok(format!("{os}/{architecture}{variant}"))
}

/// `os[/architecture[/variant]]`.
fn platform(text: &str) -> Result<Platform> {
    const SYSTEMS: [&str; 6] = ["linux", "windows", "darwin", "freebsd", "netbsd", "openbsd"];
    const ARCHITECTURES: [&str; 20] = [
        "386", "amd64", "arm", "arm64", "armbe", "loong64", "mips", "mips64", "mips64le", "mipsle",
        "ppc64", "ppc64le", "riscv", "riscv64", "s390", "s390x", "sparc64", "wasm", "x86_64",
        "aarch64",
    ];
    let invalid = |what: String| Error::invalid(format!("{what}: invalid argument"));
    let parts: Vec<&str> = text.split('/').collect();
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    let wrong = |part: &&&str| part.is_empty() || !part.bytes().all(plain);
    if let Some(part) = parts.iter().find(wrong) {
        return Err(invalid(format!(
            "{part:?} is an invalid component of {text:?}: platform specifier component must match \
             \"^[A-Za-z0-9_.-]+$\""
        )));
    }
    let part = |at: usize| parts.get(at).copied().unwrap_or_default().to_owned();
    let (os, architecture) = match parts.as_slice() {
        [os] if SYSTEMS.contains(os) => {
            ((*os).to_owned(), oci_spec::image::Arch::default().to_string())
        }
        [architecture] if ARCHITECTURES.contains(architecture) => {
            ("linux".to_owned(), (*architecture).to_owned())
        }
        [_] => return Err(invalid(format!("{text:?}: unknown operating system or architecture"))),
        [_, _] | [_, _, _] => (part(0), part(1)),
        _ => return Err(invalid(format!("{text:?}: cannot parse platform specifier"))),
    };
    let architecture = match architecture.as_str() {
        "x86_64" => "amd64".to_owned(),
        "aarch64" => "arm64".to_owned(),
        _ => architecture,
    };
    Ok(Platform { os, architecture, variant: part(2) })
}

// === import ===

async fn import(api: &Arc<Api>, request: Request) -> Result<Response> {
    let query = &request.query;
    if query.text("fromSrc") != Some("-") {
        return Err(unsupported(
            "importing from a URL is not supported: fetch it and send it with fromSrc=-",
        ));
    }
    let reference = query.text("repo").map(|repository| match query.text("tag") {
        Some(tag) => format!("{repository}:{tag}"),
        None => repository.to_owned(),
    });
    let mut config = json!({});
    change_config(&mut config, query.all("changes"))?;
    let message = query.text("message").unwrap_or_default().to_owned();
    let (engine, name) = (api.engine.clone(), reference.clone());
    let places = &api.transfers.imports;
    let left = request.left.clone();
    let archive = pipe::reader(request.stream(), places);
    let import = move || engine.images.import(archive, name.as_deref(), &config, &message);
    let id = places.run(&left, import).await?;
    images::publish(api, "import", &id.to_string(), &id.to_string());
    Ok(body::json_lines(stream::iter([json!({"status": id.to_string()})])))
}

// === load and save ===

/// `POST /images/load`.
pub fn load(api: &Arc<Api>, request: Request) -> Response {
    let quiet = request.query.flag("quiet");
    let (places, left) = (api.transfers.loads.clone(), request.left.clone());
    let archive = pipe::reader(request.stream(), &places);
    let (sender, lines) = mpsc::channel(64);
    let lines = pipe::told(lines, &places);
    let api = api.clone();
    let load = move || {
        let mut tell = |progress: Progress| {
            if !quiet {
                // A client that left gets no progress; what it sent is loaded nevertheless.
                let _ = sender.blocking_send(wire::progress(&progress));
            }
        };
        for loaded in api.engine.images.load(archive, &mut tell)? {
            let _ = sender.blocking_send(loaded_line(&api, &loaded));
        }
        Ok(())
    };
    // Once it has begun it goes on when the client leaves.
    let loading = tokio::spawn(async move { places.run(&left, load).await });
    let fault = |error| Error::internal("the transfer ended in a fault", error);
    // Even what is no archive is told of in the stream, as with Docker.
    stream_of(received(lines), |line| line, async move { loading.await.map_err(fault)? })
}

fn loaded_line(api: &Api, loaded: &Loaded) -> Value {
    let (text, id) = match loaded {
        Loaded::Name(name, id) => (format!("Loaded image: {name}\n"), id.to_string()),
        Loaded::Id(id) => (format!("Loaded image ID: {id}\n"), id.to_string()),
    };
    images::publish(api, "load", &id, &id);
    json!({"stream": text})
}

/// `GET /images/get` and `GET /images/{name}/get`.
pub async fn save(api: &Arc<Api>, names: Vec<String>, request: &Request) -> Result<Response> {
    if names.is_empty() {
        return Err(Error::invalid("no image named: the parameter names is required"));
    }
    let (places, left) = (api.transfers.saves.clone(), request.left.clone());
    let (mut writer, mut pieces) = pipe::writer(&places);
    let api = api.clone();
    let save = move || {
        let images = &api.engine.images;
        let saved = names.iter().map(|name| match images.find(name) {
            // Docker says it with the name as it was given.
            Err(error) if error.kind() == cnm::Kind::NotFound => {
                Err(Error::not_found(format!("No such image: {name}")))
            }
            found => Ok(found?.id.to_string()),
        });
        let saved: Vec<String> = saved.collect::<Result<_>>()?;
        images.save(&names, &mut writer).inspect_err(|error| writer.fail(error))?;
        for id in saved {
            images::publish(&api, "save", &id, &id);
        }
        Ok::<(), Error>(())
    };
    let saving = tokio::spawn(async move { places.run(&left, save).await });
    let fault = |error| Error::internal("the transfer ended in a fault", error);
    // An error before the first piece is a status; later the transfer breaks off, which is all that
    // can be told after the head.
    if let Some(Ok(first)) = pieces.recv().await {
        let pieces = stream::once(async { Ok(first) }).chain(received(pieces));
        return Ok(body::stream("application/x-tar", pieces));
    }
    saving.await.map_err(fault)??;
    Ok(body::stream("application/x-tar", received(pieces)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_have_up_to_three_parts() {
        let show =
            |text| platform(text).map(|p| format!("{}|{}|{}", p.os, p.architecture, p.variant));
        assert_eq!(show("linux/arm/v7").unwrap(), "linux|arm|v7");
        assert_eq!(show("linux/amd64").unwrap(), "linux|amd64|");
        assert_eq!(show("arm64").unwrap(), "linux|arm64|");
        for (text, said) in [
            ("a/b/c/d", r#""a/b/c/d": cannot parse platform specifier: invalid argument"#),
            ("x", r#""x": unknown operating system or architecture: invalid argument"#),
            (
                "linux//v7",
                r#""" is an invalid component of "linux//v7": platform specifier component must match "^[A-Za-z0-9_.-]+$": invalid argument"#,
            ),
        ] {
            assert_eq!(show(text).unwrap_err().to_string(), said);
        }
        assert_eq!(platform_in_full("aarch64").unwrap(), "linux/arm64");
        assert_eq!(platform_in_full("linux/arm/v7").unwrap(), "linux/arm/v7");
    }
}
