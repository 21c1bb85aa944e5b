//! Packets one by one: each case says in a sentence what must happen; `World` checks on the way that
//! the programs and their model agree about it. What cannot be read is in
//! bad_packets.rs, what a handoff packet may be in handoff_packets.rs.
//! Needs root.

mod common;

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use baton_cluster::Flow;
use baton_datapath::constants::{FLAG_ADOPTED, FLAG_CLOSED, FLAG_CONFIRMED, FLAG_SERVING};
use baton_datapath::model::flag::{ACK, FIN, PSH, RST, SYN};
use baton_datapath::model::{Binding, Offer, Socket as KernelSocket, Verdict};
use baton_datapath::{Event, Guide, State};
use common::client::{Client, DATA, REQUEST, case, node, state};
use common::frames::{CLIENT, MSS, SACK, VIP, WSCALE, checksums_are_right, flow, read, timestamps};
use common::world::{OTHER, SELF, THIRD, WEB, mac};
use common::{Tcp, World, in_netns, ip};
use socket2::{Domain, Socket, Type};

#[test]
fn a_syn_is_answered_with_what_it_offered_and_no_more() {
    node("d", |world, f| {
        let stamps = timestamps(0x1234_5678, 0);
        for mix in 0..16_u8 {
            let offers = |i: u8| mix & (1 << i) != 0;
            let offered = [MSS, SACK, WSCALE, &stamps];
            let parts: Vec<_> = (0..4).filter(|i| offers(*i)).map(|i| offered[usize::from(i)]).collect();
            let said = world.ingress(&Tcp::new(f, SYN, 7, 0).options(&parts).frame());
            assert_eq!(said.verdict, Verdict::Redirect);
            assert_eq!(checksums_are_right(&said.frame), Some(true), "mix {mix:04b}");
            let tcp = read(&said.frame);
            assert!(tcp.syn && tcp.ack && tcp.acknowledgment_number == 8, "{tcp:?}");
            assert_eq!((tcp.source_port, tcp.window_size), (80, 64_000));
            let offer = Offer::in_cookie(tcp.sequence_number, false);
            let mss = if offers(0) { 1460 } else { 536 };
            assert_eq!(offer, Offer { mss, sack: offers(1), wscale: offers(2).then_some(9) });

            let elements: Vec<_> =
                tcp.options_iterator().map(|o| format!("{:?}", o.expect("whole"))).collect();
            let has = |name: &str| elements.iter().any(|e| e.contains(name));
            assert!(has("MaximumSegmentSize(1376)"), "{elements:?}");
            assert_eq!(has("SelectiveAcknowledgementPermitted"), offers(1));
            assert_eq!(has("WindowScale(7)"), offers(2));
            assert_eq!(has(", 305419896)"), offers(3), "the client's TSval comes back: {elements:?}");
        }
    });
}

#[test]
fn the_first_request_is_decided_by_what_user_space_said() {
    node("d", |world, f| {
        let c = Client::connected(world, f);
        assert_eq!(state(world, &f), Some(State::Open));
        let request = c.requests().frame();
        let fresh = |world: &mut World| {
            world.rest().expect("tables");
            Client::connected(world, f);
        };
        let held = Verdict::Redirect;

        case(world, "no decision: held", &request, held, &["request_first", "held_miss"]);
        assert_eq!(state(world, &f), Some(State::Held));

        fresh(world);
        world.decide(WEB, REQUEST, &[OTHER, THIRD], 1);
        world.load(OTHER, 5, 1, true);
        let sent = ["request_first", "decided_cache", "handoff_sent"];
        let said = case(world, "the least loaded of two", &request, Verdict::Redirect, &sent);
        assert_eq!(state(world, &f), Some(State::Bound(THIRD)));
        assert_eq!(said.events, [], "it is the taker that tells");
        let (h, inner) = world.open(&said.frame);
        assert_eq!((h.start_seq, h.mss, h.snd_wscale, h.options), (1001, 1460, 9, 7));
        assert_eq!(inner[14..], request[14..], "the client's packet, byte for byte");

        fresh(world);
        world.decide(WEB, REQUEST, &[OTHER], 1);
        world.load(OTHER, 21, 1, true);
        case(world, "load above the limit: held", &request, held, &["request_first", "held_load"]);
        fresh(world);
        world.decide(WEB, REQUEST, &[OTHER], 2);
        case(world, "a decision of another generation", &request, held, &["request_first", "held_miss"]);
        fresh(world);
        world.guide(WEB, Guide::Ask, &[], 1);
        case(world, "every request is asked", &request, held, &["request_first", "held_ask"]);
        fresh(world);
        let tls = c.sends(DATA).data(b"\x16\x03\x01").frame();
        case(world, "no request line", &tls, held, &["request_first", "held_head"]);

        fresh(world);
        world.guide(WEB, Guide::Rota, &[THIRD, OTHER], 1);
        let sent = ["request_first", "decided_rota", "handoff_sent"];
        case(world, "the rota's turn", &request, Verdict::Redirect, &sent);

        fresh(world);
        world.daemon(false);
        world.guide(WEB, Guide::Ask, &[OTHER], 1);
        let sent = ["request_first", "decided_alone", "handoff_sent"];
        case(world, "user space is silent: the rota by target", &request, Verdict::Redirect, &sent);
        fresh(world);
        world.daemon(false);
        world.guide(WEB, Guide::Ask, &[], 1);
        case(world, "nobody to decide for", &request, Verdict::Drop, &["request_first", "drop_no_server"]);
        assert_eq!(state(world, &f), Some(State::Open), "the repetition is decided again");
    });
}

