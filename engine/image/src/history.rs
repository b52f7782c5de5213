//! How an image came to be.

use super::store::Store;
use super::{HistoryEntry, Image, config};
use engine_error::Result;

pub(super) fn history(store: &Store, image: &Image) -> Result<Vec<HistoryEntry>> {
    let mut layers = image.layers.iter();
    let mut entries = Vec::new();
    for step in image.config.history().iter().flatten() {
        let layer = if step.empty_layer() == Some(true) { None } else { layers.next() };
        let size =
            layer.map(|chain| store.layer(*chain)).transpose()?.map_or(0, |layer| layer.size);
        entries.push(HistoryEntry {
            id: None,
            created: step.created().as_deref().and_then(config::parse_time),
            created_by: step.created_by().clone().unwrap_or_default(),
            names: Vec::new(),
            size,
            comment: step.comment().clone().unwrap_or_default(),
        });
    }
    // Layers that the history says nothing of.
    for chain in layers {
        let size = store.layer(*chain)?.size;
        let (created_by, comment) = (String::new(), String::new());
        let created = image.created;
        entries.push(HistoryEntry {
            id: None,
            created,
            created_by,
            names: Vec::new(),
            size,
            comment,
        });
    }
    if let Some(newest) = entries.last_mut() {
        newest.id = Some(image.id);
        newest.names.clone_from(&image.names);
    }
    entries.reverse();
    name_steps(store, image, &mut entries);
    Ok(entries)
}

/// Of what was built here each step's own image is known, as far as they are still there.
fn name_steps(store: &Store, image: &Image, entries: &mut [HistoryEntry]) {
    let mut parent = image.parent;
    for entry in entries.iter_mut().skip(1) {
        let Some(step) = parent.and_then(|id| store.image(id)) else { return };
        entry.id = Some(step.id);
        entry.names.clone_from(&step.names);
        parent = step.parent;
    }
}
