//! Packets one by one: each case says in a sentence what must happen; `World` checks on the way that
//! the programs and their model agree about it. What cannot be read is in
//! bad_packets.rs, what a handoff packet may be in handoff_packets.rs.
//! Needs root.

mod common;

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use baton_cluster::Flow;
use baton_datapath::constants::{FLAG_ADOPTED, FLAG_CLOSED, FLAG_CONFIRMED, FLAG_SERVING};
use baton_datapath::{Counter, Event, GuideKind, State};
use baton_packet_model::flag::{ACK, FIN, PSH, RST, SYN};
use baton_packet_model::{Binding, Offer, Socket as KernelSocket, Verdict, maglev_slot};
use common::client::{Client, DATA, REQUEST, case, node, state};
use common::frames::{CLIENT, MSS, OUR_MAC, SACK, VIP, WSCALE, checksums_are_right, flow, read, timestamps};
use common::world::{OTHER, SELF, THIRD, WEB, Way, keys, mac};
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
            let offer = Offer::in_cookie(tcp.sequence_number, offers(3), false);
            let mss = if offers(0) { 1460 } else { 536 };
            // Without timestamps a scale is rounded down, and goes with SACK only.
            let scaled = offers(2) && (offers(1) || offers(3));
            let wscale = scaled.then_some(if offers(3) { 9 } else { 8 });
            assert_eq!(offer, Offer { mss, sack: offers(1), wscale, timestamps: offers(3) });

            let elements: Vec<_> =
                tcp.options_iterator().map(|o| format!("{:?}", o.expect("whole"))).collect();
            let has = |name: &str| elements.iter().any(|e| e.contains(name));
            assert!(has("MaximumSegmentSize(1376)"), "{elements:?}");
            assert_eq!(has("SelectiveAcknowledgementPermitted"), offers(1));
            assert_eq!(has("WindowScale(7)"), scaled);
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
        world.guide(WEB, GuideKind::Ask, &[], 1);
        case(world, "every request is asked", &request, held, &["request_first", "held_ask"]);
        fresh(world);
        let tls = c.sends(DATA).data(b"\x16\x03\x01").frame();
        case(world, "no request line", &tls, held, &["request_first", "held_head"]);

        fresh(world);
        world.guide(WEB, GuideKind::Rota, &[THIRD, OTHER], 1);
        let sent = ["request_first", "decided_rota", "handoff_sent"];
        case(world, "the rota's turn", &request, Verdict::Redirect, &sent);

        fresh(world);
        world.daemon(false);
        world.guide(WEB, GuideKind::Ask, &[OTHER], 1);
        let sent = ["request_first", "decided_alone", "handoff_sent"];
        case(world, "user space is silent: the rota by target", &request, Verdict::Redirect, &sent);
        fresh(world);
        world.daemon(false);
        world.guide(WEB, GuideKind::Ask, &[], 1);
        let refused = ["request_first", "reset_no_server"];
        let said = case(world, "nobody to decide for", &request, Verdict::Redirect, &refused);
        assert!(read(&said.frame).rst);
        assert_eq!(said.frame.len(), 14 + 20 + 20, "and nothing in it");
        assert_eq!(state(world, &f), Some(State::Open), "the repetition is decided again");

        fresh(world);
        world.daemon(false);
        world.guide(WEB, GuideKind::Ask, &[OTHER, THIRD, OTHER], 1);
        world.load(OTHER, 0, 1, false);
        let sent = ["request_first", "decided_alone", "handoff_sent"];
        let said = case(world, "who is dead is passed over", &request, Verdict::Redirect, &sent);
        world.open(&said.frame);
        assert_eq!(state(world, &f), Some(State::Bound(THIRD)));
    });
}

#[test]
fn an_idle_connection_is_forgotten_after_two_hours_however_young_the_machine() {
    node("d", |world, f| {
        world.guide(WEB, GuideKind::Rota, &[OTHER], 1);
        let c = Client::connected(world, f);
        world.ingress(&c.requests().frame());
        let ack = c.sends(ACK).frame();
        world.pass(Duration::from_secs(7_199));
        case(world, "known for two hours", &ack, Verdict::Redirect, &["forwarded_binding"]);
        world.pass(Duration::from_secs(7_201));
        case(world, "forgotten", &ack, Verdict::Redirect, &["held_unknown"]);
        // The machine's clock has not come to 30 hours, most likely.
        world.pass(Duration::from_secs(30 * 3600));
        case(world, "forgotten", &ack, Verdict::Redirect, &["held_unknown"]);
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
        world.guide(WEB, GuideKind::Ask, &[OTHER], 1);
        let again = ["request_first", "decided_alone", "handoff_sent"];
        case(world, "user space died: decided afresh, not refused", &request, Verdict::Redirect, &again);

        world.rest().expect("tables");
        let c = Client::connected(world, f);
        case(world, "held", &c.requests().frame(), Verdict::Redirect, &["request_first", "held_miss"]);
        case(world, "the client gives up", &c.sends(RST).frame(), Verdict::Drop, &["open_reset"]);
        assert_eq!(state(world, &f), None);
    });
}