#[test]
fn a_held_connection_waits_but_not_for_ever() {
    node("d", |world, f| {
        let c = Client::connected(world, f);
        world.pass(Duration::from_secs(600)); // its cookie has expired; its binding has not
        let request = c.requests().frame();
        case(world, "no decision: held", &request, Verdict::Redirect, &["request_first", "held_miss"]);
        case(world, "its repetition too", &request, Verdict::Redirect, &["held_more"]);
        case(world, "a bare ACK has no news", &c.sends(ACK).frame(), Verdict::Drop, &["drop_held_ack"]);
        case(
            world,
            "a FIN belongs to the request",
            &c.sends(FIN | ACK).frame(),
            Verdict::Redirect,
            &["held_more"],
        );
        world.pass(Duration::from_millis(3001));
        world.daemon(false);
        world.guide(WEB, Guide::Ask, &[OTHER], 1);
        let again = ["request_first", "decided_alone", "handoff_sent"];
        case(world, "user space died: decided afresh, not refused", &request, Verdict::Redirect, &again);

        world.rest().expect("tables");
        let c = Client::connected(world, f);
        case(world, "held", &c.requests().frame(), Verdict::Redirect, &["request_first", "held_miss"]);
        case(world, "the client gives up", &c.sends(RST).frame(), Verdict::Drop, &["open_reset"]);
        assert_eq!(state(world, &f), None);
    });
}

#[test]
fn packets_of_a_connection_that_another_node_owns_go_there() {
    node("d", |world, f| {
        let c = Client::connected(world, f);
        world.decide(WEB, REQUEST, &[OTHER], 1);
        let sent = ["request_first", "decided_cache", "handoff_sent"];
        case(world, "handed off", &c.requests().frame(), Verdict::Redirect, &sent);
        let again =
            case(world, "lost: sent again", &c.requests().frame(), Verdict::Redirect, &["handoff_again"]);
        world.open(&again.frame);

        let mut ack = c.sends(ACK);
        ack.seq += REQUEST.len() as u32;
        let said = case(world, "an ACK", &ack.frame(), Verdict::Redirect, &["forwarded_binding"]);
        assert_eq!((said.frame[22], checksums_are_right(&said.frame)), (60, Some(true)), "one hop less");
        ack.ttl = 1;
        case(world, "its hops are used up", &ack.frame(), Verdict::Drop, &["drop_ttl"]);
        ack.ttl = 61;
        let back = ack.clone().by(mac(OTHER)).frame();
        case(world, "the owner sends it back", &back, Verdict::Drop, &["drop_loop"]);
        let assigned = |world: &World| world.programs.assigned(OTHER).expect("loads");
        for flags in [FIN | ACK, RST, RST | ACK] {
            let mut blind = c.sends(flags);
            blind.seq = c.seq.wrapping_add(1 << 20);
            let said = "by one who does not know its numbers";
            case(world, said, &blind.frame(), Verdict::Redirect, &["forwarded_binding"]);
            assert_eq!(assigned(world), 1, "no load was given back");
        }
        ack.flags = FIN | ACK;
        case(world, "a FIN", &ack.frame(), Verdict::Redirect, &["forwarded_binding"]);
        ack.flags = RST;
        case(world, "a RST", &ack.frame(), Verdict::Redirect, &["forwarded_binding"]);
        assert_eq!(assigned(world), 0, "its load was given back, once");
        world.pass(Duration::from_secs(7000));
        let late = "that it has ended nobody but the owner knows";
        case(world, late, &ack.frame(), Verdict::Redirect, &["forwarded_binding"]);
        let clock = world.clock();
        assert!(world.programs.close_told(&f, c.seq).expect("it can be run"));
        world.model.close_told(&f, c.seq, clock);
        world.pass(Duration::from_secs(59));
        let late = "late packets still find the owner";
        case(world, late, &ack.frame(), Verdict::Redirect, &["forwarded_binding"]);
        world.pass(Duration::from_secs(61));
        case(world, "a minute later it is forgotten", &ack.frame(), Verdict::Drop, &["drop_unknown_reset"]);
    });
}

