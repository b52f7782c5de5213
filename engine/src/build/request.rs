//! What is asked of a build.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;

use crate::container::NetworkMode;
use crate::container::spec::Resources;
use image::{Platform, Reference, RegistryAuth};

/// A build, as it was asked for.
#[derive(Clone, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent switches of the API")]
pub struct Request {
    /// The name that its client can cancel it by; empty if it has none.
    pub id: String,
    /// `-f`, within the context.
    pub dockerfile: String,
    /// `-t`.
    pub tags: Vec<Reference>,
    /// `--build-arg`; without a value it is as if it were not given.
    pub args: BTreeMap<String, Option<String>>,
    /// `--label`.
    pub labels: BTreeMap<String, String>,
    /// `--target`.
    pub target: String,
    /// `--no-cache`.
    pub no_cache: bool,
    /// `--cache-from`: if there are any, only what these images were made of is taken again.
    pub cache_from: Vec<String>,
    /// `--pull`.
    pub pull: bool,
    /// `--rm`: whether containers of steps that went well are removed.
    pub remove: bool,
    /// `--force-rm`: whether all of them are.
    pub force_remove: bool,
    /// `-q`: nothing is told but the id of the image.
    pub quiet: bool,
    /// `--squash`: all that was built becomes one layer.
    pub squash: bool,
    /// `--platform`.
    pub platform: Option<Platform>,
    /// `--network`.
    pub network: NetworkMode,
    /// `--add-host`.
    pub extra_hosts: Vec<String>,
    /// `--shm-size`.
    pub shm_size: Option<i64>,
    /// `--ulimit`: name, soft, hard.
    pub ulimits: Vec<(String, i64, i64)>,
    /// `-m`, `--cpu-quota` and their kin.
    pub resources: Resources,
    /// `--cgroup-parent`.
    pub cgroup_parent: String,
    /// `--security-opt`.
    pub security_options: Vec<String>,
    /// Credentials by registry.
    pub auths: BTreeMap<String, RegistryAuth>,
}

/// Where the files of a build are from.
pub enum Source {
    /// An archive of them.
    Archive(Box<dyn Read + Send>),
    /// A URL: of an archive, of a Dockerfile, or of a repository.
    Remote(String),
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Archive(_) => f.write_str("Archive"),
            Self::Remote(url) => write!(f, "Remote({url})"),
        }
    }
}

impl Request {
    /// The credentials for the registry of an image.
    pub(super) fn auth(&self, reference: &Reference) -> Option<RegistryAuth> {
        let registry = reference.domain();
        let hub = registry == "docker.io";
        let matches = |key: &str| {
            let host = key.split_once("://").map_or(key, |(_, rest)| rest);
            let host = host.split('/').next().unwrap_or(host);
            host == registry || hub && matches!(host, "index.docker.io" | "registry-1.docker.io")
        };
        self.auths.iter().find(|(key, _)| matches(key)).map(|(_, auth)| auth.clone())
    }
}
