//! How a switch spreads connections over distributors that come and go, so that each connection is decided by
//! one of them. SYNs go by the table in force. What follows a handshake goes to the distributor that answered it:
//! its cookie says which one, by a *term* that only that distributor knows; so each slot keeps its makers of late, for
//! as long as a cookie proves. A distributor that has gone down keeps its connections until it is sure that it does
//! not decide any more ([`fence`]); then each slot's are left to the distributor that has the slot without it.
//! Docs/decisions/0012.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use baton_cluster::{Heirs, Maker, NodeId, SLOT_MAKERS, SpreadLine, SpreadTable};

use crate::leases::{COOKIE_LIFE, fence};
use crate::maglev::{TABLE_SIZE, Table};

/// Terms that tables may name.
const MAKERS_MAX: u16 = 1024;
/// Distributors that come gather for so long; for twice as long with each maker that a slot keeps: those that come
/// again and again do not displace the others.
const GATHER: Duration = Duration::from_millis(50);
/// Heirs are told so long before the first packet: the message is there by then.
const TOLD_FOR: Duration = Duration::from_millis(100);
/// Distributors that are missing for less may have been restarted: clients repeat their SYNs. After it they are told.
const MISSED_FOR: Duration = Duration::from_secs(3);

/// What the programs of the switch, or distributors, are to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpreadChange {
    /// The makers of each slot, under the number of the table that is not in use.
    Table {
        /// 0 or 1.
        table: u8,
        /// With [`TABLE_SIZE`] slots.
        spread: SpreadTable,
    },
    /// A maker.
    Maker {
        /// Its number.
        number: u16,
        /// What there is to know of it.
        maker: Maker,
    },
    /// The table to use from now on.
    Use {
        /// Its number.
        table: u8,
        /// When all cookies are those of the makers in force.
        until: Duration,
        /// When new connections are to be refused, if there is no distributor.
        refuse: Duration,
    },
    /// These distributors inherit a term.
    Heirs {
        /// The term.
        term: u32,
        /// The distributors, each once.
        nodes: Vec<NodeId>,
    },
}

/// Whether a maker decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MakerState {
    /// It decides.
    Alive,
    /// It went down; it may decide until then.
    Down { until: Duration },
    /// It decides no more, and its heirs have been told, at this time.
    Told { since: Duration },
    /// As above, and its packets go to them.
    Over { since: Duration },
}

/// A maker as the spreading follows it.
#[derive(Clone, Debug)]
struct TrackedMaker {
    node: NodeId,
    term: u32,
    state: MakerState,
    /// The makers that inherit when it decides no more, each in its slots.
    heirs: Vec<u16>,
}

impl TrackedMaker {
    /// As the programs are told of it.
    fn over(&self, over: Option<Heirs>) -> Maker {
        Maker { node: self.node, term: self.term, over }
    }

    fn is_over(&self) -> bool {
        matches!(self.state, MakerState::Told { .. } | MakerState::Over { .. })
    }

    /// When it was sure to decide no more.
    fn ended(&self) -> Duration {
        match self.state {
            MakerState::Alive => Duration::MAX,
            MakerState::Down { until } => until,
            MakerState::Told { since } | MakerState::Over { since } => since,
        }
    }
}

/// A maker that had slots before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Earlier {
    maker: u16,
    /// Who has inherited its connections of these slots.
    heir: Option<u16>,
    /// No cookie of it proves from this second on.
    until: u32,
}

/// Who made the cookies of flows, the same for all slots with this line.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Lineage {
    /// To whom SYNs go.
    in_force: Option<u16>,
    /// The latest first. Whoever inherits comes before those that it has inherited from: it had the slots later.
    earlier: Vec<Earlier>,
}

impl Lineage {
    /// Another maker takes a slot.
    fn take(&mut self, maker: Option<u16>, until: u32) {
        let before = std::mem::replace(&mut self.in_force, maker);
        self.earlier.retain(|earlier| Some(earlier.maker) != maker);
        if let Some(before) = before.filter(|before| Some(*before) != maker) {
            self.earlier.insert(0, Earlier { maker: before, heir: None, until });
        }
        self.earlier.truncate(SLOT_MAKERS - 1);
    }

