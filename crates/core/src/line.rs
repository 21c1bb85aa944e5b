//! Which dispatcher a node asks: the first of the file that is there, remembers what has been decided, and answers in
//! time. Every node computes that alike from what it sees. It is damped: who has just come back is asked again only after a
//! while without a break, so that a link which comes and goes swings nobody. Pure.
//!
//! Nodes that see different things may ask different dispatchers. These tell each other what they decide, and an answer
//! of any of them is good.

use std::time::{Duration, Instant};

use baton_cluster::NodeId;

/// A dispatcher that came back is asked again, instead of a later one of the file, after so long without a break.
pub(crate) const STEADY: Duration = Duration::from_secs(10);
/// A dispatcher that has not answered in time is not asked for so long; twice as long each time that follows.
const SHUNNED: Duration = Duration::from_secs(1);
/// And that many doublings at most.
const DOUBLINGS: u32 = 4;

/// How a dispatcher stands with a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeatState {
    /// It is asked.
    Asked,
    /// It would be.
    Standby,
    /// It would be, but has not got yet what others have decided.
    Cold,
    /// It has not answered in time, and is left alone for a while.
    Slow,
    /// There is no control connection to it.
    Down,
}

/// One dispatcher.
#[derive(Clone, Debug)]
struct Seat {
    node: NodeId,
    up: bool,
    ready: bool,
    steady_at: Instant,
    shunned_until: Option<Instant>,
    /// Batches in a row that it has not answered in time; and all of them.
    missed: u32,
    late: u64,
}

/// All of them, in the order of the file.
#[derive(Clone, Debug)]
pub(crate) struct DispatcherLine {
    seats: Vec<Seat>,
    asked: Option<NodeId>,
    begun: Instant,
}

impl Seat {
    fn is_usable(&self, now: Instant) -> bool {
        self.up && !self.is_shunned(now)
    }

    fn is_shunned(&self, now: Instant) -> bool {
        self.shunned_until.is_some_and(|until| now < until)
    }
}

impl DispatcherLine {
    /// Nobody is there yet at `now`.
    pub(crate) fn new(dispatchers: impl IntoIterator<Item = NodeId>, now: Instant) -> Self {
        let seat = |node| Seat {
            node,
            up: false,
            ready: false,
            steady_at: now,
            shunned_until: None,
            missed: 0,
            late: 0,
        };
        Self { seats: dispatchers.into_iter().map(seat).collect(), asked: None, begun: now }
    }

    fn seat(&mut self, node: NodeId) -> Option<&mut Seat> {
        self.seats.iter_mut().find(|seat| seat.node == node)
    }

    /// Whether the node has the role.
    pub(crate) fn has(&self, node: NodeId) -> bool {
        self.seats.iter().any(|seat| seat.node == node)
    }

    /// A dispatcher is there. While this node is young all are new to it, and nothing is damped.
    pub(crate) fn came_up(&mut self, node: NodeId, now: Instant) {
        let young = now.saturating_duration_since(self.begun) < STEADY;
        if let Some(seat) = self.seat(node) {
            (seat.up, seat.ready, seat.shunned_until, seat.missed) = (true, false, None, 0);
            seat.steady_at = if young { now } else { now + STEADY };
        }
    }

    pub(crate) fn went_down(&mut self, node: NodeId) {
        if let Some(seat) = self.seat(node) {
            (seat.up, seat.ready) = (false, false);
        }
    }

    /// It says whether it remembers what has been decided.
    pub(crate) fn says(&mut self, node: NodeId, ready: bool) {
        if let Some(seat) = self.seat(node) {
            seat.ready = ready;
        }
    }

    /// It has not answered in time, or does not take what it is asked.
    pub(crate) fn was_late(&mut self, node: NodeId, now: Instant) {
        if let Some(seat) = self.seat(node) {
            let until = now + SHUNNED * (1 << seat.missed.min(DOUBLINGS));
            seat.missed = seat.missed.saturating_add(1);
            seat.late += 1;
            (seat.shunned_until, seat.steady_at) = (Some(until), until + STEADY);
        }
    }

    /// It has answered in time.
    pub(crate) fn answered(&mut self, node: NodeId) {
        if let Some(seat) = self.seat(node) {
            seat.missed = 0;
        }
    }

