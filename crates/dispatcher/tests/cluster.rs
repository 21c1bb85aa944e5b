//! The dispatcher as distributors see it: that a cached mapping decides exactly as the dispatcher
//! would, that news reaches those who need it and nobody else, and what happens at the edges.

use std::collections::BTreeMap;
use std::time::Duration;

use baton_cluster::{Consult, NodeId, PolicyConfig, PolicyKind, ServiceId, Target};
use baton_dispatcher::{Change, Dispatcher, Guide, Mapping, Refusal, ServiceRule, load_limit};
use proptest::prelude::*;

const SERVICE: ServiceId = ServiceId(0);
const A: NodeId = NodeId(100);
const B: NodeId = NodeId(101);
const C: NodeId = NodeId(102);

fn rule(kind: PolicyKind, consult: Consult) -> ServiceRule {
    ServiceRule { policy: PolicyConfig { t_low: 3, t_high: 8, ..PolicyConfig::new(kind) }, consult }
}

fn dispatcher(kind: PolicyKind, servers: u16) -> Dispatcher {
    let weights = (0..servers).map(|id| (NodeId(id), 1 + id % 3));
    let mut dispatcher = Dispatcher::new(weights, [rule(kind, Consult::Cached)], 1 << 16);
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
}

impl Distributor {
    fn learn(&mut self, target: Target, mapping: Mapping, now: Duration) {
        self.cache.insert(target, (mapping, now));
    }

