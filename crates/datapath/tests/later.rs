//! Later requests at the node that serves the connection, whose real socket, made over loopback, is idle or
//! busy: what moves, what stays, and what this node does for a connection that it has moved. Needs root.

mod common;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use baton_cluster::Flow;
use baton_datapath::State;
use baton_datapath::constants::{FLAG_ADOPTED, FLAG_CONFIRMED, FLAG_HANDED, FLAG_MOVED};
use baton_datapath::model::flag::{ACK, FIN, PSH};
use baton_datapath::model::{Binding, Established, Handoff, Socket as KernelSocket, Verdict};
use common::client::case;
use common::frames::{CLIENT, VIP, checksums_are_right, flow, read, timestamps};
use common::world::{IMAGES, OTHER, PAGES, SELF, THIRD, WEB, keys, mac};
use common::{Tcp, World, in_netns, ip};
use etherparse::{SlicedPacket, TransportSlice};
use socket2::{Domain, Protocol, Socket, Type};

const FIRST: &[u8] = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n";
const NEXT: &[u8] = b"GET /img/b HTTP/1.1\r\nHost: x\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
const DEADLINE: Duration = Duration::from_secs(5);
const ETH_P_ALL: u16 = 3;

/// A connection of which one request has been asked and answered, in the stack and in the programs.
struct Served {
    flow: Flow,
    client: TcpStream,
    server: TcpStream,
    /// The client's next byte, and the server's.
    seq: u32,
    ack: u32,
}

impl Served {
    fn new(world: &mut World, flow: Flow) -> Self {
        let listener = TcpListener::bind((VIP, flow.vip_port)).expect("a namespace of our own");
        let wire = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(i32::from(ETH_P_ALL.to_be()))));
        let mut wire = wire.expect("a packet socket");
        wire.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        let client = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        client.bind(&SocketAddr::from((CLIENT, flow.client_port)).into()).expect("a free port");
        client.connect(&SocketAddr::from((VIP, flow.vip_port)).into()).expect("somebody listens");
        let (server, _) = listener.accept().expect("a connection");
        let (seq, ack) = first_bytes(&mut wire);
        let mut served = Self { flow, client: client.into(), server, seq, ack };
        served.client.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        served.server.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        world.bind(flow, served.binding(world));
        world.follow(flow, seq, ack);
        served.ask_and_answer(world);
        served
    }

    fn binding(&self, world: &World) -> Binding {
        let now = world.clock();
        Binding {
            seen_ns: now.kernel_ns,
            since_ns: now.kernel_ns,
            issued: now.wall_ns,
            flags: FLAG_ADOPTED | FLAG_CONFIRMED,
            start_ack: self.ack,
            snd_end: self.ack,
            mss: 1460,
            options: 7,
            distributor: THIRD.0,
            ..Binding::unknown(self.seq, State::Bound(SELF))
        }
    }

    /// What the stack carries the programs see, too: they are not on its way.
    fn ask_and_answer(&mut self, world: &mut World) {
        case(
            world,
            "the first request",
            &self.sends(FIRST).frame(),
            Verdict::Stack,
            &["owned", "serving_started", "move_decided_here"],
        );
        self.client.write_all(FIRST).expect("room");
        let mut got = [0; FIRST.len()];
        self.server.read_exact(&mut got).expect("the request");
        self.seq = self.seq.wrapping_add(FIRST.len() as u32);
        let mut answer = self.sends(ANSWER);
        (answer.back, answer.seq, answer.ack) = (true, self.ack, self.seq);
        world.egress(&answer.frame());
        self.server.write_all(ANSWER).expect("room");
        let mut got = [0; ANSWER.len()];
        self.client.read_exact(&mut got).expect("the answer");
        self.ack = self.ack.wrapping_add(ANSWER.len() as u32);
    }

    /// The next request, as a frame to the loopback device: what the programs give to the stack arrives.
    fn asks(&self, payload: &[u8]) -> Vec<u8> {
        let mut frame = self.sends(payload).frame();
        frame[..6].fill(0);
        frame
    }

    fn sends(&self, payload: &[u8]) -> Tcp {
        let stamps = timestamps(10, 20);
        Tcp::new(self.flow, ACK | PSH, self.seq, self.ack).options(&[&[1, 1], &stamps]).data(payload)
    }

    /// Tells the model of the socket: what `ss` says, and what the test knows.
    fn describe(&self, world: &mut World, written: usize, received: usize, out_of_order: bool) {
        let port = format!(":{}", self.flow.vip_port);
        let said = Command::new("ss").args(["-tinH", "sport", "=", &port]).output();
        let said = String::from_utf8(said.expect("iproute2 is installed").stdout).expect("text");
        let value = |name: &str| -> f64 {
            let field = said.split_whitespace().find_map(|field| field.strip_prefix(name));
            field
                .and_then(|v| v.split('/').next()?.parse().ok())
                .unwrap_or_else(|| panic!("{name} in {said}"))
        };
        let sent = self.ack.wrapping_add(written as u32);
        let established = Established {
            write_seq: sent,
            snd_nxt: sent,
            out_of_order,
            cwnd: value("cwnd:") as u32,
            rtt_ms: value("rtt:") as u32,
        };
        let start_seq = Some(world.model.tables.bindings[&self.flow].start_seq);
        let rcv_nxt = self.seq.wrapping_add(received as u32);
        let socket = KernelSocket { start_seq, rcv_nxt, established: Some(established) };
        world.model.stack.sockets.insert(self.flow, socket);
    }

    /// The server's side has been ended without a word to the client.
    fn is_reset(&mut self) -> bool {
        matches!(self.server.read(&mut [0; 1]), Err(e) if e.kind() == ErrorKind::ConnectionReset)
    }

    /// The connection still carries bytes to the server.
    #[track_caller]
    fn is_alive(&mut self) {
        self.client.write_all(b"x").expect("room");
        assert_eq!(self.server.read(&mut [0; 1]).expect("not reset"), 1);
    }
}

