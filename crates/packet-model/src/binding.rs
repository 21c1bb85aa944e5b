//! Bindings: what is known of a connection, when it counts as forgotten, and how the owner follows it.

use baton_cluster::{Flow, NodeId, Sign};

use crate::egress::Sent;
use crate::packet::flag::{FIN, RST};
use crate::{Packet, Reach, Run, Socket};
use baton_datapath::constants::{
    FLAG_ADOPTED, FLAG_ANSWERED, FLAG_CLOSED, FLAG_CONFIRMED, FLAG_FIN_IN, FLAG_FIN_OUT, FLAG_REPLAY,
    FLAG_SERVING, FLAG_SYN_SEEN, FUTURE_MS, HALF_CLOSED_MS, HELD_MS, IDLE_MS, LASTING_MS, LINGER_MS,
    SYN_REACH, SYNACK_WINDOW,
};
use baton_datapath::{Counter, Event, State};

/// All fields of a binding (`struct binding` in `bpf/datapath.h`, which says what each means).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "said once, in the header")]
pub struct Binding {
    pub seen_ns: u64,
    pub since_ns: u64,
    pub flags: u32,
    pub start_seq: u32,
    pub start_ack: u32,
    pub syn_isn: u32,
    pub snd_end: u32,
    pub issued: u64,
    pub held: u32,
    pub replay_end: u32,
    pub tsval: u32,
    pub clock: u32,
    pub window: u16,
    pub cwnd: u16,
    pub state: State,
    pub distributor: u16,
    pub mss: u16,
    pub rtt_ms: u16,
    pub options: u8,
    pub snd_wscale: u8,
    pub tries: u8,
    pub term: u32,
}

impl Binding {
    /// Whether any of these flags is set.
    pub fn has(&self, flags: u32) -> bool {
        self.flags & flags != 0
    }

    /// It lives long enough for an update to be worth while.
    pub(super) fn has_lasted(&self, now_ns: u64) -> bool {
        age_ns(now_ns, self.since_ns) > u64::from(LASTING_MS) * 1_000_000
    }

    /// Nothing is known of a connection but its first byte.
    pub fn unknown(start_seq: u32, state: State) -> Self {
        Self {
            seen_ns: 0,
            since_ns: 0,
            flags: 0,
            start_seq,
            start_ack: 0,
            syn_isn: 0,
            snd_end: 0,
            issued: 0,
            held: 0,
            replay_end: 0,
            tsval: 0,
            clock: 0,
            window: 0,
            cwnd: 0,
            state,
            distributor: 0,
            mss: 0,
            rtt_ms: 0,
            options: 0,
            snd_wscale: 0,
            tries: 0,
            term: 0,
        }
    }

    /// Which server's the connection is, when that is known; `this`: the node that knows.
    pub(super) fn owner(&self, this: NodeId) -> Option<NodeId> {
        match self.state {
            State::Bound(node) | State::Releasing(node) => Some(node),
            State::Asking => Some(this),
            State::Open | State::Held | State::Reading => None,
        }
    }

    /// Whether another decision about the flow is later than the one that this is by. One from too far ahead is an early
    /// one, from before the node's clock was set.
    pub(super) fn is_before(&self, issued: u64, cluster_ns: u64) -> bool {
        let of_the_future =
            |at: u64| at.wrapping_sub(cluster_ns).cast_signed() > i64::from(FUTURE_MS) * 1_000_000;
        issued.wrapping_sub(self.issued).cast_signed() > 0
            || (of_the_future(self.issued) && !of_the_future(issued))
    }

    /// A later decision than the one before.
    pub(super) fn issued_after(&self, cluster_ns: u64) -> u64 {
        if self.is_before(cluster_ns, cluster_ns) { cluster_ns } else { self.issued.wrapping_add(1) }
    }

    /// Known from another node's word only: where it is, but not what its handshake agreed on.
    pub(super) fn is_hearsay(&self) -> bool {
        self.mss == 0
    }

    /// A packet whose sequence number is just after a newer SYN's is not about this connection.
    pub(super) fn is_about(&self, packet: &Packet) -> bool {
        let after_syn = packet.seq.wrapping_sub(self.syn_isn).wrapping_sub(1);
        let same_syn = self.start_seq == self.syn_isn.wrapping_add(1);
        !self.has(FLAG_SYN_SEEN) || same_syn || after_syn >= SYN_REACH
    }

