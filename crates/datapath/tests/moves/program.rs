//! The packet path of one node, as far as a move concerns it: what the program at ingress does with a
//! packet, the steps of a move, and what an Update changes. One call is one step of one node's program.

use super::peers;
use super::world::{Binding, Message, Moving, NOBODY, News, Packet, Reader, Setup, Socket, Stage, State};
use super::world::{TTL, Tell, Wrap, role};

/// A packet from the client arrives at `p.at`. `choice`: where the owner would like the request to go.
/// False when there is nothing to choose, or it may not be chosen.
pub fn ingress(setup: &Setup, s: &mut State, p: Packet, choice: Option<u8>) -> bool {
    if let Some(wrap) = p.wrap {
        return choice.is_none() && handoff(setup, s, p, wrap);
    }
    let binding = s.node(p.at).binding;
    if let Some(b) = binding
        && b.stage == Stage::Bound
        && b.node == p.at
        && !b.hearsay
    {
        return own(setup, s, p, b, choice);
    }
    if choice.is_some() {
        return false;
    }
    match binding {
        Some(b) if b.stage == Stage::Frozen => {}
        Some(b) if b.stage == Stage::Reading && setup.reads_later() => {
            // one request alone
            let end = setup.end_of(b.start_seq);
            if p.seq < end {
                pass(setup, s, p.at, Packet { len: p.len.min(end - p.seq), ..p });
            }
        }
        Some(b) if b.stage == Stage::Reading => pass(setup, s, p.at, p),
        Some(b) if b.node == p.at => {
            if p.len > 0 {
                forward(s, p, b.issuer);
            }
        }
        Some(b) => elsewhere(setup, s, p, b),
        None => unknown(setup, s, p),
    }
    true
}

/// The owner's program: lets pass, moves, or (strict) drops.
fn own(setup: &Setup, s: &mut State, p: Packet, b: Binding, choice: Option<u8>) -> bool {
    let n = p.at;
    let Some(socket) = s.node(n).socket.filter(|socket| !socket.doomed) else {
        if choice.is_none() && p.len > 0 && (p.seq, p.ack) == (b.start_seq, b.start_ack) {
            adopt(setup, s, p);
        }
        return choice.is_none();
    };
    if p.len == 0 {
        pass(setup, s, n, p);
        return choice.is_none();
    }
    let at = if setup.rules.asked_at_ingress { s.node(n).at } else { socket.rcv };
    let home = setup.home(p.seq);
    let movable =
        s.node(n).moving.is_none() && p.seq == at && setup.at_boundary(at) && unchanged(setup, &socket, &p);
    match choice {
        Some(to) => {
            let allowed = match home {
                Some(home) => home == to,
                None => s.moves > 0,
            };
            if !movable || !allowed || to == n || !is_whole(setup, &p) {
                return false;
            }
            s.moves -= u8::from(home.is_none());
            begin(setup, s, p, to);
        }
        None if movable && !is_whole(setup, &p) => read_later(setup, s, p, b),
        None if movable && home.is_some_and(|home| home != n) => return false,
        None => {
            let passes = Packet { len: permitted(setup, n, &p, at), ..p };
            if p.seq <= at && passes.len > 0 {
                s.node(n).at = at.max(passes.seq + passes.len);
                pass(setup, s, n, passes);
            }
        }
    }
    true
}

/// The state of the socket that a move needs, and that must still be so when the binding has changed.
fn unchanged(setup: &Setup, socket: &Socket, p: &Packet) -> bool {
    !socket.fin
        && !socket.half
        && socket.rcv == p.seq
        && socket.snd == p.ack
        && socket.done == setup.requests(p.seq)
}

/// Whether the packet has all of the request that it begins with, where that matters.
fn is_whole(setup: &Setup, p: &Packet) -> bool {
    !setup.reads_later() || setup.end_of(p.seq) <= p.seq + p.len
}

/// A request whose end is missing: the server's socket ends, and the reader goes on.
fn read_later(setup: &Setup, s: &mut State, p: Packet, b: Binding) {
    let issued = next_issue(setup, s, p.at);
    s.time += 1;
    let reads = Binding { start_seq: p.seq, start_ack: p.ack, issued, stage: Stage::Reading, ..b };
    let node = s.node(p.at);
    node.binding = Some(Binding { issuer: p.at, ..reads });
    node.socket = Some(socket_from(setup, &p));
    node.reader = Reader::Idle;
    peers::receive(setup, s, p.at, p);
}

