//! Packets of connections that nobody at this node knows: given to user space, within limits, so that it asks
//! the other nodes; refused where there is no other node. `World` holds programs and model equal. Needs root.

mod common;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use baton_cluster::Flow;
use baton_datapath::constants::{BEGUN_REACH, GUESSES_MAX, UNKNOWN_MAX, UNKNOWN_PREFIX_MAX};
use baton_datapath::{Frame, Numbers, State};
use baton_packet_model::flag::{ACK, FIN, RST, SYN};
use baton_packet_model::{Binding, Offer, Options, Socket as KernelSocket, Verdict, cookie_of};
use common::client::{Client, DATA, REQUEST, case, node, state};
use common::frames::{VIP, checksums_are_right, flow, flow_v6, read, timestamps};
use common::world::{OTHER, SELF, THIRD, Ways, keys, mac};
use common::{Tcp, World, in_netns};

const HELD: &[&str] = &["held_unknown"];

/// Each packet that a client of a lost connection may send.
fn every_kind(f: Flow) -> [(&'static str, Tcp); 6] {
    [
        ("a later request", Tcp::new(f, DATA, 5000, 9000).data(REQUEST)),
        ("a bare ACK: a download is under way", Tcp::new(f, ACK, 5000, 9000)),
        ("a keepalive probe", Tcp::new(f, ACK, 4999, 9000)),
        ("an older one, with a byte", Tcp::new(f, ACK, 4999, 9000).data(b"\0")),
        ("a FIN", Tcp::new(f, FIN | ACK, 5000, 9000)),
        ("data and FIN", Tcp::new(f, FIN | DATA, 5000, 9000).data(b"x")),
    ]
}

#[test]
fn the_other_nodes_are_asked() {
    for letters in ["d", "s", "ds", "wds"] {
        node(letters, move |world, f| {
            let this = [Some(SELF); baton_datapath::constants::MAGLEV_SLOTS as usize];
            world.spread(&this).expect("tables");
            for (what, packet) in every_kind(f) {
                let frame = packet.frame();
                let said = case(world, what, &frame, Verdict::Redirect, HELD);
                let held = Frame::parse(&said.frame).expect("a frame of TCP");
                assert!(held.is_unknown(), "{what}: user space must be able to tell it from others");
                assert!(!Frame::parse(&frame).expect("as it came").is_unknown());
                let again = held.readdressed(mac(SELF));
                assert_eq!(again.bytes[..6], mac(SELF), "{what}");
                assert_eq!(again.bytes[6..], frame[6..], "{what}: nothing else has changed");
                assert!(!again.is_unknown());
                assert_eq!(state(world, &f), None, "{what}: nothing is remembered of strangers");
            }
            let reset = Tcp::new(f, RST, 5000, 0).frame();
            case(
                world,
                "nobody waits for an answer to a RST",
                &reset,
                Verdict::Drop,
                &["drop_unknown_reset"],
            );
        });
    }
}

/// Found, the connection's packets go to its owner: also those that user space gives back.
#[test]
fn the_owner_gets_what_comes() {
    node("d", |world, f| {
        let request = Tcp::new(f, DATA, 5000, 9000).data(REQUEST).frame();
        case(world, "unknown", &request, Verdict::Redirect, HELD);
        let clock = world.clock();
        assert!(world.programs.bind_found(&f, 5000, THIRD, 0).expect("bindings"));
        world.model.bind_found(&f, 5000, THIRD, 0, clock);
        world.settle(clock).expect("equal");
        let said = world.step(&request, common::world::Way::Released).expect("equal");
        assert_eq!(
            (said.verdict, &world.counted[..]),
            (Verdict::Redirect, &["forwarded_binding", "released"][..])
        );
        let ack = Tcp::new(f, ACK, 5000, 9500).frame();
        case(world, "the next", &ack, Verdict::Redirect, &["forwarded_binding"]);
        // What was decided later stands, whoever tells of it, and what was found before it does not come back.
        let clock = world.clock();
        assert!(world.programs.bind_told(&f, 5000, OTHER, OTHER, clock.cluster_ns).expect("bindings"));
        world.model.bind_told(&f, 5000, OTHER, OTHER, clock.cluster_ns, clock);
        assert!(!world.programs.bind_found(&f, 5000, THIRD, 0).expect("bindings"));
        assert_eq!(state(world, &f), Some(State::Bound(OTHER)));
    });
}

/// What became known of a flow while others were asked stands: a new connection of the same ports, or the old one.
#[test]
fn what_became_known_meanwhile_stands() {
    node("d", |world, f| {
        let fresh = Binding::unknown(7, State::Open);
        let found =
            |world: &mut World| world.programs.bind_found(&f, 5000, THIRD, u64::MAX >> 1).expect("bindings");
        let now = world.clock();
        for state_now in [State::Open, State::Held, State::Reading, State::Bound(OTHER), State::Bound(SELF)] {
            let known = Binding { mss: 1460, seen_ns: now.kernel_ns, state: state_now, ..fresh };
            world.programs.set_whole_binding(&f, &known).expect("bindings");
            assert!(!found(world), "{state_now:?}");
            assert_eq!(state(world, &f), Some(state_now));
        }
        // Of its own, by another's word alone, and of one that has aged, nothing stands.
        let hearsay = Binding { seen_ns: now.kernel_ns, state: State::Bound(SELF), ..fresh };
        let aged = Binding { mss: 1460, state: State::Bound(OTHER), seen_ns: 1, flags: 128, ..fresh };
        for nothing in [hearsay, aged] {
            world.programs.set_whole_binding(&f, &nothing).expect("bindings");
            assert!(found(world), "{nothing:?}");
            assert_eq!(state(world, &f), Some(State::Bound(THIRD)));
        }
    });
}

/// A packet that comes back while the connection is unknown still does not go up once more.
#[test]
fn nothing_circles_between_programs_and_user_space() {
    node("ds", |world, f| {
        for (what, packet) in every_kind(f) {
            let said = world.step(&packet.frame(), common::world::Way::Released).expect("equal");
            assert_eq!(said.verdict, Verdict::Drop, "{what}");
            assert_eq!(world.counted, ["released", "drop_unknown_flow"], "{what}");
        }
    });
}

/// Where no other node can own it, the client is told at once, as by any stack (RFC 9293 3.10.7.1).
#[test]
fn the_only_node_refuses() {
    for (letters, v6) in [("ds", false), ("wds", true), ("s", true)] {
        in_netns(move || {
            let f = if v6 { flow_v6(40_000) } else { flow(40_000) };
            let ways = Ways { alone: true, ..Ways::default() };
            let mut world = World::with(letters, &[f], 1, ways).expect("the kernel takes the programs");
            let this = [Some(SELF); baton_datapath::constants::MAGLEV_SLOTS as usize];
            world.spread(&this).expect("tables");
            for (what, packet) in every_kind(f) {
                // It echoes nothing that a node may have said to it lately.
                let packet = packet.options(&[&timestamps(10, 5)]);
                let said = case(&mut world, what, &packet.frame(), Verdict::Redirect, &["reset_unknown"]);
                let tcp = read(&said.frame);
                assert!(tcp.rst && !tcp.ack && tcp.sequence_number == 9000, "{what}: {tcp:?}");
                assert_eq!(checksums_are_right(&said.frame), Some(true), "{what}");
            }
            // It may have begun a moment ago.
            let request = Tcp::new(f, DATA, 5000, 9000).data(REQUEST).frame();
            let counted = if letters.contains('d') { HELD } else { &["reset_unknown"] };
            case(&mut world, "without timestamps", &request, Verdict::Redirect, counted);
            // Also while user space is silent.
            world.daemon(false);
            let request = Tcp::new(f, DATA, 5000, 9000).data(REQUEST).frame();
            case(&mut world, "no daemon is needed", &request, Verdict::Redirect, &["reset_unknown"]);
        });
    }
}

#[test]
fn an_expired_handshake_is_refused_by_the_only_node() {
    in_netns(|| {
        let f = flow(40_000);
        let ways = Ways { alone: true, ..Ways::default() };
        let mut world = World::with("d", &[f], 1, ways).expect("the kernel takes the programs");
        let c = Client::greeted(&mut world, f, 5000);
        world.pass(Duration::from_secs(250));
        for (what, packet) in [("its request", c.requests()), ("its ACK", c.sends(ACK))] {
            let said = case(&mut world, what, &packet.frame(), Verdict::Redirect, &["reset_expired"]);
            let tcp = read(&said.frame);
            assert!(tcp.rst && !tcp.ack && tcp.sequence_number == c.ack, "acceptable to the client: {tcp:?}");
            assert_eq!(checksums_are_right(&said.frame), Some(true));
        }
        world.pass(Duration::from_secs(600));
        let request = c.requests().frame();
        case(&mut world, "too old to be known", &request, Verdict::Redirect, &["reset_unknown"]);
    });
}

/// What comes of a connection whose first packets were lost is told from what nobody has.
#[test]
fn a_connection_that_has_just_begun_is_known_by_its_cookie() {
    node("d", |world, f| {
        let c = Client::greeted(world, f, 5000);
        let numbers = |behind: u32, ack| {
            let packet = Tcp::new(f, DATA, c.seq.wrapping_add(behind), ack);
            let frame = packet.options(&[&timestamps(10, c.tsval)]).data(REQUEST).frame();
            Frame::parse(&frame).expect("a frame of TCP").numbers()
        };
        let begun = |numbers: &Numbers| world.programs.has_begun(&f, numbers).expect("a program");
        for behind in [u32::MAX, 0, 1, 8, 1460, BEGUN_REACH] {
            assert!(begun(&numbers(behind, c.ack)), "{behind}");
        }
        assert!(!begun(&numbers(BEGUN_REACH + 1, c.ack)), "too far behind");
        assert!(!begun(&numbers(8, c.ack.wrapping_add(1))), "it has had an answer");
        let right = numbers(8, c.ack);
        assert!(!begun(&Numbers { echo: Some(c.tsval.wrapping_sub(200_000)), ..right }), "long ago");
        assert!(!begun(&Numbers { echo: None, ..right }), "timestamps were agreed on");
        let other = Flow { client_port: f.client_port + 1, ..f };
        assert!(!world.programs.has_begun(&other, &right).expect("a program"), "of another connection");

        let cookie = cookie_of(&keys(), &f, 6000, Offer::of(&Options::default(), false), 0, world.clock());
        let frame = Tcp::new(f, DATA, 6009, cookie.wrapping_add(1)).data(REQUEST).frame();
        let plain = Frame::parse(&frame).expect("a frame of TCP").numbers();
        assert_eq!(plain.echo, None);
        assert!(begun(&plain), "without timestamps");
    });
}

/// What other nodes ask about may be undecided here yet.
#[test]
fn a_connection_without_request_is_known() {
    node("d", |world, f| {
        let c = Client::greeted(world, f, 5000);
        let known = |world: &World| {
            world.programs.known(&f, Duration::from_nanos(world.clock().kernel_ns)).expect("a table")
        };
        assert_eq!(known(world), None, "the cookie is all there is of it");
        let ack = Tcp::new(f, ACK, c.seq, c.ack).options(&[&timestamps(10, c.tsval)]);
        case(world, "the handshake's end", &ack.frame(), Verdict::Drop, &["handshake_ack"]);
        let known = known(world).expect("an entry");
        assert_eq!((known.state, known.start_seq), (State::Open, c.seq));
    });
}

/// A socket of this node, whatever has become of its binding, is the stack's.
#[test]
fn a_socket_without_binding_is_never_asked_about() {
    in_netns(|| {
        let listener = TcpListener::bind((VIP, 80)).expect("a namespace of our own");
        let stream = TcpStream::connect((VIP, 80)).expect("loopback");
        let SocketAddr::V4(client) = stream.local_addr().expect("connected") else { panic!("IPv4") };
        let f = Flow { client: (*client.ip()).into(), client_port: client.port(), ..flow(0) };
        let mut world = World::new("ds", &[f]);
        let socket = KernelSocket { start_seq: Some(0), rcv_nxt: 0, reach: None, established: None };
        world.model.stack.sockets.insert(f, socket);
        for (what, packet) in every_kind(f) {
            case(&mut world, what, &packet.frame(), Verdict::Stack, &["owned_unbound"]);
        }
        drop((stream, listener));
    });
}

/// While user space is silent nobody can be asked, and a RST might hit what another node owns.
#[test]
fn a_silent_daemon_is_not_asked() {
    node("d", |world, f| {
        world.daemon(false);
        for (what, packet) in every_kind(f) {
            case(world, what, &packet.frame(), Verdict::Drop, &["drop_unknown_flow"]);
        }
    });
}

/// A flood from one prefix leaves room for the others; floods from all of them are bounded together.
#[test]
fn so_many_are_asked_about_and_no_more() {
    node("d", |world, f| {
        let from = |client: [u8; 4], port: u16| {
            let f = Flow { client: client.into(), client_port: port, ..f };
            Tcp::new(f, ACK, 5000, 9000).frame()
        };
        // In one window of time: it may change in the middle of a try, then another one is made.
        let held = (0..10).find_map(|_| {
            let window = |world: &World| world.clock().kernel_ns >> 28;
            world.programs.forget_unknowns().expect("unknowns");
            world.model.tables.unknowns.clear();
            let began = window(world);
            let mut held = [0; 3];
            for port in 0..2 * UNKNOWN_PREFIX_MAX as u16 {
                world.programs.run_ingress(&from([192, 0, 2, port as u8], port)).expect("run");
            }
            held[0] = world.programs.unknowns(1024).expect("unknowns").1;
            for port in 0..4 {
                world.programs.run_ingress(&from([198, 51, 100, 1], port)).expect("run");
            }
            held[1] = world.programs.unknowns(1024).expect("unknowns").1;
            for net in 0..2 * UNKNOWN_MAX as u16 {
                let [high, low] = net.to_be_bytes();
                world.programs.run_ingress(&from([10, 100 + high, low, 1], 1)).expect("run");
            }
            held[2] = world.programs.unknowns(1024).expect("unknowns").1;
            (window(world) == began).then_some(held)
        });
        let all = [UNKNOWN_PREFIX_MAX, UNKNOWN_PREFIX_MAX + 4, UNKNOWN_MAX];
        assert_eq!(held.expect("2,000 packets in 268 ms, at the tenth try"), all);
    });
}

/// The client's last ACK behind a FIN that was answered is expected, however late it comes.
#[test]
fn the_end_of_a_connection_without_request_is_no_question() {
    node("d", |world, f| {
        for wait in [0, 250] {
            let c = Client::connected(world, f);
            world.pass(Duration::from_secs(wait));
            case(world, "its FIN", &c.sends(FIN | ACK).frame(), Verdict::Redirect, &["fin_answered"]);
            let mut last = c.sends(ACK);
            (last.seq, last.ack) = (c.seq + 1, c.ack.wrapping_add(1));
            case(world, "its last ACK", &last.frame(), Verdict::Drop, &["last_ack"]);
        }
        let syn = Tcp::new(f, SYN, 1, 0).frame();
        case(world, "and the next connection", &syn, Verdict::Redirect, &["syn_answered"]);
    });
}

/// While too many guesses come, cookies without timestamps are not looked at: a connection's first packet may be among
/// what nobody knows, and nobody is asked about it, nor reset. One with timestamps is not concerned.
#[test]
fn nothing_is_said_of_a_cookie_that_was_not_looked_at() {
    for alone in [false, true] {
        in_netns(move || {
            let f = flow(40_000);
            let ways = Ways { alone, ..Ways::default() };
            let world = World::with("d", &[f], 1, ways).expect("the kernel takes the programs");
            let plain = Tcp::new(f, DATA, 5000, 9000).data(REQUEST).frame();
            let stamped = Tcp::new(f, DATA, 5000, 9000).options(&[&timestamps(10, 20)]).data(REQUEST).frame();
            let counted = |frame: &[u8]| {
                let before = world.programs.counters().expect("counters");
                world.programs.run_ingress(frame).expect("run");
                let after = world.programs.counters().expect("counters");
                after.since(&before).nonzero().map(|(c, _)| c.name()).collect::<Vec<_>>()
            };
            let answered = if alone { "reset_unknown" } else { "held_unknown" };
            assert_eq!(counted(&plain), ["held_unknown"], "it may have begun a moment ago");
            // A second may end in the middle of a try.
            let limited = (0..10).any(|_| {
                world.programs.guess_wrong(GUESSES_MAX.into(), world.clock().kernel_ns).expect("guesses");
                let both = (counted(&plain), counted(&stamped));
                assert_eq!(both.1, [answered]);
                both.0 == ["cookie_limited", "drop_unknown_rate"]
                    || both.0 == ["drop_unknown_rate", "cookie_limited"]
            });
            assert!(limited);
        });
    }
}
