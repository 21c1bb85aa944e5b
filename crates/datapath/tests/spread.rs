//! Who decides a connection while the switch's tables change: of a cookie its maker, or the heir of one that is
//! gone; and nobody without a lease. Needs root.

mod common;

use std::time::Duration;

use baton_cluster::{Flow, Heirs, Maker, NodeId, SLOT_MAKERS, SpreadLine, SpreadTable};
use baton_datapath::constants::{FLAG_ADOPTED, FLAG_CONFIRMED};
use baton_datapath::{Counter, Frame, Lease, State};
use baton_packet_model::flag::{ACK, SYN};
use baton_packet_model::{Binding, Handoff, Offer, Options, Verdict, cookie_of, flow_clock};
use common::client::{Client, DATA, REQUEST, case, node};
use common::frames::{flow, timestamps};
use common::furnish::term;
use common::world::{HANDOFF_PORT, OTHER, SELF, THIRD, WEB, Way, Ways, keys, mac};
use common::{Tcp, World, in_netns};

const FOR_EVER: Duration = Duration::from_secs(1 << 30);
const SLOTS: usize = 65_537;

fn lease(term: u32, until: Duration) -> Lease {
    Lease { until, term, from: Some(OTHER), is_heir: false }
}

/// The client's request after a handshake that was answered in this term.
fn request(world: &World, f: Flow, term: u32, stamps: bool) -> Tcp {
    let clock = world.clock();
    let mut options = Options { mss: Some(1460), wscale: Some(8), sack: true, timestamps: Some((1, 0)) };
    let mut echo = vec![timestamps(2, flow_clock(&keys(), &f, clock))];
    if !stamps {
        options.timestamps = None;
        echo.clear();
    }
    let cookie = cookie_of(&keys(), &f, 1000, Offer::of(&options, false), term, clock);
    let echo: Vec<&[u8]> = echo.iter().map(Vec::as_slice).collect();
    Tcp::new(f, DATA, 1001, cookie.wrapping_add(1)).options(&echo).data(REQUEST)
}

const DECIDED: &[&str] = &["request_first", "decided_cache", "handoff_sent"];

#[test]
fn a_distributor_takes_its_own_terms_and_those_left_to_it() {
    node("d", |world, f| {
        for stamps in [true, false] {
            let ours = lease(5, FOR_EVER);
            let left = Lease { is_heir: true, ..lease(6, FOR_EVER) };
            world.rest().expect("tables");
            world.decide(WEB, REQUEST, &[OTHER], 1);
            world.leases(vec![Lease::direct(9), ours, left]).expect("leases");
            let fresh = |world: &mut World| {
                world.programs.remove_binding(&f).expect("bindings");
                world.model.tables.bindings.clear();
            };
            let unknown = (Verdict::Redirect, &["held_unknown"][..]);
            let decided = (Verdict::Redirect, DECIDED);
            for (sentence, of, from, (verdict, counted)) in [
                ("its own, by way of the switch", 5, Some(OTHER), decided),
                ("what the switch has left to it: the others are asked first", 6, Some(OTHER), unknown),
                ("not by way of anybody else", 6, Some(THIRD), unknown),
                ("another distributor's", 7, Some(OTHER), unknown),
                ("what came by no switch, by way of one", 9, Some(OTHER), unknown),
                ("what came by a switch, by way of none", 5, None, unknown),
                ("what came by none", 9, None, decided),
            ] {
                let request = request(world, f, of, stamps);
                let request = from.map_or(request.clone(), |node| request.by(mac(node)));
                case(world, sentence, &request.frame(), verdict, counted);
                fresh(world);
                // Given back, because nobody else has it: only what was left to this node is decided then.
                if (of, from) == (6, Some(OTHER)) {
                    let said = world.step(&request.frame(), Way::Released).expect("equal");
                    assert_eq!(said.verdict, Verdict::Redirect, "{sentence}");
                    assert!(DECIDED.iter().all(|c| world.counted.contains(c)), "{:?}", world.counted);
                    fresh(world);
                } else if counted == unknown.1 {
                    let said = world.step(&request.frame(), Way::Released).expect("equal");
                    assert_eq!(said.verdict, Verdict::Drop, "{sentence}");
                }
            }
        }
    });
}