/// How much of the packet the node may serve; what is before `at` it has served already.
fn permitted(setup: &Setup, n: u8, p: &Packet, at: u8) -> u8 {
    let end = p.seq + p.len;
    let begun = |seq: u8| setup.start_of(setup.requests(seq)) < at;
    let read = |seq: u8| !setup.reads_later() || begun(seq) || setup.end_of(seq) <= end;
    let may = |seq: &u8| *seq < at || (setup.home(*seq).is_none_or(|home| home == n) && read(*seq));
    (p.seq..end).take_while(may).count() as u8
}

/// First step of a move: the socket was found idle.
fn begin(setup: &Setup, s: &mut State, packet: Packet, to: u8) {
    s.node(packet.at).moving = Some(Moving { packet, to, was: None });
    if !setup.races {
        while step(setup, s, packet.at) {}
    }
}

/// The further steps of a move under way: bind, look again, and end the socket or take it back. False
/// when there is none.
pub fn step(setup: &Setup, s: &mut State, n: u8) -> bool {
    let Some(moving) = s.node(n).moving else { return false };
    let p = moving.packet;
    let now = next_issue(setup, s, n);
    let node = s.node(n);
    match (moving.was, node.binding, node.socket) {
        (None, Some(was), _) => {
            node.binding = Some(Binding {
                node: moving.to,
                start_seq: p.seq,
                start_ack: p.ack,
                issued: now,
                issuer: n,
                ..was
            });
            node.moving = Some(Moving { was: Some(was), ..moving });
        }
        (Some(was), Some(b), Some(socket)) => {
            node.moving = None;
            if setup.rules.recheck && !unchanged(setup, &socket, &p) {
                node.binding = Some(was);
                if permitted(setup, n, &p, p.seq) == p.len {
                    node.at = p.seq + p.len;
                    pass(setup, s, n, p);
                }
                return true;
            }
            node.socket = if setup.races { Some(Socket { doomed: true, ..socket }) } else { None };
            s.time += 1;
            wrap_to(s, p, b);
            if setup.rules.tell != Tell::Taker {
                tell(setup, s, n, b);
            }
        }
        _ => node.moving = None,
    }
    true
}

/// When what is decided now was decided.
pub fn next_issue(setup: &Setup, s: &mut State, n: u8) -> u8 {
    let wall = s.time + 1 + setup.skew.get(n as usize).copied().unwrap_or(0);
    match s.node(n).binding {
        Some(b) if setup.rules.hybrid_clock => wall.max(b.issued + 1),
        _ => wall,
    }
}

/// A packet at a node that knows another owner.
fn elsewhere(setup: &Setup, s: &mut State, p: Packet, b: Binding) {
    let again = p.len > 0
        && !b.hearsay
        && p.seq == b.start_seq
        && (p.ack == b.start_ack || !setup.rules.again_same_ack);
    if again && (p.from != b.node || setup.rules.again_whoever_sent) {
        wrap_to(s, p, b);
    } else if setup.rules.answer_old_data && !b.hearsay && p.len > 0 && p.seq < b.start_seq {
        peers::acknowledge(s, p.at, b.start_ack, b.start_seq);
    } else if p.from != b.node {
        forward(s, p, b.node);
    }
}

/// A packet of a flow that this node does not know.
fn unknown(setup: &Setup, s: &mut State, p: Packet) {
    let n = p.at;
    if setup.is(n, role::SWITCH) && p.from == NOBODY && setup.distributor != n {
        return forward(s, p, setup.distributor);
    }
    // all that a cookie proves: this is the first data packet of a connection
    if p.len == 0 || p.seq > 0 || p.ack > 0 {
        return;
    }
    let fresh = Binding {
        node: setup.first,
        start_seq: 0,
        start_ack: 0,
        issued: next_issue(setup, s, n),
        issuer: n,
        hearsay: false,
        stage: Stage::Bound,
    };
    if !setup.is(n, role::DISTRIBUTOR) {
        if setup.rules.adopt_by_cookie && p.from != NOBODY {
            s.node(n).binding = Some(Binding { node: n, issuer: p.from, ..fresh });
            adopt(setup, s, p);
        }
        return;
    }
    if setup.reader && p.len < setup.ends[0] {
        s.node(n).binding = Some(Binding { node: n, issued: 0, stage: Stage::Reading, ..fresh });
        s.node(n).socket = Some(socket_from(setup, &p));
        return peers::receive(setup, s, n, p);
    }
    s.node(n).binding = Some(fresh);
    s.time += 1;
    if setup.rules.tell != Tell::Taker {
        tell(setup, s, n, fresh);
    }
    if setup.first == n { adopt(setup, s, p) } else { wrap_to(s, p, fresh) }
}

