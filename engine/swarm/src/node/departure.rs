//! A node leaves its swarm: the others are told, if they can be, and nothing of it stays here.

use std::time::Duration;

use engine_error::{Error, Kind, Result};

use super::manage::{is_own, store_of};
use super::{LIMIT, Node, Works};
use crate::admission::Users;
use crate::client::Identity;
use crate::files::{self, Phase, State};
use crate::member;
use crate::record::Register;
use crate::token::Role;

/// How long the others may take to take note of it.
const FAREWELL: Duration = Duration::from_secs(25);

impl Node {
    /// Whether it may be left: a manager does only if it is forced to, in Docker's words.
    pub fn may_leave(&self, force: bool) -> Result<()> {
        let out = || Error::new(Kind::Unavailable, "This node is not part of a swarm");
        let state = self.files.state()?.filter(|state| state.phase == Phase::In);
        let state = state.ok_or_else(out)?;
        let role = self.files.identity().and_then(|identity| files::role(&identity));
        if force || !matches!(role, Ok(Role::Manager)) {
            return Ok(());
        }
        let mut message =
            "You are attempting to leave the swarm on a node that is participating as \
                           a manager. "
                .to_owned();
        message += if state.managers.len() > 1 {
            "The swarm goes on without it as long as most of its managers are reachable. Use \
             `--force` to suppress this message."
        } else {
            "Removing the last manager erases all current state of the swarm. Use `--force` to \
             ignore this message. "
        };
        Err(Error::new(Kind::Unavailable, message))
    }

    /// Leaves.
    pub async fn leave(&self, force: bool) -> Result<()> {
        let mut works = self.works.lock().await;
        self.may_leave(force)?;
        self.depart(&mut works).await?;
        self.nudge.notify_one();
        Ok(())
    }

    /// Ends and removes whatever there is of a swarm, for `system reset`.
    pub async fn reset(&self) -> Result<()> {
        let mut works = self.works.lock().await;
        self.depart(&mut works).await
    }

    /// What was begun goes on after a crash.
    pub(super) async fn depart(&self, works: &mut Works) -> Result<()> {
        if let Some(mut state) = self.files.state()? {
            state.phase = Phase::Leaving;
            self.files.put_state(&state)?;
            let farewell = tokio::time::timeout(FAREWELL, self.farewell(&state)).await;
            let silent = || Error::new(Kind::Unavailable, "they do not answer");
            if let Err(error) = farewell.unwrap_or_else(|_| Err(silent())) {
                tracing::warn!(
                    error = error.chain(),
                    "the other managers do not know that it left"
                );
            }
        }
        works.door = None;
        works.store = None;
        works.admin = None;
        match works.member.take() {
            Some(member) => member.end().await?,
            None => member::end(&self.files.path("data")).await?,
        }
        self.files.clear()?;
        self.tell(works, None)
    }

    /// A manager among others takes its member and its role back.
    async fn farewell(&self, state: &State) -> Result<()> {
        let identity: Identity = self.files.identity()?;
        if files::role(&identity)? == Role::Worker || state.beginning.is_some() {
            return Ok(());
        }
        let Some(others) = self.others(state, &identity).await? else { return Ok(()) };
        let listed = others.members().await?;
        if let Some(own) = listed.iter().find(|peer| is_own(peer, state)) {
            others.expel(own, &listed).await?;
        }
        let mut place = crate::standing::place(&self.files, state, Role::Worker);
        place.endpoints.retain(|member| *member != store_of(state));
        let store = cluster::Etcd::open(&place, LIMIT)?;
        let register = Register::new(std::sync::Arc::new(store));
        let worker = |node: &mut crate::record::NodeRecord| {
            node.role = Role::Worker;
            Ok(())
        };
        match register.change_node(&state.node, None, worker).await {
            Err(error) if error.kind() == Kind::NotFound => {}
            outcome => outcome?,
        }
        others.grant(&state.node, Role::Worker).await
    }
}
