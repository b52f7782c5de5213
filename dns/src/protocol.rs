//! What the daemon and `rnet-dns` say to each other.
//!
//! A `SOCK_SEQPACKET` unix socket; one packet is one JSON message, with file descriptors beside it
//! (`SCM_RIGHTS`); one that is too large for a packet travels in a memfd, as the last of them.
//! Every [`Request`] is answered by one [`Reply`], in order: when the reply to a
//! [`Request::Publish`] has come, the names are answered.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use cnm::{EndpointId, NetworkId, PortBinding, SandboxId};
use serde::{Deserialize, Serialize};

/// What the daemon asks of `rnet-dns`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// The version of the protocol the daemon speaks; the first message.
    Hello {
        /// See [`VERSION`].
        version: u32,
    },
    /// Start to answer in a sandbox. Two descriptors: UDP, TCP. Replaces what was there.
    Serve(Box<SandboxView>),
    /// Stop to answer in a sandbox, and close its sockets.
    Release {
        /// The sandbox.
        sandbox: SandboxId,
    },
    /// Change what a sandbox sees, without touching its sockets.
    Update(Box<SandboxView>),
    /// Add or replace names of a network. Many endpoints may come in one message.
    Publish {
        /// The network.
        network: NetworkId,
        /// The network's name: `name.network` is answered too.
        name: String,
        /// The endpoints.
        endpoints: Vec<EndpointNames>,
    },
    /// Remove the names of endpoints.
    Withdraw {
        /// The network.
        network: NetworkId,
        /// The endpoints.
        endpoints: Vec<EndpointId>,
    },
    /// Withdraw the names of all endpoints but these: what a daemon says that came back, after it
    /// published what is. Nothing is unknown meanwhile.
    Retain {
        /// The endpoints whose names stay, by network.
        endpoints: BTreeMap<NetworkId, Vec<EndpointId>>,
    },
    /// The host's own upstream resolvers are not told: `rnet-dns` follows this file's directory.
    FollowHost {
        /// The file, `/etc/resolv.conf`.
        path: String,
    },
    /// Keep the sockets that reserve host ports; one descriptor for each entry. A TCP or UDP
    /// socket with a target is served: what arrives there and not by NAT is carried to the target.
    Hold(Vec<HeldPort>),
    /// Carry what arrives at held ports to other targets from now on. What was carried elsewhere
    /// ends. Ports that are not held are not an error.
    Lead(Vec<HeldPort>),
    /// Close sockets that reserve host ports, and end what they carried. One of both families goes with
    /// the second of them.
    Drop(Vec<PortBinding>),
    /// Close sockets that reserve host ports. Connections that they carried go on; sessions of UDP end,
    /// for whoever has the port next could not be told from them.
    Drain(Vec<PortBinding>),
    /// End the connections that go on from closed ports to these targets.
    Cut(Vec<HeldPort>),
    /// End the connections that go on from closed ports to these addresses, which nobody has any more.
    CutTo(Vec<IpAddr>),
    /// Keep the socket that owns the `nf_tables` table. One descriptor.
    KeepOwner,
    /// Hand out the socket that owns the `nf_tables` table: [`Reply::Done`] with one descriptor,
    /// with none if there is none.
    TakeOwner,
    /// Say what is served and held, for a daemon that comes back.
    Status,
    /// End the process, once the reply is sent.
    Shutdown,
}

/// The version of this protocol.
pub const VERSION: u32 = 1;

/// A host port that is reserved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldPort {
    /// The port.
    pub binding: PortBinding,
    /// Where to carry what the kernel does not translate (`::1`, IPv6 clients of an IPv4 sandbox).
    pub target: Option<SocketAddr>,
    /// The same port of the other family, if one socket reserves both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub twin: Option<Twin>,
}

/// What a socket reserves in its other family.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Twin {
    /// The host's address; the rest of the binding is the same.
    pub host: IpAddr,
    /// Where to carry what comes from clients of this family.
    pub target: Option<SocketAddr>,
}

impl HeldPort {
    /// The binding of the other family, if the socket is for both.
    pub fn twin_binding(&self) -> Option<PortBinding> {
        let twin = self.twin.as_ref()?;
        Some(PortBinding { host: twin.host, ..self.binding.clone() })
    }

    /// The same, with a socket for each family.
    pub fn apart(&self) -> impl Iterator<Item = Self> + use<> {
        let one = |binding, target| Self { binding, target, twin: None };
        let twin = self.twin_binding().zip(self.twin.as_ref());
        let twin = twin.map(|(binding, twin)| one(binding, twin.target));
        [Some(one(self.binding.clone(), self.target)), twin].into_iter().flatten()
    }

    /// All that the socket reserves.
    pub fn bindings(&self) -> impl Iterator<Item = PortBinding> + use<> {
        [Some(self.binding.clone()), self.twin_binding()].into_iter().flatten()
    }
}

/// What one sandbox sees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxView {
    /// The sandbox.
    pub sandbox: SandboxId,
    /// Its networks, the first one first in search order.
    pub networks: Vec<NetworkId>,
    /// Names that only this sandbox knows (`--link`), with the endpoint's address.
    pub private: BTreeMap<String, Vec<IpAddr>>,
    /// Upstream resolvers (`--dns`); the host's if empty.
    pub upstreams: Vec<IpAddr>,
    /// Whether unknown names may be asked for outside; not if all networks are internal.
    pub forward: bool,
    /// The time to live of local answers, in seconds.
    pub ttl: u32,
}

/// The names of one endpoint on one network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointNames {
    /// The endpoint.
    pub endpoint: EndpointId,
    /// Its names; the first one is the answer to a PTR query.
    pub names: Vec<String>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its service ports by protocol, for SRV: `_80._tcp.name`; also `_http._tcp.name` where a
    /// service has that well-known port.
    pub services: Vec<(cnm::Protocol, u16)>,
}

/// What `rnet-dns` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// It is done.
    Done,
    /// It was not done.
    Failed {
        /// Why.
        message: String,
    },
    /// See [`Request::Status`].
    Status {
        /// The sandboxes served.
        sandboxes: Vec<SandboxId>,
        /// The ports held.
        ports: Vec<PortBinding>,
        /// Whether the owner socket is kept.
        owner: bool,
        /// The process.
        pid: u32,
    },
}
