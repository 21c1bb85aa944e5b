//! What a connection itself says, beside the messages of components: who speaks, that he lives, and why he goes.

use baton_cluster::NodeId;
use serde::{Deserialize, Serialize};

/// The longest cluster name or software version in a [`Hello`], in bytes.
pub const NAME_BYTES_MAX: usize = 128;

/// The first word in each direction of a connection: who is speaking.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The cluster's name; both must agree.
    pub cluster: String,
    /// The speaker.
    pub node: NodeId,
    /// The speaker's name, for people: nodes know each other by their numbers and `nodes`.
    pub name: String,
    /// The digest of what all nodes of a cluster agree on; both must agree.
    pub digest: [u8; 32],
    /// A digest of each node of the speaker's cluster file, in its order. The longer of two lists begins with the
    /// other one: nodes may come at the end of the file, one daemon after the other being started with it.
    #[serde(deserialize_with = "baton_cluster::bounded::at_most::<{ NodeId::MAX_NODES }, _, _>")]
    pub nodes: Vec<[u8; 8]>,
    /// The speaker's MAC address on the cluster's network.
    pub mac: [u8; 6],
    /// A random number made when the speaker started.
    pub boot: u64,
    /// The speaker's software version, for people.
    pub software: String,
}

/// A sign of life, which also measures the round trip.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Counts the heartbeats of this connection and direction, from 0.
    pub sequence: u64,
    /// When it was sent, in microseconds of a clock of the sender's own.
    pub sent_us: u64,
    /// What the sender's clocks read then.
    pub clocks: Clocks,
    /// The last heartbeat received from the other side.
    pub echo: Option<Echo>,
}

/// What a node's clocks read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clocks {
    /// The cluster's clock as this node has it, in nanoseconds.
    pub cluster_ns: u64,
    /// The node has agreed on it with another one.
    pub agreed: bool,
    /// The wall clock, in microseconds since 1970: only shown.
    pub wall_us: u64,
}

/// What a heartbeat says of the last one that came the other way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Echo {
    /// Its `sent_us`.
    pub sent_us: u64,
    /// How long it has lain here since, in microseconds.
    pub held_us: u64,
}

/// The last word on a connection: why the speaker closes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Bye {
    /// There is another connection between the two nodes already.
    Duplicate,
    /// The node is stopping.
    Stopping,
}
