//! What a server makes of handoff packets: good, forged, malformed field by field, stale, gone astray.
//! Needs root.

mod common;

use std::net::{IpAddr, TcpListener};
use std::time::Duration;

use baton_cluster::{Flow, NodeId};
use baton_datapath::constants::{FLAG_ADOPTED, FLAG_MOVED};
use baton_datapath::{State, probe};
use baton_packet_model::flag::{ACK, PSH};
use baton_packet_model::{Binding, Handoff, Verdict};
use common::frames::{GENEVE, INNER, OPTION, VIP, checksums_are_right, flow, timestamps};
use common::world::{HANDOFF_PORT, OTHER, SELF, THIRD, address, keys};
use common::{Tcp, World, in_netns};
use etherparse::PacketBuilder;

fn handoff(world: &World, f: Flow, seq: u32) -> Vec<u8> {
    handoff_to(world, f, seq, address(SELF))
}

fn handoff_to(world: &World, f: Flow, seq: u32, to: IpAddr) -> Vec<u8> {
    let inner = Tcp::new(f, ACK | PSH, seq, 77).options(&[&timestamps(1, 2)]).data(b"GET / HTTP/1.1\r\n\r\n");
    let h = Handoff {
        hops: 0,
        options: 7,
        snd_wscale: 9,
        start_seq: seq,
        tsval: 3,
        issued: world.clock().cluster_ns,
        mss: 1460,
        distributor: 1,
        reserved: 0,
        rtt_ms: 4,
        cwnd: 0,
        flags: 0,
        replay_end: 0,
    };
    h.wrap(&keys(), (&inner.frame(), f, 77), address(OTHER), to, HANDOFF_PORT).expect("whole")
}

/// A UDP datagram from another node to the handoff port.
fn udp_frame(world: &World, to: NodeId, payload: &[u8]) -> Vec<u8> {
    let ethernet = handoff(world, flow(40_000), 1).first_chunk::<12>().copied().expect("a frame");
    let (IpAddr::V4(from), IpAddr::V4(to)) = (address(OTHER), address(to)) else { panic!("IPv4") };
    let builder = PacketBuilder::ipv4(from.octets(), to.octets(), 64).udp(50_000, HANDOFF_PORT);
    let mut packet = Vec::new();
    builder.write(&mut packet, payload).expect("in memory");
    [&ethernet[..], &[0x08, 0x00], &packet].concat()
}

#[track_caller]
fn counted(world: &mut World, frame: &[u8]) -> Vec<&'static str> {
    world.ingress(frame);
    world.counted.clone()
}

fn server(letters: &'static str, test: impl FnOnce(&mut World, Flow) + Send + 'static) {
    in_netns(move || {
        let _listener = TcpListener::bind((VIP, 80)).expect("a namespace of our own");
        let f = flow(40_000);
        let mut world = World::new(letters, &[f]);
        world.model.stack.listeners.insert((VIP, 80));
        test(&mut world, f);
    });
}

#[test]
fn a_good_one_is_opened_and_its_connection_owned() {
    server("s", |world, f| {
        let frame = handoff(world, f, 1001);
        // A test-run's packet cannot be adopted: the kernel's refusal is the proof that it was asked.
        let said = world.ingress(&frame);
        assert_eq!(world.counted, ["handoff_received", "reset_refused"]);
        assert_eq!(said.verdict, Verdict::Redirect);
        assert_eq!(said.frame.len(), 14 + 20 + 20, "a RST without what the client sent");
        assert_eq!(checksums_are_right(&said.frame), Some(true));
        let b = world.programs.whole_binding(&f).expect("bindings").expect("bound");
        assert_eq!((b.state, b.mss, b.rtt_ms, b.distributor), (State::Bound(SELF), 1460, 4, 1));
    });
}

