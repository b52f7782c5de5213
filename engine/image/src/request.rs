//! What transfers are asked for, and what they bring.

use std::fmt;
use std::sync::Arc;

use super::{Digest, Image, Platform, Reference};

/// Credentials for one registry.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct RegistryAuth {
    /// User name.
    pub username: String,
    /// Password.
    pub password: String,
    /// An OAuth refresh token in place of both.
    pub identity_token: String,
    /// A bearer token to be sent as it is.
    pub registry_token: String,
}

impl fmt::Debug for RegistryAuth {
    /// Secrets stay out of logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryAuth").field("username", &self.username).finish_non_exhaustive()
    }
}

/// What to pull.
#[derive(Clone, Debug, Default)]
pub struct PullRequest {
    /// The image as the user named it.
    pub reference: String,
    /// The platform; this host's if absent.
    pub platform: Option<Platform>,
    /// Credentials.
    pub auth: Option<RegistryAuth>,
    /// Every tag of the repository.
    pub all_tags: bool,
}

/// What a pull brought.
#[derive(Clone, Debug)]
pub struct Pulled {
    /// The image; of several tags, the last.
    pub image: Arc<Image>,
    /// The digest of the manifest or index that the name meant.
    pub digest: Digest,
    /// Whether anything was new.
    pub updated: bool,
}

/// What to push.
#[derive(Clone, Debug, Default)]
pub struct PushRequest {
    /// The repository as the user named it, perhaps with a tag.
    pub reference: String,
    /// The tag; every tag of the repository if there is none here either.
    pub tag: Option<String>,
    /// The platform that the image has to be for.
    pub platform: Option<Platform>,
    /// Credentials.
    pub auth: Option<RegistryAuth>,
}

/// What a push brought there.
#[derive(Clone, Debug)]
pub struct Pushed {
    /// The repository, with the tag.
    pub reference: Reference,
    /// The digest of the manifest.
    pub digest: Digest,
}