/// A switch floods frames for an address that it does not know: whatever they carry, they are not ours.
#[test]
fn frames_for_another_host_pass_by() {
    node("wds", |world, f| {
        let mut others = vec![mac(OTHER), [0xff; 6], [1, 0, 0x5e, 0, 0, 1], [0x33, 0x33, 0, 0, 0, 1]];
        others.push([0; 6]);
        let own = OUR_MAC.map(|byte| byte ^ 1);
        others.push(own);
        let slot = maglev_slot(&keys(), &f);
        let table = &world.model.tables.spread.tables[&0];
        assert!(table.line(slot).is_some_and(|line| line.makers[0].is_some()), "the switch has a choice");
        let client = Client::greeted(world, f, 1000);
        let packets = |c: &Client| [Tcp::new(f, SYN, 1000, 0), c.sends(ACK), c.requests(), c.sends(RST)];
        for other in others {
            for mut frame in packets(&client).map(|tcp| tcp.frame()) {
                frame[..6].copy_from_slice(&other);
                case(world, "flooded", &frame, Verdict::Next, &[]);
                assert_eq!(state(world, &f), None);
            }
        }
    });
}

/// What user space gives back was for this host when it came, perhaps by another of its interfaces.
#[test]
fn a_held_packet_comes_back_whatever_its_frame_says() {
    node("d", |world, f| {
        let c = Client::connected(world, f);
        let held = ["request_first", "held_miss"];
        let said = case(world, "held", &c.requests().frame(), Verdict::Redirect, &held);
        let clock = world.clock();
        assert!(world.programs.bind_held(&f, c.seq, OTHER).expect("an order").is_some());
        world.model.bind_held(&f, c.seq, OTHER, clock);
        world.settle(clock).expect("the same in both");
        let mut frame = said.frame;
        frame[..6].copy_from_slice(&[2, 0, 0, 0, 9, 9]);
        let back = world.step(&frame, Way::Released).expect("as the model says");
        assert_eq!(
            (back.verdict, &world.counted[..]),
            (Verdict::Redirect, &["handoff_sent", "released"][..])
        );
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
        assert_eq!(
            (said.frame[22], checksums_are_right(&said.frame)),
            (8, Some(true)),
            "no router is on the way"
        );
        ack.ttl = 4;
        let said = case(world, "came far", &ack.frame(), Verdict::Redirect, &["forwarded_binding"]);
        assert_eq!(said.frame[22], 3, "one hop less");
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
        case(world, "its last ACK", &last.frame(), Verdict::Drop, &["last_ack"]);

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
        case(world, "not our cookie", &forged.frame(), Verdict::Redirect, &["held_unknown"]);
        world.pass(Duration::from_secs(80));
        let sent = ["request_first", "decided_cache", "handoff_sent"];
        case(world, "in the next slot, the ACK lost", &c.requests().frame(), Verdict::Redirect, &sent);
        world.programs.remove_binding(&f).expect("bindings");
        world.model.tables.bindings.clear();
        world.pass(Duration::from_secs(140));
        case(world, "expired", &c.requests().frame(), Verdict::Redirect, &["held_unknown"]);
        case(world, "its ACK", &c.sends(ACK).frame(), Verdict::Redirect, &["held_unknown"]);
        world.pass(Duration::from_secs(600));
        case(world, "too old to be known", &c.requests().frame(), Verdict::Redirect, &["held_unknown"]);
    });
}

/// The client repeats its first request because it has heard nothing: the node that it was decided for is down.
/// Asked once more in vain, another one gets it; a node whose daemon alone is silent would have answered.
#[test]
fn a_request_for_a_dead_node_is_decided_again() {
    node("d", |world, f| {
        let c = Client::connected(world, f);
        let get = c.requests().frame();
        world.guide(WEB, GuideKind::Rota, &[OTHER, THIRD], 1);
        case(world, "for OTHER", &get, Verdict::Redirect, &["request_first", "decided_rota", "handoff_sent"]);
        case(world, "lost, say", &get, Verdict::Redirect, &["handoff_again"]);
        world.load(OTHER, 0, 1, false);
        world.guide(WEB, GuideKind::Rota, &[THIRD], 1);
        case(world, "OTHER is down", &get, Verdict::Redirect, &["handoff_again"]);
        case(world, "a copy of that", &get, Verdict::Redirect, &["handoff_again"]);
        world.pass(Duration::from_millis(200));
        let before = world.programs.whole_binding(&f).expect("bindings").expect("bound").issued;
        let again = ["decided_again", "request_first", "decided_rota", "handoff_sent"];
        let said = case(world, "nor was that heard of", &get, Verdict::Redirect, &again);
        let (h, _) = world.open(&said.frame);
        assert!(h.issued > before, "of two decisions the later one stands");
        assert_eq!(state(world, &f), Some(State::Bound(THIRD)));
        case(world, "a repetition, as ever", &get, Verdict::Redirect, &["handoff_again"]);
    });
}

