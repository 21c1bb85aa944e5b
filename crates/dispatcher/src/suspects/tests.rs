use proptest::prelude::*;

use super::*;

const POOL: PoolId = PoolId(0);
const ALL: [NodeId; 3] = [NodeId(0), NodeId(1), NodeId(2)];

fn live(_: NodeId) -> bool {
    true
}

#[test]
fn a_doubted_server_has_no_share_and_gets_it_back() {
    let mut suspects = Suspects::default();
    let now = Duration::from_secs(1);
    assert!(suspects.set(POOL, NodeId(1), true, now, 7) && !suspects.set(POOL, NodeId(1), true, now, 7));
    assert_eq!(suspects.favoured(POOL, &ALL, live), [NodeId(0), NodeId(2)]);
    assert_eq!(suspects.favoured(PoolId(1), &ALL, live), ALL, "another pool's port may work");
    assert!(suspects.set(POOL, NodeId(1), false, now, 7) && !suspects.set(POOL, NodeId(1), false, now, 7));
    assert_eq!(suspects.favoured(POOL, &ALL, live), ALL);
}

#[test]
fn when_all_that_are_up_are_doubted_all_are_tried() {
    let mut suspects = Suspects::default();
    for node in [NodeId(0), NodeId(1)] {
        suspects.set(POOL, node, true, Duration::ZERO, 7);
    }
    let up = |node| node != NodeId(2);
    assert_eq!(suspects.favoured(POOL, &ALL, live), [NodeId(2)]);
    assert_eq!(suspects.favoured(POOL, &ALL, up), ALL);
    assert_eq!(suspects.due(POOL, &ALL, up, Duration::from_secs(99)), None, "all have their shares");
}

#[test]
fn who_flaps_is_tried_as_seldom_as_before() {
    let mut suspects = Suspects::default();
    suspects.set(POOL, NodeId(0), true, Duration::ZERO, 7);
    for _ in 0..20 {
        suspects.tried(POOL, NodeId(0), Duration::ZERO);
    }
    suspects.set(POOL, NodeId(0), false, Duration::ZERO, 7);
    suspects.set(POOL, NodeId(0), true, FLAPS / 2, 7);
    assert_eq!(suspects.due(POOL, &ALL, live, FLAPS / 2 + LAST / 2), None);
    suspects.set(POOL, NodeId(0), false, FLAPS, 7);
    suspects.set(POOL, NodeId(0), true, 2 * FLAPS, 7);
    assert_eq!(suspects.due(POOL, &ALL, live, 2 * FLAPS + FIRST), Some(NodeId(0)));
}

proptest! {
    /// However often it is asked: few requests are tried, ever fewer, and never none for longer than the bound.
    #[test]
    fn a_doubted_server_is_tried_seldom_but_for_ever(
        questions in prop::collection::vec(0u64..400, 1..2000),
        chance in any::<u64>(),
    ) {
        let mut suspects = Suspects::default();
        let (mut now, mut last, mut tries) = (Duration::ZERO, Duration::ZERO, 0u32);
        suspects.set(POOL, NodeId(1), true, now, chance);
        for after in questions {
            now += Duration::from_millis(after);
            if let Some(node) = suspects.due(POOL, &ALL, live, now) {
                prop_assert_eq!(node, NodeId(1));
                let least = (FIRST * 2u32.saturating_pow(tries)).min(LAST) * 3 / 4;
                prop_assert!(now - last >= least, "try {} after {:?}", tries, now - last);
                suspects.tried(POOL, node, now);
                (last, tries) = (now, (tries + 1).min(16));
            } else {
                prop_assert!(now - last < LAST);
            }
        }
    }
}
