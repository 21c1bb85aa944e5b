//! The connections in the programs' tables: what user space reads of them, and its orders, the one way in which
//! it changes them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use baton_cluster::{Flow, NodeId};
use libbpf_rs::{MapCore, MapFlags, ProgramInput};

use crate::constants::{
    FLAG_CLOSED, FLAG_FIN_IN, FLAG_LEFT, FLAG_SERVING, HALF_CLOSED_MS, IDLE_MS, OPTION_TIMESTAMPS,
    ORDER_BIND_HELD, ORDER_BIND_READ, ORDER_BIND_TOLD, ORDER_CLOSE_TOLD, ORDER_DECIDE_ASKED, ORDER_FREEZE,
    ORDER_READ_HELD, ORDER_RELEASED, PHASE_START, STATE_ASKING, STATE_BOUND, STATE_HELD, STATE_OPEN,
    STATE_READING, STATE_RELEASING,
};
use crate::error::DatapathError;
use crate::programs::Datapath;
use crate::shared::{as_bytes_mut, flow_of, from_bytes, key_of, types};
use crate::tables::{failed, get, nanoseconds, remove};

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

/// What a client's last packet without payload said.
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

/// What is followed of a connection: of the request that waits at its owner, or is at the reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Where the connection began: tells it from earlier ones of the same flow.
    pub start_seq: u32,
    /// Where the next request of the connection begins, if none is under way.
    pub boundary: Option<u32>,
    /// Packets from here on have come too early.
    pub early_seq: Option<u32>,
    /// Nothing is under way and all is acknowledged: what the client's last packet said.
    pub idle: Option<Heard>,
    /// Where in the packet the next request begins, when it must not go along with the first.
    pub cut_seq: Option<u32>,
}

impl Datapath {
    /// What the reader must know of a connection to give its bytes to a server; `None` when the reader
    /// does not have it.
    ///
    /// # Errors
    /// When the map refuses.
    pub fn reading(&self, flow: &Flow) -> Result<Option<Reading>, DatapathError> {
        Ok(self.raw_binding(flow)?.filter(|b| u32::from(b.state) == STATE_READING).map(|b| Reading {
            start_seq: b.start_seq,
            start_ack: b.start_ack,
            window: b.window,
            timestamps: (u32::from(b.options) & OPTION_TIMESTAMPS != 0).then_some((b.tsval, b.clock)),
            since: Duration::from_nanos(b.since_ns),
        }))
    }

    /// The flow's binding, whatever its age.
    ///
    /// # Errors
    /// When the map refuses.
    pub fn binding(&self, flow: &Flow) -> Result<Option<Binding>, DatapathError> {
        Ok(self.raw_binding(flow)?.and_then(|b| read_binding(&b)))
    }