/// A handoff packet.
fn handoff(setup: &Setup, s: &mut State, p: Packet, wrap: Wrap) -> bool {
    let n = p.at;
    match s.node(n).binding.filter(|b| setup.rules.reading_stands || b.stage == Stage::Bound) {
        Some(b) if wrap.issued < b.issued => {
            let same = b.start_seq == wrap.start_seq || !setup.rules.hand_on_same_start;
            if b.node != n && same && p.hops < TTL {
                let wrap = Some(Wrap { issued: b.issued, ..wrap });
                s.send(Packet { at: b.node, from: n, hops: p.hops + 1, wrap, ..p });
            }
        }
        Some(b) if wrap.issued == b.issued && b.node == n && !b.hearsay => {
            return own(setup, s, Packet { wrap: None, ..p }, b, None);
        }
        Some(b) if wrap.issued == b.issued && b.node != n => {}
        _ => {
            s.node(n).binding = Some(Binding {
                node: n,
                start_seq: wrap.start_seq,
                start_ack: p.ack,
                issued: wrap.issued,
                issuer: wrap.issuer,
                hearsay: false,
                stage: Stage::Bound,
            });
            adopt(setup, s, Packet { wrap: None, ..p });
        }
    }
    true
}

/// A socket whose sequence numbers are the packet's.
fn socket_from(setup: &Setup, p: &Packet) -> Socket {
    let done = setup.requests(p.seq);
    Socket {
        first: p.seq,
        rcv: p.seq,
        snd: p.ack,
        una: p.ack,
        done,
        half: false,
        fin: false,
        shift: p.ack as i8 - 2 * done as i8,
        doomed: false,
    }
}

/// The node makes its socket from the packet; a stale one gives way.
fn adopt(setup: &Setup, s: &mut State, p: Packet) {
    let n = p.at;
    if s.node(n).socket.is_none_or(|old| old.doomed || old.first != p.seq) {
        s.node(n).socket = Some(socket_from(setup, &p));
        s.node(n).at = p.seq;
        if setup.rules.tell == Tell::Taker
            && let Some(b) = s.node(n).binding
        {
            tell(setup, s, n, b);
        }
    }
    // what it was made of may be the beginning of a replay
    let len = if setup.rules.taker_looks { permitted(setup, n, &p, p.seq + 1) } else { p.len };
    let node = s.node(n);
    node.at = node.at.max(p.seq + len);
    peers::receive(setup, s, n, Packet { len, ..p });
}

/// To the node's own stack.
fn pass(setup: &Setup, s: &mut State, n: u8, p: Packet) {
    if setup.races && p.len > 0 {
        s.node(n).up.push(Packet { from: NOBODY, hops: 0, ..p });
    } else {
        peers::receive(setup, s, n, p);
    }
}

fn forward(s: &mut State, p: Packet, to: u8) {
    if p.hops >= TTL {
        s.wrong = Some("a packet goes round in circles");
    } else if to != p.at {
        s.send(Packet { at: to, from: p.at, hops: p.hops + 1, ..p });
    }
}

fn wrap_to(s: &mut State, p: Packet, b: Binding) {
    let wrap = Some(Wrap { start_seq: b.start_seq, issued: b.issued, issuer: b.issuer });
    s.send(Packet { at: b.node, from: p.at, hops: 0, wrap, ..p });
}

/// Updates to switches and distributors, and to whom else the rules say.
fn tell(setup: &Setup, s: &mut State, n: u8, b: Binding) {
    for to in 0..setup.roles.len() as u8 {
        let taker = setup.rules.tell == Tell::GiverTellsTaker && to == b.node;
        let told = setup.is(to, role::SWITCH | role::DISTRIBUTOR) || taker;
        if to != n && told && setup.rules.tell != Tell::Nobody {
            s.tell(n, to, News::Owner(Binding { hearsay: true, start_ack: 0, ..b }));
        }
    }
}

/// A message has arrived.
pub fn told(setup: &Setup, s: &mut State, message: Message) {
    let node = s.node(message.to);
    match message.news {
        News::Owner(b) => {
            let known = node.binding.filter(|b| setup.rules.reading_stands || b.stage == Stage::Bound);
            if known.is_none_or(|known| known.issued < b.issued) {
                node.binding = Some(b);
            }
        }
        News::Taken(all) => {
            if matches!(node.reader, Reader::Replaying(end) if all >= end) {
                node.reader = Reader::Idle;
            }
        }
    }
}
