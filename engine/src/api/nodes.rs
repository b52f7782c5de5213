//! `/nodes`: the nodes of a swarm.

use std::collections::BTreeMap;

use hyper::StatusCode;

use super::Api;
use super::body::{self, Response};
use super::containers::blocking;
use super::error::page_not_found;
use super::filters::Filters;
use super::request::Request;
use super::swarm::version;
use super::wire::swarm as wire;
use crate::cluster::Removal;
use engine_error::{Error, Result};
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
    let live = live(api);
    let nodes = node.nodes().await?;
    let shown = nodes.iter().filter(|listed| accepts(listed));
    let shown = shown.map(|listed| wire::node(listed, state(&live, &listed.id), &authority));
    Ok(body::json(&shown.collect::<Result<Vec<_>>>()?))
}

/// `GET /nodes/{id}`.
async fn inspect(api: &Api, key: &str) -> Result<Response> {
    let authority = api.engine.swarm.node.authority()?;
    let listed = find(api, key).await?;
    Ok(body::json(&wire::node(&listed, state(&live(api), &listed.id), &authority)?))
}

/// `POST /nodes/{id}/update`.
async fn update(api: &Api, key: &str, request: Request) -> Result<Response> {
    let node = &api.engine.swarm.node;
    let version = version(&request, "node")?;
    node.authority()?;
    let change = request.json::<wire::NodeSpec>().await?.change()?;
    let listed = find(api, key).await?;
    node.update_node(&listed.id, version, &change).await?;
    Ok(body::empty(StatusCode::OK))
}

/// `DELETE /nodes/{id}`.
async fn remove(api: &Api, key: &str, request: &Request) -> Result<Response> {
    let node = &api.engine.swarm.node;
    node.authority()?;
    let id = find(api, key).await?.id;
    if state(&live(api), &id) == "ready" && !request.query.flag("force") {
        // That it is a manager is said first.
        node.must_be_worker(&id).await?;
        return Err(Error::invalid(format!(
            "rpc error: code = FailedPrecondition desc = node {id} is not down and can't be removed"
        )));
    }
    node.remove_node(&id).await?;
    if let Some(member) = api.engine.membership.member()
        && live(api).contains_key(&id)
    {
        // What it had in the cluster goes with it.
        blocking(move || member.remove_node(&id, Removal::OfAny)).await?;
    }
    Ok(body::empty(StatusCode::OK))
}

/// The node with this identity, or this name, or whose identity begins so.
async fn find(api: &Api, key: &str) -> Result<Listed> {
    let nodes = api.engine.swarm.node.nodes().await?;
    let by = |test: &dyn Fn(&Listed) -> bool| -> Vec<Listed> {
        nodes.iter().filter(|listed| test(listed)).cloned().collect()
    };
    let own = api.engine.swarm.standing().membership.map(|own| own.state.node);
    let exact =
        by(&|listed| listed.id == key || (key == "self" && Some(&listed.id) == own.as_ref()));
    let named = by(&|listed| listed.node.record.name == key);
    let begun = by(&|listed| !key.is_empty() && listed.id.starts_with(key));
    let found = [exact, named, begun].into_iter().find(|found| !found.is_empty());
    match found.unwrap_or_default().as_mut_slice() {
        [] => Err(Error::not_found(format!("node {key} not found"))),
        [one] => Ok(one.clone()),
        several => Err(Error::invalid(format!(
            "node {key} is ambiguous ({} matches found)",
            several.len()
        ))),
    }
}

/// Which hosts of the cluster are there.
fn live(api: &Api) -> BTreeMap<String, bool> {
    let nodes = api.engine.membership.member().map(|member| member.nodes()).unwrap_or_default();
    nodes.into_iter().map(|node| (node.id, node.live)).collect()
}

fn state(live: &BTreeMap<String, bool>, id: &str) -> &'static str {
    if live.get(id) == Some(&true) { "ready" } else { "down" }
}