    /// As the programs are told of it.
    fn told(&self) -> SpreadLine {
        let mut told = SpreadLine::of(self.in_force);
        let place = |maker: u16| {
            let before = self.earlier.iter().position(|earlier| earlier.maker == maker).map(|at| at + 1);
            if self.in_force == Some(maker) { Some(0) } else { before.and_then(|at| u8::try_from(at).ok()) }
        };
        let places = told.makers.iter_mut().zip(&mut told.heirs).skip(1);
        for ((maker, heir), earlier) in places.zip(&self.earlier) {
            (*maker, *heir) = (Some(earlier.maker), earlier.heir.and_then(place));
        }
        told
    }
}

/// The spreading of one switch. Time is the caller's monotonic clock.
#[derive(Clone, Debug)]
pub struct Spread {
    weights: BTreeMap<NodeId, u16>,
    fence: Duration,
    makers: BTreeMap<u16, TrackedMaker>,
    /// The makers in force, by node in ascending order.
    in_force: BTreeMap<NodeId, u16>,
    /// For each slot its line.
    slots: Vec<u32>,
    lines: Vec<Lineage>,
    /// The number of the table that the programs use.
    table: u8,
    made: Option<Duration>,
    /// Makers of before, in the slot that keeps most.
    kept: usize,
    stale: bool,
    until: Duration,
    /// When clients are told that there is no distributor, if there is none.
    refuse: Duration,
    /// To be told at the next tick.
    pending: Vec<SpreadChange>,
}

impl Spread {
    /// Over distributors of these weights, of which none is there yet.
    pub fn new(distributors: impl IntoIterator<Item = (NodeId, u16)>, failure_timeout: Duration) -> Self {
        Self::with_size(distributors, failure_timeout, TABLE_SIZE)
    }

    /// As [`Spread::new`], with tables of another size, a prime.
    pub fn with_size(
        distributors: impl IntoIterator<Item = (NodeId, u16)>,
        failure_timeout: Duration,
        size: usize,
    ) -> Self {
        Self {
            weights: distributors.into_iter().collect(),
            fence: fence(failure_timeout),
            makers: BTreeMap::new(),
            in_force: BTreeMap::new(),
            slots: vec![0; size],
            lines: vec![Lineage::default()],
            table: 0,
            made: None,
            kept: 0,
            stale: true,
            until: Duration::ZERO,
            refuse: Duration::ZERO,
            pending: Vec::new(),
        }
    }

    /// Distributors that new connections are spread over.
    pub fn distributors(&self) -> usize {
        self.in_force.len()
    }

    /// A distributor is there, and makes its cookies with this term. Whether it may: not when its connections of
    /// that term have been left to others.
    pub fn term(&mut self, node: NodeId, term: u32, now: Duration) -> bool {
        let known = self.makers.iter().find(|(_, maker)| (maker.node, maker.term) == (node, term));
        let number = match known {
            Some((_, maker)) if maker.is_over() => return false,
            Some((number, _)) => *number,
            None => match (0..MAKERS_MAX).find(|number| !self.makers.contains_key(number)) {
                Some(free) => free,
                None => return false,
            },
        };
        // By its own word it decides none of its other terms any more.
        self.gone(node, Some(term), now);
        self.makers.insert(number, TrackedMaker { node, term, state: MakerState::Alive, heirs: Vec::new() });
        self.stale = true;
        true
    }

    /// A distributor went down. `ended`: it is sure to decide nothing any more.
    pub fn down(&mut self, node: NodeId, ended: bool, now: Duration) {
        if ended {
            return self.gone(node, None, now);
        }
        for maker in self.makers.values_mut().filter(|maker| maker.node == node) {
            if maker.state == MakerState::Alive {
                maker.state = MakerState::Down { until: now + self.fence };
                self.stale = true;
            }
        }
    }

