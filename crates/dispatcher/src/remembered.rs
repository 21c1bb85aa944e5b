//! What a dispatcher remembers of a target, as it tells the others. Each change has a time by the cluster's clock, or one
//! more than the change before, if that is later; of two the later stands, whichever comes last. So dispatchers that
//! have heard the same remember the same, whatever the order.

use std::time::Duration;

use baton_cluster::Target;

use crate::{Replicas, Targets};

/// A time that is further ahead than this is not of the cluster's clock: its node had not agreed with anybody yet.
const AHEAD_MAX: Duration = Duration::from_secs(10);

/// A target's servers, since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// At least one.
    pub servers: Replicas,
    /// When they last changed, by the cluster's clock.
    pub changed: Duration,
}

/// A policy's entry for one target.
pub(crate) trait Placed {
    fn of(told: Remembered) -> Self;
    fn remembered(&self) -> Remembered;
}

impl Remembered {
    fn stands_against(&self, other: &Self) -> bool {
        let by = |one: &Self| (one.changed, one.servers);
        let ((at, servers), (other_at, others)) = (by(self), by(other));
        at.cmp(&other_at).then_with(|| servers.as_slice().cmp(others.as_slice())).is_gt()
    }
}

/// When something changed, or now, if that is a time to come.
pub(crate) fn settled(changed: Duration, now: Duration) -> Duration {
    if changed > now + AHEAD_MAX { now } else { changed }
}

/// The time of a change that is made now, after another one.
pub(crate) fn stamp(before: Option<Duration>, now: Duration) -> Duration {
    before.map_or(now, |before| now.max(settled(before, now) + Duration::from_nanos(1)))
}

/// Takes over what another dispatcher has told, unless something later is known here. Whether it did.
pub(crate) fn learn<V: Placed>(
    table: &mut Targets<V>,
    target: Target,
    told: Remembered,
    now: Duration,
) -> bool {
    let told = Remembered { changed: settled(told.changed, now), ..told };
    let known = table.peek(target).map(V::remembered);
    let known = known.map(|known| Remembered { changed: settled(known.changed, now), ..known });
    let news = known.is_none_or(|known| told.stands_against(&known));
    if news {
        table.insert(target, V::of(told));
    }
    news
}

/// What is remembered, from a place on, at most so much; and where to go on.
pub(crate) fn piece<V: Placed>(
    table: &Targets<V>,
    from: usize,
    most: usize,
) -> (Vec<(Target, Remembered)>, Option<usize>) {
    let piece: Vec<_> = table.iter_from(from).take(most).map(|(t, v)| (t, v.remembered())).collect();
    let next = from.saturating_add(piece.len());
    (piece, (next < table.len()).then_some(next))
}

#[cfg(test)]
mod tests {
    use baton_cluster::NodeId;
    use proptest::prelude::*;

    use super::*;

    impl Placed for Remembered {
        fn of(told: Remembered) -> Self {
            told
        }

        fn remembered(&self) -> Remembered {
            *self
        }
    }

    const NOW: Duration = Duration::from_secs(1000);

    fn told(server: u16, ms: u64) -> Remembered {
        Remembered { servers: Replicas::one(NodeId(server)), changed: Duration::from_millis(ms) }
    }

    #[test]
    fn a_time_to_come_is_taken_for_now() {
        let mut table = Targets::<Remembered>::new(9);
        let hour = 3_600_000;
        assert!(learn(&mut table, Target(1), told(1, 1_000_000 + hour), NOW));
        assert_eq!(table.peek(Target(1)).map(|known| known.changed), Some(NOW));
        table.insert(Target(2), told(2, 1_000_000 + hour));
        assert!(
            learn(&mut table, Target(2), told(3, 1_000_001), NOW),
            "what was decided an hour ahead gives way"
        );
        assert_eq!(stamp(Some(NOW), NOW), NOW + Duration::from_nanos(1));
        assert_eq!(stamp(Some(NOW * 9), NOW), NOW + Duration::from_nanos(1));
        assert_eq!(stamp(None, NOW), NOW);
    }

    proptest! {
        /// Whatever the order, and however often: who has heard the same remembers the same.
        #[test]
        fn all_who_have_heard_agree(
            news in prop::collection::vec((0u64..8, 0u16..4, 0u64..20), 0..40),
            again in prop::collection::vec(any::<prop::sample::Index>(), 0..40),
        ) {
            let [mut one, mut other] = [(); 2].map(|()| Targets::<Remembered>::new(100));
            for (target, server, ms) in &news {
                learn(&mut one, Target(*target), told(*server, *ms), NOW);
            }
            let twice = again.iter().filter(|_| !news.is_empty()).map(|index| *index.get(&news));
            for (target, server, ms) in twice.chain(news.iter().rev().copied()) {
                learn(&mut other, Target(target), told(server, ms), NOW);
            }
            prop_assert_eq!(one.len(), other.len());
            for target in 0..8 {
                prop_assert_eq!(one.peek(Target(target)), other.peek(Target(target)));
            }
        }

        /// A table that is told in pieces is told as a whole.
        #[test]
        fn pieces_are_the_whole(count in 0u64..50, most in 1usize..20) {
            let mut table = Targets::<Remembered>::new(100);
            (0..count).for_each(|n| table.insert(Target(n), told(1, n)));
            let (mut copy, mut from, mut pieces) = (Targets::<Remembered>::new(100), Some(0), 0);
            while let Some(place) = from {
                let (told, next) = piece(&table, place, most);
                prop_assert!(told.len() <= most);
                told.into_iter().for_each(|(target, told)| {
                    learn(&mut copy, target, told, NOW);
                });
                (from, pieces) = (next, pieces + 1);
            }
            prop_assert_eq!(copy.len() as u64, count);
            prop_assert!(pieces <= count as usize / most + 1);
            prop_assert!((0..count).all(|n| copy.peek(Target(n)) == table.peek(Target(n))));
        }
    }
}
