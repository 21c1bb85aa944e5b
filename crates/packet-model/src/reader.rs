//! Connections that this node's reader has, or is to have.

use baton_http::Fed;

use crate::later::{Doubt, EARLY_MAX, Followed};
use crate::packet::flag::{FIN, RST};
use crate::request::feed;
use crate::{Binding, Event, Packet, Run, Verdict};
use baton_datapath::constants::{
    FLAG_ADOPTED, FLAG_BEHIND, FLAG_FIN_IN, FLAG_FROZEN, FLAG_MOVED, FROZEN_MAX, LASTING_MS,
};
use baton_datapath::{Counter, State};

impl Run<'_> {
    pub(super) fn reading(&mut self, p: &Packet, mut b: Binding, released: bool) -> Verdict {
        let verdict = self.read(p, &mut b, released);
        self.put(p.flow, b);
        verdict
    }

    fn read(&mut self, p: &Packet, b: &mut Binding, released: bool) -> Verdict {
        let carries = !p.payload.is_empty() || p.has(FIN);
        b.seen_ns = self.clock.kernel_ns;
        if (p.has(FIN) || p.has(RST)) && !b.has(FLAG_FIN_IN) && self.is_taken(p, b) {
            b.flags |= FLAG_FIN_IN;
        }
        if b.has(FLAG_FROZEN) {
            // It goes behind the replay; also what user space gave back just before, but not for ever.
            if carries && (!released || b.held < FROZEN_MAX) {
                return self.hold(b, Counter::HeldMore);
            }
            return self.drop(Counter::DropFrozen);
        }
        if b.has(FLAG_BEHIND) && !released {
            if b.waited_enough(self.clock.kernel_ns) {
                b.flags &= !FLAG_BEHIND;
            } else if carries {
                return self.hold(b, Counter::HeldMore);
            }
        }
        // With another ack than the first one's the reader's answer would stand in the wrong place.
        let first = !p.payload.is_empty() && p.seq == b.start_seq && p.ack == b.start_ack;
        if !b.has(FLAG_ADOPTED) && !first {
            self.count(Counter::ReaderPacket);
            let young = b.seen_ns.wrapping_sub(b.since_ns) < u64::from(LASTING_MS) * 1_000_000;
            // It comes again behind the first one, which comes again behind the end of a stale socket.
            if !p.payload.is_empty() && b.tries > 0 && young {
                return Verdict::Drop;
            }
            return self.drop(Counter::DropEarlySegment);
        }
        // What comes behind the first one waits for the socket, which another CPU makes.
        if !p.payload.is_empty()
            && p.seq != b.start_seq
            && !b.has_lasted(self.clock.kernel_ns)
            && !self.model.stack.sockets.contains_key(&p.flow)
            && self.daemon_listens()
        {
            return self.hold(b, Counter::HeldMore);
        }
        if !p.payload.is_empty()
            && self.service(&p.flow).is_some_and(|s| s.strict)
            && let Some(verdict) = self.first_alone(p, b)
        {
            return verdict;
        }
        if b.has(FLAG_ADOPTED) {
            self.count(Counter::ReaderPacket);
            return Verdict::Stack;
        }
        let stale = self.model.stack.sockets.get(&p.flow).copied();
        if let Some(socket) = stale.filter(|s| s.start_seq != Some(b.start_seq)) {
            return self.end_stale_socket(p, b, socket);
        }
        if !self.model.stack.reader {
            return self.drop(Counter::DropNoReader);
        }
        if !self.model.stack.adopts {
            return self.refuse(p, Counter::ResetRefused);
        }
        b.tries = 0;
        b.since_ns = self.clock.kernel_ns;
        b.tsval = p.options.timestamps.map_or(0, |(tsval, _)| tsval);
        b.clock = self.clock_after(p, b);
        b.window = p.window;
        b.flags |= FLAG_ADOPTED;
        self.count(Counter::ReaderAdopted);
        Verdict::Stack
    }

    /// A later request is the reader's: the server's socket ends.
    pub(super) fn read_later(&mut self, p: &Packet, b: &mut Binding) -> Verdict {
        self.leave(p, b);
        // What user space has it still has.
        let before = self.model.tables.exchanges.remove(&p.flow).and_then(|f| f.early);
        if before.is_some() {
            let fresh = Followed { early: before, ..Followed::new(b.start_seq, 0) };
            self.model.tables.exchanges.insert(p.flow, fresh);
        }
        b.flags |= FLAG_MOVED;
        b.snd_end = p.ack;
        b.state = State::Reading;
        b.held = 0;
        self.read(p, b, false)
    }

    fn hold(&mut self, b: &mut Binding, why: Counter) -> Verdict {
        b.held += 1;
        self.count(why);
        Verdict::Redirect
    }

    /// In a strict service the reader gets one request and nothing behind it; `None`: it may have this.
    fn first_alone(&mut self, p: &Packet, b: &mut Binding) -> Option<Verdict> {
        let known = self.model.tables.exchanges.get(&p.flow).copied();
        let known = known.filter(|f| f.start_seq == b.start_seq);
        let mut f = known.unwrap_or_else(|| Followed::new(b.start_seq, 0));
        self.model.tables.exchanges.insert(p.flow, f);
        if f.doubt.is_some() {
            return None;
        }
        let requests = f.messages.requests();
        let over = f.messages.outstanding().asked() > 0 && requests.is_between_messages();
        let end = if over { Some(requests.at()) } else { f.cut_seq };
        let behind = end.filter(|end| p.seq.wrapping_sub(*end) < EARLY_MAX);
        let mut after = f;
        let (fed, again) = feed(&mut after.messages, p.seq, &p.payload);
        let verdict = match (fed, again) {
            (Fed::Old, _) => return None,
            _ if behind.is_some() => {
                f.early = behind.map(|end| (end, p.end_of_payload()));
                Some(self.hold_for_later(b))
            }
            // Nobody will repeat what came before the service wanted its first requests alone.
            (Fed::Gap, _) if self.has_all_before(p) => {
                f.doubt = Some(Doubt::All);
                None
            }
            // What is before it may be on another CPU, or lost.
            (Fed::Gap, _) if p.seq.wrapping_sub(requests.at()) < EARLY_MAX && self.daemon_listens() => {
                f.wait(p);
                Some(self.hold_for_later(b))
            }
            (Fed::Gap, _) => Some(self.drop(Counter::DropGap)),
            (_, Some(at)) => {
                let cut = p.seq.wrapping_add(at as u32);
                f.cut_seq = Some(cut);
                // What is before it is the reader's.
                f.early = f
                    .early
                    .map(|(seq, end)| (if cut.wrapping_sub(seq).cast_signed() > 0 { cut } else { seq }, end));
                Some(self.hold(b, Counter::HeldPipelined))
            }
            (Fed::Doubt(_), None) => {
                f.doubt = Some(Doubt::All);
                None
            }
            (Fed::Followed | Fed::Skipped, None) => {
                f = Followed { early: f.early, ..after };
                f.note_heard(p);
                f.forget_passed();
                // What user space has may go on where this packet ends.
                if f.early.is_some() && f.messages.outstanding().asked() == 0 {
                    self.tell(Event::Idle { flow: p.flow });
                }
                None
            }
        };
        self.model.tables.exchanges.insert(p.flow, f);
        verdict
    }
}
