//! Who made the cookies of a term, as a switch's spreading decides it and as its programs are told.

use crate::NodeId;

/// Who made the cookies of a term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Maker {
    /// The distributor.
    pub node: NodeId,
    /// What its cookies are made with.
    pub term: u32,
    /// `Some`: it decides no more.
    pub over: Option<Heirs>,
}

/// Who decides instead of a maker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heirs {
    /// They have yet to be told. What is sent to them meanwhile the client repeats.
    Soon,
    /// Those that its slots name, each slot its own: [`SpreadLine`].
    Told,
}

/// Makers that one slot of a switch has cookies of at once.
pub const SLOT_MAKERS: usize = 8;

/// Whose cookies the flows of some slots have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpreadLine {
    /// Numbers of makers: the one in force first, to which SYNs go, then those before it, the latest first.
    pub makers: [Option<u16>; SLOT_MAKERS],
    /// For each maker that is over: its heir's place among them. `None`: nobody's; it is as if nobody had made
    /// its cookies.
    pub heirs: [Option<u8>; SLOT_MAKERS],
}

impl SpreadLine {
    /// Of slots that nobody but this maker has had.
    pub fn of(maker: Option<u16>) -> Self {
        let mut line = Self::default();
        line.makers[0] = maker;
        line
    }
}

/// A table of a switch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpreadTable {
    /// For each slot the number of its line.
    pub slots: Vec<u32>,
    /// Each as often as there are slots of it, or just once.
    pub lines: Vec<SpreadLine>,
}

impl SpreadTable {
    /// The makers of a slot.
    pub fn line(&self, slot: usize) -> Option<&SpreadLine> {
        self.lines.get(*self.slots.get(slot)? as usize)
    }
}

impl FromIterator<SpreadLine> for SpreadTable {
    /// From the line of each slot.
    fn from_iter<I: IntoIterator<Item = SpreadLine>>(lines: I) -> Self {
        let lines: Vec<SpreadLine> = lines.into_iter().collect();
        Self { slots: (0..).take(lines.len()).collect(), lines }
    }
}
