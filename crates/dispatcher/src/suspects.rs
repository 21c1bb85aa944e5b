//! What doubted servers are given: evidence of others' judges and time in, shares out. A server that is doubted in a
//! pool loses its share there, as if it were down; one request now and then is tried there, so that it gets it back when
//! it works. A pool of which every server is doubted goes on as if none were: the judges may be wrong, and who asks is
//! served by nobody else. Says nothing of why a server is doubted, and sends nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use baton_cluster::{NodeId, PoolId};

use crate::hash::mix;

/// From a doubt to the first request that is tried, and between two of them at first.
const FIRST: Duration = Duration::from_secs(1);

/// Between two of them at most.
const LAST: Duration = Duration::from_secs(30);

/// A server that is doubted again so soon is tried as seldom as it was before.
const FLAPS: Duration = Duration::from_secs(60);

/// The doubted servers of all pools.
#[derive(Clone, Debug, Default)]
pub struct Suspects(BTreeMap<(PoolId, NodeId), Suspect>);

#[derive(Clone, Copy, Debug)]
struct Suspect {
    /// When it may be tried next; none: it works again.
    next: Option<Duration>,
    gap: Duration,
    /// When its doubt ended.
    ended: Duration,
    chance: u64,
}

impl Suspects {
    /// Some judge doubts a server of a pool, or none does any more. `chance`: a number that nobody can guess. Whether
    /// this changes anything.
    pub fn set(&mut self, pool: PoolId, node: NodeId, doubted: bool, now: Duration, chance: u64) -> bool {
        let known = self.0.get(&(pool, node)).copied();
        if known.is_some_and(|suspect| suspect.next.is_some()) == doubted {
            return false;
        }
        if !doubted {
            if let Some(suspect) = self.0.get_mut(&(pool, node)) {
                (suspect.next, suspect.ended) = (None, now);
            }
            return true;
        }
        let flaps = known.filter(|suspect| now.saturating_sub(suspect.ended) < FLAPS);
        let gap = flaps.map_or(FIRST, |suspect| suspect.gap);
        let mut suspect = Suspect { next: None, gap, ended: now, chance };
        suspect.wait(now);
        self.0.insert((pool, node), suspect);
        true
    }

    /// Whether a server is doubted in a pool.
    pub fn is_doubted(&self, pool: PoolId, node: NodeId) -> bool {
        self.0.get(&(pool, node)).is_some_and(|suspect| suspect.next.is_some())
    }

    /// A doubted server of these that is up and to be tried now.
    pub fn due(
        &self,
        pool: PoolId,
        servers: &[NodeId],
        is_live: impl Fn(NodeId) -> bool,
        now: Duration,
    ) -> Option<NodeId> {
        if self.favoured(pool, servers, &is_live).len() == servers.len() {
            return None;
        }
        let is_due = |node: &NodeId| {
            let next = self.0.get(&(pool, *node)).and_then(|suspect| suspect.next);
            next.is_some_and(|next| next <= now) && is_live(*node)
        };
        servers.iter().copied().find(is_due)
    }

    /// A request was given to a doubted server: the next one waits for longer.
    pub fn tried(&mut self, pool: PoolId, node: NodeId, now: Duration) {
        if let Some(suspect) = self.0.get_mut(&(pool, node)) {
            suspect.gap = (suspect.gap * 2).min(LAST);
            suspect.wait(now);
        }
    }

    /// Those of a pool's servers that have their full shares: all that are not doubted; or all, when nobody who is up is
    /// left.
    pub fn favoured(
        &self,
        pool: PoolId,
        servers: &[NodeId],
        is_live: impl Fn(NodeId) -> bool,
    ) -> Vec<NodeId> {
        let trusted: Vec<NodeId> =
            servers.iter().copied().filter(|node| !self.is_doubted(pool, *node)).collect();
        if trusted.iter().any(|node| is_live(*node)) { trusted } else { servers.to_vec() }
    }

    /// Forgets pools and servers that are none any more, and doubts that ended long ago.
    pub fn retain(&mut self, now: Duration, stays: impl Fn(PoolId, NodeId) -> bool) {
        self.0.retain(|(pool, node), suspect| {
            let recent = suspect.next.is_some() || now.saturating_sub(suspect.ended) < FLAPS;
            recent && stays(*pool, *node)
        });
    }
}

impl Suspect {
    /// Until the next one: the gap, less up to a quarter, so that several dispatchers' do not come at once.
    fn wait(&mut self, now: Duration) {
        self.chance = mix(self.chance);
        let less = self.gap / 4 * (self.chance % 1024) as u32 / 1024;
        self.next = Some(now + self.gap - less);
    }
}

#[cfg(test)]
mod tests;
