//! What the nodes of a cluster say to each other, and the connections they say it on.
//!
//! The files build on each other in this order: [`message`] (what is said, and its limits) and
//! its encoding, [`frame`] (where one message ends), [`session`] (one connection: who is there,
//! under which secret, and is it alive), [`clock`] (what its heartbeats tell of clocks), [`queue`] (what waits to be written), [`link`] (the
//! sockets: one lasting connection to every other node). [`batch`] stands beside them: how a
//! distributor gathers its questions. Only [`link`] does I/O or reads a clock.
//!
//! The wire is drawn in `docs/control-protocol.md`.

pub mod batch;
mod channel;
pub mod clock;
mod codec;
pub mod error;
pub mod frame;
pub mod link;
mod mapped;
pub mod message;
mod pace;
pub mod queue;
pub mod session;
pub mod word;

pub use batch::{BatchError, BatchLimits, Batcher};
pub use clock::{ClusterClock, NodeClocks};
pub use error::{Error, SendError, SocketError};
pub use link::{DownReason, Mesh, MeshConfig, MeshEvent, PeerState, PeerStatus};
pub use message::{
    Answer, Ask, Change, Claim, Close, Doubted, Doubts, End, Grant, Guidance, Heir, Kind, Live, Load, Lost,
    Mac, Mapped, MappedTarget, Message, Move, Owned, Probed, Push, Question, Ready, Recall, RecallPlace,
    Recalled, StatusReply, StatusRequest, Taken, Term, Update, Verdict, Whose,
};
pub use pace::Pace;
pub use word::Hello;
