//! The dispatcher as distributors see it: that a cached mapping decides exactly as the dispatcher
//! would, that news reaches those who need it and nobody else, and what happens at the edges.

use std::collections::BTreeMap;
use std::time::Duration;

use baton_cluster::{Consult, Guide, NodeId, PHttp, PolicyConfig, PolicyKind, PoolId, Target};
use baton_dispatcher::{
    Decision, Dispatcher, Mapping, NoDecision, PoolQuestion, PoolRule, PushedChange, load_limit,
};
use proptest::prelude::*;

const POOL: PoolId = PoolId(0);
const A: NodeId = NodeId(100);
const B: NodeId = NodeId(101);
const C: NodeId = NodeId(102);

fn rule(kind: PolicyKind, servers: u16) -> PoolRule {
    let servers: Vec<_> = (0..servers).map(NodeId).collect();
    PoolRule::new(servers, PolicyConfig { t_low: 3, t_high: 8, ..PolicyConfig::new(kind) })
}

fn ask(
    dispatcher: &mut Dispatcher,
    from: NodeId,
    target: u64,
    now: Duration,
) -> Result<Decision, NoDecision> {
    dispatcher.ask(from, PoolQuestion { pool: POOL, target: Some(Target(target)), at: None }, now)
}

fn dispatcher(kind: PolicyKind, servers: u16) -> Dispatcher {
    dispatcher_of(rule(kind, servers), servers)
}

fn dispatcher_of(rule: PoolRule, servers: u16) -> Dispatcher {
    let weights = (0..servers).map(|id| (NodeId(id), 1 + id % 3));
    let mut dispatcher = Dispatcher::new(weights, [rule], 1 << 16);
    for id in 0..servers {
        dispatcher.server_up(NodeId(id));
    }
    dispatcher
}

/// What a distributor does with answers, pushes and guides.
#[derive(Debug, Default)]
struct Distributor {
    cache: BTreeMap<Target, (Mapping, Duration)>,
    limit: u32,
    down: BTreeMap<NodeId, Duration>,
}

impl Distributor {
    fn forget_gone(&mut self, now: Duration) {
        let long = |since: &Duration| now - *since >= Dispatcher::DISTRIBUTORS_REMEMBER_FOR;
        let gone: Vec<_> = self.down.iter().filter(|(_, since)| long(since)).map(|(node, _)| *node).collect();
        self.cache.retain(|_, (mapping, _)| !gone.iter().any(|node| mapping.servers.contains(*node)));
    }

    fn learn(&mut self, target: Target, mapping: Mapping, now: Duration) {
        self.cache.insert(target, (mapping, now));
    }

    fn hear(&mut self, change: &PushedChange, now: Duration) {
        match change {
            PushedChange::Mapping { target, mapping, .. } => self.learn(*target, *mapping, now),
            // A server that is down is not chosen; what was told of it stands for a while.
            PushedChange::Live(live) => {
                self.down.retain(|node, _| !live.contains(node));
                for node in (0..6).map(NodeId).filter(|node| !live.contains(node)) {
                    self.down.entry(node).or_insert(now);
                }
            }
            PushedChange::Guide { guide, .. } => self.obey(guide),
        }
    }

    fn obey(&mut self, guide: &Guide) {
        let Guide::Cached { load_limit } = guide else { panic!("LARD lets distributors cache") };
        self.limit = *load_limit;
    }

    /// Its own decision, if it may make one.
    fn decide(&self, target: Target, now: Duration, dispatcher: &Dispatcher) -> Option<NodeId> {
        let (mapping, learned) = self.cache.get(&target)?;
        if mapping.expires.is_some_and(|expires| now >= *learned + expires) {
            return None;
        }
        let loads = dispatcher.loads();
        let all: Vec<_> = loads.servers().map(|(node, _)| node).collect();
        let server = loads.of(&all).least_of(mapping.servers.as_slice())?;
        let limit = load_limit(self.limit, loads.weight(server)?, 1);
        (loads.load(server)? <= limit).then_some(server)
    }
}

