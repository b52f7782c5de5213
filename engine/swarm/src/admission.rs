//! Who is let in, in which role, and whose certificate is renewed.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use engine_error::{Error, Kind, Result};

use crate::authority::{Authority, Subject};
use crate::certificate::{Holder, key_of_request};
use crate::protocol::{Admission, Join, Request};
use crate::record::{At, NodeRecord, Records, Register, SwarmRecord, TRIES, VERSION, busy, now};
use crate::server::Doorkeeper;
use crate::token::{Role, Token};

/// What nodes may do in the store.
pub(crate) trait Users: std::fmt::Debug + Send + Sync {
    /// A node has these rights, and no others.
    fn grant<'a>(&'a self, node: &'a str, role: Role) -> Granting<'a>;

    /// A node has none.
    fn forget<'a>(&'a self, node: &'a str) -> Granting<'a>;
}

/// What is being waited for.
pub(crate) type Granting<'a> = Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>>;

/// Decides at the managers' port, by what is in the store.
#[derive(Debug)]
pub(crate) struct Keeper {
    authority: Arc<Authority>,
    register: Register,
    users: Arc<dyn Users>,
}

impl Keeper {
    /// One with the authority's key.
    pub(crate) fn new(
        authority: Arc<Authority>,
        register: Register,
        users: Arc<dyn Users>,
    ) -> Self {
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
            // Its first answer was lost. A token gives no other role than its own.
            Some(At { record, .. }) if record.key == key && record.role == role => {
                let change = |node: &mut NodeRecord| {
                    take_over(node, join);
                    Ok(())
                };
                self.register.change_node(&join.node, None, change).await?;
                return self.issue(&records, join, role).await;
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
            availability: join.availability,
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
        let role = self.rights(&join.node, role).await?;
        self.admission(records, swarm, &join.request, (&join.node, join.address, role))
    }

    async fn renew(&self, holder: &Holder, request: &str, address: IpAddr) -> Result<Admission> {
        let records = self.register.read().await?;
        let swarm = &records.swarm()?.record;
        if holder.cluster != swarm.id || !records.nodes.contains_key(&holder.node) {
            return Err(gone(&holder.node));
        }
        check_address(address)?;
        let key = key_of_request(request)?;
        let change = |node: &mut NodeRecord| {
            node.key.clone_from(&key);
            node.address = address;
            Ok(())
        };
        let role = self.register.change_node(&holder.node, None, change).await?.role;
        let role = self.rights(&holder.node, role).await?;
        self.admission(&records, swarm, request, (&holder.node, address, role))
    }

    /// Gives a node the rights of its role. Whoever gives it another one meanwhile, or removes it, is not
    /// undone.
    async fn rights(&self, node: &str, mut role: Role) -> Result<Role> {
        for _ in 0..TRIES {
            self.users.grant(node, role).await?;
            let Some(now) = self.register.read().await?.nodes.remove(node) else {
                self.users.forget(node).await?;
                return Err(gone(node));
            };
            let now = now.record.role;
            if now == role {
                return Ok(role);
            }
            role = now;
        }
        Err(busy())
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

/// What a node says of itself when it asks again counts: its address may have changed since.
fn take_over(node: &mut NodeRecord, join: &Join) {
    node.name.clone_from(&join.name);
    node.address = join.address;
    node.availability = join.availability;
    node.description.clone_from(&join.description);
}

fn check(join: &Join) -> Result<()> {
    let known = |c: char| c.is_ascii_digit() || c.is_ascii_lowercase();
    if !(16..=64).contains(&join.node.len()) || !join.node.chars().all(known) {
        return Err(Error::invalid(format!("`{}` is no identity of a node", join.node)));
    }
    check_address(join.address)
}

fn check_address(address: IpAddr) -> Result<()> {
    if address.is_loopback() || address.is_unspecified() || address.is_multicast() {
        return Err(Error::invalid(format!(
            "nobody reaches a node at {address}: give another address with --advertise-addr"
        )));
    }
    Ok(())
}

fn gone(node: &str) -> Error {
    let message = format!("node {node} is none of this cluster, or was removed");
    Error::new(Kind::Unauthorized, message)
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
    use crate::record::Availability;

    /// Who has which rights, and where whoever gets some is demoted once at that moment.
    #[derive(Debug, Default)]
    struct Rights(Mutex<BTreeMap<String, Role>>, Mutex<Option<Register>>);

    impl Users for Rights {
        fn grant<'a>(&'a self, node: &'a str, role: Role) -> Granting<'a> {
            self.0.lock().unwrap().insert(node.to_owned(), role);
            let demoted_in = self.1.lock().unwrap().take();
            Box::pin(async move {
                let Some(register) = demoted_in else { return Ok(()) };
                let demote = |node: &mut NodeRecord| {
                    node.role = Role::Worker;
                    Ok(())
                };
                register.change_node(node, None, demote).await.map(|_| ())
            })
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
                availability: Availability::default(),
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
            self.joins_at("192.0.2.2", token, node, request).await
        }

        async fn joins_at(
            &self,
            address: &str,
            token: &str,
            node: &str,
            request: &str,
        ) -> Result<Admission> {
            let join = Join {
                token: token.to_owned(),
                request: request.to_owned(),
                node: node.to_owned(),
                name: "two".to_owned(),
                address: address.parse().unwrap(),
                availability: Availability::default(),
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
        door.joins_at("192.0.2.3", &door.tokens[1], SECOND, &request).await.unwrap();
        let records = door.register.read().await.unwrap();
        assert_eq!(records.nodes[SECOND].record.address.to_string(), "192.0.2.3");
        for taken in [SECOND, FIRST] {
            let error = door.join(&door.tokens[1], taken, &other).await.unwrap_err();
            assert_eq!(error.kind(), Kind::Conflict, "{error}");
        }
        // With a token of another role it is somebody else's place, too.
        let error = door.join(&door.tokens[0], SECOND, &request).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Conflict, "{error}");
        // etcd's own user, and what is no identity.
        for node in ["root", "../../../../cluster", "Rnet-store-member"] {
            let error = door.join(&door.tokens[0], node, &other).await.unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid, "{error}");
        }
        assert!(!door.rights.0.lock().unwrap().contains_key(FIRST));
    }

    #[tokio::test]
    async fn a_worker_s_token_gives_no_manager_s_credentials() {
        let door = Door::new().await;
        let request = KeyAndRequest::new().unwrap().request;
        door.join(&door.tokens[1], SECOND, &request).await.unwrap();
        let promote = |node: &mut NodeRecord| {
            node.role = Role::Manager;
            Ok(())
        };
        door.register.change_node(SECOND, None, promote).await.unwrap();
        let error = door.join(&door.tokens[1], SECOND, &request).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Conflict, "{error}");
    }

    #[tokio::test]
    async fn who_is_given_another_role_while_it_is_renewed_keeps_that() {
        let door = Door::new().await;
        let request = KeyAndRequest::new().unwrap().request;
        let admitted = door.join(&door.tokens[0], SECOND, &request).await.unwrap();
        let holder = Holder::of_pem(&admitted.certificate).unwrap();
        *door.rights.1.lock().unwrap() = Some(door.register.clone());
        let renewed = door.renew(Some(holder), &request).await.unwrap();
        assert!(renewed.role == Role::Worker && renewed.authority_key.is_none());
        assert_eq!(door.rights.0.lock().unwrap().get(SECOND), Some(&Role::Worker));
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

        let nowhere = Request::Renew { request: request.clone(), address: [127, 0, 0, 1].into() };
        let error = door.keeper.admit(Some(holder.clone()), nowhere).await.unwrap_err();
        assert!(error.to_string().starts_with("nobody reaches a node at 127.0.0.1"), "{error}");

        let foreign = Holder { cluster: "another".to_owned(), ..holder.clone() };
        door.register.remove(SECOND).await.unwrap();
        for refused in [Some(foreign), Some(holder), None] {
            let error = door.renew(refused, &request).await.unwrap_err();
            assert_eq!(error.kind(), Kind::Unauthorized, "{error}");
        }
    }
}
