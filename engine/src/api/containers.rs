//! `/containers`.

use std::sync::Arc;

use chrono::Utc;
use futures_util::StreamExt;
use hyper::StatusCode;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::body::{self, Response};
use super::request::Request;
use super::version::Version;
use super::waiting::turn;
use super::wire::container_create::{self, Defaults};
use super::wire::container_inspect::{self, Beside};
use super::wire::container_list::{self, Called};
use super::wire::container_update;
use super::wire::image as image_wire;
use super::{Api, hijack};
use crate::container::{Attach, Container, Remove, WaitCondition};
use engine_error::{Error, Result};
use runtime::spec::{masked_paths, readonly_paths};

mod select;

use select::Selection;

/// Runs what blocks on a thread that may be blocked.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let fault = |error| Error::internal("the operation ended in a fault", error);
    tokio::task::spawn_blocking(work).await.map_err(fault)?
}

/// The same for what walks through directories: a few at a time, however many ask, so that threads
/// are left for everything else.
pub async fn walking<T: Send + 'static>(
    api: &Arc<Api>,
    left: &CancellationToken,
    work: impl FnOnce(&Api) -> Result<T> + Send + 'static,
) -> Result<T> {
    let permit = turn(&api.walks, left).await?;
    let api = api.clone();
    blocking(move || {
        let _permit = permit;
        work(&api)
    })
    .await
}

/// `GET /containers/json`.
pub async fn list(api: &Arc<Api>, request: &Request) -> Result<Response> {
    let (query, size) = (request.query.clone(), request.query.flag("size"));
    let version = request.version;
    let entries = move |api: &Api| {
        let selection = Selection::of(&query, api)?;
        let now = Utc::now();
        let entries = selection.apply(api.engine.containers.list()).into_iter().map(|container| {
            let sizes = size.then(|| api.engine.sizes_of(&container));
            let names = api.engine.containers.names_of(&container);
            let called = Called { names: &names, image: &image_name(api, &container) };
            let mut entry = container_list::entry(&container, &called, sizes, now);
            container_list::for_version(&mut entry, version);
            entry
        });
        Ok(entries.collect::<Vec<_>>())
    };
    let entries = if size {
        walking(api, &request.left, entries).await?
    } else {
        let api = api.clone();
        blocking(move || entries(&api)).await?
    };
    Ok(body::json(&entries))
}

/// What the container's image is called now: its id, once the name means another image.
fn image_name(api: &Api, container: &Container) -> String {
    match api.engine.images.find(&container.spec.image) {
        Ok(image) if image.id.to_string() == container.image => container.spec.image.clone(),
        _ => container.image.clone(),
    }
}

/// `POST /containers/create`.
pub async fn create(api: &Arc<Api>, request: Request) -> Result<Response> {
    let name = request.query.text("name").map(str::to_owned);
    let platform = request.query.text("platform").filter(|text| !text.is_empty());
    let platform = platform.map(super::transfer::platform_in_full).transpose()?;
    let version = request.version;
    let body = request.present().await?;
    let old = container_create::of_version(&body, version)?;
    let spec = container_create::spec(body, &defaults(api, version))?;
    let engine = api.engine.clone();
    let created =
        blocking(move || engine.containers.create(name.as_deref(), spec, platform.as_deref()))
            .await?;
    let warnings: Vec<String> = created.warnings.into_iter().chain(old).collect();
    let reply = json!({"Id": created.id, "Warnings": warnings});
    Ok(body::json_with(StatusCode::CREATED, &reply))
}

/// What the daemon's configuration says where a request is silent. Clients of old versions rely on
/// what was the default then.
fn defaults(api: &Api, version: Version) -> Defaults {
    let config = api.config();
    let shared = version < Version(40) && config.ipc_mode == "private";
    Defaults {
        network_mode: api.engine.settings.default_network().to_owned(),
        shm_size: config.shm_size,
        ipc_mode: if shared { "shareable".to_owned() } else { config.ipc_mode.clone() },
        cgroupns_mode: super::system::cgroupns_mode(&config),
        runtime: api.engine.settings.runtimes.now().default.clone(),
        log_driver: config.log_driver.clone(),
        log_options: config.log_options.clone(),
        masked_paths: masked_paths(&api.engine.host),
        readonly_paths: readonly_paths(),
        may_ignore_oom: super::system::cgroup_version() == "1",
    }
}

