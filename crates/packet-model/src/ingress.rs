//! The order of decisions for what arrives at a node: the story at the head of `bpf/baton.bpf.c`.

use baton_cluster::{NodeId, Protocol, Sign};

use crate::binding::age_ns;
use crate::cookie::Offer;
use crate::decide::Choice;
use crate::packet::flag::{ACK, FIN, RST, SYN, URG};
use crate::request::Read;
use crate::rewrite::{Reply, checksum_is_right};
use crate::whose::Question;
use crate::{
    Age, Binding, Established, Packet, Parsed, Reach, Run, Socket, Verdict, cookie_age, cookie_of, flow_clock,
};
use baton_datapath::constants::{
    DEAF_MS, FLAG_ADOPTED, FLAG_ASKED, FLAG_ASKED_AGAIN, FLAG_CLOSED, FLAG_CONFIRMED, FLAG_FOLLOWED,
    FLAG_HANDED, FLAG_LEFT, FLAG_MOVED, FLAG_REPEATED, FLAG_REPLAY, FLAG_SYN_SEEN, HANDOFF_AGE_MS,
    OPTION_WSCALE, RCV_WSCALE, RTT_CAP_MS, RTT_UNKNOWN, SYN_REACH, SYNACK_WINDOW, TRIES_MAX, TRIES_MS,
};
use baton_datapath::{Counter, Event, State};

const WINDOW: u16 = SYNACK_WINDOW as u16;

/// As much as the SYN-ACK said, in this connection's scale.
fn scaled_window(b: &Binding) -> u16 {
    if u32::from(b.options) & OPTION_WSCALE != 0 { WINDOW >> RCV_WSCALE } else { WINDOW }
}