    /// Held longer than a decision may take: it is decided afresh.
    pub(super) fn waited_enough(&self, now_ns: u64) -> bool {
        age_ns(now_ns, self.since_ns) > u64::from(HELD_MS) * 1_000_000
    }

    /// Whether the connection goes on, as far as this tells.
    pub fn is_live(&self, now_ns: u64) -> bool {
        !self.has(FLAG_CLOSED) && !self.has_aged(now_ns)
    }

    fn has_aged(&self, now_ns: u64) -> bool {
        let limit_ms = if self.has(FLAG_CLOSED) {
            LINGER_MS
        } else if self.has(FLAG_FIN_IN) {
            HALF_CLOSED_MS
        } else {
            IDLE_MS
        };
        age_ns(now_ns, self.seen_ns) > u64::from(limit_ms) * 1_000_000
    }
}

/// For how long something has been so. Computed as the programs do: a test's time may lie before the boot of its machine.
pub(super) fn age_ns(now_ns: u64, since_ns: u64) -> u64 {
    u64::try_from(now_ns.wrapping_sub(since_ns).cast_signed()).unwrap_or(0)
}

/// Whether a socket takes a packet: a RST where it expects the next byte (RFC 5961 3.2), perhaps behind a
/// gap; else something new within its window, by one who knows what it has sent (RFC 5961 5.2).
fn takes(socket: &Socket, reach: &Reach, p: &Packet, b: &Binding) -> bool {
    let ahead = p.seq.wrapping_sub(socket.rcv_nxt);
    let gap = socket.established.is_some_and(|e| e.out_of_order);
    if p.has(RST) {
        return ahead == 0 || (gap && ahead <= reach.window);
    }
    let length = p.payload.len() as u32 + u32::from(p.has(FIN));
    let is_new = ahead.wrapping_add(length).cast_signed() > 0;
    let sent =
        if b.snd_end.wrapping_sub(reach.snd_nxt).cast_signed() > 0 { b.snd_end } else { reach.snd_nxt };
    let oldest = reach.snd_una.wrapping_sub(reach.max_window);
    is_new
        && ahead.wrapping_sub(reach.window).cast_signed() <= 0
        && p.ack.wrapping_sub(oldest) <= sent.wrapping_sub(oldest)
}

