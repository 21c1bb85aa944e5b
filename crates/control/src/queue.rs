//! What waits to be written to one peer: encoded messages in two queues, urgent before bulk, each
//! bounded in bytes. The link fills it from any thread and empties it when the socket takes more;
//! messages are sealed only when they leave, so that order on the wire is order of sealing.

use std::collections::VecDeque;

use crate::message::Kind;

/// The most bytes of urgent messages that may wait for one peer. At a million decisions a second
/// this is a peer that has read nothing for a quarter of a second.
pub const URGENT_BYTES_MAX: usize = 4 << 20;

/// The most bytes of bulk messages that may wait for one peer.
pub const BULK_BYTES_MAX: usize = 1 << 20;

/// The queue that a message belongs to is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// Encoded messages on their way to one peer.
#[derive(Debug, Default)]
pub struct Outbox {
    urgent: Lane,
    bulk: Lane,
}

#[derive(Debug, Default)]
struct Lane {
    messages: VecDeque<Vec<u8>>,
    bytes: usize,
}

impl Lane {
    fn push(&mut self, message: Vec<u8>, bytes_max: usize) -> Result<(), Full> {
        if self.bytes + message.len() > bytes_max {
            return Err(Full);
        }
        self.bytes += message.len();
        self.messages.push_back(message);
        debug_assert!(self.bytes <= bytes_max, "more bytes than there is room for");
        Ok(())
    }

    fn pop(&mut self) -> Option<Vec<u8>> {
        let message = self.messages.pop_front()?;
        self.bytes -= message.len();
        debug_assert!(!self.messages.is_empty() || self.bytes == 0, "bytes of no message");
        Some(message)
    }
}

impl Outbox {
    /// Queues an encoded message of this kind.
    ///
    /// # Errors
    /// [`Full`] if its queue has no room; the message is gone.
    pub fn push(&mut self, kind: Kind, message: Vec<u8>) -> Result<(), Full> {
        if kind.is_bulk() {
            self.bulk.push(message, BULK_BYTES_MAX)
        } else {
            self.urgent.push(message, URGENT_BYTES_MAX)
        }
    }

    /// The message to write next: the oldest urgent one, else the oldest bulk one.
    pub fn pop(&mut self) -> Option<Vec<u8>> {
        self.urgent.pop().or_else(|| self.bulk.pop())
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.urgent.messages.is_empty() && self.bulk.messages.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urgent_overtakes_bulk_and_each_keeps_its_order() {
        let mut outbox = Outbox::default();
        for (kind, byte) in [(Kind::StatusReply, 1), (Kind::Ask, 2), (Kind::StatusReply, 3), (Kind::Load, 4)]
        {
            outbox.push(kind, vec![byte]).expect("there is room");
        }
        let order: Vec<u8> = std::iter::from_fn(|| outbox.pop()).flatten().collect();
        assert_eq!(order, [2, 4, 1, 3]);
        assert!(outbox.is_empty());
    }

    #[test]
    fn full_at_the_bound_and_free_again_below_it() {
        for (kind, max) in [(Kind::Update, URGENT_BYTES_MAX), (Kind::StatusReply, BULK_BYTES_MAX)] {
            let mut outbox = Outbox::default();
            outbox.push(kind, vec![0; max - 10]).expect("there is room");
            outbox.push(kind, vec![0; 10]).expect("there is room to the last byte");
            assert_eq!(outbox.push(kind, vec![0]), Err(Full));
            assert_eq!(outbox.pop().map(|message| message.len()), Some(max - 10));
            assert_eq!(outbox.push(kind, vec![0]), Ok(()));
        }
    }

    #[test]
    fn a_full_bulk_queue_leaves_the_urgent_one_open() {
        let mut outbox = Outbox::default();
        outbox.push(Kind::StatusReply, vec![0; BULK_BYTES_MAX]).expect("there is room");
        assert_eq!(outbox.push(Kind::Ask, vec![1]), Ok(()));
        assert_eq!(outbox.pop(), Some(vec![1]));
    }
}
