//! Later requests of a connection that this node serves: what is followed of its messages, and which of
//! its requests stay, move, wait or are asked about.

use baton_cluster::{Flow, NodeId, PHttp, PoolId};
use baton_http::{Exchange, Fed, Follower, OUTSTANDING_MAX, Outstanding, Reason};

use crate::binding::age_ns;
use crate::decide::Choice;
use crate::egress::Sent;
use crate::packet::flag::{FIN, RST};
use crate::request::{Judged, Read, empty_lines, feed, judge};
use crate::rewrite::Reply;
use crate::{Binding, Packet, Run, Service, Verdict};
use baton_datapath::constants::{
    CWND_FRESH_MS, FLAG_FIN_OUT, FLAG_HANDED, FLAG_MOVED, FLAG_SYN_SEEN, NODE_READER, RTT_CAP_MS,
};
use baton_datapath::{Counter, Event, GuideKind, State};

/// What the owner follows of a connection (`struct exchange`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Followed {
    /// Of the binding that it belongs to.
    pub start_seq: u32,
    /// Both directions.
    pub messages: Exchange,
    /// Why it is not followed as it should be, if so.
    pub doubt: Option<Doubt>,
    /// A request's first byte, and the server that user space names for it.
    pub decided: Option<(u32, NodeId)>,
    /// Where the next request begins in the packet that waits, when it must not go along.
    pub cut_seq: Option<u32>,
    /// User space has packets from here on, until the connection takes them, and the end of them.
    pub early: Option<(u32, u32)>,
    /// What the client has said last, in a strict service.
    pub heard: Heard,
}

/// Why a connection's messages are not followed as they should be (`enum doubt`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// Nothing is followed any more.
    All,
    /// Strict: the responses cannot be read, the requests can.
    Responses,
    /// Strict: nobody knows where the request that the server has ends.
    Broken,
    /// Strict: the server has taken up a protocol that it may not.
    Refused,
}

/// The fields of a packet that say what the client has got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "said once, in the header")]
pub struct Heard {
    pub ack: u32,
    pub window: u16,
    pub timestamps: Option<(u32, u32)>,
}

impl Followed {
    /// A connection whose first bytes are these.
    pub fn new(start_seq: u32, start_ack: u32) -> Self {
        let messages = Exchange::new(start_seq, start_ack);
        Self {
            start_seq,
            messages,
            doubt: None,
            decided: None,
            cut_seq: None,
            early: None,
            heard: Heard { ack: start_ack, ..Heard::default() },
        }
    }
}

/// What a [`Followed`] and the programs' entry both say, to be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "said once, in the header")]
pub struct Messages {
    pub start_seq: u32,
    pub requests: Direction,
    pub responses: Direction,
    pub asked: u32,
    pub answered: u32,
    pub heads: u32,
    pub upgrades: u32,
    pub closing: bool,
    pub decided: Option<(u32, NodeId)>,
    pub cut_seq: Option<u32>,
    pub early: Option<(u32, u32)>,
    pub heard: Heard,
    pub doubt: Option<Doubt>,
}

/// One direction of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "said once, in the header")]
pub struct Direction {
    pub phase: u32,
    pub at: u32,
    pub boundary: u32,
    pub left: u64,
}

impl Followed {
    /// Its present state.
    pub fn messages(&self) -> Messages {
        let direction = |f: &Follower| Direction {
            phase: f.phase() as u32,
            at: f.at(),
            boundary: f.boundary(),
            left: f.left(),
        };
        let outstanding = self.messages.outstanding();
        Messages {
            start_seq: self.start_seq,
            requests: direction(self.messages.requests()),
            responses: direction(self.messages.responses()),
            asked: outstanding.asked(),
            answered: outstanding.answered(),
            heads: outstanding.heads(),
            upgrades: outstanding.upgrades(),
            closing: self.messages.is_closing(),
            decided: self.decided,
            cut_seq: self.cut_seq,
            early: self.early,
            heard: self.heard,
            doubt: self.doubt,
        }
    }
}

/// Bytes that may wait for a connection to take them.
pub(super) const EARLY_MAX: u32 = 1 << 20;

/// What becomes of a later request.
enum Later {
    Stays,
    Moves(NodeId),
    /// User space decides.
    Asked(Counter),
    /// Not before the connection is idle: the client repeats it.
    Waits,
    /// The reader reads its head.
    Read,
}