/// Behind a router the switch's packets are wrapped. What is given back no longer is; which switch it came by is known
/// all the same.
#[test]
fn what_was_left_by_a_switch_behind_a_router_is_decided() {
    node("d", |world, f| {
        world.decide(WEB, REQUEST, &[THIRD], 1);
        let left = Lease { is_heir: true, ..lease(6, FOR_EVER) };
        world.leases(vec![Lease::direct(9), lease(5, FOR_EVER), left]).expect("leases");
        let request = request(world, f, 6, true);
        let forwarded = Handoff::forwarded(OTHER, 0, world.clock());
        let (from, to) = (world.ways.address(OTHER), world.ways.address(SELF));
        let wrapped = forwarded
            .wrap(&keys(), (&request.frame(), f, request.ack), from, to, HANDOFF_PORT)
            .expect("a whole packet");
        let said = world.step(&wrapped, Way::In).expect("equal");
        assert_eq!((said.verdict, world.counted.contains(&"held_unknown")), (Verdict::Redirect, true));
        let held = Frame::parse(&said.frame).expect("a frame of TCP");
        assert!(held.is_inherited());
        let again = held.readdressed(mac(SELF));
        let said = world.step(&again.bytes, Way::Released).expect("equal");
        assert_eq!(said.verdict, Verdict::Redirect);
        assert!(DECIDED.iter().all(|c| world.counted.contains(c)), "{:?}", world.counted);
    });
}

#[test]
fn nobody_decides_without_a_lease() {
    node("d", |world, f| {
        world.decide(WEB, REQUEST, &[OTHER], 1);
        let syn = Tcp::new(f, SYN, 1000, 0).options(&[&timestamps(1, 0)]).by(mac(OTHER)).frame();
        let by = |tcp: Tcp| tcp.by(mac(OTHER)).frame();
        let set = |world: &mut World, until| {
            world.leases(vec![Lease::direct(9), lease(5, until)]).expect("leases");
        };

        set(world, Duration::ZERO);
        case(world, "it will be granted", &syn, Verdict::Redirect, &["syn_answered"]);
        let early = by(request(world, f, 5, true));
        case(world, "but is not yet", &early, Verdict::Drop, &["drop_no_lease"]);
        set(world, FOR_EVER);
        case(world, "now it is", &by(request(world, f, 5, true)), Verdict::Redirect, DECIDED);

        world.rest().expect("tables");
        set(world, FOR_EVER);
        let held = by(request(world, f, 5, true));
        case(world, "nothing is known of it", &held, Verdict::Redirect, &["request_first", "held_miss"]);
        set(world, Duration::from_nanos(1));
        case(world, "no handshake, either", &syn, Verdict::Drop, &["drop_no_lease"]);
        assert_eq!(world.programs.bind_held(&f, 1001, OTHER).expect("an order"), None, "it has run out");
        assert!(!world.programs.read_held(&f, 1001).expect("an order"));
        set(world, FOR_EVER);
        world.programs.bind_held(&f, 1001, OTHER).expect("an order").expect("it holds again");
    });
}

/// A connection is open here, and another term has taken the place of its own: nobody will decide it here.
#[test]
fn what_will_never_be_decided_here_is_asked_about() {
    node("d", |world, f| {
        world.decide(WEB, REQUEST, &[OTHER], 1);
        world.leases(vec![Lease::direct(9), lease(7, FOR_EVER)]).expect("leases");
        let clock = world.clock();
        let request = request(world, f, 5, true);
        let opened = |ago_ms: u64| Binding {
            term: 5,
            seen_ns: clock.kernel_ns,
            distributor: SELF.0,
            since_ns: clock.kernel_ns - ago_ms * 1_000_000,
            ..Binding::unknown(1001, State::Open)
        };
        let mut case_of = |ago_ms, verdict, counted: &[&str]| {
            world.rest().expect("tables");
            world.leases(vec![Lease::direct(9), lease(7, FOR_EVER)]).expect("leases");
            world.bind(f, Binding { start_ack: request.ack, snd_end: request.ack, ..opened(ago_ms) });
            case(world, "of a term of old", &request.clone().by(mac(OTHER)).frame(), verdict, counted);
        };
        case_of(5_000, Verdict::Drop, &["drop_no_lease"]);
        case_of(11_000, Verdict::Redirect, &["held_unknown"]);
    });
}

