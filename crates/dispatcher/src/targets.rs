//! A bounded table from target to what a policy remembers of it. At the bound the clock hand
//! passes over targets used since it last came by and evicts the first that was not (second
//! chance); evictions are counted. Used by LARD and LARD/R; knows nothing of servers.
//!
//! An evicted target is one that was never asked about again for a while: its next request is
//! decided as if it were new. Distributors that still hold it go on with the server they know:
//! at worst a target is for some time at two servers.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use baton_cluster::Target;

/// The table. A target's entry is reached in one probe of an index and one access to a slot.
#[derive(Clone, Debug)]
pub struct Targets<V> {
    index: HashMap<Target, usize, BuildHasherDefault<KeyedAlready>>,
    slots: Vec<Slot<V>>,
    hand: usize,
    limit: usize,
    evicted: u64,
}

#[derive(Clone, Debug)]
struct Slot<V> {
    target: Target,
    used: bool,
    value: V,
}

impl<V> Targets<V> {
    /// An empty table for at most `limit` targets, at least one. Memory grows with use.
    pub fn new(limit: usize) -> Self {
        Self { index: HashMap::default(), slots: Vec::new(), hand: 0, limit: limit.max(1), evicted: 0 }
    }

    /// What is remembered of the target, which counts as used by this.
    pub fn get(&mut self, target: Target) -> Option<&mut V> {
        let slot = self.slots.get_mut(*self.index.get(&target)?)?;
        slot.used = true;
        Some(&mut slot.value)
    }

    /// What is remembered of the target, for those who only look.
    pub fn peek(&self, target: Target) -> Option<&V> {
        self.slots.get(*self.index.get(&target)?).map(|slot| &slot.value)
    }

    /// Remembers `value` of the target, in place of what was remembered before. At the limit
    /// another target is evicted.
    pub fn insert(&mut self, target: Target, value: V) {
        if let Some(known) = self.get(target) {
            *known = value;
            return;
        }
        let fresh = Slot { target, used: false, value };
        if self.slots.len() < self.limit {
            self.index.insert(target, self.slots.len());
            self.slots.push(fresh);
            self.check_invariants();
            return;
        }
        let place = self.advance();
        if let Some(slot) = self.slots.get_mut(place) {
            self.index.remove(&slot.target);
            self.index.insert(target, place);
            *slot = fresh;
            self.evicted += 1;
        }
        self.check_invariants();
    }

    /// Panics in debug and test builds when what must always hold does not.
    fn check_invariants(&self) {
        debug_assert_eq!(
            self.index.len(),
            self.slots.len(),
            "an entry without a slot, or a slot without one"
        );
        debug_assert!(self.slots.len() <= self.limit, "more targets than there is room for");
        debug_assert!(self.hand < self.slots.len().max(1), "the hand is behind the last slot");
    }

    /// Forgets every target for which `keep` says no; returns how many. Takes time in proportion
    /// to the table: meant for the death of a server, not for requests.
    pub fn retain(&mut self, mut keep: impl FnMut(&mut V) -> bool) -> usize {
        let before = self.slots.len();
        self.slots.retain_mut(|slot| keep(&mut slot.value));
        self.hand = 0;
        if self.slots.len() != before {
            self.index.clear();
            self.index.extend(self.slots.iter().enumerate().map(|(place, slot)| (slot.target, place)));
        }
        self.check_invariants();
        before - self.slots.len()
    }

    /// What is remembered, in the order of its places, from one on. Places change only when something is forgotten.
    pub(crate) fn iter_from(&self, from: usize) -> impl Iterator<Item = (Target, &V)> {
        self.slots.iter().skip(from).map(|slot| (slot.target, &slot.value))
    }

    /// How many targets are remembered.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether no target is remembered.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// How many targets gave way to others since the start.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Moves the hand past the slot to be evicted and returns that slot. Ends within two rounds:
    /// the first leaves nothing marked as used.
    fn advance(&mut self) -> usize {
        for _ in 0..=2 * self.slots.len() {
            let place = self.hand;
            self.hand = (self.hand + 1) % self.slots.len();
            match self.slots.get_mut(place) {
                Some(slot) if slot.used => slot.used = false,
                _ => return place,
            }
        }
        self.hand
    }
}

/// Targets are keyed hashes: a client cannot choose them, so hashing them again would protect
/// nothing. One multiplication spreads them over all bits in case a caller numbers them instead.
#[derive(Clone, Copy, Debug, Default)]
struct KeyedAlready(u64);

impl Hasher for KeyedAlready {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, value: u64) {
        let value = (self.0 ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = value ^ (value >> 32);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_unused_give_way_first() {
        let mut table = Targets::new(3);
        for n in 0..3 {
            table.insert(Target(n), n);
        }
        assert!(table.get(Target(0)).is_some());
        table.insert(Target(3), 3);
        assert_eq!((table.len(), table.evicted()), (3, 1));
        assert!(table.peek(Target(0)).is_some() && table.peek(Target(1)).is_none());
        table.insert(Target(4), 4);
        assert!(table.peek(Target(2)).is_none() && table.peek(Target(0)).is_some());
    }

    #[test]
    fn a_full_table_of_used_targets_still_evicts() {
        let mut table = Targets::new(2);
        for n in 0..2 {
            table.insert(Target(n), n);
            table.get(Target(n));
        }
        table.insert(Target(2), 2);
        assert_eq!(table.len(), 2);
        assert!(table.peek(Target(2)).is_some());
    }

    proptest! {
        /// Against a plain map, on tables that never fill; and the bound, on tables that do.
        #[test]
        fn remembers_what_a_map_remembers(
            steps in prop::collection::vec((0u8..3, 0u64..40, 0u32..6), 1..300),
            limit in 1usize..60,
        ) {
            let mut table = Targets::new(limit);
            let mut model = HashMap::new();
            for (step, target, value) in steps {
                let target = Target(target);
                match step {
                    0 => {
                        table.insert(target, value);
                        model.insert(target, value);
                        prop_assert_eq!(table.peek(target), Some(&value));
                    }
                    1 => {
                        let found = table.get(target).copied();
                        prop_assert!(found.is_none() || found == model.get(&target).copied());
                        prop_assert!(limit < 40 || found == model.get(&target).copied());
                    }
                    _ => {
                        let before = table.len();
                        let gone = table.retain(|held| *held != value);
                        model.retain(|_, held| *held != value);
                        prop_assert_eq!(table.len(), before - gone);
                    }
                }
                prop_assert!(table.len() <= limit && table.index.len() == table.len());
                prop_assert!(limit < 40 || table.len() == model.len());
                for slot in &table.slots {
                    prop_assert_eq!(model.get(&slot.target), Some(&slot.value));
                }
            }
        }
    }
}
