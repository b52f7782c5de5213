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
use volume::{Description, LOCAL, New};

const FILTERS: &[&str] = &["dangling", "driver", "label", "label!", "name"];

/// Body of `POST /volumes/create`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename = "CreateOptions", rename_all = "PascalCase", default)]
struct Create {
    name: String,
    driver: String,
    driver_opts: BTreeMap<String, String>,
    labels: BTreeMap<String, String>,
    cluster_volume_spec: Option<Value>,
}

/// `GET /volumes`.
pub async fn list(api: &Arc<Api>, request: &Request) -> Result<Response> {
    let filters =
        Filters::of(&request.query, FILTERS).map_err(|error| match error.to_string() {
            text if text == "invalid filter" => {
                Error::invalid("error reading volume filters: invalid filter")
            }
            _ => error,
        })?;
    let dangling = filters.flag("dangling")?;
    let volumes = api.engine.volumes.clone();
    let list = move || {
        let accepts = |description: &Description| {
            let volume = &description.volume;
            filters.labels(|key| volume.labels.get(key).map(String::as_str))
                && filters.exact("driver", volume.driver_name())
                && filters.any("name", |wanted| volume.name.contains(wanted))
                && dangling
                    .is_none_or(|dangling| volumes.users(&volume.name).is_empty() == dangling)
        };
        let (all, warnings) = volumes.describe_all()?;
        let accepted = all.iter().filter(|description| accepts(description));
        Ok((accepted.map(wire).collect::<Vec<_>>(), warnings))
    };
    let (volumes, warnings) = blocking(list).await?;
    let warnings = Some(warnings).filter(|warnings| !warnings.is_empty());
    Ok(body::json(&json!({"Volumes": volumes, "Warnings": warnings})))
}

/// `POST /volumes/create`.
pub async fn create(api: &Arc<Api>, request: Request) -> Result<Response> {
    let create: Create = request.json().await?;
    if create.cluster_volume_spec.is_some() {
        return super::swarm::without_volumes(api);
    }
    let volumes = api.engine.volumes.clone();
    let Create { name, driver, driver_opts, labels, .. } = create;
    let new = New { driver, labels, options: driver_opts };
    let create = move || {
        // Docker says of which volume, once.
        let begin = format!("create {name}: ");
        let of_it = |error: Error| match error.kind() {
            cnm::Kind::Invalid if !error.to_string().starts_with(&begin) => {
                Error::invalid(format!("{begin}{error}"))
            }
            _ => error,
        };
        volumes.create_with(&name, &new).map_err(of_it)
    };
    let (volume, is_new) = blocking(create).await?;
    if is_new {
        let driver = [("driver", volume.driver_name())];
        api.engine.events.volume("create", &volume.name, &driver);
    }
    Ok(body::json_with(StatusCode::CREATED, &wire(&volume.into())))
}

/// `GET /volumes/{name}`.
pub async fn inspect(api: &Arc<Api>, name: &str) -> Result<Response> {
    let (volumes, name) = (api.engine.volumes.clone(), name.to_owned());
    let description = blocking(move || volumes.describe(&name)).await?;
    Ok(body::json(&wire(&description)))
}

/// `DELETE /volumes/{name}`.
pub async fn remove(api: &Arc<Api>, name: &str, request: &Request) -> Result<Response> {
    let volumes = api.engine.volumes.clone();
    let (force, key) = (request.query.flag("force"), name.to_owned());
    let remove = move || {
        let driver = volumes.find(&key).map(|volume| volume.driver_name().to_owned());
        volumes.remove(&key).map(|()| driver.unwrap_or_else(|_| LOCAL.to_owned()))
    };
    match blocking(remove).await {
        Err(error) if force && error.kind() == cnm::Kind::NotFound => {}
        result => api.engine.events.volume("destroy", name, &[("driver", &result?)]),
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
        let mut value = wire(&usage.volume.into());
        // Docker's word for a size that is not known.
        let size = usage.size.map_or(json!(-1), Value::from);
        value["UsageData"] = json!({"Size": size, "RefCount": usage.users});
        value
    };
    Ok(api.engine.volumes_usage()?.into_iter().map(entry).collect())
}

fn wire(description: &Description) -> Value {
    let volume = &description.volume;
    let mut value = json!({
        "CreatedAt": rfc3339(volume.created),
        "Driver": volume.driver_name(),
        "Labels": volume.labels,
        "Mountpoint": volume.mountpoint.display().to_string(),
        "Name": volume.name,
        "Options": Some(&volume.options).filter(|options| !options.is_empty()),
        "Scope": description.scope,
    });
    if let Some(status) = &description.status {
        value["Status"] = status.clone();
    }
    value
}
