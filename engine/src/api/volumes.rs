//! `/volumes`.

use std::collections::BTreeMap;
use std::sync::Arc;

use hyper::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Api;
use super::body::{self, Response};
use super::containers::blocking;
use super::filters::Filters;
use super::request::Request;
use super::wire::time::rfc3339;
use engine_error::{Error, Result};
use volume::Volume;

const FILTERS: &[&str] = &["dangling", "driver", "label", "label!", "name"];

/// Body of `POST /volumes/create`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename = "CreateOptions", rename_all = "PascalCase", default)]
struct Create {
    name: String,
    driver: String,
    driver_opts: BTreeMap<String, String>,
    labels: BTreeMap<String, String>,
}

/// `GET /volumes`.
pub async fn list(api: &Arc<Api>, request: &Request) -> Result<Response> {
    let filters = Filters::of(&request.query, FILTERS)?;
    let dangling = filters.flag("dangling")?;
    let volumes = api.engine.volumes.clone();
    let list = move || {
        let accepts = |volume: &Volume| {
            filters.labels(|key| volume.labels.get(key).map(String::as_str))
                && filters.exact("driver", "local")
                && filters.any("name", |wanted| volume.name.contains(wanted))
                && dangling
                    .is_none_or(|dangling| volumes.users(&volume.name).is_empty() == dangling)
        };
        let all = volumes.list()?;
        Ok(all.iter().filter(|volume| accepts(volume)).map(wire).collect::<Vec<_>>())
    };
    let volumes = blocking(list).await?;
    Ok(body::json(&json!({"Volumes": volumes, "Warnings": null})))
}

/// `POST /volumes/create`.
pub async fn create(api: &Arc<Api>, request: Request) -> Result<Response> {
    let create: Create = request.json().await?;
    if !matches!(create.driver.as_str(), "" | "local") {
        return Err(Error::not_found(format!(
            "create {0}: error looking up volume plugin {1}: plugin \"{1}\" not found",
            create.name, create.driver
        )));
    }
    let volumes = api.engine.volumes.clone();
    let Create { name, driver_opts, labels, .. } = create;
    let create = move || {
        // Docker says of which volume, once.
        let begin = format!("create {name}: ");
        let of_it = |error: Error| match error.kind() {
            cnm::Kind::Invalid if !error.to_string().starts_with(&begin) => {
                Error::invalid(format!("{begin}{error}"))
            }
            _ => error,
        };
        volumes.create_with(&name, labels, driver_opts).map_err(of_it)
    };
    let (volume, is_new) = blocking(create).await?;
    if is_new {
        api.engine.events.volume("create", &volume.name, &[]);
    }
    Ok(body::json_with(StatusCode::CREATED, &wire(&volume)))
}

/// `GET /volumes/{name}`.
pub async fn inspect(api: &Arc<Api>, name: &str) -> Result<Response> {
    let (volumes, name) = (api.engine.volumes.clone(), name.to_owned());
    let volume = blocking(move || volumes.find(&name)).await?;
    Ok(body::json(&wire(&volume)))
}

/// `DELETE /volumes/{name}`.
pub async fn remove(api: &Arc<Api>, name: &str, request: &Request) -> Result<Response> {
    let volumes = api.engine.volumes.clone();
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

/// `POST /volumes/prune`: anonymous ones, all with `all=true`, and always for older clients. What
/// somebody said a device or a file system for is nobody's leftover: it goes by name only.
pub async fn prune(api: &Arc<Api>, request: &Request) -> Result<Response> {
    let filters = Filters::of(&request.query, &["all", "label", "label!"])?;
    let all =
        filters.flag("all")?.unwrap_or(false) || request.version < super::version::Version(42);
    let engine = api.engine.clone();
    let pruned = blocking(move || {
        engine.volumes.prune(|volume| {
            filters.labels(|key| volume.labels.get(key).map(String::as_str))
                && (all || volume.is_anonymous())
                && volume.options.is_empty()
        })
    })
    .await?;
    for name in &pruned.removed {
        api.engine.events.volume("destroy", name, &[]);
    }
    api.engine.events.pruned("volume", pruned.reclaimed);
    let (removed, reclaimed) = (pruned.removed, pruned.reclaimed);
    Ok(body::json(&json!({"VolumesDeleted": removed, "SpaceReclaimed": reclaimed})))
}

/// All volumes with their sizes and numbers of users, for `system df`.
pub fn usage(api: &Api) -> Result<Vec<Value>> {
    let entry = |usage: volume::Usage| {
        let mut value = wire(&usage.volume);
        // Docker's word for a size that is not known.
        let size = usage.size.map_or(json!(-1), Value::from);
        value["UsageData"] = json!({"Size": size, "RefCount": usage.users});
        value
    };
    Ok(api.engine.volumes_usage()?.into_iter().map(entry).collect())
}

fn wire(volume: &Volume) -> Value {
    json!({
        "CreatedAt": rfc3339(volume.created),
        "Driver": "local",
        "Labels": volume.labels,
        "Mountpoint": volume.mountpoint.display().to_string(),
        "Name": volume.name,
        "Options": Some(&volume.options).filter(|options| !options.is_empty()),
        "Scope": "local",
    })
}
