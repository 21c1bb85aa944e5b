//! Random packets on a few flows, well formed and mutated, in random order, with user space, other
//! nodes and time doing what they do in between: after each, the loaded programs and their model must
//! agree on verdict, packet, counters, events and bindings. Seeded; a failing run prints its shortest
//! sequence. Needs root.

mod against {
    pub mod play;
    pub mod reload;
    pub mod steps;
}
mod common;

use std::collections::{HashMap, HashSet};
use std::net::TcpListener;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use against::play::{Play, flow_of};
use against::steps::blocks;
use baton_datapath::Counter;
use common::frames::{VIP, VIP_V6};
use common::world::Ways;
use common::{World, in_netns, ip};
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};

fn runner(cases: u32) -> TestRunner {
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 4000, ..Config::default() };
    TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha))
}

/// What no packet of a test-run leads to at a node without switch: nothing can be adopted, so no socket of
/// ours gets in the way, or is idle; the guard is a program of its own (tests/guard.rs); probes of the path are packets of
/// tests/handoff_packets.rs; and nothing goes wrong.
const UNSEEN: &[&str] = &[
    "adopted",
    "adopt_again",
    "stale_socket_ended",
    "forwarded_distributor",
    "spread_earlier",
    "cookie_limited",
    "owned_unbound",
    "reader_adopted",
    "cwnd_carried",
    "moved",
    "drop_busy",
    "drop_no_role",
    "drop_unattended",
    "drop_no_distributor",
    "reset_no_distributor",
    "drop_stale_socket",
    "probe_received",
    "drop_probe_stale",
    "event_lost",
    "fault_rewrite",
    "fault_map",
    "fault_order",
];

/// Random sequences through a node of these roles, on one link and in a routed cluster of IPv6 nodes.
fn agree(letters: &'static str, unseen: Option<&'static [&'static str]>) {
    let mut reached = Reached::default();
    let routed = Ways { v6: true, routed: true, path_mtu: 212, alone: false };
    for ways in [Ways::default(), Ways { alone: true, ..Ways::default() }, routed] {
        reached = agree_over(letters, ways, reached);
    }
    let never: Vec<_> = Counter::all().filter(|c| !reached.counters.contains(c)).map(Counter::name).collect();
    assert!(never.len() < Counter::COUNT - 10, "the packets reach too little of the programs: {never:?}");
    if let Some(unseen) = unseen {
        let missed: Vec<_> = never.iter().filter(|name| !unseen.contains(name)).collect();
        if reached.late {
            eprintln!("{letters:?}: this machine was too slow for all sequences; not reached: {missed:?}");
        }
        assert!(missed.is_empty() || reached.late, "not reached: {missed:?}");
    }
}

/// What the packets led to.
#[derive(Default)]
struct Reached {
    counters: HashSet<Counter>,
    /// The machine was too slow for all of them.
    late: bool,
}

fn agree_over(letters: &'static str, ways: Ways, mut reached: Reached) -> Reached {
    let (sender, receiver) = mpsc::channel();
    in_netns(move || {
        ip(&["address", "add", "fd99::1/128", "dev", "lo", "nodad"]);
        let _listeners =
            [VIP, VIP_V6].map(|vip| TcpListener::bind((vip, 80)).expect("a namespace of our own"));
        let flows: Vec<_> = (0..8).map(|number| flow_of(number, ways.v6)).collect();
        let mut world = World::with(letters, &flows, 1, ways).expect("the kernel takes the programs");
        world.model.stack.listeners.extend([VIP, VIP_V6].map(|vip| (vip, 80)));
        let world = std::cell::RefCell::new(world);
        let until = Instant::now() + Duration::from_secs(if ways.routed || ways.alone { 5 } else { 10 });
        let sequences = proptest::collection::vec(blocks(), 1..40);
        let outcome = runner(if ways.routed || ways.alone { 200 } else { 450 }).run(&sequences, |sequence| {
            let mut world = world.borrow_mut();
            world.rest().map_err(|e| TestCaseError::fail(e.to_string()))?;
            let mut play = Play { world: &mut world, clients: HashMap::new(), swapped: ways.v6 };
            for (i, step) in sequence.iter().flatten().enumerate() {
                if Instant::now() > until {
                    return Ok(()); // a slow machine sees fewer packets
                }
                play.step(step).map_err(|e| TestCaseError::fail(format!("step {i}, {step:?}: {e}")))?;
            }
            Ok(())
        });
        if let Err(e) = outcome {
            panic!("roles {letters:?}, {ways:?}: {e}");
        }
        let total = world.borrow().programs.counters().expect("counters");
        let counted: Vec<_> = Counter::all().filter(|c| total.get(*c) > 0).collect();
        sender.send((counted, Instant::now() > until)).expect("somebody waits");
    });
    let (counted, late) = receiver.recv().expect("said");
    reached.counters.extend(counted);
    reached.late |= late;
    reached
}

#[test]
fn distributor_and_model_agree() {
    agree("d", None);
}

#[test]
fn server_and_model_agree() {
    agree("s", None);
}

#[test]
fn switch_and_model_agree() {
    agree("w", None);
}

#[test]
fn distributor_that_serves_and_model_agree() {
    agree("ds", Some(UNSEEN));
}

#[test]
fn switch_that_serves_and_model_agree() {
    agree("ws", None);
}

#[test]
fn node_of_all_roles_and_model_agree() {
    agree("wds", None);
}
