//! Who may decide a connection, as plain values: terms and leases.

use std::time::Duration;

use baton_cluster::NodeId;

/// A term of cookies that a distributor takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// It decides connections of this term until then, by the monotonic clock; zero: not yet granted.
    pub until: Duration,
    /// What its cookies are made with.
    pub term: u32,
    /// The switch that its packets come by; `None`: they come by none.
    pub from: Option<NodeId>,
    /// Another distributor made the cookies, and decides no more.
    pub is_heir: bool,
}

impl Lease {
    /// For ever, of what comes by no switch.
    pub fn direct(term: u32) -> Self {
        Self { until: Duration::from_nanos(u64::MAX), term, from: None, is_heir: false }
    }
}