#[test]
fn any_bit_that_is_not_as_it_was_sent_is_refused() {
    server("s", |world, f| {
        let good = handoff(world, f, 1001);
        let mut changed = |at: usize, bits: u8| {
            let mut frame = good.clone();
            frame[at] ^= bits;
            counted(world, &frame).join(" ")
        };
        let malformed = [
            ("Geneve's version", GENEVE, 0x40),
            ("length of its options", GENEVE, 1),
            ("a control packet", GENEVE + 1, 0x80),
            ("protocol, high byte", GENEVE + 2, 1),
            ("protocol, low byte", GENEVE + 3, 1),
            ("class, high byte", OPTION, 1),
            ("class, low byte", OPTION + 1, 1),
            ("type", OPTION + 2, 0x80),
            ("length", OPTION + 3, 1),
            ("version", OPTION + 4, 2),
            ("inner IP version", INNER, 0x20),
            ("inner header length", INNER, 1),
            ("inner fragment", INNER + 6, 0x20),
            ("inner protocol", INNER + 9, 1),
            ("inner length", INNER + 2, 1),
        ];
        for (name, at, bits) in malformed {
            assert_eq!(changed(at, bits), "drop_handoff_malformed", "{name}");
        }
        // Not the segment's sequence number: the option's own is the one that is meant.
        let client = (INNER + 12..INNER + 16).chain(INNER + 20..INNER + 22);
        let sealed = (OPTION + 6..INNER).chain(client).chain(INNER + 28..INNER + 32);
        for at in sealed {
            assert_eq!(changed(at, 4), "drop_handoff_forged", "byte {at}");
        }
        for at in (INNER + 16..INNER + 20).chain(INNER + 22..INNER + 24) {
            assert_eq!(changed(at, 0x20), "drop_handoff_malformed", "byte {at}: no service's address");
        }
        let cut = &good[..INNER + 39];
        assert_eq!(counted(world, cut), ["drop_handoff_malformed"]);
        assert!(world.programs.flows().is_empty(), "nothing is kept of what is refused");
    });
}

#[test]
fn one_for_another_node_is_forged() {
    server("s", |world, f| {
        let mut frame = handoff_to(world, f, 1001, address(THIRD));
        let IpAddr::V4(me) = address(SELF) else { panic!("nodes have IPv4 addresses here") };
        frame[30..34].copy_from_slice(&me.octets());
        assert_eq!(counted(world, &frame), ["drop_handoff_forged"]);
        assert!(world.programs.flows().is_empty());
    });
}

#[test]
fn an_old_one_or_one_of_an_older_connection_is_stale() {
    server("s", |world, f| {
        let old = handoff(world, f, 1001);
        world.pass(Duration::from_secs(121));
        assert_eq!(counted(world, &old), ["drop_handoff_stale"]);
        let first = handoff(world, f, 1001);
        world.pass(Duration::from_secs(1));
        let second = handoff(world, f, 900_000);
        assert_eq!(counted(world, &second), ["handoff_received", "reset_refused"]);
        assert_eq!(counted(world, &first), ["handoff_received", "drop_handoff_stale"]);
        assert_eq!(world.programs.whole_binding(&f).expect("bindings").map(|b| b.start_seq), Some(900_000));
    });
}

#[test]
fn nothing_old_takes_a_connection_away_from_the_reader() {
    server("s", |world, f| {
        let old = handoff(world, f, 1001);
        let told = world.clock().cluster_ns;
        world.pass(Duration::from_millis(20));
        let clock = world.clock();
        let (flags, issued) = (FLAG_ADOPTED | FLAG_MOVED, clock.cluster_ns);
        let seen_ns = clock.kernel_ns;
        world.bind(f, Binding { flags, issued, seen_ns, ..Binding::unknown(2001, State::Reading) });
        assert_eq!(counted(world, &old), ["drop_handoff_stale"]);
        assert!(!world.programs.bind_told(&f, 1001, THIRD, OTHER, told).expect("bindings"));
        world.model.bind_told(&f, 1001, THIRD, OTHER, told, clock);
        world.settle(clock).expect("equal");
        assert_eq!(world.programs.reading(&f).expect("bindings").map(|r| r.start_seq), Some(2001));
        world.pass(Duration::from_millis(20));
        let later = handoff(world, f, 3001);
        assert_eq!(counted(world, &later), ["handoff_received", "reset_refused"]);
    });
}

