//! Later requests of a connection that this node serves: what is followed of its messages, and which of
//! its requests stay, move, wait or are asked about.

use baton_cluster::{Flow, NodeId, PHttp, PoolId};
use baton_http::{Exchange, Fed, Follower};

use super::decide::Choice;
use super::egress::Sent;
use super::request::{Read, feed};
use super::{Binding, Packet, Run, Service, Verdict};
use crate::connections::State;
use crate::constants::{CWND_FRESH_MS, FLAG_HANDED, FLAG_MOVED, FLAG_SYN_SEEN, RTT_CAP_MS};
use crate::counters::Counter;
use crate::events::Event;
use crate::tables::Guide;

/// What the owner follows of a connection (`struct exchange`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Followed {
    /// Of the binding that it belongs to.
    pub start_seq: u32,
    /// Both directions.
    pub messages: Exchange,
    /// It is not followed any more.
    pub doubt: bool,
    /// A request's first byte, and the server that user space names for it.
    pub decided: Option<(u32, NodeId)>,
    /// Where the next request begins in the packet that waits, when it must not go along.
    pub cut_seq: Option<u32>,
    /// User space has packets from here on, until the connection is idle.
    pub early_seq: Option<u32>,
    /// What the client's last packet without payload said, in a strict service.
    pub heard: Heard,
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
            doubt: false,
            decided: None,
            cut_seq: None,
            early_seq: None,
            heard: Heard::default(),
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
    pub decided: Option<(u32, NodeId)>,
    pub cut_seq: Option<u32>,
    pub early_seq: Option<u32>,
    pub heard: Heard,
    pub doubt: bool,
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
            decided: self.decided,
            cut_seq: self.cut_seq,
            early_seq: self.early_seq,
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

