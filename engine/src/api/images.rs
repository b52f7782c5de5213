//! `/images`: what there is.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::Utc;
use hyper::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Api;
use super::body::{self, Response};
use super::containers::blocking;
use super::filters::Filters;
use super::request::Request;
use super::version::Version;
use super::wire::time::until;
use super::wire::{go, image as wire, syntax};
use crate::core::Engine;
use engine_error::{Error, Result};
use image::{Filter, Image, Reference, Removed};

const FILTERS: &[&str] = &["before", "dangling", "label", "label!", "reference", "since", "until"];

/// `GET /images/json`.
pub async fn list(api: &Api, request: &Request) -> Result<Response> {
    let filters = Filters::of(&request.query, FILTERS)?;
    let mut filter = filter(&filters)?;
    filter.intermediate = request.query.flag("all");
    // Older clients name a reference by a parameter of its own.
    filter.references.extend(request.query.text("filter").map(str::to_owned));
    let (engine, references) = (api.engine.clone(), filter.references.clone());
    let images = blocking(move || engine.images.search(&filter)).await?;
    let shared =
        if request.query.flag("shared-size") { Some(shared_sizes(api).await?) } else { None };
    let entry = |image: &Arc<Image>| {
        let users = || i64::try_from(api.engine.images.users(image.id).len()).unwrap_or(i64::MAX);
        let users = if request.version < Version(51) { -1 } else { users() };
        let mut entry = wire::summary(image, users);
        if !references.is_empty() {
            entry["RepoTags"] = json!(named(&image.names, &references));
        }
        if let Some(shared) = &shared {
            entry["SharedSize"] = shared.get(&image.id.to_string()).copied().unwrap_or(0).into();
        }
        wire::for_version(&mut entry, request.version);
        entry
    };
    Ok(body::json(&images.iter().map(entry).collect::<Vec<_>>()))
}

/// How many bytes of each image others have too.
async fn shared_sizes(api: &Api) -> Result<BTreeMap<String, u64>> {
    let engine = api.engine.clone();
    let usage = blocking(move || Ok(engine.images_usage())).await?;
    Ok(usage.images.iter().map(|usage| (usage.image.id.to_string(), usage.shared)).collect())
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
        until: filters.once("until")?.map(|text| until(text, now)).transpose()?.flatten(),
        references: filters.values("reference").to_vec(),
        intermediate: false,
    })
}

/// `GET /images/{name}/json`.
pub async fn inspect(api: &Api, name: &str, request: &Request) -> Result<Response> {
    let wanted = platform(request)?;
    if wanted.is_some() && request.query.flag("manifests") {
        return Err(Error::invalid(
            "conflicting options: manifests and platform options cannot both be set",
        ));
    }
    let image = find(api, name).await?;
    check_platform(&image, name, wanted.as_ref())?;
    let driver = super::system::storage_driver(api);
    Ok(body::json(&wire::inspect(&image, driver, request.version)))
}

/// `platform`, as JSON: which of an image's variants is meant.
fn platform(request: &Request) -> Result<Option<Wanted>> {
    request.query.text("platform").map(wanted_platform).transpose()
}

fn wanted_platform(text: &str) -> Result<Wanted> {
    let invalid = |told: String| Error::invalid(format!("failed to parse platform: {told}"));
    let value: Value = serde_json::from_str(text).map_err(|error| {
        let told = syntax::complaint(text.as_bytes());
        invalid(told.unwrap_or_else(|| error.to_string()))
    })?;
    let wanted: Wanted = go::from_value(value).map_err(|error| invalid(error.to_string()))?;
    if wanted.os.is_empty() || wanted.architecture.is_empty() {
        return Err(Error::invalid("both OS and Architecture must be provided"));
    }
    Ok(wanted)
}

/// A platform as clients write it.
#[derive(Debug, Default, Deserialize)]
#[serde(rename = "Platform", default)]
struct Wanted {
    os: String,
    architecture: String,
    variant: String,
}

/// An image that is for another platform is not the one that is meant.
fn check_platform(image: &Image, name: &str, wanted: Option<&Wanted>) -> Result<()> {
    let Some(wanted) = wanted else { return Ok(()) };
    let (os, architecture) =
        (image.config.os().to_string(), image.config.architecture().to_string());
    let variant = image.config.variant().clone().unwrap_or_default();
    let same = (os.as_str(), architecture.as_str()) == (&wanted.os, &wanted.architecture)
        && (wanted.variant.is_empty() || variant.is_empty() || variant == wanted.variant);
    if same {
        return Ok(());
    }
    let mut asked = format!("{}/{}", wanted.os, wanted.architecture);
    if !wanted.variant.is_empty() {
        asked = format!("{asked}/{}", wanted.variant);
    }
    Err(Error::not_found(format!(
        "image with reference {name} was found but its platform ({os}/{architecture}) does not match \
         the specified platform ({asked})"
    )))
}

async fn find(api: &Api, name: &str) -> Result<Arc<Image>> {
    let (engine, name) = (api.engine.clone(), name.to_owned());
    blocking(move || engine.images.find(&name)).await
}

/// `GET /images/{name}/history`.
pub async fn history(api: &Api, name: &str, request: &Request) -> Result<Response> {
    if let Some(wanted) = platform(request)? {
        check_platform(&*find(api, name).await?, name, Some(&wanted))?;
    }
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
    let target = target(repository, request.query.text("tag"))?;
    let (engine, source, new) = (api.engine.clone(), name.to_owned(), target.clone());
    blocking(move || engine.images.tag(&source, &new)).await?;
    let image = find(api, &target).await?;
    let name = Reference::parse(&target)?.to_string();
    publish(api, "tag", &image.id.to_string(), &name);
    Ok(body::empty(StatusCode::CREATED))
}

/// The name that a repository and a tag make. A tag of its own is stronger than that of the name.
fn target(repository: &str, tag: Option<&str>) -> Result<String> {
    let ambiguous = repository.starts_with("sha256:");
    if ambiguous {
        let why = "refusing to create an ambiguous tag using digest algorithm as name";
        return Err(Error::invalid(why));
    }
    let reference = Reference::parse(repository)?;
    if reference.digest().is_some() {
        return Err(Error::invalid("cannot import digest reference"));
    }
    match tag {
        Some(tag) => {
            let tagged = reference.with_tag(tag);
            tagged
                .map(|tagged| tagged.to_string())
                .map_err(|_| Error::invalid("invalid tag format"))
        }
        None if reference.tag().is_some() => Ok(repository.to_owned()),
        None => Ok(format!("{repository}:latest")),
    }
}

/// `DELETE /images/{name}`.
pub async fn remove(api: &Api, name: &str, request: &Request) -> Result<Response> {
    if name.trim().is_empty() {
        return Err(Error::invalid("image name cannot be blank"));
    }
    // An image has one platform here: which is named changes nothing.
    request.query.all("platforms").iter().try_for_each(|text| wanted_platform(text).map(drop))?;
    let force = request.query.flag("force");
    let alone = request.query.flag("noprune");
    let (engine, key) = (api.engine.clone(), name.to_owned());
    let id = find(api, name).await?.id.to_string();
    let removed = blocking(move || {
        let (images, running) = (&engine.images, |id: &str| is_running(&engine, id));
        if alone {
            images.remove_alone(&key, force, &running)
        } else {
            images.remove(&key, force, &running)
        }
    });
    let removed = removed.await?;
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
