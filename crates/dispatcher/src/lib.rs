//! Which server should serve this request: policies, loads, targets. Pure: this crate opens no
//! socket, reads no clock and draws no random number; time is a [`Duration`](std::time::Duration)
//! since a start of the caller's choosing and is passed in. The node daemon, the simulator and
//! the tests drive the very same [`Dispatcher`].
//!
//! Two things stand beside it because every node must compute them alike: the [`fallback`] choice
//! of a server while no dispatcher answers, and the [`maglev`] table by which switches choose a
//! distributor.
//!
//! **Admission.** LARD works as long as some server is below `t_low` whenever another is above
//! `t_high`. ASPLOS'98 ensures it by admitting at most `S = (n - 1) * t_high + t_low - 1`
//! connections to n servers and queueing the others at the front-end. Baton does not enforce S:
//! a distributor holds no connection back. Above S, targets move only at `2 * t_high`.

mod dispatcher;
pub mod fallback;
mod hash;
mod loads;
pub mod maglev;
mod mapping;
mod policy;
mod pushes;
mod targets;

pub use dispatcher::{Dispatcher, PoolRule, Question, Refusal, Stats, Welcome};
pub use loads::{Loads, View, load_limit};
pub use mapping::{Mapping, Replicas};
pub use policy::{
    Decision, ExtendedLard, Guide, Lard, LardReplicated, LeastLoaded, Policy, WeightedRoundRobin, build,
};
pub use pushes::{Change, Push};
pub use targets::Targets;