impl Run<'_> {
    /// Whether the packet holds something of a followed connection that has not been looked at.
    pub(super) fn says_more(&self, p: &Packet, b: &Binding) -> bool {
        let end = p.seq.wrapping_add(p.payload.len() as u32);
        let followed = self.followed(&p.flow, b).filter(|f| !f.doubt);
        followed.is_some_and(|f| end.wrapping_sub(f.messages().requests.at).cast_signed() > 0)
    }

    fn followed(&self, flow: &Flow, b: &Binding) -> Option<Followed> {
        let known = self.model.tables.exchanges.get(flow).copied();
        known.filter(|f| f.start_seq == b.start_seq && !f.doubt)
    }

    fn keep(&mut self, flow: Flow, f: Followed) {
        self.model.tables.exchanges.insert(flow, f);
    }

    /// Begins to follow a connection with its first packet. `false`: another request begins in that, and
    /// whose it is must be seen first.
    pub(super) fn follow_from(&mut self, p: &Packet, b: &Binding) -> bool {
        let Some(service) = self.service(&p.flow).filter(|s| s.follows) else { return true };
        let strict = service.strict;
        let mut f = Followed::new(b.start_seq, b.start_ack);
        let mut after = f.messages;
        let (fed, again) = feed(&mut after, p.seq, &p.payload);
        if fed != Fed::Followed {
            f.doubt = true;
            self.count(Counter::MoveDoubt);
        }
        match again.filter(|_| strict) {
            Some(at) => f.cut_seq = Some(p.seq.wrapping_add(at as u32)),
            None => f.messages = after,
        }
        self.keep(p.flow, f);
        f.cut_seq.is_none()
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
        let Some(mut f) = self.followed(&s.flow, b) else { return };
        match f.messages.response(s.seq, &s.payload) {
            Fed::Old | Fed::Followed | Fed::Skipped => {}
            // The server's own stack leaves no gaps: what was not seen is not known.
            Fed::Gap | Fed::Doubt(_) => f.doubt = true,
        }
        self.keep(s.flow, f);
    }

    /// A packet with payload of a connection that this node serves; `None`: to its server.
    pub(super) fn later(&mut self, p: &Packet, b: &mut Binding, released: bool) -> Option<Verdict> {
        let service = self.service(&p.flow)?.clone();
        let mut f = self.followed(&p.flow, b)?;
        // User space has had it, and has said all that it can.
        let answered = released && f.decided.is_some_and(|(seq, _)| seq == p.seq);
        f.cut_seq = None;
        let mut after = f;
        let requests = f.messages.requests();
        let boundary = p.seq == requests.at() && requests.is_between_messages();
        let responses = f.messages.responses();
        let idle = boundary
            && f.messages.outstanding().is_none()
            && responses.is_between_messages()
            && p.ack == responses.at();
        let (fed, again) = feed(&mut after.messages, p.seq, &p.payload);
        let doubt = matches!(fed, Fed::Doubt(_));
        if fed == Fed::Old || fed == Fed::Gap {
            self.keep(p.flow, f);
            let behind_early = f.early_seq.is_some_and(|early| p.seq.wrapping_sub(early) < EARLY_MAX);
            return match fed {
                Fed::Gap if behind_early => Some(self.hold_early(b)),
                // Nobody will repeat what came while the service did not follow.
                Fed::Gap if self.has_all_before(p) => self.outside_messages(p, f),
                Fed::Gap => Some(self.drop(Counter::DropGap)),
                _ => None,
            };
        }
        let then = if doubt && !(boundary && service.strict) {
            return self.outside_messages(p, f);
        } else if doubt {
            if idle { Later::Read } else { Later::Waits }
        } else if !service.strict && !boundary {
            Later::Stays
        } else if service.strict && again.is_some() && boundary && !idle {
            Later::Waits
        } else if let Some(at) = again.filter(|_| service.strict) {
            f.cut_seq = Some(p.seq.wrapping_add(at as u32));
            Later::Asked(Counter::HeldPipelined)
        } else if !boundary {
            Later::Stays
        } else {
            self.place(p, &service, &f, idle)
        };
        self.fate(p, b, &service, Fate { then, boundary, idle, answered, f, after })
    }

    /// Whether the server's socket has everything that comes before this packet.
    fn has_all_before(&self, p: &Packet) -> bool {
        let socket = self.model.stack.sockets.get(&p.flow).filter(|s| s.start_seq.is_some());
        socket.is_some_and(|s| s.rcv_nxt.wrapping_sub(p.seq).cast_signed() >= 0)
    }

    /// The connection stays, for ever.
    fn outside_messages(&mut self, p: &Packet, f: Followed) -> Option<Verdict> {
        self.keep(p.flow, Followed { doubt: true, ..f });
        self.count(Counter::MoveDoubt);
        None
    }

    fn fate(&mut self, p: &Packet, b: &mut Binding, service: &Service, fate: Fate) -> Option<Verdict> {
        let Fate { mut then, boundary, idle, answered, mut f, mut after } = fate;
        // Of an idle connection it would come back at once, for ever.
        let may_wait = self.daemon_listens() && !idle;
        if answered && matches!(then, Later::Asked(_)) {
            if !boundary {
                self.keep(p.flow, Followed { cut_seq: None, ..f });
                return Some(self.drop(Counter::DropEarlyRequest));
            }
            then = if service.strict { Later::Waits } else { Later::Stays };
        }
        match then {
            Later::Asked(_) if boundary => f.early_seq = None,
            Later::Waits if may_wait => f.early_seq = Some(p.seq),
            _ => {}
        }
        self.keep(p.flow, f);
        match then {
            Later::Stays => {}
            Later::Moves(to) => match self.move_to(p, b, to) {
                Some(verdict) => return Some(verdict),
                None if service.strict && answered => return Some(self.drop(Counter::DropEarlyRequest)),
                // Its server's CPU may be about to say so.
                None if service.strict => {
                    self.keep(p.flow, Followed { early_seq: None, ..f });
                    return Some(self.ask(b, Counter::HeldBusy));
                }
                None => {}
            },
            Later::Asked(why) => return Some(self.ask(b, why)),
            Later::Waits if may_wait => return Some(self.hold_early(b)),
            Later::Waits => return Some(self.drop(Counter::DropEarlyRequest)),
            Later::Read => return Some(self.read_later(p, b)),
        }
        after.cut_seq = f.cut_seq;
        after.early_seq = None;
        self.keep(p.flow, after);
        None
    }

    /// User space keeps the packet until the connection is idle.
    pub(super) fn hold_early(&mut self, b: &mut Binding) -> Verdict {
        b.held += 1;
        self.count(Counter::HeldEarly);
        Verdict::Redirect
    }

    /// The client acknowledges: that may make the connection idle, which user space may wait for.
    pub(super) fn heard(&mut self, p: &Packet, b: &Binding) {
        // An older acknowledgement says nothing, and more than was sent is not the client's.
        let Some(mut f) = self.followed(&p.flow, b).filter(|_| p.ack == b.snd_end) else { return };
        f.heard = Heard { ack: p.ack, window: p.window, timestamps: p.options.timestamps };
        self.keep(p.flow, f);
        let responses = f.messages.responses();
        let idle =
            f.messages.outstanding().is_none() && responses.is_between_messages() && p.ack == responses.at();
        if f.early_seq.is_some() && idle {
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
        let to = match f.decided.filter(|(seq, _)| *seq == p.seq) {
            Some((_, server)) => server,
            None => match self.choose_server(service, &read, idle) {
                Ok(server) => server,
                Err(then) => return then,
            },
        };
        if to == this {
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
            Choice::NoServer => Err(otherwise()),
        }
    }

    fn takes_turns(&self, pool: PoolId) -> bool {
        self.model.tables.guides.get(&pool).is_some_and(|g| g.guide == Guide::Rota)
    }

    /// Moves the connection to another node with this request; `None` when the socket is busy.
    fn move_to(&mut self, p: &Packet, b: &mut Binding, to: NodeId) -> Option<Verdict> {
        if !self.socket_is_idle(p, b) {
            b.flags &= !FLAG_HANDED;
            self.count(Counter::MoveSocketBusy);
            return None;
        }
        self.leave(p, b);
        b.state = State::Bound(to);
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
        b.issued = b.issued_after(self.clock.wall_ns);
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
        let idle_ns = self.clock.kernel_ns.saturating_sub(b.seen_ns);
        let fresh = idle_ns < u64::from(CWND_FRESH_MS) * 1_000_000;
        b.cwnd = if fresh { u16::try_from(s.cwnd).unwrap_or(u16::MAX) } else { 0 };
        b.rtt_ms = s.rtt_ms.min(RTT_CAP_MS) as u16;
        socket.rcv_nxt == p.seq && s.snd_nxt == p.ack && s.write_seq == p.ack && !s.out_of_order
    }
}

/// A packet's lot: what is known before it, and after it if its server gets it.
struct Fate {
    then: Later,
    boundary: bool,
    idle: bool,
    answered: bool,
    f: Followed,
    after: Followed,
}
