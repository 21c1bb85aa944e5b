//! What other dispatchers have yet to be told: gathered by [`crate::Dispatcher`] while it decides, taken by the caller
//! when it is ready to send. Several changes of one target between two takes become one. Sends nothing itself.

use std::collections::BTreeMap;

use baton_cluster::{PoolId, Target};

use crate::Remembered;

/// The changes not yet taken.
#[derive(Clone, Debug, Default)]
pub(crate) struct SharedChanges {
    /// Whether there is another dispatcher to be told.
    pub(crate) wanted: bool,
    changed: BTreeMap<(PoolId, Target), Remembered>,
    dropped: u64,
}

impl SharedChanges {
    /// The most changes that wait. One more is dropped and counted: the other dispatcher would decide that target anew,
    /// which costs locality, never a request.
    pub(crate) const CHANGES_MAX: usize = 65_536;

    /// A target has other servers than before, or its first.
    pub(crate) fn add(&mut self, pool: PoolId, target: Target, now: Remembered) {
        if self.changed.len() >= Self::CHANGES_MAX && !self.changed.contains_key(&(pool, target)) {
            self.dropped += 1;
            return;
        }
        self.changed.insert((pool, target), now);
    }

    /// How many were dropped since the start.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped
    }

    pub(crate) fn take(&mut self) -> BTreeMap<(PoolId, Target), Remembered> {
        std::mem::take(&mut self.changed)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use baton_cluster::NodeId;

    use super::*;
    use crate::Replicas;

    #[test]
    fn at_the_bound_new_changes_are_dropped_and_counted_and_known_ones_updated() {
        let mut shared = SharedChanges::default();
        let told = |server| Remembered { servers: Replicas::one(NodeId(server)), changed: Duration::ZERO };
        (0..=SharedChanges::CHANGES_MAX as u64)
            .for_each(|target| shared.add(PoolId(0), Target(target), told(1)));
        shared.add(PoolId(0), Target(0), told(2));
        assert_eq!(shared.dropped(), 1);
        let taken = shared.take();
        assert_eq!((taken.len(), taken[&(PoolId(0), Target(0))]), (SharedChanges::CHANGES_MAX, told(2)));
        assert!(shared.take().is_empty());
    }
}
