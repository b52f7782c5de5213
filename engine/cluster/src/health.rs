//! How the cluster's store is, and what its owner should do about it.

use engine_error::Result;

use crate::cluster::Cluster;
use crate::store::{Health, Revision};

/// A store of this size is close to etcd's usual quota of 2 GiB.
const LARGE: i64 = 3 << 29;

/// So many revisions without compaction are those of a store that nobody compacts.
const MANY: Revision = 1_000_000;

/// How the store is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What it says itself.
    pub health: Health,
    /// What should be done about it.
    pub hints: Vec<String>,
}

impl Cluster {
    /// How the store is now.
    pub async fn health(&self) -> Result<Report> {
        let health = self.store.health().await?;
        let compacts = self.compacts(health.revision).await;
        Ok(Report { hints: hints(&health, compacts), health })
    }

    /// Whether the store forgets what is long ago; unknown where there is not much yet.
    async fn compacts(&self, revision: Revision) -> Option<bool> {
        if revision < MANY {
            return None;
        }
        let mut watch = match self.store.watch(self.keys.root(), 1).await {
            Ok(watch) => watch,
            Err(error) => return Some(is_compaction(&error)),
        };
        let first = tokio::time::timeout(std::time::Duration::from_secs(1), watch.next()).await;
        Some(matches!(first, Ok(Err(error)) if is_compaction(&error)))
    }
}

fn is_compaction(error: &crate::store::StoreError) -> bool {
    matches!(error, crate::store::StoreError::Compacted(_))
}

fn hints(health: &Health, compacts: Option<bool>) -> Vec<String> {
    let mut hints = Vec::new();
    if health.out_of_space {
        hints.push(
            "the cluster's store takes no more writes because it is full: compact and defragment \
             it (etcdctl compact, etcdctl defrag), then etcdctl alarm disarm"
                .to_owned(),
        );
    } else if health.size > LARGE {
        hints.push(format!(
            "the cluster's store has {} MiB, and etcd's usual quota is 2048 MiB: defragment it \
             (etcdctl defrag) or raise --quota-backend-bytes",
            health.size >> 20
        ));
    }
    if compacts == Some(false) {
        hints.push(
            "the cluster's store forgets nothing: start etcd with --auto-compaction-mode=periodic \
             --auto-compaction-retention=1h"
                .to_owned(),
        );
    }
    hints
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_fills_up_is_told_of_with_what_mends_it() {
        let fine = Health { size: 1 << 20, ..Health::default() };
        assert!(hints(&fine, None).is_empty());
        assert!(hints(&fine, Some(true)).is_empty());
        assert!(hints(&fine, Some(false))[0].contains("--auto-compaction-mode=periodic"));
        let large = Health { size: LARGE + 1, ..Health::default() };
        assert!(hints(&large, None)[0].contains("defrag"));
        let full = Health { out_of_space: true, ..large };
        assert_eq!(hints(&full, None).len(), 1);
        assert!(hints(&full, None)[0].contains("alarm disarm"));
    }
}
