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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Mutex;
    use std::time::SystemTime;

    use super::*;
    use crate::certificate::KeyAndRequest;
    use crate::protocol::Description;

    /// Who has which rights.
    #[derive(Debug, Default)]
    struct Rights(Mutex<BTreeMap<String, Role>>);

    impl Users for Rights {
        fn grant<'a>(&'a self, node: &'a str, role: Role) -> Granting<'a> {
            self.0.lock().unwrap().insert(node.to_owned(), role);
            Box::pin(std::future::ready(Ok(())))
        }

        fn forget<'a>(&'a self, node: &'a str) -> Granting<'a> {
            self.0.lock().unwrap().remove(node);
            Box::pin(std::future::ready(Ok(())))
        }
    }

    struct Door {
        keeper: Keeper,
        register: Register,
        rights: Arc<Rights>,
        tokens: [String; 2],
    }

    impl Door {
        /// Of a swarm with a first manager.
        async fn new() -> Self {
            let authority = Arc::new(Authority::create().unwrap());
            let register = Register::new(Arc::new(cluster::Memory::new()));
            let swarm = SwarmRecord::new().unwrap();
            let first = NodeRecord {
                version: VERSION,
                created: now(),
                updated: now(),
                role: Role::Manager,
                name: "one".to_owned(),
                address: "192.0.2.1".parse().unwrap(),
                key: String::new(),
                labels: BTreeMap::new(),
                description: Description::default(),
            };
            register.begin(&swarm, FIRST, &first).await.unwrap();
            let token = |role| swarm.tokens.token(&authority, role).to_string();
            let tokens = [Role::Manager, Role::Worker].map(token);
            let rights = Arc::new(Rights::default());
            let keeper = Keeper::new(authority, register.clone(), rights.clone());
            Self { keeper, register, rights, tokens }
        }

        async fn join(&self, token: &str, node: &str, request: &str) -> Result<Admission> {
            let join = Join {
                token: token.to_owned(),
                request: request.to_owned(),
                node: node.to_owned(),
                name: "two".to_owned(),
                address: "192.0.2.2".parse().unwrap(),
                description: Description::default(),
            };
            self.keeper.admit(None, Request::Join(Box::new(join))).await
        }

        async fn renew(&self, holder: Option<Holder>, request: &str) -> Result<Admission> {
            let address = "192.0.2.2".parse().unwrap();
            self.keeper.admit(holder, Request::Renew { request: request.to_owned(), address }).await
        }
    }

    const FIRST: &str = "00000000000000000000000first";
    const SECOND: &str = "0000000000000000000000second";

    #[tokio::test]
    async fn a_token_lets_in_by_its_role_and_only_managers_get_the_key() {
        let door = Door::new().await;
        let request = KeyAndRequest::new().unwrap().request;
        let worker = door.join(&door.tokens[1], SECOND, &request).await.unwrap();
        let holder = Holder::of_pem(&worker.certificate).unwrap();
        assert_eq!((holder.role, holder.node.as_str()), (Role::Worker, SECOND));
        assert_eq!(worker.authority_key, None);
        let third = "00000000000000000000000third";
        let manager = door.join(&door.tokens[0], third, &request).await.unwrap();
        assert!(manager.role == Role::Manager && manager.authority_key.is_some());
        let rights = door.rights.0.lock().unwrap().clone();
        assert_eq!(rights, [(SECOND, Role::Worker), (third, Role::Manager)].map(own).into());
    }

    fn own((node, role): (&str, Role)) -> (String, Role) {
        (node.to_owned(), role)
    }

    #[tokio::test]
    async fn whose_answer_was_lost_gets_it_again_and_nobody_takes_the_place_of_another() {
        let door = Door::new().await;
        let [request, other] = [(); 2].map(|()| KeyAndRequest::new().unwrap().request);
        door.join(&door.tokens[1], SECOND, &request).await.unwrap();
        door.join(&door.tokens[1], SECOND, &request).await.unwrap();
        for taken in [SECOND, FIRST] {
            let error = door.join(&door.tokens[1], taken, &other).await.unwrap_err();
            assert_eq!(error.kind(), Kind::Conflict, "{error}");
        }
        // etcd's own user, and what is no identity.
        for node in ["root", "../../../../cluster", "Rnet-store-member"] {
            let error = door.join(&door.tokens[0], node, &other).await.unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid, "{error}");
        }
        assert!(!door.rights.0.lock().unwrap().contains_key(FIRST));
    }

    #[tokio::test]
    async fn a_renewal_follows_the_record_and_not_the_old_certificate() {
        let door = Door::new().await;
        let request = KeyAndRequest::new().unwrap().request;
        let admitted = door.join(&door.tokens[1], SECOND, &request).await.unwrap();
        let holder = Holder::of_pem(&admitted.certificate).unwrap();
        let promote = |node: &mut NodeRecord| {
            node.role = Role::Manager;
            Ok(())
        };
        door.register.change_node(SECOND, None, promote).await.unwrap();
        let renewed = door.renew(Some(holder.clone()), &request).await.unwrap();
        assert!(renewed.role == Role::Manager && renewed.authority_key.is_some());
        assert!(Holder::of_pem(&renewed.certificate).unwrap().until > SystemTime::now());

        let foreign = Holder { cluster: "another".to_owned(), ..holder.clone() };
        door.register.remove(SECOND).await.unwrap();
        for refused in [Some(foreign), Some(holder), None] {
            let error = door.renew(refused, &request).await.unwrap_err();
            assert_eq!(error.kind(), Kind::Unauthorized, "{error}");
        }
    }
}
