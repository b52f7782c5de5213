//! `POST /build` and its kin: the classic builder.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use futures_util::{StreamExt, stream};
use hyper::StatusCode;
use hyper::upgrade::OnUpgrade;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::DropGuard;

use super::Api;
use super::body::{self, Response};
use super::buildkit::NO_BUILDKIT;
use super::containers::blocking;
use super::hijack;
use super::query::Query;
use super::request::Request;
use super::transfer::pipe;
use super::wire::registry::AuthConfig;
use super::wire::{go, image as wire};
use crate::build::{self, Failure, Handover, Line, Secret, Source};
use crate::container::spec::Resources;
use crate::container::{Attached, NetworkMode};
use engine_error::{Error, Result};
use image::{Platform, Reference, RegistryAuth};

/// The systems that images are made for.
const SYSTEMS: [&str; 6] = ["linux", "windows", "darwin", "freebsd", "netbsd", "openbsd"];
/// What they run on.
const ARCHITECTURES: [&str; 17] = [
    "386", "aarch64", "amd64", "arm", "arm64", "armel", "armhf", "i386", "loong64", "mips64le",
    "ppc64", "ppc64le", "riscv64", "s390x", "wasm", "x86-64", "x86_64",
];

/// `POST /build`.
pub async fn build(api: &Arc<Api>, request: Request) -> Result<Response> {
    if request.query.text("version") == Some("2") {
        return Err(Error::invalid(NO_BUILDKIT));
    }
    let wanted = wanted(&request.query, request.header("x-registry-config"))?;
    let cancel = api.engine.builds.token();
    // Also while it waits for its turn.
    let named = api.engine.builds.named(&wanted.id, &cancel);
    let left = request.left.clone();
    let source = match request.query.text("remote") {
        Some(url) if url != "client-session" => Source::Remote(url.to_owned()),
        _ => {
            // A client that sends no more is not waited for once nobody wants the build.
            let sent = request.stream().take_until(Box::pin(cancel.clone().cancelled_owned()));
            Source::Archive(Box::new(pipe::reader(sent, &api.transfers.builds)))
        }
    };
    let (sender, lines) = mpsc::channel(64);
    // Whoever does not listen has the build cancelled if others need the place.
    let lines = pipe::told(lines, &api.transfers.builds);
    // Dropped with the reply, because the client left or because it is whole.
    let guard = cancel.clone().drop_guard();
    let engine = api.engine.clone();
    let places = api.transfers.builds.clone();
    let building = tokio::spawn(async move {
        let place = places.take(&cancel).await.map_err(|_| build::cancelled())?;
        let build = move || engine.builds.build(wanted, source, sender, &cancel);
        let ended = place.run(build).await;
        drop(named);
        ended
    });
    tokio::select! {
        reply = told(lines, building, guard) => reply,
        // What is told ends with that, and cancels the build.
        () = left.cancelled() => Err(build::cancelled()),
    }
}

/// The reply. Nothing is answered before the first line is there or the work has ended: until then an
/// error is a status, and only later a line.
async fn told(
    mut lines: mpsc::Receiver<Line>,
    building: JoinHandle<Result<(), Failure>>,
    guard: DropGuard,
) -> Result<Response> {
    let fault = |error| Failure::from(Error::internal("the build ended in a fault", error));
    let Some(first) = lines.recv().await else {
        let ended = building.await.map_err(fault).and_then(|ended| ended);
        guard.disarm();
        ended.map_err(|failure| failure.error)?;
        return Ok(body::json_lines(stream::empty()));
    };
    let rest = stream::unfold((lines, guard), |(mut lines, guard)| async move {
        let line = lines.recv().await?;
        Some((line, (lines, guard)))
    });
    let lines = stream::once(async { first }).chain(rest).map(|line| shown(&line));
    let end = stream::once(async move {
        building.await.map_err(fault).and_then(|ended| ended).err().map(|failure| failed(&failure))
    });
    Ok(body::json_lines(lines.chain(end.filter_map(async |end| end)).boxed()))
}

fn shown(line: &Line) -> Value {
    match line {
        Line::Text(text) => json!({"stream": text}),
        Line::Progress(progress) => wire::progress(progress),
        Line::Id(id) => json!({"aux": {"ID": id}}),
    }
}

