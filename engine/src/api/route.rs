//! From method and path to an operation.
//!
//! Names in paths may hold slashes and colons, so a path is matched as its segments, with the
//! name whatever is left between the fixed ones.

use std::sync::Arc;

use cnm::Kind;
use hyper::StatusCode;
use serde_json::json;

use super::body::{self, Response};
use super::error::page_not_found;
use super::filters::Filters;
use super::request::Request;
use super::{
    Api, archive, build, buildkit, cluster, containers, events, exec, images, logs, networks,
    nodes, ports, registries, stats, swarm, system, transfer, volumes, websocket,
};
use engine_error::{Error, Result};

/// Answers a request.
pub async fn dispatch(api: Arc<Api>, request: Request) -> Result<Response> {
    let path = request.path.clone();
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    let method = request.method.as_str().to_owned();
    if let Some(location) = &request.moved {
        return body::moved(location);
    }
    if method == "OPTIONS" {
        return Ok(body::empty(StatusCode::OK));
    }
    let (method, path) = (method.as_str(), path.as_slice());
    match path.first().copied() {
        Some("containers") => container(api, method, path, request).await,
        Some("exec") => execs(api, method, path, request).await,
        Some("images") => image(api, method, path, request).await,
        Some("networks") => network(api, method, path, request).await,
        Some("volumes") => volume(api, method, path, request).await,
        Some("swarm") => swarm::dispatch(&api, &path[1..], request).await,
        Some("nodes") => nodes::dispatch(&api, &path[1..], request).await,
        Some(noun @ ("services" | "tasks" | "secrets" | "configs")) => {
            swarm::without(&api, noun, method, &path[1..])
        }
        Some("plugins") => plugin(method, path, &request),
        _ => other(api, method, path, request).await,
    }
}

async fn other(api: Arc<Api>, method: &str, path: &[&str], request: Request) -> Result<Response> {
    match (method, path) {
        ("GET", ["debug", "vars"]) => system::vars(&api).await,
        ("GET" | "HEAD", ["_ping"]) => Ok(system::ping(&api, method == "HEAD")),
        ("GET", ["version"]) => Ok(system::version(&api).await),
        ("GET", ["info"]) => system::info(&api, request.version).await,
        ("GET", ["events"]) => events::stream(&api, &request),
        ("GET", ["system", "df"]) => system::usage::disk_usage(&api, &request).await,
        ("POST", ["auth"]) => registries::login(&api, request).await,
        ("POST", ["commit"]) => archive::commit(&api, request).await,
        ("POST", ["build"]) => build::build(&api, request).await,
        ("POST", ["build", "cancel"]) => build::cancel(&api, &request),
        ("POST", ["build", "prune"]) => build::prune(&api, &request).await,
        ("GET", ["distribution", name @ .., "json"]) if !name.is_empty() => {
            registries::describe(&api, &name.join("/"), &request).await
        }
        ("POST", ["grpc"]) => buildkit::calls(&api, request).await,
        ("POST", ["session"]) => buildkit::session(&api, request).await,
        ("GET", ["rnet", "containers", key, "ports"]) => ports::list(&api, key),
        ("POST", ["rnet", "containers", key, "ports"]) => ports::change(&api, key, request).await,
        ("POST", ["rnet", "networks", key @ .., "update"]) if !key.is_empty() => {
            networks::update(&api, &key.join("/"), request).await
        }
        (_, ["rnet", "cluster", ..]) => in_cluster(api, method, &path[2..], request).await,
        ("POST", ["rnet", "build", "session"]) => build::hand_over(&api, request).await,
        ("POST", ["rnet", "build", "agent"]) => build::lend_agent(&api, request),
        ("GET", ["rnet", "check"]) => system::check(&api).await,
        ("POST", ["rnet", "discard"]) => system::discard(&api, &request).await,
        ("POST", ["rnet", "reset"]) => system::reset(&api).await,
        _ => Err(page_not_found()),
    }
}

