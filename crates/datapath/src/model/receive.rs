//! A handoff packet arrives: this node is to own the connection, unless a later decision says otherwise.

use baton_cluster::ServiceId;

use super::handoff::{Handoff, Refusal, inner_of};
use super::packet::L3;
use super::{Binding, Packet, Parsed, Run, Verdict};
use crate::constants::{FLAG_MOVED, FLAG_REPLAY};
use crate::counters::Counter;
use crate::tables::State;

impl Run<'_> {
    pub(super) fn handoff(&mut self) -> Verdict {
        if !self.model.settings.roles.server {
            return self.drop(Counter::DropNoRole);
        }
        let (h, inner) = match Handoff::unwrap(&self.model.tables.keys, &self.frame, self.clock) {
            Ok(opened) => opened,
            Err(Refusal::Malformed) => return self.drop(Counter::DropHandoffMalformed),
            Err(Refusal::Forged) => return self.drop(Counter::DropHandoffForged),
            Err(Refusal::Stale) => return self.drop(Counter::DropHandoffStale),
        };
        let known = inner.get(L3..).and_then(inner_of);
        let known = known.and_then(|(flow, _)| Some((flow, self.binding_of(&flow)?)));
        let not_later = |b: &Binding| h.issued.wrapping_sub(b.issued).cast_signed() <= 0;
        // Repeated, and what it began was over when this node's reader got the connection.
        if known.is_some_and(|(_, b)| b.state == State::Reading && not_later(&b)) {
            return self.drop(Counter::DropHandoffStale);
        }
        if let Some((flow, b)) = known
            && let Some(node) = b.owner(self.model.settings.node)
            && node != self.model.settings.node
            && b.start_seq == h.start_seq
            && not_later(&b)
        {
            self.count(Counter::HandoffReceived);
            let verdict = self.hand_on(&inner, &h, &b, node);
            self.put(flow, b);
            return verdict;
        }
        self.frame = inner;
        let p = match self.model.parse(&self.frame) {
            Parsed::Tcp(p) => p,
            Parsed::Refused(why) => return self.drop(why),
            Parsed::Other | Parsed::Handoff => return self.drop(Counter::DropHandoffMalformed),
        };
        self.count(Counter::HandoffReceived);
        let this = self.model.settings.node;
        let known = self.binding_of(&p.flow).filter(|b| b.owner(this).is_some());
        let b = match known {
            None => self.fresh(&p, &h),
            Some(b) if b.start_seq != h.start_seq && b.issued.wrapping_sub(h.issued).cast_signed() > 0 => {
                return self.drop(Counter::DropHandoffStale);
            }
            Some(mut b) if b.start_seq != h.start_seq => {
                self.retire(&mut b);
                self.fresh(&p, &h)
            }
            // The node that was to own it never did; the client's repetition was decided afresh, for us.
            Some(mut b) if b.owner(this) != Some(this) => {
                b.state = State::Bound(this);
                b.flags = 0;
                learn(&mut b, &p, &h);
                b
            }
            Some(mut b) if b.is_hearsay() => {
                learn(&mut b, &p, &h);
                b
            }
            Some(b) => b,
        };
        self.own(&p, b, false)
    }

    fn fresh(&self, p: &Packet, h: &Handoff) -> Binding {
        let mut b = Binding::unknown(h.start_seq, State::Bound(self.model.settings.node));
        (b.seen_ns, b.since_ns) = (self.clock.kernel_ns, self.clock.kernel_ns);
        learn(&mut b, p, h);
        b
    }
}

/// A handoff packet says what its connection's handshake agreed on.
fn learn(b: &mut Binding, p: &Packet, h: &Handoff) {
    b.start_ack = p.ack;
    b.snd_end = p.ack;
    b.issued = h.issued;
    b.distributor = h.distributor;
    b.service = ServiceId(p.service.0);
    b.mss = h.mss;
    b.rtt_ms = h.rtt_ms;
    b.options = h.options;
    b.snd_wscale = h.snd_wscale;
    b.cwnd = h.cwnd;
    b.replay_end = h.replay_end;
    b.flags |= u32::from(h.flags) & (FLAG_REPLAY | FLAG_MOVED);
}
