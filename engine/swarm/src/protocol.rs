//! What a node and a manager say to each other: one request, one answer, as JSON after its length.

use std::io;
use std::net::IpAddr;

use engine_error::{Error, Kind};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::record::Availability;
use crate::token::Role;

/// The longest message, in bytes.
const LONGEST: u32 = 64 * 1024;

/// What a node wants.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Request {
    /// To be let in.
    Join(Box<Join>),
    /// Another certificate, as its old one says who it is.
    Renew {
        /// The certificate request, as PEM.
        request: String,
        /// Where it is reached now.
        address: IpAddr,
    },
}

/// A node that wants to be let in.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Join {
    /// The token.
    pub token: String,
    /// The certificate request, as PEM.
    pub request: String,
    /// What it calls itself in the cluster.
    pub node: String,
    /// Its name.
    pub name: String,
    /// Where the others reach it.
    pub address: IpAddr,
    /// What it is to be used for.
    #[serde(default)]
    pub availability: Availability,
    /// What it is.
    #[serde(default)]
    pub description: Description,
}

/// What a node is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// Its architecture, in the kernel's word.
    #[serde(default)]
    pub architecture: String,
    /// How many processors it has.
    #[serde(default)]
    pub processors: u64,
    /// Its memory, in bytes.
    #[serde(default)]
    pub memory: u64,
    /// The version of its rnet.
    #[serde(default)]
    pub release: String,
}

/// What a manager says.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Answer {
    /// Here you are.
    Admitted(Box<Admission>),
    /// No.
    Refused {
        /// Why.
        message: String,
        /// Whose fault it is.
        kind: Fault,
    },
}

/// Whose fault a refusal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// It is not let in.
    Unauthorized,
    /// It asks for what cannot be.
    Invalid,
    /// Not now.
    #[serde(other)]
    Unavailable,
}

impl From<Kind> for Fault {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Unauthorized | Kind::Forbidden => Self::Unauthorized,
            Kind::Invalid | Kind::Conflict | Kind::NotFound => Self::Invalid,
            _ => Self::Unavailable,
        }
    }
}

impl Fault {
    /// The refusal as it is told to a user.
    pub fn error(self, message: String) -> Error {
        let kind = match self {
            // To Docker's clients, 401 is about registries.
            Self::Unauthorized | Self::Invalid => Kind::Invalid,
            Self::Unavailable => Kind::Unavailable,
        };
        Error::new(kind, message)
    }
}

/// What makes a node one of the cluster.
#[derive(Clone, Serialize, Deserialize)]
pub struct Admission {
    /// The cluster.
    pub cluster: String,
    /// What the node is to do.
    pub role: Role,
    /// Its certificate, as PEM.
    pub certificate: String,
    /// The authority's certificate, as PEM.
    pub authority: String,
    /// The authority's key, for managers only.
    #[serde(default)]
    pub authority_key: Option<String>,
    /// The managers that there are.
    pub managers: Vec<Manager>,
}

impl std::fmt::Debug for Admission {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Admission");
        shown.field("cluster", &self.cluster).field("role", &self.role);
        shown.field("managers", &self.managers).finish_non_exhaustive()
    }
}

/// A manager, as the others know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manager {
    /// The node.
    pub node: String,
    /// Where it lets others in, `address:port`.
    pub address: String,
    /// Where its member of the store is, `address:port`.
    pub store: String,
}

/// Sends a message.
pub(crate) async fn send<T: Serialize>(
    stream: &mut (impl AsyncWrite + Unpin),
    message: &T,
) -> io::Result<()> {
    let text = serde_json::to_vec(message)?;
    let length = u32::try_from(text.len()).ok().filter(|length| *length <= LONGEST);
    let length = length.ok_or_else(|| io::Error::other("the message is too long"))?;
    stream.write_all(&length.to_be_bytes()).await?;
    stream.write_all(&text).await?;
    stream.flush().await
}

/// Receives one.
pub(crate) async fn receive<T: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
) -> io::Result<T> {
    let length = stream.read_u32().await?;
    if length > LONGEST {
        return Err(io::Error::other("the message is too long"));
    }
    let mut text = vec![0; length as usize];
    stream.read_exact(&mut text).await?;
    Ok(serde_json::from_slice(&text)?)
}
