//! Which nodes are there, as this node sees it: itself, and those with a control connection.

use std::collections::BTreeMap;

use baton_cluster::{Cluster, NodeId, Roles};

/// The nodes that are up.
#[derive(Clone, Debug)]
pub struct Peers {
    me: NodeId,
    /// With how many nodes each one's cluster file has: as far as their lists go all agree.
    up: BTreeMap<NodeId, usize>,
}

impl Peers {
    /// This node alone, whose cluster file has so many nodes.
    pub(crate) fn new(me: NodeId, nodes: usize) -> Self {
        Self { me, up: BTreeMap::from([(me, nodes)]) }
    }

    pub(crate) fn came_up(&mut self, node: NodeId, nodes: usize) {
        self.up.insert(node, nodes);
    }

    pub(crate) fn went_down(&mut self, node: NodeId) {
        if node != self.me {
            self.up.remove(&node);
        }
    }

    /// Whether a node is.
    pub fn is_up(&self, node: NodeId) -> bool {
        self.up.contains_key(&node)
    }

    /// Whether a node may be given connections, as far as others go: it is up, and every node that is up knows it. To one
    /// that does not, whose file is older, its packets would be nobody's.
    pub fn is_known_to_all(&self, node: NodeId) -> bool {
        self.is_up(node) && self.up.values().all(|nodes| node.index() < *nodes)
    }

    /// Whether some node that is up has more nodes in its file than this one, which then does not know who else may
    /// own a connection.
    pub fn know_more(&self) -> bool {
        let mine = self.up.get(&self.me).copied().unwrap_or(0);
        self.up.values().any(|nodes| *nodes > mine)
    }

    /// The nodes other than this one that are up and have a role.
    pub fn others<'a>(
        &'a self,
        cluster: &'a Cluster,
        role: impl Fn(Roles) -> bool + 'a,
    ) -> impl Iterator<Item = NodeId> + 'a {
        let me = self.me;
        cluster.with_role(role).map(|n| n.id).filter(move |id| *id != me && self.is_up(*id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_some_do_not_know_is_given_nothing() {
        let node = NodeId;
        let mut peers = Peers::new(node(0), 4);
        peers.came_up(node(1), 4);
        peers.came_up(node(3), 4);
        assert!(peers.is_known_to_all(node(3)) && !peers.is_known_to_all(node(2)) && !peers.know_more());
        peers.came_up(node(2), 3);
        assert!(peers.is_known_to_all(node(2)) && !peers.is_known_to_all(node(3)), "of an older file");
        peers.came_up(node(1), 5);
        assert!(peers.know_more());
        peers.went_down(node(2));
        assert!(peers.is_known_to_all(node(3)));
        peers.came_up(node(2), 4);
        assert!(peers.is_known_to_all(node(3)), "started again with the newer one");
        peers.went_down(node(0));
        assert!(peers.is_up(node(0)), "a node is never without itself");
    }
}