    /// A distributor decides none of its terms any more, but this one.
    fn gone(&mut self, node: NodeId, but: Option<u32>, now: Duration) {
        let others = self.makers.iter_mut().filter(|(_, m)| m.node == node && Some(m.term) != but);
        for (number, maker) in others {
            if matches!(maker.state, MakerState::Alive | MakerState::Down { .. }) {
                maker.state = MakerState::Down { until: now };
                let maker = maker.over(Some(Heirs::Soon));
                self.pending.push(SpreadChange::Maker { number: *number, maker });
                self.stale = true;
            }
        }
    }

    /// What has to be done by now, in this order.
    pub fn tick(&mut self, now: Duration) -> Vec<SpreadChange> {
        let mut changes = std::mem::take(&mut self.pending);
        let mut is_new = !changes.is_empty();
        self.forget(now);
        is_new |= self.stale && self.make(now, &mut changes);
        is_new |= self.give(now, &mut changes);
        if is_new {
            self.until = now + COOKIE_LIFE;
            self.table ^= 1;
            let lines = self.lines.iter().map(Lineage::told).collect();
            let spread = SpreadTable { slots: self.slots.clone(), lines };
            changes.push(SpreadChange::Table { table: self.table, spread });
            changes.push(SpreadChange::Use { table: self.table, until: self.until, refuse: self.refuse });
            self.check_invariants();
        }
        changes
    }

    /// Panics in debug and test builds when what must always hold does not.
    fn check_invariants(&self) {
        for maker in self.makers.values() {
            let of_node =
                |other: &&TrackedMaker| other.node == maker.node && other.state == MakerState::Alive;
            debug_assert!(self.makers.values().filter(of_node).count() <= 1, "{} decides twice", maker.node);
        }
        for line in &self.lines {
            debug_assert!(line.earlier.len() < SLOT_MAKERS, "more makers than a slot has room for");
            for (at, earlier) in line.earlier.iter().enumerate() {
                let later = line.in_force.into_iter().chain(line.earlier[..at].iter().map(|e| e.maker));
                debug_assert!(self.makers.contains_key(&earlier.maker), "nobody makes cookies");
                debug_assert!(later.clone().all(|other| other != earlier.maker), "two places of one maker");
                debug_assert!(
                    earlier.heir.is_none_or(|heir| later.clone().any(|other| other == heir)),
                    "the heir of {} is gone",
                    earlier.maker
                );
            }
        }
    }

    /// What no cookie is of any more.
    fn forget(&mut self, now: Duration) {
        let known = self.makers.len();
        self.makers.retain(|_, maker| match maker.state {
            MakerState::Over { since: ended } | MakerState::Down { until: ended } => {
                now < ended + COOKIE_LIFE
            }
            MakerState::Alive | MakerState::Told { .. } => true,
        });
        if self.makers.len() < known {
            // Before another maker gets the number.
            for line in &mut self.lines {
                line.earlier.retain(|earlier| self.makers.contains_key(&earlier.maker));
            }
        }
    }

    /// Gives the slots to the distributors that are there. Whether anything changed.
    fn make(&mut self, now: Duration, changes: &mut Vec<SpreadChange>) -> bool {
        let alive = self.makers.iter().filter(|(_, maker)| maker.state == MakerState::Alive);
        let makers: BTreeMap<NodeId, u16> = alive.map(|(number, maker)| (maker.node, *number)).collect();
        if self.made.is_some() && self.in_force == makers {
            self.stale = false;
            return false;
        }
        let loses = !self.in_force.iter().all(|(node, number)| makers.get(node) == Some(number));
        let early = self.made.is_some_and(|made| now < made + GATHER * (1 << self.kept));
        if !loses && !self.in_force.is_empty() && early {
            return false;
        }
        let weights = makers.keys().map(|node| (*node, self.weights.get(node).copied().unwrap_or(1)));
        let table = Table::with_size(&weights.collect::<Vec<_>>(), self.slots.len()).ok();
        let entries = table.as_ref().map_or(&[][..], Table::entries).iter();
        let taken = entries.map(|node| makers.get(node).copied()).chain(std::iter::repeat(None));
        self.take(taken, now);
        for number in makers.values() {
            if let Some(maker) = self.makers.get(number) {
                changes.push(SpreadChange::Maker { number: *number, maker: maker.over(None) });
            }
        }
        if makers.is_empty() {
            self.refuse = now + MISSED_FOR;
        }
        self.in_force = makers;
        self.made = Some(now);
        self.stale = false;
        true
    }

