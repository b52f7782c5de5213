//! What was read of the cluster's store, put into a view: records that can be read, and the rest.

use std::collections::BTreeSet;
use std::sync::Arc;

use cnm::{EndpointId, NetworkId};

use crate::record::{EndpointRecord, Keys, NetworkRecord, NodeRecord, Read, read};
use crate::view::{Delta, NodeView, View};

/// A part of the store that is followed by itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    Nodes,
    Lives,
    Networks,
    Endpoints(NetworkId),
}

/// A view with what is not to be seen in it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Knowledge {
    pub(crate) view: View,
    /// Hosts that are there; of some there may be no record.
    live: BTreeSet<String>,
    /// Which parts were read whole.
    read: BTreeSet<Part>,
}

impl Part {
    /// What its keys begin with.
    pub(crate) fn prefix(&self, keys: &Keys) -> String {
        match self {
            Self::Nodes => keys.nodes(),
            Self::Lives => keys.lives(),
            Self::Networks => keys.networks(),
            Self::Endpoints(network) => keys.endpoints(network),
        }
    }
}

impl Knowledge {
    /// Notes that a part was read whole: nothing is missing any more.
    pub(crate) fn complete(&mut self, part: &Part) {
        if let Part::Endpoints(network) = part {
            self.view.endpoints.entry(network.clone()).or_default();
        }
        self.read.insert(part.clone());
        let all = [Part::Nodes, Part::Lives, Part::Networks];
        self.view.complete |= all.iter().all(|part| self.read.contains(part));
    }

    /// The ids that are known in a part, of those records that cannot be read, too.
    pub(crate) fn ids(&self, part: &Part, prefix: &str) -> Vec<String> {
        let view = &self.view;
        let mut ids: Vec<String> = match part {
            Part::Nodes => view.nodes.keys().cloned().collect(),
            Part::Lives => self.live.iter().cloned().collect(),
            Part::Networks => view.networks.keys().map(ToString::to_string).collect(),
            Part::Endpoints(network) => {
                let known = view.endpoints.get(network).into_iter().flat_map(|all| all.keys());
                known.map(ToString::to_string).collect()
            }
        };
        let unreadable = view.unreadable.keys().filter_map(|key| key.strip_prefix(prefix));
        ids.extend(unreadable.map(str::to_owned));
        ids
    }

    /// Takes in a value, or that there is none any more. What cannot be read changes nothing but
    /// what is told of it. Tells whether the view has something else now.
    pub(crate) fn put(
        &mut self,
        part: &Part,
        key: &str,
        id: &str,
        value: Option<&[u8]>,
        delta: &mut Delta,
    ) -> bool {
        let known = match part {
            Part::Nodes => self.node(id, value, delta),
            Part::Lives => {
                self.set_live(id, value.is_some(), delta);
                Ok(false)
            }
            Part::Networks => self.network(id, value, delta),
            Part::Endpoints(network) => self.endpoint(network, id, value, delta),
        };
        match known {
            Err(why) => {
                let before = Arc::make_mut(&mut self.view.unreadable);
                delta.status |= before.insert(key.to_owned(), why.clone()) != Some(why);
                false
            }
            Ok(changed) if self.view.unreadable.contains_key(key) => {
                Arc::make_mut(&mut self.view.unreadable).remove(key);
                delta.status = true;
                changed
            }
            Ok(changed) => changed,
        }
    }

    fn node(&mut self, id: &str, value: Option<&[u8]>, delta: &mut Delta) -> Result<bool, String> {
        let record = parsed::<NodeRecord>(value)?;
        let live = self.live.contains(id);
        let node = record.map(|record| NodeView { record: Arc::new(record), live });
        let changed = self.view.nodes.get(id) != node.as_ref();
        if changed {
            let nodes = Arc::make_mut(&mut self.view.nodes);
            match node {
                Some(node) => nodes.insert(id.to_owned(), node),
                None => nodes.remove(id),
            };
            delta.nodes.insert(id.to_owned());
        }
        Ok(changed)
    }

    fn set_live(&mut self, id: &str, live: bool, delta: &mut Delta) {
        let changed = if live { self.live.insert(id.to_owned()) } else { self.live.remove(id) };
        if changed && self.view.nodes.contains_key(id) {
            if let Some(node) = Arc::make_mut(&mut self.view.nodes).get_mut(id) {
                node.live = live;
            }
            delta.nodes.insert(id.to_owned());
        }
    }

    fn network(
        &mut self,
        id: &str,
        value: Option<&[u8]>,
        delta: &mut Delta,
    ) -> Result<bool, String> {
        let id: NetworkId = id.parse().map_err(|error: cnm::id::IdError| error.to_string())?;
        let record = parsed::<NetworkRecord>(value)?.map(Arc::new);
        let changed = self.view.networks.get(&id) != record.as_ref();
        if changed {
            let networks = Arc::make_mut(&mut self.view.networks);
            match record {
                Some(record) => networks.insert(id.clone(), record),
                None => networks.remove(&id),
            };
            delta.networks.insert(id);
        }
        Ok(changed)
    }

    fn endpoint(
        &mut self,
        network: &NetworkId,
        id: &str,
        value: Option<&[u8]>,
        delta: &mut Delta,
    ) -> Result<bool, String> {
        let id: EndpointId = id.parse().map_err(|error: cnm::id::IdError| error.to_string())?;
        let record = parsed::<EndpointRecord>(value)?.map(Arc::new);
        let all = self.view.endpoints.entry(network.clone()).or_default();
        let changed = all.get(&id) != record.as_ref();
        if changed {
            match &record {
                Some(record) => Arc::make_mut(all).insert(id.clone(), Arc::clone(record)),
                None => Arc::make_mut(all).remove(&id),
            };
            delta.endpoints.entry(network.clone()).or_default().insert(id, record);
        }
        Ok(changed)
    }

    /// A network is not followed any more.
    pub(crate) fn drop_endpoints(&mut self, network: &NetworkId) {
        self.view.endpoints.remove(network);
        self.read.remove(&Part::Endpoints(network.clone()));
    }
}

fn parsed<T: serde::de::DeserializeOwned>(value: Option<&[u8]>) -> Result<Option<T>, String> {
    match value.map(read) {
        None => Ok(None),
        Some(Read::Record(record)) => Ok(Some(record)),
        Some(Read::Not(why)) => Err(why),
    }
}