/// What is not safe to be repeated waits for its node; nor is anything that the client has heard an answer to.
#[test]
fn only_what_may_be_repeated_is_decided_again() {
    let requests: [&[u8]; 4] = [
        b"POST /a HTTP/1.1\r\n\r\n",
        b"GETX /a HTTP/1.1\r\n\r\n",
        b"HEADS /a HTTP/1.1\r\n\r\n",
        b"DELETE /a HTTP/1.1\r\n\r\n",
    ];
    for request in requests {
        node("d", move |world, f| {
            let c = Client::connected(world, f);
            world.guide(WEB, GuideKind::Rota, &[OTHER, THIRD], 1);
            let frame = c.sends(DATA).data(request).frame();
            world.ingress(&frame);
            world.load(OTHER, 0, 1, false);
            world.guide(WEB, GuideKind::Rota, &[THIRD], 1);
            for _ in 0..3 {
                case(world, "it may have been taken", &frame, Verdict::Redirect, &["handoff_again"]);
                world.pass(Duration::from_millis(200));
            }
            // Its machine is gone for sure: the client is to know.
            world.gone(OTHER, true);
            let said = case(world, "no answer will come", &frame, Verdict::Redirect, &["reset_node_gone"]);
            let tcp = read(&said.frame);
            assert!(tcp.rst && tcp.sequence_number == c.ack, "acceptable to the client");
        });
    }
}