#[test]
fn a_new_connection_of_the_same_flow_replaces_the_old() {
    node("d", |world, f| {
        let old = Client::connected(world, f);
        world.decide(WEB, REQUEST, &[OTHER], 1);
        let sent = ["request_first", "decided_cache", "handoff_sent"];
        case(world, "the old one", &old.requests().frame(), Verdict::Redirect, &sent);
        let new = Client::greeted(world, f, 200_000);
        case(
            world,
            "the old one's late packet",
            &old.sends(ACK).frame(),
            Verdict::Redirect,
            &["forwarded_binding"],
        );
        world.decide(WEB, REQUEST, &[THIRD], 1);
        case(world, "the new one's request, its ACK lost", &new.requests().frame(), Verdict::Redirect, &sent);
        assert_eq!(state(world, &f), Some(State::Bound(THIRD)));
    });
}

#[test]
fn before_a_request_the_node_answers_for_the_server() {
    node("d", |world, f| {
        let c = Client::connected(world, f);
        let mut probe = c.sends(ACK);
        probe.seq -= 1;
        for payload in [&b""[..], b"\0"] {
            let probe = probe.clone().data(payload).frame();
            let said = case(world, "a keepalive", &probe, Verdict::Redirect, &["keepalive_answered"]);
            let tcp = read(&said.frame);
            assert_eq!((tcp.sequence_number, tcp.acknowledgment_number), (c.ack, c.seq));
            assert_eq!(tcp.window_size, 500, "64,000 bytes in units of 128");
        }
        let mut late = c.requests();
        late.seq += 100;
        case(world, "the second segment first", &late.frame(), Verdict::Drop, &["drop_early_segment"]);
        let mut fin = c.sends(FIN | ACK);
        fin.seq += 100;
        case(world, "the FIN behind a lost request", &fin.frame(), Verdict::Drop, &["drop_early_segment"]);
        fin.seq = c.seq;
        let said = case(world, "no request at all", &fin.frame(), Verdict::Redirect, &["fin_answered"]);
        let tcp = read(&said.frame);
        assert!(tcp.fin && tcp.ack && tcp.acknowledgment_number == c.seq + 1);
        assert_eq!(state(world, &f), None);
        let mut last = c.sends(ACK);
        (last.seq, last.ack) = (c.seq + 1, c.ack.wrapping_add(1));
        case(world, "its last ACK", &last.frame(), Verdict::Drop, &["drop_unknown_flow"]);

        let c = Client::connected(world, f);
        case(world, "a RST", &c.sends(RST | ACK).frame(), Verdict::Drop, &["open_reset"]);
        assert_eq!(state(world, &f), None);
    });
}

#[test]
fn cookies_prove_connections_for_a_while() {
    node("d", |world, f| {
        world.decide(WEB, REQUEST, &[OTHER], 1);
        let c = Client::greeted(world, f, 5000);
        let mut forged = c.requests();
        forged.ack ^= 0x100;
        case(world, "not our cookie", &forged.frame(), Verdict::Drop, &["drop_unknown_flow"]);
        world.pass(Duration::from_secs(110));
        let sent = ["request_first", "decided_cache", "handoff_sent"];
        case(world, "in the next slot, the ACK lost", &c.requests().frame(), Verdict::Redirect, &sent);
        world.programs.remove_binding(&f).expect("bindings");
        world.model.tables.bindings.clear();
        world.pass(Duration::from_secs(140));
        let said = case(world, "expired", &c.requests().frame(), Verdict::Redirect, &["reset_expired"]);
        let tcp = read(&said.frame);
        assert!(tcp.rst && !tcp.ack && tcp.sequence_number == c.ack, "acceptable to the client: {tcp:?}");
        assert_eq!(checksums_are_right(&said.frame), Some(true));
        case(world, "no RST for an ACK", &c.sends(ACK).frame(), Verdict::Drop, &["drop_unknown_flow"]);
        world.pass(Duration::from_secs(600));
        case(world, "too old to be known", &c.requests().frame(), Verdict::Drop, &["drop_unknown_flow"]);
    });
}

