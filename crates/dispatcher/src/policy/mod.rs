//! The rules that choose a server, behind one trait: one small file each. [`crate::Dispatcher`]
//! calls them, one instance per service. A policy remembers targets; it never counts load (it is
//! given [`Loads`]), never sends anything, and never knows who asked.

mod lard;
mod lard_replicated;
mod least_loaded;
mod wrr;

use std::fmt::Debug;
use std::time::Duration;

use baton_cluster::{NodeId, PolicyConfig, PolicyKind, Target};

use crate::{Loads, Mapping};
pub use lard::Lard;
pub use lard_replicated::LardReplicated;
pub use least_loaded::LeastLoaded;
pub use wrr::WeightedRoundRobin;

/// A rule for choosing a server for a target, given loads.
pub trait Policy: Send + Debug {
    /// Chooses a server that is up; `None` when none is. Without a target (a request whose target
    /// could not be told) the policies that look at targets take the least loaded server and
    /// remember nothing. `now` is the time since a start of the caller's choosing.
    fn decide(&mut self, target: Option<Target>, loads: &Loads, now: Duration) -> Option<Decision>;

    /// What distributors may decide by themselves under this policy, as things stand.
    fn guide(&self, loads: &Loads) -> Guide;

    /// A server went down: whatever is remembered about it is forgotten, as if its targets had
    /// never been assigned (ASPLOS'98). Returns how many targets were left without a server.
    fn server_left(&mut self, node: NodeId) -> usize;

    /// A server came up.
    fn server_joined(&mut self, node: NodeId) {
        let _ = node;
    }

    /// What is remembered of a target, for those who only look.
    fn mapping(&self, target: Target, now: Duration) -> Option<Mapping> {
        let _ = (target, now);
        None
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

/// What a distributor may decide by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Guide {
    /// Follow this order of servers, each in its turn, from any place in it; over a whole round
    /// the weights are met. At most [`Guide::ROTA_MAX`] entries; empty when no server is up.
    Rota(Vec<NodeId>),
    /// Use a cached mapping while the load of the least loaded of its servers is at most
    /// `load_limit` (for a server of the smallest weight; see [`crate::load_limit`] for others);
    /// ask otherwise.
    Cached {
        /// LARD's `t_high`: up to this load LARD would not move the target either.
        load_limit: u32,
    },
    /// Ask for every request.
    AskAlways,
}

impl Guide {
    /// The longest rota: it fits one frame and one kernel table.
    pub const ROTA_MAX: usize = 256;
}

/// The policy that `config` names. It remembers at most `targets_max` targets.
pub fn build(config: &PolicyConfig, targets_max: usize) -> Box<dyn Policy> {
    match config.kind {
        PolicyKind::WeightedRoundRobin => Box::new(WeightedRoundRobin::new()),
        PolicyKind::LeastLoaded => Box::new(LeastLoaded),
        PolicyKind::Lard => Box::new(Lard::new(config, targets_max)),
        PolicyKind::LardReplicated => Box::new(LardReplicated::new(config, targets_max)),
    }
}

impl Decision {
    /// A choice for this request alone.
    fn unmapped(server: NodeId) -> Self {
        Self { server, mapping: None, moved: false }
    }
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
    fn relief(self, server: NodeId, loads: &Loads) -> Option<NodeId> {
        let high = u64::from(self.high);
        let overloaded = (loads.is_above(server, high) && loads.any_below(u64::from(self.low)))
            || loads.has_reached(server, 2 * high);
        if !overloaded {
            return None;
        }
        loads.least_loaded().filter(|least| loads.is_lighter(*least, server))
    }
}