/// `GET /containers/{id}/json`.
pub async fn inspect(api: &Arc<Api>, key: &str, request: &Request) -> Result<Response> {
    let container = api.engine.containers.find(key)?;
    let sizes = if request.query.flag("size") {
        let container = container.clone();
        let sizes = move |api: &Api| Ok(api.engine.sizes_of(&container));
        Some(walking(api, &request.left, sizes).await?)
    } else {
        None
    };
    let containers = &api.engine.containers;
    let (execs, links) = (containers.execs_of(&container.id), containers.links_shown(&container));
    let mut told = container_inspect::inspect(&container, &Beside { execs, sizes, links });
    told["AppArmorProfile"] = containers.apparmor_of(&container).into();
    if request.version < Version(45) {
        container_inspect::name_by_aliases(&container, &mut told);
    }
    Ok(body::json(&told))
}

/// `GET /containers/{id}/top`.
pub async fn top(api: &Api, key: &str, request: &Request) -> Result<Response> {
    let (engine, key) = (api.engine.clone(), key.to_owned());
    let options = request.query.text("ps_args").unwrap_or_default().to_owned();
    engine.containers.settle(&key).await?;
    let processes = blocking(move || engine.containers.top(&key, &options)).await?;
    Ok(body::json(&json!({"Titles": processes.titles, "Processes": processes.processes})))
}

/// `POST /containers/{id}/start`.
pub async fn start(api: &Api, key: &str, request: Request) -> Result<Response> {
    const LONGEST: usize = 7;
    if !request.is_empty() && request.bytes(64 << 10).await?.len() > LONGEST {
        return Err(Error::invalid(
            "starting container with non-empty request body was deprecated \
             since API v1.22 and removed in v1.24",
        ));
    }
    api.engine.containers.start(key).await?;
    Ok(body::no_content())
}

/// `POST /containers/{id}/stop`.
pub async fn stop(api: &Api, key: &str, request: &Request) -> Result<Response> {
    let timeout = request.query.number("t")?;
    api.engine.containers.stop(key, timeout, signal(request)?).await?;
    Ok(body::no_content())
}

/// `POST /containers/{id}/restart`.
pub async fn restart(api: &Api, key: &str, request: &Request) -> Result<Response> {
    let timeout = request.query.number("t")?;
    api.engine.containers.restart(key, timeout, signal(request)?).await?;
    Ok(body::no_content())
}

/// `POST /containers/{id}/kill`.
pub async fn kill(api: &Api, key: &str, request: &Request) -> Result<Response> {
    let killed = match signal(request) {
        Ok(signal) => api.engine.containers.kill(key, signal.unwrap_or("SIGKILL")).await,
        Err(error) => Err(error),
    };
    let prefix = "cannot kill container: ";
    killed.map_err(|error| match error.to_string() {
        told if told.starts_with(prefix) => error,
        told => Error::new(error.kind(), format!("{prefix}{key}: {told}")),
    })?;
    Ok(body::no_content())
}

fn signal(request: &Request) -> Result<Option<&str>> {
    match request.query.text("signal") {
        Some(signal) if super::wire::container_validate::is_signal(signal) => Ok(Some(signal)),
        Some(signal) if signal.parse::<i32>().is_ok_and(|number| number != 0) => {
            Err(Error::invalid(format!("the linux daemon does not support signal {signal}")))
        }
        Some(signal) => Err(Error::invalid(format!("invalid signal: {signal}"))),
        signal => Ok(signal),
    }
}

/// `POST /containers/{id}/rename`.
pub async fn rename(api: &Api, key: &str, request: &Request) -> Result<Response> {
    let name = request.query.text("name").unwrap_or_default();
    let name = name.strip_prefix('/').filter(|rest| !rest.is_empty()).unwrap_or(name).to_owned();
    if name.is_empty() {
        return Err(Error::invalid("Neither old nor new names may be empty"));
    }
    let (engine, key) = (api.engine.clone(), key.to_owned());
    blocking(move || engine.containers.rename(&key, &name)).await?;
    Ok(body::no_content())
}

/// `POST /containers/{id}/update`.
pub async fn update(api: &Api, key: &str, request: Request) -> Result<Response> {
    let version = request.version;
    let update = container_update::update(&request.value().await?, version)?;
    let (engine, key) = (api.engine.clone(), key.to_owned());
    let warnings = blocking(move || engine.containers.update(&key, &update)).await?;
    let warnings = if warnings.is_empty() { Value::Null } else { json!(warnings) };
    Ok(body::json(&json!({"Warnings": warnings})))
}

