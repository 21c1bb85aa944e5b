//! A cluster under simulated time: the daemons' own cores (`baton-core`) over models of everything else. One seed
//! decides all that happens, so what was found once is found again. Clients and servers are written from the RFCs, the packet
//! path is the model that the programs are held to, packet by packet. After every step the invariants of ARCHITECTURE are
//! looked at. Tests only: nothing that is installed needs it.
//!
//! [`run`] plays one seed. `cargo run -p baton-simulation -- SEED` tells its story.

mod client;
mod message;
mod plan;
mod planted;
mod segment;
mod server;
mod shell;
mod tcp;
mod world;

pub use plan::{
    ClientPlan, Clog, File, Mishap, Place, Plan, PoolPlan, RequestPlan, Rollout, ServicePlan, Sick, Upload,
};
pub use planted::Planted;

/// What has been seen in one run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Packets that crossed a wire.
    pub packets: u64,
    /// Requests that were answered in full.
    pub answered: u64,
    /// Connections that moved from one node to another.
    pub moves: u64,
    /// Connections that a reader had.
    pub read: u64,
    /// Connections that were lost, with a machine that stopped.
    pub lost: u64,
    /// Simulated milliseconds until the last client was content.
    pub took_ms: u64,
    /// A number that two equal runs have in common.
    pub mark: u64,
}

/// What is wrong, and what happened before.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The rule that was broken.
    pub what: String,
    /// The last things that happened, one a line.
    pub story: Vec<String>,
}

/// Plays one plan to its end.
///
/// # Errors
/// A rule was broken, with the story of it.
pub fn run(plan: &Plan, planted: Option<Planted>) -> Result<Summary, Box<Failure>> {
    world::World::new(plan, planted).run()
}
