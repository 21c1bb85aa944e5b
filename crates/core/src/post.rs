//! Messages to other nodes and to components on this one, by one call: what is for this node never
//! touches the network, what is for others waits here for the daemon, which sends it when the step is done.

use std::collections::VecDeque;

use baton_cluster::NodeId;
use baton_control::Message;

/// Where messages are handed in.
#[derive(Debug)]
pub struct Post {
    me: NodeId,
    local: VecDeque<Message>,
    out: Vec<(NodeId, Message)>,
}

impl Post {
    pub(crate) fn new(me: NodeId) -> Self {
        Self { me, local: VecDeque::new(), out: Vec::new() }
    }

    /// This node.
    pub(crate) fn me(&self) -> NodeId {
        self.me
    }

    /// Sends a message. Every message may be lost (see its description in baton-control).
    pub fn send(&mut self, to: NodeId, message: Message) {
        if to == self.me {
            self.local.push_back(message);
        } else {
            self.out.push((to, message));
        }
    }

    /// Whether this node has said something to itself.
    pub fn has_local(&self) -> bool {
        !self.local.is_empty()
    }

    /// The next message from this node to itself.
    pub fn take_local(&mut self) -> Option<Message> {
        self.local.pop_front()
    }

    /// The messages to other nodes, in order.
    pub fn take_out(&mut self) -> Vec<(NodeId, Message)> {
        std::mem::take(&mut self.out)
    }
}
