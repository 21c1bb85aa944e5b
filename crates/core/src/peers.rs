//! Which nodes are there, as this node sees it: itself, and those with a control connection.

use std::collections::BTreeSet;

use baton_cluster::{Cluster, NodeId, Roles};

/// The nodes that are up.
#[derive(Clone, Debug)]
pub struct Peers {
    me: NodeId,
    up: BTreeSet<NodeId>,
}

impl Peers {
    pub(crate) fn new(me: NodeId) -> Self {
        Self { me, up: BTreeSet::from([me]) }
    }

    pub(crate) fn set(&mut self, node: NodeId, up: bool) {
        if up {
            self.up.insert(node);
        } else if node != self.me {
            self.up.remove(&node);
        }
    }

    /// Whether a node is.
    pub fn is_up(&self, node: NodeId) -> bool {
        self.up.contains(&node)
    }

    /// The nodes other than this one that are up and have a role.
    pub fn others<'a>(
        &'a self,
        cluster: &'a Cluster,
        role: impl Fn(Roles) -> bool + 'a,
    ) -> impl Iterator<Item = NodeId> + 'a {
        let me = self.me;
        cluster.with_role(role).map(|n| n.id).filter(move |id| *id != me && self.up.contains(id))
    }
}
