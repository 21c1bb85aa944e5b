//! The rules that choose a server, behind one trait: one small file each. [`crate::Dispatcher`]
//! calls them, one instance per pool. A policy remembers targets; it never counts load (it is given a
//! [`View`]), never sends anything, and never knows who asked.

mod extended_lard;
mod lard;
mod lard_replicated;
mod least_loaded;
mod wrr;

use std::fmt::Debug;
use std::time::Duration;

use baton_cluster::{Guide, NodeId, PHttp, PolicyConfig, PolicyKind, Target};

use crate::{Mapping, PoolRule, Remembered, Replicas, View};
pub use extended_lard::ExtendedLard;
pub use lard::Lard;
pub use lard_replicated::LardReplicated;
pub use least_loaded::LeastLoaded;
pub use wrr::WeightedRoundRobin;

/// A rule for choosing a server for a target, given loads.
pub trait Policy: Send + Debug {
    /// Chooses a server of the pool that is up; `None` when none is. Without a target (a request whose
    /// target could not be told) the policies that look at targets take the least loaded server and
    /// remember nothing. `at` is the server that has the connection, when the request is not its
    /// first one: policies that are blind to content let it keep it, and so do all for a request
    /// without a target, if it is up and in the pool. `now` is the time since a start of the caller's
    /// choosing.
    fn decide(
        &mut self,
        target: Option<Target>,
        at: Option<NodeId>,
        loads: View<'_>,
        now: Duration,
    ) -> Option<Decision>;

    /// What distributors may decide by themselves under this policy, as things stand.
    fn guide(&self, loads: View<'_>) -> Guide;

    /// A server has been down for long, or is none of the pool's any more: whatever is remembered about it is
    /// forgotten, as if its targets had never been assigned (ASPLOS'98). Returns how many targets were left without
    /// a server. Until then a target that is asked for goes to those that are up, and is theirs.
    fn server_left(&mut self, node: NodeId) -> usize;

    /// A server went down, perhaps for a moment.
    fn server_down(&mut self, node: NodeId) {
        let _ = node;
    }

    /// A server came up.
    fn server_joined(&mut self, node: NodeId) {
        let _ = node;
    }

    /// What is remembered of a target, for those who only look.
    fn mapping(&self, target: Target, now: Duration) -> Option<Mapping> {
        let _ = (target, now);
        None
    }

    /// What other dispatchers are to remember of a target.
    fn remembers(&self, target: Target) -> Option<Remembered> {
        let _ = target;
        None
    }

    /// Takes over what another dispatcher has told of a target, unless something later is known here. Whether it did.
    fn learn(&mut self, target: Target, told: Remembered, now: Duration) -> bool {
        let _ = (target, told, now);
        false
    }

    /// All that is remembered, from a place on, at most so much of it; and where the next piece begins.
    fn piece(&self, from: usize, most: usize) -> (Vec<(Target, Remembered)>, Option<usize>) {
        let _ = (from, most);
        (Vec::new(), None)
    }

    /// How many targets are remembered, and how many gave way to others since the start.
    fn remembered(&self) -> (usize, u64) {
        (0, 0)
    }
}

/// The server for one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The server.
    pub server: NodeId,
    /// What the distributor may cache of it; `None` when the next request of the same target has
    /// to be decided anew.
    pub mapping: Option<Mapping>,
    /// Whether the mapping replaces another one that distributors may have cached.
    pub moved: bool,
}

/// The policy that `rule` names. It remembers at most `targets_max` targets.
pub fn build(rule: &PoolRule, targets_max: usize) -> Box<dyn Policy> {
    let config = &rule.policy;
    match config.kind {
        PolicyKind::WeightedRoundRobin => Box::new(WeightedRoundRobin::new()),
        PolicyKind::LeastLoaded => Box::new(LeastLoaded),
        PolicyKind::Lard | PolicyKind::LardReplicated if rule.p_http == PHttp::ExtendedLard => {
            Box::new(ExtendedLard::new(config, rule.pressure_low, targets_max))
        }
        PolicyKind::Lard => Box::new(Lard::new(config, targets_max)),
        PolicyKind::LardReplicated => Box::new(LardReplicated::new(config, targets_max)),
    }
}

impl Decision {
    /// A choice for this request alone.
    pub(crate) fn unmapped(server: NodeId) -> Self {
        Self { server, mapping: None, moved: false }
    }
}

/// Takes the servers that are down out of a target's set, while any is up; whether there were such.
fn without_dead(servers: &mut Replicas, loads: View<'_>) -> bool {
    let before = *servers;
    let is_dead = |node: &&NodeId| !loads.is_live(**node);
    let dead: Vec<NodeId> = before.as_slice().iter().filter(is_dead).copied().collect();
    if dead.len() < before.len() {
        for node in dead {
            servers.remove(node);
        }
    }
    *servers != before
}

/// The condition under which LARD and LARD/R look for another server (ASPLOS'98 2.4).
#[derive(Clone, Copy, Debug)]
struct Thresholds {
    low: u32,
    high: u32,
}

impl Thresholds {
    fn of(config: &PolicyConfig) -> Self {
        Self { low: config.t_low, high: config.t_high }
    }

    /// The server that takes over from `server`, if it is overloaded: above T_high while another
    /// is below T_low, or at 2 T_high or more. The papers take "the least loaded"; when several
    /// are, and `server` is one of them, nothing is gained by a move, so there is none.
    fn relief(self, server: NodeId, loads: View<'_>) -> Option<NodeId> {
        let high = u64::from(self.high);
        let overloaded = (loads.is_above(server, high) && loads.any_below(u64::from(self.low)))
            || loads.has_reached(server, 2 * high);
        if !overloaded {
            return None;
        }
        loads.least_loaded().filter(|least| loads.is_lighter(*least, server))
    }
}
