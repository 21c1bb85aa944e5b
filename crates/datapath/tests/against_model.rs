//! Random packets on a few flows, well formed and mutated, in random order, with user space, other
//! nodes and time doing what they do in between: after each, the loaded programs and their model must
//! agree on verdict, packet, counters, events and bindings. Seeded; a failing run prints its shortest
//! sequence. Needs root.

mod against {
    pub mod play;
    pub mod steps;
}
mod common;

use std::collections::HashMap;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use against::play::{Play, flow_of};
use against::steps::blocks;
use baton_datapath::Counter;
use common::frames::VIP;
use common::{World, in_netns};
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};

fn runner(cases: u32) -> TestRunner {
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 4000, ..Config::default() };
    TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha))
}

/// What no packet of a test-run leads to at a node without switch: nothing can be adopted, so no socket of
/// ours gets in the way, or is idle; and nothing goes wrong.
const UNSEEN: &[&str] = &[
    "adopted",
    "adopt_again",
    "stale_socket_ended",
    "forwarded_distributor",
    "owned_unbound",
    "reader_adopted",
    "cwnd_carried",
    "moved",
    "drop_busy",
    "drop_no_pool_server",
    "drop_no_role",
    "drop_no_distributor",
    "drop_stale_socket",
    "drop_handoff_too_big",
    "event_lost",
    "fault_rewrite",
    "fault_map",
];

/// Random sequences through a node of these roles.
fn agree(letters: &'static str, unseen: Option<&'static [&'static str]>) {
    in_netns(move || {
        let _listener = TcpListener::bind((VIP, 80)).expect("a namespace of our own");
        let flows: Vec<_> = (0..6).map(flow_of).collect();
        let mut world = World::new(letters, &flows);
        world.model.stack.listeners.insert((VIP, 80));
        let world = std::cell::RefCell::new(world);
        let until = Instant::now() + Duration::from_secs(10);
        let sequences = proptest::collection::vec(blocks(), 1..40);
        let outcome = runner(350).run(&sequences, |sequence| {
            let mut world = world.borrow_mut();
            world.rest().map_err(|e| TestCaseError::fail(e.to_string()))?;
            let mut play = Play { world: &mut world, clients: HashMap::new() };
            for (i, step) in sequence.iter().flatten().enumerate() {
                if Instant::now() > until {
                    return Ok(()); // a slow machine sees fewer packets
                }
                play.step(step).map_err(|e| TestCaseError::fail(format!("step {i}, {step:?}: {e}")))?;
            }
            Ok(())
        });
        if let Err(e) = outcome {
            panic!("roles {letters:?}: {e}");
        }
        let total = world.borrow().programs.counters().expect("counters");
        let never: Vec<_> = Counter::all().filter(|c| total.get(*c) == 0).map(Counter::name).collect();
        assert!(never.len() < Counter::COUNT - 10, "the packets reach too little of the programs: {never:?}");
        if let Some(unseen) = unseen {
            let missed: Vec<_> = never.iter().filter(|name| !unseen.contains(name)).collect();
            assert!(missed.is_empty() || Instant::now() > until, "not reached: {missed:?}");
        }
    });
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
