//! What nothing reaches is found by looking, and goes; not while anything is in doubt.

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;

use super::damage::Reach;
use super::{State, Store, Swept, digests_in};
use crate::digest::Digest;

/// What is needed, and whether that is all that can be known.
struct Needed {
    chains: HashSet<Digest>,
    blobs: HashSet<Digest>,
    /// Whether the blob of some layer is not known.
    any_blob: bool,
}

impl Store {
    /// Removes the blobs and layers that no image and no container reaches, or, while something
    /// comes in, as soon as it is in.
    pub(crate) fn sweep(&self) -> Swept {
        let mut state = self.state();
        if state.ingests > 0 {
            state.sweep = true;
            return Swept::default();
        }
        let needed = match self.needed(&state) {
            Ok(needed) => needed,
            Err(reason) => {
                tracing::warn!(
                    reason,
                    "nothing is removed from the images: what is needed is not known"
                );
                return Swept::default();
            }
        };
        let (swept, trash) = self.take_out(&needed);
        drop(state);
        for path in trash {
            // What stays is swept when the store is opened next.
            let _ = fs::remove_dir_all(path);
        }
        swept
    }

    /// What images, containers and damaged records need, or why that is not known.
    fn needed(&self, state: &State) -> Result<Needed, String> {
        if let Some(reason) = state.doubt.first() {
            return Err(reason.clone());
        }
        let mut reach = Reach::default();
        for (image, manifest) in &state.images {
            reach.blobs.extend([image.id.0, *manifest]);
            reach.chains.extend(&image.layers);
        }
        for (_, user) in state.all_users() {
            reach.blobs.insert(user.image.0);
            reach.chains.extend(&user.layers);
        }
        for damaged in &state.damaged {
            let known = damaged.reach.as_ref().ok_or_else(|| damaged.why.clone())?;
            reach.blobs.extend(&known.blobs);
            reach.chains.extend(&known.chains);
        }
        let mut any_blob = false;
        for chain in &reach.chains {
            match self.layer(*chain) {
                Ok(layer) => drop(reach.blobs.insert(layer.blob)),
                Err(_) => any_blob = true,
            }
        }
        Ok(Needed { chains: reach.chains, blobs: reach.blobs, any_blob })
    }

    /// Takes what is not needed out of its place: what that was, and where it is to be removed.
    fn take_out(&self, needed: &Needed) -> (Swept, Vec<PathBuf>) {
        let mut swept = Swept::default();
        let mut trash = Vec::new();
        for chain in digests_in(&self.root.join("layers")) {
            if needed.chains.contains(&chain) {
                continue;
            }
            let size = self.layer(chain).map_or(0, |layer| layer.size);
            let aside = self.temporary();
            // The short name first: one without a layer is made again, never followed.
            let _ = fs::remove_file(self.short_link(chain));
            if fs::rename(self.layer_path(chain), &aside).is_ok() {
                swept.layers.insert(chain);
                swept.size += size;
                trash.push(aside);
            }
        }
        if needed.any_blob {
            return (swept, trash);
        }
        for blob in digests_in(&self.root.join("blobs/sha256")) {
            if needed.blobs.contains(&blob) {
                continue;
            }
            let path = self.blob_path(blob);
            let size = fs::metadata(&path).map_or(0, |meta| meta.len());
            if fs::remove_file(path).is_ok() {
                swept.size += size;
            }
        }
        (swept, trash)
    }
}
