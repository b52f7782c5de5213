//! Who is let in, in which role, and whose certificate is renewed.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use engine_error::{Error, Kind, Result};

use crate::authority::{Authority, Subject};
use crate::certificate::{Holder, key_of_request};
use crate::protocol::{Admission, Join, Request};
use crate::record::{At, NodeRecord, Records, Register, SwarmRecord, VERSION, now};
use crate::server::Doorkeeper;
use crate::token::{Role, Token};

/// What nodes may do in the store.
pub trait Users: std::fmt::Debug + Send + Sync {
    /// A node has these rights, and no others.
    fn grant<'a>(&'a self, node: &'a str, role: Role) -> Granting<'a>;

    /// A node has none.
    fn forget<'a>(&'a self, node: &'a str) -> Granting<'a>;
}

/// What is being waited for.
pub type Granting<'a> = Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>>;

/// Decides at the managers' port, by what is in the store.
#[derive(Debug)]
pub struct Keeper {
    authority: Arc<Authority>,
    register: Register,
    users: Arc<dyn Users>,
}

impl Keeper {
    /// One with the authority's key.
    pub fn new(authority: Arc<Authority>, register: Register, users: Arc<dyn Users>) -> Self {
        Self { authority, register, users }
    }

    async fn join(&self, join: &Join) -> Result<Admission> {
        let refused = || Error::new(Kind::Unauthorized, NO_TOKEN);
        let token: Token = join.token.parse().map_err(|_| refused())?;
        let records = self.register.read().await?;
        let At { record: swarm, .. } = records.swarm()?;
        let role = swarm.tokens.role(&self.authority, &token.secret);
        let role = role.filter(|_| token.digest == self.authority.digest()).ok_or_else(refused)?;
        check(join)?;
        let key = key_of_request(&join.request)?;
        match records.nodes.get(&join.node) {
            // Its first answer was lost.
            Some(At { record, .. }) if record.key == key => {
                return self.issue(&records, join, record.role).await;
            }
            Some(_) => return Err(taken(&join.node)),
            None => {}
        }
        let record = NodeRecord {
            version: VERSION,
            created: now(),
            updated: now(),
            role,
            name: join.name.clone(),
            address: join.address,
            key,
            labels: std::collections::BTreeMap::new(),
            description: join.description.clone(),
        };
        if !self.register.add(&join.node, &record).await? {
            return Err(taken(&join.node));
        }
        tracing::info!(node = join.node, name = join.name, %role, "a node is let in");
        self.issue(&records, join, role).await
    }

    async fn issue(&self, records: &Records, join: &Join, role: Role) -> Result<Admission> {
        let swarm = &records.swarm()?.record;
        self.users.grant(&join.node, role).await?;
        self.admission(records, swarm, &join.request, (&join.node, join.address, role))
    }

    async fn renew(&self, holder: &Holder, request: &str, address: IpAddr) -> Result<Admission> {
        let records = self.register.read().await?;
        let swarm = &records.swarm()?.record;
        let gone = || {
            let message = format!("node {} is none of this cluster, or was removed", holder.node);
            Error::new(Kind::Unauthorized, message)
        };
        if holder.cluster != swarm.id {
            return Err(gone());
        }
        let role = records.nodes.get(&holder.node).ok_or_else(gone)?.record.role;
        let key = key_of_request(request)?;
        self.register
            .change_node(&holder.node, None, |node| {
                node.key.clone_from(&key);
                node.address = address;
                Ok(())
            })
            .await?;
        self.users.grant(&holder.node, role).await?;
        self.admission(&records, swarm, request, (&holder.node, address, role))
    }

    fn admission(
        &self,
        records: &Records,
        swarm: &SwarmRecord,
        request: &str,
        (node, address, role): (&str, IpAddr, Role),
    ) -> Result<Admission> {
        let subject = Subject { cluster: &swarm.id, node, role, addresses: &[address] };
        let certificate = self.authority.certify(request, &subject, swarm.life())?;
        let manager = role == Role::Manager;
        Ok(Admission {
            cluster: swarm.id.clone(),
            role,
            certificate,
            authority: self.authority.certificate().to_owned(),
            authority_key: manager.then(|| self.authority.key().to_owned()),
            managers: records.managers.values().cloned().collect(),
        })
    }
}

const NO_TOKEN: &str = "a valid join token is necessary to join this cluster: a manager prints it with \
                        `docker swarm join-token worker`";

impl Doorkeeper for Keeper {
    fn admit<'a>(
        &'a self,
        holder: Option<Holder>,
        request: Request,
    ) -> Pin<Box<dyn Future<Output = Result<Admission>> + Send + 'a>> {
        Box::pin(async move {
            match (request, holder) {
                (Request::Join(join), _) => self.join(&join).await,
                (Request::Renew { request, address }, Some(holder)) => {
                    self.renew(&holder, &request, address).await
                }
                (Request::Renew { .. }, None) => {
                    let message = "only a node with a certificate gets another one";
                    Err(Error::new(Kind::Unauthorized, message))
                }
            }
        })
    }
}

fn check(join: &Join) -> Result<()> {
    let known = |c: char| c.is_ascii_digit() || c.is_ascii_lowercase();
    if !(16..=64).contains(&join.node.len()) || !join.node.chars().all(known) {
        return Err(Error::invalid(format!("`{}` is no identity of a node", join.node)));
    }
    if join.address.is_loopback() || join.address.is_unspecified() || join.address.is_multicast() {
        let message = format!(
            "nobody reaches a node at {}: give another address with --advertise-addr",
            join.address
        );
        return Err(Error::invalid(message));
    }
    Ok(())
}

fn taken(node: &str) -> Error {
    Error::conflict(format!("there is a node {node} already, with another key"))
}