    fn hear(&mut self, change: &Change, now: Duration) {
        match change {
            Change::Mapping { target, mapping, .. } => self.learn(*target, *mapping, now),
            Change::Live(live) => {
                let up = |m: &Mapping| m.servers.as_slice().iter().all(|server| live.contains(server));
                self.cache.retain(|_, (mapping, _)| up(mapping));
            }
            Change::Guide { guide, .. } => self.obey(guide),
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
        let server = loads.least_of(mapping.servers.as_slice())?;
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
        replicated in any::<bool>(),
        servers in 1u16..6,
        steps in prop::collection::vec((0u16..3, 0u64..5, 0u16..6, 0u32..30, 0u64..9_000, 0u8..24), 1..250),
    ) {
        let kind = if replicated { PolicyKind::LardReplicated } else { PolicyKind::Lard };
        let mut dispatcher = dispatcher(kind, servers);
        let mut distributors: BTreeMap<_, _> = [A, B, C].map(|id| (id, Distributor::default())).into();
        for (id, distributor) in &mut distributors {
            dispatcher.distributor_up(*id).guides.iter().for_each(|(_, guide)| distributor.obey(guide));
        }
        let mut now = Duration::ZERO;
        for (who, target, node, load, ms, what) in steps {
            let (who, target, node) = (NodeId(100 + who), Target(target), NodeId(node % servers));
            match what {
                0..4 => dispatcher.load_reported(node, load),
                4 => dispatcher.server_up(node),
                5 => {
                    dispatcher.server_down(node);
                }
                6..8 => now += Duration::from_millis(ms),
                _ => {
                    let own = distributors[&who].decide(target, now, &dispatcher);
                    let Ok(asked) = dispatcher.ask(who, SERVICE, Some(target), now) else { continue };
                    match own {
                        Some(own) => prop_assert!(asked.server == own && !asked.moved),
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

/// Makes a target move by a question of `by`'s.
fn move_target(dispatcher: &mut Dispatcher, target: Target, by: NodeId) -> Mapping {
    let held = dispatcher.ask(by, SERVICE, Some(target), Duration::ZERO).expect("servers are up");
    dispatcher.load_reported(held.server, 90);
    let moved = dispatcher.ask(by, SERVICE, Some(target), Duration::ZERO).expect("servers are up");
    assert!(moved.moved && moved.server != held.server);
    dispatcher.load_reported(held.server, 0);
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
    let expected = vec![Change::Mapping { service: SERVICE, target: Target(1), mapping }];
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
    assert_eq!(pushes[0].changes, [Change::Mapping { service: SERVICE, target: Target(1), mapping }]);
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
        let decision = dispatcher.ask(A, SERVICE, Some(Target(1)), second * seconds).expect("servers are up");
        dispatcher.load_reported(decision.server, 0);
        decision.mapping.expect("LARD/R maps").servers.len()
    };
    assert_eq!(servers_at(&mut dispatcher, 0), 1);
    dispatcher.load_reported(NodeId(0), 90);
    assert_eq!(servers_at(&mut dispatcher, 1), 2);
    assert_eq!(servers_at(&mut dispatcher, 21), 2, "not changed for K");
    assert_eq!(servers_at(&mut dispatcher, 22), 1, "not changed for longer than K");
}

#[test]
fn in_a_full_set_the_newcomer_takes_the_place_of_the_most_loaded() {
    let rules = [rule(PolicyKind::LardReplicated, Consult::Cached)];
    let mut dispatcher = Dispatcher::new((0..6).map(|id| (NodeId(id), 1)), rules, 16);
    (0..6).for_each(|id| dispatcher.server_up(NodeId(id)));
    let mut set = Vec::new();
    for load in 90..96 {
        let decision = dispatcher.ask(A, SERVICE, Some(Target(1)), Duration::ZERO).expect("servers are up");
        dispatcher.load_reported(decision.server, load);
        set = decision.mapping.expect("LARD/R maps").servers.as_slice().to_vec();
    }
    assert_eq!(set, [0, 1, 2, 5].map(NodeId), "5 for 4, which had come for 3");
}

#[test]
fn a_newcomer_starts_the_round_anew() {
    let mut dispatcher = dispatcher(PolicyKind::WeightedRoundRobin, 3);
    let turns = |dispatcher: &mut Dispatcher, n: usize| -> Vec<NodeId> {
        let ask = |_| dispatcher.ask(A, SERVICE, None, Duration::ZERO).expect("servers are up").server;
        (0..n).map(ask).collect()
    };
    turns(&mut dispatcher, 4);
    dispatcher.server_down(NodeId(0));
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
    dispatcher.ask(A, SERVICE, Some(Target(1)), Duration::ZERO).unwrap();
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
    assert_eq!((dispatcher.server_down(held), dispatcher.server_down(held)), (1, 0));
    let left: Vec<_> = dispatcher.loads().live().map(|(node, _)| node).collect();
    let news = [
        Change::Live(left.clone()),
        Change::Guide { service: SERVICE, guide: Guide::Cached { load_limit: 8 } },
    ];
    for push in dispatcher.take_pushes() {
        assert_eq!(push.changes, news);
    }
    assert_eq!(dispatcher.stats().targets, 0);
    let decision = dispatcher.ask(A, SERVICE, Some(Target(1)), Duration::ZERO).unwrap();
    assert_eq!((vec![decision.server], decision.moved), (left, false));
}

#[test]
fn who_left_is_told_nothing_and_who_comes_gets_the_state() {
    let mut dispatcher = dispatcher(PolicyKind::WeightedRoundRobin, 2);
    dispatcher.distributor_up(A);
    dispatcher.distributor_down(A);
    dispatcher.server_down(NodeId(1));
    assert!(dispatcher.take_pushes().is_empty());
    let welcome = dispatcher.distributor_up(B);
    assert_eq!(welcome.live, [NodeId(0)]);
    assert_eq!(welcome.guides, [(SERVICE, Guide::Rota(vec![NodeId(0)]))]);
}

#[test]
fn consult_always_caches_nothing_and_pushes_no_moves() {
    for kind in PolicyKind::ALL {
        let mut dispatcher =
            Dispatcher::new((0..2).map(|id| (NodeId(id), 1)), [rule(kind, Consult::Always)], 16);
        dispatcher.server_up(NodeId(0));
        dispatcher.server_up(NodeId(1));
        assert_eq!(dispatcher.distributor_up(A).guides, [(SERVICE, Guide::AskAlways)]);
        dispatcher.distributor_up(B);
        dispatcher.take_pushes();
        for load in [0, 90, 0, 90] {
            let decision = dispatcher.ask(A, SERVICE, Some(Target(1)), Duration::ZERO).unwrap();
            assert_eq!(decision.mapping, None);
            dispatcher.load_reported(decision.server, load);
        }
        assert!(!dispatcher.has_pushes());
    }
}

#[test]
fn a_service_has_its_own_targets_and_shares_the_loads() {
    let rules = [PolicyKind::Lard, PolicyKind::Lard].map(|kind| rule(kind, Consult::Cached));
    let mut dispatcher = Dispatcher::new((0..2).map(|id| (NodeId(id), 1)), rules, 16);
    dispatcher.server_up(NodeId(0));
    dispatcher.server_up(NodeId(1));
    let first = dispatcher.ask(A, ServiceId(0), Some(Target(1)), Duration::ZERO).unwrap();
    let second = dispatcher.ask(A, ServiceId(1), Some(Target(1)), Duration::ZERO).unwrap();
    assert_ne!(first.server, second.server);
    assert_eq!(dispatcher.stats().targets, 2);
}

#[test]
fn questions_without_an_answer_are_refused_and_counted() {
    let mut dispatcher = dispatcher(PolicyKind::Lard, 1);
    let unknown = ServiceId(9);
    let refused = dispatcher.ask(A, unknown, None, Duration::ZERO);
    assert_eq!(refused, Err(Refusal::UnknownService(unknown)));
    dispatcher.server_down(NodeId(0));
    assert_eq!(dispatcher.ask(A, SERVICE, Some(Target(1)), Duration::ZERO), Err(Refusal::NoServer));
    assert_eq!((dispatcher.stats().asked, dispatcher.stats().refused), (2, 2));
    dispatcher.server_up(NodeId(0));
    assert!(dispatcher.ask(A, SERVICE, Some(Target(1)), Duration::ZERO).is_ok());
}

#[test]
fn targets_are_bounded() {
    let rules = [rule(PolicyKind::LardReplicated, Consult::Cached)];
    let mut dispatcher = Dispatcher::new([(NodeId(0), 1)], rules, 100);
    dispatcher.server_up(NodeId(0));
    for n in 0..1000 {
        dispatcher.ask(A, SERVICE, Some(Target(n)), Duration::ZERO).unwrap();
    }
    let stats = dispatcher.stats();
    assert_eq!((stats.targets, stats.targets_evicted), (100, 900));
}
