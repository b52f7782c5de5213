//! `/rnet/cluster`: the cluster that this host is in, and its hosts.

use std::collections::BTreeMap;

use cluster::Place;
use cnm::Kind;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Api;
use super::body::{self, Response};
use super::containers::blocking;
use super::request::Request;
use super::wire::{check as wire_check, cluster as wire};
use crate::cluster::{Leave, Removal};
use engine_error::{Error, Result};

/// Body of `POST /rnet/cluster/join`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default, deny_unknown_fields)]
struct Join {
    cluster: String,
    options: BTreeMap<String, String>,
    advertise_addr: Option<String>,
}

/// `GET /rnet/cluster`.
pub async fn inspect(api: &Api) -> Result<Response> {
    let engine = api.engine.clone();
    let shown = blocking(move || {
        let member = engine.membership.required()?;
        Ok(wire::cluster(&member))
    });
    Ok(body::json(&shown.await?))
}

/// `POST /rnet/cluster/join`.
pub async fn join(api: &Api, request: Request) -> Result<Response> {
    let Join { cluster, options, advertise_addr } = request.json().await?;
    let place = Place::parse(&cluster, &options)
        .map_err(|error| Error::new(Kind::Invalid, error.to_string()))?;
    let advertise = advertise_addr.filter(|text| !text.is_empty());
    api.engine.swarm.join_other(place, advertise).await?;
    Ok(body::no_content())
}

/// `POST /rnet/cluster/leave`.
pub async fn leave(api: &Api, request: &Request) -> Result<Response> {
    let how = if request.query.flag("force") { Leave::Forced } else { Leave::Orderly };
    api.engine.swarm.leave_other(how).await?;
    Ok(body::no_content())
}

/// `POST /rnet/cluster/adopt`.
pub async fn adopt(api: &Api) -> Result<Response> {
    let engine = api.engine.clone();
    blocking(move || engine.membership.required()?.adopt()).await?;
    Ok(body::no_content())
}

/// `POST /rnet/cluster/rekey`.
pub async fn rekey(api: &Api) -> Result<Response> {
    let engine = api.engine.clone();
    let own = blocking(move || engine.membership.required()?.rekey()).await?;
    Ok(body::json(&json!({"PublicKey": own.key.to_string()})))
}

/// `GET /rnet/cluster/check`, of all other hosts or of `node`.
pub async fn check(api: &Api, request: &Request) -> Result<Response> {
    let engine = api.engine.clone();
    let key = request.query.text("node").map(str::to_owned);
    let found = blocking(move || {
        let member = engine.membership.required()?;
        let node = key.map(|key| member.node(&key)).transpose()?;
        Ok(member.check(node.as_ref().map(|node| node.id.as_str())))
    });
    let shown: Vec<Value> = found.await?.iter().map(wire_check::finding).collect();
    Ok(body::json(&shown))
}

/// `GET /rnet/cluster/nodes`.
pub async fn nodes(api: &Api) -> Result<Response> {
    let engine = api.engine.clone();
    let nodes = blocking(move || Ok(engine.membership.required()?.nodes())).await?;
    let shown: Vec<Value> = nodes.iter().map(wire::node).collect();
    Ok(body::json(&shown))
}

/// `GET /rnet/cluster/nodes/{id}`.
pub async fn node(api: &Api, key: &str) -> Result<Response> {
    let (engine, key) = (api.engine.clone(), key.to_owned());
    let node = blocking(move || engine.membership.required()?.node(&key)).await?;
    Ok(body::json(&wire::node(&node)))
}

/// `DELETE /rnet/cluster/nodes/{id}`.
pub async fn remove_node(api: &Api, key: &str, request: &Request) -> Result<Response> {
    let how = if request.query.flag("force") { Removal::OfAny } else { Removal::OfOneAway };
    let id = api.engine.swarm.remove_node(key, how).await?;
    Ok(body::json(&json!({"ID": id})))
}
