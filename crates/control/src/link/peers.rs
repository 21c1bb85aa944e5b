//! What the mesh knows of its peers, shared between callers that send and tasks that own sockets.
//! One lock per peer, never held across a wait; whoever holds it and is the open connection is the
//! only one to speak for the peer, which is what keeps `Up`, messages and `Down` in order.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use baton_cluster::NodeId;
use tokio::sync::{Notify, mpsc, watch};

use super::{MeshEvent, PeerState, PeerStatus, wall};
use crate::clock::NodeClocks;
use crate::error::{Error, SendError};
use crate::message::Message;
use crate::queue::Outbox;
use crate::session::{Identity, Measured, Settlement, settle};
use crate::word::Hello;

/// Everything the tasks of one mesh share.
#[derive(Debug)]
pub(super) struct MeshState {
    pub(super) identity: Arc<Identity>,
    pub(super) listen: SocketAddr,
    pub(super) peers: BTreeMap<NodeId, MeshPeer>,
    pub(super) events: mpsc::Sender<MeshEvent>,
    pub(super) stop: watch::Sender<bool>,
    connections: AtomicU64,
}

/// Places for events, already had: sending them does not wait.
pub(super) type EventPlaces<'a> = mpsc::PermitIterator<'a, MeshEvent>;

/// One peer.
#[derive(Debug)]
pub(super) struct MeshPeer {
    pub(super) node: NodeId,
    pub(super) address: SocketAddr,
    pub(super) is_up: watch::Sender<bool>,
    pub(super) bytes_in: AtomicU64,
    pub(super) bytes_out: AtomicU64,
    messages_in: AtomicU64,
    messages_out: AtomicU64,
    drops: AtomicU64,
    side: Mutex<Guarded>,
}

/// What changes together, under one lock.
#[derive(Debug)]
struct Guarded {
    open: Option<Open>,
    /// The connection that this end has decided for, until the peer's word comes back.
    promised: Option<Promised>,
    outbox: Outbox,
    /// Why the open connection must be closed, found by a sender.
    overflow: Option<Error>,
    since: Instant,
    hello: Option<Hello>,
    measured: Measured,
    ups: u64,
    last_error: Option<Error>,
}

/// The connection that speaks for a peer.
#[derive(Debug)]
struct Open {
    id: u64,
    boot: u64,
    wake: Arc<Notify>,
}

/// A connection that will speak for a peer once the peer has said that it knows.
#[derive(Clone, Copy, Debug)]
struct Promised {
    id: u64,
    boot: u64,
}

impl MeshState {
    pub(super) fn new(
        identity: Identity,
        listen: SocketAddr,
        peers: &[(NodeId, SocketAddr)],
        events: mpsc::Sender<MeshEvent>,
        now: Instant,
    ) -> MeshState {
        MeshState {
            identity: Arc::new(identity),
            listen,
            peers: peers.iter().map(|&(node, address)| (node, MeshPeer::new(node, address, now))).collect(),
            events,
            stop: watch::Sender::new(false),
            connections: AtomicU64::new(0),
        }
    }

    /// Looks at the wall clock, before what a heartbeat says or has said of it.
    pub(super) fn see_wall(&self, now: Instant) {
        self.identity.clocks.see_wall(now, wall());
    }

    /// A number for a connection, never given twice.
    pub(super) fn connection_id(&self) -> u64 {
        self.connections.fetch_add(1, Relaxed)
    }
}

impl MeshPeer {
    fn new(node: NodeId, address: SocketAddr, now: Instant) -> MeshPeer {
        MeshPeer {
            node,
            address,
            is_up: watch::Sender::new(false),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            messages_in: AtomicU64::new(0),
            messages_out: AtomicU64::new(0),
            drops: AtomicU64::new(0),
            side: Mutex::new(Guarded {
                open: None,
                promised: None,
                outbox: Outbox::default(),
                overflow: None,
                since: now,
                hello: None,
                measured: Measured::default(),
                ups: 0,
                last_error: None,
            }),
        }
    }

    fn side(&self) -> MutexGuard<'_, Guarded> {
        // A panic elsewhere leaves the fields as good as they were.
        self.side.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a message for the open connection.
    pub(super) fn send(&self, message: &Message) -> Result<(), SendError> {
        let mut bytes = Vec::new();
        message.encode(&mut bytes)?;
        let kind = message.kind();
        let mut side = self.side();
        let Some(wake) = side.open.as_ref().map(|open| open.wake.clone()) else {
            return Err(SendError::Down(self.node));
        };
        let queued = side.outbox.push(kind, bytes);
        if queued.is_err() {
            self.drops.fetch_add(1, Relaxed);
            if kind.is_state() {
                side.overflow.get_or_insert(Error::Overflow { kind });
            }
        }
        drop(side);
        wake.notify_one();
        queued.map_err(|_| SendError::Full { node: self.node, kind })
    }

    /// Settles what becomes of a connection that this end decides about, and promises the peer to it
    /// unless it is refused. One step, so that of two connections set up at the same moment only
    /// one is taken.
    pub(super) fn propose(&self, id: u64, boot: u64) -> Settlement {
        let mut side = self.side();
        let promised = side.promised.filter(|promised| promised.boot == boot);
        let taken = promised.map(|promised| promised.boot).or(side.open.as_ref().map(|open| open.boot));
        let settlement = settle(taken, boot);
        if settlement != Settlement::Refuse {
            side.promised = Some(Promised { id, boot });
        }
        settlement
    }