fn failed(failure: &Failure) -> Value {
    let message = failure.error.chain();
    match failure.code {
        Some(code) => {
            json!({"errorDetail": {"code": code, "message": message}, "error": message})
        }
        None => wire::stream_error(&message),
    }
}

/// `POST /build/cancel`.
pub fn cancel(api: &Api, request: &Request) -> Result<Response> {
    let Some(id) = request.query.text("id") else {
        return Err(Error::invalid("build ID not provided"));
    };
    api.engine.builds.cancel(id);
    Ok(body::empty(StatusCode::OK))
}

/// `POST /rnet/build/session`: what a client hands over for a build of its, which is there as long as the
/// connection is.
pub async fn hand_over(api: &Api, mut request: Request) -> Result<Response> {
    #[derive(Deserialize)]
    struct Wire {
        #[serde(default)]
        secrets: BTreeMap<String, String>,
        #[serde(default)]
        agents: BTreeSet<String>,
    }
    let upgrade = Some(upgrade(&mut request)?);
    let (build, version) = (text(&request, "build"), request.version);
    let bytes = request.bytes(build::LARGEST_OF_ALL * 2).await?;
    // What is wrong with it is not told: it would be told in a log, too.
    let unread = || Error::invalid("what is handed over to the build cannot be read");
    let Wire { secrets, agents } = serde_json::from_slice(&bytes).map_err(|_| unread())?;
    let secret = |(id, text): (String, String)| {
        Ok((id, Secret::new(STANDARD.decode(text).map_err(|_| unread())?)))
    };
    let secrets = secrets.into_iter().map(secret).collect::<Result<_>>()?;
    let session = api.engine.builds.sessions.open(&build, Handover { secrets, agents })?;
    let (mut own, stream) = pair()?;
    tokio::spawn(async move {
        let _ = tokio::io::copy(&mut own, &mut tokio::io::sink()).await;
        drop(session);
    });
    Ok(hijack::respond(Attached { stream, raw: true }, upgrade, version))
}

/// `POST /rnet/build/agent`: a line to an agent of a client.
pub fn lend_agent(api: &Api, mut request: Request) -> Result<Response> {
    let upgrade = Some(upgrade(&mut request)?);
    let (own, stream) = pair()?;
    let sessions = &api.engine.builds.sessions;
    sessions.offer(&text(&request, "build"), &text(&request, "id"), own)?;
    Ok(hijack::respond(Attached { stream, raw: true }, upgrade, request.version))
}

fn text(request: &Request, name: &str) -> String {
    request.query.text(name).unwrap_or_default().to_owned()
}

fn upgrade(request: &mut Request) -> Result<OnUpgrade> {
    let none = || Error::invalid("what is handed over to a build needs a connection of its own");
    request.take_upgrade().ok_or_else(none)
}

fn pair() -> Result<(UnixStream, UnixStream)> {
    UnixStream::pair().map_err(|error| Error::internal("cannot make a pair of sockets", error))
}

/// `POST /build/prune`.
pub async fn prune(api: &Api, request: &Request) -> Result<Response> {
    let all = request.query.flag("all");
    let engine = api.engine.clone();
    let freed = blocking(move || engine.builds.prune(all)).await?;
    let deleted = Some(freed.entries).filter(|entries| !entries.is_empty());
    Ok(body::json(&json!({"CachesDeleted": deleted, "SpaceReclaimed": freed.size})))
}

/// The build that a request asks for by its query and its head `X-Registry-Config`.
pub fn wanted(query: &Query, config: Option<&str>) -> Result<build::Request> {
    let text = |name| query.text(name).unwrap_or_default().to_owned();
    let tag = |text: &String| {
        let reference = Reference::parse(text)?;
        if reference.digest().is_some() {
            return Err(Error::invalid("build tag cannot contain a digest"));
        }
        Ok(reference.or_latest())
    };
    let tags = query.all("t").iter().filter(|tag| !tag.is_empty());
    let force_remove = query.flag("forcerm");
    Ok(build::Request {
        id: text("buildid"),
        dockerfile: text("dockerfile"),
        tags: tags.map(tag).collect::<Result<_>>()?,
        args: document(query.text("buildargs"), "build args")?,
        labels: document(query.text("labels"), "labels")?,
        target: text("target"),
        no_cache: query.flag("nocache"),
        cache_from: document(query.text("cachefrom"), "cache-from")?,
        pull: query.flag("pull"),
        remove: force_remove || query.flag_or("rm", true) || query.text("rm").is_none(),
        force_remove,
        quiet: query.flag("q"),
        squash: query.flag("squash"),
        platform: query.text("platform").map(platform).transpose()?,
        network: NetworkMode::from(text("networkmode")),
        extra_hosts: query.all("extrahosts").to_vec(),
        shm_size: query.number("shmsize")?.filter(|size| *size > 0),
        ulimits: ulimits(query.text("ulimits"))?,
        resources: resources(query)?,
        cgroup_parent: text("cgroupparent"),
        security_options: query.all("securityopt").to_vec(),
        auths: config.map(credentials).unwrap_or_default(),
    })
}

