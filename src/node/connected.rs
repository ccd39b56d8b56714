//! With which nodes there is a session at this moment, for those that dial outside of the hub. The hub alone changes it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use proto::NodeId;
use tokio::sync::watch;

/// The nodes with which there is a session; clones show the same.
#[derive(Debug, Clone)]
pub struct Connected(Arc<watch::Sender<BTreeSet<NodeId>>>);

impl Default for Connected {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(BTreeSet::new())))
    }
}

impl Connected {
    /// Whether there is a session with this node.
    pub fn contains(&self, node: &NodeId) -> bool {
        self.0.borrow().contains(node)
    }

    /// Waits until there is none.
    pub(super) async fn lost(&self, node: &NodeId) {
        // The sender is ours: it cannot be gone.
        let _ = self.0.subscribe().wait_for(|nodes| !nodes.contains(node)).await;
    }

    /// Waits until there is one, for a bounded time; whether there is.
    pub(super) async fn met(&self, node: &NodeId, limit: Duration) -> bool {
        let mut nodes = self.0.subscribe();
        tokio::time::timeout(limit, nodes.wait_for(|nodes| nodes.contains(node))).await.is_ok_and(|met| met.is_ok())
    }

    pub(super) fn insert(&self, node: NodeId) {
        self.0.send_if_modified(|nodes| nodes.insert(node));
    }

    pub(super) fn remove(&self, node: &NodeId) {
        self.0.send_if_modified(|nodes| nodes.remove(node));
    }
}
