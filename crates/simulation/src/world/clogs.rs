//! Links that carry little for a while: what they are given waits its turn, comes late and in order, and is lost when too
//! much waits. Control messages wait in the same queue; TCP does not lose them, but takes a link for broken that says
//! nothing for too long.

use baton_cluster::NodeId;

use super::{FAILURE_TIMEOUT, Happening, World};
use crate::plan::{Clog, Place};

/// A link, in one direction, that is clogged now.
#[derive(Debug)]
pub(super) struct Clogged {
    clog: Clog,
    until: u64,
    /// When the last that waits has passed.
    free_at: u64,
    /// The longest that anything has waited.
    worst: u64,
}

impl World<'_> {
    pub(super) fn clogs(&mut self, clog: Clog) {
        if self.clogged.iter().any(|c| (c.clog.from, c.clog.to) == (clog.from, clog.to)) {
            return;
        }
        let until = self.now + clog.for_long;
        self.clogged.push(Clogged { clog, until, free_at: self.now, worst: 0 });
        self.at(until, Happening::Unclogs);
    }

    /// Links whose queue is empty, and stays so, are as they were.
    pub(super) fn unclogs(&mut self) {
        let now = self.now;
        let (over, left) =
            std::mem::take(&mut self.clogged).into_iter().partition(|c| c.until.max(c.free_at) <= now);
        self.clogged = left;
        let over: Vec<Clogged> = over;
        for Clogged { clog, .. } in over {
            self.tell(format!("{:?} to {:?} is free", clog.from, clog.to));
            self.lags(clog.from, clog.to);
        }
        if let Some(at) = self.clogged.iter().map(|c| c.until.max(c.free_at)).min() {
            self.at(at, Happening::Unclogs);
        }
    }

    /// How long a packet waits for its turn; `None`: there is no room for it. A message finds room always.
    pub(super) fn waits(&mut self, from: Place, to: Place, is_message: bool) -> Option<u64> {
        let now = self.now;
        let Some(c) = self.clogged.iter_mut().find(|c| (c.clog.from, c.clog.to) == (from, to)) else {
            return Some(0);
        };
        let queue = c.free_at.saturating_sub(now);
        if !is_message && queue >= c.clog.gap * u64::from(c.clog.room) {
            return None;
        }
        c.free_at = c.free_at.max(now) + c.clog.gap;
        let wait = c.free_at - now;
        c.worst = c.worst.max(wait);
        self.lags(from, to);
        Some(wait)
    }

    /// Whether packets of this link come in order now.
    pub(super) fn is_clogged(&self, from: Place, to: Place) -> bool {
        self.clogged.iter().any(|c| (c.clog.from, c.clog.to) == (from, to))
    }

    /// What two nodes hear of each other is so old.
    fn lags(&mut self, from: Place, to: Place) {
        let (Some(a), Some(b)) = (from, to) else { return };
        let worst = |from, to| {
            let its = self.clogged.iter().find(|c| (c.clog.from, c.clog.to) == (Some(from), Some(to)));
            its.map_or(0, |c| c.worst)
        };
        let lag = worst(a, b) + worst(b, a);
        for (node, peer) in [(a, b), (b, a)] {
            if let Some(session) = self.nodes[node].shell.sessions.get_mut(&NodeId(peer as u16)) {
                session.lag = lag;
            }
        }
        if lag > FAILURE_TIMEOUT {
            self.silence(a, b, FAILURE_TIMEOUT);
        }
    }
}
