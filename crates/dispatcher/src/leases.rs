//! Until when a distributor may decide connections: one lease for each switch that their packets come by, and
//! one for what comes by none. A switch gives a distributor's connections to others only when it has not heard
//! it for a [`fence()`]; the distributor decides for a [`lease()`], which is shorter, from the last moment at which
//! the switch is sure to have heard it. So there is never a moment in which both decide, whatever gets lost
//! (C. Gray and D. Cheriton, *Leases*, SOSP'89; docs/decisions/0012).

use std::collections::BTreeMap;
use std::time::Duration;

use baton_cluster::NodeId;

/// A lease in tenths of the failure timeout, from a moment at which the switch heard the distributor.
const LEASE_TENTHS: u32 = 15;
/// No sooner is a silent distributor's share given to others, in tenths of the failure timeout from a moment
/// not before the switch heard it last. The rest is room for clocks that run apart.
const FENCE_TENTHS: u32 = 20;
/// No cookie proves for longer.
pub const COOKIE_LIFE: Duration = Duration::from_secs(110);
/// Terms of others that are kept, the latest.
const INHERITED_MAX: usize = 12;

/// How long a distributor may decide after a switch has heard it.
pub fn lease(failure_timeout: Duration) -> Duration {
    failure_timeout * LEASE_TENTHS / 10
}

/// How long a switch waits, after a distributor went down, before others may decide instead.
pub fn fence(failure_timeout: Duration) -> Duration {
    failure_timeout * FENCE_TENTHS / 10
}

/// A term of cookies that the distributor takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The switch that its packets come by; `None`: by none.
    pub from: Option<NodeId>,
    /// The term.
    pub term: u32,
    /// The distributor decides until then; `None`: it has not been granted yet.
    pub until: Option<Duration>,
    /// Another distributor made these cookies.
    pub is_heir: bool,
}

/// What one switch has granted.
#[derive(Clone, Copy, Debug)]
struct Granted {
    term: u32,
    /// Which of the connections with the switch the term was told on, and when.
    session: u64,
    asked: Duration,
    /// The switch has said that it goes by this term, on this connection.
    granted: bool,
    until: Option<Duration>,
}

/// All leases of a distributor. Time is the caller's monotonic clock.
#[derive(Clone, Debug)]
pub struct Leases {
    me: NodeId,
    direct: u32,
    lease: Duration,
    switches: BTreeMap<NodeId, Granted>,
    inherited: Vec<Entry>,
}

impl Leases {
    /// `direct`: the term of what comes by no switch.
    pub fn new(me: NodeId, direct: u32, failure_timeout: Duration) -> Self {
        let lease = lease(failure_timeout);
        Self { me, direct, lease, switches: BTreeMap::new(), inherited: Vec::new() }
    }

    /// The term of what comes by no switch.
    pub fn direct(&self) -> u32 {
        self.direct
    }

    /// A switch came up, with its connection of this number: the term to tell it. It is a new one, `fresh`, when
    /// the lease of the last one may have been given to others.
    pub fn up(&mut self, switch: NodeId, session: u64, now: Duration, fresh: u32) -> u32 {
        let last = self.switches.get(&switch).filter(|last| last.until.is_some_and(|until| now < until));
        let (term, until) = last.map_or((fresh, None), |last| (last.term, last.until));
        if until.is_none() {
            self.disinherit(switch);
        }
        self.switches.insert(switch, Granted { term, session, asked: now, granted: false, until });
        term
    }

    /// A switch went down. What it has granted runs out by itself.
    pub fn down(&mut self, switch: NodeId) {
        if let Some(of) = self.switches.get_mut(&switch) {
            of.granted = false;
        }
    }

    /// A switch answers: it has granted the term, or left its connections to others. Then the new term, `fresh`,
    /// to tell it.
    pub fn answered(
        &mut self,
        switch: NodeId,
        term: u32,
        granted: bool,
        now: Duration,
        fresh: u32,
    ) -> Option<u32> {
        let of = self.switches.get_mut(&switch).filter(|of| of.term == term)?;
        if granted {
            of.granted = true;
            of.until = of.until.max(Some(of.asked + self.lease));
            return None;
        }
        *of = Granted { term: fresh, session: of.session, asked: now, granted: false, until: None };
        self.disinherit(switch);
        Some(fresh)
    }

    /// What a switch has left to this node went with the lease: others may have it now.
    fn disinherit(&mut self, switch: NodeId) {
        self.inherited.retain(|entry| entry.from != Some(switch));
    }

    /// The switch has heard this node at this moment or later, on its connection of this number.
    pub fn heard(&mut self, switch: NodeId, session: u64, at: Duration) {
        let of = self.switches.get_mut(&switch);
        if let Some(of) = of.filter(|of| of.granted && of.session == session) {
            of.until = of.until.max(Some(at + self.lease));
        }
    }

    /// A switch, or this node as one, leaves another distributor's term to this one.
    pub fn inherit(&mut self, switch: NodeId, term: u32, now: Duration) {
        let from = (switch != self.me).then_some(switch);
        let is_other = |entry: &Entry| (entry.from, entry.term) != (from, term);
        self.inherited.retain(|entry| is_other(entry) && entry.until.is_some_and(|until| now < until));
        if self.inherited.len() == INHERITED_MAX {
            self.inherited.remove(0);
        }
        let until = Some(now + COOKIE_LIFE);
        self.inherited.push(Entry { from, term, until, is_heir: true });
        debug_assert!(self.inherited.len() <= INHERITED_MAX, "more terms of others than there is room for");
    }

    /// All terms: the one of what comes by no switch first, then the distributor's own, then those of others, the
    /// latest first.
    pub fn entries(&self, now: Duration) -> Vec<Entry> {
        let direct = Entry { from: None, term: self.direct, until: Some(Duration::MAX), is_heir: false };
        let own = self.switches.iter().map(|(switch, of)| Entry {
            from: Some(*switch),
            term: of.term,
            until: of.until,
            is_heir: false,
        });
        // Who inherits decides while its own lease of that switch holds.
        let holds = |from: Option<NodeId>| match from {
            None => Some(Duration::MAX),
            Some(switch) => self.switches.get(&switch).and_then(|of| of.until),
        };
        let inherited =
            self.inherited.iter().rev().filter(|entry| entry.until.is_some_and(|until| now < until));
        let inherited = inherited
            .filter_map(|entry| Some(Entry { until: entry.until.min(Some(holds(entry.from)?)), ..*entry }));
        std::iter::once(direct).chain(own).chain(inherited).collect()
    }
}
