//! What a manager is asked to do with its swarm.

use std::net::SocketAddr;

use engine_error::{Error, Kind, Result};

use super::Node;
use crate::admission::Users;
use crate::client::Identity;
use crate::files::{self, Alone, State};
use crate::protocol::Manager;
use crate::record::{At, Availability, NodeRecord, Records, SwarmRecord};
use crate::token::Role;

/// A node, as managers see it.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Its identity.
    pub id: String,
    /// Its record.
    pub node: At<NodeRecord>,
    /// What it is as a manager, if it is one.
    pub manager: Option<ManagerStatus>,
}

/// What a manager is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManagerStatus {
    /// Where it lets others in.
    pub address: String,
    /// Whether its member of the store leads.
    pub leads: bool,
    /// Whether its member answers.
    pub reachable: bool,
}

/// What becomes of a swarm's tokens.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rotate {
    /// The workers' token is worth nothing from now on.
    pub worker: bool,
    /// The managers' one.
    pub manager: bool,
}

/// What becomes of a node.
#[derive(Clone, Debug)]
pub struct NodeChange {
    /// What it is to do.
    pub role: Role,
    /// All of its labels.
    pub labels: std::collections::BTreeMap<String, String>,
    /// What it is to be used for.
    pub availability: Availability,
}

impl Node {
    /// The swarm's records, on a manager.
    pub async fn records(&self) -> Result<Records> {
        let (state, _) = self.manager()?;
        self.register(&state, Role::Manager)?.read().await
    }

    /// The tokens of a swarm, of which this node is a manager: for managers, and for workers.
    pub fn tokens(&self, swarm: &SwarmRecord) -> Result<[String; 2]> {
        let missing = || Error::new(Kind::Internal, "the authority's key is missing");
        let authority = self.files.authority()?.ok_or_else(missing)?;
        let token = |role| swarm.tokens.token(&authority, role).to_string();
        Ok([Role::Manager, Role::Worker].map(token))
    }

    /// The nodes, with what they are as managers.
    pub async fn nodes(&self) -> Result<Vec<Listed>> {
        let (state, identity) = self.manager()?;
        let records = self.register(&state, Role::Manager)?.read().await?;
        let admin = self.admin(&state, &identity).await?;
        let stores: Vec<_> = records.managers.values().map(|m| m.store.clone()).collect();
        let (peers, leaders) = tokio::join!(admin.members(), admin.leaders(&stores));
        let leader = leaders.iter().flatten().next();
        let peers = peers?;
        let leader = peers.iter().find(|peer| Some(&peer.id) == leader);
        let leader = leader.map(|peer| peer.name.as_str());
        let status = |(manager, answer): (&Manager, &Option<u64>)| {
            let reachable = answer.is_some();
            let leads = leader == Some(manager.node.as_str());
            let address = manager.address.clone();
            (manager.node.clone(), ManagerStatus { address, leads, reachable })
        };
        let managers = records.managers.values().zip(&leaders).map(status);
        let mut managers: std::collections::BTreeMap<_, _> = managers.collect();
        let listed = |(id, node): (String, At<NodeRecord>)| {
            let manager = managers.remove(&id);
            Listed { id, node, manager }
        };
        Ok(records.nodes.into_iter().map(listed).collect())
    }

    /// Changes the swarm, if nobody has since a version.
    pub async fn update(
        &self,
        version: i64,
        rotate: Rotate,
        change: impl Fn(&mut SwarmRecord) -> Result<()>,
    ) -> Result<()> {
        let (state, _) = self.manager()?;
        let register = self.register(&state, Role::Manager)?;
        let failed = |error| Error::internal("no random numbers", error);
        let all = |swarm: &mut SwarmRecord| {
            change(swarm)?;
            for (role, wanted) in [(Role::Manager, rotate.manager), (Role::Worker, rotate.worker)] {
                if wanted {
                    swarm.tokens.rotate(role).map_err(failed)?;
                }
            }
            Ok(())
        };
        register.change_swarm(Some(version), all).await
    }