    /// Binds a held connection to a server; the wall clock of that, nanoseconds. Until
    /// [`Datapath::released`] only packets that user space gives back pass. `None`
    /// when it is not held any more (the client gave up, or it was decided meanwhile): its packets
    /// need not be released then.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub fn bind_held(
        &self,
        flow: &Flow,
        start_seq: u32,
        server: NodeId,
    ) -> Result<Option<u64>, DatapathError> {
        let order = types::order { start_seq, node: server.0, ..new_order(flow, ORDER_BIND_HELD) };
        self.apply(order).map(|o| (o.done != 0).then_some(o.issued))
    }

    /// `held` packets of the connection have been read from the hold device, and those that count were
    /// given back. `false` when more are on their way up: call again when they have been given back. Those
    /// that were on their way already when the programs began to count may be among them.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub fn released(&self, flow: &Flow, start_seq: u32, held: u32) -> Result<bool, DatapathError> {
        let order = types::order { start_seq, held, ..new_order(flow, ORDER_RELEASED) };
        self.apply(order).map(|o| o.done != 0)
    }

    /// Gives a held connection to this node's reader. Whether it was held. Until [`Datapath::released`] only
    /// packets that user space gives back pass.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub fn read_held(&self, flow: &Flow, start_seq: u32) -> Result<bool, DatapathError> {
        let order = types::order { start_seq, ..new_order(flow, ORDER_READ_HELD) };
        self.apply(order).map(|o| o.done != 0)
    }

    /// What is known of the later request that a connection waits with; `None` when it waits no more.
    ///
    /// # Errors
    /// When the map refuses.
    pub fn asked(&self, flow: &Flow) -> Result<Option<Asked>, DatapathError> {
        let x: Option<types::exchange> = get(&self.skel.maps.exchanges, "exchanges", &key_of(flow))?;
        Ok(x.map(|x| Asked {
            start_seq: x.start_seq,
            boundary: (u32::from(x.requests.scan.phase) == PHASE_START).then_some(x.requests.at),
            early_seq: (x.early != 0).then_some(x.early_seq),
            idle: is_idle(&x).then_some(Heard {
                ack: x.heard_ack,
                window: x.heard_window,
                timestamps: (x.heard_timestamps != 0).then_some((x.heard_tsval, x.heard_tsecr)),
            }),
            cut_seq: (x.cut != 0).then_some(x.cut_seq),
        }))
    }

    /// Decides a later request, which begins at `seq`, for a server. As after [`Datapath::bind_held`],
    /// only packets that user space gives back pass from then on; the number is for
    /// [`Datapath::released`]. `None` when it waits no more.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub fn decide_asked(&self, flow: &Flow, seq: u32, server: NodeId) -> Result<Option<u32>, DatapathError> {
        let order = types::order { start_seq: seq, node: server.0, ..new_order(flow, ORDER_DECIDE_ASKED) };
        self.apply(order).map(|o| (o.done != 0).then_some(o.start_seq))
    }

    /// From now on no packet of the connection passes, neither way: the reader is about to hand it off.
    /// Whether the reader has it.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub fn freeze(&self, flow: &Flow, start_seq: u32) -> Result<bool, DatapathError> {
        let order = types::order { start_seq, ..new_order(flow, ORDER_FREEZE) };
        self.apply(order).map(|o| o.done != 0)
    }

    /// Binds what the reader had to a server, which is to be given the client's bytes from `start_seq`
    /// to `replay_end`; else as [`Datapath::bind_held`].
    ///
    /// # Errors
    /// When the program cannot be run.
    pub fn bind_read(
        &self,
        flow: &Flow,
        start_seq: u32,
        server: NodeId,
        replay_end: u32,
    ) -> Result<Option<u64>, DatapathError> {
        let order =
            types::order { start_seq, node: server.0, held: replay_end, ..new_order(flow, ORDER_BIND_READ) };
        self.apply(order).map(|o| (o.done != 0).then_some(o.issued))
    }

    /// What an update message says: the flow's packets go to this server now. Of two connections of
    /// one flow the one decided later stands. Whether it was news.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub fn bind_told(
        &self,
        flow: &Flow,
        start_seq: u32,
        server: NodeId,
        distributor: NodeId,
        issued: u64,
    ) -> Result<bool, DatapathError> {
        self.apply(types::order {
            start_seq,
            issued,
            node: server.0,
            distributor: distributor.0,
            ..new_order(flow, ORDER_BIND_TOLD)
        })
        .map(|o| o.done != 0)
    }

    /// What a close message says: the connection has ended at its server. Later ones of the same flow
    /// are not meant. Whether there was such a binding.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub fn close_told(&self, flow: &Flow, start_seq: u32) -> Result<bool, DatapathError> {
        let order = types::order { start_seq, ..new_order(flow, ORDER_CLOSE_TOLD) };
        self.apply(order).map(|o| o.done != 0)
    }

    fn apply(&self, mut order: types::order) -> Result<types::order, DatapathError> {
        let input = ProgramInput { context_in: Some(as_bytes_mut(&mut order)), ..Default::default() };
        self.skel.progs.apply_order.test_run(input).map_err(failed("bindings"))?;
        Ok(order)
    }

    /// Forgets a flow altogether.
    ///
    /// # Errors
    /// When the map refuses; an unknown flow is no error.
    pub fn remove_binding(&self, flow: &Flow) -> Result<(), DatapathError> {
        remove(&self.skel.maps.bindings, "bindings", &key_of(flow))
    }

    /// Every flow that has a binding now. Slow: for status and tests.
    pub fn flows(&self) -> Vec<Flow> {
        self.skel.maps.bindings.keys().filter_map(|k| from_bytes(&k).map(|k| flow_of(&k))).collect()
    }

    /// Connections that are busy by their binding, of which a packet was seen since `silent_since`
    /// (monotonic). The counters drift from this when the table evicts a busy connection, or a client
    /// vanishes. Slow: reads the whole table.
    pub fn busy(&self, silent_since: Duration) -> u64 {
        let since = nanoseconds(silent_since);
        let map = &self.skel.maps.bindings;
        let busy = |key: &Vec<u8>| {
            let bytes = map.lookup(key, MapFlags::ANY).ok().flatten()?;
            from_bytes::<types::binding>(&bytes).filter(|b| b.flags & FLAG_SERVING != 0 && b.seen_ns >= since)
        };
        map.keys().filter_map(|k| busy(&k)).count() as u64
    }

    /// How many connections of each address this node knows of at a time `now` of the monotonic clock: those that
    /// have not ended, nor are forgotten for their age. Slow: reads the whole table once. What changes
    /// meanwhile may be counted twice, or not at all.
    pub fn connections_at(&self, addresses: &[(IpAddr, u16)], now: Duration) -> Vec<u64> {
        let (map, now_ns) = (&self.skel.maps.bindings, nanoseconds(now));
        let places: HashMap<_, _> = addresses.iter().zip(0_usize..).collect();
        let mut counts = vec![0; addresses.len()];
        for key in map.keys() {
            let Some(flow) = from_bytes(&key).map(|k| flow_of(&k)) else { continue };
            let Some(place) = places.get(&(flow.vip, flow.vip_port)) else { continue };
            let bytes = map.lookup(&key, MapFlags::ANY).ok().flatten();
            let binding = bytes.and_then(|b| from_bytes::<types::binding>(&b));
            if let Some(count) = counts.get_mut(*place)
                && binding.is_some_and(|b| is_live(&b, now_ns))
            {
                *count += 1;
            }
        }
        counts
    }

    fn raw_binding(&self, flow: &Flow) -> Result<Option<types::binding>, DatapathError> {
        get(&self.skel.maps.bindings, "bindings", &key_of(flow))
    }
}