/// The node's clock was ahead when it started, and has been set to its peers' since.
#[test]
fn what_was_decided_in_the_future_is_past() {
    for (back_ms, later) in [(400, false), (5000, true), (44_000, true), (120_000, true)] {
        server("s", move |world, f| {
            let first = handoff(world, f, 1001);
            world.ingress(&first);
            world.set_back(Duration::from_millis(back_ms));
            let next = handoff(world, f, 9001);
            let counted = counted(world, &next);
            let dropped = counted.contains(&"drop_handoff_stale");
            assert_eq!(dropped, !later, "{back_ms} ms: {counted:?}");
            let told = world.clock().cluster_ns + 1;
            let bound = world.programs.bind_told(&f, 20_001, THIRD, OTHER, told).expect("bindings");
            assert_eq!(bound, later, "{back_ms} ms");
        });
    }
}

#[test]
fn probes_are_told_of_and_nothing_else_is_done() {
    server("s", |world, _| {
        let now = world.clock().cluster_ns;
        let datagram = |world: &World, to: NodeId, issued: u64, bytes: usize| {
            let payload = probe(&keys(), OTHER, address(to), 0x0102_0304, issued, bytes);
            udp_frame(world, SELF, &payload)
        };
        for bytes in [64, 1280, 1500] {
            let frame = datagram(world, SELF, now, bytes);
            assert_eq!(frame.len(), 14 + bytes.max(20 + 8 + 36));
            assert_eq!(counted(world, &frame), ["probe_received"]);
        }
        let old = now - 46_000_000_000;
        let frame = datagram(world, SELF, old, 100);
        assert_eq!(counted(world, &frame), ["drop_probe_stale"]);
        let frame = datagram(world, THIRD, now, 100);
        assert_eq!(counted(world, &frame), ["drop_handoff_forged"]);
        let good = datagram(world, SELF, now, 100);
        let payload = 14 + 20 + 8;
        for (at, why) in [
            (0, "drop_handoff_malformed"),  // how long the option is
            (8, "drop_handoff_malformed"),  // its class
            (10, "drop_handoff_malformed"), // its type
            (11, "drop_handoff_malformed"), // its length
            (15, "drop_handoff_forged"),    // number
            (17, "drop_handoff_forged"),    // node
            (19, "drop_handoff_forged"),
            (27, "drop_handoff_forged"), // time
            (35, "drop_handoff_forged"), // tag
        ] {
            let mut frame = good.clone();
            frame[payload + at] ^= 1;
            assert_eq!(counted(world, &frame), [why], "byte {at}");
        }
    });
}

#[test]
fn one_that_went_to_the_wrong_node_is_handed_on_a_few_times() {
    server("s", |world, f| {
        let frame = handoff(world, f, 1001);
        let clock = world.clock();
        world.programs.bind_told(&f, 1001, THIRD, OTHER, clock.cluster_ns).expect("bindings");
        world.model.bind_told(&f, 1001, THIRD, OTHER, clock.cluster_ns, clock);
        world.settle(clock).expect("equal");
        let said = world.ingress(&frame);
        assert_eq!((said.verdict, &world.counted[..]), (Verdict::Redirect, &["handoff_received"][..]));
        let (on, _) = world.open(&said.frame);
        assert_eq!((on.hops, on.mss, on.options), (1, 1460, 7), "what it says goes on with it");
        let mut tired = frame;
        tired[OPTION + 5] = 3;
        assert_eq!(counted(world, &tired), ["handoff_received", "drop_loop"]);
    });
}

#[test]
fn a_node_that_is_no_server_takes_none() {
    server("wd", |world, f| {
        let frame = handoff(world, f, 1001);
        assert_eq!(counted(world, &frame), ["drop_no_role"]);
    });
}
