//! Keeps a node as it is to be: it hears of changes to its record, and renews its certificate.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cluster::Revision;
use engine_error::{Error, Kind, Result};

use super::{Node, REMOVED, Works};
use crate::authority::{Subject, digest_of_pem};
use crate::certificate::{Holder, KeyAndRequest};
use crate::client::{self, Identity};
use crate::files::{self, Phase, State};
use crate::protocol::{Admission, Request};
use crate::record::{ROOT, Records, Register};
use crate::token::Role;

/// How long the first wait after a failure is, and the longest.
const BACK_OFF: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(10)];

/// How long the store is waited for before this node does what it can without.
const GLANCE: Duration = Duration::from_secs(1);

/// How often a node looks after itself although nobody told of a change.
const LOOK: Duration = Duration::from_secs(30);

impl Node {
    /// Does so as long as the daemon lives.
    pub async fn keep(self: Arc<Self>) {
        let mut wait = BACK_OFF[0];
        self.sweep().await;
        loop {
            let nudged = self.nudge.notified();
            let done = {
                let mut works = self.works.lock().await;
                let done = self.look(&mut works).await;
                let done = done.map_err(|error| works.explain(self.told_out(error)));
                self.tell(done.as_ref().err());
                done
            };
            match done {
                Ok(None) => {
                    wait = BACK_OFF[0];
                    nudged.await;
                }
                Ok(Some((register, revision))) => {
                    wait = BACK_OFF[0];
                    tokio::select! {
                        () = nudged => {}
                        () = change(&register, revision) => {}
                        () = self.half_time() => {}
                    }
                }
                Err(error) => {
                    tracing::debug!(error = error.chain(), "this node is not yet as it is to be");
                    tokio::select! {
                        () = nudged => {}
                        () = tokio::time::sleep(wait) => {}
                    }
                    wait = (wait * 2).min(BACK_OFF[1]);
                }
            }
        }
    }

    /// What a crash left of a swarm that this node is not in, goes.
    async fn sweep(&self) {
        let _alone = self.works.lock().await;
        let out = self.files.state().is_ok_and(|state| state.is_none());
        if out && let Err(error) = self.sweep_up().await {
            tracing::warn!(error = error.chain(), "something is left of a swarm");
        }
    }

    /// Returns when the certificate is to be renewed.
    async fn half_time(&self) {
        let identity = self.files.identity();
        let holder = identity.and_then(|identity| Holder::of_pem(&identity.certificate));
        let Ok(holder) = holder else { return std::future::pending().await };
        let left = holder.half_time().duration_since(SystemTime::now()).unwrap_or_default();
        tokio::time::sleep(left).await;
    }

    /// One look: what is missing is done, and what has changed is heeded. Where to look next.
    async fn look(&self, works: &mut Works) -> Result<Option<(Register, Revision)>> {
        // A change of what it is to be takes another turn, and so on; never many.
        for _ in 0..4 {
            if self.heed_first(works).await? {
                continue;
            }
            self.settle(works).await?;
            let Some(mut state) = self.files.state()? else { return Ok(None) };
            let identity = self.files.identity()?;
            let role = files::role(&identity)?;
            let register = self.register(&state, role)?;
            let records = register.read().await?;
            let known: Vec<_> = records.managers.values().cloned().collect();
            if !known.is_empty() && known != state.managers {
                state.managers = known;
                self.files.put_state(&state)?;
                continue;
            }
            if role == Role::Manager {
                self.tidy(&state, &identity, &records).await?;
            }
            return Ok(Some((register, records.revision)));
        }
        Err(Error::new(Kind::Unavailable, "the swarm changes all the time"))
    }

    /// What the store says is heeded before anything is done, if it can be asked: a manager that is
    /// one no more has no right to a member. Whether something has changed by it.
    async fn heed_first(&self, works: &mut Works) -> Result<bool> {
        let state = self.files.state()?.filter(|state| state.phase == Phase::In);
        let Some(state) = state.filter(|state| state.beginning.is_none()) else { return Ok(false) };
        let identity = self.files.identity()?;
        if self.outlive(&state, &identity)? {
            return Ok(true);
        }
        let register = self.register(&state, files::role(&identity)?)?;
        match tokio::time::timeout(GLANCE, register.read()).await {
            Ok(Ok(records)) => self.heed(works, &state, &identity, &records).await,
            Ok(Err(_)) | Err(_) => Ok(false),
        }
    }

