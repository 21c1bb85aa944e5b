//! How large packets to one other node may be: searched by probes that it acknowledges (RFC 8899), and kept true. Pure.
//!
//! A round is a few sizes at once. Which of them arrive tells how large packets may be; that none does tells nothing, for
//! then the node is away, or probes are not let through. One that is lost by chance is sent again, so only what has not
//! arrived three times, while a smaller one has, is too large.

use std::time::Duration;

/// What every path carries (RFC 791 3.1 asks for less, RFC 8200 5 for this), whatever is claimed.
pub(crate) const MTU_MIN: u16 = 1280;
/// No IP packet is larger than 65,535 bytes, and something has to be larger than what arrives.
const CLAIM_MAX: u16 = 65_000;
/// For probes to be acknowledged.
pub(crate) const ROUND: Duration = Duration::from_millis(200);
/// Between two rounds when all is known.
const EVERY: Duration = Duration::from_secs(3);
/// A path that became wider is found after this (RFC 8899 5.1.1: PMTU_RAISE_TIMER, which is longer); the whole claim
/// is tried in each round.
const RAISE: Duration = Duration::from_secs(60);
/// What did not arrive so often is too large.
const TRIES: u8 = 3;
/// What was known and has not been confirmed for so long is not shown any more: probes do not get through.
const CONFIRMED: Duration = Duration::from_secs(15);
/// Sizes of one round of a search.
const AT_ONCE: u16 = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SearchStage {
    /// Nothing has arrived yet: what is claimed stands.
    Unknown,
    /// This is the largest that arrives.
    Known(u16),
    /// The first arrives, the second does not.
    Between(u16, u16),
}

/// The search for one node.
#[derive(Debug)]
pub(crate) struct MtuSearch {
    /// How large packets may be by interface and routes.
    claimed: u16,
    stage: SearchStage,
    /// Rounds with these sizes so far, and the largest that has arrived in any of them.
    tries: u8,
    arrived: u16,
    /// The last round: when it began, and its sizes.
    began: Option<Duration>,
    sizes: Vec<u16>,
    next: Duration,
    raised: Duration,
    /// When a round was judged in which something had arrived.
    confirmed: Option<Duration>,
}

impl MtuSearch {
    /// Of a path of which only that is known.
    pub(crate) fn new(claimed: u16, now: Duration) -> Self {
        let claimed = claimed.clamp(MTU_MIN, CLAIM_MAX);
        Self {
            claimed,
            stage: SearchStage::Unknown,
            tries: 0,
            arrived: 0,
            began: None,
            sizes: Vec::new(),
            next: now,
            raised: now,
            confirmed: None,
        }
    }

    /// Interface or routes say something else now.
    pub(crate) fn claim(&mut self, claimed: u16, now: Duration) {
        let claimed = claimed.clamp(MTU_MIN, CLAIM_MAX);
        if claimed != self.claimed {
            self.claimed = claimed;
            self.soon(now);
        }
    }

    /// There is reason to look again at once.
    pub(crate) fn soon(&mut self, now: Duration) {
        self.next = self.next.min(now);
    }

    /// How large packets may be, as far as is known.
    pub(crate) fn usable(&self) -> u16 {
        self.proved().unwrap_or(self.claimed)
    }

    /// The largest that is known to arrive; `None`: nothing is known.
    pub(crate) fn proved(&self) -> Option<u16> {
        match self.stage {
            SearchStage::Unknown => None,
            SearchStage::Known(mtu) | SearchStage::Between(mtu, _) => Some(mtu.min(self.claimed)),
        }
    }

    /// The same, as far as it is confirmed still.
    pub(crate) fn confirmed(&self, now: Duration) -> Option<u16> {
        self.proved().filter(|_| self.confirmed.is_some_and(|at| now < at + CONFIRMED))
    }

    /// A probe of this size has arrived.
    pub(crate) fn arrived(&mut self, size: u16) {
        if self.sizes.contains(&size) {
            self.arrived = self.arrived.max(size);
        }
    }

    /// Lets time pass: the sizes that are to be sent now.
    pub(crate) fn tick(&mut self, now: Duration) -> Vec<u16> {
        if let Some(began) = self.began {
            if now < began + ROUND {
                return Vec::new();
            }
            self.began = None;
            self.judge(now);
        }
        if now < self.next {
            return Vec::new();
        }
        if self.tries == 0 {
            self.arrived = 0;
            self.sizes = self.choose(now);
        }
        self.began = Some(now);
        self.sizes.clone()
    }

    /// The sizes of the next rounds, in ascending order.
    fn choose(&mut self, now: Duration) -> Vec<u16> {
        if let SearchStage::Known(mtu) = self.stage
            && mtu < self.claimed
            && now >= self.raised + RAISE
        {
            self.raised = now;
            self.stage = SearchStage::Between(mtu, self.claimed + 1);
        }
        let mut sizes = vec![MTU_MIN];
        match self.stage {
            SearchStage::Unknown => {}
            SearchStage::Known(mtu) => sizes.push(mtu.min(self.claimed)),
            SearchStage::Between(least, above) => {
                sizes.push(least);
                let apart = above - least;
                sizes.extend((1..=AT_ONCE).map(|n| least + (u32::from(apart) * u32::from(n) / 9) as u16));
            }
        }
        if !matches!(self.stage, SearchStage::Between(..)) {
            sizes.push(self.claimed);
        }
        sizes.sort_unstable();
        sizes.dedup();
        sizes
    }

