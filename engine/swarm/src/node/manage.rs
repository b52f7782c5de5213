//! What a manager has: a member of the store, and an open door.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use engine_error::{Error, Kind, Result};
use tokio::time::Instant;

use super::{MOMENT, Node, Open, Works};
use crate::admin::{Admin, Peer};
use crate::admission::{Keeper, Users};
use crate::authority::{Authority, NODE_LIFE};
use crate::certificate::half_time_of_pem;
use crate::client::Identity;
use crate::files::{Alone, State};
use crate::member::{CLIENTS, EtcdProcess, PEERS, Plan};
use crate::protocol::Manager;
use crate::record::{NodeRecord, Register, VERSION, now};
use crate::server::Door;
use crate::standing::members;
use crate::token::Role;

/// How long a member may take to forget the others.
const ALONE: Duration = Duration::from_secs(30);

impl Node {
    /// Has this node be a manager.
    pub(super) async fn manage(
        &self,
        works: &mut Works,
        mut state: State,
        identity: &Identity,
    ) -> Result<()> {
        let missing = "the authority's key is missing: leave the swarm, and join it again";
        let missing = || Error::new(Kind::Internal, missing);
        let authority = Arc::new(self.files.authority()?.ok_or_else(missing)?);
        self.certify_peer(&authority, &state)?;
        if state.alone == Some(Alone::Member) {
            self.forget_others(works, &state, identity).await?;
            state.alone = Some(Alone::Records);
            self.files.put_state(&state)?;
        }
        self.run_member(works, &state, identity).await?;
        let register = self.register(&state, Role::Manager)?;
        let admin = self.admin(&state, identity).await?;
        if state.beginning.is_some() {
            self.begin(&register, &admin, &mut state).await?;
        }
        if state.alone.is_some() {
            depose_others(&register, &admin, &state.node).await?;
            state.alone = None;
            self.files.put_state(&state)?;
        }
        self.vote(&state, identity).await?;
        register.announce(&own(&state)).await?;
        open_door(works, &state, identity, Keeper::new(authority, register, admin)).await
    }

    /// What this node shows to other members. They read it again for each connection.
    fn certify_peer(&self, authority: &Authority, state: &State) -> Result<()> {
        if let Some(pem) = self.files.read("peer.pem")?
            && half_time_of_pem(&pem)? > SystemTime::now()
        {
            return Ok(());
        }
        let (key, certificate) = authority.issue_peer(state.address, NODE_LIFE)?;
        self.files.write("peer.key", &key)?;
        self.files.write("peer.pem", &certificate)
    }

    /// Has the member run. One that the others do not know yet is made known to them first.
    async fn run_member(&self, works: &mut Works, state: &State, own: &Identity) -> Result<()> {
        if let Some(member) = &works.member {
            if member.problem().is_none() || !self.is_expelled(state, own).await {
                return Ok(());
            }
            // What it knows is of no use to a member that comes anew.
            tracing::warn!("the store's members do not know this one any more: it joins them anew");
            if let Some(member) = works.member.take() {
                member.end().await?;
            }
            self.files.forget_data()?;
        }
        let mut plan = self.plan(state);
        if !plan.has_data() && state.beginning.is_none() {
            plan.members = self.make_room(state, own).await?;
        }
        works.member = Some(EtcdProcess::keep(plan)?);
        Ok(())
    }

    fn plan(&self, state: &State) -> Plan {
        Plan {
            node: state.node.clone(),
            cluster: state.cluster.clone(),
            address: state.address,
            directory: self.files.directory().to_owned(),
            log: self.log.clone(),
            members: String::new(),
            alone: false,
        }
    }

    /// Has the member forget all others. It does so once: told so again it would forget those that come.
    async fn forget_others(
        &self,
        works: &mut Works,
        state: &State,
        identity: &Identity,
    ) -> Result<()> {
        works.end_member(&self.files).await?;
        let member = EtcdProcess::keep(Plan { alone: true, ..self.plan(state) })?;
        let admin = Admin::connect(&[store_of(state)], identity).await?;
        let begun = Instant::now();
        let done = loop {
            let failed = match admin.members().await {
                Ok(listed) if listed.len() == 1 => break Ok(()),
                Ok(_) => Error::new(Kind::Unavailable, "the member of etcd knows others still"),
                Err(error) => error,
            };
            if begun.elapsed() > ALONE || member.keeps_ending() {
                break Err(failed);
            }
            tokio::time::sleep(MOMENT).await;
        };
        match done {
            Ok(()) => member.end().await,
            // Why it ended is told.
            Err(error) => {
                works.member = Some(member);
                Err(error)
            }
        }
    }

