//! Later requests at the node that serves the connection, whose real socket, made over loopback, is idle or
//! busy: what moves, what stays, and what this node does for a connection that it has moved. Needs root.

mod common;

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::time::Duration;

use baton_datapath::constants::{FLAG_CLOSED, FLAG_FIN_IN, FLAG_HANDED, FLAG_MOVED};
use baton_datapath::{Event, State};
use baton_packet_model::Verdict;
use baton_packet_model::flag::{ACK, FIN, PSH, RST};
use common::client::{case, state};
use common::frames::{CLIENT, VIP, checksums_are_right, flow, read};
use common::furnish::Change;
use common::served::{FIRST, Served, client_here};
use common::world::{IMAGES, OTHER, PAGES, SELF, THIRD, WEB, Way, mac};
use common::{Tcp, World, in_netns};
use socket2::{Domain, Protocol, Socket, Type};

const NEXT: &[u8] = b"GET /img/b HTTP/1.1\r\nHost: x\r\n\r\n";

/// A server's node with a client behind loopback.
fn node(port: u16, test: impl FnOnce(&mut World, Served) + Send + 'static) {
    in_netns(move || {
        client_here();
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
        let (h, inner) = world.open(&said.frame);
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
        let (h, _) = world.open(&said.frame);
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

/// By one who knows the connection's addresses and ports, but not where its numbers are.
#[test]
fn blind_packets_say_nothing_of_the_client() {
    node(81, |world, mut c| {
        c.describe(world, 0, 0, false);
        let says = |flags, ahead: u32, acked: u32, payload: &[u8]| {
            let mut packet = c.sends(payload);
            packet.flags = flags;
            (packet.seq, packet.ack) = (c.seq.wrapping_add(ahead), c.ack.wrapping_add(acked));
            packet.frame()
        };
        const FAR: u32 = 1 << 30;
        let up = |world: &mut World, sentence: &str, packet: &[u8], counted: &[&str]| {
            case(world, sentence, packet, Verdict::Stack, counted);
            let b = world.programs.whole_binding(&c.flow).expect("bindings").expect("known");
            (b.has(FLAG_FIN_IN), b.has(FLAG_CLOSED))
        };
        let none = (false, false);
        for ahead in [FAR, FAR.wrapping_neg(), 3 * FAR] {
            let acks = [0, FAR, FAR.wrapping_neg()];
            for packet in acks.map(|acked| says(FIN | ACK, ahead, acked, b"")) {
                assert_eq!(up(world, "a FIN from anywhere", &packet, &["owned"]), none);
            }
            for packet in acks.map(|acked| says(RST | ACK, ahead, acked, b"")) {
                assert_eq!(up(world, "a RST from anywhere", &packet, &["owned"]), none);
            }
        }
        for packet in [FAR, FAR.wrapping_neg()].map(|acked| says(FIN | ACK, 0, acked, b"")) {
            assert_eq!(up(world, "the place, but no idea of the server's", &packet, &["owned"]), none);
        }
        for packet in [1, FAR, FAR.wrapping_neg()].map(|acked| says(ACK, 0, acked, b"")) {
            assert_eq!(up(world, "an ACK of anything", &packet, &["owned"]), none);
        }
        up(world, "of all that was sent", &says(ACK, 0, 0, b""), &["owned", "serving_ended"]);
        for ahead in [FAR, FAR.wrapping_neg(), 0_u32.wrapping_sub(FIRST.len() as u32)] {
            let packet = says(ACK | PSH, ahead, 0, FIRST);
            up(world, "data from anywhere, or once more", &packet, &["owned"]);
        }
        for packet in [FAR, FAR.wrapping_neg()].map(|acked| says(ACK | PSH, 0, acked, NEXT)) {
            up(world, "data with any ACK", &packet, &["owned"]);
        }
        up(world, "the next request", &says(ACK | PSH, 0, 0, NEXT), &["owned", "serving_started"]);
        let fin = says(FIN | ACK, 3, 0, b"");
        assert_eq!(up(world, "the client's, before what it is behind", &fin, &["owned"]), (true, false));
        c.is_alive();
    });
}

#[test]
fn a_request_of_another_pool_is_asked_for_while_the_socket_is_busy() {
    node(82, |world, mut c| {
        c.client.write_all(b"abc").expect("room");
        c.server.read_exact(&mut [0; 3]).expect("delivered");
        c.describe(world, 0, 3, false);
        let busy = &["held_busy", "move_socket_busy", "outside_pool"];
        case(world, "it may be idle the next time", &c.asks(NEXT), Verdict::Redirect, busy);
    });
}

#[test]
fn a_request_of_another_pool_waits_for_a_strict_service() {
    node(82, |world, mut c| {
        c.describe(world, 0, 0, false);
        let mut early = c.sends(NEXT);
        early.ack = c.ack.wrapping_sub(1);
        let waits = &["held_early", "move_not_idle", "outside_pool"];
        case(world, "nor before its answer is acknowledged", &early.frame(), Verdict::Redirect, waits);
        early.seq = c.seq.wrapping_add(NEXT.len() as u32);
        case(world, "nor what comes behind it", &early.frame(), Verdict::Redirect, &["held_early"]);
        let mut ack = c.sends(b"");
        ack.flags = ACK;
        let said =
            case(world, "all is acknowledged", &ack.frame(), Verdict::Stack, &["owned", "serving_ended"]);
        assert!(matches!(said.events[..], [Event::Idle { .. }]), "{said:?}");
        c.is_alive();
    });
    node(82, |world, mut c| {
        c.describe(world, 0, 0, false);
        let moved = &["closed", "serving_ended", "moved", "outside_pool"];
        case(world, "but then", &c.asks(NEXT), Verdict::Redirect, moved);
        assert!(c.is_reset());
    });
}

/// Its daemon was restarted, or the table has lost it: nobody knows where its requests begin.
#[test]
fn a_connection_without_binding_gets_no_request_in_a_strict_service() {
    const FORGOTTEN: Duration = Duration::from_secs(2 * 3600 + 1);
    node(82, |world, mut c| {
        c.describe(world, 0, 0, false);
        world.pass(FORGOTTEN);
        let mut ack = c.sends(b"");
        ack.flags = ACK;
        case(world, "what it has sent is acknowledged", &ack.frame(), Verdict::Stack, &["owned_unbound"]);
        let mut early = c.sends(NEXT);
        early.ack = c.ack.wrapping_sub(1);
        case(world, "its answer is not", &early.frame(), Verdict::Drop, &["drop_doubt"]);
        early.seq = c.seq.wrapping_add(1);
        case(world, "a guess", &early.frame(), Verdict::Drop, &["drop_doubt"]);
        let again = c.sends(b"");
        let again = Tcp { seq: c.seq.wrapping_sub(1), ..again }.data(b"x");
        case(world, "what its server has", &again.frame(), Verdict::Stack, &["owned_unbound"]);
        c.is_alive();
    });
    node(82, |world, mut c| {
        c.describe(world, 0, 0, false);
        world.pass(FORGOTTEN);
        case(world, "whosever it is", &c.asks(NEXT), Verdict::Redirect, &["reset_doubt"]);
        assert!(c.is_reset());
    });
    node(80, |world, mut c| {
        c.describe(world, 0, 0, false);
        world.pass(FORGOTTEN);
        case(world, "any server may serve it", &c.asks(NEXT), Verdict::Stack, &["owned_unbound"]);
        c.is_alive();
    });
}

/// What is asked about was up here already, as what came too early: it is read twice and counted once.
#[test]
fn a_request_that_was_early_before_it_is_asked_about_lets_the_connection_go_on() {
    node(82, |world, mut c| {
        let unknown = b"GET /img/c HTTP/1.1\r\nHost: x\r\n\r\n";
        let mut early = c.sends(unknown);
        early.ack = c.ack.wrapping_sub(1);
        let waits = &["held_early", "move_not_idle", "outside_pool"];
        case(world, "too early", &early.frame(), Verdict::Redirect, waits);
        let asked = &["held_miss", "outside_pool"];
        case(world, "again, when it may come", &c.asks(unknown), Verdict::Redirect, asked);
        let (clock, start) = (world.clock(), c.seq.wrapping_sub(FIRST.len() as u32));
        assert_eq!(world.programs.decide_asked(&c.flow, c.seq, OTHER).expect("it can be run"), Some(start));
        assert_eq!(world.model.decide_asked(&c.flow, c.seq, OTHER, clock), Some(start));
        for (read, is_all) in [(0, false), (2, true), (2, false)] {
            assert_eq!(world.programs.released(&c.flow, start, read).expect("it can be run"), is_all);
            assert_eq!(world.model.released(&c.flow, start, read), is_all);
        }
        world.settle(clock).expect("equal");
        assert_eq!(state(world, &c.flow), Some(State::Bound(SELF)), "nothing goes up for its sake any more");
        c.is_alive();
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
        let said = world.step(&request, Way::Released).expect("equal");
        assert_eq!(
            (said.verdict, &world.counted[..]),
            (Verdict::Redirect, &["closed", "released", "moved"][..])
        );
        assert!(c.is_reset());
    });
}

#[test]
fn what_came_while_a_service_did_not_follow_is_not_waited_for() {
    node(80, |world, mut c| {
        c.describe(world, 0, 0, false);
        let mut ahead = c.sends(NEXT);
        ahead.seq = c.seq.wrapping_add(100);
        case(world, "the client repeats what is missing", &ahead.frame(), Verdict::Drop, &["drop_gap"]);

        world.serve(80, Change::Follows).expect("tables");
        let unread = c.sends(NEXT).frame();
        case(world, "nobody reads it", &unread, Verdict::Stack, &["owned"]);
        c.client.write_all(NEXT).expect("room");
        c.server.read_exact(&mut [0; NEXT.len()]).expect("delivered");
        c.seq = c.seq.wrapping_add(NEXT.len() as u32);
        world.serve(80, Change::None).expect("tables");
        c.describe(world, 0, 0, false);
        let stays = &["owned", "move_doubt"];
        case(world, "the client will not repeat that", &c.asks(NEXT), Verdict::Stack, stays);
        c.is_alive();
    });
}
