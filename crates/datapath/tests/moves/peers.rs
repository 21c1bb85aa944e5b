//! Those whom the packet path serves: the client, the servers' sockets and applications, and the reader
//! in user space. Each function is one step; those that return false had nothing to do.

use super::program::{ingress, next_issue};
use super::world::{Binding, CLIENT, NOBODY, News, Packet, Reader, Setup, Socket, Stage, State};

/// A packet from the client with `len` bytes from `seq` on.
fn from_client(setup: &Setup, s: &State, seq: u8, len: u8) -> Packet {
    Packet {
        at: setup.entry,
        from: NOBODY,
        seq,
        len,
        ack: s.client.rcv,
        fin: false,
        rst: false,
        shift: 0,
        hops: 0,
        wrap: None,
    }
}

/// The client sends its next byte, if the requests outstanding allow it.
pub fn client_sends(setup: &Setup, s: &mut State) -> bool {
    let c = s.client;
    if c.fin || c.sent == setup.last() || setup.requests(c.sent) >= c.rcv / 2 + setup.ahead {
        return false;
    }
    s.client.sent += 1;
    s.send(from_client(setup, s, c.sent, 1));
    true
}

/// The client sends what is not acknowledged again: the first byte, or (`all`) everything. It does so too
/// early, while data or their acknowledgement are still in flight, only as often as copies are allowed.
pub fn client_repeats(setup: &Setup, s: &mut State, all: bool) -> bool {
    let c = s.client;
    let len = if all { c.sent - c.una } else { 1 };
    let p = from_client(setup, s, c.una, len);
    if c.fin || c.una == c.sent || (all && len == 1) || s.net.contains(&p) {
        return false;
    }
    let coming = |p: &Packet| if p.at == CLIENT { p.ack > c.una || p.fin } else { p.len > 0 };
    let inside = s.nodes.iter().any(|n| n.moving.is_some() || !n.up.is_empty());
    if inside || s.net.iter().any(coming) {
        if s.copies == 0 {
            return false;
        }
        s.copies -= 1;
    }
    s.send(p);
    true
}

/// A packet arrives at the client.
pub fn client_receives(setup: &Setup, s: &mut State, p: Packet) {
    let c = s.client;
    let end = p.seq + p.len;
    if p.rst {
        s.wrong = Some("a RST reaches the client");
    } else if p.shift != 0 && p.len > 0 {
        s.wrong = Some("the client receives bytes that belong elsewhere");
    } else if c.fin && end > c.rcv {
        s.wrong = Some("the client receives bytes behind a FIN");
    } else if p.fin && end < c.rcv {
        s.wrong = Some("the client receives a FIN before bytes that it has");
    } else if p.seq <= c.rcv {
        s.client.una = c.una.max(p.ack.min(c.sent));
        if end > c.rcv {
            s.client.rcv = end;
            if setup.acks {
                s.send(from_client(setup, s, c.sent, 0));
            }
        }
        s.client.fin |= p.fin;
        if s.client.fin && !s.client.rcv.is_multiple_of(2) {
            s.wrong = Some("a FIN cuts a response");
        }
    } else {
        s.client.una = c.una.max(p.ack.min(c.sent));
    }
}

/// A packet that goes to the client, from node `n`.
fn to_client(n: u8, seq: u8, len: u8, ack: u8) -> Packet {
    Packet { at: CLIENT, from: n, seq, len, ack, fin: false, rst: false, shift: 0, hops: 0, wrap: None }
}

/// What a stack sends passes the program at egress.
fn egress(s: &mut State, p: Packet) {
    if s.egress_open(p.from) {
        s.send(p);
    }
}

/// The program itself acknowledges.
pub fn acknowledge(s: &mut State, n: u8, seq: u8, ack: u8) {
    s.send(to_client(n, seq, 0, ack));
}

/// The node's stack takes a packet that its program has passed.
pub fn receive(setup: &Setup, s: &mut State, n: u8, p: Packet) {
    let Some(mut socket) = s.node(n).socket else { return };
    if p.ack > socket.snd {
        return;
    }
    socket.una = socket.una.max(p.ack);
    let end = p.seq + p.len;
    if p.seq <= socket.rcv && end > socket.rcv && !socket.fin {
        for seq in socket.rcv..end {
            if s.node(n).binding.is_some_and(|b| b.stage == Stage::Bound) {
                serve(setup, s, n, seq);
            }
        }
        socket.rcv = end;
        if setup.reader && s.node(n).binding.is_some_and(|b| b.stage == Stage::Bound) {
            let readers = |to: &u8| *to == setup.distributor || setup.reads_later();
            for to in (0..setup.roles.len() as u8).filter(readers) {
                s.tell(n, to, News::Taken(end));
            }
        }
    }
    s.node(n).socket = Some(socket);
    if p.len > 0 && setup.acks {
        egress(s, to_client(n, socket.snd, 0, socket.rcv));
    }
}

/// The application at `n` gets the byte at `seq`.
fn serve(setup: &Setup, s: &mut State, n: u8, seq: u8) {
    let request = 1 << seq;
    if s.served & request != 0 {
        s.wrong = Some("a request is given to an application twice");
    }
    if setup.home(seq).is_some_and(|home| home != n) {
        s.wrong = Some("a request is served outside its pool");
    }
    s.served |= request;
}

