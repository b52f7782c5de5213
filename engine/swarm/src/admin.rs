//! The store's own business, which only managers may do: its members, its users and their rights.
//!
//! A user is called as the common name of a certificate, so whoever has none is nobody.

use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use engine_error::{Error, Kind, Result};
use etcd_client::{
    Certificate, Client, ConnectOptions, MemberAddOptions, Permission, TlsOptions, UserAddOptions,
};

use tokio::time::Instant;

use crate::admission::{Granting, Users};
use crate::client::Identity;
use crate::record::ROOT;
use crate::token::Role;

/// etcd's own user and role that may do everything. Nobody has a certificate of that name.
const ROOT_USER: &str = "root";

/// The role of all nodes.
const NODES: &str = "node";

/// What nodes write to: the records of the cluster that they share.
const SHARED: &str = "/rnet/v1/";

/// How long a member may take for an answer.
const LIMIT: Duration = Duration::from_secs(3);

/// How long etcd may refuse to remove a member: it wants all to have been together for five seconds.
const HEALTHY: Duration = Duration::from_secs(10);

/// How often to look, and how long to wait in between, until others know of a removal.
const NOTICES: usize = 50;
const NOTICE: Duration = Duration::from_millis(100);

/// The store's members, asked as a node with a certificate: one after the other, until one answers.
pub(crate) struct Admin {
    members: RwLock<Arc<Members>>,
}

/// Whom it knows, and as whom it asks.
struct Members {
    clients: Vec<(String, Client)>,
    connect: ConnectOptions,
    /// The one that answered last.
    current: AtomicUsize,
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let members = self.known();
        let members: Vec<_> = members.clients.iter().map(|(member, _)| member).collect();
        f.debug_struct("Admin").field("members", &members).finish()
    }
}

/// A member of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    /// Its number.
    pub(crate) id: u64,
    /// Its name, which is the node's identity; empty until it has begun.
    pub(crate) name: String,
    /// Where the others find it.
    pub(crate) peers: Vec<String>,
    /// Where nodes find it.
    pub(crate) clients: Vec<String>,
    /// Whether it has no vote yet.
    pub(crate) learner: bool,
}

impl Admin {
    /// Speaks with members at `address:port`; connects when it has to.
    pub(crate) async fn connect(members: &[String], identity: &Identity) -> Result<Self> {
        Ok(Self { members: RwLock::new(Arc::new(Members::new(members, identity).await?)) })
    }

    /// From here on there are other members, or another certificate.
    pub(crate) async fn reopen(&self, members: &[String], identity: &Identity) -> Result<()> {
        let members = Arc::new(Members::new(members, identity).await?);
        *self.members.write().unwrap_or_else(PoisonError::into_inner) = members;
        Ok(())
    }

    /// All members, as a majority knows them.
    pub(crate) async fn members(&self) -> Result<Vec<Peer>> {
        let list = |mut client: Client| async move { client.member_list().await };
        let listed = self.ask("list the store's members", list).await?;
        let peer = |member: &etcd_client::Member| Peer {
            id: member.id(),
            name: member.name().to_owned(),
            peers: member.peer_urls().to_vec(),
            clients: member.client_urls().to_vec(),
            learner: member.is_learner(),
        };
        Ok(listed.members().iter().map(peer).collect())
    }

    /// Makes room for a member, which has no vote yet.
    pub(crate) async fn add(&self, peer: &str) -> Result<()> {
        let add = |mut client: Client| {
            let peer = peer.to_owned();
            let learner = Some(MemberAddOptions::new().with_is_learner());
            async move { client.member_add([peer], learner).await }
        };
        self.ask("add a member to the store", add).await.map(|_| ())
    }

    /// Gives a member its vote. It has to know what the others know.
    pub(crate) async fn promote(&self, id: u64) -> Result<()> {
        let promote = |mut client: Client| async move { client.member_promote(id).await };
        self.ask("give a member of the store its vote", promote).await.map(|_| ())
    }

    async fn remove(&self, id: u64) -> Result<()> {
        let remove = |mut client: Client| async move { client.member_remove(id).await };
        self.ask("remove a member of the store", remove).await.map(|_| ())
    }