impl Run<'_> {
    pub(super) fn ingress(&mut self, released: bool) -> Verdict {
        match self.model.parse(&self.frame) {
            Parsed::Other => Verdict::Next,
            Parsed::Refused(why) => self.drop(why),
            Parsed::Wrapped => self.unwrapped(),
            Parsed::Icmp(flow) => self.icmp(flow),
            Parsed::Tcp(p) => self.for_service(&p, released),
        }
    }

    pub(super) fn for_service(&mut self, p: &Packet, released: bool) -> Verdict {
        if released {
            self.count(Counter::Released);
        }
        let (roles, this) = (self.model.settings.roles, self.model.settings.node);
        let syn = p.has(SYN);
        let possible = if syn { p.flags & (ACK | RST | FIN) == 0 } else { p.flags & (ACK | RST) != 0 };
        if !possible {
            return self.drop(Counter::DropFlags);
        }
        // Urgent data is data: else the server would not get what is read here.
        let calm = Packet { flags: p.flags & !URG, ..p.clone() };
        if p.has(URG) {
            self.renumber(p.seq, p.ack, calm.flags);
        }
        let p = &calm;
        let mut known = self.binding_of(&p.flow);
        // From just before what the binding is about it is a late copy of its own SYN.
        let is_new =
            |b: &Binding| b.has(FLAG_CLOSED) || b.start_seq.wrapping_sub(p.seq).wrapping_sub(1) >= SYN_REACH;
        if let Some(b) = known.as_mut().filter(|b| syn && is_new(b)) {
            b.syn_isn = p.seq;
            b.flags |= FLAG_SYN_SEEN;
            let b = *b;
            self.put(p.flow, b);
        }
        let known = known.filter(|b| !syn && b.is_about(p)).filter(|b| !b.is_nobody(this));
        if let Some(b) = known.filter(|b| b.state == State::Reading) {
            return self.reading(p, b, released);
        }
        let known = known.map(|b| self.give_up_releasing(p, b));
        // While user space gives back what it held, nothing may overtake that: but what carries nothing.
        let passes = known.filter(|b| {
            released || !matches!(b.state, State::Releasing(_)) || (p.payload.is_empty() && !p.has(FIN))
        });
        match passes.and_then(|b| Some((b, b.owner(this)?))) {
            Some((b, node)) if node == this => return self.own(p, b, released),
            Some((b, node)) if self.is_unheard(p, b, node) => return self.decide_again(p),
            Some((b, node)) => {
                // It may have been asked once more.
                let b = self.model.tables.bindings.get(&p.flow).copied().unwrap_or(b);
                return self.elsewhere(p, b, node);
            }
            None => {}
        }
        let settings = self.model.settings;
        let looks = settings.has_switch || roles.switch || !roles.distributor;
        let from = self.sender().filter(|_| looks);
        // Whose server is known needs no distributor, which may have forgotten it.
        let decided = known.is_some_and(|b| b.owner(this).is_some());
        if roles.switch && from.is_none() && !decided {
            if syn {
                self.note_syn(p);
            }
            match self.choice_for(p) {
                None if syn && self.refuses() => return self.refuse_syn(p, Counter::ResetNoDistributor),
                None => return self.drop(Counter::DropNoDistributor),
                Some(to) if to != self.model.settings.node => {
                    return self.forward(p, to, Counter::ForwardedDistributor);
                }
                Some(_) => {}
            }
        }
        if syn {
            return self.syn(p, from);
        }
        match known {
            Some(b) if b.state != State::Open && !b.waited_enough(self.clock.kernel_ns) => {
                self.held(p, b, released)
            }
            Some(b) => self.open(p, b),
            None if roles.distributor || roles.server => self.unknown(p, from, released),
            None => self.drop(Counter::DropNoRole),
        }
    }

    /// What user space has not given back for too long, it never will.
    fn give_up_releasing(&mut self, p: &Packet, mut b: Binding) -> Binding {
        if let State::Releasing(node) = b.state
            && b.waited_enough(self.clock.kernel_ns)
        {
            b.state = State::Bound(node);
            self.put(p.flow, b);
        }
        b
    }

    fn syn(&mut self, p: &Packet, from: Option<NodeId>) -> Verdict {
        if !self.model.settings.roles.distributor {
            return self.drop(Counter::DropNoRole);
        }
        if p.payload.is_empty() && !checksum_is_right(p, &self.frame) {
            return self.drop(Counter::DropChecksum);
        }
        if self.service(&p.flow).is_some_and(|s| s.ending) {
            return self.refuse_syn(p, Counter::ResetEnding);
        }
        let lease = self.lease_of(from).filter(|lease| lease.until.is_zero() || self.holds(lease));
        let Some(lease) = lease else { return self.drop(Counter::DropNoLease) };
        let offer = Offer::of(&p.options, p.flow.vip.is_ipv6());
        let cookie = cookie_of(&self.model.tables.keys, &p.flow, p.seq, offer, lease.term, self.clock);
        let mut p = p.clone();
        // Without timestamps a cookie cannot say every mix of options.
        p.options.wscale = p.options.wscale.filter(|_| offer.wscale.is_some());
        let p = &p;
        self.count(Counter::SynAnswered);
        self.answer(
            p,
            &Reply { seq: cookie, ack: p.seq.wrapping_add(1), flags: SYN | ACK, window: WINDOW, clock: None },
        )
    }

    /// A connection that this node owns.
    pub(super) fn own(&mut self, p: &Packet, mut b: Binding, released: bool) -> Verdict {
        let verdict = self.owned(p, &mut b, released);
        self.put(p.flow, b);
        verdict
    }

    fn owned(&mut self, p: &Packet, b: &mut Binding, released: bool) -> Verdict {
        let carries = !p.payload.is_empty();
        let strict = self.service(&p.flow).is_some_and(|s| s.strict);
        if carries && p.seq == b.start_seq && !b.has(FLAG_CONFIRMED | FLAG_CLOSED) {
            if p.ack == b.start_ack {
                return self.take(p, b);
            }
            // With another ack it is not what the connection was bound by.
            if !strict || released {
                return self.drop(Counter::DropEarlySegment);
            }
        }
        // The first one is about to be adopted: what comes behind it waits.
        let is_made = self.model.stack.sockets.contains_key(&p.flow);
        if carries && strict && !b.has(FLAG_CONFIRMED | FLAG_CLOSED) && !is_made {
            if let Some(verdict) = self.behind_the_first(p, b) {
                return verdict;
            }
            // Another CPU is about to follow the first one; but never for ever.
            if (released && b.has_lasted(self.clock.kernel_ns)) || !self.daemon_listens() {
                return self.drop(Counter::DropEarlySegment);
            }
            return self.hold_more(b);
        }
        if strict {
            // Of what user space gives back it has said so before.
            if !(released && carries) {
                self.heard(p, b);
            }
            if b.state != State::Asking
                && let Some(verdict) = self.early_fin(p, b)
            {
                return verdict;
            }
        }
        if self.is_ahead_of_adoption(p, b) {
            return self.drop(Counter::DropEarlySegment);
        }
        if carries && self.service(&p.flow).is_some_and(|s| s.follows) {
            if b.state == State::Asking {
                if !b.waited_enough(self.clock.kernel_ns) {
                    return self.hold_more(b);
                }
                b.state = State::Bound(self.model.settings.node);
            }
            if let Some(verdict) = self.later(p, b, released) {
                return verdict;
            }
        }
        self.count(Counter::Owned);
        if !Self::is_news(p, b) || self.is_taken(p, b) {
            self.track_in(p, b);
        }
        Verdict::Stack
    }

    /// Whether the packet came before the one that makes the socket: its listener would answer with a RST.
    fn is_ahead_of_adoption(&self, p: &Packet, b: &Binding) -> bool {
        let passed = self.clock.kernel_ns.saturating_sub(b.since_ns);
        !b.has(FLAG_CONFIRMED | FLAG_CLOSED)
            && !p.has(RST)
            && (!p.payload.is_empty() || p.has(FIN))
            && passed <= u64::from(HANDOFF_AGE_MS) * 1_000_000
            && !self.model.stack.sockets.contains_key(&p.flow)
    }

    /// The first data packet of a connection that this node is to have.
    fn take(&mut self, p: &Packet, b: &mut Binding) -> Verdict {
        let known = b.has(FLAG_ADOPTED);
        // What comes behind the request may not be this server's: user space parts them.
        let strict = self.service(&p.flow).is_some_and(|s| s.strict);
        let again = strict && b.has(FLAG_FOLLOWED);
        b.flags |= if strict { FLAG_FOLLOWED } else { 0 };
        if again && !self.is_followed(&p.flow, b) {
            return self.drop(Counter::DropBusy);
        }
        if !again && !known && !self.follow_from(p, b) {
            b.flags &= !FLAG_FOLLOWED;
            if !self.daemon_listens() {
                return self.drop(Counter::DropEarlyRequest);
            }
            return self.hold_for_later(b);
        }
        // Again, and longer, before the socket has spoken: it may be the next request that is new.
        if again && self.says_more(p, b) {
            return self.drop(Counter::DropEarlyRequest);
        }
        let verdict = self.adopt(p, b);
        if !known && b.has(FLAG_ADOPTED) {
            // Who handed it off knows; when it has moved, the first one must be told.
            let moved = b.has(FLAG_MOVED);
            let this = self.model.settings.node;
            self.tell(Event::Bound {
                flow: p.flow,
                start_seq: b.start_seq,
                server: this,
                issued: b.issued,
                distributor: if moved { NodeId(b.distributor) } else { this },
            });
        }
        verdict
    }

    fn adopt(&mut self, p: &Packet, b: &mut Binding) -> Verdict {
        if let Some(socket) = self.model.stack.sockets.get(&p.flow).copied() {
            if socket.start_seq == Some(b.start_seq) {
                self.count(Counter::AdoptAgain);
                return Verdict::Stack;
            }
            return self.end_stale_socket(p, b, socket);
        }
        if !self.model.stack.listeners.contains(&(p.flow.vip, p.flow.vip_port)) {
            self.failed(p.flow, Sign::NobodyListens, false);
            self.close(p.flow, b);
            return self.refuse(p, Counter::ResetNoListener);
        }
        if !self.model.stack.adopts {
            self.failed(p.flow, Sign::Refused, false);
            self.close(p.flow, b);
            return self.refuse(p, Counter::ResetRefused);
        }
        let rcv_nxt = p.seq.wrapping_add(p.payload.len() as u32);
        let (write_seq, snd_nxt) = (b.start_ack, b.start_ack);
        let established = Some(Established { write_seq, snd_nxt, out_of_order: false, cwnd: 0, rtt_ms: 0 });
        let reach =
            Reach { window: WINDOW.into(), snd_una: b.start_ack, snd_nxt, max_window: p.window.into() };
        let socket = Socket { start_seq: Some(b.start_seq), rcv_nxt, reach: Some(reach), established };
        self.model.stack.sockets.insert(p.flow, socket);
        b.clock = self.clock_for(p, b.rtt_ms);
        b.tries = 0;
        if !b.has(FLAG_ADOPTED) {
            b.since_ns = self.clock.kernel_ns;
        } else if age_ns(self.clock.kernel_ns, b.since_ns) > u64::from(TRIES_MS) * 1_000_000 {
            b.since_ns = self.clock.kernel_ns;
            b.flags |= FLAG_REPEATED;
            self.failed(p.flow, Sign::NeverBegins, false);
        }
        b.snd_end = b.start_ack;
        b.flags |= FLAG_ADOPTED;
        self.count(Counter::Adopted);
        self.track_in(p, b);
        Verdict::Stack
    }

    pub(super) fn end_stale_socket(&mut self, p: &Packet, b: &mut Binding, socket: Socket) -> Verdict {
        let passed = self.clock.kernel_ns.saturating_sub(b.since_ns);
        if u32::from(b.tries) >= TRIES_MAX && passed > u64::from(TRIES_MS) * 1_000_000 {
            b.tries = 0;
            b.since_ns = self.clock.kernel_ns;
        }
        if u32::from(b.tries) >= TRIES_MAX {
            return self.drop(Counter::DropStaleSocket);
        }
        b.tries += 1;
        self.renumber(socket.rcv_nxt, p.ack, RST | ACK);
        self.without_options();
        self.count(Counter::StaleSocketEnded);
        Verdict::Stack
    }

    fn elsewhere(&mut self, p: &Packet, mut b: Binding, node: NodeId) -> Verdict {
        b.seen_ns = self.clock.kernel_ns;
        // Its end is the owner's to tell; the load of a short one is given back at once.
        if (p.has(FIN) || p.has(RST)) && Self::is_near_start(p, &b) && !b.has(FLAG_LEFT) {
            b.flags |= FLAG_LEFT;
            self.unassign(&b);
        }
        let carries = !p.payload.is_empty() && !b.is_hearsay();
        let old = (p.seq.wrapping_sub(b.start_seq)).cast_signed() < 0;
        // Whoever sent it: its owner-to-be, too, when the handoff packet was lost. With another ack it
        // would not be the packet that the move was made of.
        let gone = self.model.tables.loads.get(&node).is_some_and(|load| load.gone);
        let verdict = if carries && p.seq == b.start_seq && p.ack == b.start_ack && !gone {
            self.hand_off(p, &mut b, node)
        } else if carries && b.has(FLAG_MOVED) && old {
            self.answer_old(p, &b)
        } else if self.sender() == Some(node) {
            self.drop(Counter::DropLoop)
        } else if gone && p.has(ACK) && !p.has(RST) {
            self.refuse(p, Counter::ResetNodeGone)
        } else {
            self.forward(p, node, Counter::ForwardedBinding)
        };
        self.put(p.flow, b);
        verdict
    }

    /// What the socket here had taken before the connection moved: its ACK was lost, and nobody else has
    /// one for it. The owner's clock may be behind the flow's: the client hears none that it has not heard.
    fn answer_old(&mut self, p: &Packet, b: &Binding) -> Verdict {
        self.count(Counter::OldAnswered);
        let window = scaled_window(b);
        let clock = p.options.timestamps.map(|(_, tsecr)| tsecr);
        self.answer(p, &Reply { seq: b.start_ack, ack: b.start_seq, flags: ACK, window, clock })
    }

    fn held(&mut self, p: &Packet, mut b: Binding, released: bool) -> Verdict {
        if p.has(RST) {
            if !Self::is_near_start(p, &b) {
                return self.drop(Counter::DropBlindReset);
            }
            self.model.tables.bindings.remove(&p.flow);
            return self.drop(Counter::OpenReset);
        }
        if p.payload.is_empty() && !p.has(FIN) {
            return self.drop(Counter::DropHeldAck);
        }
        // Given back too late: never for ever.
        if released {
            return self.drop(Counter::DropEarlySegment);
        }
        let verdict = self.hold_more(&mut b);
        self.put(p.flow, b);
        verdict
    }

    /// One packet more for user space.
    fn hold_more(&mut self, b: &mut Binding) -> Verdict {
        b.held += 1;
        self.count(Counter::HeldMore);
        Verdict::Redirect
    }

    fn open(&mut self, p: &Packet, mut b: Binding) -> Verdict {
        if p.has(RST) {
            if !Self::is_near_start(p, &b) {
                return self.drop(Counter::DropBlindReset);
            }
            self.model.tables.bindings.remove(&p.flow);
            return self.drop(Counter::OpenReset);
        }
        b.seen_ns = self.clock.kernel_ns;
        self.put(p.flow, b);
        if !p.payload.is_empty() && p.seq == b.start_seq {
            return self.first_request(p, b);
        }
        if p.seq == b.start_seq.wrapping_sub(1) && p.payload.len() <= 1 {
            // RFC 9293 3.8.4. The window is what the SYN-ACK said, in this connection's scale.
            self.count(Counter::KeepaliveAnswered);
            let window = scaled_window(&b);
            return self
                .answer(p, &Reply { seq: b.start_ack, ack: b.start_seq, flags: ACK, window, clock: None });
        }
        // What comes before the bytes in front of it, data or FIN, must come again behind them.
        if !p.payload.is_empty() || (p.has(FIN) && p.seq != b.start_seq) {
            if self.model.tables.may_decide(&b, self.clock) {
                return self.drop(Counter::DropEarlySegment);
            }
            // Whoever decides now may have taken what comes before.
            self.model.tables.bindings.remove(&p.flow);
            return self.ask_whose(p, None, Question::Whose, Counter::ResetUnknown);
        }
        if p.has(FIN) {
            return self.answer_fin(p);
        }
        self.drop(Counter::HandshakeAck)
    }

    fn answer_fin(&mut self, p: &Packet) -> Verdict {
        self.model.tables.bindings.remove(&p.flow);
        self.count(Counter::FinAnswered);
        let window = WINDOW >> RCV_WSCALE;
        self.answer(
            p,
            &Reply { seq: p.ack, ack: p.seq.wrapping_add(1), flags: FIN | ACK, window, clock: None },
        )
    }

    /// Whether the packet is the first one, again, of a connection that this node has decided for a node that
    /// is down, and was asked once more since: its client has heard nothing of either.
    fn is_unheard(&mut self, p: &Packet, mut b: Binding, node: NodeId) -> bool {
        let first = !p.payload.is_empty() && p.seq == b.start_seq && p.ack == b.start_ack;
        let ours = b.distributor == self.model.settings.node.0 || b.has(FLAG_MOVED);
        let handed = matches!(b.state, State::Bound(_)) && b.has(FLAG_HANDED) && !b.has(FLAG_REPLAY);
        if !first || !ours || !handed || b.is_hearsay() {
            return false;
        }
        let load = self.model.tables.loads.get(&node).copied().unwrap_or_default();
        if load.live || !self.is_repeatable(p) {
            return false;
        }
        if load.gone {
            return true;
        }
        if b.has(FLAG_ASKED_AGAIN) {
            return self.clock.kernel_ns.saturating_sub(b.since_ns) > u64::from(DEAF_MS) * 1_000_000;
        }
        b.flags |= FLAG_ASKED_AGAIN;
        b.since_ns = self.clock.kernel_ns;
        self.put(p.flow, b);
        false
    }

    /// RFC 9110 9.2.1: GET and HEAD are safe. A ClientHello is no request.
    fn is_repeatable(&self, p: &Packet) -> bool {
        match self.service(&p.flow).map(|s| s.protocol) {
            Some(Protocol::Tls) => true,
            Some(Protocol::Http) => {
                p.payload.starts_with(b"GET ") && p.payload.len() >= 5 || p.payload.starts_with(b"HEAD ")
            }
            _ => false,
        }
    }

    fn decide_again(&mut self, p: &Packet) -> Verdict {
        let Some(mut b) = self.binding_of(&p.flow) else { return self.drop(Counter::FaultMap) };
        if !self.model.tables.may_decide(&b, self.clock) {
            return self.drop(Counter::DropNoLease);
        }
        b.flags &= !(FLAG_HANDED | FLAG_ASKED_AGAIN | FLAG_LEFT);
        b.state = State::Open;
        self.count(Counter::DecidedAgain);
        self.put(p.flow, b);
        self.decide_first(p, b)
    }

    fn first_request(&mut self, p: &Packet, b: Binding) -> Verdict {
        if self.must_ask(&b) {
            // Known from when it was this node's own.
            self.model.tables.bindings.remove(&p.flow);
            return self.ask_whose(p, None, Question::Heir, Counter::ResetUnknown);
        }
        if self.is_left(&b) {
            self.model.tables.bindings.remove(&p.flow);
            return self.ask_whose(p, None, Question::Whose, Counter::ResetUnknown);
        }
        if !self.model.tables.may_decide(&b, self.clock) {
            self.put(p.flow, b);
            return self.drop(Counter::DropNoLease);
        }
        self.decide_first(p, b)
    }

    fn decide_first(&mut self, p: &Packet, mut b: Binding) -> Verdict {
        self.count(Counter::RequestFirst);
        b.start_seq = p.seq;
        b.seen_ns = self.clock.kernel_ns;
        b.since_ns = self.clock.kernel_ns;
        let verdict = match self.first_choice(p) {
            First::Read => {
                b.state = State::Reading;
                b.issued = b.issued_after(self.clock.cluster_ns);
                return self.reading(p, b, false);
            }
            First::Decided(Choice::NobodyAlive) => self.refuse(p, Counter::ResetNoServer),
            First::Decided(Choice::NoServer) => self.drop(Counter::DropNoServer),
            First::Decided(Choice::Hold(why)) => {
                b.state = State::Held;
                b.held = 1;
                self.count(why);
                Verdict::Redirect
            }
            First::Decided(Choice::Server(server, why)) => {
                self.count(why);
                return self.bind(p, b, server);
            }
        };
        self.put(p.flow, b);
        verdict
    }

    fn first_choice(&mut self, p: &Packet) -> First {
        let Some(service) = self.service(&p.flow).cloned() else { return First::Decided(Choice::NoServer) };
        let listens = self.daemon_listens();
        match service.protocol {
            Protocol::Http => {}
            Protocol::Tls if listens => return First::Decided(Choice::Hold(Counter::HeldHello)),
            Protocol::Tls => return First::Decided(Choice::NoServer),
            Protocol::Tcp => {
                let pool = service.choose(None);
                return First::Decided(pool.map_or(Choice::NoServer, |pool| self.decide(None, pool)));
            }
        }
        let mut read = Read::first(&p.payload, service.wants_heads());
        let is_there = |r: &Read| if service.wants_heads() { r.whole } else { r.line };
        if let Some(r) = &read
            && !is_there(r)
        {
            if listens {
                return First::Read;
            }
            read = None; // half a head is not to be decided by
        }
        let silent = |why| if listens { Choice::Hold(why) } else { Choice::NoServer };
        let several = read.as_ref().is_some_and(|r| r.again.is_some());
        First::Decided(if service.strict && several {
            silent(Counter::HeldPipelined)
        } else {
            match service.choose(read.as_ref()) {
                Some(pool) => self.decide(read.as_ref(), pool),
                None => silent(Counter::HeldHead),
            }
        })
    }

    fn bind(&mut self, p: &Packet, mut b: Binding, server: NodeId) -> Verdict {
        if let Some(load) = self.model.tables.loads.get_mut(&server) {
            load.assigned = load.assigned.wrapping_add(1);
        }
        b.state = State::Bound(server);
        b.issued = b.issued_after(self.clock.cluster_ns);
        if server == self.model.settings.node {
            self.count(Counter::HandoffLocal);
            return self.own(p, b, false);
        }
        let verdict = self.hand_off(p, &mut b, server);
        self.put(p.flow, b);
        verdict
    }

    /// The first data packet, or its repetition, goes to the owner as a handoff packet.
    fn hand_off(&mut self, p: &Packet, b: &mut Binding, to: NodeId) -> Verdict {
        self.count(if b.has(FLAG_HANDED) { Counter::HandoffAgain } else { Counter::HandoffSent });
        b.flags |= FLAG_HANDED;
        self.send_handoff(p, b, to)
    }

    fn unknown(&mut self, p: &Packet, from: Option<NodeId>, released: bool) -> Verdict {
        let (roles, keys) = (self.model.settings.roles, self.model.tables.keys);
        let acknowledges = p.has(ACK) && !p.has(RST);
        let lease = if roles.distributor && acknowledges { self.proven(p, from) } else { None };
        let Some(lease) = lease else {
            if roles.server && self.model.stack.sockets.contains_key(&p.flow) {
                return self.unfollowed(p);
            }
            if p.has(RST) {
                return self.drop(Counter::DropUnknownReset);
            }
            let age = self.lease_of(from).and_then(|mine| cookie_age(&keys, p, mine.term, self.clock));
            let expired = roles.distributor && p.has(ACK) && age == Some(Age::Expired);
            let alone = if expired { Counter::ResetExpired } else { Counter::ResetUnknown };
            let question = if released { Question::Again } else { Question::Whose };
            return self.ask_whose(p, from, question, alone);
        };
        let carries = !p.payload.is_empty();
        // A distributor that is gone may have decided it: nothing is done before that is known.
        if lease.is_heir && !(released && carries) {
            return if carries || p.has(FIN) {
                self.ask_whose(p, from, Question::Heir, Counter::ResetUnknown)
            } else {
                self.drop(Counter::HandshakeAck)
            };
        }
        let is_same = |b: &Binding| (b.start_seq, b.start_ack) == (p.seq, p.ack);
        let there = self.binding_of(&p.flow).is_some_and(|b| is_same(&b));
        if let Some(mut old) = self.model.tables.bindings.get(&p.flow).copied().filter(|_| !there) {
            self.retire(&mut old);
            self.put(p.flow, old);
        }
        let mut b = self.describe(p, lease.term);
        b.flags |= if lease.is_heir { FLAG_ASKED } else { 0 };
        if !p.payload.is_empty() {
            return self.first_request(p, b);
        }
        if p.has(FIN) {
            return self.answer_fin(p);
        }
        if !there {
            self.put(p.flow, b);
        }
        self.drop(Counter::HandshakeAck)
    }

    /// What a packet with a good cookie says of its connection.
    fn describe(&self, p: &Packet, term: u32) -> Binding {
        let stamps = p.options.timestamps.is_some();
        let offer = Offer::in_cookie(p.ack.wrapping_sub(1), stamps, p.flow.vip.is_ipv6());
        let clock = flow_clock(&self.model.tables.keys, &p.flow, self.clock);
        // Only a bare ACK comes at once; data may have waited for the client's user.
        let rtt = p.options.timestamps.filter(|_| p.payload.is_empty());
        let rtt = rtt.map_or(RTT_UNKNOWN, |(_, echo)| clock.wrapping_sub(echo).min(RTT_CAP_MS));
        Binding {
            seen_ns: self.clock.kernel_ns,
            since_ns: self.clock.kernel_ns,
            start_ack: p.ack,
            snd_end: p.ack,
            distributor: self.model.settings.node.0,
            mss: offer.mss,
            rtt_ms: rtt as u16,
            options: offer.agreed(),
            snd_wscale: offer.wscale.unwrap_or(0),
            term,
            ..Binding::unknown(p.seq, State::Open)
        }
    }
}

/// What is to be done about the first request of a connection.
enum First {
    /// The reader reads its head.
    Read,
    Decided(Choice),
}
