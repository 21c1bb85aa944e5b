//! What user space changes in bindings: what it decided, and what other nodes told it.

use baton_cluster::{Flow, NodeId};

use crate::{Binding, Clock, Model, Outcome, Run, Verdict};
use baton_datapath::constants::{
    FLAG_ADOPTED, FLAG_BEHIND, FLAG_CLOSED, FLAG_FROZEN, FLAG_MOVED, FLAG_REPLAY, FLAG_SYN_SEEN,
};
use baton_datapath::{Counter, State};

impl Model {
    fn may_bind(&self, flow: &Flow, clock: Clock) -> bool {
        self.tables.bindings.get(flow).is_some_and(|b| self.tables.may_decide(b, clock))
    }

    /// The held connection belongs to a server now. Whether there was such a one.
    pub fn bind_held(&mut self, flow: &Flow, start_seq: u32, server: NodeId, clock: Clock) -> bool {
        if !self.may_bind(flow, clock) {
            return false;
        }
        let held = self.tables.bindings.get_mut(flow);
        let Some(b) = held.filter(|b| b.state == State::Held && b.start_seq == start_seq) else {
            return false;
        };
        b.state = State::Releasing(server);
        b.seen_ns = clock.kernel_ns;
        b.since_ns = clock.kernel_ns;
        b.issued = b.issued_after(clock.cluster_ns);
        true
    }

    /// What user space has read of the connection, so many packets, it has given back. More of them than are
    /// counted were on their way when the counting began.
    pub fn released(&mut self, flow: &Flow, start_seq: u32, held: u32) -> bool {
        let Some(b) = self.tables.bindings.get_mut(flow) else { return false };
        if b.start_seq != start_seq || held.wrapping_sub(b.held).cast_signed() < 0 {
            return false;
        }
        match b.state {
            State::Releasing(node) => {
                b.state = State::Bound(node);
                true
            }
            State::Reading if b.has(FLAG_BEHIND) => {
                b.held = 0;
                b.flags &= !FLAG_BEHIND;
                true
            }
            _ => false,
        }
    }

    /// The reader shall have the held connection. Whether there was such a one.
    pub fn read_held(&mut self, flow: &Flow, start_seq: u32, clock: Clock) -> bool {
        if !self.may_bind(flow, clock) {
            return false;
        }
        let held = self.tables.bindings.get_mut(flow);
        let Some(b) = held.filter(|b| b.state == State::Held && b.start_seq == start_seq) else {
            return false;
        };
        b.state = State::Reading;
        b.flags |= FLAG_BEHIND;
        b.seen_ns = clock.kernel_ns;
        b.since_ns = clock.kernel_ns;
        b.issued = b.issued_after(clock.cluster_ns);
        true
    }

    /// The request that waits at its owner, and begins at `seq`, belongs to a server. The binding's own
    /// first byte, when one waited.
    pub fn decide_asked(&mut self, flow: &Flow, seq: u32, server: NodeId, clock: Clock) -> Option<u32> {
        let b = self.tables.bindings.get_mut(flow).filter(|b| b.state == State::Asking)?;
        self.tables.exchanges.get_mut(flow)?.decided = Some((seq, server));
        b.state = State::Releasing(self.settings.node);
        b.since_ns = clock.kernel_ns;
        Some(b.start_seq)
    }

    /// The reader is about to hand the connection off. Whether it has it.
    pub fn freeze(&mut self, flow: &Flow, start_seq: u32) -> bool {
        let b = self.tables.bindings.get_mut(flow);
        let Some(b) = b.filter(|b| b.state == State::Reading && b.start_seq == start_seq) else {
            return false;
        };
        b.flags |= FLAG_FROZEN;
        true
    }

