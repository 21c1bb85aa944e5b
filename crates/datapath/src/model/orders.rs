//! What user space changes in bindings: what it decided, and what other nodes told it.

use baton_cluster::{Flow, NodeId, ServiceId};

use super::{Binding, Clock, Model, Outcome, Run, Verdict};
use crate::constants::{FLAG_ADOPTED, FLAG_CLOSED};
use crate::tables::State;

impl Model {
    /// The held connection belongs to a server now. Whether there was such a one.
    pub fn bind_held(&mut self, flow: &Flow, start_seq: u32, server: NodeId, clock: Clock) -> bool {
        let held = self.tables.bindings.get_mut(flow);
        let Some(b) = held.filter(|b| b.state == State::Held && b.start_seq == start_seq) else {
            return false;
        };
        b.state = State::Releasing(server);
        b.seen_ns = clock.kernel_ns;
        b.since_ns = clock.kernel_ns;
        b.issued = clock.wall_ns;
        true
    }

    /// What user space held of the connection, so many packets, it has given back.
    pub fn released(&mut self, flow: &Flow, start_seq: u32, held: u32) -> bool {
        let Some(b) = self.tables.bindings.get_mut(flow) else { return false };
        match b.state {
            State::Releasing(node) if b.start_seq == start_seq && b.held == held => {
                b.state = State::Bound(node);
                true
            }
            _ => false,
        }
    }

    /// Another node says that the flow belongs to a server. Of two decisions the later one
    /// stands, but a connection that was adopted here stays.
    pub fn bind_told(
        &mut self,
        flow: &Flow,
        start_seq: u32,
        server: NodeId,
        distributor: NodeId,
        issued: u64,
        clock: Clock,
    ) -> Outcome {
        Run::over(self, &[], clock, |run| {
            let known = run.model.tables.bindings.get(flow).copied();
            let decided = known.filter(|b| b.owner().is_some());
            if decided.is_some_and(|b| issued.wrapping_sub(b.issued).cast_signed() <= 0) {
                return Verdict::Next;
            }
            if let Some(mut b) = decided.filter(|b| b.start_seq == start_seq) {
                // Decided afresh elsewhere, because its handoff packet was lost: unless it was not.
                if !b.has(FLAG_ADOPTED) {
                    b.issued = issued;
                    b.state = if matches!(b.state, State::Bound(_)) {
                        State::Bound(server)
                    } else {
                        State::Releasing(server)
                    };
                    run.put(*flow, b);
                }
                return Verdict::Next;
            }
            if let Some(mut b) = known {
                run.retire(&mut b);
            }
            let now = clock.kernel_ns;
            let told = Binding {
                seen_ns: now,
                since_ns: now,
                start_seq,
                issued,
                state: State::Bound(server),
                distributor: distributor.0,
                ..NOTHING
            };
            run.put(*flow, told);
            Verdict::Next
        })
    }

    /// Another node says that the connection has ended there.
    pub fn close_told(&mut self, flow: &Flow, start_seq: u32, clock: Clock) {
        let this = Some(self.settings.node);
        let known = self.tables.bindings.get_mut(flow);
        if let Some(b) = known.filter(|b| b.start_seq == start_seq && b.owner() != this) {
            b.seen_ns = clock.kernel_ns;
            b.flags |= FLAG_CLOSED;
        }
    }
}

const NOTHING: Binding = Binding {
    seen_ns: 0,
    since_ns: 0,
    flags: 0,
    start_seq: 0,
    start_ack: 0,
    syn_isn: 0,
    snd_end: 0,
    issued: 0,
    held: 0,
    state: State::Open,
    distributor: 0,
    service: ServiceId(0),
    mss: 0,
    rtt_ms: 0,
    options: 0,
    snd_wscale: 0,
    tries: 0,
};
