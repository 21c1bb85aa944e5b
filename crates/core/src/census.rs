//! How much a core keeps of each thing that others make it keep, and how much it may keep at most: for who watches that
//! everything is bounded, and that everything ends.

use std::fmt::Debug;

use baton_cluster::{Limits, Succession};

use crate::node::Core;

/// Something that a core keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fill {
    /// What it is.
    pub what: &'static str,
    /// So many now.
    pub now: usize,
    /// And so many at most.
    pub most: usize,
}

impl<S: Debug> Core<S> {
    /// What it keeps of connections, requests and packets, beside the most that these limits permit.
    pub fn kept(&self, limits: &Limits) -> Vec<Fill> {
        let ending = self.services().known().ending.len();
        let mut kept = vec![
            Fill { what: "news of connections", now: self.untold(), most: limits.bindings as usize },
            Fill { what: "services that end", now: ending, most: Succession::SERVICES_MAX },
        ];
        if let Some(placing) = self.placing() {
            kept.extend(placing.kept(limits));
        }
        kept
    }
}
