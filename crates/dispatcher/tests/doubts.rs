//! The dispatcher with servers that are doubted: nothing for them but single requests, all shares back afterwards, and
//! never a pool without servers because of doubts.

use std::collections::BTreeMap;
use std::time::Duration;

use baton_cluster::{Guide, NodeId, PolicyConfig, PolicyKind, PoolId, Target};
use baton_dispatcher::{Dispatcher, PoolQuestion, PoolRule, PushedChange};
use proptest::prelude::*;

const POOL: PoolId = PoolId(0);
const DISTRIBUTOR: NodeId = NodeId(100);
const KINDS: [PolicyKind; 4] =
    [PolicyKind::WeightedRoundRobin, PolicyKind::LeastLoaded, PolicyKind::Lard, PolicyKind::LardReplicated];

fn dispatcher(kind: PolicyKind) -> Dispatcher {
    let servers = [0, 1, 2].map(NodeId);
    let rule = PoolRule::new(servers, PolicyConfig::new(kind));
    let mut dispatcher = Dispatcher::new(servers.map(|server| (server, 1)), [rule], 1 << 16);
    servers.into_iter().for_each(|server| dispatcher.server_up(server));
    dispatcher.distributor_up(DISTRIBUTOR);
    dispatcher.take_pushes();
    dispatcher
}

/// The last guide that the distributor is told now.
fn told(dispatcher: &mut Dispatcher) -> Option<Guide> {
    let pushes = dispatcher.take_pushes();
    let changes = pushes.into_iter().flat_map(|push| push.changes);
    let mut guides = changes.filter_map(|change| match change {
        PushedChange::Guide { guide, .. } => Some(guide),
        PushedChange::Live(_) | PushedChange::Mapping { .. } => None,
    });
    guides.next_back()
}

fn ask(dispatcher: &mut Dispatcher, target: u64, now: Duration) -> NodeId {
    let question = PoolQuestion { pool: POOL, target: Some(Target(target)), at: None };
    dispatcher.ask(DISTRIBUTOR, question, now).expect("servers are up").server
}

fn counts(dispatcher: &mut Dispatcher, from: Duration) -> BTreeMap<NodeId, u32> {
    let mut counts = BTreeMap::new();
    for n in 0..3000 {
        let now = from + Duration::from_millis(10 * n);
        dispatcher.tick(now);
        *counts.entry(ask(dispatcher, n % 300, now)).or_default() += 1;
        (0..3).for_each(|server| dispatcher.load_reported(NodeId(server), 0, 0));
    }
    counts
}

#[test]
fn a_doubted_server_is_tried_now_and_then_and_else_left_alone() {
    for kind in KINDS {
        let mut dispatcher = dispatcher(kind);
        let all = counts(&mut dispatcher, Duration::ZERO);
        assert!(all.values().all(|count| *count > 600), "{kind:?}: {all:?}");
        let start = Duration::from_secs(100);
        dispatcher.doubt(POOL, NodeId(1), true, start, 7);
        // In half a minute: after 1, 3, 7, 15 seconds, each up to a quarter less.
        let doubted = counts(&mut dispatcher, start);
        assert!((3..=6).contains(&doubted[&NodeId(1)]), "{kind:?}: {doubted:?}");
        let start = Duration::from_secs(200);
        dispatcher.doubt(POOL, NodeId(1), false, start, 7);
        let after: u64 = (10_000..10_300)
            .filter(|target| ask(&mut dispatcher, *target, start) == NodeId(1))
            .count() as u64;
        assert!(after >= 80, "{kind:?}: {after} of 300 new ones");
    }
}

#[test]
fn distributors_that_decide_by_turns_ask_when_one_is_to_be_tried() {
    let mut dispatcher = dispatcher(PolicyKind::WeightedRoundRobin);
    let rota = |nodes: &[u16]| Some(Guide::Rota(nodes.iter().copied().map(NodeId).collect()));
    dispatcher.doubt(POOL, NodeId(1), true, Duration::ZERO, 7);
    assert_eq!(told(&mut dispatcher), rota(&[0, 2]));
    let later = Duration::from_secs(1);
    dispatcher.tick(later);
    assert_eq!(told(&mut dispatcher), Some(Guide::AskAlways));
    assert_eq!(ask(&mut dispatcher, 1, later), NodeId(1));
    assert_ne!(ask(&mut dispatcher, 1, later), NodeId(1), "one is enough");
    dispatcher.tick(later);
    assert_eq!(told(&mut dispatcher), rota(&[0, 2]));
    dispatcher.doubt(POOL, NodeId(1), false, later, 7);
    assert_eq!(told(&mut dispatcher), rota(&[0, 1, 2]));
}

#[test]
fn who_has_a_connection_there_keeps_it() {
    let mut dispatcher = dispatcher(PolicyKind::Lard);
    dispatcher.doubt(POOL, NodeId(1), true, Duration::ZERO, 7);
    let question = PoolQuestion { pool: POOL, target: Some(Target(1)), at: Some(NodeId(1)) };
    let later = dispatcher.ask(NodeId(1), question, Duration::from_secs(50)).expect("a server");
    assert_eq!(later.server, NodeId(1));
}

proptest! {
    /// Whatever is doubted and whoever is up: while anybody is up there is an answer, and it is somebody who is up.
    #[test]
    fn doubts_leave_no_pool_without_servers(
        steps in prop::collection::vec((0u8..5, 0u16..3, 0u64..5000), 1..300),
        kind in prop::sample::select(KINDS.to_vec()),
    ) {
        let (mut dispatcher, mut up, mut now) = (dispatcher(kind), [true; 3], Duration::ZERO);
        for (what, node, after) in steps {
            now += Duration::from_millis(after);
            let server = NodeId(node);
            match what {
                0 => dispatcher.doubt(POOL, server, true, now, 7),
                1 => dispatcher.doubt(POOL, server, false, now, 7),
                2 => dispatcher.server_down(server, now),
                3 => dispatcher.server_up(server),
                _ => dispatcher.tick(now),
            }
            if matches!(what, 2 | 3) {
                up[usize::from(node)] = what == 3;
            }
            let question = PoolQuestion { pool: POOL, target: Some(Target(after % 7)), at: None };
            match dispatcher.ask(DISTRIBUTOR, question, now) {
                Ok(decision) => prop_assert!(up[decision.server.index()]),
                Err(_) => prop_assert!(up.iter().all(|up| !up)),
            }
        }
    }
}