    /// Has a member that leads make way for another one. A leader that is removed may take with it
    /// what the others need to know to go on.
    pub(crate) async fn make_way(&self, from: &Peer, among: &[Peer]) {
        let connect = self.known().connect.clone();
        let Some(place) = from.clients.first().and_then(|url| url.strip_prefix("https://")) else {
            return;
        };
        let moved = async {
            let mut leader = client(place, connect).await?;
            if leader.status().await?.leader() != from.id {
                return Ok(());
            }
            let others = among.iter().filter(|peer| peer.id != from.id && !peer.learner);
            let mut outcome = Ok(());
            for other in others {
                outcome = leader.move_leader(other.id).await.map(|_| ());
                if outcome.is_ok() {
                    break;
                }
            }
            outcome
        };
        match tokio::time::timeout(LIMIT, moved).await {
            Ok(Ok(())) => {}
            // It is no reason to keep it.
            Ok(Err(error)) => tracing::debug!(%error, "a leader does not make way"),
            Err(_) => tracing::debug!("a leader does not answer"),
        }
    }

    /// Takes a member away, and returns when another one knows that.
    pub(crate) async fn expel(&self, peer: &Peer, among: &[Peer]) -> Result<()> {
        self.make_way(peer, among).await;
        let begun = Instant::now();
        while let Err(error) = self.remove(peer.id).await {
            if begun.elapsed() > HEALTHY {
                return Err(error);
            }
            tokio::time::sleep(NOTICE).await;
        }
        for _ in 0..NOTICES {
            if !self.members().await?.iter().any(|known| known.id == peer.id) {
                return Ok(());
            }
            tokio::time::sleep(NOTICE).await;
        }
        Err(failed("remove a member of the store", "the others do not take note of it"))
    }

    /// Which member leads, as each of these at `address:port` knows that answers.
    pub(crate) async fn leaders(&self, members: &[String]) -> Vec<Option<u64>> {
        let known = self.known();
        let mut asked = Vec::new();
        for member in members {
            let (member, connect) = (member.clone(), known.connect.clone());
            asked.push(tokio::spawn(tokio::time::timeout(LIMIT, async move {
                let mut client = client(&member, connect).await?;
                client.status().await.map(|status| status.leader())
            })));
        }
        let mut leaders = Vec::new();
        for answer in asked {
            leaders.push(answer.await.ok().and_then(Result::ok).and_then(Result::ok));
        }
        leaders
    }

    /// Has the store ask for certificates' names from now on. Doing it again does no harm.
    pub(crate) async fn guard(&self, manager: &str) -> Result<()> {
        let what = "say what nodes may do in the store";
        let list = |mut client: Client| async move { client.role_list().await };
        let roles = self.ask(what, list).await?;
        if !roles.roles().iter().any(|role| role == NODES) {
            let add = |mut client: Client| async move { client.role_add(NODES).await };
            self.ask(what, add).await?;
        }
        let permissions =
            [Permission::read_write(SHARED).with_prefix(), Permission::read(ROOT).with_prefix()];
        for permission in permissions {
            let grant = |mut client: Client| {
                let permission = permission.clone();
                async move { client.role_grant_permission(NODES, permission).await }
            };
            self.ask(what, grant).await?;
        }
        self.set(ROOT_USER, ROOT_USER).await?;
        self.set(manager, ROOT_USER).await?;
        let close = |mut client: Client| async move { client.auth_enable().await };
        self.ask("close the store to strangers", close).await.map(|_| ())
    }

