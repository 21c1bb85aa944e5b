//! The guard: what stands where `ingress` does not.

use crate::packet::Parsed;
use crate::{Model, Verdict};

impl Model {
    /// What becomes of a frame for this host that `ingress` has not seen. `connected`: the node's stack has a connection of
    /// its flow.
    pub fn guard(&self, frame: &[u8], connected: bool) -> Verdict {
        match self.parse(frame) {
            Parsed::Refused(_) => Verdict::Drop,
            Parsed::Tcp(_) if !connected => Verdict::Drop,
            _ => Verdict::Next,
        }
    }
}