/// `POST /containers/{id}/wait`. The head is sent at once, because clients wait before they start.
pub fn wait(api: &Api, key: &str, request: &Request) -> Result<Response> {
    let condition = match request.query.text("condition") {
        None | Some("not-running") => WaitCondition::NotRunning,
        Some("next-exit") => WaitCondition::NextExit,
        Some("removed") => WaitCondition::Removed,
        // Before 1.30 there were none.
        Some(_) if request.version < Version(30) => WaitCondition::NotRunning,
        Some(other) => return Err(Error::invalid(format!("invalid condition: \"{other}\""))),
    };
    let waiting = api.engine.containers.wait(key, condition)?;
    let reply = futures_util::stream::once(async move {
        let waited = waiting.await;
        let mut reply = json!({"StatusCode": waited.code});
        if let Some(message) = waited.error {
            reply["Error"] = json!({"Message": message});
        }
        reply
    });
    Ok(body::json_lines(reply.boxed()))
}

/// `POST /containers/{id}/attach`.
pub async fn attach(api: &Api, key: &str, mut request: Request) -> Result<Response> {
    let upgrade = request.take_upgrade();
    let query = &request.query;
    let attach = Attach {
        // Without a connection of its own there is no way in.
        stdin: query.flag("stdin") && upgrade.is_some(),
        stdout: query.flag("stdout"),
        stderr: query.flag("stderr"),
        logs: query.flag("logs"),
        stream: query.flag("stream"),
        detach_keys: query.text("detachKeys").map(str::to_owned),
    };
    let attached = match api.engine.containers.attach(key, attach).await {
        Ok(attached) => attached,
        Err(error) => return Ok(hijack::refusal(&error)),
    };
    Ok(hijack::respond(attached, upgrade, request.version))
}

/// `POST /containers/{id}/resize`.
pub async fn resize(api: &Api, key: &str, request: &Request) -> Result<Response> {
    let (rows, columns) = size(request)?;
    api.engine.containers.resize(key, rows, columns).await?;
    Ok(body::empty(StatusCode::OK))
}

/// Rows and columns of a terminal.
pub fn size(request: &Request) -> Result<(u16, u16)> {
    let side = |name, what| {
        let text = request.query.text(name).unwrap_or_default();
        let whole = text.strip_prefix('-').unwrap_or(text);
        let is_number = !whole.is_empty() && whole.bytes().all(|byte| byte.is_ascii_digit());
        let wrong = if is_number { "value out of range" } else { "invalid syntax" };
        // Docker takes a larger number than any terminal can have.
        let side = text.parse::<u32>();
        side.map(|side| u16::try_from(side).unwrap_or(u16::MAX))
            .map_err(|_| Error::invalid(format!("invalid resize {what} \"{text}\": {wrong}")))
    };
    Ok((side("h", "height")?, side("w", "width")?))
}

/// `DELETE /containers/{id}`.
pub async fn remove(api: &Api, key: &str, request: &Request) -> Result<Response> {
    let query = &request.query;
    let how =
        Remove { force: query.flag("force"), volumes: query.flag("v"), link: query.flag("link") };
    api.engine.containers.remove(key, how).await?;
    Ok(body::no_content())
}

/// `POST /containers/prune`.
pub async fn prune(api: &Arc<Api>, request: &Request) -> Result<Response> {
    let selection = Selection::stopped(&request.query)?;
    let (mut removed, mut reclaimed) = (Vec::new(), 0);
    for container in selection.apply(api.engine.containers.list()) {
        let of = container.clone();
        let size = move |api: &Api| Ok(api.engine.sizes_of(&of).own);
        let size = walking(api, &request.left, size).await?;
        match api.engine.containers.remove(&container.id, Remove::default()).await {
            Ok(()) => {
                removed.push(container.id.clone());
                reclaimed += size;
            }
            // It was started or removed meanwhile.
            Err(error) => tracing::debug!(id = %container.id, error = %error.chain(), "not pruned"),
        }
    }
    api.engine.events.pruned("container", reclaimed);
    tracing::debug!(reclaimed = %image_wire::bytes(reclaimed), "pruned containers");
    let removed = if removed.is_empty() { Value::Null } else { json!(removed) };
    Ok(body::json(&json!({"ContainersDeleted": removed, "SpaceReclaimed": reclaimed})))
}
