//! Several dispatchers that tell each other what they decide: whoever is asked, and however late news come, they remember
//! the same in the end, and another one goes on as the first would have.

use std::collections::VecDeque;
use std::time::Duration;

use baton_cluster::{NodeId, PHttp, PolicyConfig, PolicyKind, PoolId, Target};
use baton_dispatcher::{Dispatcher, PoolQuestion, PoolRule, Remembered};
use proptest::prelude::*;

const POOL: PoolId = PoolId(0);
const ASKER: NodeId = NodeId(9);
const SERVERS: [NodeId; 4] = [NodeId(0), NodeId(1), NodeId(2), NodeId(3)];

fn dispatcher(kind: PolicyKind, p_http: PHttp) -> Dispatcher {
    let policy = PolicyConfig { t_low: 2, t_high: 4, k: Duration::from_secs(1), ..PolicyConfig::new(kind) };
    let rule = PoolRule { p_http, ..PoolRule::new(SERVERS, policy) };
    let mut dispatcher = Dispatcher::new(SERVERS.map(|server| (server, 1)), [rule], 1000);
    SERVERS.into_iter().for_each(|server| dispatcher.server_up(server));
    dispatcher.set_shared(true);
    dispatcher
}

fn question(target: u64, at: Option<NodeId>) -> PoolQuestion {
    PoolQuestion { pool: POOL, target: Some(Target(target)), at }
}

fn all(dispatcher: &Dispatcher) -> Vec<(Target, Remembered)> {
    let (mut all, next) = dispatcher.piece(POOL, 0, usize::MAX);
    assert_eq!(next, None);
    all.sort_by_key(|(target, _)| target.0);
    all
}

fn tell(to: &mut Dispatcher, target: Target, known: &Remembered, now: Duration) {
    to.learn(POOL, target, (known.servers.as_slice(), known.changed), now);
}

#[test]
fn another_one_goes_on_as_the_first_would_have() {
    for (kind, p_http) in [
        (PolicyKind::Lard, PHttp::Stay),
        (PolicyKind::LardReplicated, PHttp::Move),
        (PolicyKind::Lard, PHttp::ExtendedLard),
    ] {
        let (mut first, mut next) = (dispatcher(kind, p_http), dispatcher(kind, p_http));
        let now = Duration::from_secs(100);
        for target in 0..200 {
            first.ask(ASKER, question(target, None), now).expect("servers are up");
        }
        // Half of it is told as it happens, half of it asked for.
        first.take_shared().filter(|(_, target, _)| target.0 % 2 == 0).for_each(|(_, target, known)| {
            tell(&mut next, target, &known, now);
        });
        let (mut place, mut pieces) = (Some(0), 0);
        while let Some(from) = place {
            let (piece, next_place) = first.piece(POOL, from, 64);
            piece.iter().for_each(|(target, known)| tell(&mut next, *target, known, now));
            (place, pieces) = (next_place, pieces + 1);
        }
        assert_eq!((pieces, next.stats().learned), (4, 200));
        assert_eq!(all(&first), all(&next));
        SERVERS.into_iter().for_each(|server| next.load_reported(server, 1, 0));
        for target in 0..200 {
            let known = first.piece(POOL, 0, usize::MAX).0.into_iter().find(|(t, _)| t.0 == target);
            let server = next.ask(ASKER, question(target, None), now).expect("servers are up").server;
            assert!(known.expect("remembered").1.servers.contains(server), "{kind:?}: {target}");
        }
        assert_eq!(next.stats().moved, 0, "{kind:?}");
    }
}

#[test]
fn servers_of_another_file_are_not_learned() {
    let mut dispatcher = dispatcher(PolicyKind::LardReplicated, PHttp::Stay);
    let now = Duration::from_secs(1);
    assert!(!dispatcher.learn(POOL, Target(1), (&[NodeId(7)], now), now));
    assert!(!dispatcher.learn(PoolId(3), Target(1), (&[NodeId(1)], now), now));
    assert!(dispatcher.learn(POOL, Target(1), (&[NodeId(7), NodeId(2), NodeId(1)], now), now));
    assert_eq!(all(&dispatcher)[0].1.servers.as_slice(), [NodeId(2), NodeId(1)]);
    assert!(
        !dispatcher.learn(POOL, Target(1), (&[NodeId(3)], now - Duration::from_nanos(1)), now),
        "earlier"
    );
}

proptest! {
    /// Both are asked, at once, about the same targets; servers come, go and are busy; news come late, and in another order.
    #[test]
    fn two_that_are_asked_remember_the_same(
        steps in prop::collection::vec((0usize..2, 0u64..6, 0u32..9, 0u8..8), 1..120),
        policy in 0usize..3,
    ) {
        let (kind, p_http) = [
            (PolicyKind::Lard, PHttp::Stay),
            (PolicyKind::LardReplicated, PHttp::Stay),
            (PolicyKind::Lard, PHttp::ExtendedLard),
        ][policy];
        let mut both = [dispatcher(kind, p_http), dispatcher(kind, p_http)];
        let mut under_way: [VecDeque<(Target, Remembered)>; 2] = [VecDeque::new(), VecDeque::new()];
        let mut now = Duration::from_secs(50);
        for (who, target, load, what) in steps {
            match what {
                0 => both[who].load_reported(SERVERS[target as usize % 4], load, 50),
                1 => now += Duration::from_millis(u64::from(load) * 200),
                2 => both[who].server_down(SERVERS[target as usize % 4], now),
                3 => both[who].server_up(SERVERS[target as usize % 4]),
                4 => if let Some((target, known)) = under_way[who].pop_back() {
                    tell(&mut both[who], target, &known, now);
                },
                _ => {
                    let at = (what == 5).then_some(SERVERS[load as usize % 4]);
                    let _ = both[who].ask(ASKER, question(target, at), now);
                    let told: Vec<_> = both[who].take_shared().collect();
                    under_way[1 - who].extend(told.into_iter().map(|(_, target, known)| (target, known)));
                }
            }
        }
        for who in 0..2 {
            for (target, known) in std::mem::take(&mut under_way[who]) {
                tell(&mut both[who], target, &known, now);
            }
        }
        prop_assert_eq!(all(&both[0]), all(&both[1]));
    }
}