fn is_idle(x: &types::exchange) -> bool {
    let between = |f: &types::follower| u32::from(f.scan.phase) == PHASE_START;
    x.asked == x.answered
        && between(&x.requests)
        && between(&x.responses)
        && x.heard_ack == x.responses.at
        && x.doubt == 0
}

/// Whether the connection goes on, as far as its binding tells (`binding_of` in `bpf/binding.h`); but of one that
/// a forwarder has seen leave, it is not known for as long as the binding stays: its end is not always told.
fn is_live(b: &types::binding, now_ns: u64) -> bool {
    let limit_ms = if b.flags & (FLAG_FIN_IN | FLAG_LEFT) != 0 { HALF_CLOSED_MS } else { IDLE_MS };
    b.flags & FLAG_CLOSED == 0 && now_ns.saturating_sub(b.seen_ns) <= u64::from(limit_ms) * 1_000_000
}

fn read_binding(b: &types::binding) -> Option<Binding> {
    let state = match u32::from(b.state) {
        STATE_OPEN => State::Open,
        STATE_HELD => State::Held,
        STATE_ASKING => State::Asking,
        STATE_READING => State::Reading,
        STATE_BOUND => State::Bound(NodeId(b.node)),
        STATE_RELEASING => State::Releasing(NodeId(b.node)),
        _ => return None,
    };
    Some(Binding { state, start_seq: b.start_seq, ending: b.flags & (FLAG_CLOSED | FLAG_FIN_IN) != 0 })
}

fn new_order(flow: &Flow, kind: u32) -> types::order {
    types::order { flow: key_of(flow), kind: kind as u16, ..Default::default() }
}