#[test]
fn an_echo_proves_as_the_cookie_does() {
    node("d", |world, f| {
        world.decide(WEB, REQUEST, &[OTHER], 1);
        let c = Client::greeted(world, f, 5000);
        let echoes = |world: &World, behind: i64| {
            let now = flow_clock(&keys(), &f, world.clock());
            let echo = (i64::from(now) - behind) as u32;
            Tcp::new(f, DATA, c.seq, c.ack).options(&[&timestamps(10, echo)]).data(REQUEST).frame()
        };
        for (sentence, behind) in [
            ("from before the cookie's life", 111_000),
            ("from a time to come", -11_000),
            ("from anywhere", 1 << 30),
        ] {
            let frame = echoes(world, behind);
            case(world, sentence, &frame, Verdict::Redirect, &["held_unknown"]);
        }
        let without = Tcp::new(f, DATA, c.seq, c.ack).data(REQUEST).frame();
        case(world, "timestamps were offered", &without, Verdict::Redirect, &["held_unknown"]);
        let frame = echoes(world, 100);
        case(world, "what was said", &frame, Verdict::Redirect, DECIDED);
    });
}

#[test]
fn guesses_are_looked_at_only_so_often() {
    node("d", |world, f| {
        world.decide(WEB, REQUEST, &[OTHER], 1);
        let clock = world.clock();
        let offer = Offer::of(&Options::default(), false);
        let cookie = cookie_of(&keys(), &f, 1000, offer, 0, clock);
        let right = Tcp::new(f, DATA, 1001, cookie.wrapping_add(1)).data(REQUEST).frame();
        let mut limited = false;
        // A second may end among them.
        for _ in 0..4 {
            for guess in 0..6000 {
                let wrong = Tcp::new(f, ACK, 1001, cookie.wrapping_add(2 + guess)).frame();
                world.programs.run_ingress(&wrong).expect("a test-run");
            }
            let said = world.programs.run_ingress(&right).expect("a test-run");
            limited |= said.verdict == Verdict::Drop;
            world.programs.remove_binding(&f).expect("bindings");
        }
        assert!(limited, "too many wrong ones, and the right one is not looked at");
        let proven = Client { flow: f, seq: 1001, ack: 0, tsval: 0 };
        let stamped = request(world, proven.flow, 0, true).frame();
        let said = world.programs.run_ingress(&stamped).expect("a test-run");
        assert_eq!(said.verdict, Verdict::Redirect, "who proves with timestamps is not concerned");
    });
}