async fn in_cluster(
    api: Arc<Api>,
    method: &str,
    path: &[&str],
    request: Request,
) -> Result<Response> {
    match (method, path) {
        ("GET", []) => cluster::inspect(&api).await,
        ("POST", ["join"]) => cluster::join(&api, request).await,
        ("POST", ["leave"]) => cluster::leave(&api, &request).await,
        ("POST", ["adopt"]) => cluster::adopt(&api).await,
        ("POST", ["rekey"]) => cluster::rekey(&api).await,
        ("GET", ["check"]) => cluster::check(&api, &request).await,
        ("GET", ["nodes"]) => cluster::nodes(&api).await,
        ("GET", ["nodes", key]) => cluster::node(&api, key).await,
        ("DELETE", ["nodes", key]) => cluster::remove_node(&api, key, &request).await,
        _ => Err(page_not_found()),
    }
}

async fn container(
    api: Arc<Api>,
    method: &str,
    path: &[&str],
    request: Request,
) -> Result<Response> {
    let mut parts = path[1..].to_vec();
    let by_link = by_link(method, &parts);
    if let Some(name) = &by_link {
        parts.splice(..2, [name.as_str()]);
    }
    match (method, parts.as_slice()) {
        ("GET", ["json"]) => containers::list(&api, &request).await,
        ("POST", ["create"]) => containers::create(&api, request).await,
        ("POST", ["prune"]) => containers::prune(&api, &request).await,
        ("GET", [key, "json"]) => containers::inspect(&api, key, &request).await,
        ("GET", [key, "top"]) => containers::top(&api, key, &request).await,
        ("GET", [key, "logs"]) => logs::stream(&api, key, &request),
        ("POST", [key, "start"]) => containers::start(&api, key, request).await,
        ("POST", [key, "stop"]) => containers::stop(&api, key, &request).await,
        ("POST", [key, "restart"]) => containers::restart(&api, key, &request).await,
        ("POST", [key, "kill"]) => containers::kill(&api, key, &request).await,
        ("POST", [key, "pause"]) => done(api.engine.containers.pause(key).await),
        ("POST", [key, "unpause"]) => done(api.engine.containers.unpause(key).await),
        ("POST", [key, "rename"]) => containers::rename(&api, key, &request).await,
        ("POST", [key, "wait"]) => containers::wait(&api, key, &request),
        ("POST", [key, "attach"]) => containers::attach(&api, key, request).await,
        ("GET", [key, "attach", "ws"]) => websocket::attach(&api, key, request).await,
        ("POST", [key, "resize"]) => containers::resize(&api, key, &request).await,
        ("POST", [key, "exec"]) => exec::create(&api, key, request).await,
        ("DELETE", [key]) => containers::remove(&api, key, &request).await,
        ("POST", [key, "update"]) => containers::update(&api, key, request).await,
        ("GET", [key, "stats"]) => stats::stream(&api, key, &request).await,
        ("GET", [key, "changes"]) => archive::changes(&api, key, &request).await,
        ("GET", [key, "export"]) => archive::export(&api, key, &request).await,
        ("HEAD", [key, "archive"]) => archive::stat(&api, key, &request).await,
        ("GET", [key, "archive"]) => archive::read(&api, key, &request).await,
        ("PUT", [key, "archive"]) => archive::write(&api, key, request).await,
        ("GET" | "POST" | "DELETE", [_, "checkpoints", ..]) => {
            Err(unsupported("checkpoints are not supported"))
        }
        _ => Err(page_not_found()),
    }
}

/// The name of a container by another one's link, `app/db`, which takes two parts of a path.
fn by_link(method: &str, parts: &[&str]) -> Option<String> {
    match (method, parts) {
        (_, [_, "checkpoints", ..] | [_, "attach", "ws"] | [.., ""]) => None,
        ("DELETE", [parent, alias]) | (_, [parent, alias, _]) => Some(format!("{parent}/{alias}")),
        _ => None,
    }
}

async fn execs(api: Arc<Api>, method: &str, path: &[&str], request: Request) -> Result<Response> {
    match (method, &path[1..]) {
        ("POST", [id, "start"]) => exec::start(&api, id, request).await,
        ("POST", [id, "resize"]) => exec::resize(&api, id, &request).await,
        ("GET", [id, "json"]) => exec::inspect(&api, id),
        _ => Err(page_not_found()),
    }
}