impl Followed {
    /// User space gets this packet, too.
    pub(super) fn wait(&mut self, p: &Packet) {
        let end = p.end();
        let later = |a: u32, b: u32| if a.wrapping_sub(b).cast_signed() > 0 { a } else { b };
        let earlier = |a: u32, b: u32| if a.wrapping_sub(b).cast_signed() < 0 { a } else { b };
        self.early = match self.early {
            None => Some((p.seq, end)),
            Some((seq, until)) => Some((earlier(p.seq, seq), later(end, until))),
        };
    }

    pub(super) fn note_heard(&mut self, p: &Packet) {
        self.heard = Heard { ack: p.ack, window: p.window, timestamps: p.options.timestamps };
    }

    /// Nothing waits any more that has passed.
    pub(super) fn forget_passed(&mut self) {
        let at = self.messages.requests().at();
        self.early = self.early.filter(|(_, until)| at.wrapping_sub(*until).cast_signed() < 0);
    }
}

impl Run<'_> {
    /// Whether the packet holds something of a followed connection that has not been looked at.
    pub(super) fn says_more(&self, p: &Packet, b: &Binding) -> bool {
        let followed = self.followed(&p.flow, b).filter(|f| f.doubt.is_none());
        followed.is_some_and(|f| p.end_of_payload().wrapping_sub(f.messages().requests.at).cast_signed() > 0)
    }

    pub(super) fn is_followed(&self, flow: &Flow, b: &Binding) -> bool {
        self.model.tables.exchanges.get(flow).is_some_and(|f| f.start_seq == b.start_seq)
    }

    fn followed(&self, flow: &Flow, b: &Binding) -> Option<Followed> {
        let known = self.model.tables.exchanges.get(flow).copied();
        known.filter(|f| f.start_seq == b.start_seq && f.doubt != Some(Doubt::All))
    }

    fn keep(&mut self, flow: Flow, f: Followed) {
        self.model.tables.exchanges.insert(flow, f);
    }

    /// Whether this node's server may have a request.
    fn is_own(&self, service: &Service, read: &Read) -> bool {
        let pool = service.choose(Some(read)).and_then(|id| self.model.tables.pools.get(&id));
        pool.is_some_and(|pool| pool.servers.contains(&self.model.settings.node))
    }

    /// Takes a packet of the client, as its service wants it looked at.
    fn look(&self, service: &Service, messages: &mut Exchange, p: &Packet, fresh: bool) -> Judged {
        if service.strict {
            return judge(messages, p.seq, &p.payload, fresh, |read| self.is_own(service, read));
        }
        let (fed, _) = feed(messages, p.seq, &p.payload);
        Judged { fed, cut: None, broken: false }
    }

    /// Begins to follow a connection with its first packet, whose first request is this node's. `false`:
    /// something comes behind it that may be another's.
    pub(super) fn follow_from(&mut self, p: &Packet, b: &Binding) -> bool {
        let Some(service) = self.service(&p.flow).filter(|s| s.follows).cloned() else { return true };
        let before = self.followed(&p.flow, b);
        let mut f = Followed::new(b.start_seq, b.start_ack);
        f.note_heard(p);
        // User space may have what comes behind this, which it has cut off.
        f.early = before.and_then(|before| before.early);
        let mut after = f.messages;
        let Judged { fed, cut, broken } = self.look(&service, &mut after, p, true);
        if broken || fed != Fed::Followed {
            f.doubt = Some(if broken { Doubt::Broken } else { Doubt::All });
            self.count(Counter::MoveDoubt);
        }
        match cut {
            Some(at) => {
                f.cut_seq = Some(p.seq.wrapping_add(at as u32));
                f.early = Some((p.seq, p.end_of_payload()));
            }
            None => {
                f.messages = after;
                f.forget_passed();
            }
        }
        self.keep(p.flow, f);
        cut.is_none()
    }

    /// User space is asked about the next request of a connection that this node serves.
    pub(super) fn ask(&mut self, b: &mut Binding, why: Counter) -> Verdict {
        b.state = State::Asking;
        b.since_ns = self.clock.kernel_ns;
        b.held = 1;
        self.count(why);
        Verdict::Redirect
    }

    /// The server has sent something.
    pub(super) fn follow_response(&mut self, s: &Sent, b: &Binding) {
        let Some(mut f) = self.followed(&s.flow, b).filter(|f| f.doubt.is_none()) else { return };
        let outstanding = *f.messages.outstanding();
        let half = |o: &Outstanding| o.asked().wrapping_sub(o.answered()) <= OUTSTANDING_MAX / 2;
        let was_full = !half(&outstanding);
        let strict = self.service(&s.flow).is_some_and(|s| s.strict);
        match f.messages.response(s.seq, &s.payload) {
            Fed::Old => return,
            Fed::Followed | Fed::Skipped => {}
            _ if !strict => f.doubt = Some(Doubt::All),
            // HTTP/2 would hide its requests; what else the client has asked for is not ours to read.
            Fed::Doubt(Reason::Upgrade) if f.messages.outstanding().next_may_upgrade() => {
                f.doubt = Some(Doubt::All);
            }
            Fed::Doubt(Reason::Upgrade) => f.doubt = Some(Doubt::Refused),
            // The server's own stack leaves no gaps: what was not seen is not known.
            Fed::Gap | Fed::Doubt(_) => {
                f.doubt = Some(Doubt::Responses);
                f.messages.without_responses();
            }
        }
        if f.doubt.is_none() && f.early.is_some() && was_full && half(f.messages.outstanding()) {
            self.tell(Event::Idle { flow: s.flow });
        }
        self.keep(s.flow, f);
    }

    /// A packet with payload of a connection that this node serves; `None`: to its server.
    pub(super) fn later(&mut self, p: &Packet, b: &mut Binding, released: bool) -> Option<Verdict> {
        let service = self.service(&p.flow)?.clone();
        let mut f = self.followed(&p.flow, b).filter(|_| !b.has(FLAG_FIN_OUT))?;
        let strict = service.strict;
        if let Some(doubt @ (Doubt::Broken | Doubt::Refused)) = f.doubt {
            return self.behind_doubt(p, b, &f, doubt, released);
        }
        f.messages.expect_no_responses();
        // User space has had it, and has said all that it can.
        let answered = released && f.decided.is_some_and(|(seq, _)| seq == p.seq);
        let mut after = f;
        let requests = f.messages.requests();
        let boundary = p.seq == requests.at() && requests.is_between_messages();
        let idle = boundary && f.messages.is_idle() && p.ack == f.messages.responses().at();
        let Judged { fed, cut, broken } = self.look(&service, &mut after.messages, p, false);
        // Empty lines are for the server that has the connection.
        let begin = empty_lines(&p.payload);
        let doubt = matches!(fed, Fed::Doubt(_));
        if fed == Fed::Old || fed == Fed::Gap {
            let ahead = p.seq.wrapping_sub(f.messages.requests().at());
            self.keep(p.flow, f);
            return match fed {
                // Nobody will repeat what came while the service did not follow.
                Fed::Gap if self.has_all_before(p) => self.outside_messages(p, f),
                Fed::Gap if strict && ahead < EARLY_MAX && self.daemon_listens() => {
                    Some(self.hold_early(p, b, f))
                }
                Fed::Gap => Some(self.drop(Counter::DropGap)),
                _ => None,
            };
        }
        if doubt && !strict {
            return self.outside_messages(p, f);
        }
        // Empty lines, and no request behind them yet: whoever has the connection may have them.
        if boundary && begin == p.payload.len() {
            after.cut_seq = None;
            after.forget_passed();
            self.keep(p.flow, after);
            // They bring no answer that says so: what user space has may go on behind them.
            if after.early.is_some() {
                self.tell(Event::Idle { flow: p.flow });
            }
            return None;
        }
        let then = match (boundary, doubt) {
            (false, _) => Later::Stays,
            // Too many are unanswered.
            (true, _) if cut == Some(0) => Later::Waits,
            (true, true) if idle => Later::Read,
            (true, true) => Later::Waits,
            (true, false) if begin > 0 => Later::Stays,
            (true, false) => self.place(p, &service, &f, idle),
        };
        self.keep(p.flow, f);
        self.fate(p, b, &service, Fate { then, idle, answered, released, cut, broken, f, after })
    }

    /// In a strict service, behind what nobody can read: nothing of it is for this server.
    fn behind_doubt(
        &mut self,
        p: &Packet,
        b: &mut Binding,
        f: &Followed,
        doubt: Doubt,
        released: bool,
    ) -> Option<Verdict> {
        // The byte that brought the doubt went along.
        let end = f.messages.requests().at().wrapping_add(u32::from(doubt == Doubt::Broken));
        if p.end_of_payload().wrapping_sub(end).cast_signed() <= 0 {
            return None;
        }
        Some(if released { self.drop(Counter::DropDoubt) } else { self.condemn(p, b) })
    }

    /// The connection ends, because no other server may go on with it, nor may this one.
    fn condemn(&mut self, p: &Packet, b: &mut Binding) -> Verdict {
        self.close(p.flow, b);
        self.model.stack.sockets.remove(&p.flow);
        self.count(Counter::ResetDoubt);
        // Behind what is on its way to the client.
        let seq = if b.snd_end.wrapping_sub(p.ack).cast_signed() > 0 { b.snd_end } else { p.ack };
        self.answer(p, &Reply { seq, ack: 0, flags: RST, window: 0, clock: None })
    }

    /// For a socket whose binding is lost. Nobody knows any more where its requests begin, and in a strict service
    /// the next one may be another pool's: then the connection ends, once all is answered.
    pub(super) fn unfollowed(&mut self, p: &Packet) -> Verdict {
        let strict = self.service(&p.flow).is_some_and(|s| s.strict);
        let socket = self.model.stack.sockets.get(&p.flow).copied();
        let Some((socket, s)) = socket.and_then(|socket| Some((socket, socket.established?))) else {
            self.count(Counter::OwnedUnbound);
            return Verdict::Stack;
        };
        let end = p.seq.wrapping_add(p.payload.len() as u32);
        let taken = socket.rcv_nxt.wrapping_sub(end).cast_signed() >= 0;
        if !strict || p.payload.is_empty() || p.has(RST) || taken {
            self.count(Counter::OwnedUnbound);
            return Verdict::Stack;
        }
        if socket.rcv_nxt != p.seq || s.snd_nxt != p.ack || s.write_seq != p.ack || s.out_of_order {
            return self.drop(Counter::DropDoubt);
        }
        self.model.stack.sockets.remove(&p.flow);
        self.count(Counter::ResetDoubt);
        self.answer(p, &Reply { seq: p.ack, ack: 0, flags: RST, window: 0, clock: None })
    }

    /// Whether the server's socket has everything that comes before this packet.
    pub(super) fn has_all_before(&self, p: &Packet) -> bool {
        let socket = self.model.stack.sockets.get(&p.flow).filter(|s| s.start_seq.is_some());
        socket.is_some_and(|s| s.rcv_nxt.wrapping_sub(p.seq).cast_signed() >= 0)
    }

    /// The connection stays, for ever.
    fn outside_messages(&mut self, p: &Packet, f: Followed) -> Option<Verdict> {
        self.keep(p.flow, Followed { doubt: Some(Doubt::All), ..f });
        self.count(Counter::MoveDoubt);
        None
    }

    fn fate(&mut self, p: &Packet, b: &mut Binding, service: &Service, fate: Fate) -> Option<Verdict> {
        let Fate { mut then, idle, answered, released, cut, broken, mut f, mut after } = fate;
        if answered && matches!(then, Later::Asked(_)) {
            then = if service.strict { Later::Waits } else { Later::Stays };
        }
        match then {
            Later::Stays => {}
            Later::Moves(to) => match self.move_to(p, b, to) {
                Some(verdict) => {
                    // User space may have got something since it gave this back.
                    if f.early.is_some() {
                        self.tell(Event::Idle { flow: p.flow });
                    }
                    return Some(verdict);
                }
                None if service.strict && answered => {
                    return Some(self.wait_for_idle(p, b, f, false, released));
                }
                // Its server's CPU may be about to say so.
                None if service.strict => {
                    self.keep(p.flow, Followed { early: None, ..f });
                    return Some(self.ask(b, Counter::HeldBusy));
                }
                None => {}
            },
            Later::Asked(why) => {
                self.keep(p.flow, Followed { early: None, ..f });
                return Some(self.ask(b, why));
            }
            Later::Waits => return Some(self.wait_for_idle(p, b, f, idle, released)),
            Later::Read => return Some(self.read_later(p, b)),
        }
        if let Some(at) = cut {
            // Its beginning may pass: user space parts them.
            if !self.daemon_listens() {
                return Some(self.drop(Counter::DropEarlyRequest));
            }
            f.cut_seq = Some(p.seq.wrapping_add(at as u32));
            return Some(self.hold_early(p, b, f));
        }
        after.cut_seq = None;
        after.early = f.early;
        after.forget_passed();
        if broken {
            after.doubt = Some(Doubt::Broken);
            self.count(Counter::MoveDoubt);
        }
        self.keep(p.flow, after);
        // What user space has may go on where this packet ends.
        if after.early.is_some() && !released {
            self.tell(Event::Idle { flow: p.flow });
        }
        None
    }

    /// User space keeps the packet until the connection is idle.
    fn wait_for_idle(
        &mut self,
        p: &Packet,
        b: &mut Binding,
        mut f: Followed,
        idle: bool,
        released: bool,
    ) -> Verdict {
        // The client takes the last answer for whole.
        if f.doubt == Some(Doubt::Responses) && !released && self.socket_is_idle(p, b) {
            return self.condemn(p, b);
        }
        // Of an idle connection it would come back at once, for ever.
        if idle || !self.daemon_listens() {
            return self.drop(Counter::DropEarlyRequest);
        }
        f.cut_seq = Some(p.seq);
        self.hold_early(p, b, f)
    }

    /// User space keeps the packet until the connection can take it.
    fn hold_early(&mut self, p: &Packet, b: &mut Binding, mut f: Followed) -> Verdict {
        f.wait(p);
        self.keep(p.flow, f);
        self.hold_for_later(b)
    }

    /// One packet more for user space, which keeps it.
    pub(super) fn hold_for_later(&mut self, b: &mut Binding) -> Verdict {
        b.held += 1;
        self.count(Counter::HeldEarly);
        Verdict::Redirect
    }

    /// A packet that comes before the socket is made that it is for.
    pub(super) fn behind_the_first(&mut self, p: &Packet, b: &mut Binding) -> Option<Verdict> {
        let f = self.followed(&p.flow, b).filter(|_| self.daemon_listens())?;
        Some(self.hold_early(p, b, f))
    }

    /// A FIN behind what waits in user space: in front of that the socket would not be idle.
    pub(super) fn early_fin(&mut self, p: &Packet, b: &mut Binding) -> Option<Verdict> {
        let f = self.followed(&p.flow, b).filter(|f| f.early.is_some() && !b.has(FLAG_FIN_OUT))?;
        let ahead = p.seq.wrapping_sub(f.messages.requests().at());
        let waits = p.has(FIN) && p.payload.is_empty() && ahead != 0 && ahead < EARLY_MAX;
        (waits && self.daemon_listens()).then(|| self.hold_early(p, b, f))
    }

    /// What the client says of what it has got. It may also make the connection idle.
    pub(super) fn heard(&mut self, p: &Packet, b: &Binding) {
        let Some(mut f) = self.followed(&p.flow, b) else { return };
        let (before, boundary) = (f.heard.ack, f.messages.requests().boundary());
        // An older acknowledgement says nothing, and more than was sent is not the client's.
        if p.ack.wrapping_sub(before) > b.snd_end.wrapping_sub(before)
            || p.seq.wrapping_sub(boundary) >= EARLY_MAX
        {
            return;
        }
        f.note_heard(p);
        self.keep(p.flow, f);
        let idle = p.payload.is_empty()
            && f.doubt.is_none()
            && f.messages.is_answered()
            && p.ack == f.messages.responses().at();
        if f.early.is_some() && idle {
            self.tell(Event::Idle { flow: p.flow });
        }
    }

    /// What becomes of the request that begins with this packet's first byte.
    fn place(&mut self, p: &Packet, service: &Service, f: &Followed, idle: bool) -> Later {
        let this = self.model.settings.node;
        let strict = service.strict;
        let read = Read::of(&p.payload).unwrap_or_default();
        if !(if service.wants_heads() { read.whole } else { read.line }) {
            self.count(Counter::MoveNotRead);
            return match (strict, idle) {
                (false, _) => Later::Stays,
                (true, true) => Later::Read,
                (true, false) => Later::Waits,
            };
        }
        if f.messages.is_closing() {
            // RFC 9112 9.6: nobody is to serve it, and who has the connection knows that.
            self.count(Counter::MoveClosing);
            return if !strict || self.is_own(service, &read) { Later::Stays } else { Later::Waits };
        }
        let to = match f.decided.filter(|(seq, _)| *seq == p.seq) {
            Some((_, server)) => server,
            None => match self.choose_server(service, &read, idle) {
                Ok(server) => server,
                Err(then) => return then,
            },
        };
        if u32::from(to.0) == NODE_READER {
            if idle { Later::Read } else { Later::Waits }
        } else if to == this {
            self.count(Counter::MoveDecidedHere);
            Later::Stays
        } else if idle {
            Later::Moves(to)
        } else if strict {
            Later::Waits
        } else {
            Later::Stays
        }
    }

    /// The server that a later request should have, or what becomes of it without one.
    fn choose_server(&mut self, service: &Service, read: &Read, idle: bool) -> Result<NodeId, Later> {
        let Some(id) = service.choose(Some(read)) else {
            let asked = idle || service.strict;
            return Err(if asked { Later::Asked(Counter::HeldHead) } else { Later::Stays });
        };
        let pool = self.model.tables.pools.get(&id).cloned().ok_or(Later::Stays)?;
        let member = pool.servers.contains(&self.model.settings.node);
        if !member {
            self.count(Counter::OutsidePool);
        }
        let otherwise = || if member { Later::Stays } else { Later::Waits };
        if member && (pool.p_http == PHttp::Stay || !self.daemon_listens()) {
            self.count(Counter::MoveStayed);
            return Err(Later::Stays);
        }
        if !idle {
            self.count(Counter::MoveNotIdle);
            return Err(otherwise());
        }
        // Blind to content: nothing is gained by a move.
        if member && self.takes_turns(id) {
            return Err(Later::Stays);
        }
        if member && pool.p_http == PHttp::ExtendedLard {
            // Whether another server is cheaper, only the dispatcher can say.
            if !self.names_this_node(read, id) {
                return Err(Later::Asked(Counter::HeldMiss));
            }
            self.count(Counter::MoveDecidedHere);
            return Err(Later::Stays);
        }
        match self.decide(Some(read), id) {
            Choice::Server(server, _) => Ok(server),
            Choice::Hold(why) => Err(Later::Asked(why)),
            Choice::NoServer | Choice::NobodyAlive => Err(otherwise()),
        }
    }

    fn takes_turns(&self, pool: PoolId) -> bool {
        self.model.tables.guides.get(&pool).is_some_and(|g| g.guide == GuideKind::Rota)
    }

    /// Moves the connection to another node with this request; `None` when the socket is busy.
    fn move_to(&mut self, p: &Packet, b: &mut Binding, to: NodeId) -> Option<Verdict> {
        if !self.socket_is_idle(p, b) {
            b.flags &= !FLAG_HANDED;
            self.count(Counter::MoveSocketBusy);
            return None;
        }
        self.leave(p, b);
        // The handoff packet has not left yet: the next one takes the way up and down, which ends this state.
        let strict = self.service(&p.flow).is_some_and(|s| s.strict);
        b.held = 0;
        b.state = if strict && self.daemon_listens() { State::Releasing(to) } else { State::Bound(to) };
        b.flags |= FLAG_HANDED | FLAG_MOVED;
        b.tries = 0;
        self.model.stack.sockets.remove(&p.flow);
        self.count(Counter::Moved);
        if let Some(load) = self.model.tables.loads.get_mut(&to) {
            load.assigned = load.assigned.wrapping_add(1);
        }
        Some(self.send_handoff(p, b, to))
    }

    /// This node's server has nothing more to do with the connection, which goes on with this packet.
    pub(super) fn leave(&mut self, p: &Packet, b: &mut Binding) {
        self.end_serving(b);
        b.flags &= FLAG_SYN_SEEN;
        b.start_seq = p.seq;
        b.start_ack = p.ack;
        b.issued = b.issued_after(self.clock.cluster_ns);
        b.since_ns = self.clock.kernel_ns;
        b.seen_ns = self.clock.kernel_ns;
        self.count(Counter::Closed);
    }

    /// Whether the server's socket is as idle as its messages say. The next socket goes on with what
    /// this one knows of the path.
    fn socket_is_idle(&self, p: &Packet, b: &mut Binding) -> bool {
        let Some(socket) = self.model.stack.sockets.get(&p.flow) else { return false };
        let Some(s) = socket.established else { return false };
        // What an idle connection has learnt of the path is out of date: RFC 5681 4.1.
        let idle_ns = age_ns(self.clock.kernel_ns, b.seen_ns);
        let fresh = idle_ns < u64::from(CWND_FRESH_MS) * 1_000_000;
        b.cwnd = if fresh { u16::try_from(s.cwnd).unwrap_or(u16::MAX) } else { 0 };
        b.rtt_ms = s.rtt_ms.min(RTT_CAP_MS) as u16;
        socket.rcv_nxt == p.seq && s.snd_nxt == p.ack && s.write_seq == p.ack && !s.out_of_order
    }
}

/// A packet's lot: what is known before it, and after it if its server gets it.
#[allow(clippy::struct_excessive_bools, reason = "facts about one packet")]
struct Fate {
    then: Later,
    idle: bool,
    answered: bool,
    released: bool,
    cut: Option<usize>,
    broken: bool,
    f: Followed,
    after: Followed,
}
