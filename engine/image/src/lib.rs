//! Images: a content-addressed OCI layout, its layers unpacked once.
//!
//! An image is known by the digest of its configuration. Names point at images, images at layers
//! (by chain id), layers at the blob they were unpacked from; what nothing points at is swept.
//! Nothing is believed on the way in: compressed digests, diff ids and sizes are checked while
//! the bytes stream through. All operations block, but for [`Images::pull`].

mod archive;
mod behaviour;
pub mod builtin;
mod compression;
mod config;
pub mod context;
mod digest;
mod extract;
mod find;
mod handoff;
mod history;
mod import;
mod limits;
mod making;
pub mod pack;
mod platform;
mod progress;
mod pull;
mod push;
pub mod reference;
mod registry;
pub mod remote;
mod remove;
mod request;
pub mod rootfs;
mod save;
mod store;
pub mod tarball;
pub mod unpack;

use std::collections::BTreeMap;
use std::fmt;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use chrono::{DateTime, Utc};
use oci_spec::image::ImageConfiguration;
use tokio::sync::mpsc;

use self::behaviour::Behaviour;
pub use self::behaviour::Options;
pub use self::digest::{Digest, ImageId};
pub use self::making::{Keep, Making, NewLayer};
pub use self::pull::Described;
pub use self::reference::Reference;
pub use self::registry::SearchResult;
pub use self::request::{PullRequest, Pulled, PushRequest, Pushed, RegistryAuth};
use self::store::Store;
pub use self::store::unpack_layer;
use engine_error::{Error, Result};

/// The images of one daemon.
#[derive(Clone, Debug)]
pub struct Images {
    store: Arc<Store>,
    behaviour: Arc<ArcSwap<Behaviour>>,
    pruning: Arc<Mutex<()>>,
    fetching: Arc<pull::Fetching>,
    mounter: Arc<rootfs::Mounter>,
    remapped: Option<Arc<rootfs::Mounter>>,
}

/// One image, as it is in the store.
#[derive(Clone, Debug)]
pub struct Image {
    /// The digest of the configuration.
    pub id: ImageId,
    /// `repository:tag` in the familiar form; empty for a dangling image.
    pub names: Vec<String>,
    /// `repository@sha256:…` in the familiar form.
    pub digests: Vec<String>,
    /// The configuration in OCI's terms.
    pub config: ImageConfiguration,
    /// What Docker keeps in the configuration beyond OCI.
    pub extra: Extra,
    /// Chain ids of the unpacked layers, lowest first.
    pub layers: Vec<Digest>,
    /// Bytes of the unpacked layers.
    pub size: u64,
    /// The image that it was made of here, step by step.
    pub parent: Option<ImageId>,
    /// When it was built, as the configuration says.
    pub created: Option<DateTime<Utc>>,
    /// When it was last given a name here, whichever way.
    pub tagged: Option<DateTime<Utc>>,
}

/// The fields of a configuration that Docker has and OCI has not, as they came.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Extra {
    /// `Config.Healthcheck`.
    pub healthcheck: Option<serde_json::Value>,
    /// `Config.Shell`.
    pub shell: Option<Vec<String>>,
    /// `Config.OnBuild`.
    pub on_build: Vec<String>,
    /// `comment`.
    pub comment: String,
    /// `docker_version`.
    pub docker_version: String,
    /// `container`: which one the image was made of.
    pub container: String,
    /// `container_config`: what that one was, as the API told it.
    pub container_config: Option<serde_json::Value>,
}

/// One step of a transfer, in the shape Docker's clients draw: a status line, often of a layer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The layer (12 hex), the tag, or nothing.
    pub id: Option<String>,
    /// What happens: `Downloading`, `Pull complete`, …
    pub status: String,
    /// Bytes done and to do.
    pub detail: Option<(u64, u64)>,
    /// What programs read: of a push, `Tag`, `Digest` and `Size`.
    pub aux: Option<serde_json::Value>,
}

/// An image or a name that `load` brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loaded {
    /// `Loaded image: x:1`.
    Name(String, ImageId),
    /// `Loaded image ID: sha256:…`, of an image without names.
    Id(ImageId),
}

/// One effect of a removal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removed {
    /// A name went; the image may have others.
    Untagged(String),
    /// An image went.
    Deleted(String),
    /// A layer went.
    DeletedLayer(String),
}

/// A container that keeps an image from being removed.
#[derive(Clone, Debug)]
pub struct ImageUse {
    /// The container's id.
    pub container: String,
    /// The image it was made of.
    pub image: ImageId,
}

/// What a `prune` did.
#[derive(Clone, Debug, Default)]
pub struct Pruned {
    /// What went, in order.
    pub removed: Vec<Removed>,
    /// Bytes freed.
    pub reclaimed: u64,
}

/// One line of `history`, newest first.
#[derive(Clone, Debug)]
pub struct HistoryEntry {
    /// The image, for the newest entry; the others have none of their own.
    pub id: Option<ImageId>,
    /// When the step was made.
    pub created: Option<DateTime<Utc>>,
    /// The instruction.
    pub created_by: String,
    /// The names, on the newest entry.
    pub names: Vec<String>,
    /// Bytes the step added.
    pub size: u64,
    /// The comment.
    pub comment: String,
}