    /// What the reader had belongs to a server, which gets the client's bytes up to `replay_end` from
    /// the reader. Whether the reader has it.
    pub fn bind_read(
        &mut self,
        flow: &Flow,
        start_seq: u32,
        server: NodeId,
        replay_end: u32,
        clock: Clock,
    ) -> bool {
        if !self.may_bind(flow, clock) {
            return false;
        }
        let b = self.tables.bindings.get_mut(flow);
        let Some(b) = b.filter(|b| b.state == State::Reading && b.start_seq == start_seq) else {
            return false;
        };
        b.state = State::Releasing(server);
        b.seen_ns = clock.kernel_ns;
        b.since_ns = clock.kernel_ns;
        b.issued = b.issued_after(clock.cluster_ns);
        if let Some(f) = self.tables.exchanges.get_mut(flow) {
            (f.early, f.cut_seq) = (None, None);
        }
        b.replay_end = replay_end;
        b.flags = FLAG_REPLAY | (b.flags & (FLAG_MOVED | FLAG_SYN_SEEN));
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
        issued: u64,
        clock: Clock,
    ) -> Outcome {
        Run::over(self, &[], clock, |run| {
            let known = run.model.tables.bindings.get(flow).copied();
            let decided = known.filter(|b| b.owner(run.model.settings.node).is_some());
            let reading = known.filter(|b| b.state == State::Reading);
            let past = run.is_past(flow, start_seq);
            if past || decided.or(reading).is_some_and(|b| !b.is_before(issued, clock.cluster_ns)) {
                return Verdict::Next;
            }
            if let Some(mut b) = decided.filter(|b| b.start_seq == start_seq) {
                // Decided afresh elsewhere, because its handoff packet was lost. If it was not, two
                // servers have the connection: the later decision stands.
                let this = run.model.settings.node;
                if b.has(FLAG_ADOPTED) && b.owner(this) == Some(this) {
                    if server == this {
                        return Verdict::Next;
                    }
                    run.count(Counter::TwoOwners);
                    run.retire(&mut b);
                    b.flags &= FLAG_SYN_SEEN;
                }
                b.issued = issued;
                b.state = match b.state {
                    State::Releasing(_) => State::Releasing(server),
                    _ => State::Bound(server),
                };
                run.put(*flow, b);
                return Verdict::Next;
            }
            if let Some(mut b) = known {
                run.retire(&mut b);
            }
            let mut told = Binding::unknown(start_seq, State::Bound(server));
            told.seen_ns = clock.kernel_ns;
            told.since_ns = clock.kernel_ns;
            told.issued = issued;
            told.distributor = distributor.0;
            run.put(*flow, told);
            Verdict::Next
        })
    }

    /// A node was asked about a flow that nobody here knows, and owns it. What came since stands.
    pub fn bind_found(
        &mut self,
        flow: &Flow,
        start_seq: u32,
        server: NodeId,
        issued: u64,
        clock: Clock,
    ) -> Outcome {
        Run::over(self, &[], clock, |run| {
            let this = run.model.settings.node;
            if run.binding_of(flow).is_some_and(|b| !b.is_nobody(this)) {
                return Verdict::Next;
            }
            if let Some(mut b) = run.model.tables.bindings.get(flow).copied() {
                run.retire(&mut b);
            }
            let mut found = Binding::unknown(start_seq, State::Bound(server));
            found.seen_ns = clock.kernel_ns;
            found.since_ns = clock.kernel_ns;
            found.issued = issued;
            found.distributor = server.0;
            run.put(*flow, found);
            Verdict::Next
        })
    }

    /// Another node says that the connection has ended there.
    pub fn close_told(&mut self, flow: &Flow, start_seq: u32, clock: Clock) {
        let this = self.settings.node;
        let ours = |b: &Binding| b.state == State::Reading || b.owner(this) == Some(this);
        let known = self.tables.bindings.get_mut(flow);
        if let Some(b) = known.filter(|b| b.start_seq == start_seq && !ours(b)) {
            b.seen_ns = clock.kernel_ns;
            b.flags |= FLAG_CLOSED;
        }
    }
}
