//! What distributors have yet to be told: gathered by [`crate::Dispatcher`] while it decides,
//! taken by the caller when it is ready to send. Several changes of one target between two takes
//! become one. Sends nothing itself.

use std::collections::{BTreeMap, BTreeSet};

use baton_cluster::{Guide, NodeId, PoolId, Target};

use crate::Mapping;

/// Everything that one distributor has to be told now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DistributorPush {
    /// The distributor.
    pub to: NodeId,
    /// The news, to be taken in this order; at least one.
    pub changes: Vec<PushedChange>,
}

/// One piece of news for a distributor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PushedChange {
    /// The servers that are up now, in order of id. A server that is missing is not chosen; after
    /// [`crate::Dispatcher::DISTRIBUTORS_REMEMBER_FOR`] it leaves every cached mapping for good: its targets may be
    /// elsewhere by the time it is back.
    Live(Vec<NodeId>),
    /// How to decide for a pool from now on.
    Guide {
        /// The pool.
        pool: PoolId,
        /// Replaces the guide given before.
        guide: Guide,
    },
    /// A target has other servers than before.
    Mapping {
        /// The pool that the target belongs to.
        pool: PoolId,
        /// The target.
        target: Target,
        /// Replaces what is cached of it; need not be cached by those who held nothing.
        mapping: Mapping,
    },
}

/// The news not yet taken.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pushes {
    distributors: BTreeSet<NodeId>,
    /// The latest mapping of each moved target, and the one distributor that knows it already:
    /// it asked, and got it in its answer.
    moved: BTreeMap<(PoolId, Target), (Mapping, NodeId)>,
    /// Servers or pools came or went: who is up and how each pool decides is told anew.
    outline_changed: bool,
    dropped: u64,
}

impl Pushes {
    /// The most moved targets that wait. One more is dropped and counted: a distributor that
    /// caches its old mapping goes on with it while that server is not overloaded, and costs
    /// locality, never a request.
    pub(crate) const MOVED_MAX: usize = 65_536;

    pub(crate) fn add_distributor(&mut self, node: NodeId) {
        self.distributors.insert(node);
    }

    pub(crate) fn remove_distributor(&mut self, node: NodeId) {
        self.distributors.remove(&node);
    }

    /// A target has moved, and `knows` has been told.
    pub(crate) fn target_moved(&mut self, pool: PoolId, target: Target, mapping: Mapping, knows: NodeId) {
        if self.distributors.iter().all(|node| *node == knows) {
            self.moved.remove(&(pool, target));
            return;
        }
        if self.moved.len() >= Self::MOVED_MAX && !self.moved.contains_key(&(pool, target)) {
            self.dropped += 1;
            return;
        }
        self.moved.insert((pool, target), (mapping, knows));
        debug_assert!(self.moved.len() <= Self::MOVED_MAX, "more moved targets than there is room for");
    }

    /// Pools are decided in another way.
    pub(crate) fn guides_changed(&mut self) {
        self.outline_changed = true;
    }

    /// A server came up.
    pub(crate) fn server_joined(&mut self) {
        self.outline_changed = true;
    }

    /// There are other pools, or they have other servers. What waits about targets goes unless it still
    /// `stands`.
    pub(crate) fn pools_changed(&mut self, stands: impl Fn(PoolId, &Mapping) -> bool) {
        self.outline_changed = true;
        self.moved.retain(|(pool, _), (mapping, _)| stands(*pool, mapping));
    }

    /// A server went down. What waits about targets that it held is out of date.
    pub(crate) fn server_left(&mut self, node: NodeId) {
        self.outline_changed = true;
        self.moved.retain(|_, (mapping, _)| !mapping.servers.contains(node));
    }

    pub(crate) fn is_empty(&self) -> bool {
        !self.outline_changed && self.moved.is_empty()
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Takes the news: for each distributor `outline` (what to say of servers and guides) if any
    /// server or pool came or went, then the moved targets that it does not know of.
    pub(crate) fn take(&mut self, outline: impl FnOnce() -> Vec<PushedChange>) -> Vec<DistributorPush> {
        let moved = std::mem::take(&mut self.moved);
        let outline = if std::mem::take(&mut self.outline_changed) { outline() } else { Vec::new() };
        let news = |to: NodeId| {
            let moved = moved.iter().filter(|(_, (_, knows))| *knows != to);
            let moved = moved
                .map(|((pool, target), (mapping, _))| (*pool, *target, *mapping))
                .map(|(pool, target, mapping)| PushedChange::Mapping { pool, target, mapping });
            DistributorPush { to, changes: outline.iter().cloned().chain(moved).collect() }
        };
        self.distributors.iter().map(|to| news(*to)).filter(|push| !push.changes.is_empty()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_the_bound_new_moves_are_dropped_and_counted_and_known_ones_updated() {
        let (knows, told) = (NodeId(1), NodeId(2));
        let mut pushes = Pushes::default();
        pushes.add_distributor(told);
        let mut moved = |target: usize, server| {
            let target = Target(u64::try_from(target).expect("a small number"));
            pushes.target_moved(PoolId(0), target, Mapping::to_one(NodeId(server)), knows);
        };
        (0..=Pushes::MOVED_MAX).for_each(|target| moved(target, 3));
        moved(0, 4);
        assert_eq!(pushes.dropped(), 1);
        let taken = pushes.take(Vec::new);
        assert_eq!(taken.len(), 1);
        assert_eq!(taken[0].changes.len(), Pushes::MOVED_MAX);
        let newest =
            PushedChange::Mapping { pool: PoolId(0), target: Target(0), mapping: Mapping::to_one(NodeId(4)) };
        assert_eq!(taken[0].changes[0], newest);
    }
}
