//! The tables of connections are bounded; live connections are displaced by live ones alone: not by handshakes
//! without a request, nor by connections that have ended. Needs root.

mod common;

use std::net::Ipv4Addr;
use std::time::Duration;

use baton_cluster::Flow;
use baton_datapath::constants::{FLAG_CLOSED, FLAG_HANDED, FLAG_LEFT};
use baton_datapath::{Counter, State};
use baton_packet_model::flag::ACK;
use baton_packet_model::{Binding, Offer, Options, cookie_of};
use common::frames::flow;
use common::world::{OTHER, SELF, keys};
use common::{Tcp, World, in_netns};

/// What `World` has room for.
const ROOM: u32 = 32_768;
const LIVE: u16 = 3000;

/// Another one for each number.
fn other_flow(number: u32) -> Flow {
    let client = Ipv4Addr::from(0x0a48_0000 + number / 50_000).into();
    Flow { client, client_port: 10_000 + (number % 50_000) as u16, ..flow(1) }
}

fn bound(world: &World, seq: u32, flags: u32, idle: Duration) -> Binding {
    let now = world.clock();
    Binding {
        // The machine may have been up for less.
        seen_ns: now.kernel_ns.wrapping_sub(idle.as_nanos() as u64),
        since_ns: now.kernel_ns,
        issued: now.cluster_ns,
        flags,
        start_ack: 7,
        mss: 1460,
        distributor: SELF.0,
        ..Binding::unknown(seq, State::Bound(OTHER))
    }
}

/// Connections that are idle, and go on.
fn live(world: &World) -> Vec<Flow> {
    let flows: Vec<_> = (0..LIVE).map(|n| flow(20_000 + n)).collect();
    let b = bound(world, 1000, FLAG_HANDED, Duration::from_secs(10));
    flows.iter().for_each(|flow| world.programs.set_whole_binding(flow, &b).expect("bindings"));
    flows
}

fn forgotten(world: &World, flows: &[Flow]) -> usize {
    let is_there = |f: &Flow| world.programs.binding(f).expect("bindings").is_some();
    flows.iter().filter(|f| !is_there(f)).count()
}

/// One with real addresses finishes handshakes and says no more, twice each: the table of recently used entries
/// takes that for use.
#[test]
fn open_connections_displace_no_live_ones() {
    in_netns(|| {
        let world = World::new("d", &[]);
        let flows = live(&world);
        for number in 0..ROOM + ROOM / 2 {
            let (flow, clock) = (other_flow(number), world.clock());
            let offer = Offer::of(&Options::default(), false);
            let cookie = cookie_of(&keys(), &flow, 1000, offer, 0, clock);
            let ack = Tcp::new(flow, ACK, 1001, cookie.wrapping_add(1)).frame();
            for _ in 0..2 {
                world.programs.run_ingress(&ack).expect("a run");
            }
        }
        let opened = world.programs.counter(Counter::HandshakeAck).expect("counters");
        assert!(opened >= u64::from(ROOM), "{opened} handshakes");
        assert_eq!(forgotten(&world, &flows), 0, "of {LIVE}");
    });
}

/// Short connections come and go, at their owner or at one who forwards; what a sweep puts aside is found by late
/// packets as before.
#[test]
fn ended_connections_displace_no_live_ones() {
    in_netns(|| {
        let world = World::new("d", &[]);
        let flows = live(&world);
        let mut number = 0;
        for round in 0..8 {
            let flags = if round % 2 == 0 { FLAG_CLOSED } else { FLAG_LEFT } | FLAG_HANDED;
            for _ in 0..ROOM / 4 {
                let b = bound(&world, number, flags, Duration::from_secs(5));
                world.programs.set_whole_binding(&other_flow(number), &b).expect("bindings");
                number += 1;
            }
            let swept = world.programs.sweep().expect("a run");
            assert_eq!((swept.live, swept.aside), (LIVE.into(), ROOM / 4), "{swept:?}");
            let last = other_flow(number - 1);
            let late = Tcp::new(last, ACK, number, 9).frame();
            let before = world.programs.counter(Counter::ForwardedBinding).expect("counters");
            world.programs.run_ingress(&late).expect("a run");
            assert_eq!(world.programs.counter(Counter::ForwardedBinding).expect("counters"), before + 1);
        }
        assert!(number > ROOM, "more than there is room for");
        assert_eq!(forgotten(&world, &flows), 0, "of {LIVE}");
    });
}

/// A sweep leaves alone what is live, has ended just now, or has no owner yet; what is too old goes.
#[test]
fn a_sweep_takes_what_has_ended() {
    in_netns(|| {
        let world = World::new("ds", &[]);
        let second = Duration::from_secs(1);
        let cases = [
            (FLAG_HANDED, second * 7000, true),
            (FLAG_HANDED, second * 7201, false),
            (FLAG_CLOSED, second, true),
            (FLAG_CLOSED, second * 3, true),
            (FLAG_CLOSED, second * 59, true),
        ];
        for (number, (flags, idle, _)) in (0..).zip(cases) {
            let b = bound(&world, 1, flags, idle);
            world.programs.set_whole_binding(&other_flow(number), &b).expect("bindings");
        }
        let swept = world.programs.sweep().expect("a run");
        assert_eq!((swept.live, swept.ended, swept.aside, swept.removed), (1, 1, 2, 1));
        for (number, (.., stays)) in (0..).zip(cases) {
            let found = world.programs.binding(&other_flow(number)).expect("bindings");
            assert_eq!(found.is_some(), stays, "case {number}");
        }
    });
}
