//! What a step leaves: a layer or none, and an image on top of the one before.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use chrono::{SecondsFormat, Utc};
use serde_json::{Value, json};

use engine_error::{Error, Result};
use image::rootfs::{Root, RootFs};
use image::{Digest, Image, ImageId, Keep, Making, NewLayer, Platform};
use tree::Tree;

/// The configuration of an image of nothing.
pub(super) fn nothing(platform: &Platform) -> Value {
    let mut document = json!({
        "architecture": platform.architecture,
        "os": platform.os,
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": []},
        "history": [],
    });
    if !platform.variant.is_empty() {
        document["variant"] = platform.variant.as_str().into();
    }
    document
}

/// What a step did.
#[derive(Debug)]
pub(super) struct Step<'a> {
    /// What the history says of it.
    pub(super) created_by: &'a str,
    /// The configuration after it.
    pub(super) config: &'a Value,
    /// The author after it.
    pub(super) author: &'a str,
    /// The layer it left.
    pub(super) layer: Option<NewLayer>,
}

/// The configuration of an image after a step, on that of the image before.
pub(super) fn document(before: &Value, step: &Step<'_>) -> Value {
    let now = Utc::now().to_rfc3339_opts(SecondsFormat::Nanos, true);
    let mut document = before.clone();
    for leftover in ["container", "container_config", "parent", "id", "comment"] {
        dockerfile::config::remove(&mut document, leftover);
    }
    document["created"] = now.as_str().into();
    document["config"] = step.config.clone();
    let mut entry = json!({"created": now, "created_by": step.created_by});
    if !step.author.is_empty() {
        document["author"] = step.author.into();
        entry["author"] = step.author.into();
    }
    match step.layer {
        Some(layer) => push(&mut document["rootfs"]["diff_ids"], json!(layer.diff_id)),
        None => entry["empty_layer"] = true.into(),
    }
    push(&mut document["history"], entry);
    document
}

/// Makes the image of a configuration.
pub(super) fn image(
    making: &Making,
    document: &Value,
    parent: Option<ImageId>,
) -> Result<Arc<Image>> {
    making.image(document.to_string().as_bytes(), &[], parent)
}

fn push(list: &mut Value, item: Value) {
    match list.as_array_mut() {
        Some(items) => items.push(item),
        None => *list = json!([item]),
    }
}

/// A root file system to work on, in which nothing runs.
#[derive(Debug)]
pub(super) struct Ground {
    rootfs: RootFs,
    tree: Tree,
    /// What keeps the tree mounted.
    mount: Option<Tree>,
}

impl Ground {
    /// That of an image, or an empty one, made in a directory of its own.
    pub(super) fn open(images: &image::Images, image: Option<&Image>, dir: &Path) -> Result<Self> {
        let rootfs = match image {
            Some(image) => RootFs::prepare(images, image, dir)?,
            None => RootFs::again(images, &BTreeMap::new(), dir)?,
        };
        let failed = |error| Error::internal(format!("cannot open {}", dir.display()), error);
        let (tree, mount) = match rootfs.open()? {
            Root::Mount(mount) => {
                // A mount's own descriptor names it only: owners and times are not set by it.
                let mount = Tree::from(mount);
                let gone = || std::io::Error::from(std::io::ErrorKind::NotFound);
                let root = mount.below(Path::new("."));
                let root = root.and_then(|root| root.ok_or_else(gone)).map_err(failed)?;
                (root, Some(mount))
            }
            Root::Directory(path) => (Tree::open(&path).map_err(failed)?, None),
        };
        Ok(Self { rootfs, tree, mount })
    }

    /// Its files.
    pub(super) fn tree(&self) -> &Tree {
        &self.tree
    }

    /// What is at a path below, as the users of containers see it, as a mount that is attached nowhere.
    /// What is written there is kept beside the layers.
    pub(super) fn into_part(
        self,
        images: &image::Images,
        below: &Path,
        writable: bool,
    ) -> Result<OwnedFd> {
        let Self { rootfs, tree, mount } = self;
        // Two overlays at a time are not to write to one directory.
        drop((tree, mount));
        let rootfs = rootfs.remapped(images);
        let part = if writable { rootfs.writable_part(below) } else { rootfs.part(below) };
        part.map_err(|unreachable| {
            let text = format!("cannot mount /{}", below.display());
            Error::internal(text, unreachable.error)
        })
    }

    /// What was changed, as a layer.
    pub(super) fn into_layer(self, making: &Making) -> Result<NewLayer> {
        let Self { rootfs, tree, mount } = self;
        // The mount goes first: what is moved is no longer worked on.
        drop((tree, mount));
        making.layer(&rootfs, Keep::Move)
    }
}

/// The chain ids of an image's layers above those of another.
pub(super) fn above<'a>(image: &'a Image, base: &[Digest]) -> &'a [Digest] {
    image.layers.get(base.len()..).unwrap_or_default()
}
