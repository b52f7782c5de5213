//! How a store of images behaves, which may change while it is used.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::rootfs::StorageDriver;

/// How a store behaves at the moment.
#[derive(Debug)]
pub(crate) struct Behaviour {
    pub(crate) options: Options,
    /// Turns of layers that are fetched.
    pub(crate) downloads: Arc<Semaphore>,
    /// Turns of layers that are pushed.
    pub(crate) uploads: Arc<Semaphore>,
}

impl Behaviour {
    pub(crate) fn new(options: Options) -> Arc<Self> {
        let downloads = Arc::new(Semaphore::new(options.downloads));
        let uploads = Arc::new(Semaphore::new(options.uploads));
        Arc::new(Self { options, downloads, uploads })
    }
}

/// How a store behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// How root file systems are made.
    pub driver: StorageDriver,
    /// URLs of mirrors of docker.io, tried first.
    pub mirrors: Vec<String>,
    /// `host[:port]` or CIDR that may be spoken to in plain HTTP or with unverified certificates.
    pub insecure: Vec<String>,
    /// Layers that are fetched at a time, by all pulls together.
    pub downloads: usize,
    /// Layers that are pushed at a time, by all pushes together.
    pub uploads: usize,
    /// Attempts at a layer without a new byte.
    pub attempts: u32,
}

impl Default for Options {
    /// Docker's numbers.
    fn default() -> Self {
        let (mirrors, insecure) = (Vec::new(), Vec::new());
        let driver = StorageDriver::default();
        Self { driver, mirrors, insecure, downloads: 3, uploads: 5, attempts: 5 }
    }
}
