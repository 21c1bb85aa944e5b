//! The programs' counters, by the names, kinds and sentences of the one list in `bpf/counters.h`.

use serde::{Deserialize, Serialize};

/// What a counter counts; a status names it in lower case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CounterKind {
    /// The cluster at work.
    #[default]
    Normal,
    /// Packets dropped, for this reason.
    Drop,
    /// Connections refused with a RST, for this reason.
    Reset,
    /// Should not happen: look.
    Fault,
}

include!(concat!(env!("OUT_DIR"), "/counters.rs"));

impl Counter {
    /// Every counter, in the order of the list.
    pub fn all() -> impl Iterator<Item = Self> {
        TABLE.iter().map(|row| row.0)
    }

    /// How many there are.
    pub const COUNT: usize = TABLE.len();

    /// Its name in status, metrics and logs.
    pub fn name(self) -> &'static str {
        TABLE[self as usize].2
    }

    /// What it means, in a sentence.
    pub fn text(self) -> &'static str {
        TABLE[self as usize].3
    }

    /// Whether it is normal, a drop, a reset or a fault.
    pub fn kind(self) -> CounterKind {
        TABLE[self as usize].1
    }
}

/// All counters at one moment, summed over CPUs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters(pub(crate) Vec<u64>);

impl Counters {
    /// The value of one counter.
    pub fn get(&self, counter: Counter) -> u64 {
        self.0.get(counter as usize).copied().unwrap_or(0)
    }

    /// What was counted since an earlier moment.
    pub fn since(&self, earlier: &Self) -> Self {
        Self(self.0.iter().zip(&earlier.0).map(|(now, then)| now.wrapping_sub(*then)).collect())
    }

    /// Those that are not zero, in the order of the list.
    pub fn nonzero(&self) -> impl Iterator<Item = (Counter, u64)> + '_ {
        Counter::all().map(|c| (c, self.get(c))).filter(|(_, n)| *n > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_in_the_order_of_the_enum() {
        for (i, c) in Counter::all().enumerate() {
            assert_eq!(c as usize, i, "{}", c.name());
        }
        assert_eq!(Counter::SynAnswered.name(), "syn_answered");
        assert_eq!(Counter::DropLoop.kind(), CounterKind::Drop);
    }
}