/// What to choose from a list: each condition narrows.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only images without names (`true`) or only with (`false`).
    pub dangling: Option<bool>,
    /// `key` or `key=value`, all of them.
    pub labels: Vec<String>,
    /// `key` or `key=value`, none of them.
    pub without_labels: Vec<String>,
    /// Created before this image.
    pub before: Option<String>,
    /// Created after this image.
    pub since: Option<String>,
    /// Created before this time.
    pub until: Option<DateTime<Utc>>,
    /// Patterns of names, any of them.
    pub references: Vec<String>,
    /// Images without a name that others were made of, too.
    pub intermediate: bool,
}

/// A platform, as `--platform` has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64`, … in Go's words.
    pub architecture: String,
    /// `v7`, `v8`, …; empty if it does not matter.
    pub variant: String,
}

impl Images {
    /// Opens the store under `root`, making it if it is not there.
    pub fn open(root: &Path) -> Result<Self> {
        Self::open_with(root, Options::default())
    }

    /// [`Self::open`] with options.
    pub fn open_with(root: &Path, mut options: Options) -> Result<Self> {
        let store = Store::open(root)?;
        let mounter = Arc::new(rootfs::Mounter::default());
        options.driver = options.driver.settle(&mounter, root);
        Ok(Self {
            store,
            fetching: Arc::default(),
            behaviour: Arc::new(ArcSwap::new(Behaviour::new(options))),
            pruning: Arc::default(),
            mounter,
            remapped: None,
        })
    }

    /// The image of a name, a name with digest, or an id or its unique beginning.
    pub fn find(&self, reference: &str) -> Result<Arc<Image>> {
        let found = find::find(&self.store.images(), reference);
        match found {
            Err(error) if error.kind() == cnm::Kind::NotFound && builtin::is_meant(reference) => {
                builtin::ensure(self)
            }
            found => found,
        }
    }

    /// All images, newest first.
    pub fn list(&self) -> Vec<Arc<Image>> {
        self.store.images()
    }

    /// Bytes of a layer's files; zero if there is no such layer.
    pub fn layer_size(&self, chain: Digest) -> u64 {
        self.store.layer(chain).map_or(0, |layer| layer.size)
    }

    /// The images that pass a filter, newest first.
    pub fn search(&self, filter: &Filter) -> Result<Vec<Arc<Image>>> {
        filter.select(&self.store.images())
    }

    /// Names an image once more. A name that pointed elsewhere moves.
    pub fn tag(&self, source: &str, target: &str) -> Result<Arc<Image>> {
        let target = Reference::parse(target)?.or_latest();
        if target.digest().is_some() {
            return Err(Error::invalid("refusing to create a tag with a digest reference"));
        }
        let id = self.find(source)?.id;
        let name = target.to_string();
        self.store.change(|images, _| {
            store::name(images.iter_mut(), id, &target);
            Ok(())
        })?;
        self.find(&name)
    }

    // === who uses them ===

    /// Finds an image and makes a container a user of it: it stays until the container is
    /// [released](Self::release).
    pub fn hold(&self, container: &str, reference: &str) -> Result<Arc<Image>> {
        // Asked for, the built-in image is there.
        self.find(reference)?;
        self.store.hold(container, reference)
    }

    /// Notes a user that an earlier daemon made one, with what its driver said of its root file
    /// system: its layers stay even if the image cannot be read.
    pub fn keep(&self, container: &str, image: ImageId, driver_data: &BTreeMap<String, String>) {
        self.store.keep(container, image, rootfs::layers_of(driver_data));
    }

    /// Finds an image and notes that a container mounts it: its layers stay until the container is
    /// [released](Self::release).
    pub fn hold_mounted(&self, container: &str, reference: &str) -> Result<Arc<Image>> {
        self.find(reference)?;
        self.store.hold_mounted(container, reference)
    }

    /// Notes that a container mounts an image of these layers, as an earlier daemon or another container
    /// has it.
    pub fn keep_mounted(&self, container: &str, image: ImageId, layers: &[Digest]) {
        self.store.keep_mounted(container, image, layers.to_vec());
    }

    /// What the driver notes of a root that is a copy of an image.
    pub fn driver_data(&self, image: &Image) -> BTreeMap<String, String> {
        rootfs::data_of(self.root(), &image.layers)
    }

    /// Notes that a container is gone.
    pub fn release(&self, container: &str) {
        self.store.release(container);
    }

    /// The containers that are made of an image.
    pub fn users(&self, image: ImageId) -> Vec<String> {
        self.store.users(image)
    }

    /// Notes why not all users can be known: from now on nothing is swept.
    pub fn doubt(&self, reason: impl Into<String>) {
        self.store.doubt(reason.into());
    }

    /// What of the store cannot be read, and why.
    pub fn unreadable(&self) -> Vec<(String, String)> {
        self.store.unreadable()
    }

