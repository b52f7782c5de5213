//! `/networks`.

use std::sync::Arc;

use chrono::Utc;
use cnm::Network;
use hyper::StatusCode;
use serde_json::{Value, json};

use super::Api;
use super::body::{self, Response};
use super::containers::blocking;
use super::filters::Filters;
use super::request::Request;
use super::wire::container_create::endpoint_spec;
use super::wire::network::{self, Connect, Create, Disconnect, Update};
use super::wire::time::until;
use engine_error::{Error, Result};

const FILTERS: &[&str] = &["dangling", "driver", "id", "label", "label!", "name", "scope", "type"];

/// `GET /networks`.
pub fn list(api: &Api, request: &Request) -> Result<Response> {
    let filters = Filters::of(&request.query, FILTERS)?;
    let dangling = dangling(&filters)?;
    if let Some(kind) =
        filters.values("type").iter().find(|t| !matches!(t.as_str(), "builtin" | "custom"))
    {
        return Err(Error::invalid(format!("invalid filter: 'type'='{kind}'")));
    }
    let unused = |network: &Network| {
        !network.predefined && api.engine.containers.on_network(&network.id).is_empty()
    };
    let accepts = |network: &Network| {
        filters.labels(|key| network.labels.get(key).map(String::as_str))
            && filters.exact("driver", network.driver.name())
            && filters.any("id", |wanted| network.id.as_str().starts_with(wanted))
            && filters.matches("name", &network.name)
            && filters.exact("scope", network.driver.traits().scope.as_str())
            && filters.exact("type", if network.predefined { "builtin" } else { "custom" })
            && dangling.is_none_or(|dangling| unused(network) == dangling)
    };
    let networks: Vec<Arc<Network>> = api.engine.networks.all();
    let shown = networks.iter().filter(|network| accepts(network)).map(|n| network::summary(n));
    Ok(body::json(&shown.collect::<Vec<_>>()))
}

/// Whether only networks are wanted that nobody is on, or only others.
fn dangling(filters: &Filters) -> Result<Option<bool>> {
    match filters.values("dangling") {
        [] => Ok(None),
        [one] => match one.as_str() {
            "1" | "true" => Ok(Some(true)),
            "0" | "false" => Ok(Some(false)),
            _ => Err(Error::invalid(
                "invalid value for filter 'dangling', must be \"true\" (or \"1\"), or \"false\" (or \
                 \"0\")",
            )),
        },
        _ => Err(Error::invalid("got more than one value for filter key \"dangling\"")),
    }
}

/// `POST /networks/create`.
pub async fn create(api: &Api, request: Request) -> Result<Response> {
    let spec = request.json::<Create>().await?.spec()?;
    let engine = api.engine.clone();
    let (network, warnings) = blocking(move || engine.networks.create(&spec)).await?;
    let reply = json!({"Id": network.id.to_string(), "Warning": warnings.join("\n")});
    Ok(body::json_with(StatusCode::CREATED, &reply))
}

/// `GET /networks/{id}`.
pub fn inspect(api: &Api, key: &str, request: &Request) -> Result<Response> {
    let verbose = verbose(request)?;
    let network = api.engine.networks.network(key)?;
    let scope = network.driver.traits().scope.as_str();
    if request.query.text("scope").is_some_and(|wanted| wanted != scope) {
        return Err(Error::not_found(format!("network {key} not found")));
    }
    let mut shown = network::inspect(&network, &api.engine.containers.on_network(&network.id));
    if let (Some(_), Some(member)) = (network.tunnel, api.engine.membership.member()) {
        super::wire::cluster::add_network(&mut shown, &network, &member, verbose);
    }
    Ok(body::json(&shown))
}

/// `verbose`, which Go reads more strictly than other conditions.
fn verbose(request: &Request) -> Result<bool> {
    let Some(text) = request.query.text("verbose") else { return Ok(false) };
    cnm::options::boolean(text).ok_or_else(|| {
        Error::invalid(format!(
            "invalid value for verbose: {text}: strconv.ParseBool: parsing \"{text}\": invalid syntax"
        ))
    })
}

/// `DELETE /networks/{id}`.
///
/// With `force=1`, which is ours, the containers on it are taken off it first.
pub async fn remove(api: &Api, key: &str, request: &Request) -> Result<Response> {
    let force = request.query.flag("force");
    let (engine, key) = (api.engine.clone(), key.to_owned());
    blocking(move || engine.containers.remove_network(&key, force)).await?;
    Ok(body::no_content())
}

/// `POST /networks/{id}/connect`.
pub async fn connect(api: &Api, key: &str, request: Request) -> Result<Response> {
    let connect: Connect = request.json().await?;
    named(&connect.container)?;
    let spec = endpoint_spec(&connect.endpoint_config)?;
    let (engine, key) = (api.engine.clone(), key.to_owned());
    blocking(move || engine.containers.connect(&key, &connect.container, spec)).await?;
    Ok(body::empty(StatusCode::OK))
}

/// Refuses no name at all.
fn named(container: &str) -> Result<()> {
    if container.is_empty() {
        return Err(Error::invalid("invalid name or ID supplied: \"\""));
    }
    Ok(())
}

/// `POST /networks/{id}/disconnect`.
pub async fn disconnect(api: &Api, key: &str, request: Request) -> Result<Response> {
    let Disconnect { container, force } = request.json().await?;
    named(&container)?;
    let (engine, key) = (api.engine.clone(), key.to_owned());
    blocking(move || engine.containers.disconnect(&key, &container, force)).await?;
    Ok(body::empty(StatusCode::OK))
}

/// `POST /rnet/networks/{id}/update`.
pub async fn update(api: &Api, key: &str, request: Request) -> Result<Response> {
    let (update, dry_run) = request.json::<Update>().await?.update();
    let (engine, key) = (api.engine.clone(), key.to_owned());
    let updated =
        blocking(move || engine.containers.update_network(&key, &update, dry_run)).await?;
    Ok(body::json(&json!({"Plan": updated.plan, "Warnings": updated.warnings})))
}

/// `POST /networks/prune`.
pub async fn prune(api: &Api, request: &Request) -> Result<Response> {
    let filters = Filters::of(&request.query, &["label", "label!", "until"])?;
    let until = filters.once("until")?.map(|text| until(text, Utc::now())).transpose()?.flatten();
    let mut filters = filters.into_map();
    if let Some(until) = until {
        filters.insert("until".to_owned(), vec![until.timestamp().to_string()]);
    }
    let engine = api.engine.clone();
    let removed = blocking(move || engine.networks.prune(&filters)).await?;
    api.engine.events.pruned("network", 0);
    let removed = if removed.is_empty() { Value::Null } else { json!(removed) };
    Ok(body::json(&json!({"NetworksDeleted": removed})))
}