    /// A user has one role.
    async fn set(&self, user: &str, role: &str) -> Result<()> {
        let what = "say what a node may do in the store";
        if !self.users().await?.iter().any(|known| known == user) {
            let add = |mut client: Client| {
                let (user, options) = (user.to_owned(), UserAddOptions::new().with_no_pwd());
                async move { client.user_add(user, "", Some(options)).await }
            };
            self.ask(what, add).await?;
        }
        let get = |mut client: Client| {
            let user = user.to_owned();
            async move { client.user_get(user).await }
        };
        let found = self.ask(what, get).await?;
        if !found.roles().iter().any(|known| known == role) {
            let grant = |mut client: Client| {
                let (user, role) = (user.to_owned(), role.to_owned());
                async move { client.user_grant_role(user, role).await }
            };
            self.ask(what, grant).await?;
        }
        for other in found.roles().iter().filter(|known| *known != role) {
            let revoke = |mut client: Client| {
                let (user, other) = (user.to_owned(), other.clone());
                async move { client.user_revoke_role(user, other).await }
            };
            self.ask(what, revoke).await?;
        }
        Ok(())
    }

    /// Whoever may do anything in the store.
    async fn users(&self) -> Result<Vec<String>> {
        let list = |mut client: Client| async move { client.user_list().await };
        let listed = self.ask("list the store's users", list).await?;
        Ok(listed.users().to_vec())
    }

    /// Asks the member that answered last, then the others. What is asked for does no harm twice.
    async fn ask<T, F>(&self, what: &str, call: impl Fn(Client) -> F) -> Result<T>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let known = self.known();
        let (first, count) = (known.current.load(Ordering::Relaxed), known.clients.len());
        let mut last = "there is no member of the store to ask".to_owned();
        for place in (0..count).map(|step| (first + step) % count) {
            match tokio::time::timeout(LIMIT, call(known.clients[place].1.clone())).await {
                Ok(Ok(done)) => {
                    known.current.store(place, Ordering::Relaxed);
                    return Ok(done);
                }
                Ok(Err(error)) if !is_away(&error) => return Err(failed(what, &why(&error))),
                Ok(Err(error)) => last = why(&error),
                Err(_) => last = format!("it did not answer within {LIMIT:?}"),
            }
        }
        Err(failed(what, &last))
    }

    fn known(&self) -> Arc<Members> {
        self.members.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Members {
    async fn new(members: &[String], identity: &Identity) -> Result<Self> {
        let tls = TlsOptions::new()
            .ca_certificate(Certificate::from_pem(&identity.authority))
            .identity(etcd_client::Identity::from_pem(&identity.certificate, &identity.key));
        let connect = ConnectOptions::new().with_tls(tls).with_connect_timeout(LIMIT);
        let mut clients = Vec::new();
        for member in members {
            let made = client(member, connect.clone()).await;
            let made = made.map_err(|error| failed("speak with the store", &why(&error)))?;
            clients.push((member.clone(), made));
        }
        Ok(Self { clients, connect, current: AtomicUsize::new(0) })
    }
}

async fn client(member: &str, connect: ConnectOptions) -> Result<Client, etcd_client::Error> {
    Client::connect([format!("https://{member}")], Some(connect)).await
}

impl Users for Admin {
    fn grant<'a>(&'a self, node: &'a str, role: Role) -> Granting<'a> {
        let role = match role {
            Role::Manager => ROOT_USER,
            Role::Worker => NODES,
        };
        Box::pin(self.set(node, role))
    }

    fn forget<'a>(&'a self, node: &'a str) -> Granting<'a> {
        Box::pin(async move {
            if !self.users().await?.iter().any(|known| known == node) {
                return Ok(());
            }
            let delete = |mut client: Client| {
                let node = node.to_owned();
                async move { client.user_delete(node).await }
            };
            self.ask("take a node's rights in the store", delete).await.map(|_| ())
        })
    }
}

/// gRPC's numbers for: cancelled, unknown, too late, unavailable.
const AWAY: [i32; 4] = [1, 2, 4, 14];

/// Whether another member may know better.
fn is_away(error: &etcd_client::Error) -> bool {
    match error {
        etcd_client::Error::GRpcStatus(status) => AWAY.contains(&(status.code() as i32)),
        _ => true,
    }
}

fn why(error: &etcd_client::Error) -> String {
    match error {
        etcd_client::Error::GRpcStatus(status) => status.message().to_owned(),
        other => other.to_string(),
    }
}

fn failed(what: &str, why: &str) -> Error {
    Error::new(Kind::Unavailable, format!("cannot {what}: {why}"))
}
