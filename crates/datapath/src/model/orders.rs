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
        b.state = State::Bound(server);
        b.seen_ns = clock.kernel_ns;
        b.since_ns = clock.kernel_ns;
        b.issued_ms = clock.wall_ms();
        true
    }

    /// Another node says that the flow belongs to a server. Of two decisions the later one
    /// stands, but a connection that was adopted here stays.
    pub fn bind_told(
        &mut self,
        flow: &Flow,
        start_seq: u32,
        server: NodeId,
        distributor: NodeId,
        issued_ms: u32,
        clock: Clock,
    ) -> Outcome {
        Run::over(self, &[], clock, |run| {
            let known = run.model.tables.bindings.get(flow).copied();
            let bound = known.filter(|b| matches!(b.state, State::Bound(_)));
            if bound.is_some_and(|b| issued_ms.wrapping_sub(b.issued_ms) as i32 <= 0) {
                return Verdict::Next;
            }
            if let Some(mut b) = bound.filter(|b| b.start_seq == start_seq) {
                // Decided afresh elsewhere, because its handoff packet was lost: unless it was not.
                if !b.has(FLAG_ADOPTED) {
                    (b.state, b.issued_ms) = (State::Bound(server), issued_ms);
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
                issued_ms,
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
        let own = State::Bound(self.settings.node);
        let known = self.tables.bindings.get_mut(flow);
        if let Some(b) = known.filter(|b| b.start_seq == start_seq && b.state != own) {
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
    issued_ms: 0,
    state: State::Open,
    distributor: 0,
    service: ServiceId(0),
    mss: 0,
    rtt_ms: 0,
    options: 0,
    snd_wscale: 0,
    tries: 0,
};
