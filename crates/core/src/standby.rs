//! How a dispatcher comes to remember what the others have decided: from the moment two of them are connected each tells
//! the other what it changes; of what was before, each asks the other, piece by piece. Until it has that it is not
//! ready, and is asked only where nobody else is. Pure: what is heard and the time in, questions out.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use baton_cluster::{NodeId, PoolHash};
use baton_control::{Recall, RecallPlace, Recalled};

/// Where nobody is ready, the first of the dispatchers counts as ready after so long; each one after it, after as much
/// more. What it would hear is heard by then.
const ALONE: Duration = Duration::from_secs(3);
/// A piece that does not come is asked for again.
const AGAIN: Duration = Duration::from_secs(1);

/// One dispatcher's part.
#[derive(Debug)]
pub(crate) struct Standby {
    me: NodeId,
    begun: Duration,
    ready: bool,
    /// The other dispatchers that are there, and whether they have said that they are ready.
    others: BTreeMap<NodeId, bool>,
    /// Whose memory is to be taken over.
    to_ask: VecDeque<NodeId>,
    recall: Option<Recalling>,
}

/// A memory that is being taken over.
#[derive(Debug)]
struct Recalling {
    from: NodeId,
    place: RecallPlace,
    /// The pools behind that one.
    pools: VecDeque<PoolHash>,
    asked: Option<Duration>,
}

/// What a moment asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct StandbyStep {
    /// Ask this dispatcher for a piece.
    pub(crate) ask: Option<(NodeId, Recall)>,
    /// From now on it is ready; tell all.
    pub(crate) became_ready: bool,
}

impl Standby {
    /// A dispatcher that begins now, and is ready if the file has no other.
    pub(crate) fn new(me: NodeId, has_others: bool, now: Duration) -> Self {
        let (others, to_ask) = (BTreeMap::new(), VecDeque::new());
        Self { me, begun: now, ready: !has_others, others, to_ask, recall: None }
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ready
    }

    /// The other dispatchers that are there.
    pub(crate) fn others(&self) -> impl Iterator<Item = NodeId> {
        self.others.keys().copied()
    }

    /// Whether a memory is being taken over.
    pub(crate) fn is_busy(&self) -> bool {
        self.recall.is_some() || !self.to_ask.is_empty()
    }

    /// Another dispatcher came up.
    pub(crate) fn up(&mut self, node: NodeId) {
        self.down(node);
        self.others.insert(node, false);
    }

    pub(crate) fn down(&mut self, node: NodeId) {
        self.others.remove(&node);
        self.to_ask.retain(|other| *other != node);
        self.recall.take_if(|recall| recall.from == node);
    }

    /// Another dispatcher says whether it is ready. What it remembers is asked for as soon as it is, once while the
    /// connection lasts.
    pub(crate) fn says(&mut self, node: NodeId, ready: bool) {
        if let Some(before) = self.others.get_mut(&node) {
            let news = ready && !std::mem::replace(before, ready);
            if news {
                self.to_ask.push_back(node);
            }
        }
    }

    /// The pools are others than before: of one that is new here the others may remember much.
    pub(crate) fn pools_changed(&mut self) {
        self.recall = None;
        self.to_ask = self.others.iter().filter(|(_, ready)| **ready).map(|(node, _)| *node).collect();
    }

    /// Called on every tick: at most one piece is asked for in each. `pools`: those of which something is remembered.
    pub(crate) fn tick(&mut self, now: Duration, pools: impl Iterator<Item = PoolHash>) -> StandbyStep {
        let was_ready = self.ready;
        if self.recall.is_none()
            && let Some(from) = self.to_ask.pop_front()
        {
            let mut pools: VecDeque<PoolHash> = pools.collect();
            let first = pools.pop_front();
            let place = first.map(|pool| RecallPlace { pool, from: 0 });
            self.recall = place.map(|place| Recalling { from, place, pools, asked: None });
            // Without such a pool there is nothing to be told.
            self.ready |= first.is_none();
        }
        let mut step = StandbyStep::default();
        if let Some(recall) = &mut self.recall
            && recall.asked.is_none_or(|asked| now.saturating_sub(asked) >= AGAIN)
        {
            recall.asked = Some(now);
            step.ask = Some((recall.from, Recall { place: recall.place }));
        }
        self.ready |= self.is_alone(now);
        step.became_ready = self.ready && !was_ready;
        step
    }

    /// Where nobody is ready somebody has to be, after a while.
    fn is_alone(&self, now: Duration) -> bool {
        let before_me = self.others.keys().filter(|other| **other < self.me).count();
        let patience = ALONE * u32::try_from(before_me + 1).unwrap_or(u32::MAX);
        let nobody = !self.is_busy() && self.others.values().all(|ready| !ready);
        nobody && now.saturating_sub(self.begun) >= patience
    }

