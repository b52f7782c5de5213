//! What a node of a swarm keeps on disk: who it is in which cluster, certificates and keys.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use engine_error::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::authority::Authority;
use crate::client::Identity;
use crate::protocol::{Description, Manager};
use crate::record::{Availability, SwarmRecord};
use crate::token::Role;

/// The version of the state that this program writes.
pub const VERSION: u32 = 1;

/// Who this node is, in which cluster, and how far it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// See [`VERSION`].
    pub version: u32,
    /// The cluster.
    pub cluster: String,
    /// The node.
    pub node: String,
    /// Its name.
    pub name: String,
    /// Where the others reach it.
    pub address: IpAddr,
    /// Where it lets others in, if it is a manager.
    pub listen: SocketAddr,
    /// Under which port of `address` the others find that.
    pub port: u16,
    /// How far it is.
    pub phase: Phase,
    /// What the store does not have yet of a swarm that this node has just made.
    #[serde(default)]
    pub beginning: Option<SwarmRecord>,
    /// The managers, as far as it knows.
    #[serde(default)]
    pub managers: Vec<Manager>,
    /// What it is to be used for, when it begins.
    #[serde(default)]
    pub availability: Availability,
    /// How far it is with going on without the other managers, if it is to.
    #[serde(default)]
    pub alone: Option<Alone>,
    /// What it is.
    #[serde(default)]
    pub description: Description,
}

/// How far a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It is to be one of the cluster.
    In,
    /// It is to be none any more.
    Leaving,
}

/// What is to be done for a manager to go on without the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Alone {
    /// Its member of the store forgets the others; then all that follows.
    Member,
    /// The others are no managers any more.
    Records,
}

/// The directory.
#[derive(Clone, Debug)]
pub struct Files(PathBuf);

impl Files {
    /// Those in a directory.
    pub fn new(directory: PathBuf) -> Self {
        Self(directory)
    }

    /// Where they are.
    pub fn directory(&self) -> &Path {
        &self.0
    }

    /// One of them.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The state, if this node is one of a swarm.
    pub fn state(&self) -> Result<Option<State>> {
        let path = self.path("state.json");
        let Some(text) = self.read("state.json")? else { return Ok(None) };
        let state = serde_json::from_str::<State>(&text);
        let state = state
            .map_err(|error| Error::internal(format!("cannot read {}", path.display()), error))?;
        if state.version > VERSION {
            let message = format!("{} was written by a later rnet", path.display());
            return Err(Error::new(engine_error::Kind::Unavailable, message));
        }
        Ok(Some(state))
    }

    /// Writes the state down.
    pub fn put_state(&self, state: &State) -> Result<()> {
        let text = serde_json::to_string_pretty(state);
        let text =
            text.map_err(|error| Error::internal("cannot write the swarm's state", error))?;
        self.write("state.json", &text)
    }

    /// The node's own certificate, its key and the authority's certificate.
    pub fn identity(&self) -> Result<Identity> {
        let [certificate, key, authority] =
            ["node.pem", "node.key", "authority.pem"].map(|name| self.must_read(name));
        Ok(Identity { certificate: certificate?, key: key?, authority: authority? })
    }

    /// Keeps them. The key goes first: a certificate without its key is worth nothing.
    pub fn put_identity(&self, identity: &Identity) -> Result<()> {
        self.write("node.key", &identity.key)?;
        self.write("authority.pem", &identity.authority)?;
        self.write("node.pem", &identity.certificate)
    }

    /// The authority with its key, if this node has that.
    pub fn authority(&self) -> Result<Option<Authority>> {
        let Some(key) = self.read("authority.key")? else { return Ok(None) };
        Authority::load(&self.must_read("authority.pem")?, &key).map(Some)
    }

    /// What only managers have goes.
    pub fn forget_manager(&self) -> Result<()> {
        for name in ["authority.key", "peer.key", "peer.pem"] {
            self.remove(name)?;
        }
        self.forget_data()
    }

    /// The member's data go.
    pub fn forget_data(&self) -> Result<()> {
        removed(&self.path("data"), fs::remove_dir_all(self.path("data")))
    }

    /// All of it goes, the state first: what is left after a crash is of no swarm.
    pub fn clear(&self) -> Result<()> {
        self.remove("state.json")?;
        removed(&self.0, fs::remove_dir_all(&self.0))
    }

    /// All but one file goes, the state first.
    pub(crate) fn clear_but(&self, kept: &str) -> Result<()> {
        self.remove("state.json")?;
        let failed = |error| Error::internal(format!("cannot read {}", self.0.display()), error);
        let entries = match fs::read_dir(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(failed)?,
        };
        for entry in entries {
            let entry = entry.map_err(failed)?;
            if entry.file_name() == kept {
                continue;
            }
            let path = entry.path();
            let is_directory = entry.file_type().map_err(failed)?.is_dir();
            let outcome =
                if is_directory { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed(&path, outcome)?;
        }
        Ok(())
    }

    /// What a file says, if it is there.
    pub fn read(&self, name: &str) -> Result<Option<String>> {
        let path = self.path(name);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::internal(format!("cannot read {}", path.display()), error)),
        }
    }

    fn must_read(&self, name: &str) -> Result<String> {
        let missing = || {
            let message = format!("{} is missing", self.path(name).display());
            Error::new(engine_error::Kind::Internal, message)
        };
        self.read(name)?.ok_or_else(missing)
    }

    /// Writes a file, all of it or nothing, for nobody else to read.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.path(name);
        let written = || -> io::Result<()> {
            let mut builder = fs::DirBuilder::new();
            builder.recursive(true).mode(0o700).create(&self.0)?;
            let temporary = self.path(&format!("{name}.new"));
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(true).mode(0o600);
            let mut file = options.open(&temporary)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            File::open(&self.0)?.sync_all()
        };
        written()
            .map_err(|error| Error::internal(format!("cannot write {}", path.display()), error))
    }

    pub(crate) fn remove(&self, name: &str) -> Result<()> {
        removed(&self.path(name), fs::remove_file(self.path(name)))
    }
}

/// The role that a node's certificate gives it.
pub fn role(identity: &Identity) -> Result<Role> {
    Ok(crate::certificate::Holder::of_pem(&identity.certificate)?.role)
}

fn removed(path: &Path, outcome: io::Result<()>) -> Result<()> {
    match outcome {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::internal(format!("cannot remove {}", path.display()), error))
        }
        _ => Ok(()),
    }
}