    /// Removes what no image and no container needs: what a crash left. Only when all containers
    /// have been told of.
    pub fn sweep(&self) {
        let swept = self.store.sweep();
        if !swept.layers.is_empty() {
            tracing::info!(layers = swept.layers.len(), "swept layers without image");
        }
    }

    // === removal ===

    /// Removes a name, and the image with its last one. Containers keep their images: `running`
    /// tells which of them run.
    pub fn remove(
        &self,
        reference: &str,
        force: bool,
        running: &dyn Fn(&str) -> bool,
    ) -> Result<Vec<Removed>> {
        let how = remove::How { force, with_parents: true };
        remove::remove(&self.store, reference, how, running)
    }

    /// Removes what the filter lets through and no container uses: dangling images, or with
    /// `all` every unused image.
    pub fn prune(&self, filter: &Filter, all: bool) -> Result<Pruned> {
        let Ok(_alone) = self.pruning.try_lock() else {
            return Err(Error::conflict("a prune operation is already running"));
        };
        remove::prune(&self.store, filter, all)
    }

    // === in and out ===

    /// Takes in a Docker or OCI archive.
    pub fn load(
        &self,
        archive: impl Read,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Vec<Loaded>> {
        archive::load(&self.store, archive, progress)
    }

    /// Writes an archive that is Docker's and OCI's at once.
    pub fn save(&self, references: &[String], archive: impl Write) -> Result<()> {
        save::save(&self.store, references, archive)
    }

    /// Makes an image of one layer out of a tar of a root file system; `config` is the part of its
    /// configuration that is called so.
    pub fn import(
        &self,
        archive: impl Read,
        reference: Option<&str>,
        config: &serde_json::Value,
        message: &str,
    ) -> Result<ImageId> {
        import::import(&self.store, archive, reference, config, message)
    }

    /// How an image came to be, newest step first.
    pub fn history(&self, reference: &str) -> Result<Vec<HistoryEntry>> {
        history::history(&self.store, &*self.find(reference)?)
    }

    /// Fetches an image from its registry. Dropping the future stops the transfer; what was
    /// fetched so far is used by the next one.
    pub async fn pull(
        &self,
        request: PullRequest,
        progress: mpsc::Sender<Progress>,
    ) -> Result<Pulled> {
        pull::pull(self, request, progress).await
    }

    /// Brings images to their registry. Dropping the future stops the transfer.
    pub async fn push(
        &self,
        request: PushRequest,
        progress: mpsc::Sender<Progress>,
    ) -> Result<Vec<Pushed>> {
        push::push(self, request, progress).await
    }

    /// Tries credentials at a registry, Docker Hub if its name is empty. The answer is a token that
    /// stands for the password from now on; it is empty where there is none.
    pub async fn login(&self, server: &str, auth: &RegistryAuth) -> Result<String> {
        registry::login(server, auth, &self.behaviour().options).await
    }

    /// What a registry says of a name.
    pub async fn describe(&self, name: &str, auth: Option<RegistryAuth>) -> Result<Described> {
        pull::describe(self, name, auth).await
    }

    /// What Docker Hub has for a term, or the registry whose host it begins with.
    pub async fn search_registry(
        &self,
        term: &str,
        limit: i64,
        auth: Option<&RegistryAuth>,
    ) -> Result<Vec<SearchResult>> {
        registry::search(term, limit, auth, &self.behaviour().options).await
    }

    /// Where the store is.
    pub fn root(&self) -> &Path {
        self.store.root()
    }

    /// How root file systems are made here: never [`rootfs::StorageDriver::Auto`].
    pub fn driver(&self) -> rootfs::StorageDriver {
        self.behaviour().options.driver
    }

    /// How it behaves; [`rootfs::StorageDriver::Auto`] has become what this host can do.
    pub fn options(&self) -> Options {
        self.behaviour().options.clone()
    }

    /// Behaves otherwise from now on; root file systems are made as before. What is fetched and
    /// pushed at the moment goes on as it began.
    pub fn reconfigure(&self, options: Options) {
        let driver = self.driver();
        self.behaviour.store(Behaviour::new(Options { driver, ..options }));
    }

    fn behaviour(&self) -> Arc<Behaviour> {
        self.behaviour.load_full()
    }

    fn store(&self) -> &Arc<Store> {
        &self.store
    }
}

impl Image {
    /// The platform it is for.
    pub fn platform(&self) -> Platform {
        Platform {
            os: self.config.os().to_string(),
            architecture: self.config.architecture().to_string(),
            variant: self.config.variant().clone().unwrap_or_default(),
        }
    }

    /// Digests of the uncompressed layers, lowest first: `RootFS.Layers` of `inspect`.
    pub fn diff_ids(&self) -> &[String] {
        self.config.rootfs().diff_ids()
    }
}

impl fmt::Display for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name, _) => write!(f, "Loaded image: {name}"),
            Self::Id(id) => write!(f, "Loaded image ID: {id}"),
        }
    }
}

#[cfg(test)]
mod tests;
