//! What user space reads of one connection, as plain values.

use std::time::Duration;

use baton_cluster::NodeId;

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Handshake complete, no request yet.
    Open,
    /// Its request waits in user space.
    Held,
    /// This node serves it, but a later request of it waits in user space.
    Asking,
    /// This node's reader has it.
    Reading,
    /// Decided for a node; what user space holds is given back before anything else may pass.
    Releasing(NodeId),
    /// Its packets belong to a node.
    Bound(NodeId),
}

/// A binding, as user space reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// Where the connection stands.
    pub state: State,
    /// Sequence number of the client's first data byte.
    pub start_seq: u32,
    /// Ended, or about to: the client's FIN was seen. Kept for late packets.
    pub ending: bool,
    /// A socket of this node's server has been made for it.
    pub is_adopted: bool,
}

/// A connection that the reader has, as its first packet was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Sequence number of the first byte that the reader got.
    pub start_seq: u32,
    /// What the client had acknowledged.
    pub start_ack: u32,
    /// Its receive window, unscaled as in the header.
    pub window: u16,
    /// That packet's timestamp, and what our own clock for the client read then, when the connection has
    /// timestamps.
    pub timestamps: Option<(u32, u32)>,
    /// When that packet came, by the monotonic clock.
    pub since: Duration,
}

/// What a client has said last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// What it has acknowledged.
    pub ack: u32,
    /// Its receive window, as in the header.
    pub window: u16,
    /// TSval and TSecr, when the connection has timestamps.
    pub timestamps: Option<(u32, u32)>,
}

impl Reading {
    /// The timestamps for a replay at a time `now` of the monotonic clock: what our own clock for the client
    /// reads then at most. It counts milliseconds (RFC 7323 5.4).
    pub fn timestamps_at(&self, now: Duration) -> Option<(u32, u32)> {
        let passed = now.saturating_sub(self.since).as_millis() as u32;
        self.timestamps.map(|(client, ours)| (client, ours.wrapping_add(passed).wrapping_add(1)))
    }
}

/// What a sweep over the table of live connections has found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Connections that stay.
    pub live: u32,
    /// Those that have ended just now, and stay for a moment.
    pub ended: u32,
    /// Those that have ended, and were put aside.
    pub aside: u32,
    /// Those that were too old.
    pub removed: u32,
}

/// What is followed of a connection: of the request that waits at its owner, or is at the reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Where the connection began: tells it from earlier ones of the same flow.
    pub start_seq: u32,
    /// Where the connection goes on: what comes before has passed.
    pub at: u32,
    /// That is where the next request begins, since none is under way.
    pub boundary: Option<u32>,
    /// Packets from here on have come too early.
    pub early_seq: Option<u32>,
    /// Nothing is under way, all is acknowledged, and further requests may come.
    pub is_idle: bool,
    /// The head of the first request that was followed is whole.
    pub is_head_whole: bool,
    /// How many further requests may be unanswered.
    pub room: u32,
    /// Nothing of it is followed any more: whatever comes is for the server that has it.
    pub is_let_go: bool,
    /// What the client has said last.
    pub heard: Heard,
    /// What begins here in a packet must not go along with what comes before it.
    pub cut_seq: Option<u32>,
}

/// What an acknowledgement of the server's socket would say now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Where the server goes on.
    pub seq: u32,
    /// What its socket has got: everything before.
    pub ack: u32,
    /// Its receive window, as in the header.
    pub window: u16,
    /// TSval and TSecr, when the connection has timestamps.
    pub timestamps: Option<(u32, u32)>,
    /// The client takes selective acknowledgements.
    pub selective: bool,
}
