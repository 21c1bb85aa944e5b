//! Messages to other nodes and to components on this one, by one call: what is for this node never
//! touches the network.

use std::collections::VecDeque;

use baton_cluster::NodeId;
use baton_control::{Mesh, Message, SendError};

/// Where messages are handed in.
#[derive(Debug)]
pub(crate) struct Post {
    me: NodeId,
    mesh: Mesh,
    local: VecDeque<Message>,
}

impl Post {
    pub(crate) fn new(me: NodeId, mesh: Mesh) -> Self {
        Self { me, mesh, local: VecDeque::new() }
    }

    /// Sends a message; whether it went on its way. Every message may be lost (see its description in
    /// baton-control), so a failure is noted and nothing more.
    pub(crate) fn send(&mut self, to: NodeId, message: Message) -> bool {
        if to == self.me {
            self.local.push_back(message);
            return true;
        }
        match self.mesh.send(to, &message) {
            Ok(()) => true,
            Err(SendError::Down(_)) => false,
            Err(error) => {
                tracing::warn!(%to, kind = %message.kind(), %error, "message not sent");
                false
            }
        }
    }

    /// Whether this node has said something to itself.
    pub(crate) fn has_local(&self) -> bool {
        !self.local.is_empty()
    }

    /// The next message from this node to itself.
    pub(crate) fn take_local(&mut self) -> Option<Message> {
        self.local.pop_front()
    }
}