/// The first data bytes of both sides, from the SYN-ACK.
fn first_bytes(wire: &mut Socket) -> (u32, u32) {
    let (mut buffer, until) = ([0; 2048], Instant::now() + DEADLINE);
    while Instant::now() < until {
        let n = wire.read(&mut buffer).expect("a frame");
        let Ok(sliced) = SlicedPacket::from_ethernet(&buffer[..n]) else { continue };
        if let Some(TransportSlice::Tcp(tcp)) = sliced.transport
            && tcp.syn()
            && tcp.ack()
        {
            return (tcp.acknowledgment_number(), tcp.sequence_number().wrapping_add(1));
        }
    }
    panic!("no SYN-ACK");
}

/// A server's node with a client behind loopback.
fn node(port: u16, test: impl FnOnce(&mut World, Served) + Send + 'static) {
    in_netns(move || {
        ip(&["address", "add", "10.2.0.2/32", "dev", "lo"]);
        // A RST that the programs make comes with the client's address, which is here, too.
        std::fs::write("/proc/sys/net/ipv4/conf/lo/accept_local", "1").expect("a namespace of our own");
        let mut f = flow(40_000);
        f.vip_port = port;
        let mut world = World::new("s", &[f]);
        world.model.stack.listeners.insert((VIP, port));
        for (pool, request, server) in
            [(WEB, NEXT, OTHER), (IMAGES, NEXT, OTHER), (WEB, FIRST, SELF), (PAGES, FIRST, SELF)]
        {
            world.decide(pool, request, &[server], 1);
        }
        let served = Served::new(&mut world, f);
        test(&mut world, served);
    });
}

const MOVED: &[&str] = &["closed", "serving_ended", "moved"];

#[test]
fn an_idle_connection_moves_with_its_next_request() {
    node(80, |world, mut c| {
        c.describe(world, 0, 0, false);
        let socket = world.model.stack.sockets[&c.flow].established.expect("it is");
        let request = c.asks(NEXT);
        let said = case(world, "moved", &request, Verdict::Redirect, MOVED);
        assert_eq!(checksums_are_right(&said.frame), Some(true));
        let (h, inner) = Handoff::unwrap(&keys(), &said.frame, world.clock()).expect("a handoff packet");
        assert_eq!((h.start_seq, h.flags, h.distributor), (c.seq, FLAG_MOVED as u16, THIRD.0));
        assert_eq!((u32::from(h.cwnd), u32::from(h.rtt_ms)), (socket.cwnd, socket.rtt_ms));
        assert_eq!(inner[14..], request[14..], "the client's packet, byte for byte");
        let b = world.programs.whole_binding(&c.flow).expect("bindings").expect("known");
        assert_eq!((b.state, b.start_seq, b.start_ack), (State::Bound(OTHER), c.seq, c.ack));
        assert_eq!(b.flags, FLAG_HANDED | FLAG_MOVED);
        assert!(c.is_reset(), "by a RST that only this node saw");

        let mut late = c.sends(b"more");
        (late.back, late.seq, late.ack) = (true, c.ack, c.seq);
        assert_eq!(world.egress(&late.frame()).verdict, Verdict::Drop);
        assert_eq!(world.counted, ["drop_moved_away"], "the socket had not heard yet");

        case(world, "lost: sent again", &request, Verdict::Redirect, &["handoff_again"]);
        let back = c.sends(NEXT).by(mac(OTHER)).frame();
        case(world, "its owner-to-be never got it", &back, Verdict::Redirect, &["handoff_again"]);
        let mut other = c.sends(NEXT);
        other.ack = c.ack.wrapping_sub(1);
        let other = other.frame();
        case(world, "not the packet that moved it", &other, Verdict::Redirect, &["forwarded_binding"]);
        let mut old = c.sends(FIRST);
        old.seq = c.seq.wrapping_sub(FIRST.len() as u32);
        let said = case(world, "taken before the move", &old.frame(), Verdict::Redirect, &["old_answered"]);
        let tcp = read(&said.frame);
        assert_eq!((tcp.sequence_number, tcp.acknowledgment_number, tcp.ack), (c.ack, c.seq, true));
        assert_eq!(checksums_are_right(&said.frame), Some(true));
        let mut ack = c.sends(b"");
        ack.flags = ACK;
        case(world, "the rest goes there", &ack.frame(), Verdict::Redirect, &["forwarded_binding"]);
        case(world, "not back", &ack.by(mac(OTHER)).frame(), Verdict::Drop, &["drop_loop"]);
    });
}

