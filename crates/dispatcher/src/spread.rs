//! How a switch spreads connections over distributors that come and go, so that each connection is decided by
//! one of them. SYNs go by the table in force. What follows a handshake goes to the distributor that answered it:
//! its cookie says which one, by a *term* that only that distributor knows; so the tables of late are kept for as
//! long as a cookie proves. A distributor that has gone down keeps its connections until it is sure that it does
//! not decide any more ([`fence`]); then they are left to those that the table names which was made without it.
//! Docs/decisions/0012.

use std::collections::BTreeMap;
use std::time::Duration;

use baton_cluster::{Heirs, Maker, NodeId};

use crate::leases::{COOKIE_LIFE, fence};
use crate::maglev::{TABLE_SIZE, Table};

/// Tables that are kept at once, the one in force included.
pub const TABLES_MAX: usize = 8;
/// Of these, so many wait for distributors that go.
const KEPT_FOR_LOSSES: usize = 2;
/// Terms that tables may name.
const MAKERS_MAX: u16 = 1024;
/// Distributors that come gather for so long; for twice as long with each table that is kept: all tables are
/// never used up by those that come again and again.
const GATHER: Duration = Duration::from_millis(50);
/// Heirs are told so long before the first packet: the message is there by then.
const TOLD_FOR: Duration = Duration::from_millis(100);
/// Distributors that are missing for less may have been restarted: clients repeat their SYNs. After it they are told.
const MISSED_FOR: Duration = Duration::from_secs(3);

/// What the programs of the switch, or distributors, are to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpreadChange {
    /// A table: the number of a maker for each slot, or none at all.
    Table {
        /// Which one.
        table: u8,
        /// [`TABLE_SIZE`] slots.
        slots: Vec<Option<u16>>,
    },
    /// A maker.
    Maker {
        /// Its number.
        number: u16,
        /// What there is to know of it.
        maker: Maker,
    },
    /// Which tables count, the one in force first; until then the others do.
    Order {
        /// Their numbers.
        tables: Vec<u8>,
        /// When nothing is as old as they are.
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
    /// It decides no more, and its heirs by this table have been told, at this time.
    Told { heirs: Option<u8>, since: Duration },
    /// As above, and its packets go to them.
    Over { heirs: Option<u8>, since: Duration },
}

/// A maker as the spreading follows it.
#[derive(Clone, Copy, Debug)]
struct TrackedMaker {
    node: NodeId,
    term: u32,
    state: MakerState,
}

impl TrackedMaker {
    /// As the programs are told of it.
    fn over(&self, over: Option<Heirs>) -> Maker {
        Maker { node: self.node, term: self.term, over }
    }
}

#[derive(Clone, Debug)]
struct Kept {
    number: u8,
    /// By node, in ascending order.
    makers: BTreeMap<NodeId, u16>,
    /// When another one took its place.
    replaced: Option<Duration>,
}

