//! What is legal in a cluster file but probably not meant.

use std::fmt;

use crate::Cluster;

/// A suspicion about a cluster file, and what to do if it is right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// What looks odd.
    pub what: String,
    /// What to do about it.
    pub help: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n  help: {}", self.what, self.help)
    }
}

impl Cluster {
    /// What is legal but suspicious, in no particular order. A node runs all the same.
    pub fn warnings(&self) -> Vec<Warning> {
        Vec::new()
    }
}
