//! Locality-aware request distribution, one server a target (ASPLOS'98 2.4). A target goes where
//! it went before, so that it is found in that server's cache, until the server is overloaded:
//! then it moves, for good, to the least loaded one. A later request of a connection is decided as
//! if it were the first; one without a target stays.

use std::time::Duration;

use baton_cluster::{Guide, NodeId, PolicyConfig, Target};

use super::{Decision, Policy, Thresholds};
use crate::{Mapping, Targets, View};

/// LARD: its thresholds, and which server each target was last assigned to.
#[derive(Debug)]
pub struct Lard {
    thresholds: Thresholds,
    servers: Targets<NodeId>,
}

impl Lard {
    /// LARD with `t_low` and `t_high` of `config`, remembering at most `targets_max` targets.
    pub fn new(config: &PolicyConfig, targets_max: usize) -> Self {
        Self { thresholds: Thresholds::of(config), servers: Targets::new(targets_max) }
    }
}

impl Policy for Lard {
    fn decide(
        &mut self,
        target: Option<Target>,
        at: Option<NodeId>,
        loads: View<'_>,
        _now: Duration,
    ) -> Option<Decision> {
        let Some(target) = target else {
            return loads.keeper(at).or_else(|| loads.least_loaded()).map(Decision::unmapped);
        };
        let held = self.servers.get(target);
        let was_elsewhere = held.is_some();
        let (server, moved) = if let Some(server) = held.filter(|server| loads.is_live(**server)) {
            let relief = self.thresholds.relief(*server, loads);
            *server = relief.unwrap_or(*server);
            (*server, relief.is_some())
        } else {
            let server = loads.least_loaded()?;
            self.servers.insert(target, server);
            (server, was_elsewhere)
        };
        Some(Decision { server, mapping: Some(Mapping::to_one(server)), moved })
    }

    fn guide(&self, _loads: View<'_>) -> Guide {
        Guide::Cached { load_limit: self.thresholds.high }
    }

    fn server_left(&mut self, node: NodeId) -> usize {
        self.servers.retain(|server| *server != node)
    }

    fn mapping(&self, target: Target, _now: Duration) -> Option<Mapping> {
        self.servers.peek(target).map(|server| Mapping::to_one(*server))
    }

    fn remembered(&self) -> (usize, u64) {
        (self.servers.len(), self.servers.evicted())
    }
}
