//! Which server should serve this request: policies, loads, targets. Pure: this crate opens no
//! socket, reads no clock and draws no random number; time is a [`Duration`](std::time::Duration)
//! since a start of the caller's choosing and is passed in. The node daemon, the simulator and
//! the tests drive the very same [`Dispatcher`].
//!
//! Beside it stands what decides who decides: the [`fallback`] choice of a server while no dispatcher answers,
//! the [`maglev`] table by which switches choose a distributor, its [`spread`] over distributors that come and
//! go, and the [`leases`] under which these decide.
//!
//! **Admission.** LARD works as long as some server is below `t_low` whenever another is above
//! `t_high`. ASPLOS'98 ensures it by admitting at most `S = (n - 1) * t_high + t_low - 1`
//! connections to n servers and queueing the others at the front-end. Baton does not enforce S:
//! a distributor holds no connection back. Above S, targets move only at `2 * t_high`.

mod dispatcher;
pub mod fallback;
mod hash;
mod judge;
pub mod leases;
mod loads;
pub mod maglev;
mod mapping;
mod policy;
mod pool;
mod pushes;
mod queue;
mod remembered;
mod shared;
pub mod spread;
mod suspects;
mod targets;

pub use dispatcher::{Dispatcher, NoDecision, PoolQuestion, Stats, Welcome};
pub use judge::{Doubt, Judge};
pub use loads::{Loads, View, load_limit};
pub use mapping::{Mapping, Replicas};
pub use policy::{
    Decision, ExtendedLard, Lard, LardReplicated, LeastLoaded, Policy, WeightedRoundRobin, build,
};
pub use pool::PoolRule;
pub use pushes::{DistributorPush, PushedChange};
pub use queue::AcceptQueue;
pub use remembered::Remembered;
pub use suspects::Suspects;
pub use targets::Targets;
