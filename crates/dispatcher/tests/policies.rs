//! Each policy against the naive model and against its own promises, over random questions,
//! reports, deaths and time; and the same run twice.

mod model;

use std::collections::BTreeMap;
use std::time::Duration;

use baton_cluster::{Guide, NodeId, PHttp, PolicyConfig, PolicyKind, PoolId, Target};
use baton_dispatcher::{
    Decision, Dispatcher, Loads, NoDecision, Policy, PoolQuestion, PoolRule, Replicas, WeightedRoundRobin,
};
use model::Model;
use proptest::prelude::*;

const POOL: PoolId = PoolId(0);
const DISTRIBUTOR: NodeId = NodeId(100);

#[derive(Clone, Debug)]
enum Event {
    Ask(Option<Target>, Option<NodeId>),
    Report(NodeId, u32, u8),
    Up(NodeId),
    Down(NodeId),
    Pass(Duration),
}

fn events(servers: u16) -> impl Strategy<Value = Vec<Event>> {
    let node = || (0..servers).prop_map(NodeId);
    // A connection may be with a node that is no server. Loads around the thresholds 3 and 8, pressures
    // around 10, so that every branch is taken often.
    let at = prop::option::of((0..=servers).prop_map(NodeId));
    let target = prop::option::weighted(0.95, (0u64..6).prop_map(Target));
    let event = prop_oneof![
        12 => (target, at).prop_map(|(target, at)| Event::Ask(target, at)),
        6 => (node(), 0u32..40, 7u8..13).prop_map(|(node, load, pressure)| Event::Report(node, load, pressure)),
        1 => node().prop_map(Event::Up),
        1 => node().prop_map(Event::Down),
        1 => (0u64..15_000).prop_map(|ms| Event::Pass(Duration::from_millis(ms))),
        1 => (1u64..=6).prop_map(|fives| Event::Pass(Duration::from_secs(5 * fives))),
    ];
    prop::collection::vec(event, 1..200)
}

fn weights() -> impl Strategy<Value = Vec<u16>> {
    let equal = (prop::sample::select(vec![1u16, 3]), 1usize..8).prop_map(|(weight, n)| vec![weight; n]);
    let unequal = prop::collection::vec(prop::sample::select(vec![1u16, 2, 3, 4, 6, 12]), 1..8);
    prop_oneof![equal, unequal]
}

/// A cluster, the servers of its pool, and what happens.
type Scenario = (Vec<u16>, Vec<NodeId>, Vec<Event>);

fn scenario() -> impl Strategy<Value = Scenario> {
    weights().prop_flat_map(|weights| {
        let servers = u16::try_from(weights.len()).expect("few");
        let all: Vec<_> = (0..servers).map(NodeId).collect();
        let some = prop::sample::subsequence(all.clone(), 1..=all.len());
        (Just(weights), prop_oneof![Just(all), some], events(servers))
    })
}

fn rule(kind: PolicyKind, p_http: PHttp, pool: &[NodeId]) -> PoolRule {
    let policy = PolicyConfig { t_low: 3, t_high: 8, ..PolicyConfig::new(kind) };
    PoolRule { p_http, ..PoolRule::new(pool, policy) }
}

fn dispatcher(rule: &PoolRule, weights: &[u16]) -> Dispatcher {
    let servers = (0u16..).map(NodeId).zip(weights.iter().copied());
    Dispatcher::new(servers, [rule.clone()], 1 << 16)
}

/// Applies an event; the answer if it was a question.
fn apply(
    dispatcher: &mut Dispatcher,
    event: &Event,
    now: &mut Duration,
) -> Option<Result<Decision, NoDecision>> {
    match *event {
        Event::Ask(target, at) => {
            return Some(dispatcher.ask(DISTRIBUTOR, PoolQuestion { pool: POOL, target, at }, *now));
        }
        Event::Report(node, load, pressure) => dispatcher.load_reported(node, load, pressure),
        Event::Up(node) => dispatcher.server_up(node),
        Event::Down(node) => {
            dispatcher.server_down(node, *now);
        }
        Event::Pass(time) => {
            *now += time;
            dispatcher.forget_gone(*now);
        }
    }
    None
}

fn all_up(weights: &[u16]) -> Vec<Event> {
    (0u16..).map(NodeId).map(Event::Up).take(weights.len()).collect()
}