impl Run<'_> {
    /// The flow's binding, unless it has aged.
    pub(super) fn binding_of(&self, flow: &Flow) -> Option<Binding> {
        let b = self.model.tables.bindings.get(flow)?;
        (!b.has_aged(self.clock.kernel_ns)).then_some(*b)
    }

    pub(super) fn start_serving(&mut self, b: &mut Binding) {
        if !b.has(FLAG_SERVING) {
            b.flags |= FLAG_SERVING;
            self.count(Counter::ServingStarted);
        }
    }

    pub(super) fn end_serving(&mut self, b: &mut Binding) {
        if b.has(FLAG_SERVING) {
            b.flags &= !FLAG_SERVING;
            self.count(Counter::ServingEnded);
        }
    }

    /// The connection is over at its owner: load given back, once; the others are told.
    pub(super) fn close(&mut self, flow: Flow, b: &mut Binding) {
        if !self.retire(b) {
            return;
        }
        self.unassign(b);
        if b.has_lasted(self.clock.kernel_ns) {
            self.tell(Event::Closed { flow, start_seq: b.start_seq, distributor: NodeId(b.distributor) });
        }
    }

    /// A connection that this distributor assigned has ended.
    pub(super) fn unassign(&mut self, b: &Binding) {
        let Some(node) = b.owner(self.model.settings.node) else { return };
        if b.distributor == self.model.settings.node.0
            && let Some(load) = self.model.tables.loads.get_mut(&node)
        {
            load.assigned = load.assigned.saturating_sub(1);
        }
    }

    /// Gives way to the next connection of the same flow. Whether a served connection ended by it.
    pub(super) fn retire(&mut self, b: &mut Binding) -> bool {
        if b.has(FLAG_CLOSED) {
            return false;
        }
        b.flags |= FLAG_CLOSED;
        self.end_serving(b);
        if b.has(FLAG_ADOPTED) {
            self.count(Counter::Closed);
        }
        b.has(FLAG_ADOPTED)
    }

    /// Whether the stack takes what a packet says for its client's. Without a socket it must be from the
    /// connection's beginning.
    pub(super) fn is_taken(&self, p: &Packet, b: &Binding) -> bool {
        let sent = b.snd_end.wrapping_sub(b.start_ack);
        let begins = Self::is_near_start(p, b) && (p.has(RST) || p.ack.wrapping_sub(b.start_ack) <= sent);
        match self.model.stack.sockets.get(&p.flow) {
            None => begins,
            Some(Socket { reach: None, rcv_nxt, .. }) => begins || *rcv_nxt == p.seq,
            Some(socket @ Socket { reach: Some(reach), .. }) => takes(socket, reach, p, b),
        }
    }

    /// Within the first window that the client was offered.
    pub(super) fn is_near_start(p: &Packet, b: &Binding) -> bool {
        p.seq.wrapping_sub(b.start_seq) <= SYNACK_WINDOW
    }

    /// Whether a packet, if it is the client's, tells more than that the client is there.
    pub(super) fn is_news(p: &Packet, b: &Binding) -> bool {
        let begins = !p.payload.is_empty() && (!b.has(FLAG_SERVING) || b.has(FLAG_ANSWERED));
        p.has(RST) || (p.has(FIN) && !b.has(FLAG_FIN_IN)) || begins
    }

    /// A sign that this node's server does not work.
    pub(super) fn failed(&mut self, flow: Flow, sign: Sign, spoke: bool) {
        self.events.push(Event::Failed { flow, sign, spoke });
    }

    /// The first word of a connection's socket.
    fn spoke(&mut self, flow: &Flow) {
        let service = self.model.tables.services.get(&(flow.vip, flow.vip_port)).map(|service| service.id);
        if let Some(service) = service {
            *self.model.tables.evidence.spoken.entry(service).or_default() += 1;
        }
    }

    /// The owner hears from the client.
    pub(super) fn track_in(&mut self, p: &Packet, b: &mut Binding) {
        b.seen_ns = self.clock.kernel_ns;
        if p.has(RST) {
            return self.close(p.flow, b);
        }
        let all_acknowledged = p.ack == b.snd_end;
        if !p.payload.is_empty() && !b.has(FLAG_CLOSED) {
            self.start_serving(b);
            b.flags &= !FLAG_ANSWERED;
        } else if b.has(FLAG_SERVING) && b.has(FLAG_ANSWERED) && all_acknowledged {
            self.end_serving(b);
        }
        if p.has(FIN) {
            b.flags |= FLAG_FIN_IN;
        }
        self.close_after_both_fins(p.flow, b);
    }

    /// The owner's server speaks.
    pub(super) fn track_out(&mut self, s: &Sent, b: &mut Binding) {
        let (flow, payload) = (s.flow, s.payload.len() as u32);
        let fin = s.flags & FIN != 0;
        let end = s.seq.wrapping_add(payload).wrapping_add(u32::from(fin));
        let (spoke, resets) = (b.has(FLAG_CONFIRMED), s.flags & RST != 0);
        b.flags |= FLAG_CONFIRMED;
        if !spoke && !resets {
            self.spoke(&flow);
        }
        if resets && !b.has(FLAG_CLOSED | FLAG_FIN_IN) && b.snd_end == b.start_ack {
            self.failed(flow, Sign::ResetFirst, spoke);
        }
        if b.has(FLAG_REPLAY) && s.ack.wrapping_sub(b.replay_end).cast_signed() >= 0 {
            b.flags &= !FLAG_REPLAY;
            self.count(Counter::ReplayTaken);
            let (start_seq, distributor) = (b.start_seq, NodeId(b.distributor));
            self.events.push(Event::Taken { flow, start_seq, distributor });
        }
        if end.wrapping_sub(b.snd_end) as i32 > 0 {
            b.snd_end = end;
        }
        if payload > 0 {
            self.count_many(Counter::BytesServed, u64::from(payload));
            if !b.has(FLAG_CLOSED) {
                self.start_serving(b);
            }
            b.flags |= FLAG_ANSWERED;
        }
        if fin {
            b.flags |= FLAG_FIN_OUT;
        }
        if s.flags & RST != 0 {
            self.close(flow, b);
        }
        self.close_after_both_fins(flow, b);
    }

    fn close_after_both_fins(&mut self, flow: Flow, b: &mut Binding) {
        if b.has(FLAG_FIN_IN) && b.has(FLAG_FIN_OUT) {
            self.close(flow, b);
        }
    }
}
