//! `--squash`: all layers that a build added become one.

use std::sync::Arc;

use chrono::{SecondsFormat, Utc};
use serde_json::{Value, json};

use super::commit::{self, Ground};
use super::job::Job;
use engine_error::{Error, Result};
use image::{Digest, Image};
use tree::Tree;

/// Makes an image with one layer above its base of one with many.
pub(super) fn squash(job: &Job<'_>, built: &Arc<Image>, base: &[Digest]) -> Result<Arc<Image>> {
    let images = &job.builds.images;
    let added = commit::above(built, base);
    if added.is_empty() {
        return Ok(Arc::clone(built));
    }
    let below = Image { layers: base.to_vec(), ..Image::clone(built) };
    let ground = Ground::open(images, Some(&below), &job.workshop.place())?;
    for chain in added {
        let failed = |error| Error::internal(format!("cannot squash layer {chain}"), error);
        let layer = Tree::open(&images.layer_files(*chain)).map_err(failed)?;
        ground.tree().copy_from(&layer).map_err(failed)?;
    }
    let layer = ground.into_layer(&job.making)?;
    let mut document = images.configuration(built.id)?;
    let mut diff_ids: Vec<Value> =
        built.diff_ids()[..base.len()].iter().map(|id| json!(id)).collect();
    diff_ids.push(json!(layer.diff_id));
    document["rootfs"]["diff_ids"] = diff_ids.into();
    let now = Utc::now().to_rfc3339_opts(SecondsFormat::Nanos, true);
    let mut left = base.len();
    if let Some(history) = document["history"].as_array_mut() {
        // What is above the base has no layer of its own any more.
        for entry in history.iter_mut().filter(|entry| entry["empty_layer"] != json!(true)) {
            if left == 0 {
                entry["empty_layer"] = true.into();
            }
            left = left.saturating_sub(1);
        }
        let parents =
            if base.is_empty() { String::new() } else { format!(" to {}", base[base.len() - 1]) };
        history.push(json!({"created": now, "comment": format!("merge {}{parents}", built.id)}));
    }
    document["created"] = now.into();
    let image = commit::image(&job.making, &document, None)?;
    job.hold("squashed", &image.id.to_string())
}