    /// Who is asked from now on; `None`: nobody can be.
    pub(crate) fn choose(&mut self, now: Instant) -> Option<NodeId> {
        let usable = || self.seats.iter().filter(|seat| seat.is_usable(now));
        let some_ready = usable().any(|seat| seat.ready);
        let group = || usable().filter(|seat| seat.ready || !some_ready);
        let stands = |seat: &&Seat| seat.steady_at <= now || Some(seat.node) == self.asked;
        self.asked = group().find(stands).or_else(|| group().next()).map(|seat| seat.node);
        self.asked
    }

    /// Who is asked.
    pub(crate) fn asked(&self) -> Option<NodeId> {
        self.asked
    }

    /// Whether any dispatcher is there, slow or not.
    pub(crate) fn any_up(&self) -> bool {
        self.seats.iter().any(|seat| seat.up)
    }

    /// Whether this one can be asked.
    pub(crate) fn is_usable(&self, node: NodeId, now: Instant) -> bool {
        self.seats.iter().any(|seat| seat.node == node && seat.is_usable(now))
    }

    /// Whether this one remembers what has been decided.
    pub(crate) fn is_ready(&self, node: NodeId) -> bool {
        self.seats.iter().any(|seat| seat.node == node && seat.ready)
    }

    /// Whether another one than this can be asked, and knows as much.
    pub(crate) fn has_other(&self, node: NodeId, now: Instant) -> bool {
        let as_good = |seat: &&Seat| seat.ready || !self.is_ready(node);
        self.seats.iter().filter(as_good).any(|seat| seat.node != node && seat.is_usable(now))
    }