    /// Takes a promise back, if this connection still holds it.
    pub(super) fn withdraw(&self, id: u64) {
        self.side().promised.take_if(|promised| promised.id == id);
    }

    /// Makes a connection that both ends have taken the one that speaks for the peer, in place of
    /// any other.
    ///
    /// # Errors
    /// [`Error::Duplicate`] if this end decides and has since promised the peer to another.
    pub(super) fn opened(
        &self,
        id: u64,
        promised: bool,
        wake: &Arc<Notify>,
        hello: Hello,
        now: Instant,
        places: &mut EventPlaces<'_>,
    ) -> Result<(), Error> {
        let mut side = self.side();
        if promised && side.promised.take_if(|promised| promised.id == id).is_none() {
            return Err(Error::Duplicate);
        }
        let open = Open { id, boot: hello.boot, wake: wake.clone() };
        if let Some(old) = side.open.replace(open) {
            let reason = if old.boot == hello.boot { Error::Duplicate } else { Error::Restarted };
            side.last_error = Some(reason.clone());
            old.wake.notify_one();
            tell(places, MeshEvent::Down { node: self.node, reason });
        }
        side.outbox = Outbox::default();
        side.overflow = None;
        side.since = now;
        side.measured = Measured::default();
        side.ups += 1;
        side.hello = Some(hello.clone());
        self.is_up.send_replace(true);
        tell(places, MeshEvent::Up { node: self.node, hello });
        Ok(())
    }

    /// Tells that the peer is down, if this connection spoke for it.
    pub(super) fn down(&self, id: u64, reason: &Error, now: Instant, places: &mut EventPlaces<'_>) {
        let mut side = self.side();
        if side.open.as_ref().is_none_or(|open| open.id != id) {
            return;
        }
        side.open = None;
        side.outbox = Outbox::default();
        side.since = now;
        side.measured = Measured::default();
        side.last_error = Some(reason.clone());
        self.is_up.send_replace(false);
        tell(places, MeshEvent::Down { node: self.node, reason: reason.clone() });
    }

    /// Hands on a received message, if this connection speaks for the peer.
    pub(super) fn heard(&self, id: u64, message: Message, places: &mut EventPlaces<'_>) -> Result<(), Error> {
        let side = self.side();
        speaks(&side, id)?;
        self.messages_in.fetch_add(1, Relaxed);
        tell(places, MeshEvent::Message { node: self.node, message });
        Ok(())
    }

    /// Takes at most `count` waiting messages, of about `bytes` bytes in all, into `batch`.
    ///
    /// # Errors
    /// The connection is to be closed: a sender found the queue full, or another connection speaks.
    pub(super) fn outgoing(
        &self,
        id: u64,
        bytes: usize,
        count: usize,
        measured: Measured,
        batch: &mut Vec<Vec<u8>>,
    ) -> Result<(), Error> {
        let mut side = self.side();
        speaks(&side, id)?;
        if let Some(overflow) = side.overflow.take() {
            return Err(overflow);
        }
        side.measured = measured;
        let mut taken = 0;
        while taken < bytes && batch.len() < count {
            let Some(message) = side.outbox.pop() else { break };
            taken += message.len();
            batch.push(message);
        }
        self.messages_out.fetch_add(batch.len() as u64, Relaxed);
        Ok(())
    }

    /// Notes that an attempt to connect failed. Says whether that is news.
    pub(super) fn failed(&self, error: &Error) -> bool {
        let mut side = self.side();
        if side.open.is_some() || side.last_error.as_ref() == Some(error) {
            return false;
        }
        side.last_error = Some(error.clone());
        true
    }

    /// Which of its connections is open, and a moment at or after which the peer has heard this end on it.
    pub(super) fn heard_by(&self) -> Option<(u64, Instant)> {
        let side = self.side();
        side.measured.heard_by_peer.filter(|_| side.open.is_some()).map(|at| (side.ups, at))
    }

    pub(super) fn status(&self, clocks: &NodeClocks) -> PeerStatus {
        let side = self.side();
        PeerStatus {
            node: self.node,
            state: if side.open.is_some() { PeerState::Up } else { PeerState::Down },
            since: side.since,
            hello: side.hello.clone(),
            rtt_us: side.measured.rtt_us,
            clock_ahead_us: side.measured.wall_ahead_us.map(|ahead| clocks.ahead_of_mine_us(ahead)),
            bytes_in: self.bytes_in.load(Relaxed),
            bytes_out: self.bytes_out.load(Relaxed),
            messages_in: self.messages_in.load(Relaxed),
            messages_out: self.messages_out.load(Relaxed),
            drops: self.drops.load(Relaxed),
            ups: side.ups,
            last_error: side.last_error.clone(),
        }
    }
}

fn speaks(side: &Guarded, id: u64) -> Result<(), Error> {
    if side.open.as_ref().is_some_and(|open| open.id == id) { Ok(()) } else { Err(Error::Duplicate) }
}

/// Sends an event to a place already had. There are always enough: callers reserve for the worst case.
fn tell(places: &mut EventPlaces<'_>, event: MeshEvent) {
    let place = places.next();
    debug_assert!(place.is_some(), "an event without a place");
    if let Some(place) = place {
        place.send(event);
    }
}

/// Waits until the mesh is told to stop.
pub(super) async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that the mesh is gone, which is a stop as well.
    drop(stop.wait_for(|stop| *stop).await);
}
