//! `/images`: what there is.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::Utc;
use hyper::StatusCode;
use serde_json::{Value, json};

use super::Api;
use super::body::{self, Response};
use super::containers::blocking;
use super::filters::Filters;
use super::request::Request;
use super::version::Version;
use super::wire::image as wire;
use super::wire::time::point;
use crate::core::Engine;
use engine_error::{Error, Result};
use image::{Filter, Image, Reference, Removed};

const FILTERS: &[&str] = &["before", "dangling", "label", "label!", "reference", "since", "until"];

/// `GET /images/json`.
pub async fn list(api: &Api, request: &Request) -> Result<Response> {
    let filters = Filters::of(&request.query, FILTERS)?;
    let mut filter = filter(&filters)?;
    // Older clients name a reference by a parameter of its own.
    filter.references.extend(request.query.text("filter").map(str::to_owned));
    let (engine, references) = (api.engine.clone(), filter.references.clone());
    let images = blocking(move || engine.images.search(&filter)).await?;
    let dangling_has_a_name = request.version < Version(43);
    let entry = |image: &Arc<Image>| {
        let mut entry = wire::summary(image, -1);
        if !references.is_empty() {
            entry["RepoTags"] = json!(named(&image.names, &references));
        }
        if dangling_has_a_name && image.names.is_empty() {
            entry["RepoTags"] = json!(["<none>:<none>"]);
        }
        entry
    };
    Ok(body::json(&images.iter().map(entry).collect::<Vec<_>>()))
}

/// Of an image's names, those that were asked for.
fn named<'a>(names: &'a [String], patterns: &[String]) -> Vec<&'a String> {
    let wanted = |name: &&String| {
        let reference = Reference::parse(name);
        reference.is_ok_and(|name| patterns.iter().any(|p| name.matches(p).unwrap_or(false)))
    };
    names.iter().filter(wanted).collect()
}

fn filter(filters: &Filters) -> Result<Filter> {
    let first = |name| filters.values(name).first().cloned();
    let now = Utc::now();
    Ok(Filter {
        dangling: filters.flag("dangling")?,
        labels: filters.values("label").to_vec(),
        without_labels: filters.values("label!").to_vec(),
        before: first("before"),
        since: first("since"),
        until: first("until").map(|text| point(&text, now)).transpose()?.flatten(),
        references: filters.values("reference").to_vec(),
    })
}

/// `GET /images/{name}/json`.
pub async fn inspect(api: &Api, name: &str, version: Version) -> Result<Response> {
    let image = find(api, name).await?;
    Ok(body::json(&wire::inspect(&image, super::system::storage_driver(api), version)))
}

async fn find(api: &Api, name: &str) -> Result<Arc<Image>> {
    let (engine, name) = (api.engine.clone(), name.to_owned());
    blocking(move || engine.images.find(&name)).await
}

/// `GET /images/{name}/history`.
pub async fn history(api: &Api, name: &str) -> Result<Response> {
    let (engine, name) = (api.engine.clone(), name.to_owned());
    let entries = blocking(move || engine.images.history(&name)).await?;
    Ok(body::json(&entries.iter().map(wire::history).collect::<Vec<_>>()))
}

/// `POST /images/{name}/tag`.
pub async fn tag(api: &Api, name: &str, request: &Request) -> Result<Response> {
    let repository = request.query.text("repo").unwrap_or_default();
    if repository.is_empty() {
        return Err(Error::invalid("invalid reference format: the parameter repo is required"));
    }
    let target = format!("{repository}:{}", request.query.text("tag").unwrap_or("latest"));
    let (engine, source, new) = (api.engine.clone(), name.to_owned(), target.clone());
    blocking(move || engine.images.tag(&source, &new)).await?;
    let image = find(api, &target).await?;
    let name = Reference::parse(&target)?.to_string();
    publish(api, "tag", &image.id.to_string(), &name);
    Ok(body::empty(StatusCode::CREATED))
}

/// `DELETE /images/{name}`.
pub async fn remove(api: &Api, name: &str, request: &Request) -> Result<Response> {
    let force = request.query.flag("force");
    let (engine, key) = (api.engine.clone(), name.to_owned());
    let id = find(api, name).await?.id.to_string();
    let removed =
        blocking(move || engine.images.remove(&key, force, &|id| is_running(&engine, id))).await?;
    tell_removed(api, &id, &removed);
    Ok(body::json(&removed.iter().map(wire::removed).collect::<Vec<_>>()))
}

/// `POST /images/prune`.
pub async fn prune(api: &Api, request: &Request) -> Result<Response> {
    let filters = Filters::of(&request.query, &["dangling", "label", "label!", "until"])?;
    let all = filters.flag("dangling")? == Some(false);
    let filter = Filter { dangling: None, ..filter(&filters)? };
    let engine = api.engine.clone();
    let pruned = blocking(move || engine.images.prune(&filter, all)).await?;
    tell_removed(api, "", &pruned.removed);
    api.engine.events.pruned("image", pruned.reclaimed);
    let removed: Vec<Value> = pruned.removed.iter().map(wire::removed).collect();
    let removed = if removed.is_empty() { Value::Null } else { Value::Array(removed) };
    Ok(body::json(&json!({"ImagesDeleted": removed, "SpaceReclaimed": pruned.reclaimed})))
}

/// Whether a container runs, by its full id.
fn is_running(engine: &Engine, id: &str) -> bool {
    engine.containers.find(id).is_ok_and(|container| container.state.is_running())
}

/// Tells listeners what happened to an image, with its labels if it is still there.
pub fn publish(api: &Api, action: &str, id: &str, name: &str) {
    let image = api.engine.images.find(id).ok();
    let config = image.as_ref().and_then(|image| image.config.config().as_ref());
    let labels = config.and_then(|config| config.labels().clone()).unwrap_or_default();
    let mut attributes: BTreeMap<_, _> = labels.into_iter().collect();
    attributes.insert("name".to_owned(), name.to_owned());
    api.engine.events.publish("image", action, id, attributes);
}

/// Tells what a removal did. `id` is of the image whose names go and that stays.
fn tell_removed(api: &Api, id: &str, removed: &[Removed]) {
    for (at, effect) in removed.iter().enumerate() {
        match effect {
            // The names of an image that goes come before it.
            Removed::Untagged(_) => {
                let deleted = removed[at..].iter().find_map(|effect| match effect {
                    Removed::Deleted(id) => Some(id.as_str()),
                    _ => None,
                });
                let id = deleted.unwrap_or(id);
                publish(api, "untag", id, id);
            }
            Removed::Deleted(id) => publish(api, "delete", id, id),
            Removed::DeletedLayer(_) => {}
        }
    }
}
