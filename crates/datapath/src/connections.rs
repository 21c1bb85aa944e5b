//! The connections in the programs' tables: what user space reads of them, and its orders, the one way in which
//! it changes them.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use baton_cluster::{Flow, NodeId};
use baton_http::OUTSTANDING_MAX;
use libbpf_rs::{MapCore, MapFlags, ProgramInput};

use crate::connection::{Binding, Heard, Progress, Reading, Receipt, State, Swept};
use crate::constants::{
    DOUBT_ALL, DOUBT_RESPONSES, FLAG_ADOPTED, FLAG_CLOSED, FLAG_FIN_IN, FLAG_LEFT, FLAG_SERVING,
    HALF_CLOSED_MS, IDLE_MS, NODE_READER, OPTION_SACK, OPTION_TIMESTAMPS, OPTION_WSCALE, ORDER_BIND_FOUND,
    ORDER_BIND_HELD, ORDER_BIND_READ, ORDER_BIND_TOLD, ORDER_CLOSE_TOLD, ORDER_DECIDE_ASKED, ORDER_FREEZE,
    ORDER_READ_HELD, ORDER_RELEASED, PHASE_START, RCV_WSCALE, STATE_ASKING, STATE_BOUND, STATE_HELD,
    STATE_NONE, STATE_OPEN, STATE_READING, STATE_RELEASING,
};
use crate::error::DatapathError;
use crate::map::{failed, get, nanoseconds, remove};
use crate::programs::Datapath;
use crate::shared::{as_bytes_mut, flow_of, from_bytes, key_of, types};

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

    /// Binds a held connection to a server; the cluster's clock at that, nanoseconds. Until
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
    pub fn asked(&self, flow: &Flow) -> Result<Option<Progress>, DatapathError> {
        let x: Option<types::exchange> = get(&self.skel.maps.exchanges, "exchanges", &key_of(flow))?;
        Ok(x.map(|x| Progress {
            start_seq: x.start_seq,
            at: x.requests.at,
            boundary: (u32::from(x.requests.scan.phase) == PHASE_START).then_some(x.requests.at),
            early_seq: (x.early != 0).then_some(x.early_seq),
            is_idle: is_idle(&x),
            is_head_whole: x.asked != 0,
            room: if u32::from(x.doubt) == DOUBT_RESPONSES {
                OUTSTANDING_MAX
            } else {
                OUTSTANDING_MAX.saturating_sub(x.asked.wrapping_sub(x.answered))
            },
            is_let_go: u32::from(x.doubt) == DOUBT_ALL,
            heard: Heard {
                ack: x.heard_ack,
                window: x.heard_window,
                timestamps: (x.heard_timestamps != 0).then_some((x.heard_tsval, x.heard_tsecr)),
            },
            cut_seq: (x.cut != 0).then_some(x.cut_seq),
        }))
    }

    /// What the server's socket would say to the client of a connection that it serves; `None` when nothing was
    /// missing yet. And where the connection goes on: what comes before has passed.
    ///
    /// # Errors
    /// When a map refuses.
    pub fn receipt(&self, flow: &Flow) -> Result<Option<(Receipt, u32)>, DatapathError> {
        let x: Option<types::exchange> = get(&self.skel.maps.exchanges, "exchanges", &key_of(flow))?;
        let asked = |x: &types::exchange| (x.taken_ack, x.taken_window) != (0, 0);
        let Some((x, b)) = x.filter(asked).zip(self.raw_binding(flow)?) else { return Ok(None) };
        let has = |option| u32::from(b.options) & option != 0;
        let scale = if has(OPTION_WSCALE) { RCV_WSCALE } else { 0 };
        let receipt = Receipt {
            seq: b.snd_end,
            ack: x.taken_ack,
            window: (x.taken_window >> scale).try_into().unwrap_or(u16::MAX),
            timestamps: has(OPTION_TIMESTAMPS).then_some((b.clock, x.heard_tsval)),
            selective: has(OPTION_SACK),
        };
        Ok((b.start_seq == x.start_seq).then_some((receipt, x.requests.at)))
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

    /// A later request, which begins at `seq`, is the reader's to answer: no server may have it. Else as
    /// [`Datapath::decide_asked`].
    ///
    /// # Errors
    /// When the program cannot be run.
    pub fn answer_asked(&self, flow: &Flow, seq: u32) -> Result<Option<u32>, DatapathError> {
        self.decide_asked(flow, seq, NodeId(NODE_READER as u16))
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

    /// A node was asked about a flow that nobody here knew, and owns it: the flow's packets go there. What
    /// became known of the flow since stands. Whether it was bound.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub fn bind_found(
        &self,
        flow: &Flow,
        start_seq: u32,
        owner: NodeId,
        issued: u64,
    ) -> Result<bool, DatapathError> {
        self.apply(types::order {
            start_seq,
            issued,
            node: owner.0,
            distributor: owner.0,
            ..new_order(flow, ORDER_BIND_FOUND)
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
        let key = key_of(flow);
        remove(&self.skel.maps.bindings, "bindings", &key)?;
        remove(&self.skel.maps.aside, "aside", &key)
    }

    /// Every flow that has a binding now. Slow: for status and tests.
    pub fn flows(&self) -> Vec<Flow> {
        let keys = self.skel.maps.bindings.keys().chain(self.skel.maps.aside.keys());
        let flows: BTreeSet<_> = keys.collect();
        flows.iter().filter_map(|k| from_bytes(k).map(|k| flow_of(&k))).collect()
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
        let now_ns = nanoseconds(now);
        let places: HashMap<_, _> = addresses.iter().zip(0_usize..).collect();
        let mut counts = vec![0; addresses.len()];
        let mut count = |flow: Flow, b: &types::binding| {
            let place = places.get(&(flow.vip, flow.vip_port)).and_then(|place| counts.get_mut(*place));
            if let Some(count) = place.filter(|_| is_live(b, now_ns)) {
                *count += 1;
            }
        };
        let (live, aside) = (&self.skel.maps.bindings, &self.skel.maps.aside);
        for key in live.keys() {
            each(live, &key, &mut count);
        }
        for key in aside.keys() {
            each(aside, &key, &mut count);
        }
        counts
    }

    /// Puts aside the connections that have ended, and removes what is too old: live ones have the table for
    /// themselves. Slow: goes over the whole table once, in the kernel.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub fn sweep(&self) -> Result<Swept, DatapathError> {
        let mut found = types::sweep::default();
        let input = ProgramInput { context_in: Some(as_bytes_mut(&mut found)), ..Default::default() };
        self.skel.progs.sweep.test_run(input).map_err(failed("bindings"))?;
        Ok(Swept { live: found.live, ended: found.ended, aside: found.aside, removed: found.removed })
    }

    /// The entry of a flow, whichever table it is in.
    ///
    /// # Errors
    /// When the kernel refuses the call.
    #[doc(hidden)]
    pub fn raw_binding(&self, flow: &Flow) -> Result<Option<types::binding>, DatapathError> {
        let key = key_of(flow);
        let live = get(&self.skel.maps.bindings, "bindings", &key)?;
        let aside = |_| get(&self.skel.maps.aside, "aside", &key);
        let aside: Option<types::binding> = live.is_none().then_some(()).map_or(Ok(None), aside)?;
        Ok(live.or(aside.filter(|b| u32::from(b.state) != STATE_NONE)))
    }
}

fn each(map: &impl MapCore, key: &[u8], work: &mut impl FnMut(Flow, &types::binding)) {
    let Some(flow) = from_bytes(key).map(|k| flow_of(&k)) else { return };
    let bytes = map.lookup(key, MapFlags::ANY).ok().flatten();
    let binding = bytes.and_then(|b| from_bytes::<types::binding>(&b));
    if let Some(b) = binding.filter(|b| u32::from(b.state) != STATE_NONE) {
        work(flow, &b);
    }
}

fn is_idle(x: &types::exchange) -> bool {
    let between = |f: &types::follower| u32::from(f.scan.phase) == PHASE_START;
    x.asked != 0
        && x.asked == x.answered
        && between(&x.requests)
        && between(&x.responses)
        && x.heard_ack == x.responses.at
        && x.doubt == 0
        && x.closing == 0
}

/// Whether the connection goes on, as far as its binding tells (`binding_of` in `bpf/binding.h`); but of one that
/// a forwarder has seen leave, it is not known for as long as the binding stays: its end is not always told.
fn is_live(b: &types::binding, now_ns: u64) -> bool {
    let limit_ms = if b.flags & (FLAG_FIN_IN | FLAG_LEFT) != 0 { HALF_CLOSED_MS } else { IDLE_MS };
    b.flags & FLAG_CLOSED == 0
        && now_ns.wrapping_sub(b.seen_ns).cast_signed() <= i64::from(limit_ms) * 1_000_000
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
    Some(Binding {
        state,
        start_seq: b.start_seq,
        ending: b.flags & (FLAG_CLOSED | FLAG_FIN_IN) != 0,
        is_adopted: b.flags & FLAG_ADOPTED != 0,
    })
}

fn new_order(flow: &Flow, kind: u32) -> types::order {
    types::order { flow: key_of(flow), kind: kind as u16, ..Default::default() }
}
