//! The containers that are made of images. What one is made of is never taken from under it.

use std::sync::Arc;

use super::Store;
use crate::Image;
use crate::digest::{Digest, ImageId};
use crate::find::find;
use engine_error::Result;

/// What a container needs.
#[derive(Clone, Debug)]
pub(super) struct User {
    pub(super) image: ImageId,
    pub(super) layers: Vec<Digest>,
}

impl Store {
    /// Finds an image and makes a container a user of it, in one step.
    pub(crate) fn hold(&self, container: &str, reference: &str) -> Result<Arc<Image>> {
        let mut state = self.state();
        let images: Vec<_> = state.images.iter().map(|(image, _)| image.clone()).collect();
        let image = find(&images, reference)?;
        let user = User { image: image.id, layers: image.layers.clone() };
        state.users.insert(container.to_owned(), user);
        Ok(image)
    }

    /// Notes a user that an earlier daemon made one. Its layers are what it says, whatever has
    /// become of the image.
    pub(crate) fn keep(&self, container: &str, image: ImageId, mut layers: Vec<Digest>) {
        let mut state = self.state();
        let known = state.images.iter().find(|(known, _)| known.id == image);
        layers.extend(known.iter().flat_map(|(image, _)| &image.layers));
        state.users.insert(container.to_owned(), User { image, layers });
    }

    /// The container is gone.
    pub(crate) fn release(&self, container: &str) {
        self.state().users.remove(container);
    }

    /// The containers that are made of an image.
    pub(crate) fn users(&self, image: ImageId) -> Vec<String> {
        let state = self.state();
        let users = state.users.iter().filter(|(_, user)| user.image == image);
        users.map(|(container, _)| container.clone()).collect()
    }

    /// Notes why users are not all known: from now on nothing is swept.
    pub(crate) fn doubt(&self, reason: String) {
        self.state().doubt.push(reason);
    }
}
