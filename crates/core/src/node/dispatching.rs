//! What concerns dispatchers: this node as one of them, and the others as those that it asks.

use std::fmt::Debug;

use baton_cluster::{Node, NodeId, PoolId, Target};
use baton_control::{Message, Ready};
use baton_dispatcher::Remembered;

use super::Core;
use crate::dispatcher::DispatcherRole;
use crate::outside::{Moment, Outside};

impl<S: Debug> Core<S> {
    /// What it has decided as dispatcher, if it is one.
    pub fn dispatched(&self) -> Option<baton_dispatcher::Stats> {
        self.dispatcher.as_ref().map(DispatcherRole::stats)
    }

    /// Whether it remembers, as dispatcher, what the cluster's dispatchers have decided; `None`: it is no dispatcher.
    pub fn is_ready(&self) -> Option<bool> {
        self.dispatcher.as_ref().map(DispatcherRole::is_ready)
    }

    /// All that it remembers of targets as dispatcher: for who watches that dispatchers agree.
    pub fn remembered(&self) -> Option<Vec<(PoolId, Target, Remembered)>> {
        self.dispatcher.as_ref().map(DispatcherRole::remembered)
    }

    /// A node came up, this one included.
    pub(super) fn dispatcher_up(&mut self, node: &Node, now: Moment) {
        if let Some(dispatcher) = &mut self.dispatcher {
            dispatcher.serving(self.services.cluster(), &self.peers, now.monotonic);
            dispatcher.up(node, &mut self.post);
        }
    }

    pub(super) fn dispatcher_down(&mut self, node: &Node, now: Moment) {
        if let Some(dispatcher) = &mut self.dispatcher {
            dispatcher.serving(self.services.cluster(), &self.peers, now.monotonic);
            dispatcher.down(node, &mut self.post);
        }
    }

    /// What is said to dispatchers, or by them to each other.
    pub(super) fn dispatching(
        &mut self,
        from: NodeId,
        message: Message,
        outside: &mut impl Outside<Stream = S>,
        now: Moment,
    ) {
        let is_dispatcher = self.services.cluster().node(from).is_some_and(|node| node.roles.dispatcher);
        if let Message::Ready(Ready { ready }) = message
            && is_dispatcher
        {
            self.with_placing("a dispatcher's word", outside, now, |placing, tools| {
                placing.dispatcher_says(from, ready, tools)
            });
        }
        let Some(dispatcher) = &mut self.dispatcher else { return };
        let time = outside.cluster_time();
        match message {
            Message::Ask(ask) => dispatcher.ask(from, &ask, time, &mut self.post),
            message if is_dispatcher => dispatcher.heard(from, message, time, &mut self.post),
            _ => {}
        }
    }
}