async fn image(api: Arc<Api>, method: &str, path: &[&str], request: Request) -> Result<Response> {
    match (method, &path[1..]) {
        ("GET", ["json"]) => images::list(&api, &request).await,
        ("GET", ["get"]) => {
            transfer::save(&api, request.query.all("names").to_vec(), &request).await
        }
        ("GET", ["search"]) => registries::search(&api, &request).await,
        ("POST", ["create"]) => transfer::create(&api, request).await,
        ("POST", ["load"]) => Ok(transfer::load(&api, request)),
        ("POST", ["prune"]) => images::prune(&api, &request).await,
        ("GET", [name @ .., "json"]) if !name.is_empty() => {
            images::inspect(&api, &name.join("/"), &request).await
        }
        ("GET", [name @ .., "history"]) if !name.is_empty() => {
            images::history(&api, &name.join("/"), &request).await
        }
        ("GET", [name @ .., "get"]) if !name.is_empty() => {
            transfer::save(&api, vec![name.join("/")], &request).await
        }
        ("POST", [name @ .., "tag"]) if !name.is_empty() => {
            images::tag(&api, &name.join("/"), &request).await
        }
        ("POST", [name @ .., "push"]) if !name.is_empty() => {
            registries::push(&api, &name.join("/"), &request).await
        }
        ("DELETE", [""]) => Err(Error::invalid("image name cannot be blank")),
        ("DELETE", name) if !name.is_empty() => {
            images::remove(&api, &name.join("/"), &request).await
        }
        _ => Err(page_not_found()),
    }
}

async fn network(api: Arc<Api>, method: &str, path: &[&str], request: Request) -> Result<Response> {
    match (method, &path[1..]) {
        ("GET", [] | [""]) => networks::list(&api, &request),
        ("POST", ["create"]) => networks::create(&api, request).await,
        ("POST", ["prune"]) => networks::prune(&api, &request).await,
        ("GET", key) => networks::inspect(&api, &key.join("/"), &request),
        ("DELETE", key) if !key.is_empty() => {
            networks::remove(&api, &key.join("/"), &request).await
        }
        ("POST", [key @ .., "connect"]) if !key.is_empty() => {
            networks::connect(&api, &key.join("/"), request).await
        }
        ("POST", [key @ .., "disconnect"]) if !key.is_empty() => {
            networks::disconnect(&api, &key.join("/"), request).await
        }
        _ => Err(page_not_found()),
    }
}

async fn volume(api: Arc<Api>, method: &str, path: &[&str], request: Request) -> Result<Response> {
    match (method, &path[1..]) {
        ("GET", []) => volumes::list(&api, &request).await,
        ("POST", ["create"]) => volumes::create(&api, request).await,
        ("POST", ["prune"]) => volumes::prune(&api, &request).await,
        ("GET" | "DELETE", [""]) => Err(Error::not_found("get: no such volume")),
        ("GET", name) => volumes::inspect(&api, &name.join("/")).await,
        ("DELETE", name) if !name.is_empty() => {
            volumes::remove(&api, &name.join("/"), &request).await
        }
        ("PUT", [_]) => swarm::update_volume(&api),
        _ => Err(page_not_found()),
    }
}

/// Plugins are found on the host and not kept: there are none to list or to change.
fn plugin(method: &str, path: &[&str], request: &Request) -> Result<Response> {
    let missing =
        |name: &[&str]| Err(Error::not_found(format!("plugin \"{}\" not found", name.join("/"))));
    match (method, &path[1..]) {
        ("GET", []) => {
            Filters::of(&request.query, &["capability", "enabled"])?;
            Ok(body::json(&json!([])))
        }
        ("GET", ["privileges"]) | ("POST", ["pull" | "create"]) => {
            Err(unsupported("plugins are not supported"))
        }
        ("GET", [name @ .., "json"])
        | ("POST", [name @ .., "enable" | "disable" | "push" | "upgrade" | "set"])
        | ("DELETE", name)
            if !name.is_empty() =>
        {
            missing(name)
        }
        _ => Err(page_not_found()),
    }
}

fn done(result: Result<()>) -> Result<Response> {
    result.map(|()| body::no_content())
}

/// What is understood and not there.
pub fn unsupported(message: &str) -> Error {
    Error::new(Kind::NotImplemented, message)
}