    /// A piece has come. Whether it was asked for, and whether this dispatcher is ready by it.
    pub(crate) fn recalled(&mut self, from: NodeId, piece: &Recalled) -> (bool, bool) {
        let awaited = |r: &&mut Recalling| r.from == from && r.place == piece.place && r.asked.is_some();
        let Some(recall) = self.recall.as_mut().filter(awaited) else { return (false, false) };
        // A place that does not go on would be asked for again and again.
        let next = piece.next.filter(|next| *next > recall.place.from);
        let place = match next {
            Some(from) => Some(RecallPlace { from, ..recall.place }),
            None => recall.pools.pop_front().map(|pool| RecallPlace { pool, from: 0 }),
        };
        if let Some(place) = place {
            (recall.place, recall.asked) = (place, None);
            return (true, false);
        }
        self.recall = None;
        (true, !std::mem::replace(&mut self.ready, true))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ME: NodeId = NodeId(3);
    const OTHER: NodeId = NodeId(1);
    const POOLS: [PoolHash; 2] = [PoolHash(7), PoolHash(9)];

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn piece(place: RecallPlace, next: Option<u32>) -> Recalled {
        Recalled { place, next, targets: Vec::new() }
    }

    #[test]
    fn a_late_standby_is_ready_when_it_has_all_pieces() {
        let mut standby = Standby::new(ME, true, ms(0));
        standby.up(OTHER);
        standby.says(OTHER, true);
        let mut asked = Vec::new();
        for (tick, next) in [Some(1024), Some(2048), None, None].into_iter().enumerate() {
            let step = standby.tick(ms(tick as u64), POOLS.into_iter());
            assert!(!step.became_ready && !standby.is_ready());
            assert_eq!(standby.tick(ms(tick as u64), POOLS.into_iter()).ask, None, "one at a time");
            let (from, Recall { place }) = step.ask.expect("a piece is missing");
            asked.push((from, place.pool, place.from));
            let last = tick == 3;
            assert_eq!(standby.recalled(NodeId(2), &piece(place, next)), (false, false), "of another");
            assert_eq!(standby.recalled(OTHER, &piece(place, next)), (true, last));
            assert_eq!(standby.recalled(OTHER, &piece(place, next)), (false, false), "twice");
        }
        let [one, two] = POOLS;
        assert_eq!(asked, [(OTHER, one, 0), (OTHER, one, 1024), (OTHER, one, 2048), (OTHER, two, 0)]);
        assert!(standby.is_ready() && !standby.is_busy());
        standby.pools_changed();
        assert!(standby.is_busy() && standby.is_ready(), "of new pools it asks, and is asked meanwhile");
    }

    #[test]
    fn where_nobody_is_ready_the_first_is_and_then_the_next() {
        assert!(Standby::new(ME, false, ms(0)).is_ready(), "the only one of the file");
        let mut alone = Standby::new(ME, true, ms(0));
        assert!(!alone.tick(ALONE - ms(1), POOLS.into_iter()).became_ready);
        assert!(alone.tick(ALONE, POOLS.into_iter()).became_ready);
        let mut second = Standby::new(ME, true, ms(0));
        second.up(OTHER);
        assert!(!second.tick(ALONE, POOLS.into_iter()).became_ready, "the first is to be");
        assert!(second.tick(2 * ALONE, POOLS.into_iter()).became_ready);
        let mut told = Standby::new(ME, true, ms(0));
        told.up(OTHER);
        told.says(OTHER, true);
        assert!(told.tick(ALONE, [].into_iter()).became_ready, "nothing is remembered of any pool");
        assert!(!told.tick(ALONE, [].into_iter()).became_ready, "once");
    }

    #[test]
    fn what_does_not_come_is_asked_for_again_and_who_goes_is_not() {
        let mut standby = Standby::new(ME, true, ms(0));
        standby.up(OTHER);
        standby.says(OTHER, true);
        standby.says(OTHER, true);
        let first = standby.tick(ms(0), POOLS.into_iter()).ask;
        assert!(first.is_some());
        assert_eq!(standby.tick(AGAIN - ms(1), POOLS.into_iter()).ask, None);
        assert_eq!(standby.tick(AGAIN, POOLS.into_iter()).ask, first);
        standby.down(OTHER);
        assert!(!standby.is_busy());
        assert!(standby.tick(ALONE, POOLS.into_iter()).became_ready);
    }

    proptest! {
        /// Whatever is lost, and whatever places are named: it ends, and each step asks for one piece at most.
        #[test]
        fn it_ends(
            answers in prop::collection::vec((any::<bool>(), prop::option::of(any::<u32>())), 0..100),
        ) {
            let mut standby = Standby::new(ME, true, ms(0));
            standby.up(OTHER);
            standby.says(OTHER, true);
            let (mut now, mut answers) = (ms(0), answers.into_iter());
            for _ in 0..400 {
                now += AGAIN;
                let Some((_, Recall { place })) = standby.tick(now, POOLS.into_iter()).ask else { continue };
                let (lost, next) = answers.next().unwrap_or((false, None));
                if !lost {
                    standby.recalled(OTHER, &piece(place, next));
                }
            }
            prop_assert!(standby.is_ready() && !standby.is_busy());
        }
    }
}
