//! What the dispatcher believes about a target: the servers that hold it, as a value small enough
//! to travel in every answer. Made by policies, cached by distributors.

use std::fmt;
use std::time::Duration;

use baton_cluster::NodeId;

/// A target's servers, and for how long a distributor may choose among them by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The servers; at least one.
    pub servers: Replicas,
    /// A distributor asks again when this much time has passed since it learned the mapping, so
    /// that LARD/R can take a server out of the set. `None`: the mapping holds until a push
    /// changes it.
    pub expires: Option<Duration>,
}

impl Mapping {
    /// A mapping to one server, valid until changed.
    pub fn to_one(server: NodeId) -> Self {
        Self { servers: Replicas::one(server), expires: None }
    }
}

/// A small set of servers, in the order in which they joined it.
#[derive(Clone, Copy)]
pub struct Replicas {
    len: u8,
    nodes: [NodeId; Replicas::MAX],
}

impl Replicas {
    /// The most servers that one target is mapped to. The papers set no limit; this one keeps a
    /// mapping within one entry of the kernel's decision cache.
    pub const MAX: usize = 4;

    /// The set of one server.
    pub fn one(server: NodeId) -> Self {
        Self { len: 1, nodes: [server; Self::MAX] }
    }

    /// The servers.
    pub fn as_slice(&self) -> &[NodeId] {
        self.nodes.get(..usize::from(self.len)).unwrap_or(&self.nodes)
    }

    /// How many servers the set has.
    pub fn len(&self) -> usize {
        usize::from(self.len)
    }

    /// Whether the last server has left.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether the set is as large as it may become.
    pub fn is_full(&self) -> bool {
        self.len() == Self::MAX
    }

    /// Whether `server` is in the set.
    pub fn contains(&self, server: NodeId) -> bool {
        self.as_slice().contains(&server)
    }

    /// Adds `server`; `false` if it was there, or the set is full.
    pub fn add(&mut self, server: NodeId) -> bool {
        if self.contains(server) {
            return false;
        }
        let Some(place) = self.nodes.get_mut(usize::from(self.len)) else { return false };
        *place = server;
        self.len += 1;
        true
    }

    /// Takes `server` out; `false` if it was not there.
    pub fn remove(&mut self, server: NodeId) -> bool {
        let Some(place) = self.as_slice().iter().position(|node| *node == server) else { return false };
        self.nodes.copy_within(place + 1.., place);
        self.len -= 1;
        true
    }
}

impl PartialEq for Replicas {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for Replicas {}

impl fmt::Debug for Replicas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.as_slice().iter().map(|node| node.0)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_keeps_order_and_bound() {
        let mut set = Replicas::one(NodeId(7));
        assert!(!set.add(NodeId(7)));
        assert!(set.add(NodeId(1)) && set.add(NodeId(2)) && set.add(NodeId(3)));
        assert!(set.is_full() && !set.add(NodeId(4)));
        assert!(set.remove(NodeId(1)) && !set.remove(NodeId(1)));
        assert_eq!(set.as_slice(), [NodeId(7), NodeId(2), NodeId(3)]);
        assert!(set.remove(NodeId(3)) && set.remove(NodeId(7)) && set.remove(NodeId(2)));
        assert!(set.is_empty() && set.as_slice().is_empty());
    }
}
