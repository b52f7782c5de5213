//! The containers that are made of images, or mount them. What one needs is never taken from under it.

use std::sync::Arc;

use super::{State, Store};
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
        let image = find(&state.readable(), reference)?;
        let user = User { image: image.id, layers: image.layers.clone() };
        state.users.insert(container.to_owned(), user);
        Ok(image)
    }

    /// Notes a user that an earlier daemon made one. Its layers are what it says, whatever has
    /// become of the image.
    pub(crate) fn keep(&self, container: &str, image: ImageId, layers: Vec<Digest>) {
        let mut state = self.state();
        let user = state.user(image, layers);
        state.users.insert(container.to_owned(), user);
    }

    /// Finds an image and notes that a container mounts it, in one step.
    pub(crate) fn hold_mounted(&self, container: &str, reference: &str) -> Result<Arc<Image>> {
        let mut state = self.state();
        let image = find(&state.readable(), reference)?;
        let user = User { image: image.id, layers: image.layers.clone() };
        state.mounting.entry(container.to_owned()).or_default().push(user);
        Ok(image)
    }

    /// Notes that a container mounts an image, as an earlier daemon or another container has it.
    pub(crate) fn keep_mounted(&self, container: &str, image: ImageId, layers: Vec<Digest>) {
        let mut state = self.state();
        let user = state.user(image, layers);
        state.mounting.entry(container.to_owned()).or_default().push(user);
    }

    /// The container is gone.
    pub(crate) fn release(&self, container: &str) {
        let mut state = self.state();
        state.users.remove(container);
        state.mounting.remove(container);
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

impl State {
    /// All containers with what they need: those that are made of images first.
    pub(super) fn all_users(&self) -> impl Iterator<Item = (&String, &User)> {
        let mounting = self.mounting.iter();
        let mounting =
            mounting.flat_map(|(container, all)| all.iter().map(move |user| (container, user)));
        self.users.iter().chain(mounting)
    }

    fn readable(&self) -> Vec<Arc<Image>> {
        self.images.iter().map(|(image, _)| image.clone()).collect()
    }

    /// One that needs these layers, and those of the image if that is known.
    fn user(&self, image: ImageId, mut layers: Vec<Digest>) -> User {
        let known = self.images.iter().find(|(known, _)| known.id == image);
        layers.extend(known.iter().flat_map(|(image, _)| &image.layers));
        User { image, layers }
    }
}
