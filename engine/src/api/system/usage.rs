//! `GET /system/df`: what takes space.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::Utc;
use serde_json::{Value, json};

use crate::api::Api;
use crate::api::body::{self, Response};
use crate::api::containers::{self, walking};
use crate::api::request::Request;
use crate::api::volumes;
use crate::api::wire::{container_list, image as wire};
use engine_error::{Error, Result};
use image::{Digest, Image};

const TYPES: [&str; 4] = ["container", "image", "volume", "build-cache"];

/// `GET /system/df`. With `type`, only objects of these types are looked at.
pub async fn disk_usage(api: &Arc<Api>, request: &Request) -> Result<Response> {
    let types = request.query.all("type").to_vec();
    if let Some(unknown) = types.iter().find(|name| !TYPES.contains(&name.as_str())) {
        return Err(Error::invalid(format!("unknown object type: {unknown}")));
    }
    walking(api, move |api| {
        let wants = |name: &str| types.is_empty() || types.iter().any(|wanted| wanted == name);
        let mut usage = json!({
            "LayersSize": 0,
            "Images": null,
            "Containers": null,
            "Volumes": null,
            "BuildCache": null,
        });
        if wants("image") {
            let images = api.engine.images.list();
            let layers = layers(api, &images);
            usage["LayersSize"] = layers.values().map(|layer| layer.size).sum::<u64>().into();
            usage["Images"] = images.iter().map(|image| of_image(api, image, &layers)).collect();
        }
        if wants("container") {
            usage["Containers"] = of_containers(api);
        }
        if wants("volume") {
            usage["Volumes"] = volumes::usage(api)?.into();
        }
        if wants("build-cache") {
            usage["BuildCache"] = json!([]);
            usage["BuilderSize"] = json!(0);
        }
        Ok(body::json(&usage))
    })
    .await
}

/// A layer of some image.
struct Layer {
    size: u64,
    images: usize,
}

/// All layers of images, each once.
fn layers(api: &Api, images: &[Arc<Image>]) -> BTreeMap<Digest, Layer> {
    let mut layers = BTreeMap::new();
    for chain in images.iter().flat_map(|image| &image.layers) {
        let size = || api.engine.images.layer_size(*chain);
        layers.entry(*chain).or_insert_with(|| Layer { size: size(), images: 0 }).images += 1;
    }
    layers
}

fn of_image(api: &Api, image: &Image, layers: &BTreeMap<Digest, Layer>) -> Value {
    let users = api.engine.images.users(image.id).len();
    let shared = image.layers.iter().filter_map(|chain| layers.get(chain));
    let shared: u64 = shared.filter(|layer| layer.images > 1).map(|layer| layer.size).sum();
    let mut entry = wire::summary(image, i64::try_from(users).unwrap_or(i64::MAX));
    entry["SharedSize"] = shared.into();
    entry
}

fn of_containers(api: &Api) -> Value {
    let now = Utc::now();
    let entry = |container: &Arc<crate::container::Container>| {
        let sizes = containers::sizes_of(api, container);
        container_list::entry(container, &container.spec.image, Some(sizes), now)
    };
    api.engine.containers.list().iter().map(entry).collect()
}
