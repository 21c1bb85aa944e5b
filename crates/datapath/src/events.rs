//! What the programs tell user space: connections that this node's server has taken, connections that ended, and what
//! they need it for.

use std::cell::RefCell;
use std::fmt;
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;

use baton_cluster::{Flow, NodeId, Sign};
use libbpf_rs::{MapCore, RingBuffer, RingBufferBuilder};

use crate::constants::{
    EVENT_BOUND, EVENT_CLOSED, EVENT_FAILED, EVENT_IDLE, EVENT_PROBED, EVENT_TAKEN, EVENT_TOO_BIG,
    SIGN_NEVER_BEGINS, SIGN_NO_LISTENER, SIGN_REFUSED, SIGN_RESET,
};
use crate::error::DatapathError;
use crate::shared::{flow_of, from_bytes, types};

/// One event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// This node's server has taken the flow.
    Bound {
        /// Which connection.
        flow: Flow,
        /// Its first data byte's sequence number, which tells it from earlier ones of the same flow.
        start_seq: u32,
        /// The owner now.
        server: NodeId,
        /// The cluster's clock at the decision, nanoseconds: of two bindings the younger stands.
        issued: u64,
        /// Who had handed the connection off first.
        distributor: NodeId,
    },
    /// A connection of which packets had come too early is idle now.
    Idle {
        /// Which connection.
        flow: Flow,
    },
    /// This node's server has acknowledged all that a reader gave it.
    Taken {
        /// Which connection.
        flow: Flow,
        /// As above.
        start_seq: u32,
        /// Whose reader.
        distributor: NodeId,
    },
    /// A packet of a client was dropped because wrapped it would not fit the way to the node.
    TooBig {
        /// Which connection.
        flow: Flow,
        /// The packet's sequence number.
        seq: u32,
        /// How large the client's packets may be, bytes.
        mtu: u16,
        /// To which node.
        node: NodeId,
    },
    /// A probe of the way from another node has arrived.
    Probed {
        /// Who sent it.
        from: NodeId,
        /// Its number.
        number: u32,
    },
    /// A sign that this node's server does not work.
    Failed {
        /// Which connection showed it.
        flow: Flow,
        /// What was seen.
        sign: Sign,
        /// The connection's socket had said something before.
        spoke: bool,
    },
    /// A connection that this node served has ended.
    Closed {
        /// Which connection.
        flow: Flow,
        /// As above.
        start_seq: u32,
        /// Who had handed it off.
        distributor: NodeId,
    },
}

/// The events, in the order in which they happened. Readable (poll, epoll) when there are some.
pub struct Events {
    ring: RingBuffer<'static>,
    queue: Rc<RefCell<Vec<Event>>>,
}

impl Events {
    pub(crate) fn open(map: &dyn MapCore) -> Result<Self, DatapathError> {
        let table = |source: libbpf_rs::Error| DatapathError::Table { table: "events", source };
        let queue = Rc::new(RefCell::new(Vec::new()));
        let sink = Rc::clone(&queue);
        let mut builder = RingBufferBuilder::new();
        builder
            .add(map, move |bytes| {
                sink.borrow_mut().extend(from_bytes(bytes).as_ref().and_then(decode));
                0
            })
            .map_err(table)?;
        Ok(Self { ring: builder.build().map_err(table)?, queue })
    }

    /// All events since the last call.
    pub fn take(&self) -> Vec<Event> {
        // An error here is an interrupted poll; the events stay for the next call.
        let _ = self.ring.consume();
        self.queue.take()
    }

    /// The next events, `most` of them at most. The file descriptor does not tell again of those that are left.
    pub fn take_some(&self, most: usize) -> Vec<Event> {
        // As above.
        let _ = self.ring.consume_raw_n(most);
        self.queue.take()
    }
}

impl AsRawFd for Events {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.epoll_fd()
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

fn decode(e: &types::event) -> Option<Event> {
    let (flow, start_seq) = (flow_of(&e.flow), e.start_seq);
    match u32::from(e.kind) {
        EVENT_BOUND => Some(Event::Bound {
            flow,
            start_seq,
            server: NodeId(e.node),
            issued: e.issued,
            distributor: NodeId(e.distributor),
        }),
        EVENT_IDLE => Some(Event::Idle { flow }),
        EVENT_TOO_BIG => {
            let mtu = u16::try_from(e.issued).ok()?;
            Some(Event::TooBig { flow, seq: start_seq, mtu, node: NodeId(e.node) })
        }
        EVENT_PROBED => Some(Event::Probed { from: NodeId(e.node), number: start_seq }),
        EVENT_FAILED => {
            let sign = match u32::from(e.node) {
                SIGN_NO_LISTENER => Sign::NobodyListens,
                SIGN_REFUSED => Sign::Refused,
                SIGN_NEVER_BEGINS => Sign::NeverBegins,
                SIGN_RESET => Sign::ResetFirst,
                _ => return None,
            };
            Some(Event::Failed { flow, sign, spoke: e.issued != 0 })
        }
        EVENT_TAKEN => Some(Event::Taken { flow, start_seq, distributor: NodeId(e.distributor) }),
        EVENT_CLOSED => Some(Event::Closed { flow, start_seq, distributor: NodeId(e.distributor) }),
        _ => None,
    }
}
