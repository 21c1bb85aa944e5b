//! The core of a node: all of its rules, and nothing of the machine it runs on. What happens comes in with the moment it
//! happens at; what is to be done goes out through [`Outside`], or waits in [`Core::post`]. No socket, no kernel, no
//! clock: the daemon (`baton-node`) runs it over the real ones, `baton-simulation` over models of them.
//!
//! Nothing that happens ends a core: an error costs what it was for, and is noted.

mod census;
mod dispatcher;
mod early;
mod guides;
mod head;
mod lease;
mod line;
mod news;
mod node;
mod outside;
mod owners;
mod peers;
mod placing;
mod post;
mod question;
mod replays;
mod server;
mod services;
mod standby;
mod standing;
mod switch;
mod table;
mod tools;
mod trouble;
mod waiting;
mod whose;
mod witness;

pub use census::Fill;
pub use guides::Guides;
pub use head::{Head, Refusal, TakenBytes};
pub use line::SeatState;
pub use node::Core;
pub use outside::{Moment, Outside};
pub use owners::Owners;
pub use peers::Peers;
pub use placing::{Link, Placing, PlacingTally};
pub use post::Post;
pub use question::NOT_TLS;
pub use replays::Replays;
pub use services::{Services, decides, may_own};
pub use standing::{Standing, Suspicion};
pub use trouble::{Troubles, for_all};
pub use whose::UnknownTally;