#[test]
fn a_window_that_was_not_in_use_lately_is_not_carried() {
    node(80, |world, c| {
        world.pass(Duration::from_millis(1500));
        c.describe(world, 0, 0, false);
        let said = case(world, "moved", &c.asks(NEXT), Verdict::Redirect, MOVED);
        let (h, _) = Handoff::unwrap(&keys(), &said.frame, world.clock()).expect("a handoff packet");
        assert_eq!(h.cwnd, 0);
    });
}

#[test]
fn a_busy_socket_keeps_its_connection() {
    let busy = &["owned", "move_socket_busy"][..];
    node(80, move |world, mut c| {
        c.server.write_all(b"something of its own").expect("room");
        c.client.read_exact(&mut [0; 20]).expect("delivered");
        c.describe(world, 20, 0, false);
        case(world, "it has sent what nobody asked for", &c.asks(NEXT), Verdict::Stack, busy);
        c.is_alive();
    });
    node(80, move |world, mut c| {
        c.client.write_all(b"abc").expect("room");
        c.server.read_exact(&mut [0; 3]).expect("delivered");
        c.describe(world, 0, 3, false);
        case(world, "it has got more than was seen", &c.asks(NEXT), Verdict::Stack, busy);
        c.is_alive();
    });
    node(80, move |world, mut c| {
        let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::TCP)).expect("a raw socket");
        raw.bind(&SocketAddr::from((CLIENT, 0)).into()).expect("our address");
        let ahead = Tcp::new(c.flow, ACK | PSH, c.seq.wrapping_add(100), c.ack).data(b"later");
        raw.send_to(&ahead.frame()[34..], &SocketAddr::from((VIP, 0)).into()).expect("room");
        c.describe(world, 0, 0, true);
        case(world, "something waits for what is missing", &c.asks(NEXT), Verdict::Stack, busy);
        c.is_alive();
    });
}

#[test]
fn a_request_of_another_pool_waits_for_a_strict_service() {
    node(82, |world, mut c| {
        c.client.write_all(b"abc").expect("room");
        c.server.read_exact(&mut [0; 3]).expect("delivered");
        c.describe(world, 0, 3, false);
        let busy = &["move_socket_busy", "outside_pool", "drop_early_request"];
        case(world, "not while the socket is busy", &c.asks(NEXT), Verdict::Drop, busy);
        let mut early = c.sends(NEXT);
        early.ack = c.ack.wrapping_sub(1);
        let waits = &["move_not_idle", "outside_pool", "drop_early_request"];
        case(world, "nor before its answer is acknowledged", &early.frame(), Verdict::Drop, waits);
        c.is_alive();
    });
    node(82, |world, mut c| {
        c.describe(world, 0, 0, false);
        let moved = &["closed", "serving_ended", "moved", "outside_pool"];
        case(world, "but then", &c.asks(NEXT), Verdict::Redirect, moved);
        assert!(c.is_reset());
    });
}

#[test]
fn a_request_that_user_space_must_place_waits_there() {
    node(80, |world, mut c| {
        let unknown = b"GET /c HTTP/1.1\r\n\r\n";
        let request = c.asks(unknown);
        case(world, "nobody knows", &request, Verdict::Redirect, &["held_miss"]);
        case(world, "again", &request, Verdict::Redirect, &["held_more"]);
        let mut ack = c.sends(b"");
        ack.flags = ACK;
        case(world, "an ACK overtakes nothing", &ack.frame(), Verdict::Stack, &["owned", "serving_ended"]);
        let clock = world.clock();
        let start = c.seq.wrapping_sub(FIRST.len() as u32);
        assert_eq!(world.programs.decide_asked(&c.flow, c.seq, OTHER).expect("it can be run"), Some(start));
        assert_eq!(world.model.decide_asked(&c.flow, c.seq, OTHER, clock), Some(start));
        world.settle(clock).expect("equal");
        let mut fin = c.sends(b"");
        fin.flags = FIN | ACK;
        case(world, "nothing overtakes what comes back", &fin.frame(), Verdict::Redirect, &["held_more"]);
        c.describe(world, 0, 0, false);
        let said = world.step(&request, common::world::Way::Released).expect("equal");
        assert_eq!(
            (said.verdict, &world.counted[..]),
            (Verdict::Redirect, &["closed", "released", "moved"][..])
        );
        assert!(c.is_reset());
    });
}
