//! What user space reads of connections that other nodes, or this one, are asked about: held packets that
//! nobody here knew (`bpf/whose.h`), and what this node's table says of a flow.

use std::time::Duration;

use baton_cluster::{Flow, NodeId};
use libbpf_rs::ProgramInput;

use crate::connection::State;
use crate::constants::{
    FLAG_CLOSED, FLAG_FIN_IN, HALF_CLOSED_MS, HEIR_MAC, IDLE_MS, LINGER_MS, STATE_ASKING, STATE_BOUND,
    STATE_HELD, STATE_OPEN, STATE_READING, STATE_RELEASING, UNKNOWN_MAC,
};
use crate::error::DatapathError;
use crate::headers::l4_of;
use crate::hold::Frame;
use crate::map::{failed, nanoseconds};
use crate::programs::Datapath;
use crate::shared::{as_bytes_mut, key_of, types};

/// What a node's table says of a flow, if the entry still counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Where the connection stands.
    pub state: State,
    /// Sequence number of the client's first data byte, or of the request that moved the connection.
    pub start_seq: u32,
    /// What the client had acknowledged then.
    pub start_ack: u32,
    /// The cluster's clock at the decision, nanoseconds.
    pub issued: u64,
    /// The connection has ended; the entry is for late packets.
    pub closed: bool,
    /// Known by another node's word alone.
    pub hearsay: bool,
    /// When it took its present state, by the monotonic clock.
    pub since: Duration,
    /// Undecided, and this node may not decide it (any more).
    pub lapsed: bool,
}

impl Datapath {
    /// What this node's table says of a flow at a time `now` of the monotonic clock; `None` when there is no entry,
    /// or it has aged (`binding_of` in `bpf/binding.h`).
    ///
    /// # Errors
    /// When the map refuses.
    pub fn known(&self, flow: &Flow, now: Duration) -> Result<Option<Known>, DatapathError> {
        let Some(b) = self.raw_binding(flow)? else { return Ok(None) };
        let undecided = matches!(u32::from(b.state), STATE_OPEN | STATE_HELD);
        let lapsed = undecided && !self.holds_lease(b.term, now)?;
        Ok(read(&b, nanoseconds(now)).map(|known| Known { lapsed, ..known }))
    }

    /// Whether a packet that nobody knows is of a connection that this node's handshake has just begun: its first
    /// packets were lost, and the client will repeat them. Takes a few milliseconds.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub fn has_begun(&self, flow: &Flow, numbers: &Numbers) -> Result<bool, DatapathError> {
        let mut begun = types::begun {
            flow: key_of(flow),
            seq: numbers.seq,
            ack: numbers.ack,
            tsecr: numbers.echo.unwrap_or_default(),
            timestamps: numbers.echo.is_some().into(),
            ..Default::default()
        };
        let input = ProgramInput { context_in: Some(as_bytes_mut(&mut begun)), ..Default::default() };
        self.skel.progs.has_begun.test_run(input).map_err(failed("leases"))?;
        Ok(begun.answer != 0)
    }
}

fn read(b: &types::binding, now_ns: u64) -> Option<Known> {
    let limit_ms = match b.flags {
        flags if flags & FLAG_CLOSED != 0 => LINGER_MS,
        flags if flags & FLAG_FIN_IN != 0 => HALF_CLOSED_MS,
        _ => IDLE_MS,
    };
    if now_ns.saturating_sub(b.seen_ns) > u64::from(limit_ms) * 1_000_000 {
        return None;
    }
    let state = match u32::from(b.state) {
        STATE_OPEN => State::Open,
        STATE_HELD => State::Held,
        STATE_ASKING => State::Asking,
        STATE_READING => State::Reading,
        STATE_BOUND => State::Bound(NodeId(b.node)),
        STATE_RELEASING => State::Releasing(NodeId(b.node)),
        _ => return None,
    };
    Some(Known {
        state,
        start_seq: b.start_seq,
        start_ack: b.start_ack,
        issued: b.issued,
        closed: b.flags & FLAG_CLOSED != 0,
        hearsay: b.mss == 0,
        since: Duration::from_nanos(b.since_ns),
        lapsed: false,
    })
}

/// What an unknown packet says, as far as an answer to it needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbers {
    /// Sequence number of its first byte.
    pub seq: u32,
    /// The sequence number behind it: payload and FIN count.
    pub end: u32,
    /// What it acknowledges.
    pub ack: u32,
    /// What it echoes (TSecr), when it has timestamps.
    pub echo: Option<u32>,
}

impl Frame {
    /// Whether the programs held it because nobody here knows its connection.
    pub fn is_unknown(&self) -> bool {
        self.bytes.get(..4) == Some(&UNKNOWN_MAC.to_be_bytes()) || self.is_inherited()
    }

    /// As above, and it is this node's to decide if no other node has it.
    pub fn is_inherited(&self) -> bool {
        self.bytes.get(..4) == Some(&HEIR_MAC.to_be_bytes())
    }

    /// The same frame to an interface of this node, as it came.
    #[must_use]
    pub fn readdressed(mut self, mac: [u8; 6]) -> Self {
        if let Some(destination) = self.bytes.get_mut(..6) {
            destination.copy_from_slice(&mac);
        }
        self
    }

    /// Its sequence and acknowledgement numbers.
    pub fn numbers(&self) -> Numbers {
        const FIN: u8 = 1;
        let l4 = l4_of(&self.bytes).unwrap_or_default();
        let ack =
            self.bytes.get(l4 + 8..l4 + 12).and_then(|b| b.try_into().ok()).map_or(0, u32::from_be_bytes);
        let fin = self.bytes.get(l4 + 13).is_some_and(|flags| flags & FIN != 0);
        let end = self.seq.wrapping_add(self.payload().len() as u32).wrapping_add(u32::from(fin));
        Numbers { seq: self.seq, end, ack, echo: self.timestamps().map(|(_, echo)| echo) }
    }
}
