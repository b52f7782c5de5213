//! Changing a network, and what containers on it see of that.

use cnm::NetworkId;
use cnm::controller::NetworkUpdate;
use cnm::store::Durability;

use super::Containers;
use super::live::Live;
use crate::network::Updated;
use engine_error::Result;

/// What a change of a network does, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkUpdated {
    /// What changes in the kernel, a step a line.
    pub plan: Vec<String>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

impl Containers {
    /// Changes a network while containers are on it, or says only what that would do. Blocks.
    pub fn update_network(
        &self,
        key: &str,
        update: &NetworkUpdate,
        dry_run: bool,
    ) -> Result<NetworkUpdated> {
        let network = self.networks.network(key)?;
        if dry_run {
            let rehearsed = self.networks.rehearse_update(&network.id, update)?;
            return Ok(NetworkUpdated { plan: rehearsed.plan, warnings: rehearsed.warnings });
        }
        let updated = self.networks.update(&network.id, update)?;
        self.see_update(&updated);
        Ok(NetworkUpdated { plan: updated.plan, warnings: updated.warnings })
    }

    /// Changes a network as another host of the cluster has changed it. Blocks.
    pub(crate) fn follow_network(&self, id: &NetworkId, update: &NetworkUpdate) -> Result<()> {
        let updated = self.networks.update_here(id, update)?;
        self.see_update(&updated);
        Ok(())
    }

    /// Containers see what became of a network that they are on.
    fn see_update(&self, updated: &Updated) {
        for sandbox in &updated.members {
            let owner = self.networks.sandbox(sandbox).map(|(sandbox, _)| sandbox.owner.clone());
            let live = owner.and_then(|owner| self.registry.find(&owner));
            if let Ok(live) = live
                && let Err(error) = self.see_networks(&live)
            {
                let (container, error) = (live.get(), error.chain());
                let container = container.short_id();
                tracing::error!(container, error, "it does not see the change of its network");
            }
        }
    }

    /// Has a running container, and who asks for it, see its networks as they are now.
    fn see_networks(&self, live: &Live) -> Result<()> {
        let _turn = live.lifecycle.blocking_lock();
        let container = live.get();
        let Some(id) = &container.sandbox else { return Ok(()) };
        let (sandbox, endpoints) = self.networks.sandbox(id)?;
        self.networks.publish(&self.sandbox_names(&container, &sandbox, &endpoints)?)?;
        let views = self.endpoint_views(&container, &endpoints)?;
        let (container, ()) = live.change(|container| container.endpoints = views);
        self.note(&container, Durability::Eventual);
        Ok(())
    }
}
