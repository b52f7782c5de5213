//! `GET /system/df`: what takes space.

use std::sync::Arc;

use chrono::Utc;
use serde_json::{Value, json};

use crate::api::Api;
use crate::api::body::{self, Response};
use crate::api::containers::walking;
use crate::api::request::Request;
use crate::api::version::Version;
use crate::api::volumes;
use crate::api::wire::container_list::{self, Called};
use crate::api::wire::image as wire;
use crate::core::usage::ImageUsage;
use engine_error::{Error, Result};

const TYPES: [&str; 4] = ["container", "image", "volume", "build-cache"];

/// `GET /system/df`. With `type`, only objects of these types are looked at.
pub async fn disk_usage(api: &Arc<Api>, request: &Request) -> Result<Response> {
    let types = request.query.all("type").to_vec();
    if let Some(unknown) = types.iter().find(|name| !TYPES.contains(&name.as_str())) {
        return Err(Error::invalid(format!("unknown object type: {unknown}")));
    }
    let (version, shown) = (request.version, Version(42));
    // Older clients are told of everything.
    let types = if version < shown { Vec::new() } else { types };
    walking(api, &request.left, move |api| {
        let wants = |name: &str| types.is_empty() || types.iter().any(|wanted| wanted == name);
        let mut usage = json!({
            "LayersSize": 0,
            "Images": null,
            "Containers": null,
            "Volumes": null,
            "BuildCache": null,
        });
        if wants("image") {
            let images = api.engine.images_usage();
            usage["LayersSize"] = images.layers.into();
            usage["Images"] = images.images.iter().map(|usage| of_image(usage, version)).collect();
        }
        if wants("container") {
            usage["Containers"] = of_containers(api);
        }
        if wants("volume") {
            usage["Volumes"] = volumes::usage(api)?.into();
        }
        if wants("build-cache") {
            usage["BuildCache"] = json!([]);
        }
        Ok(body::json(&usage))
    })
    .await
}

fn of_image(usage: &ImageUsage, version: Version) -> Value {
    let users = i64::try_from(usage.containers).unwrap_or(i64::MAX);
    let mut entry = wire::summary(&usage.image, users);
    entry["SharedSize"] = usage.shared.into();
    wire::for_version(&mut entry, version);
    if usage.image.digests.is_empty() && !usage.image.names.is_empty() {
        entry["RepoDigests"] = Value::Null;
    }
    entry
}

fn of_containers(api: &Api) -> Value {
    let now = Utc::now();
    let entry = |container: &Arc<crate::container::Container>| {
        let sizes = api.engine.sizes_of(container);
        let names = api.engine.containers.names_of(container);
        let called = Called { names: &names, image: &container.spec.image };
        container_list::entry(container, &called, Some(sizes), now)
    };
    api.engine.containers.list().iter().map(entry).collect()
}
