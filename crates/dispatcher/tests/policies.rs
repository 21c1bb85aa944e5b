//! Each policy against the naive model and against its own promises, over random questions,
//! reports, deaths and time; and the same run twice.

mod model;

use std::collections::BTreeMap;
use std::time::Duration;

use baton_cluster::{Consult, NodeId, PolicyConfig, PolicyKind, ServiceId, Target};
use baton_dispatcher::{
    Decision, Dispatcher, Guide, Loads, Policy, Refusal, Replicas, ServiceRule, WeightedRoundRobin,
};
use model::Model;
use proptest::prelude::*;

const SERVICE: ServiceId = ServiceId(0);
const DISTRIBUTOR: NodeId = NodeId(100);

#[derive(Clone, Debug)]
enum Event {
    Ask(Option<Target>),
    Report(NodeId, u32),
    Up(NodeId),
    Down(NodeId),
    Pass(Duration),
}

fn events(servers: u16) -> impl Strategy<Value = Vec<Event>> {
    let node = || (0..servers).prop_map(NodeId);
    // Loads around the thresholds 3 and 8, so that every branch is taken often.
    let event = prop_oneof![
        12 => prop::option::weighted(0.95, (0u64..6).prop_map(Target)).prop_map(Event::Ask),
        6 => (node(), 0u32..40).prop_map(|(node, load)| Event::Report(node, load)),
        1 => node().prop_map(Event::Up),
        1 => node().prop_map(Event::Down),
        1 => (0u64..15_000).prop_map(|ms| Event::Pass(Duration::from_millis(ms))),
        1 => (1u64..=3).prop_map(|tens| Event::Pass(Duration::from_secs(10 * tens))),
    ];
    prop::collection::vec(event, 1..200)
}

fn weights() -> impl Strategy<Value = Vec<u16>> {
    let equal = (prop::sample::select(vec![1u16, 3]), 1usize..8).prop_map(|(weight, n)| vec![weight; n]);
    let unequal = prop::collection::vec(prop::sample::select(vec![1u16, 2, 3, 4, 6, 12]), 1..8);
    prop_oneof![equal, unequal]
}

fn scenario() -> impl Strategy<Value = (Vec<u16>, Vec<Event>)> {
    weights().prop_flat_map(|weights| {
        let servers = u16::try_from(weights.len()).expect("few");
        (Just(weights), events(servers))
    })
}

fn config(kind: PolicyKind) -> PolicyConfig {
    PolicyConfig { t_low: 3, t_high: 8, ..PolicyConfig::new(kind) }
}

fn dispatcher(kind: PolicyKind, weights: &[u16]) -> Dispatcher {
    let servers = (0u16..).map(NodeId).zip(weights.iter().copied());
    let rule = ServiceRule { policy: config(kind), consult: Consult::Cached };
    Dispatcher::new(servers, [rule], 1 << 16)
}

/// Applies an event; the answer if it was a question.
fn apply(
    dispatcher: &mut Dispatcher,
    event: &Event,
    now: &mut Duration,
) -> Option<Result<Decision, Refusal>> {
    match *event {
        Event::Ask(target) => return Some(dispatcher.ask(DISTRIBUTOR, SERVICE, target, *now)),
        Event::Report(node, load) => dispatcher.load_reported(node, load),
        Event::Up(node) => dispatcher.server_up(node),
        Event::Down(node) => {
            dispatcher.server_down(node);
        }
        Event::Pass(time) => *now += time,
    }
    None
}

fn all_up(weights: &[u16]) -> Vec<Event> {
    (0u16..).map(NodeId).map(Event::Up).take(weights.len()).collect()
}

/// Runs the policy and the model side by side and compares every decision and every set.
fn agrees_with_model(kind: PolicyKind, weights: &[u16], events: &[Event]) -> Result<(), TestCaseError> {
    let mut dispatcher = dispatcher(kind, weights);
    let mut model = Model::new(config(kind), weights);
    let mut now = Duration::ZERO;
    for event in all_up(weights).iter().chain(events) {
        let answer = apply(&mut dispatcher, event, &mut now);
        match *event {
            Event::Ask(target) => {
                let before = target.and_then(|target| model.sets.get(&target).cloned());
                let overloaded: Vec<_> =
                    model.servers.keys().copied().filter(|node| model.overloaded(*node)).collect();
                let expected = model.ask(target, now);
                let got = answer.and_then(Result::ok);
                prop_assert_eq!(got.map(|d| d.server), expected.as_ref().map(|(server, _)| *server));
                let (Some(decision), Some((_, set))) = (got, expected) else { continue };
                let mapped = decision.mapping.map(|m| m.servers.as_slice().to_vec()).unwrap_or_default();
                prop_assert_eq!(&mapped, &set);
                prop_assert!(model.servers[&decision.server].up, "a dead server was chosen");
                keeps_its_promises(kind, decision, before, &overloaded, now)?;
            }
            Event::Report(node, load) => model.report(node, load),
            Event::Up(node) => model.up(node),
            Event::Down(node) => model.down(node),
            Event::Pass(_) => {}
        }
    }
    Ok(())
}

/// What must hold of a decision whatever the model says.
fn keeps_its_promises(
    kind: PolicyKind,
    decision: Decision,
    before: Option<(Vec<NodeId>, Duration)>,
    overloaded: &[NodeId],
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
    let gained = servers.iter().any(|server| !before.contains(server));
    let least_was_overloaded = before.iter().all(|server| overloaded.contains(server));
    prop_assert!(!gained || least_was_overloaded, "moved or replicated without need");
    let k = config(kind).k;
    if kind == PolicyKind::LardReplicated && before.len() > 1 {
        let due = now - changed > k;
        prop_assert!(!due || servers.len() <= before.len(), "a set that is due must not grow");
        prop_assert!(!due || decision.moved, "a set that is due must shrink or change");
    }
    if let (Some(expires), false) = (mapping.expires, decision.moved) {
        prop_assert!(now + expires > changed + k && now + expires <= changed + k + Duration::from_millis(1));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn least_loaded_is_the_models((weights, events) in scenario()) {
        agrees_with_model(PolicyKind::LeastLoaded, &weights, &events)?;
    }

    #[test]
    fn lard_is_the_papers((weights, events) in scenario()) {
        agrees_with_model(PolicyKind::Lard, &weights, &events)?;
    }

    #[test]
    fn lard_replicated_is_the_papers((weights, events) in scenario()) {
        agrees_with_model(PolicyKind::LardReplicated, &weights, &events)?;
    }

    /// A dispatcher is a function of its events.
    #[test]
    fn the_same_events_give_the_same_decisions((weights, events) in scenario()) {
        for kind in PolicyKind::ALL {
            let run = || {
                let mut dispatcher = dispatcher(kind, &weights);
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
        let mut policy = WeightedRoundRobin::new();
        for (node, up) in before {
            let changed = loads.set_live(NodeId(node), up);
            match (changed, up) {
                (true, true) => policy.server_joined(NodeId(node)),
                (true, false) => prop_assert_eq!(policy.server_left(NodeId(node)), 0),
                _ => {}
            }
            policy.decide(None, &loads, Duration::ZERO);
        }
        policy.server_joined(NodeId(0));
        let Guide::Rota(rota) = policy.guide(&loads) else { panic!("not a rota") };
        let live: BTreeMap<_, _> = loads.live().collect();
        prop_assert_eq!(rota.is_empty(), live.is_empty());
        let mut decided = || policy.decide(None, &loads, Duration::ZERO).map(|d| d.server);
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