/// Runs the policy and the model side by side and compares every decision and every set.
fn agrees_with_model(
    kind: PolicyKind,
    p_http: PHttp,
    (weights, pool, events): &Scenario,
) -> Result<(), TestCaseError> {
    let rule = rule(kind, p_http, pool);
    let mut dispatcher = dispatcher(&rule, weights);
    let mut model = Model::new(&rule, weights);
    let mut now = Duration::ZERO;
    for event in all_up(weights).iter().chain(events) {
        let answer = apply(&mut dispatcher, event, &mut now);
        match *event {
            Event::Ask(target, at) => {
                let before = target.and_then(|target| model.sets.get(&target).cloned());
                let overloaded: Vec<_> =
                    model.servers.keys().copied().filter(|node| model.overloaded(*node)).collect();
                let here = at.filter(|node| model.serves(*node));
                let expected = model.ask(target, at, now);
                let got = answer.and_then(Result::ok);
                prop_assert_eq!(got.map(|d| d.server), expected.as_ref().map(|(server, _)| *server));
                let (Some(decision), Some((_, set))) = (got, expected) else { continue };
                let mapped = decision.mapping.map(|m| m.servers.as_slice().to_vec()).unwrap_or_default();
                prop_assert_eq!(&mapped, &set);
                prop_assert!(model.serves(decision.server), "dead, or of another pool");
                if p_http == PHttp::ExtendedLard {
                    keeps_the_promises_of_extended(decision, before, here)?;
                } else {
                    let serves = |node: &NodeId| model.serves(*node);
                    keeps_its_promises(&rule, decision, before, &overloaded, &serves, now)?;
                }
            }
            Event::Report(node, load, pressure) => model.report(node, load, pressure),
            Event::Up(node) => model.up(node),
            Event::Down(node) => model.down(node, now),
            Event::Pass(_) => model.pass(now),
        }
    }
    Ok(())
}

/// What must hold under extended LARD whatever the model says: a connection moves only to who has the
/// target, and stays where the target is.
fn keeps_the_promises_of_extended(
    decision: Decision,
    before: Option<(Vec<NodeId>, Duration)>,
    here: Option<NodeId>,
) -> Result<(), TestCaseError> {
    let before = before.map(|(set, _)| set).unwrap_or_default();
    if let Some(here) = here {
        prop_assert!(decision.server == here || before.contains(&decision.server));
        prop_assert!(decision.server == here || !before.contains(&here));
    }
    let Some(mapping) = decision.mapping else { return Ok(()) };
    let servers = mapping.servers.as_slice();
    prop_assert!(!servers.is_empty() && servers.len() <= Replicas::MAX && mapping.expires.is_none());
    prop_assert_eq!(decision.moved, !before.is_empty() && before != servers);
    Ok(())
}

/// What must hold of a decision whatever the model says.
fn keeps_its_promises(
    rule: &PoolRule,
    decision: Decision,
    before: Option<(Vec<NodeId>, Duration)>,
    overloaded: &[NodeId],
    serves: &dyn Fn(&NodeId) -> bool,
    now: Duration,
) -> Result<(), TestCaseError> {
    let Some(mapping) = decision.mapping else { return Ok(()) };
    let servers = mapping.servers.as_slice();
    prop_assert!(!servers.is_empty() && servers.len() <= Replicas::MAX);
    prop_assert_eq!(mapping.expires.is_some(), servers.len() > 1);
    let Some((before, changed)) = before else {
        prop_assert!(!decision.moved && servers.len() == 1);
        return Ok(());
    };
    prop_assert_eq!(decision.moved, before != servers);
    let before: Vec<_> = before.into_iter().filter(serves).collect();
    if before.is_empty() {
        prop_assert!(servers.len() == 1, "placed anew");
        return Ok(());
    }
    let gained = servers.iter().any(|server| !before.contains(server));
    let least_was_overloaded = before.iter().all(|server| overloaded.contains(server));
    prop_assert!(!gained || least_was_overloaded, "moved or replicated without need");
    let k = rule.policy.k;
    if rule.policy.kind == PolicyKind::LardReplicated && before.len() > 1 {
        let due = now - changed > k;
        prop_assert!(!due || servers.len() <= before.len(), "a set that is due must not grow");
        prop_assert!(!due || decision.moved, "a set that is due must shrink or change");
    }
    if let (Some(expires), false) = (mapping.expires, decision.moved) {
        prop_assert!(now + expires > changed + k && now + expires <= changed + k + Duration::from_millis(1));
    }
    Ok(())
}

