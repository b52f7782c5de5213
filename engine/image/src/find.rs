//! Which image a user means, and which of many.

use std::sync::Arc;

use super::reference::Reference;
use super::{Filter, Image, ImageId};
use engine_error::{Error, Result};

/// The image of a name, a name with digest, an id, or the unique beginning of one.
pub(super) fn find(images: &[Arc<Image>], text: &str) -> Result<Arc<Image>> {
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    if hex.len() == 64 && is_hex(hex) {
        let found = images.iter().find(|image| image.id.0.hex() == hex);
        return found.cloned().ok_or_else(|| Error::not_found(format!("No such image: {text}")));
    }
    let reference = match Reference::parse(text) {
        Ok(reference) => reference.or_latest(),
        Err(error) => return by_prefix(images, text, hex).unwrap_or(Err(error)),
    };
    if let Some(found) = by_name(images, &reference) {
        return Ok(found);
    }
    by_prefix(images, text, hex)
        .unwrap_or_else(|| Err(Error::not_found(format!("No such image: {reference}"))))
}

/// Whether `text` means the image by its id rather than by a name.
pub(super) fn is_id_of(image: &Image, text: &str) -> bool {
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    !hex.is_empty() && image.id.0.hex().starts_with(hex)
}

fn by_name(images: &[Arc<Image>], reference: &Reference) -> Option<Arc<Image>> {
    let (name, names): (_, fn(&Image) -> &Vec<String>) = match reference.digest() {
        // A tag beside a digest says nothing more.
        Some(digest) => (reference.with_digest(digest).to_string(), |image| &image.digests),
        None => (reference.to_string(), |image| &image.names),
    };
    images.iter().find(|image| names(image).contains(&name)).cloned()
}

fn by_prefix(images: &[Arc<Image>], text: &str, hex: &str) -> Option<Result<Arc<Image>>> {
    if hex.is_empty() || hex.len() > 64 || !is_hex(hex) {
        return None;
    }
    let mut found = images.iter().filter(|image| image.id.0.hex().starts_with(hex));
    let first = found.next()?;
    if found.next().is_some() {
        return Some(Err(Error::invalid(format!(
            "multiple IDs found with provided prefix: {text}"
        ))));
    }
    Some(Ok(first.clone()))
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

impl Filter {
    /// The images that pass, in the order they came.
    pub(super) fn select(&self, images: &[Arc<Image>]) -> Result<Vec<Arc<Image>>> {
        let created = |name: &Option<String>| {
            name.as_deref().map(|name| find(images, name).map(|image| image.created)).transpose()
        };
        let (before, since) = (created(&self.before)?, created(&self.since)?);
        let mut selected = Vec::new();
        for image in images {
            // What others are made of step by step is shown only to who asks for all.
            let hidden = is_dangling(image)
                && (!self.intermediate || self.dangling == Some(true))
                && has_children(images, image.id);
            let passes = !hidden
                && before.is_none_or(|before| image.created < before)
                && since.is_none_or(|since| image.created > since)
                && self.until.is_none_or(|until| image.created.is_none_or(|at| at < until))
                && self.dangling.is_none_or(|dangling| is_dangling(image) == dangling)
                && self.labels.iter().all(|label| has_label(image, label))
                && !self.without_labels.iter().any(|label| has_label(image, label));
            if passes && self.matches_reference(image)? {
                selected.push(Arc::clone(image));
            }
        }
        Ok(selected)
    }

    fn matches_reference(&self, image: &Image) -> Result<bool> {
        let mut matched = self.references.is_empty();
        for pattern in &self.references {
            for name in image.names.iter().chain(&image.digests) {
                matched |= Reference::parse(name)?.matches(pattern).map_err(|error| {
                    Error::invalid(format!("invalid filter 'reference={pattern}': {error}"))
                })?;
            }
        }
        Ok(matched)
    }
}

/// Whether an image was made of this one here.
pub(super) fn has_children(images: &[Arc<Image>], id: ImageId) -> bool {
    images.iter().any(|image| image.parent == Some(id))
}

pub(super) fn is_dangling(image: &Image) -> bool {
    image.names.is_empty() && image.digests.is_empty()
}

fn has_label(image: &Image, wanted: &str) -> bool {
    let labels = image.config.config().as_ref().and_then(|config| config.labels().as_ref());
    let Some(labels) = labels else { return false };
    match wanted.split_once('=') {
        Some((key, value)) => labels.get(key).is_some_and(|known| known == value),
        None => labels.contains_key(wanted),
    }
}