    /// What a round has told.
    fn judge(&mut self, now: Duration) {
        let arrived = self.arrived;
        if arrived > 0 {
            self.confirmed = Some(now);
        }
        let above = self.sizes.iter().copied().find(|size| *size > arrived);
        let as_known = matches!(self.stage, SearchStage::Known(mtu) if arrived == mtu.min(self.claimed));
        self.tries += 1;
        let more = above.is_some() && !as_known && (arrived > 0 || self.stage == SearchStage::Unknown);
        if more && self.tries < TRIES {
            self.next = now;
            return;
        }
        self.tries = 0;
        self.next = now + EVERY;
        if arrived == 0 || (as_known && above.is_some()) {
            return;
        }
        self.stage = match (self.stage, above) {
            (SearchStage::Unknown | SearchStage::Known(_), None) => SearchStage::Known(arrived),
            (SearchStage::Between(_, was), None) => SearchStage::Between(arrived, was),
            (_, Some(above)) => SearchStage::Between(arrived, above),
        };
        match self.stage {
            SearchStage::Between(least, above) if above - least <= 1 => {
                self.stage = SearchStage::Known(least);
                self.raised = now;
            }
            SearchStage::Between(..) => self.next = now,
            SearchStage::Unknown | SearchStage::Known(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Plays a path on which packets of this size and less arrive, but for those lost by chance; the time that it took.
    fn play(
        search: &mut MtuSearch,
        from: Duration,
        time: Duration,
        mtu: u16,
        mut lost: impl FnMut() -> bool,
    ) -> Duration {
        let mut now = from;
        while now < from + time {
            for size in search.tick(now) {
                if size <= mtu && !lost() {
                    search.arrived(size);
                }
            }
            now += Duration::from_millis(50);
        }
        now
    }

    const SECONDS: fn(u64) -> Duration = Duration::from_secs;

    #[test]
    fn a_path_that_is_as_claimed_is_known_at_once() {
        let mut search = MtuSearch::new(1500, SECONDS(7));
        assert_eq!((search.usable(), search.proved()), (1500, None));
        play(&mut search, SECONDS(7), ROUND * 2, 1500, || false);
        assert_eq!(search.proved(), Some(1500));
    }

    #[test]
    fn a_node_that_says_nothing_changes_nothing() {
        let mut search = MtuSearch::new(1500, SECONDS(0));
        let now = play(&mut search, SECONDS(0), SECONDS(30), 0, || false);
        assert_eq!((search.usable(), search.proved()), (1500, None));
        let now = play(&mut search, now, SECONDS(8), 1400, || false);
        assert_eq!(search.proved(), Some(1400));
        play(&mut search, now, SECONDS(300), 0, || false);
        assert_eq!(search.proved(), Some(1400), "it is away, and may come back");
    }

    proptest! {
        #[test]
        fn a_path_is_known_to_the_byte_and_kept_true(
            claimed in 1280u16..9001,
            paths in proptest::collection::vec(1280u16..9001, 1..5),
        ) {
            let mut search = MtuSearch::new(claimed, SECONDS(0));
            let mut now = SECONDS(0);
            for mtu in paths {
                // Narrower: within seconds. Wider: when it is looked for.
                now = play(&mut search, now, SECONDS(10), mtu, || false);
                prop_assert!(search.usable() <= mtu.min(claimed), "{} of {mtu}", search.usable());
                now = play(&mut search, now, RAISE + SECONDS(10), mtu, || false);
                prop_assert_eq!(search.proved(), Some(mtu.min(claimed)));
            }
        }

        #[test]
        fn losses_lead_astray_for_a_while_only(
            mtu in 1280u16..1501,
            lost in proptest::collection::vec(any::<bool>(), 400),
        ) {
            let mut search = MtuSearch::new(1500, SECONDS(0));
            let mut lost = lost.into_iter();
            let now = play(&mut search, SECONDS(0), SECONDS(20), mtu, || lost.next().unwrap_or(false));
            prop_assert!(search.usable() <= 1500);
            let now = play(&mut search, now, RAISE + SECONDS(20), mtu, || false);
            prop_assert_eq!(search.proved(), Some(mtu));
            // And a little loss does not disturb what is known.
            let mut nth = 0;
            play(&mut search, now, SECONDS(60), mtu, || { nth += 1; nth % 11 == 0 });
            prop_assert_eq!(search.proved(), Some(mtu));
        }

        #[test]
        fn what_is_claimed_is_never_exceeded(claims in proptest::collection::vec(0u16..10_000, 1..8)) {
            let mut search = MtuSearch::new(1500, SECONDS(0));
            let mut now = SECONDS(0);
            for claimed in claims {
                search.claim(claimed, now);
                prop_assert!(search.usable() <= claimed.max(MTU_MIN));
                now = play(&mut search, now, SECONDS(8), u16::MAX, || false);
                prop_assert_eq!(search.usable(), claimed.max(MTU_MIN));
            }
        }
    }
}
