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
    /// Nobody: it is as if nobody had made the cookie.
    None,
    /// They have yet to be told. What is sent to them meanwhile the client repeats.
    Soon,
    /// Whom this table names.
    Table(u8),
}
