//! How a switch chooses a distributor for a flow that it knows nothing of: the lookup table of
//! Maglev (Eisenbud and others, NSDI'16 3.4), with weights. Switches with the same members compute
//! the same table, so they need not talk to each other; and a change of members moves few flows
//! besides those that must move. The node daemon builds it and writes it to the kernel's map.

use baton_cluster::NodeId;
use thiserror::Error;

use crate::hash::mix;

/// The table's usual size, the paper's: prime, and 256 times [`NodeId::MAX_NODES`], so that shares
/// are met within about 1 % (NSDI'16 5.3).
pub const TABLE_SIZE: usize = 65_537;

/// Flow hash -> member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    entries: Vec<NodeId>,
}

/// Why there is no table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SizeError {
    /// Only with a prime size does every member's walk reach every entry.
    #[error("a table of {0} entries cannot be filled: take a prime, such as {TABLE_SIZE}")]
    NotPrime(usize),
    /// Every member needs an entry.
    #[error("{members} members do not fit a table of {size} entries: take a larger prime")]
    TooSmall {
        /// How many members there are.
        members: usize,
        /// How many entries the table was to have.
        size: usize,
    },
}

impl Table {
    /// The table of [`TABLE_SIZE`] for `members` with their weights. A member of weight 0 gets
    /// nothing; without any other, the table is empty. The order of members does not matter.
    pub fn new(members: &[(NodeId, u16)]) -> Self {
        Self::with_size(members, TABLE_SIZE).unwrap_or(Self { entries: Vec::new() })
    }

    /// As [`Table::new`], with another size.
    ///
    /// # Errors
    /// [`SizeError`] when `size` is no prime or smaller than the number of members.
    pub fn with_size(members: &[(NodeId, u16)], size: usize) -> Result<Self, SizeError> {
        if !is_prime(size) {
            return Err(SizeError::NotPrime(size));
        }
        let mut members: Vec<_> = members.iter().copied().filter(|(_, weight)| *weight > 0).collect();
        members.sort_unstable();
        members.dedup_by_key(|(node, _)| *node);
        if members.len() > size {
            return Err(SizeError::TooSmall { members: members.len(), size });
        }
        Ok(Self { entries: fill(&members, size) })
    }

    /// The member for a flow of this hash; `None` if there is no member.
    pub fn lookup(&self, flow_hash: u64) -> Option<NodeId> {
        let size = u64::try_from(self.entries.len()).ok().filter(|size| *size > 0)?;
        self.entries.get(usize::try_from(flow_hash % size).ok()?).copied()
    }

    /// The table as the kernel holds it: entry `hash % size` is the member for that hash. Empty
    /// if there is no member.
    pub fn entries(&self) -> &[NodeId] {
        &self.entries
    }
}

/// Members take turns in naming the next free entry of their own permutation. Weights change how
/// often the turn comes: after round r a member has had `floor(r * weight / largest weight)` turns.
fn fill(members: &[(NodeId, u16)], size: usize) -> Vec<NodeId> {
    let Some(largest) = members.iter().map(|(_, weight)| u64::from(*weight)).max() else {
        return Vec::new();
    };
    let mut walks: Vec<_> = members.iter().map(|(node, _)| Walk::new(*node, size)).collect();
    let mut table: Vec<Option<NodeId>> = vec![None; size];
    let mut free = size;
    for round in 1u64.. {
        for ((node, weight), walk) in members.iter().zip(&mut walks) {
            let due = round * u64::from(*weight) / largest;
            if walk.turns < due && free > 0 {
                walk.turns += 1;
                walk.take_next_free(*node, &mut table);
                free -= 1;
            }
        }
        if free == 0 {
            break;
        }
    }
    table.into_iter().flatten().collect()
}

/// A member's way through the table: `(offset + j * skip) mod size`, which for a prime size
/// visits every entry once.
struct Walk {
    next: usize,
    skip: usize,
    turns: u64,
}

impl Walk {
    fn new(node: NodeId, size: usize) -> Self {
        let hash = mix(u64::from(node.0) ^ 0x6d61_676c_6576_0000);
        let below = |hash: u64, bound: usize| {
            let bound = u64::try_from(bound).unwrap_or(u64::MAX).max(1);
            usize::try_from(hash % bound).unwrap_or(0)
        };
        Self { next: below(hash, size), skip: below(mix(hash), size - 1) + 1, turns: 0 }
    }

