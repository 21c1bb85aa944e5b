//! What dispatchers say to each other, and of themselves: types of `message`, with its rules.

use baton_cluster::bounded::at_most;
use baton_cluster::{NodeId, PoolHash, Target};
use serde::{Deserialize, Serialize};

use crate::message::SERVERS_MAX;

/// The most targets of one [`Mapped`] or [`Recalled`].
pub const MAPPED_MAX: usize = 1024;

/// Dispatcher to all that ask and to the other dispatchers, when one of them comes up and when it changes: whether it
/// remembers what this cluster's dispatchers have decided. Lost only with the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// It does; or nobody else does either.
    pub ready: bool,
}

/// The servers of one target, as a dispatcher remembers them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MappedTarget {
    /// The target.
    pub target: Target,
    /// Its servers, at most [`SERVERS_MAX`].
    #[serde(deserialize_with = "at_most::<SERVERS_MAX, _, _>")]
    pub servers: Vec<NodeId>,
    /// When they last changed: the cluster's clock in nanoseconds, or one more than the change before, if that is later.
    /// Of two the later stands, whichever is told last.
    pub changed: u64,
}

/// Dispatcher to dispatcher: targets that it has given other servers, or their first. Lost: the receiver decides them
/// anew when it is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mapped {
    /// The pool whose targets these are.
    pub pool: PoolHash,
    /// At most [`MAPPED_MAX`].
    #[serde(deserialize_with = "at_most::<MAPPED_MAX, _, _>")]
    pub targets: Vec<MappedTarget>,
}

/// A place in what a dispatcher remembers: to its sender a place in its table, to all others a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecallPlace {
    /// The pool; one that the receiver does not have counts as one without targets.
    pub pool: PoolHash,
    /// 0, or a place that it has named.
    pub from: u32,
}

/// Dispatcher to dispatcher: tell me a piece of what you remember. Lost: it is asked for again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recall {
    /// Where the piece begins.
    pub place: RecallPlace,
}

/// The answer to a [`Recall`]. Bulk: waits for everything urgent. Lost: as a lost [`Recall`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recalled {
    /// Where it begins.
    pub place: RecallPlace,
    /// Where the next piece of the pool begins; `None`: this is the last one.
    pub next: Option<u32>,
    /// At most [`MAPPED_MAX`].
    #[serde(deserialize_with = "at_most::<MAPPED_MAX, _, _>")]
    pub targets: Vec<MappedTarget>,
}
