//! The server with the least load for its weight: blind to content. Every request changes loads,
//! so there is nothing that a distributor could decide by itself.

use std::time::Duration;

use baton_cluster::{Guide, NodeId, Target};

use super::{Decision, Policy};
use crate::View;

/// Least loaded; ties as for all loads. Who has the connection keeps it. Remembers nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct LeastLoaded;

impl Policy for LeastLoaded {
    fn decide(
        &mut self,
        _target: Option<Target>,
        at: Option<NodeId>,
        loads: View<'_>,
        _now: Duration,
    ) -> Option<Decision> {
        loads.keeper(at).or_else(|| loads.least_loaded()).map(Decision::unmapped)
    }

    fn guide(&self, _loads: View<'_>) -> Guide {
        Guide::AskAlways
    }

    fn server_left(&mut self, _node: NodeId) -> usize {
        0
    }
}
