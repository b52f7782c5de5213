//! The nodes of a swarm: found by what users call them, and removed with all that they had.

use std::collections::BTreeMap;

use cnm::Kind;

use super::{Swarm, blocking};
use crate::cluster::Removal;
use engine_error::{Error, Result};
use swarm::node::Listed;

impl Swarm {
    /// The node with this identity, or this name, or whose identity begins so.
    pub async fn find(&self, key: &str) -> Result<Listed> {
        let nodes = self.node.nodes().await?;
        let by = |test: &dyn Fn(&Listed) -> bool| -> Vec<Listed> {
            nodes.iter().filter(|listed| test(listed)).cloned().collect()
        };
        let own = self.standing().enrolment.map(|own| own.state.node);
        let exact =
            by(&|listed| listed.id == key || (key == "self" && Some(&listed.id) == own.as_ref()));
        let named = by(&|listed| listed.node.record.name == key);
        let begun = by(&|listed| !key.is_empty() && listed.id.starts_with(key));
        let found = [exact, named, begun].into_iter().find(|found| !found.is_empty());
        match found.unwrap_or_default().as_mut_slice() {
            [] => Err(Error::not_found(format!("node {key} not found"))),
            [one] => Ok(one.clone()),
            several => Err(Error::invalid(format!(
                "node {key} is ambiguous ({} matches found)",
                several.len()
            ))),
        }
    }

    /// Which hosts of the cluster are there.
    pub fn live(&self) -> BTreeMap<String, bool> {
        let nodes = self.membership.member().map(|member| member.nodes()).unwrap_or_default();
        nodes.into_iter().map(|node| (node.id, node.live)).collect()
    }

    /// Removes a host for good: its rights, what it had in the cluster, and that it is known. One that is
    /// there is not removed, unless that is wanted all the same. Returns its identity.
    ///
    /// What is left of a removal that ended half-way is done when it is asked for again.
    pub async fn remove_node(&self, key: &str, how: Removal) -> Result<String> {
        if self.standing().is_out() {
            let (member, key) = (self.membership.required()?, key.to_owned());
            return Ok(blocking(move || member.remove_node(&key, how)).await?.id);
        }
        let id = match self.find(key).await {
            Err(error) if error.kind() == Kind::NotFound => {
                return self.remove_host(key, how).await;
            }
            found => found?.id,
        };
        if self.live().get(&id) == Some(&true) && how == Removal::OfOneAway {
            // That it is a manager is said first.
            self.node.must_be_worker(&id).await?;
            return Err(Error::invalid(format!(
                "rpc error: code = FailedPrecondition desc = node {id} is not down and can't be \
                 removed"
            )));
        }
        self.node.shut_out(&id).await?;
        match self.remove_host(&id, Removal::OfAny).await {
            Err(error) if error.kind() != Kind::NotFound => return Err(error),
            _ => {}
        }
        self.node.remove_node(&id).await?;
        Ok(id)
    }

    /// What a node had in the cluster goes.
    async fn remove_host(&self, key: &str, how: Removal) -> Result<String> {
        let absent = "this node is no host of its swarm's cluster yet: try again in a moment";
        let absent = || Error::new(Kind::Unavailable, absent);
        let (member, key) = (self.membership.member().ok_or_else(absent)?, key.to_owned());
        Ok(blocking(move || member.remove_node(&key, how)).await?.id)
    }
}
