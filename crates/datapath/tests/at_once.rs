//! Two packets of one connection at once, on two CPUs: which one the programs finish with first must not
//! matter. Needs root, and two CPUs to fail.

mod common;

use std::sync::Barrier;
use std::thread;

use baton_datapath::{Counter, GuideKind, Hold, State};
use baton_packet_model::flag::ACK;
use common::client::{Client, state};
use common::frames::flow;
use common::world::{OTHER, THIRD, WEB};
use common::{World, in_netns, ip};

const ROUNDS: u32 = 4000;

/// A device, at the address that frames are sent to.
fn wire(name: &str) -> Hold {
    let wire = Hold::create(name).expect("a TAP device");
    ip(&["link", "set", name, "address", "02:00:00:00:00:10"]);
    wire
}

/// The ACK that ends the handshake does not take back what the request behind it was decided for: neither
/// of a fresh flow, nor of one that had a connection before.
#[test]
fn the_ack_of_the_handshake_and_the_request() {
    in_netns(|| {
        let wires = ["tap0", "tap1"].map(wire);
        let mut world = World::try_new("d", &[], wires[0].index()).expect("the kernel takes the programs");
        wires.iter().for_each(|wire| world.programs.attach(wire.index()).expect("tcx"));
        world.guide(WEB, GuideKind::Rota, &[OTHER], 1);
        let (flow, mut dropped_before) = (flow(40_000), 0);
        for reused in [false, true] {
            let mut taken_back = 0;
            for round in 1..=ROUNDS {
                if !reused {
                    world.programs.remove_binding(&flow).expect("bindings");
                }
                let isn = round * 1_000_000;
                let client = Client::greeted_by_programs(&world, flow, isn);
                let frames = [client.sends(ACK).frame(), client.requests().frame()];
                let start = &Barrier::new(frames.len());
                thread::scope(|scope| {
                    for (wire, frame) in wires.iter().zip(&frames) {
                        scope.spawn(move || {
                            start.wait();
                            wire.release(frame).expect("room in the device");
                        });
                    }
                });
                // Or the request was dropped, since the ACK was taking the old connection's place.
                let dropped = world.programs.counters().expect("counters").get(Counter::DropBusy);
                let bound = state(&world, &flow) == Some(State::Bound(OTHER));
                taken_back += u32::from(!bound && dropped == dropped_before);
                dropped_before = dropped;
            }
            assert_eq!(taken_back, 0, "of {ROUNDS}, reused: {reused}");
        }
    });
}

/// A first request that the network doubled is decided once: two servers would answer one connection.
#[test]
fn the_same_request_twice() {
    in_netns(|| {
        let wires = ["tap0", "tap1"].map(wire);
        let mut world = World::try_new("d", &[], wires[0].index()).expect("the kernel takes the programs");
        wires.iter().for_each(|wire| world.programs.attach(wire.index()).expect("tcx"));
        world.guide(WEB, GuideKind::Rota, &[OTHER, THIRD], 1);
        let flow = flow(40_000);
        let decided = |world: &World| world.programs.counters().expect("counters").get(Counter::DecidedRota);
        for open in [false, true] {
            let mut twice = 0;
            for round in 1..=ROUNDS {
                world.programs.remove_binding(&flow).expect("bindings");
                let isn = round * 1_000_000;
                let client = Client::greeted_by_programs(&world, flow, isn);
                if open {
                    world.programs.run_ingress(&client.sends(ACK).frame()).expect("a run");
                }
                let (request, before) = (client.requests().frame(), decided(&world));
                let start = &Barrier::new(wires.len());
                thread::scope(|scope| {
                    for wire in &wires {
                        let request = &request;
                        scope.spawn(move || {
                            start.wait();
                            wire.release(request).expect("room in the device");
                        });
                    }
                });
                twice += decided(&world) - before - 1;
                assert!(matches!(state(&world, &flow), Some(State::Bound(_))));
            }
            assert_eq!(twice, 0, "of {ROUNDS}, open: {open}");
        }
    });
}