    /// Each slot gets a maker, or none.
    fn take(&mut self, makers: impl Iterator<Item = Option<u16>>, now: Duration) {
        let second = |time: Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
        let mut lines = BTreeMap::new();
        let mut line_of = |line: &Lineage, maker| {
            let mut line = line.clone();
            line.earlier.retain(|earlier| second(now) < earlier.until);
            line.take(maker, second(now + COOKIE_LIFE).saturating_add(1));
            let number = u32::try_from(lines.len()).unwrap_or(u32::MAX);
            *lines.entry(line).or_insert(number)
        };
        // Most slots keep their maker: there is nothing to look up for these.
        let mut same = vec![None; self.lines.len()];
        let mut others = BTreeMap::new();
        for (slot, maker) in self.slots.iter_mut().zip(makers) {
            let at = *slot as usize;
            let line = &self.lines[at];
            *slot = if line.in_force == maker {
                *same[at].get_or_insert_with(|| line_of(line, maker))
            } else {
                *others.entry((at, maker)).or_insert_with(|| line_of(line, maker))
            };
        }
        let mut lines: Vec<(u32, Lineage)> = lines.into_iter().map(|(line, number)| (number, line)).collect();
        lines.sort_unstable();
        self.lines = lines.into_iter().map(|(_, line)| line).collect();
        self.kept = self.lines.iter().map(|line| line.earlier.len()).max().unwrap_or(0);
    }

    /// Leaves the connections of those that decide no more to others. Whether anything changed for the programs.
    fn give(&mut self, now: Duration, changes: &mut Vec<SpreadChange>) -> bool {
        let is_gone = |(number, maker): (&u16, &TrackedMaker)| {
            matches!(maker.state, MakerState::Down { until } if until <= now).then_some(*number)
        };
        // While there is nobody, those who come first will inherit.
        let somebody = |_: &(&u16, &TrackedMaker)| !self.in_force.is_empty();
        let gone: Vec<u16> = self.makers.iter().filter(somebody).filter_map(is_gone).collect();
        for number in &gone {
            for term in self.decided_by(*number) {
                let nodes = self.in_force.keys().copied().collect();
                changes.push(SpreadChange::Heirs { term, nodes });
            }
        }
        for number in &gone {
            if let Some(maker) = self.makers.get_mut(number) {
                maker.state = MakerState::Told { since: now };
                maker.heirs = self.in_force.values().copied().collect();
            }
        }
        for line in &mut self.lines {
            for earlier in line.earlier.iter_mut().filter(|earlier| gone.contains(&earlier.maker)) {
                earlier.heir = line.in_force;
            }
        }
        let mut is_new = !gone.is_empty();
        for (number, maker) in &mut self.makers {
            if let MakerState::Told { since } = maker.state
                && since + TOLD_FOR <= now
            {
                maker.state = MakerState::Over { since: now };
                changes.push(SpreadChange::Maker { number: *number, maker: maker.over(Some(Heirs::Told)) });
                is_new = true;
            }
        }
        is_new
    }

    /// The terms that a maker decides: its own, and those that it has inherited, or that its heritage had. The term
    /// that ended last comes last.
    fn decided_by(&self, number: u16) -> Vec<u32> {
        let mut heritage = BTreeSet::from([number]);
        let mut more = vec![number];
        while let Some(heir) = more.pop() {
            let left = self.makers.iter().filter(|(_, maker)| maker.is_over() && maker.heirs.contains(&heir));
            more.extend(left.map(|(left, _)| *left).filter(|left| heritage.insert(*left)));
        }
        let makers = heritage.iter().filter_map(|number| self.makers.get(number));
        let mut terms: Vec<(Duration, u32)> = makers.map(|maker| (maker.ended(), maker.term)).collect();
        terms.sort_unstable();
        terms.into_iter().map(|(_, term)| term).collect()
    }
}