    /// The other members, to be asked about this one.
    pub(super) async fn others(&self, state: &State, identity: &Identity) -> Result<Option<Admin>> {
        let mut others = members(state, Role::Manager);
        others.retain(|member| *member != store_of(state));
        if others.is_empty() {
            return Ok(None);
        }
        Admin::connect(&others, identity).await.map(Some)
    }

    async fn is_expelled(&self, state: &State, identity: &Identity) -> bool {
        let Ok(Some(others)) = self.others(state, identity).await else { return false };
        let listed = others.members().await;
        listed.is_ok_and(|listed| !listed.iter().any(|peer| is_own(peer, state)))
    }

    /// Makes the member known to the others. Who they are, as etcd wants to be told.
    async fn make_room(&self, state: &State, identity: &Identity) -> Result<String> {
        let nobody = "this manager knows no other: leave the swarm, and join it again";
        let nobody = || Error::new(Kind::Unavailable, nobody);
        let others = self.others(state, identity).await?.ok_or_else(nobody)?;
        let mut listed = others.members().await?;
        if let Some(lost) = listed.iter().find(|peer| is_own(peer, state) && !peer.name.is_empty())
        {
            // It has lost what it knew: a member that forgets votes twice.
            others.expel(lost, &[]).await?;
            listed.retain(|peer| !is_own(peer, state));
        }
        if !listed.iter().any(|peer| is_own(peer, state)) {
            others.add(&peer_url(state)).await?;
            listed = others.members().await?;
        }
        let name = |peer: &Peer| match (is_own(peer, state), peer.name.as_str()) {
            (true, _) => state.node.clone(),
            (false, "") => format!("{:x}", peer.id),
            (false, name) => name.to_owned(),
        };
        let words = listed.iter().flat_map(|peer| {
            let name = name(peer);
            peer.peers.iter().map(move |url| format!("{name}={url}"))
        });
        Ok(words.collect::<Vec<_>>().join(","))
    }

    /// A swarm that this node has just made is written down, and closed to strangers.
    async fn begin(&self, register: &Register, admin: &Admin, state: &mut State) -> Result<()> {
        let Some(swarm) = &state.beginning else { return Ok(()) };
        let node = NodeRecord {
            version: VERSION,
            created: now(),
            updated: now(),
            role: Role::Manager,
            name: state.name.clone(),
            address: state.address,
            key: String::new(),
            labels: std::collections::BTreeMap::new(),
            availability: state.availability,
            description: state.description.clone(),
        };
        register.begin(swarm, &state.node, &node).await?;
        admin.guard(&state.node).await?;
        state.beginning = None;
        self.files.put_state(state)
    }

    /// Gives the member its vote, if it has none yet.
    async fn vote(&self, state: &State, identity: &Identity) -> Result<()> {
        let Some(others) = self.others(state, identity).await? else { return Ok(()) };
        let listed = others.members().await?;
        match listed.iter().find(|peer| is_own(peer, state)) {
            Some(own) if own.learner => others.promote(own.id).await,
            _ => Ok(()),
        }
    }
}

/// All other managers are workers from now on.
async fn depose_others(register: &Register, admin: &Admin, own: &str) -> Result<()> {
    let nodes = register.read().await?.nodes;
    let others = nodes.iter().filter(|(id, node)| *id != own && node.record.role == Role::Manager);
    for (id, _) in others {
        let depose = |node: &mut NodeRecord| {
            node.role = Role::Worker;
            Ok(())
        };
        register.change_node(id, None, depose).await?;
        admin.grant(id, Role::Worker).await?;
    }
    Ok(())
}

/// Lets others in, or shows them a renewed certificate.
async fn open_door(
    works: &mut Works,
    state: &State,
    identity: &Identity,
    keeper: Keeper,
) -> Result<()> {
    if let Some(door) = &works.door {
        return door.lock.change(identity);
    }
    let (door, lock) = Door::bind(state.listen, identity).await?;
    let task = tokio::spawn(door.serve(Arc::new(keeper)));
    works.door = Some(Open { lock, task });
    Ok(())
}

/// Whether a member is this node's.
pub(super) fn is_own(peer: &Peer, state: &State) -> bool {
    peer.peers.contains(&peer_url(state))
}

fn peer_url(state: &State) -> String {
    format!("https://{}", SocketAddr::new(state.address, PEERS))
}

/// Where this node's member is for nodes.
pub(super) fn store_of(state: &State) -> String {
    SocketAddr::new(state.address, CLIENTS).to_string()
}

/// This node as a manager.
fn own(state: &State) -> Manager {
    Manager {
        node: state.node.clone(),
        address: SocketAddr::new(state.address, state.port).to_string(),
        store: store_of(state),
    }
}