/// A packet that waited for the stack is taken.
pub fn stack_takes(setup: &Setup, s: &mut State, n: u8, index: usize) {
    let p = s.node(n).up.remove(index);
    receive(setup, s, n, p);
}

/// The local RST arrives.
pub fn socket_ends(s: &mut State, n: u8) -> bool {
    let doomed = s.node(n).socket.is_some_and(|socket| socket.doomed);
    if doomed {
        s.node(n).socket = None;
    }
    doomed
}

/// A server's socket at `n`, if it is one.
fn server(s: &mut State, n: u8) -> Option<Socket> {
    let reading = s.node(n).binding.is_some_and(|b| b.stage != Stage::Bound);
    s.node(n).socket.filter(|_| !reading)
}

/// The application answers its next request, in one piece or one half.
pub fn answers(setup: &Setup, s: &mut State, n: u8, whole: bool) -> bool {
    let Some(mut socket) = server(s, n) else { return false };
    if !whole && !setup.halves {
        return false;
    }
    let all = setup.requests(socket.rcv) > socket.done;
    let some = setup.early && socket.rcv > setup.start_of(socket.done);
    if socket.fin || !(all || some) || (whole && socket.half) {
        return false;
    }
    let len = if whole { 2 } else { 1 };
    let p = Packet { shift: socket.shift, ..to_client(n, socket.snd, len, socket.rcv) };
    socket.snd += len;
    socket.done += u8::from(whole || socket.half);
    socket.half = !whole && !socket.half;
    s.node(n).socket = Some(socket);
    egress(s, p);
    true
}

/// The server sends what is not acknowledged again, when nothing is in flight to the client.
pub fn server_repeats(s: &mut State, n: u8) -> bool {
    let Some(socket) = server(s, n) else { return false };
    let len = socket.snd - socket.una;
    let p = Packet { shift: socket.shift, fin: socket.fin, ..to_client(n, socket.una, len, socket.rcv) };
    if (len == 0 && !socket.fin) || !s.egress_open(n) || s.net.iter().any(|p| p.at == CLIENT) {
        return false;
    }
    s.send(p);
    true
}

/// The server closes its idle connection.
pub fn closes(setup: &Setup, s: &mut State, n: u8) -> bool {
    let Some(mut socket) = server(s, n) else { return false };
    let idle = !socket.half && socket.done >= setup.requests(socket.rcv) && setup.at_boundary(socket.rcv);
    if socket.fin || !idle || s.closes == 0 {
        return false;
    }
    s.closes -= 1;
    socket.fin = true;
    s.node(n).socket = Some(socket);
    egress(s, Packet { fin: true, ..to_client(n, socket.snd, 0, socket.rcv) });
    true
}

/// The reader's next order: freeze, read and close, bind.
pub fn reader_acts(setup: &Setup, s: &mut State, n: u8) -> bool {
    let node = s.node(n);
    let (Some(b), reader, socket) = (node.binding, node.reader, node.socket) else { return false };
    let has_all = socket.is_some_and(|socket| socket.rcv >= setup.end_of(b.start_seq));
    let rcv = socket.map_or(0, |socket| socket.rcv);
    match (b.stage, reader) {
        (Stage::Reading, Reader::Idle) if has_all && !setup.rules.freeze_first => {
            node.reader = Reader::Read(rcv);
        }
        (Stage::Reading, Reader::Idle | Reader::Read(_)) if has_all => {
            node.binding = Some(Binding { stage: Stage::Frozen, ..b });
        }
        (Stage::Frozen, Reader::Idle) => {
            node.socket = None;
            node.reader = Reader::Closed(rcv);
        }
        (Stage::Frozen, Reader::Read(end)) => {
            node.socket = None;
            node.reader = Reader::Closed(end);
        }
        (Stage::Frozen, Reader::Closed(end)) => {
            let issued = next_issue(setup, s, n);
            let to = setup.home(b.start_seq).unwrap_or(setup.first);
            s.time += 1;
            let node = s.node(n);
            node.binding = Some(Binding { node: to, issued, stage: Stage::Bound, ..b });
            node.reader = Reader::Replaying(end);
        }
        _ => return false,
    }
    true
}

/// The reader releases what it has read, in frames of one byte, when its last try has come to nothing.
pub fn reader_replays(setup: &Setup, s: &mut State, n: u8) -> bool {
    let Reader::Replaying(end) = s.node(n).reader else { return false };
    if s.net.iter().any(|p| p.at != CLIENT && p.len > 0) {
        return false;
    }
    // It has moved on, so it was taken.
    let Some(b) = s.node(n).binding.filter(|b| b.stage == Stage::Bound && b.start_seq < end) else {
        s.node(n).reader = Reader::Idle;
        return true;
    };
    for seq in b.start_seq..end {
        let frame = Packet { at: n, ack: b.start_ack, ..from_client(setup, s, seq, 1) };
        ingress(setup, s, frame, None);
    }
    if !setup.rules.replay_again {
        s.node(n).reader = Reader::Replayed;
    }
    true
}
