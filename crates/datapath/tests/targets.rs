#![cfg(any())] // until the model knows moves
//! The kernel reads a target exactly when [`target_of`] does, and reads the same: a decision is cached
//! for that one target alone, and the first request must meet it. Needs root.

mod common;

use std::cell::RefCell;

use baton_datapath::constants::HEAD_MAX;
use baton_datapath::model::flag::{ACK, PSH};
use baton_datapath::model::{Offer, Options, Verdict, cookie_of};
use baton_datapath::{TargetKey, target_of};
use common::frames::flow;
use common::world::{OTHER, QUERY, WEB, Way, keys};
use common::{Tcp, World, in_netns};
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};

/// Request lines, whole or nearly so, some of them as long as the kernel looks.
fn heads() -> impl Strategy<Value = Vec<u8>> {
    let method = prop_oneof![3 => Just("GET".to_owned()), 1 => "[A-Z]{1,17}", 1 => "[A-Za-z ]{0,4}"];
    let path = prop_oneof![
        4 => "/[!-~]{0,40}",
        1 => "[ -~]{0,10}",
        2 => (470..500_usize).prop_map(|n| format!("/{}", "p".repeat(n))),
    ];
    let version =
        select(vec![" HTTP/1.1\r\n", " HTTP/1.0\r\n", " HTTP/1.1\n", " HTTP/2.0\r\n", "  HTTP/1.1\r\n", ""]);
    let line = (method, path, version, "[ -~]{0,30}")
        .prop_map(|(method, path, version, rest)| format!("{method} {path}{version}{rest}").into_bytes());
    let change = prop_oneof![
        3 => Just(None),
        1 => (any::<Index>(), any::<u8>()).prop_map(Some),
    ];
    (line, change, prop_oneof![5 => Just(None), 1 => any::<Index>().prop_map(Some)]).prop_map(
        |(mut head, change, cut)| {
            if let Some((at, value)) = change {
                let at = at.index(head.len());
                head[at] = value;
            }
            if let Some(cut) = cut {
                head.truncate(cut.index(head.len()) + 1);
            }
            head
        },
    )
}

#[test]
fn kernel_and_rust_read_the_same_target() {
    in_netns(|| {
        let (web, mut query) = (flow(40_000), flow(40_000));
        query.vip_port = 81;
        let world = RefCell::new(World::new("d", &[web, query]));
        let read = RefCell::new([0_u32; 2]);
        let config = Config { cases: 2000, failure_persistence: None, ..Config::default() };
        let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
        let outcome = runner.run(&(heads(), any::<bool>()), |(head, with_query)| {
            let mut world = world.borrow_mut();
            world.rest().map_err(|e| TestCaseError::fail(e.to_string()))?;
            let (f, service, key) =
                if with_query { (query, QUERY, TargetKey::PathQuery) } else { (web, WEB, TargetKey::Path) };
            world.guide(service, baton_datapath::Guide::Cached { load_limit: 9 }, &[], 1);
            let seen = head.get(..HEAD_MAX as usize).unwrap_or(&head);
            let target = target_of(seen, key, keys().target);
            if target.is_some() {
                world.decide(service, seen, &[OTHER], 1);
            }
            let offer = Offer::of(&Options::default());
            let ack = cookie_of(&keys(), &f, 7, offer, world.clock()).wrapping_add(1);
            let frame = Tcp::new(f, ACK | PSH, 8, ack).data(&head).frame();
            let said = world.step(&frame, Way::In).map_err(TestCaseError::fail)?;
            let why = if target.is_some() { "decided_cache" } else { "held_head" };
            assert!(said.verdict == Verdict::Redirect && world.counted.contains(&why), "{:?}", world.counted);
            read.borrow_mut()[usize::from(target.is_some())] += 1;
            Ok(())
        });
        if let Err(e) = outcome {
            panic!("{e}");
        }
        let [doubtful, good] = *read.borrow();
        assert!(doubtful > 300 && good > 300, "the heads must be of both kinds: {doubtful}, {good}");
    });
}