/// A platform that there is.
fn platform(text: &str) -> Result<Platform> {
    let platform: Platform = text.parse()?;
    let known =
        SYSTEMS.contains(&&*platform.os) && ARCHITECTURES.contains(&&*platform.architecture);
    if known {
        return Ok(platform);
    }
    Err(Error::invalid(format!(
        "\"{text}\": unknown operating system or architecture: invalid argument"
    )))
}

/// A parameter that is JSON.
fn document<T: Default + serde::de::DeserializeOwned>(text: Option<&str>, what: &str) -> Result<T> {
    let Some(text) = text else { return Ok(T::default()) };
    let value: Option<T> = serde_json::from_str(text).map_err(|error| {
        Error::caused(engine_error::Kind::Invalid, format!("error reading {what}"), error)
    })?;
    Ok(value.unwrap_or_default())
}

fn ulimits(text: Option<&str>) -> Result<Vec<(String, i64, i64)>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Limit {
        name: String,
        #[serde(default)]
        soft: i64,
        #[serde(default)]
        hard: i64,
    }
    let limits: Vec<Limit> = document(text, "ulimits")?;
    Ok(limits.into_iter().map(|limit| (limit.name, limit.soft, limit.hard)).collect())
}

fn resources(query: &Query) -> Result<Resources> {
    let number = |name| Ok::<i64, Error>(query.number(name)?.unwrap_or_default());
    let text = |name| query.text(name).unwrap_or_default().to_owned();
    Ok(Resources {
        memory: number("memory")?,
        memory_swap: number("memswap")?,
        cpu_shares: number("cpushares")?,
        cpu_period: number("cpuperiod")?,
        cpu_quota: number("cpuquota")?,
        cpuset_cpus: text("cpusetcpus"),
        cpuset_mems: text("cpusetmems"),
        ..Resources::default()
    })
}

/// `X-Registry-Config`: JSON in base64, credentials by registry. What cannot be read is nobody's.
fn credentials(header: &str) -> BTreeMap<String, RegistryAuth> {
    let plain = header.trim_end_matches('=').replace('+', "-").replace('/', "_");
    let Ok(bytes) = URL_SAFE_NO_PAD.decode(plain) else { return BTreeMap::new() };
    let Ok(Value::Object(entries)) = serde_json::from_slice(&bytes) else {
        return BTreeMap::new();
    };
    let read = |(registry, value)| {
        let config: AuthConfig = go::from_value(value).ok()?;
        Some((registry, config.credentials()?))
    };
    entries.into_iter().filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_come_by_registry() {
        let text = r#"{"https://index.docker.io/v1/":{"auth":"bWU6c2VjcmV0"},
            "r:5000":{"username":"you","password":"p"}}"#;
        let auths = credentials(&URL_SAFE_NO_PAD.encode(text));
        assert_eq!(auths["https://index.docker.io/v1/"].password, "secret");
        assert_eq!(auths["r:5000"].username, "you");
        assert!(credentials("%%").is_empty());
    }

    #[test]
    fn parameters_that_are_no_json_are_named() {
        let error = document::<BTreeMap<String, String>>(Some("x"), "labels").unwrap_err();
        assert_eq!(error.to_string(), "error reading labels");
        assert!(document::<Vec<i64>>(Some("null"), "x").unwrap().is_empty());
        assert!(platform("linux/arm/v7").is_ok() && platform("foobar").is_err());
        assert_eq!(ulimits(Some(r#"[{"Name":"a","Soft":1,"Hard":2}]"#)).unwrap()[0].2, 2);
    }
}