#[test]
fn a_switch_spreads_by_maglev_and_follows_updates() {
    in_netns(|| {
        let flows: Vec<_> = (0..64).map(|i| flow(41_000 + i)).collect();
        let mut world = World::new("w", &flows);
        let mut seen = std::collections::BTreeMap::new();
        for f in &flows {
            world.ingress(&Tcp::new(*f, SYN, 1, 0).frame());
            *seen.entry(world.counted.clone()).or_insert(0) += 1;
        }
        let expected = [["drop_no_distributor"], ["drop_no_role"], ["forwarded_distributor"]];
        assert!(seen.keys().eq(expected.iter().map(|e| e.as_slice())), "{seen:?}");

        let f = flows[0];
        let ack = Tcp::new(f, ACK, 9, 9);
        let from_member = ack.clone().by(mac(THIRD)).frame();
        case(
            &mut world,
            "a member's packet is not spread again",
            &from_member,
            Verdict::Drop,
            &["drop_no_role"],
        );
        let clock = world.clock();
        assert!(world.programs.bind_told(&f, 9, THIRD, OTHER, clock.wall_ns).expect("bindings"));
        world.model.bind_told(&f, 9, THIRD, OTHER, clock.wall_ns, clock);
        world.settle(clock).expect("equal");
        case(
            &mut world,
            "an update leads to the owner",
            &ack.frame(),
            Verdict::Redirect,
            &["forwarded_binding"],
        );
        case(&mut world, "but not back to it", &from_member, Verdict::Drop, &["drop_loop"]);
    });
}

#[test]
fn what_was_only_heard_of_is_neither_adopted_nor_handed_off() {
    in_netns(|| {
        let _listener = TcpListener::bind((VIP, 80)).expect("a namespace of our own");
        let f = flow(40_000);
        let mut world = World::new("ds", &[f]);
        world.model.stack.listeners.insert((VIP, 80));
        for (owner, counted) in [(OTHER, &["forwarded_binding"][..]), (SELF, &["request_first", "held_miss"])]
        {
            world.rest().expect("tables");
            let c = Client::greeted(&mut world, f, 1000);
            let clock = world.clock();
            world.programs.bind_told(&f, c.seq, owner, THIRD, clock.wall_ns).expect("bindings");
            world.model.bind_told(&f, c.seq, owner, THIRD, clock.wall_ns, clock);
            world.settle(clock).expect("equal");
            case(&mut world, "no MSS is known", &c.requests().frame(), Verdict::Redirect, counted);
        }
    });
}

#[test]
fn a_reader_has_more_than_one_connection() {
    in_netns(|| {
        let strict = |port| Flow { vip_port: 82, ..flow(port) };
        let flows = [strict(40_000), strict(40_001)];
        let mut world = World::new("d", &flows);
        for f in flows {
            let flags = FLAG_ADOPTED;
            let seen_ns = world.clock().kernel_ns;
            world.bind(f, Binding { flags, seen_ns, ..Binding::unknown(1000, State::Reading) });
        }
        let (head, rest) = REQUEST.split_at(10);
        for (seq, part) in [(1000, head), (1010, rest)] {
            for f in flows {
                let packet = Tcp::new(f, DATA, seq, 7).data(part).frame();
                case(&mut world, "read, whoever else is", &packet, Verdict::Stack, &["reader_packet"]);
            }
        }
    });
}

#[test]
fn a_packet_that_would_not_fit_is_not_handed_off() {
    node("d", |world, f| {
        let c = Client::connected(world, f);
        world.guide(WEB, Guide::Rota, &[OTHER], 1);
        for (payload, counted) in [(1376, "handoff_sent"), (1377, "drop_too_big")] {
            world.rest().expect("tables");
            world.guide(WEB, Guide::Rota, &[OTHER], 1);
            Client::connected(world, f);
            let frame = c.sends(DATA).data(&vec![b'a'; payload]).frame();
            world.ingress(&frame);
            assert!(world.counted.contains(&counted), "{payload}: {:?}", world.counted);
        }
    });
}

