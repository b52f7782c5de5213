//! What takes space on disk: `system df`, and the sizes of containers.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Engine;
use crate::container::Container;
use engine_error::Result;
use image::{Digest, Image};

/// What the images take.
#[derive(Clone, Debug, Default)]
pub struct ImagesUsage {
    /// Bytes of all their layers, each once.
    pub layers: u64,
    /// Each of them.
    pub images: Vec<ImageUsage>,
}

/// An image, and who shares it.
#[derive(Clone, Debug)]
pub struct ImageUsage {
    /// The image.
    pub image: Arc<Image>,
    /// How many containers are made of it.
    pub containers: usize,
    /// Bytes of the layers that other images have too.
    pub shared: u64,
}

/// The bytes of a container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Of what it has changed.
    pub own: u64,
    /// Of that and its image.
    pub all: u64,
}

impl Engine {
    /// What the images take. Blocks.
    pub fn images_usage(&self) -> ImagesUsage {
        let images = self.images.list();
        let mut layers: BTreeMap<Digest, Layer> = BTreeMap::new();
        for chain in images.iter().flat_map(|image| &image.layers) {
            let size = || self.images.layer_size(*chain);
            layers.entry(*chain).or_insert_with(|| Layer { size: size(), images: 0 }).images += 1;
        }
        let usage = |image: Arc<Image>| {
            let own = image.layers.iter().filter_map(|chain| layers.get(chain));
            let shared = own.filter(|layer| layer.images > 1).map(|layer| layer.size).sum();
            ImageUsage { containers: self.images.users(image.id).len(), shared, image }
        };
        ImagesUsage {
            layers: layers.values().map(|layer| layer.size).sum(),
            images: images.into_iter().map(usage).collect(),
        }
    }

    /// The bytes of a container. Blocks.
    pub fn sizes_of(&self, container: &Container) -> Sizes {
        let own = self.containers.size_of(container);
        let image = self.images.find(&container.image).map_or(0, |image| image.size);
        Sizes { own, all: own + image }
    }

    /// All volumes, with what they take: nothing is told of one whose file system does not answer.
    /// Blocks.
    pub fn volumes_usage(&self) -> Result<Vec<volume::Usage>> {
        self.volumes.usage(|mountpoint| self.file_systems.size(mountpoint))
    }
}

/// A layer of some image.
struct Layer {
    size: u64,
    images: usize,
}