fn p_http(moves: bool) -> PHttp {
    if moves { PHttp::Move } else { PHttp::Stay }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn least_loaded_is_the_models(scenario in scenario(), moves in any::<bool>()) {
        agrees_with_model(PolicyKind::LeastLoaded, p_http(moves), &scenario)?;
    }

    #[test]
    fn lard_is_the_papers(scenario in scenario(), moves in any::<bool>()) {
        agrees_with_model(PolicyKind::Lard, p_http(moves), &scenario)?;
    }

    #[test]
    fn lard_replicated_is_the_papers(scenario in scenario(), moves in any::<bool>()) {
        agrees_with_model(PolicyKind::LardReplicated, p_http(moves), &scenario)?;
    }

    #[test]
    fn extended_lard_is_the_papers(scenario in scenario(), replicated in any::<bool>()) {
        let kind = if replicated { PolicyKind::LardReplicated } else { PolicyKind::Lard };
        agrees_with_model(kind, PHttp::ExtendedLard, &scenario)?;
    }

    /// A dispatcher is a function of its events.
    #[test]
    fn the_same_events_give_the_same_decisions((weights, pool, events) in scenario()) {
        let stay = PolicyKind::ALL.map(|kind| (kind, PHttp::Stay));
        let others = [(PolicyKind::Lard, PHttp::Move), (PolicyKind::Lard, PHttp::ExtendedLard)];
        for (kind, p_http) in stay.into_iter().chain(others) {
            let run = || {
                let mut dispatcher = dispatcher(&rule(kind, p_http, &pool), &weights);
                dispatcher.distributor_up(NodeId(7));
                let mut now = Duration::ZERO;
                let answers: Vec<_> = all_up(&weights)
                    .iter()
                    .chain(&events)
                    .map(|event| apply(&mut dispatcher, event, &mut now))
                    .collect();
                (answers, dispatcher.take_pushes(), dispatcher.stats())
            };
            prop_assert_eq!(run(), run());
        }
    }

    /// Over a whole round every server has exactly its share, after any history of comings and
    /// goings; the guide is that round; and no server waits longer than its weight makes it.
    #[test]
    fn weighted_round_robin_is_exact(
        weights in prop::collection::vec(0u16..=12, 1..12),
        before in prop::collection::vec((0u16..12, any::<bool>()), 0..40),
    ) {
        let mut loads = Loads::new((0u16..).map(NodeId).zip(weights.iter().copied()));
        let all: Vec<_> = loads.servers().map(|(node, _)| node).collect();
        let mut policy = WeightedRoundRobin::new();
        for (node, up) in before {
            let changed = loads.set_live(NodeId(node), up);
            match (changed, up) {
                (true, true) => policy.server_joined(NodeId(node)),
                (true, false) => {
                    policy.server_down(NodeId(node));
                    prop_assert_eq!(policy.server_left(NodeId(node)), 0);
                },
                _ => {}
            }
            policy.decide(None, None, loads.of(&all), Duration::ZERO);
        }
        policy.server_joined(NodeId(0));
        let Guide::Rota(rota) = policy.guide(loads.of(&all)) else { panic!("not a rota") };
        let live: BTreeMap<_, _> = loads.live().collect();
        prop_assert_eq!(rota.is_empty(), live.is_empty());
        let mut decided = || policy.decide(None, None, loads.of(&all), Duration::ZERO).map(|d| d.server);
        let rounds: Vec<_> = rota.iter().chain(&rota).map(|_| decided().unwrap()).collect();
        prop_assert_eq!(&rounds, &[rota.clone(), rota.clone()].concat());
        let total: usize = live.values().map(|w| usize::from(*w)).sum();
        for (node, weight) in live {
            let turns: Vec<_> = (0..rounds.len()).filter(|at| rounds[*at] == node).collect();
            prop_assert_eq!(turns.len() * total, 2 * rota.len() * usize::from(weight));
            // Smooth: after i turns of anybody, a server is never a whole round's worth behind.
            for (had, at) in turns.iter().enumerate() {
                let due = (at + 1) * usize::from(weight);
                prop_assert!((had + 2) * total > due, "{} waited too long", node);
            }
        }
    }
}
