//! Whether a network has room for one more endpoint.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Controller, ControllerError};
use crate::driver::Room;
use crate::{Endpoint, Network};

impl Controller {
    /// Fails if the network has no room for one more endpoint.
    pub(super) fn check_room(&self, network: &Network) -> Result<(), ControllerError> {
        let Some(room) = network.driver.room(network) else { return Ok(()) };
        let members = self.members.get(&network.id);
        let is_new = |endpoint: &&Arc<Endpoint>| {
            endpoint.network == network.id
                && members.is_none_or(|members| !members.contains_key(&endpoint.id))
        };
        let coming = self.open_changes().filter_map(|change| change.sandboxes().1);
        let coming = coming.flat_map(|live| &live.endpoints).filter(is_new).count();
        let Room { endpoints, because } = room;
        if members.map_or(0, BTreeMap::len) + coming < endpoints {
            return Ok(());
        }
        let how_many = if endpoints == 1 {
            "one endpoint".to_owned()
        } else {
            format!("{endpoints} endpoints")
        };
        Err(ControllerError::forbidden(format!(
            "network {} has room for {how_many} only, and all of it is taken: {because}",
            network.name
        )))
    }
}
