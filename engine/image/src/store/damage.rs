//! Records of images that cannot be read: set aside, told, and nothing goes that they may reach.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::PathBuf;

use serde_json::Value;

use super::index::{self, Record};
use super::{Store, digests_in};
use crate::config;
use crate::digest::{Digest, ImageId};
use crate::reference::Reference;
use crate::{Image, Removed};
use engine_error::{Error, Result};

/// The index as it was when it could not be read. While it is there, nothing is swept.
const ASIDE: &str = "index.json.damaged";
/// Larger blobs are not looked into for manifests.
const LARGEST_MANIFEST: u64 = 4 << 20;

/// An image that the index speaks of and that is not whole.
#[derive(Clone, Debug)]
pub(super) struct Damaged {
    /// What the index says, written again as it is.
    pub(super) entry: Value,
    pub(super) record: Option<Record>,
    /// What is wrong.
    pub(super) why: String,
    /// What it needs; nothing if that cannot be known.
    pub(super) reach: Option<Reach>,
}

/// Layers, by chain id, and blobs that something needs.
#[derive(Clone, Debug, Default)]
pub(super) struct Reach {
    pub(super) chains: HashSet<Digest>,
    pub(super) blobs: HashSet<Digest>,
}

/// What the index says.
#[derive(Debug, Default)]
pub(super) struct Read {
    pub(super) images: Vec<(Image, Digest)>,
    pub(super) damaged: Vec<Damaged>,
    /// Why nothing may be swept.
    pub(super) doubt: Vec<String>,
}

impl Damaged {
    /// What a person calls it.
    fn subject(&self) -> String {
        match &self.record {
            Some(record) => format!("image {}", record.id),
            None => "an entry of index.json".to_owned(),
        }
    }

    /// Whether a user means it.
    fn is_meant(&self, text: &str) -> bool {
        let Some(record) = &self.record else { return false };
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        let by_id = hex.len() >= 12 && record.id.0.hex().starts_with(hex);
        let name = Reference::parse(text).map(Reference::or_latest).ok();
        by_id || name.is_some_and(|name| record.names.contains(&name))
    }
}

impl Store {
    /// Reads the index. Whatever cannot be read of it keeps nothing else from being read.
    pub(super) fn read_index(&self) -> io::Result<Read> {
        let mut read = Read::default();
        let bytes = match fs::read(self.root().join("index.json")) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        match index::entries(&bytes) {
            Ok(entries) => {
                for entry in entries {
                    match self.read_entry(&entry) {
                        Ok(image) => read.images.push(image),
                        Err(damaged) => read.damaged.push(*damaged),
                    }
                }
            }
            Err(error) => {
                tracing::error!(%error, "index.json cannot be read: images are looked for by content");
                fs::rename(self.root().join("index.json"), self.aside())?;
                read.images = self.look_for_images();
            }
        }
        if self.aside().exists() {
            read.doubt.push(format!(
                "{} could not be read; names of images were in it: tag or pull them again, and then \
                 remove that file, so that layers can be removed again",
                self.aside().display()
            ));
        }
        for damaged in &read.damaged {
            tracing::error!(why = damaged.why, "{} is damaged and left out", damaged.subject());
        }
        Ok(read)
    }

    fn aside(&self) -> PathBuf {
        self.root().join(ASIDE)
    }

    fn read_entry(&self, entry: &Value) -> std::result::Result<(Image, Digest), Box<Damaged>> {
        let damaged = |record: Option<Record>, why: String, reach| {
            Box::new(Damaged { entry: entry.clone(), record, why, reach })
        };
        let record = index::record(entry).map_err(|why| damaged(None, why, None))?;
        match self.read_image(&record) {
            Ok(image) => Ok((image, record.manifest)),
            Err(error) => {
                let reach = self.reach_of(&record);
                Err(damaged(Some(record), error.chain(), reach))
            }
        }
    }

    /// What an image needs, by its configuration or else by its manifest.
    fn reach_of(&self, record: &Record) -> Option<Reach> {
        let mut reach = Reach::default();
        reach.blobs.extend([record.id.0, record.manifest]);
        let manifest = self.read_blob(record.manifest).ok();
        let blobs = manifest.and_then(|bytes| index::blobs_of(&bytes));
        reach.blobs.extend(blobs.iter().flatten());
        let config = self.read_blob(record.id.0).ok();
        let chains = config.and_then(|bytes| config::parse(&bytes).ok()?.chains().ok());
        match (chains, blobs) {
            (Some(chains), _) => reach.chains.extend(chains),
            (None, Some(blobs)) => {
                let came_from = |chain: &Digest| {
                    // One whose record is damaged may come from anywhere.
                    self.layer(*chain).map_or(true, |layer| blobs.contains(&layer.blob))
                };
                let layers = digests_in(&self.root().join("layers"));
                reach.chains.extend(layers.into_iter().filter(came_from));
            }
            (None, None) => return None,
        }
        let layers = reach.chains.iter().filter_map(|chain| self.layer(*chain).ok());
        reach.blobs.extend(layers.map(|layer| layer.blob).collect::<Vec<_>>());
        Some(reach)
    }

    /// The images whose manifests are among the blobs. They have no names.
    fn look_for_images(&self) -> Vec<(Image, Digest)> {
        let mut found: Vec<(Image, Digest)> = Vec::new();
        for digest in digests_in(&self.root().join("blobs/sha256")) {
            let small = fs::metadata(self.blob_path(digest));
            if !small.is_ok_and(|meta| meta.len() <= LARGEST_MANIFEST) {
                continue;
            }
            let Some(id) = self.read_blob(digest).ok().and_then(|bytes| index::config_of(&bytes))
            else {
                continue;
            };
            let (names, digests) = (Vec::new(), Vec::new());
            let (parent, tagged) = (None, None);
            let record =
                Record { id: ImageId(id), manifest: digest, names, digests, parent, tagged };
            let known = found.iter().any(|(image, _)| image.id == record.id);
            if let Ok(image) = self.read_image(&record)
                && !known
            {
                found.push((image, digest));
            }
        }
        found
    }

    /// What of the store cannot be read, and why.
    pub(crate) fn unreadable(&self) -> Vec<(String, String)> {
        let state = self.state();
        let damaged = state.damaged.iter();
        let damaged = damaged.map(|damaged| (damaged.subject(), damaged.why.clone()));
        let doubt = state.doubt.iter().map(|why| ("images".to_owned(), why.clone()));
        damaged.chain(doubt).collect()
    }

    /// Drops the damaged image that a user means, if there is one.
    pub(crate) fn forget_damaged(&self, text: &str) -> Result<Option<Removed>> {
        let mut state = self.state();
        let Some(at) = state.damaged.iter().position(|damaged| damaged.is_meant(text)) else {
            return Ok(None);
        };
        let id = state.damaged[at].record.as_ref().map(|record| record.id);
        if let Some((container, _)) = state.all_users().find(|(_, user)| Some(user.image) == id) {
            return Err(Error::conflict(format!(
                "conflict: unable to delete {text} (cannot be forced) - image is being used by \
                 container {}, and cannot be read: pull it again",
                container.get(..12).unwrap_or(container)
            )));
        }
        let dropped = state.damaged.remove(at);
        let images = state.images.clone();
        if let Err(error) = self.commit(&mut state, images) {
            state.damaged.insert(at, dropped);
            return Err(error);
        }
        Ok(id.map(|id| Removed::Deleted(id.to_string())))
    }
}