    /// How each stands, and how often it was late.
    pub(crate) fn standings(&self, now: Instant) -> impl Iterator<Item = (NodeId, SeatState, u64)> {
        self.seats.iter().map(move |seat| {
            let standing = match seat {
                _ if !seat.up => SeatState::Down,
                _ if Some(seat.node) == self.asked => SeatState::Asked,
                _ if seat.is_shunned(now) => SeatState::Slow,
                _ if !seat.ready => SeatState::Cold,
                _ => SeatState::Standby,
            };
            (seat.node, standing, seat.late)
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NODES: [NodeId; 3] = [NodeId(2), NodeId(5), NodeId(7)];

    /// A line of a node that is not young any more, with all dispatchers there and ready.
    fn settled(now: Instant) -> DispatcherLine {
        let mut line = DispatcherLine::new(NODES, now);
        for node in NODES {
            line.came_up(node, now);
            line.says(node, true);
        }
        line
    }

    #[test]
    fn the_next_takes_over_at_once_and_the_first_only_when_it_lasts() {
        let start = Instant::now();
        let [first, second, third] = NODES;
        let mut line = settled(start);
        assert_eq!(line.choose(start), Some(first));
        let now = start + STEADY;
        line.went_down(first);
        assert_eq!(line.choose(now), Some(second));
        line.came_up(first, now);
        line.says(first, true);
        assert_eq!(line.choose(now + STEADY / 2), Some(second), "it has just come back");
        assert_eq!(line.choose(now + STEADY), Some(first));
        line.went_down(first);
        assert_eq!(line.choose(now + STEADY), Some(second));
        line.came_up(first, now + STEADY);
        line.says(first, true);
        line.went_down(second);
        assert_eq!(line.choose(now + STEADY), Some(third), "rather than one that comes and goes");
        line.went_down(third);
        assert_eq!(line.choose(now + STEADY), Some(first), "but rather that one than none");
        line.went_down(first);
        assert_eq!((line.choose(now + STEADY), line.any_up()), (None, false));
    }

    #[test]
    fn one_that_knows_nothing_is_asked_if_nobody_knows_more() {
        let now = Instant::now();
        let [first, second, _] = NODES;
        let mut line = DispatcherLine::new(NODES, now);
        line.came_up(second, now);
        assert_eq!(line.choose(now), Some(second));
        line.came_up(first, now);
        assert_eq!(line.choose(now), Some(first), "both are new");
        line.says(second, true);
        assert_eq!(line.choose(now), Some(second));
        assert!(!line.has_other(second, now) && line.has_other(first, now));
        line.says(first, true);
        assert_eq!(line.choose(now), Some(first));
    }

    #[test]
    fn a_slow_one_is_left_alone_for_longer_each_time() {
        let mut now = Instant::now();
        let mut line = DispatcherLine::new([NodeId(1)], now);
        line.came_up(NodeId(1), now);
        for seconds in [1, 2, 4, 8, 16, 16] {
            assert_eq!(line.choose(now), Some(NodeId(1)));
            line.was_late(NodeId(1), now);
            assert_eq!(line.choose(now), None);
            assert_eq!(line.standings(now).next().map(|(_, standing, _)| standing), Some(SeatState::Slow));
            now += Duration::from_secs(seconds);
        }
        line.answered(NodeId(1));
        line.was_late(NodeId(1), now);
        assert_eq!(line.choose(now + SHUNNED), Some(NodeId(1)));
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Up(usize),
        Down(usize),
        Says(usize, bool),
        Late(usize),
        Wait(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..3usize).prop_map(Step::Up),
            (0..3usize).prop_map(Step::Down),
            (0..3usize, any::<bool>()).prop_map(|(seat, ready)| Step::Says(seat, ready)),
            (0..3usize).prop_map(Step::Late),
            (1u64..6000).prop_map(Step::Wait),
        ]
    }

    fn take(line: &mut DispatcherLine, step: Step, now: &mut Instant) {
        match step {
            Step::Up(seat) => line.came_up(NODES[seat], *now),
            Step::Down(seat) => line.went_down(NODES[seat]),
            Step::Says(seat, ready) => line.says(NODES[seat], ready),
            Step::Late(seat) => line.was_late(NODES[seat], *now),
            Step::Wait(ms) => *now += Duration::from_millis(ms),
        }
    }

    proptest! {
        /// Whoever can be asked is asked; and when all is calm, every node asks the first that is ready.
        #[test]
        fn someone_is_asked_and_in_the_end_the_same(
            steps in prop::collection::vec(step(), 0..60),
            others in prop::collection::vec(step(), 0..60),
            up in prop::collection::vec(any::<(bool, bool)>(), 3),
        ) {
            let start = Instant::now();
            let mut chosen = Vec::new();
            for steps in [steps, others] {
                let (mut line, mut now) = (DispatcherLine::new(NODES, start), start);
                for step in steps {
                    take(&mut line, step, &mut now);
                    let asked = line.choose(now);
                    prop_assert!(asked.is_none_or(|node| line.is_usable(node, now)));
                    prop_assert_eq!(asked.is_some(), NODES.iter().any(|node| line.is_usable(*node, now)));
                    let knows = |node: &NodeId| line.is_usable(*node, now) && line.is_ready(*node);
                    prop_assert!(asked.is_none_or(|node| line.is_ready(node)) || !NODES.iter().any(knows));
                }
                for (node, (up, ready)) in NODES.into_iter().zip(&up) {
                    if *up { line.came_up(node, now) } else { line.went_down(node) }
                    line.says(node, *up && *ready);
                    line.choose(now);
                }
                chosen.push(line.choose(now + 2 * STEADY + SHUNNED * (1 << DOUBLINGS)));
            }
            let first = |ready: bool| NODES.into_iter().zip(&up).find(|(_, (up, r))| *up && (*r || !ready));
            let first = first(true).or(first(false)).map(|(node, _)| node);
            prop_assert_eq!(chosen, vec![first, first]);
        }

        /// A dispatcher that comes and goes within the time that it would have to last is left once, and not taken again.
        #[test]
        fn a_link_that_flaps_swings_nobody(gaps in prop::collection::vec(1u64..9_999, 1..40)) {
            let mut now = Instant::now();
            let mut line = settled(now);
            line.choose(now);
            now += STEADY;
            let mut swings = 0;
            for ms in gaps {
                let before = line.asked();
                line.went_down(NODES[0]);
                line.choose(now);
                line.came_up(NODES[0], now);
                line.says(NODES[0], true);
                line.choose(now);
                now += Duration::from_millis(ms);
                swings += usize::from(line.choose(now) != before);
            }
            prop_assert_eq!((swings, line.asked()), (1, Some(NODES[1])));
        }
    }
}