    /// Changes a node, if nobody has since a version. The node itself does what follows for it.
    pub async fn update_node(&self, id: &str, version: i64, change: &NodeChange) -> Result<()> {
        let (state, identity) = self.manager()?;
        let register = self.register(&state, Role::Manager)?;
        let records = register.read().await?;
        let before = records.node(id)?;
        let demoted = (before.record.role, change.role) == (Role::Manager, Role::Worker);
        if demoted && records.nodes.values().filter(|n| n.record.role == Role::Manager).count() < 2
        {
            return Err(Error::invalid(
                "rpc error: code = FailedPrecondition desc = attempting to demote the last manager \
                 of the swarm",
            ));
        }
        if before.revision != version {
            return Err(Error::invalid("rpc error: code = Unknown desc = update out of sequence"));
        }
        let admin = self.admin(&state, &identity).await?;
        if demoted {
            // etcd refuses if there were no majority without it.
            let listed = admin.members().await?;
            if let Some(peer) = listed.iter().find(|peer| peer.name == id) {
                admin.expel(peer, &listed).await?;
            }
        }
        let apply = |node: &mut NodeRecord| {
            node.role = change.role;
            node.labels.clone_from(&change.labels);
            node.availability = change.availability;
            Ok(())
        };
        register.change_node(id, Some(version), apply).await?;
        // That it has this role already may be what is left of a change that ended half-way.
        admin.grant(id, change.role).await?;
        self.nudge.notify_one();
        Ok(())
    }

    /// A worker gets in nowhere from now on, and is still known.
    pub async fn shut_out(&self, id: &str) -> Result<()> {
        let (state, identity) = self.manager()?;
        is_worker(&self.records().await?, id)?;
        self.admin(&state, &identity).await?.forget(id).await
    }

    /// Removes a worker: it gets in nowhere from now on.
    pub async fn remove_node(&self, id: &str) -> Result<()> {
        let (state, identity) = self.manager()?;
        let register = self.register(&state, Role::Manager)?;
        let records = register.read().await?;
        is_worker(&records, id)?;
        let admin = self.admin(&state, &identity).await?;
        // Without its record it is renewed nothing, without a user it is nobody in the store.
        admin.forget(id).await?;
        register.remove(id).await
    }

    /// Goes on with what this manager knows of the swarm, without the other managers, which are lost: they
    /// are workers if they come back. `listen` is where it lets others in from now on.
    pub async fn go_on_alone(&self, listen: SocketAddr) -> Result<()> {
        let mut works = self.works.lock().await;
        let (state, _) = self.manager()?;
        let state = State { alone: Some(Alone::Member), managers: Vec::new(), listen, ..state };
        self.files.put_state(&state)?;
        works.door = None;
        self.settle_in_time(&mut works).await?;
        self.nudge.notify_one();
        Ok(())
    }

    /// Whether a node is a worker, in Docker's words if it is not.
    pub async fn must_be_worker(&self, id: &str) -> Result<()> {
        is_worker(&self.records().await?, id)
    }

    /// The authority's certificate, as PEM, on a manager.
    pub fn authority(&self) -> Result<String> {
        Ok(self.manager()?.1.authority)
    }

    /// Whether this node is a manager, in Docker's words if it is not.
    fn manager(&self) -> Result<(State, Identity)> {
        let refused = |message| Error::new(Kind::Unavailable, message);
        let state = self.files.state()?.ok_or_else(|| refused(OUT))?;
        let identity = self.files.identity()?;
        match files::role(&identity)? {
            Role::Manager => Ok((state, identity)),
            Role::Worker => Err(refused(WORKER)),
        }
    }
}

fn is_worker(records: &Records, id: &str) -> Result<()> {
    if records.node(id)?.record.role == Role::Worker {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "rpc error: code = FailedPrecondition desc = node {id} is a cluster manager and is a member \
         of the raft cluster. It must be demoted to worker before removal"
    )))
}

/// Docker's words for a node that is in no swarm.
pub const OUT: &str = "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm \
                       join\" to connect this node to swarm and try again.";

/// Docker's words for a worker.
pub const WORKER: &str = "This node is not a swarm manager. Worker nodes can't be used to view or \
                          modify cluster state. Please run this command on a manager node or promote \
                          the current node to a manager.";