#[test]
fn a_socket_of_ours_keeps_its_packets_and_is_not_ended_for_ever() {
    in_netns(|| {
        ip(&["address", "add", "10.2.0.2/32", "dev", "lo"]);
        let listener = TcpListener::bind((VIP, 80)).expect("a namespace of our own");
        let client = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        client.bind(&SocketAddr::from((CLIENT, 40_000)).into()).expect("a free port");
        client.connect(&SocketAddr::from((VIP, 80)).into()).expect("somebody listens");
        let _both = listener.accept().expect("a connection");
        let f = flow(40_000);
        let mut world = World::new("ds", &[f]);
        world
            .model
            .stack
            .sockets
            .insert(f, KernelSocket { start_seq: None, rcv_nxt: 0, reach: None, established: None });
        for flags in [ACK, DATA, RST, FIN | ACK] {
            let packet = Tcp::new(f, flags, 7, 7).frame();
            case(&mut world, "no binding, but a socket", &packet, Verdict::Stack, &["owned_unbound"]);
        }
        let c = Client::connected(&mut world, f);
        let mut b = world.programs.whole_binding(&f).expect("bindings").expect("open");
        (b.state, b.tries) = (State::Bound(SELF), 3);
        world.programs.set_whole_binding(&f, &b).expect("bindings");
        world.model.tables.bindings.insert(f, b);
        case(&mut world, "it would not end", &c.requests().frame(), Verdict::Drop, &["drop_stale_socket"]);
    });
}

#[test]
fn the_owner_follows_its_server() {
    node("ds", |world, f| {
        let c = Client::connected(world, f);
        world.guide(WEB, Guide::Rota, &[SELF], 1);
        // Nobody listens, so the connection is refused; the owner's record is then made by hand.
        let refused = ["request_first", "decided_rota", "handoff_local", "reset_no_listener"];
        let said = case(world, "no server listens", &c.requests().frame(), Verdict::Redirect, &refused);
        assert!(read(&said.frame).rst);
        let mut rst = c.sends(RST);
        (rst.back, rst.seq) = (true, c.ack);
        assert_eq!(world.egress(&rst.frame()).verdict, Verdict::Next, "the refusal may leave");

        let mut b = world.programs.whole_binding(&f).expect("bindings").expect("bound here");
        b.flags = FLAG_ADOPTED;
        world.programs.set_whole_binding(&f, &b).expect("bindings");
        world.model.tables.bindings.insert(f, b);
        let has = |world: &World, flag| world.model.tables.bindings[&f].has(flag);

        assert_eq!(world.egress(&rst.frame()).verdict, Verdict::Drop);
        assert_eq!(
            world.counted,
            ["drop_overtaken_reset"],
            "a young connection is not reset by its own node"
        );
        let mut answer = c.sends(ACK | PSH).data(b"HTTP/1.1 200 OK\r\n\r\n");
        (answer.back, answer.seq, answer.ack) = (true, c.ack, c.seq + REQUEST.len() as u32);
        world.egress(&answer.frame());
        assert_eq!(world.counted, ["serving_started", "bytes_served"]);
        assert!(has(world, FLAG_CONFIRMED) && has(world, FLAG_SERVING));
        let mut ack = c.sends(ACK);
        (ack.seq, ack.ack) = (answer.ack, c.ack.wrapping_add(20));
        case(world, "more than was sent is acknowledged", &ack.frame(), Verdict::Stack, &["owned"]);
        (ack.seq, ack.ack) = (answer.ack, c.ack.wrapping_add(18));
        case(world, "not all is acknowledged", &ack.frame(), Verdict::Stack, &["owned"]);
        ack.ack = c.ack.wrapping_add(19);
        case(world, "all is: idle", &ack.frame(), Verdict::Stack, &["owned", "serving_ended"]);
        world.pass(Duration::from_millis(11)); // long enough for the end to be worth a message
        let mut next = c.requests();
        (next.seq, next.ack) = (ack.seq, ack.ack);
        case(world, "the next request: busy", &next.frame(), Verdict::Stack, &["owned", "serving_started"]);
        answer.flags |= FIN;
        answer.seq = ack.ack;
        world.egress(&answer.frame());
        ack.flags |= FIN;
        ack.seq = next.seq + REQUEST.len() as u32;
        let said = case(
            world,
            "both sides have ended",
            &ack.frame(),
            Verdict::Stack,
            &["owned", "closed", "serving_ended"],
        );
        assert!(
            matches!(said.events[..], [Event::Closed { distributor: SELF, .. }]) && has(world, FLAG_CLOSED)
        );
    });
}
