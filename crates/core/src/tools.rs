//! What the parts of a node work with; borrowed from the core for one call.

use std::time::{Duration, Instant};

use crate::outside::Outside;
use crate::peers::Peers;
use crate::post::Post;
use crate::services::Services;

/// See the head of this file.
pub(crate) struct Tools<'a, O: Outside> {
    pub(crate) services: &'a Services,
    pub(crate) peers: &'a Peers,
    pub(crate) outside: &'a mut O,
    pub(crate) post: &'a mut Post,
    /// The moment of the call.
    pub(crate) now: Instant,
    /// The same by CLOCK_MONOTONIC.
    pub(crate) monotonic: Duration,
}