/// The spreading of one switch. Time is the caller's monotonic clock.
#[derive(Clone, Debug)]
pub struct Spread {
    weights: BTreeMap<NodeId, u16>,
    fence: Duration,
    size: usize,
    makers: BTreeMap<u16, TrackedMaker>,
    /// The one in force first.
    tables: Vec<Kept>,
    made: Option<Duration>,
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
            size,
            makers: BTreeMap::new(),
            tables: Vec::new(),
            made: None,
            stale: true,
            until: Duration::ZERO,
            refuse: Duration::ZERO,
            pending: Vec::new(),
        }
    }

    /// Distributors that new connections are spread over.
    pub fn distributors(&self) -> usize {
        self.tables.first().map_or(0, |table| table.makers.len())
    }

    /// A distributor is there, and makes its cookies with this term. Whether it may: not when its connections of
    /// that term have been left to others.
    pub fn term(&mut self, node: NodeId, term: u32, now: Duration) -> bool {
        let known = self.makers.iter().find(|(_, maker)| (maker.node, maker.term) == (node, term));
        let known = known.map(|(number, maker)| (*number, maker.state));
        let number = match known {
            Some((_, MakerState::Told { .. } | MakerState::Over { .. })) => return false,
            Some((number, MakerState::Alive | MakerState::Down { .. })) => number,
            None => match (0..MAKERS_MAX).find(|number| !self.makers.contains_key(number)) {
                Some(free) => free,
                None => return false,
            },
        };
        // By its own word it decides none of its other terms any more.
        self.gone(node, Some(term), now);
        self.makers.insert(number, TrackedMaker { node, term, state: MakerState::Alive });
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
            let tables = self.tables.iter().map(|table| table.number).collect();
            changes.push(SpreadChange::Order { tables, until: self.until, refuse: self.refuse });
        }
        self.check_invariants();
        changes
    }

    /// Panics in debug and test builds when what must always hold does not.
    fn check_invariants(&self) {
        debug_assert!(self.tables.len() <= TABLES_MAX, "more tables than there is room for");
        let has = |number: u8| self.tables.iter().filter(|table| table.number == number).count();
        debug_assert!(self.tables.iter().all(|table| has(table.number) == 1), "two tables of one number");
        for maker in self.makers.values() {
            let of_node =
                |other: &&TrackedMaker| other.node == maker.node && other.state == MakerState::Alive;
            debug_assert!(self.makers.values().filter(of_node).count() <= 1, "{} decides twice", maker.node);
            if let MakerState::Told { heirs: Some(table), .. } | MakerState::Over { heirs: Some(table), .. } =
                maker.state
            {
                debug_assert_eq!(has(table), 1, "the table that names the heirs of {} is gone", maker.node);
            }
        }
        let in_force = self.tables.first().into_iter().flat_map(|table| table.makers.values());
        debug_assert!(
            in_force.into_iter().all(|maker| self.makers.contains_key(maker)),
            "nobody makes cookies"
        );
    }

    /// What no cookie is of any more.
    fn forget(&mut self, now: Duration) {
        self.makers.retain(|_, maker| match maker.state {
            MakerState::Over { since, .. } => now < since + COOKIE_LIFE,
            _ => true,
        });
        let heirs: Vec<u8> = self
            .makers
            .values()
            .filter_map(|maker| match maker.state {
                MakerState::Told { heirs, .. } | MakerState::Over { heirs, .. } => heirs,
                _ => None,
            })
            .collect();
        self.tables.retain(|table| {
            let young = |replaced| now < replaced + COOKIE_LIFE && !table.makers.is_empty();
            table.replaced.is_none_or(young) || heirs.contains(&table.number)
        });
    }

    /// Makes the table that goes by who is there, if there is room for it. Whether it did.
    fn make(&mut self, now: Duration, changes: &mut Vec<SpreadChange>) -> bool {
        let alive = self.makers.iter().filter(|(_, maker)| maker.state == MakerState::Alive);
        let makers: BTreeMap<NodeId, u16> = alive.map(|(number, maker)| (maker.node, *number)).collect();
        let loses =
            self.tables.first().is_some_and(|now| !now.makers.iter().all(|(n, m)| makers.get(n) == Some(m)));
        if self.tables.first().is_some_and(|table| table.makers == makers) {
            self.stale = false;
            return false;
        }
        let empty = self.tables.first().is_none_or(|table| table.makers.is_empty());
        let free = TABLES_MAX - self.tables.len();
        let gather = GATHER * (1 << self.tables.len().saturating_sub(1));
        let early = self.made.is_some_and(|made| now < made + gather);
        if free == 0 || (!loses && !empty && (early || free <= KEPT_FOR_LOSSES)) {
            return false;
        }
        let taken = |number: &u8| self.tables.iter().any(|table| table.number == *number);
        let Some(number) = (0..TABLES_MAX as u8).find(|number| !taken(number)) else { return false };
        let weights = makers.keys().map(|node| (*node, self.weights.get(node).copied().unwrap_or(1)));
        let table = Table::with_size(&weights.collect::<Vec<_>>(), self.size).ok();
        let entries = table.as_ref().map_or(&[][..], Table::entries).iter();
        let mut slots: Vec<_> = entries.map(|node| makers.get(node).copied()).collect();
        slots.resize(self.size, None);
        for number in makers.values() {
            if let Some(maker) = self.makers.get(number) {
                changes.push(SpreadChange::Maker { number: *number, maker: maker.over(None) });
            }
        }
        changes.push(SpreadChange::Table { table: number, slots });
        if let Some(before) = self.tables.first_mut() {
            before.replaced = Some(now);
        }
        if makers.is_empty() {
            self.refuse = now + MISSED_FOR;
        }
        self.tables.insert(0, Kept { number, makers, replaced: None });
        self.made = Some(now);
        self.stale = false;
        true
    }

    /// Leaves the connections of those that decide no more to others. Whether any go to them from now on.
    fn give(&mut self, now: Duration, changes: &mut Vec<SpreadChange>) -> bool {
        let Some(table) = self.tables.first() else { return false };
        let heirs = (!table.makers.is_empty()).then_some(table.number);
        let gone = |(number, maker): (&u16, &TrackedMaker)| {
            // While it is in the table in force, there was no room for another one.
            let replaced = table.makers.get(&maker.node) != Some(number);
            matches!(maker.state, MakerState::Down { until } if until <= now && replaced).then_some(*number)
        };
        let gone: Vec<u16> = self.makers.iter().filter_map(gone).collect();
        for number in &gone {
            let terms = self.decided_by(*number);
            for term in terms.into_iter().filter(|_| heirs.is_some()) {
                let nodes = table.makers.keys().copied().collect();
                changes.push(SpreadChange::Heirs { term, nodes });
            }
        }
        for number in gone {
            if let Some(maker) = self.makers.get_mut(&number) {
                maker.state = MakerState::Told { heirs, since: now };
            }
        }
        let mut is_new = false;
        for (number, maker) in &mut self.makers {
            if let MakerState::Told { heirs, since } = maker.state
                && since + TOLD_FOR <= now
            {
                maker.state = MakerState::Over { heirs, since: now };
                let heirs = heirs.map_or(Heirs::None, Heirs::Table);
                changes.push(SpreadChange::Maker { number: *number, maker: maker.over(Some(heirs)) });
                is_new = true;
            }
        }
        is_new
    }

    /// The terms that a maker decides: its own, and those that it has inherited, or that its heritage had.
    fn decided_by(&self, number: u16) -> Vec<u32> {
        let names = |heirs: Option<u8>| {
            self.tables.iter().any(|table| {
                Some(table.number) == heirs && table.makers.values().any(|maker| *maker == number)
            })
        };
        let left = self.makers.iter().filter(|(_, maker)| match maker.state {
            MakerState::Told { heirs, .. } | MakerState::Over { heirs, .. } => names(heirs),
            MakerState::Alive | MakerState::Down { .. } => false,
        });
        let own = self.makers.get(&number).map(|maker| maker.term);
        let inherited = left.flat_map(|(number, _)| self.decided_by(*number));
        let mut terms: Vec<u32> = own.into_iter().chain(inherited).collect();
        terms.sort_unstable();
        terms.dedup();
        terms
    }
}