    fn take_next_free(&mut self, node: NodeId, table: &mut [Option<NodeId>]) {
        for _ in 0..table.len() {
            let here = self.next;
            self.next = (self.next + self.skip) % table.len();
            if let Some(entry @ None) = table.get_mut(here) {
                *entry = Some(node);
                return;
            }
        }
    }
}

fn is_prime(n: usize) -> bool {
    n >= 2 && (2..).take_while(|d| d * d <= n).all(|d| !n.is_multiple_of(d))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn count(table: &Table, node: NodeId) -> usize {
        table.entries().iter().filter(|entry| **entry == node).count()
    }

    fn members(weights: &[u16]) -> Vec<(NodeId, u16)> {
        (0u16..).map(NodeId).zip(weights.iter().copied()).collect()
    }

    /// Entries that differ although the change of members did not force it.
    fn disrupted(before: &Table, after: &Table, forced: impl Fn(NodeId, NodeId) -> bool) -> usize {
        let pairs = before.entries().iter().zip(after.entries());
        pairs.filter(|(was, is)| was != is && !forced(**was, **is)).count()
    }

    #[test]
    fn never_changes_between_releases() {
        let table = Table::with_size(&members(&[1, 1, 2]), 13).unwrap();
        let entries: Vec<_> = table.entries().iter().map(|node| node.0).collect();
        assert_eq!(entries, [2, 1, 1, 2, 2, 0, 2, 2, 1, 2, 0, 2, 0]);
    }

    #[test]
    fn equal_weights_share_equally_to_one_entry() {
        for n in [1u16, 2, 7, 100, 256] {
            let members: Vec<_> = (0..n).map(|id| (NodeId(id), 3)).collect();
            let table = Table::new(&members);
            assert_eq!(table.entries().len(), TABLE_SIZE);
            let fair = TABLE_SIZE / usize::from(n);
            for (node, _) in members {
                assert!((fair..=fair + 1).contains(&count(&table, node)));
            }
        }
    }

    #[test]
    fn a_leaving_member_moves_few_flows_of_others() {
        for n in [3u16, 10, 50] {
            let members: Vec<_> = (0..n).map(|id| (NodeId(id), 1)).collect();
            let gone = NodeId(n / 2);
            let left: Vec<_> = members.iter().copied().filter(|(node, _)| *node != gone).collect();
            let (before, after) = (Table::new(&members), Table::new(&left));
            let moved = disrupted(&before, &after, |was, _| was == gone);
            assert!(
                moved * 100 < TABLE_SIZE * 5,
                "{moved} of {TABLE_SIZE} moved needlessly with {n} members"
            );
        }
    }

    #[test]
    fn a_changed_weight_moves_few_flows_besides_its_own() {
        let before = Table::new(&members(&[10, 10, 10, 10]));
        let after = Table::new(&members(&[10, 10, 10, 9]));
        let moved = disrupted(&before, &after, |was, _| was == NodeId(3));
        assert!(moved * 100 < TABLE_SIZE * 5, "{moved} of {TABLE_SIZE} moved needlessly");
    }

    #[test]
    fn sizes_that_cannot_work_are_refused() {
        assert_eq!(Table::with_size(&members(&[1]), 65_536), Err(SizeError::NotPrime(65_536)));
        let error = SizeError::TooSmall { members: 3, size: 2 };
        assert_eq!(Table::with_size(&members(&[1, 1, 1]), 2), Err(error));
        assert_eq!(Table::new(&[]).lookup(7), None);
        assert_eq!(Table::new(&[(NodeId(0), 0)]).lookup(7), None);
    }

    proptest! {
        #[test]
        fn weights_are_met_whatever_the_order(
            weights in prop::collection::vec(0u16..=100, 1..20),
            hash in any::<u64>(),
        ) {
            let members = members(&weights);
            let size = 4_099;
            let table = Table::with_size(&members, size).unwrap();
            let mut backwards = members.clone();
            backwards.reverse();
            prop_assert_eq!(&table, &Table::with_size(&backwards, size).unwrap());
            let total: u64 = weights.iter().map(|w| u64::from(*w)).sum();
            prop_assert_eq!(table.lookup(hash).is_some(), total > 0);
            for (node, weight) in members {
                let fair = if total == 0 { 0.0 } else { size as f64 * f64::from(weight) / total as f64 };
                let turns = count(&table, node) as f64;
                // Turns are whole, and the last round may end before everyone's turn.
                let per_mean = f64::from(weight) * weights.len() as f64 / total.max(1) as f64;
                prop_assert!(turns >= fair - 2.0 && turns <= fair + 1.0 + per_mean);
            }
        }
    }
}