fn settle(dispatcher: &mut Dispatcher, distributors: &mut BTreeMap<NodeId, Distributor>, now: Duration) {
    for push in dispatcher.take_pushes() {
        let distributor = distributors.get_mut(&push.to).expect("pushes go to known distributors");
        push.changes.iter().for_each(|change| distributor.hear(change, now));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// design.md 5: with the same loads, a distributor that is allowed to decide by itself decides
    /// what the dispatcher would have decided, and the dispatcher would have changed nothing.
    #[test]
    fn a_cached_decision_is_the_dispatchers(
        kind in 0usize..3,
        servers in 2u16..6,
        steps in prop::collection::vec((0u16..3, 0u64..5, 0u16..6, 0u32..30, 0u64..9_000, 0u8..24), 1..250),
    ) {
        let (kind, p_http) = [
            (PolicyKind::Lard, PHttp::Move),
            (PolicyKind::LardReplicated, PHttp::Stay),
            (PolicyKind::Lard, PHttp::ExtendedLard),
        ][kind];
        let mut dispatcher = dispatcher_of(PoolRule { p_http, ..rule(kind, servers) }, servers);
        let mut distributors: BTreeMap<_, _> = [A, B, C].map(|id| (id, Distributor::default())).into();
        for (id, distributor) in &mut distributors {
            dispatcher.distributor_up(*id).guides.iter().for_each(|(_, guide)| distributor.obey(guide));
        }
        let mut now = Duration::ZERO;
        for (who, target, node, load, ms, what) in steps {
            let (who, target, node) = (NodeId(100 + who), Target(target), NodeId(node % servers));
            match what {
                0..4 => dispatcher.load_reported(node, load, 0),
                4 => dispatcher.server_up(node),
                5 => {
                    dispatcher.server_down(node, now);
                }
                6..8 => {
                    now += Duration::from_millis(ms);
                    distributors.values_mut().for_each(|distributor| distributor.forget_gone(now));
                    dispatcher.forget_gone(now);
                }
                _ => {
                    let own = distributors[&who].decide(target, now, &dispatcher);
                    let up = |server: &NodeId| dispatcher.loads().is_live(*server);
                    let known = distributors[&who].cache.get(&target);
                    let some_down = known.is_some_and(|(m, _)| !m.servers.as_slice().iter().all(up));
                    let Ok(asked) = ask(&mut dispatcher, who, target.0, now) else { continue };
                    match own {
                        // Of a set of which some are down the rest is told, as an answer and by pushes.
                        Some(own) => {
                            prop_assert!(asked.server == own && (!asked.moved || some_down));
                            if asked.moved {
                                let known = distributors.get_mut(&who).unwrap();
                                known.learn(target, asked.mapping.unwrap(), now);
                            }
                        }
                        None => {
                            let known = distributors.get_mut(&who).unwrap();
                            known.learn(target, asked.mapping.unwrap(), now);
                        }
                    }
                }
            }
            settle(&mut dispatcher, &mut distributors, now);
        }
    }
}

/// There is nothing to ask, nor to cache, when there is nothing to choose.
#[test]
fn the_only_server_of_a_pool_is_a_rota() {
    let mut dispatcher = dispatcher(PolicyKind::Lard, 1);
    let guides = dispatcher.distributor_up(A).guides;
    assert!(matches!(&guides[0].1, Guide::Rota(turns) if *turns == [NodeId(0)]), "{guides:?}");
    dispatcher.server_down(NodeId(0), Duration::ZERO);
    let told = dispatcher.take_pushes().into_iter().flat_map(|push| push.changes);
    assert!(
        told.into_iter()
            .any(|c| matches!(c, PushedChange::Guide { guide: Guide::Rota(turns), .. } if turns.is_empty()))
    );
}

/// Makes a target move by a question of `by`'s.
fn move_target(dispatcher: &mut Dispatcher, target: Target, by: NodeId) -> Mapping {
    let held = ask(dispatcher, by, target.0, Duration::ZERO).expect("servers are up");
    dispatcher.load_reported(held.server, 90, 0);
    let moved = ask(dispatcher, by, target.0, Duration::ZERO).expect("servers are up");
    assert!(moved.moved && moved.server != held.server);
    dispatcher.load_reported(held.server, 0, 0);
    moved.mapping.expect("LARD maps")
}

#[test]
fn a_move_is_told_to_all_but_the_one_who_asked() {
    let mut dispatcher = dispatcher(PolicyKind::Lard, 3);
    for node in [A, B, C] {
        dispatcher.distributor_up(node);
    }
    dispatcher.take_pushes();
    let mapping = move_target(&mut dispatcher, Target(1), A);
    let pushes = dispatcher.take_pushes();
    let expected = vec![PushedChange::Mapping { pool: POOL, target: Target(1), mapping }];
    let told: Vec<_> = pushes.iter().map(|push| (push.to, &push.changes)).collect();
    assert_eq!(told, [(B, &expected), (C, &expected)]);
    assert!(!dispatcher.has_pushes() && dispatcher.take_pushes().is_empty());
    assert_eq!(dispatcher.stats().moved, 1);
}

#[test]
fn moves_of_one_target_are_told_as_one_and_the_last_asker_knows() {
    let mut dispatcher = dispatcher(PolicyKind::Lard, 3);
    for node in [A, B] {
        dispatcher.distributor_up(node);
    }
    dispatcher.take_pushes();
    move_target(&mut dispatcher, Target(1), A);
    let mapping = move_target(&mut dispatcher, Target(1), B);
    let pushes = dispatcher.take_pushes();
    assert_eq!(pushes.len(), 1);
    assert_eq!(pushes[0].to, A);
    assert_eq!(pushes[0].changes, [PushedChange::Mapping { pool: POOL, target: Target(1), mapping }]);
}

#[test]
fn what_the_only_distributor_asked_for_is_no_news_to_it() {
    let mut dispatcher = dispatcher(PolicyKind::Lard, 3);
    dispatcher.distributor_up(A);
    dispatcher.distributor_up(B);
    dispatcher.take_pushes();
    move_target(&mut dispatcher, Target(1), B);
    dispatcher.distributor_down(B);
    assert!(dispatcher.has_pushes(), "A does not know yet");
    move_target(&mut dispatcher, Target(1), A);
    assert!(!dispatcher.has_pushes(), "A asked last");
    assert!(dispatcher.take_pushes().is_empty());
}

#[test]
fn a_set_keeps_its_servers_for_k_and_not_longer() {
    let mut dispatcher = dispatcher(PolicyKind::LardReplicated, 2);
    let second = Duration::from_secs(1);
    let servers_at = |dispatcher: &mut Dispatcher, seconds: u32| {
        let decision = ask(dispatcher, A, 1, second * seconds).expect("servers are up");
        dispatcher.load_reported(decision.server, 0, 0);
        decision.mapping.expect("LARD/R maps").servers.len()
    };
    assert_eq!(servers_at(&mut dispatcher, 0), 1);
    dispatcher.load_reported(NodeId(0), 90, 0);
    assert_eq!(servers_at(&mut dispatcher, 1), 2);
    assert_eq!(servers_at(&mut dispatcher, 21), 2, "not changed for K");
    assert_eq!(servers_at(&mut dispatcher, 22), 1, "not changed for longer than K");
}

#[test]
fn in_a_full_set_the_newcomer_takes_the_place_of_the_most_loaded() {
    let rules = [rule(PolicyKind::LardReplicated, 6)];
    let mut dispatcher = Dispatcher::new((0..6).map(|id| (NodeId(id), 1)), rules, 16);
    (0..6).for_each(|id| dispatcher.server_up(NodeId(id)));
    let mut set = Vec::new();
    for load in 90..96 {
        let decision = ask(&mut dispatcher, A, 1, Duration::ZERO).expect("servers are up");
        dispatcher.load_reported(decision.server, load, 0);
        set = decision.mapping.expect("LARD/R maps").servers.as_slice().to_vec();
    }
    assert_eq!(set, [0, 1, 2, 5].map(NodeId), "5 for 4, which had come for 3");
}

#[test]
fn a_newcomer_starts_the_round_anew() {
    let mut dispatcher = dispatcher(PolicyKind::WeightedRoundRobin, 3);
    let turns = |dispatcher: &mut Dispatcher, n: usize| -> Vec<NodeId> {
        let ask = |_| {
            dispatcher
                .ask(A, PoolQuestion { pool: POOL, target: None, at: None }, Duration::ZERO)
                .expect("servers are up")
                .server
        };
        (0..n).map(ask).collect()
    };
    turns(&mut dispatcher, 4);
    dispatcher.server_down(NodeId(0), Duration::ZERO);
    turns(&mut dispatcher, 2);
    dispatcher.server_up(NodeId(0));
    let Guide::Rota(rota) = dispatcher.distributor_up(A).guides.remove(0).1 else { panic!("not a rota") };
    assert_eq!(turns(&mut dispatcher, rota.len()), rota);
}

#[test]
fn a_new_target_is_no_news() {
    let mut dispatcher = dispatcher(PolicyKind::Lard, 3);
    dispatcher.distributor_up(A);
    dispatcher.distributor_up(B);
    dispatcher.take_pushes();
    ask(&mut dispatcher, A, 1, Duration::ZERO).unwrap();
    assert!(!dispatcher.has_pushes());
}

#[test]
fn a_death_is_told_with_the_guides_and_makes_waiting_news_of_it_void() {
    let mut dispatcher = dispatcher(PolicyKind::Lard, 2);
    dispatcher.distributor_up(A);
    dispatcher.distributor_up(B);
    dispatcher.take_pushes();
    let mapping = move_target(&mut dispatcher, Target(1), A);
    let held = mapping.servers.as_slice()[0];
    dispatcher.server_down(held, Duration::ZERO);
    dispatcher.server_down(held, Duration::from_secs(5));
    assert_eq!(
        [9_999, 10_000, 10_001].map(|ms| dispatcher.forget_gone(Duration::from_millis(ms))),
        [0, 1, 0]
    );
    let left: Vec<_> = dispatcher.loads().live().map(|(node, _)| node).collect();
    let news = [
        PushedChange::Live(left.clone()),
        PushedChange::Guide { pool: POOL, guide: Guide::Cached { load_limit: 8 } },
    ];
    for push in dispatcher.take_pushes() {
        assert_eq!(push.changes, news);
    }
    assert_eq!(dispatcher.stats().targets, 0);
    let decision = ask(&mut dispatcher, A, 1, Duration::ZERO).unwrap();
    assert_eq!((vec![decision.server], decision.moved), (left, false));
}

/// A node that is not heard for a moment comes back to what it had, but for what was asked for meanwhile.
#[test]
fn a_short_silence_costs_a_server_only_what_others_were_given() {
    let extended = PoolRule { p_http: PHttp::ExtendedLard, ..rule(PolicyKind::Lard, 3) };
    for rule in [rule(PolicyKind::Lard, 3), rule(PolicyKind::LardReplicated, 3), extended] {
        let mut dispatcher = dispatcher_of(rule, 3);
        for node in [A, B] {
            dispatcher.distributor_up(node);
        }
        let at = Duration::from_secs;
        let was: Vec<_> = (0..12).map(|t| ask(&mut dispatcher, A, t, at(0)).unwrap().server).collect();
        let silent = was[7];
        dispatcher.take_pushes();
        dispatcher.server_down(silent, at(1));
        let taken = ask(&mut dispatcher, A, 7, at(2)).unwrap();
        assert!(taken.server != silent && taken.moved);
        let told =
            dispatcher.take_pushes().into_iter().find(|push| push.to == B).expect("B may have it cached");
        let mapping = Mapping::to_one(taken.server);
        assert_eq!(
            told.changes.last(),
            Some(&PushedChange::Mapping { pool: POOL, target: Target(7), mapping })
        );

        assert_eq!(dispatcher.forget_gone(at(10)), 0);
        dispatcher.server_up(silent);
        for (target, was) in (0..).zip(&was).filter(|(target, _)| *target != 7) {
            (0..3).for_each(|node| dispatcher.load_reported(NodeId(node), 0, 0));
            let now = ask(&mut dispatcher, A, target, at(10)).unwrap();
            assert_eq!((now.server, now.moved), (*was, false), "{target}");
        }
        assert_eq!(ask(&mut dispatcher, A, 7, at(10)).unwrap().server, taken.server, "it was given away");

        dispatcher.server_down(silent, at(20));
        let its = was.iter().filter(|server| **server == silent).count();
        assert_eq!(dispatcher.forget_gone(at(30)), its - 1, "for good, after a while");
        dispatcher.server_up(silent);
        assert_eq!(dispatcher.forget_gone(at(99)), 0, "it is there");
    }
}

#[test]
fn who_left_is_told_nothing_and_who_comes_gets_the_state() {
    let mut dispatcher = dispatcher(PolicyKind::WeightedRoundRobin, 2);
    dispatcher.distributor_up(A);
    dispatcher.distributor_down(A);
    dispatcher.server_down(NodeId(1), Duration::ZERO);
    assert!(dispatcher.take_pushes().is_empty());
    let welcome = dispatcher.distributor_up(B);
    assert_eq!(welcome.live, [NodeId(0)]);
    assert_eq!(welcome.guides, [(POOL, Guide::Rota(vec![NodeId(0)]))]);
}

#[test]
fn consult_always_caches_nothing_and_pushes_no_moves() {
    for kind in PolicyKind::ALL {
        let always = PoolRule { consult: Consult::Always, ..rule(kind, 2) };
        let mut dispatcher = dispatcher_of(always, 2);
        assert_eq!(dispatcher.distributor_up(A).guides, [(POOL, Guide::AskAlways)]);
        dispatcher.distributor_up(B);
        dispatcher.take_pushes();
        for load in [0, 90, 0, 90] {
            let decision = ask(&mut dispatcher, A, 1, Duration::ZERO).unwrap();
            assert_eq!(decision.mapping, None);
            dispatcher.load_reported(decision.server, load, 0);
        }
        assert!(!dispatcher.has_pushes());
    }
}

#[test]
fn a_pool_has_its_own_servers_and_targets_and_shares_the_loads() {
    let pool = |servers: &[u16]| {
        let servers: Vec<_> = servers.iter().copied().map(NodeId).collect();
        PoolRule { servers, ..rule(PolicyKind::Lard, 0) }
    };
    let mut dispatcher =
        Dispatcher::new((0..4).map(|id| (NodeId(id), 1)), [pool(&[1, 0]), pool(&[1, 2])], 16);
    (0..4).for_each(|id| dispatcher.server_up(NodeId(id)));
    let mut ask = |pool, target| {
        let question = PoolQuestion { pool: PoolId(pool), target: Some(Target(target)), at: None };
        dispatcher.ask(A, question, Duration::ZERO).expect("servers are up").server.0
    };
    assert_eq!([ask(0, 1), ask(0, 2)], [0, 1], "both are idle");
    assert_eq!([ask(1, 1), ask(1, 2)], [2, 1], "1 is as busy for this pool");
    assert_eq!([ask(0, 1), ask(1, 1)], [0, 2], "one target, two pools");
    assert_eq!(dispatcher.stats().targets, 4);
    dispatcher.server_down(NodeId(3), Duration::ZERO);
    dispatcher.server_down(NodeId(0), Duration::from_secs(1));
    assert_eq!(dispatcher.forget_gone(Duration::from_secs(10)), 0, "in no pool");
    assert_eq!(dispatcher.forget_gone(Duration::from_secs(11)), 1, "of the first pool alone");
}

#[test]
fn turns_go_on_when_a_server_of_another_pool_comes() {
    let pool = |servers: [u16; 2]| {
        PoolRule::new(servers.map(NodeId), PolicyConfig::new(PolicyKind::WeightedRoundRobin))
    };
    let mut dispatcher = Dispatcher::new((0..4).map(|id| (NodeId(id), 1)), [pool([0, 1]), pool([2, 3])], 16);
    (0..3).for_each(|id| dispatcher.server_up(NodeId(id)));
    let question = PoolQuestion { pool: POOL, target: None, at: None };
    let ask = |dispatcher: &mut Dispatcher| dispatcher.ask(A, question, Duration::ZERO).expect("up").server.0;
    assert_eq!(ask(&mut dispatcher), 0);
    dispatcher.server_up(NodeId(3));
    assert_eq!(ask(&mut dispatcher), 1);
    let guides = dispatcher.distributor_up(A).guides;
    assert_eq!(guides[0], (PoolId(0), Guide::Rota(vec![NodeId(0), NodeId(1)])));
    assert_eq!(guides[1], (PoolId(1), Guide::Rota(vec![NodeId(2), NodeId(3)])));
}

/// Which server, for a request on a connection that `at` has.
fn later(dispatcher: &mut Dispatcher, target: Option<u64>, at: u16) -> Decision {
    let question = PoolQuestion { pool: POOL, target: target.map(Target), at: Some(NodeId(at)) };
    dispatcher.ask(A, question, Duration::ZERO).expect("servers are up")
}

#[test]
fn who_has_the_connection_keeps_it_unless_p_http_says_otherwise() {
    for kind in PolicyKind::ALL {
        for p_http in [PHttp::Stay, PHttp::Move] {
            let servers = vec![NodeId(0), NodeId(1), NodeId(2)];
            let mut dispatcher = dispatcher_of(PoolRule { p_http, servers, ..rule(kind, 3) }, 4);
            let first = ask(&mut dispatcher, A, 1, Duration::ZERO).expect("servers are up").server;
            let other = NodeId(if first == NodeId(0) { 1 } else { 0 });
            dispatcher.load_reported(other, 2, 0);
            let moves = p_http == PHttp::Move && kind.is_lard();
            let expected = if moves { first } else { other };
            assert_eq!(later(&mut dispatcher, Some(1), other.0).server, expected, "{kind}");
            assert_eq!(later(&mut dispatcher, None, other.0).server, other, "nothing to be local to");
            // Where it cannot stay, it is decided as a first request.
            dispatcher.server_down(other, Duration::ZERO);
            for gone in [other.0, 3, 100] {
                assert!(later(&mut dispatcher, Some(1), gone).server.0 < 3, "{kind}");
            }
        }
    }
}

/// USENIX'99 4.2, step by step.
#[test]
fn extended_lard_stays_where_the_target_or_an_idle_disk_is() {
    let rule = PoolRule { p_http: PHttp::ExtendedLard, ..rule(PolicyKind::Lard, 3) };
    let mut dispatcher = Dispatcher::new((0..3).map(|id| (NodeId(id), 1)), [rule], 16);
    (0..3).for_each(|id| dispatcher.server_up(NodeId(id)));
    let (busy, idle) = (10, 9);
    let holders = |decision: Decision| decision.mapping.map(|m| m.servers.as_slice().to_vec());
    assert_eq!(ask(&mut dispatcher, A, 1, Duration::ZERO).map(|d| d.server), Ok(NodeId(0)));

    dispatcher.load_reported(NodeId(1), 0, busy);
    let moved = later(&mut dispatcher, Some(1), 1);
    assert_eq!((moved.server, moved.moved), (NodeId(0), false), "it costs 1 there, 5 here");
    let unknown = later(&mut dispatcher, Some(2), 1);
    assert_eq!((unknown.server, holders(unknown)), (NodeId(1), None), "nobody has it; not remembered");

    dispatcher.load_reported(NodeId(0), 7, 0);
    assert_eq!(later(&mut dispatcher, Some(1), 1).server, NodeId(1), "5 to 5: it stays");
    dispatcher.load_reported(NodeId(0), 6, 0);
    assert_eq!(later(&mut dispatcher, Some(1), 1).server, NodeId(0), "4 to 5");

    dispatcher.load_reported(NodeId(1), 90, idle);
    let read = later(&mut dispatcher, Some(1), 1);
    assert_eq!((read.server, read.moved), (NodeId(1), true));
    assert_eq!(holders(read), Some(vec![NodeId(0), NodeId(1)]));
    dispatcher.load_reported(NodeId(1), 90, busy);
    assert_eq!(later(&mut dispatcher, Some(1), 1).server, NodeId(1), "it has it now");

    dispatcher.load_reported(NodeId(0), 90, busy);
    let first = ask(&mut dispatcher, A, 1, Duration::ZERO).expect("servers are up");
    assert_eq!((first.server, first.moved), (NodeId(2), true), "both are overloaded");
    assert_eq!(holders(first), Some(vec![NodeId(2)]));
}

#[test]
fn questions_without_an_answer_are_refused_and_counted() {
    let mut dispatcher = dispatcher(PolicyKind::Lard, 1);
    let unknown = PoolId(9);
    let refused = dispatcher.ask(A, PoolQuestion { pool: unknown, target: None, at: None }, Duration::ZERO);
    assert_eq!(refused, Err(NoDecision::UnknownPool(unknown)));
    dispatcher.server_down(NodeId(0), Duration::ZERO);
    assert_eq!(ask(&mut dispatcher, A, 1, Duration::ZERO), Err(NoDecision::NoServer(POOL)));
    assert_eq!((dispatcher.stats().asked, dispatcher.stats().refused), (2, 2));
    dispatcher.server_up(NodeId(0));
    assert!(ask(&mut dispatcher, A, 1, Duration::ZERO).is_ok());
}

#[test]
fn targets_are_bounded() {
    let rules = [rule(PolicyKind::LardReplicated, 1)];
    let mut dispatcher = Dispatcher::new([(NodeId(0), 1)], rules, 100);
    dispatcher.server_up(NodeId(0));
    for n in 0..1000 {
        ask(&mut dispatcher, A, n, Duration::ZERO).unwrap();
    }
    let stats = dispatcher.stats();
    assert_eq!((stats.targets, stats.targets_evicted), (100, 900));
}

/// Pools come, change and go: what a pool remembers stays as far as its servers and its policy do.
#[test]
fn pools_come_change_and_go() {
    let mut dispatcher = dispatcher(PolicyKind::Lard, 3);
    dispatcher.distributor_up(A);
    let servers: Vec<NodeId> = (0..6)
        .map(|target| ask(&mut dispatcher, A, target, Duration::ZERO).expect("a live server").server)
        .collect();
    let lost = servers[0];
    assert!(servers.iter().any(|server| *server != lost));

    let fewer = PoolRule {
        servers: (0..3).map(NodeId).filter(|server| *server != lost).collect(),
        ..rule(PolicyKind::Lard, 3)
    };
    let turns = rule(PolicyKind::WeightedRoundRobin, 2);
    dispatcher.set_pools([(POOL, fewer), (PoolId(7), turns)]);
    let mapping = |dispatcher: &Dispatcher, target| {
        dispatcher.policy(POOL).and_then(|policy| policy.mapping(Target(target), Duration::ZERO))
    };
    for (target, server) in (0..).zip(&servers) {
        let kept = (*server != lost).then(|| Mapping::to_one(*server));
        assert_eq!(mapping(&dispatcher, target), kept, "target {target}");
    }
    let pushes = dispatcher.take_pushes();
    let told: Vec<_> = pushes.iter().flat_map(|push| &push.changes).collect();
    let pools = told.iter().filter_map(|change| match change {
        PushedChange::Guide { pool, guide } => Some((*pool, matches!(guide, Guide::Rota(_)))),
        _ => None,
    });
    assert_eq!(pools.collect::<Vec<_>>(), [(POOL, false), (PoolId(7), true)]);

    // A policy of other constants begins anew; a pool that has gone is unknown.
    dispatcher.set_pools([(POOL, rule(PolicyKind::LardReplicated, 3))]);
    assert!((0..6).all(|target| mapping(&dispatcher, target).is_none()));
    let gone = PoolQuestion { pool: PoolId(7), target: None, at: None };
    assert_eq!(dispatcher.ask(A, gone, Duration::ZERO), Err(NoDecision::UnknownPool(PoolId(7))));
}
