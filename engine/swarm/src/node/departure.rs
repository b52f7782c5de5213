//! A node leaves its swarm: the others are told, if they can be, and nothing of it stays here.

use std::future::Future;
use std::time::Duration;

use engine_error::{Error, Kind, Result};

use super::manage::{is_own, store_of};
use super::{LIMIT, Node, Works};
use crate::admission::Users;
use crate::client::Identity;
use crate::files::{self, Phase, State};
use crate::record::Register;
use crate::token::Role;

/// How long the others may take to take note of it.
const FAREWELL: Duration = Duration::from_secs(25);

impl Node {
    /// Whether it may be left: a manager does only if it is forced to, in Docker's words.
    pub fn may_leave(&self, force: bool) -> Result<()> {
        let out = || Error::new(Kind::Unavailable, "This node is not part of a swarm");
        let unreadable = |error: Error| {
            let message = format!("{}: `--force` leaves all the same", error.chain());
            Error::new(error.kind(), message)
        };
        let state = match self.files.state() {
            Err(_) if force => return Ok(()),
            state => state.map_err(unreadable)?.filter(|state| state.phase == Phase::In),
        };
        let state = state.ok_or_else(out)?;
        if force {
            return Ok(());
        }
        let role = self.files.identity().and_then(|identity| files::role(&identity));
        if role.map_err(unreadable)? == Role::Worker {
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

    /// Leaves. What is to be done `before` is begun when it is written down that this node leaves; if it
    /// fails, the node stays.
    pub async fn leave(&self, force: bool, before: impl Future<Output = Result<()>>) -> Result<()> {
        let mut works = self.works.lock().await;
        self.may_leave(force)?;
        self.enter(Phase::Leaving)?;
        if let Err(error) = before.await {
            self.enter(Phase::In)?;
            return Err(error);
        }
        self.depart(&mut works).await?;
        self.nudge.notify_one();
        Ok(())
    }

    /// Ends and removes whatever there is of a swarm, for `system reset`, after what is to be done
    /// `before`.
    pub async fn reset(&self, before: impl Future<Output = ()>) -> Result<()> {
        let mut works = self.works.lock().await;
        self.enter(Phase::Leaving)?;
        before.await;
        self.depart(&mut works).await
    }

    /// Writes down how far it is, where it can be told who it is.
    fn enter(&self, phase: Phase) -> Result<()> {
        match self.files.state() {
            Ok(Some(state)) => self.files.put_state(&State { phase, ..state }),
            Ok(None) | Err(_) => Ok(()),
        }
    }

    /// What was begun goes on after a crash.
    pub(super) async fn depart(&self, works: &mut Works) -> Result<()> {
        let state = self.files.state().unwrap_or_else(|error| {
            tracing::warn!(error = error.chain(), "no other manager knows that this node leaves");
            None
        });
        if let Some(state) = state {
            self.enter(Phase::Leaving)?;
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
        self.ways().close();
        works.end_member(&self.files).await?;
        self.files.clear()?;
        self.tell(None);
        Ok(())
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
            // It has no rights that could be taken back.
            Err(error) if error.kind() == Kind::NotFound => return Ok(()),
            outcome => drop(outcome?),
        }
        others.grant(&state.node, Role::Worker).await
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::authority::{Authority, NODE_LIFE, Subject};
    use crate::certificate::KeyAndRequest;
    use crate::files::Files;

    /// What a node keeps, of which one file is then as given.
    fn directory(name: &str, broken: &str, text: &str) -> PathBuf {
        let own = format!("rnet-swarm-{name}-{}", std::process::id());
        let files = Files::new(std::env::temp_dir().join(own));
        files.clear().unwrap();
        let (authority, keys) = (Authority::create().unwrap(), KeyAndRequest::new().unwrap());
        let subject = Subject { cluster: "c1", node: "n1", role: Role::Manager, addresses: &[] };
        let certificate = authority.certify(&keys.request, &subject, NODE_LIFE).unwrap();
        let authority = authority.certificate().to_owned();
        files.put_identity(&Identity { certificate, key: keys.key, authority }).unwrap();
        let own = crate::node::Own {
            node: "n1".to_owned(),
            name: "one".to_owned(),
            address: "192.0.2.1".parse().unwrap(),
            listen: "192.0.2.1:2377".parse().unwrap(),
            port: 2377,
            availability: crate::record::Availability::default(),
            description: crate::protocol::Description::default(),
        };
        files.put_state(&own.state("c1")).unwrap();
        let node = Node::open(files.directory().to_owned(), files.path("log")).standing();
        assert!(node.enrolment.is_some() && node.problem.is_none() && !node.is_out());
        files.write(broken, text).unwrap();
        files.directory().to_owned()
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_told_and_kept_until_it_is_left_by_force() {
        let later = r#"{"version":9,"cluster":"c1","node":"n1","name":"one","address":"192.0.2.1",
                        "listen":"192.0.2.1:2377","port":2377,"phase":"in"}"#;
        for (name, file, text, said) in [
            ("torn", "state.json", "{\"version\":", "cannot read"),
            ("later", "state.json", later, "was written by a later rnet"),
            ("certificate", "node.pem", "nothing", "cannot read a certificate"),
        ] {
            let directory = directory(name, file, text);
            let node = Node::open(directory.clone(), directory.join("log"));
            let standing = node.standing();
            let problem = standing.problem.clone().unwrap_or_default();
            assert!(standing.unreadable && problem.contains(said), "{standing:?}");
            assert!(!standing.is_out());
            let kept = node.leave(false, async { Ok(()) }).await.unwrap_err().to_string();
            assert!(kept.contains(said) && kept.contains("--force"), "{kept}");
            assert_eq!(std::fs::read_to_string(directory.join(file)).unwrap(), text);

            node.leave(true, async { Ok(()) }).await.unwrap();
            assert!(!directory.exists() && node.standing().is_out(), "{:?}", node.standing());
        }
        let directory = directory("reset", "state.json", "");
        let node = Node::open(directory.clone(), directory.join("log"));
        node.reset(async {}).await.unwrap();
        assert!(!directory.exists() && node.standing().is_out());
    }
}
