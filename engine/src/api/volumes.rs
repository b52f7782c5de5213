//! `/volumes`.

use std::collections::BTreeMap;
use std::sync::Arc;

use hyper::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Api;
use super::body::{self, Response};
use super::containers::{blocking, tree_size};
use super::filters::Filters;
use super::request::Request;
use super::wire::time::rfc3339;
use crate::volume::{Volume, Volumes};
use engine_error::{Error, Result};

const FILTERS: &[&str] = &["dangling", "driver", "label", "label!", "name"];

/// Body of `POST /volumes/create`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Create {
    name: String,
    driver: String,
    driver_opts: BTreeMap<String, String>,
    labels: BTreeMap<String, String>,
}

fn store(api: &Api) -> Volumes {
    Volumes::new(api.config.data_root.join("volumes"))
}

/// `GET /volumes`.
pub fn list(api: &Api, request: &Request) -> Result<Response> {
    let filters = Filters::of(&request.query, FILTERS)?;
    let dangling = filters.flag("dangling")?;
    let accepts = |volume: &Volume| {
        filters.labels(|key| volume.labels.get(key).map(String::as_str))
            && filters.exact("driver", "local")
            && filters.any("name", |wanted| volume.name.contains(wanted))
            && dangling.is_none_or(|dangling| users(api, &volume.name).is_empty() == dangling)
    };
    let volumes: Vec<Value> = store(api).list()?.iter().filter(|v| accepts(v)).map(wire).collect();
    Ok(body::json(&json!({"Volumes": volumes, "Warnings": null})))
}

/// `POST /volumes/create`.
pub async fn create(api: &Arc<Api>, request: Request) -> Result<Response> {
    let create: Create = request.json().await?;
    if !matches!(create.driver.as_str(), "" | "local") {
        return Err(Error::not_found(format!(
            "error looking up volume plugin {0}: plugin \"{0}\" not found; use local",
            create.driver
        )));
    }
    if let Some(option) = create.driver_opts.keys().next() {
        return Err(Error::invalid(format!(
            "invalid option: \"{option}\": local volumes have none yet"
        )));
    }
    let volumes = store(api);
    let (volume, is_new) = blocking(move || {
        let is_new = volumes.find(&create.name).is_err();
        Ok((volumes.create(&create.name, create.labels)?, is_new))
    })
    .await?;
    if is_new {
        api.engine.events.volume("create", &volume.name, &[]);
    }
    Ok(body::json_with(StatusCode::CREATED, &wire(&volume)))
}

/// `GET /volumes/{name}`.
pub fn inspect(api: &Api, name: &str) -> Result<Response> {
    Ok(body::json(&wire(&store(api).find(name)?)))
}

/// `DELETE /volumes/{name}`.
pub async fn remove(api: &Arc<Api>, name: &str, request: &Request) -> Result<Response> {
    let volumes = store(api);
    let users = users(api, name);
    if !users.is_empty() {
        let users = users.join(", ");
        return Err(Error::conflict(format!("remove {name}: volume is in use - [{users}]")));
    }
    let (force, key) = (request.query.flag("force"), name.to_owned());
    match blocking(move || volumes.remove(&key)).await {
        Err(error) if force && error.kind() == cnm::Kind::NotFound => {}
        result => {
            result?;
            api.engine.events.volume("destroy", name, &[]);
        }
    }
    Ok(body::no_content())
}

/// `POST /volumes/prune`: anonymous ones, all with `all=true`, and always for older clients.
pub async fn prune(api: &Arc<Api>, request: &Request) -> Result<Response> {
    let filters = Filters::of(&request.query, &["all", "label", "label!"])?;
    let all =
        filters.flag("all")?.unwrap_or(false) || request.version < super::version::Version(42);
    let (api, volumes) = (api.clone(), store(api));
    let (removed, reclaimed) = blocking(move || {
        let (mut removed, mut reclaimed) = (Vec::new(), 0);
        for volume in volumes.list()? {
            let labels = filters.labels(|key| volume.labels.get(key).map(String::as_str));
            if labels && (all || volume.is_anonymous()) && users(&api, &volume.name).is_empty() {
                reclaimed += tree_size(&volume.mountpoint);
                volumes.remove(&volume.name)?;
                api.engine.events.volume("destroy", &volume.name, &[]);
                removed.push(volume.name);
            }
        }
        api.engine.events.pruned("volume", reclaimed);
        Ok((removed, reclaimed))
    })
    .await?;
    let removed = if removed.is_empty() { Value::Null } else { json!(removed) };
    Ok(body::json(&json!({"VolumesDeleted": removed, "SpaceReclaimed": reclaimed})))
}

/// All volumes with their sizes and numbers of users, for `system df`.
pub fn usage(api: &Api) -> Result<Vec<Value>> {
    let entry = |volume: &Volume| {
        let mut value = wire(volume);
        value["UsageData"] = json!({
            "Size": tree_size(&volume.mountpoint),
            "RefCount": users(api, &volume.name).len(),
        });
        value
    };
    Ok(store(api).list()?.iter().map(entry).collect())
}

/// The ids of the containers that mount a volume, running or not.
fn users(api: &Api, name: &str) -> Vec<String> {
    let mounts = |container: &crate::container::Container| {
        container.mounts.iter().any(|m| m.kind == "volume" && m.name.as_deref() == Some(name))
    };
    api.engine.containers.list().iter().filter(|c| mounts(c)).map(|c| c.id.to_string()).collect()
}

fn wire(volume: &Volume) -> Value {
    json!({
        "CreatedAt": rfc3339(volume.created),
        "Driver": "local",
        "Labels": volume.labels,
        "Mountpoint": volume.mountpoint.display().to_string(),
        "Name": volume.name,
        "Options": null,
        "Scope": "local",
    })
}
