//! `import`: a tar of a root file system becomes an image of one layer.

use std::fs;
use std::io::Read;
use std::sync::Arc;

use chrono::Utc;
use serde_json::{Value, json};

use super::Platform;
use super::archive;
use super::digest::ImageId;
use super::reference::Reference;
use super::store::{NewImage, Store};
use engine_error::{Error, Result};

pub(super) fn import(
    store: &Arc<Store>,
    archive: impl Read,
    reference: Option<&str>,
    config: &Value,
    message: &str,
) -> Result<ImageId> {
    // All that can be wrong with the request comes before the first byte.
    let name =
        reference.map(|text| Reference::parse(text).map(Reference::or_latest)).transpose()?;
    if name.as_ref().is_some_and(|name| name.digest().is_some()) {
        return Err(Error::invalid("cannot import digest reference"));
    }
    // There is no other source of archives.
    let comment = if message.is_empty() { "Imported from -" } else { message };
    let _ingest = store.ingest();
    let failed = |error| archive::refused("cannot read the archive to import", error);
    let (path, blob, _) = store.spool(archive).map_err(failed)?;
    let adopted = store.adopt_layer(&path, blob);
    if adopted.is_err() {
        // What stays is swept when the store is opened next.
        let _ = fs::remove_file(&path);
    }
    let blob = adopted.map_err(failed)?;
    let file = store.open_blob(blob)?;
    let layer = store.unpack_aside(file, Some(blob), &mut |_| {}).map_err(failed)?;
    let diff_id = layer.diff_id();
    store.place(layer, diff_id.chain(None), diff_id, blob)?;
    let platform = Platform::host();
    let now = Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Nanos, true);
    let mut document = json!({
        "architecture": platform.architecture,
        "os": platform.os,
        "created": now,
        "comment": comment,
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        "history": [{"created": now, "comment": comment}],
    });
    if !platform.variant.is_empty() {
        document["variant"] = platform.variant.into();
    }
    let image = store.add_image(&NewImage {
        config: document.to_string().as_bytes(),
        names: name.as_slice(),
        digests: &[],
        parent: None,
    })?;
    Ok(image.id)
}