/// Whatever comes for a connection whose machine is gone is answered with a RST, also by a switch that only
/// knows where it was; when the machine is back, its stack answers.
#[test]
fn connections_of_a_machine_that_is_gone_are_reset() {
    for letters in ["w", "d"] {
        node(letters, |world, f| {
            let clock = world.clock();
            assert!(world.programs.bind_told(&f, 9, OTHER, THIRD, clock.cluster_ns).expect("bindings"));
            world.model.bind_told(&f, 9, OTHER, THIRD, clock.cluster_ns, clock);
            world.settle(clock).expect("equal");
            let (ack, data) = (Tcp::new(f, ACK, 500, 700), Tcp::new(f, DATA, 500, 700).data(b"more"));
            let rst = Tcp::new(f, RST | ACK, 500, 700).frame();
            world.load(OTHER, 0, 1, false);
            let on = ["forwarded_binding"];
            case(world, "down is not gone", &data.frame(), Verdict::Redirect, &on);
            world.gone(OTHER, true);
            for tcp in [&ack, &data] {
                let said = case(world, "gone", &tcp.frame(), Verdict::Redirect, &["reset_node_gone"]);
                assert_eq!(read(&said.frame).sequence_number, 700);
            }
            case(world, "no RST for a RST", &rst, Verdict::Redirect, &on);
            world.gone(OTHER, false);
            case(world, "back", &data.frame(), Verdict::Redirect, &on);
        });
    }
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
        let expected = [["drop_no_role"], ["forwarded_distributor"], ["reset_no_distributor"]];
        assert!(seen.keys().eq(expected.iter().map(|e| e.as_slice())), "{seen:?}");
        seen.clear();
        world.model.tables.spread.refuse_ns = u64::MAX;
        world.use_table(0, Duration::ZERO).expect("tables");
        for f in &flows {
            world.ingress(&Tcp::new(*f, SYN, 1, 0).frame());
            *seen.entry(world.counted.clone()).or_insert(0) += 1;
        }
        let expected = [["drop_no_distributor"], ["drop_no_role"], ["forwarded_distributor"]];
        assert!(seen.keys().eq(expected.iter().map(|e| e.as_slice())), "it may be restarted: {seen:?}");
        seen.clear();
        for f in &flows {
            world.ingress(&Tcp::new(*f, ACK, 2, 9).data(REQUEST).frame());
            *seen.entry(world.counted.clone()).or_insert(0) += 1;
        }
        let expected = [["drop_no_distributor"], ["drop_no_role"], ["forwarded_distributor"]];
        assert!(seen.keys().eq(expected.iter().map(|e| e.as_slice())), "nobody knows of it: {seen:?}");

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
        assert!(world.programs.bind_told(&f, 9, THIRD, OTHER, clock.cluster_ns).expect("bindings"));
        world.model.bind_told(&f, 9, THIRD, OTHER, clock.cluster_ns, clock);
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

/// A daemon of another version may give it; nothing is done that nobody has described.
#[test]
fn an_unknown_order_is_refused_and_counted() {
    node("ds", |world, f| {
        for kind in [0, 10, u16::MAX] {
            let before = world.programs.counters().expect("counters").get(Counter::FaultOrder);
            assert!(!world.programs.order(&f, kind).expect("a program"), "{kind}");
            let after = world.programs.counters().expect("counters").get(Counter::FaultOrder);
            assert_eq!((after - before, state(world, &f)), (1, None), "{kind}");
        }
    });
}

/// A switch hears of a connection when its client has closed it and uses the port again: its packets are the new
/// connection's, however these are cut. What moved later in one connection is about that one.
#[test]
fn what_a_switch_hears_too_late_is_about_no_later_connection() {
    node("w", |world, f| {
        let told = |world: &mut World, start_seq| {
            let clock = world.clock();
            let done =
                world.programs.bind_told(&f, start_seq, THIRD, OTHER, clock.cluster_ns).expect("bindings");
            world.model.bind_told(&f, start_seq, THIRD, OTHER, clock.cluster_ns, clock);
            world.settle(clock).expect("equal");
            done
        };
        world.spread(&[Some(OTHER); baton_datapath::constants::MAGLEV_SLOTS as usize]).expect("tables");
        let distributor = &["forwarded_distributor"][..];
        let syn = |world: &mut World, what: &str, seq| {
            case(world, what, &Tcp::new(f, SYN, seq, 0).frame(), Verdict::Redirect, distributor);
        };
        syn(world, "a connection", 1000);
        syn(world, "the next one", 500_000);
        assert!(!told(world, 1001), "of the first one");
        assert!(!told(world, 1700), "a later request of it has moved");
        let half = Tcp::new(f, DATA, 500_007, 7).data(b"half").frame();
        case(world, "any packet of the second", &half, Verdict::Redirect, distributor);
        assert!(told(world, 500_001), "of the second one");
        case(world, "its own server's", &half, Verdict::Redirect, &["forwarded_binding"]);
        assert!(told(world, 3_500_000), "a later request has moved");
        syn(world, "numbers wrap", u32::MAX);
        assert!(!told(world, u32::MAX - 500), "of the one before");
        assert!(told(world, 0), "of this one");
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
            world.programs.bind_told(&f, c.seq, owner, THIRD, clock.cluster_ns).expect("bindings");
            world.model.bind_told(&f, c.seq, owner, THIRD, clock.cluster_ns, clock);
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
        world.guide(WEB, GuideKind::Rota, &[OTHER], 1);
        for (payload, counted) in [(1376, "handoff_sent"), (1377, "drop_too_big")] {
            world.rest().expect("tables");
            world.guide(WEB, GuideKind::Rota, &[OTHER], 1);
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

/// A reader repeats what it has replayed until it hears that the server has it. By then the connection may have been
/// answered, and closed.
#[test]
fn a_replay_that_comes_after_the_end_is_not_refused() {
    node("ds", |world, f| {
        let c = Client::connected(world, f);
        world.guide(WEB, GuideKind::Rota, &[SELF], 1);
        let refused = ["request_first", "decided_rota", "handoff_local", "reset_no_listener"];
        case(world, "no server listens", &c.requests().frame(), Verdict::Redirect, &refused);
        let mut rst = c.sends(RST);
        (rst.back, rst.seq) = (true, c.ack);
        let mut b = world.programs.whole_binding(&f).expect("bindings").expect("bound here");
        b.flags = FLAG_ADOPTED | FLAG_CLOSED;
        let mut counted = |replay_end, said: u32| {
            let b = Binding { replay_end, snd_end: c.ack.wrapping_add(said), ..b };
            world.programs.set_whole_binding(&f, &b).expect("bindings");
            world.model.tables.bindings.insert(f, b);
            let verdict = world.egress(&rst.frame()).verdict;
            (verdict, world.counted.clone())
        };
        let eaten = (Verdict::Drop, vec!["drop_overtaken_reset"]);
        assert_eq!(counted(c.seq + 9, 300), eaten);
        assert_eq!(counted(c.seq + 9, 0).0, Verdict::Next, "its server has refused it");
        assert_eq!(counted(0, 300).0, Verdict::Next, "what its client sends itself is answered");
    });
}

#[test]
fn the_owner_follows_its_server() {
    node("ds", |world, f| {
        let c = Client::connected(world, f);
        world.guide(WEB, GuideKind::Rota, &[SELF], 1);
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
