//! A wrapped packet arrives: forwarded by another node, or a handoff. Then this node is to own the
//! connection, unless a later decision says otherwise.

use baton_cluster::{Flow, NodeId};

use crate::handoff::{Handoff, Refusal};
use crate::packet::flag::{ACK, RST};
use crate::packet::ip;
use crate::{Binding, Packet, Parsed, Run, Verdict};
use baton_datapath::constants::{FLAG_CONFIRMED, FLAG_MOVED, FLAG_REPLAY, WIRE_FORWARDED};
use baton_datapath::{Counter, Event, State};

impl Run<'_> {
    /// What a member has wrapped: a handoff, or a packet that it forwards.
    pub(super) fn unwrapped(&mut self) -> Verdict {
        if let Some(verdict) = self.probed() {
            return verdict;
        }
        let Some((h, parsed)) = self.unwrap() else { return Verdict::Drop };
        let forwarded = u32::from(h.flags) & WIRE_FORWARDED != 0;
        match parsed {
            Parsed::Tcp(p) if forwarded => {
                self.count(Counter::WrappedReceived);
                self.for_service(&p, false)
            }
            Parsed::Icmp(flow) if forwarded => {
                self.count(Counter::WrappedReceived);
                self.icmp(flow)
            }
            Parsed::Tcp(p) => self.handoff(&p, &h),
            _ => self.drop(Counter::DropHandoffMalformed),
        }
    }

    /// Takes the wrapping off, if it is a member's.
    fn unwrap(&mut self) -> Option<(Handoff, Parsed)> {
        let opened = Handoff::open(&self.frame);
        let parsed = opened.as_ref().map(|(_, _, inner)| self.model.parse(inner));
        let (about, (h, tag, inner)) = match (&parsed, opened) {
            (Some(Parsed::Tcp(p)), Some(opened)) => ((p.flow, p.ack), opened),
            (Some(Parsed::Icmp(flow)), Some(opened)) => ((*flow, 0), opened),
            _ => {
                self.count(Counter::DropHandoffMalformed);
                return None;
            }
        };
        let me = self.model.settings.address;
        let why = match h.verify((&self.model.tables.keys, me), tag, &about.0, about.1, self.clock) {
            Ok(()) => {
                self.frame = inner;
                self.wrapped = Some((NodeId(h.distributor), h.hops));
                return Some((h, parsed?));
            }
            Err(Refusal::Forged) => Counter::DropHandoffForged,
            Err(Refusal::Stale) => Counter::DropHandoffStale,
        };
        self.count(why);
        None
    }

    /// A RST for this node's own socket; or a wrapped packet that has moved its connection away, to be
    /// turned into one.
    pub(super) fn local_reset(&mut self) -> Verdict {
        if !matches!(self.model.parse(&self.frame), Parsed::Wrapped) {
            return Verdict::Stack;
        }
        let Some((_, Parsed::Tcp(p))) = self.unwrap() else { return self.drop(Counter::FaultRewrite) };
        self.renumber(p.seq, p.ack, RST | ACK);
        Verdict::Stack
    }

    /// An ICMP error about a connection: for the stack of the node that has it.
    pub(super) fn icmp(&mut self, flow: Flow) -> Verdict {
        let this = self.model.settings.node;
        let (known, from) = (self.binding_of(&flow), self.sender());
        let to = match known {
            Some(b) => Some(b.owner(this).unwrap_or(this)),
            None if self.model.settings.roles.switch && from.is_none() => self.choice(&flow),
            None => None,
        };
        match to {
            Some(to) if to != this && Some(to) == from => self.drop(Counter::DropLoop),
            Some(to) if to != this => {
                let ttl = ip(&self.frame).map_or(0, |ip| ip.ttl);
                self.forward_frame(&flow, ttl, to, Counter::IcmpForwarded)
            }
            Some(_) if known.is_some() => {
                self.count(Counter::IcmpOwned);
                Verdict::Stack
            }
            _ => self.drop(Counter::DropIcmpUnknown),
        }
    }

    fn handoff(&mut self, p: &Packet, h: &Handoff) -> Verdict {
        if !self.model.settings.roles.server {
            return self.drop(Counter::DropNoRole);
        }
        *self.model.tables.evidence.taken.entry(NodeId(h.distributor)).or_default() += 1;
        let known = self.binding_of(&p.flow);
        let now = self.clock.cluster_ns;
        let not_later = |b: &Binding| !b.is_before(h.issued, now);
        // Repeated, and what it began was over when this node's reader got the connection.
        if known.is_some_and(|b| b.state == State::Reading && not_later(&b)) {
            return self.drop(Counter::DropHandoffStale);
        }
        if let Some(b) = known
            && let Some(node) = b.owner(self.model.settings.node)
            && node != self.model.settings.node
            && b.start_seq == h.start_seq
            && not_later(&b)
        {
            self.count(Counter::HandoffReceived);
            return self.hand_on(&p.flow, h, &b, node);
        }
        self.count(Counter::HandoffReceived);
        let this = self.model.settings.node;
        let known = self.binding_of(&p.flow).filter(|b| b.owner(this).is_some());
        let b = match known {
            None => self.fresh(p, h),
            Some(b) if b.start_seq != h.start_seq && not_later(&b) && b.issued != h.issued => {
                return self.drop(Counter::DropHandoffStale);
            }
            Some(mut b) if b.start_seq != h.start_seq => {
                self.retire(&mut b);
                self.fresh(p, h)
            }
            // The node that was to own it never did; the client's repetition was decided afresh, for us.
            Some(mut b) if b.owner(this) != Some(this) => {
                b.state = State::Bound(this);
                b.flags = 0;
                learn(&mut b, p, h);
                b
            }
            Some(mut b) if b.is_hearsay() => {
                learn(&mut b, p, h);
                b
            }
            Some(b) => {
                // The reader repeats it: the word that it was taken got lost.
                if u32::from(h.flags) & FLAG_REPLAY != 0 && !b.has(FLAG_REPLAY) && b.has(FLAG_CONFIRMED) {
                    let distributor = NodeId(b.distributor);
                    self.events.push(Event::Taken { flow: p.flow, start_seq: b.start_seq, distributor });
                }
                b
            }
        };
        self.own(p, b, false)
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
    b.mss = h.mss;
    b.rtt_ms = h.rtt_ms;
    b.options = h.options;
    b.snd_wscale = h.snd_wscale;
    b.cwnd = h.cwnd;
    b.replay_end = h.replay_end;
    b.flags |= u32::from(h.flags) & (FLAG_REPLAY | FLAG_MOVED);
}
