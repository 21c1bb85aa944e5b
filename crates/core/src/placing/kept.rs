//! How much is kept of what is placed.

use std::fmt::Debug;

use baton_cluster::Limits;

use super::Placing;
use crate::census::Fill;
use crate::whose::FLOWS_MAX;

impl<S: Debug> Placing<S> {
    /// What is kept of connections, each with its bound.
    pub(crate) fn kept(&self, limits: &Limits) -> [Fill; 9] {
        let kept = |what, now, most| Fill { what, now, most };
        let (packets, heads) = (limits.held_packets as usize, limits.reader_connections as usize);
        // Of a connection that has a binding: it ends with that.
        let bound = limits.bindings as usize;
        let (waiting, releasing) = self.waits.connections();
        let (early, early_packets) = self.early.kept();
        let (in_question, to_come) = self.owners.kept();
        [
            kept("questions to the dispatcher", self.batcher.undecided(), packets),
            kept("connections that wait", waiting, packets + heads),
            kept("packets that wait", self.waits.packets(), packets),
            kept("connections whose packets are given back", releasing, bound),
            kept("connections with packets that came early", early, bound),
            kept("packets that came early", early_packets, packets),
            kept("replays", self.replays.len(), heads),
            kept("connections in question", in_question, FLOWS_MAX),
            kept("connections that are to come", to_come, FLOWS_MAX),
        ]
    }
}