#[test]
fn a_switch_sends_what_follows_a_handshake_to_who_answered_it() {
    in_netns(|| {
        let f = flow(41_000);
        // What goes to THIRD is wrapped.
        let ways = Ways { routed: true, ..Ways::default() };
        let mut world = World::with("w", &[f], 1, ways).expect("the kernel takes the programs");
        let table = |nodes: &[NodeId], heir: Option<u8>| {
            let mut slot = SpreadLine { heirs: [heir; SLOT_MAKERS], ..SpreadLine::default() };
            for (maker, node) in slot.makers.iter_mut().zip(nodes) {
                *maker = Some(node.0);
            }
            SpreadTable { slots: vec![0; SLOTS], lines: vec![slot] }
        };
        let use_table = |world: &mut World, spread: SpreadTable, unsettled| {
            world.spread_table(1, spread).and_then(|()| world.use_table(1, unsettled)).expect("tables");
        };
        let to = |world: &mut World, sentence: &str, frame: &[u8], counted: &[&str], node: NodeId| {
            let said = case(world, sentence, frame, Verdict::Redirect, counted);
            assert_eq!(said.frame.len() > frame.len(), node == THIRD, "{sentence}");
        };
        for stamps in [true, false] {
            let by_other = request(&world, f, term(OTHER), stamps).frame();
            let by_third = request(&world, f, term(THIRD), stamps).frame();
            let now = &["forwarded_distributor"][..];
            let earlier = &["forwarded_distributor", "spread_earlier"][..];
            let syn = Tcp::new(f, SYN, 1, 0).frame();

            use_table(&mut world, table(&[OTHER], None), Duration::ZERO);
            to(&mut world, "one table", &by_other, now, OTHER);
            use_table(&mut world, table(&[THIRD, SELF, OTHER], None), FOR_EVER);
            to(&mut world, "a SYN goes by the new one", &syn, now, THIRD);
            to(&mut world, "what that one has answered too", &by_third, now, THIRD);
            to(&mut world, "what was answered before does not", &by_other, earlier, OTHER);
            world.use_table(1, Duration::from_nanos(1)).expect("tables");
            to(&mut world, "nothing is as old as that any more", &by_other, now, THIRD);

            use_table(&mut world, table(&[THIRD, SELF, OTHER], Some(2)), FOR_EVER);
            let over = Some(Heirs::Told);
            world.maker(Maker { node: OTHER, term: term(OTHER), over }).expect("makers");
            let lost = ["spread_earlier", "drop_no_distributor"];
            case(&mut world, "heirs without end", &by_other, Verdict::Drop, &lost);
            world.maker(Maker { node: OTHER, term: term(OTHER), over: Some(Heirs::Soon) }).expect("makers");
            case(&mut world, "heirs to come", &by_other, Verdict::Drop, &lost);
            use_table(&mut world, table(&[THIRD, SELF, OTHER], Some(1)), FOR_EVER);
            world.maker(Maker { node: OTHER, term: term(OTHER), over: Some(Heirs::Told) }).expect("makers");
            let other_heir = ["spread_earlier", "drop_no_role"];
            case(
                &mut world,
                "this node inherits, which is no distributor",
                &by_other,
                Verdict::Drop,
                &other_heir,
            );
            for (over, heir, node) in [
                (Some(Heirs::Told), Some(0), THIRD),
                (Some(Heirs::Told), Some(7), THIRD),
                (Some(Heirs::Told), None, THIRD),
                (None, Some(0), OTHER),
            ] {
                use_table(&mut world, table(&[THIRD, SELF, OTHER], heir), FOR_EVER);
                world.maker(Maker { node: OTHER, term: term(OTHER), over }).expect("makers");
                to(&mut world, "its heir's, or nobody's", &by_other, earlier, node);
            }
        }
    });
}

/// The last line: what must not be.
#[test]
fn of_two_owners_the_one_decided_earlier_falls_silent() {
    in_netns(|| {
        let f = flow(40_000);
        let mut world = World::new("s", &[f]);
        let clock = world.clock();
        let owned = Binding {
            seen_ns: clock.kernel_ns,
            since_ns: clock.kernel_ns,
            issued: clock.cluster_ns,
            flags: FLAG_ADOPTED | FLAG_CONFIRMED,
            start_ack: 500,
            snd_end: 500,
            mss: 1460,
            ..Binding::unknown(1001, State::Bound(SELF))
        };
        world.bind(f, owned);
        let later = clock.cluster_ns + 1;
        assert!(world.programs.bind_told(&f, 1001, THIRD, OTHER, later).expect("an order"));
        world.model.bind_told(&f, 1001, THIRD, OTHER, later, clock);
        world.settle(clock).expect("equal");
        assert_eq!(world.programs.counter(Counter::TwoOwners).expect("counters"), 1);
        let mut answer = Tcp::new(f, ACK, 500, 1001).data(b"HTTP/1.1 200 OK\r\n\r\n");
        answer.back = true;
        let said = world.egress(&answer.frame());
        assert_eq!((said.verdict, &world.counted[..]), (Verdict::Drop, &["drop_moved_away"][..]));
    });
}