    /// Exchanges the certificate if it is time, or for another role. Whether it did.
    async fn heed(
        &self,
        works: &mut Works,
        state: &State,
        identity: &Identity,
        records: &Records,
    ) -> Result<bool> {
        let removed = || Error::new(Kind::NotFound, REMOVED);
        let wanted = records.nodes.get(&state.node).ok_or_else(removed)?.record.role;
        let holder = Holder::of_pem(&identity.certificate)?;
        if holder.role == wanted && holder.half_time() > SystemTime::now() {
            return Ok(false);
        }
        let own = KeyAndRequest::of(&identity.key)?;
        let admission = if (holder.role, wanted) == (Role::Manager, Role::Manager) {
            self.certify_oneself(state, &own.request, records.swarm()?.record.life())?
        } else {
            let request = Request::Renew { request: own.request, address: state.address };
            let managers = state.managers.iter().filter(|manager| manager.node != state.node);
            let managers: Vec<_> = managers.map(|manager| manager.address.clone()).collect();
            let authority = digest_of_pem(&identity.authority)?;
            client::ask(&managers, authority, Some(identity), &request).await?
        };
        if (holder.role, admission.role) == (Role::Worker, Role::Manager) {
            // What its member knew when it was a manager before is of no use to a new one.
            works.end_member(&self.files).await?;
            self.files.forget_data()?;
        }
        self.exchange(&admission, &own.key)?;
        Ok(true)
    }

    /// A manager that was switched off until its certificate had ended is let in nowhere, by its own
    /// member neither. It gives itself another one as long as that; what it may do in the store is not
    /// said by that. Whether it did.
    fn outlive(&self, state: &State, identity: &Identity) -> Result<bool> {
        let holder = Holder::of_pem(&identity.certificate)?;
        let over = holder.role == Role::Manager && holder.until <= SystemTime::now();
        if !over || self.files.authority()?.is_none() {
            return Ok(false);
        }
        let own = KeyAndRequest::of(&identity.key)?;
        let admission = self.certify_oneself(state, &own.request, holder.life())?;
        self.exchange(&admission, &own.key)?;
        Ok(true)
    }

    fn exchange(&self, admission: &Admission, key: &str) -> Result<()> {
        self.take(admission, key)?;
        self.ways().renewals += 1;
        tracing::info!(role = %admission.role, "this node has another certificate");
        Ok(())
    }

    /// A manager has the authority's key itself.
    fn certify_oneself(&self, state: &State, request: &str, life: Duration) -> Result<Admission> {
        let missing = || Error::new(Kind::Internal, "the authority's key is missing");
        let authority = self.files.authority()?.ok_or_else(missing)?;
        let addresses = [state.address];
        let subject = Subject {
            cluster: &state.cluster,
            node: &state.node,
            role: Role::Manager,
            addresses: &addresses,
        };
        Ok(Admission {
            cluster: state.cluster.clone(),
            role: Role::Manager,
            certificate: authority.certify(request, &subject, life)?,
            authority: authority.certificate().to_owned(),
            authority_key: None,
            managers: state.managers.clone(),
        })
    }

    /// Takes members of the store away whose nodes are no managers: a demotion ended half-way.
    async fn tidy(&self, state: &State, identity: &Identity, records: &Records) -> Result<()> {
        let admin = self.admin(state, identity).await?;
        let listed = admin.members().await?;
        for peer in listed.iter().filter(|peer| !peer.name.is_empty()) {
            let node = records.nodes.get(&peer.name);
            if node.is_none_or(|node| node.record.role == Role::Worker) {
                tracing::info!(node = peer.name, "a member of the store is no manager's any more");
                admin.expel(peer, &listed).await?;
            }
        }
        Ok(())
    }
}

/// Returns when the swarm's records have changed since a revision, or after a while.
async fn change(register: &Register, since: Revision) {
    let heard = async {
        let mut watch = register.store().watch(ROOT, since + 1).await?;
        while watch.next().await?.1.is_empty() {}
        Ok::<_, cluster::StoreError>(())
    };
    if let Ok(Err(error)) = tokio::time::timeout(LOOK, heard).await {
        tracing::debug!(%error, "the swarm's records are not followed");
        tokio::time::sleep(BACK_OFF[0]).await;
    }
}
