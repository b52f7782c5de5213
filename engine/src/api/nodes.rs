//! `/nodes`: the nodes of a swarm.

use std::collections::BTreeMap;

use hyper::StatusCode;

use super::Api;
use super::body::{self, Response};
use super::error::page_not_found;
use super::filters::Filters;
use super::request::Request;
use super::swarm::version;
use super::wire::swarm as wire;
use crate::cluster::Removal;
use engine_error::Result;
use swarm::node::Listed;

const FILTERS: &[&str] = &["id", "label", "membership", "name", "node.label", "role"];

/// Everything below `/nodes`.
pub async fn dispatch(api: &Api, path: &[&str], request: Request) -> Result<Response> {
    match (request.method.as_str(), path) {
        ("GET", []) => list(api, &request).await,
        ("GET", [key]) => inspect(api, key).await,
        ("POST", [key, "update"]) => update(api, key, request).await,
        ("DELETE", [key]) => remove(api, key, &request).await,
        _ => Err(page_not_found()),
    }
}

/// `GET /nodes`.
async fn list(api: &Api, request: &Request) -> Result<Response> {
    let node = &api.engine.swarm.node;
    let authority = node.authority()?;
    let filters = Filters::of(&request.query, FILTERS)?;
    let accepts = |listed: &Listed| {
        let record = &listed.node.record;
        let label = |key: &str| record.labels.get(key).map(String::as_str);
        filters.any("id", |wanted| listed.id.starts_with(wanted))
            && filters.any("name", |wanted| record.name.starts_with(wanted))
            && filters.exact("role", record.role.name())
            && filters.exact("membership", "accepted")
            && filters.labels(|_| None)
            && filters.values("node.label").iter().all(|wanted| match wanted.split_once('=') {
                Some((key, value)) => label(key) == Some(value),
                None => label(wanted).is_some(),
            })
    };
    let live = api.engine.swarm.live();
    let nodes = node.nodes().await?;
    let shown = nodes.iter().filter(|listed| accepts(listed));
    let shown = shown.map(|listed| wire::node(listed, state(&live, &listed.id), &authority));
    Ok(body::json(&shown.collect::<Result<Vec<_>>>()?))
}

/// `GET /nodes/{id}`.
async fn inspect(api: &Api, key: &str) -> Result<Response> {
    let authority = api.engine.swarm.node.authority()?;
    let listed = api.engine.swarm.find(key).await?;
    Ok(body::json(&wire::node(&listed, state(&api.engine.swarm.live(), &listed.id), &authority)?))
}

/// `POST /nodes/{id}/update`.
async fn update(api: &Api, key: &str, request: Request) -> Result<Response> {
    let node = &api.engine.swarm.node;
    let version = version(&request, "node")?;
    node.authority()?;
    let change = request.json::<wire::NodeSpec>().await?.change()?;
    let listed = api.engine.swarm.find(key).await?;
    node.update_node(&listed.id, version, &change).await?;
    Ok(body::empty(StatusCode::OK))
}

/// `DELETE /nodes/{id}`.
async fn remove(api: &Api, key: &str, request: &Request) -> Result<Response> {
    api.engine.swarm.node.authority()?;
    let how = if request.query.flag("force") { Removal::OfAny } else { Removal::OfOneAway };
    api.engine.swarm.remove_node(key, how).await?;
    Ok(body::empty(StatusCode::OK))
}

fn state(live: &BTreeMap<String, bool>, id: &str) -> &'static str {
    if live.get(id) == Some(&true) { "ready" } else { "down" }
}
