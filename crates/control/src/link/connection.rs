//! One socket: moves bytes between it, its session, the peer's outbox and the mesh's events, until
//! an error ends it. Run by the dialling and the accepting tasks.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use baton_cluster::NodeId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::sync::mpsc::error::TrySendError;
use tokio::task::yield_now;
use tokio::time::{sleep, sleep_until, timeout};

use super::peers::{EventPlaces, MeshPeer, MeshState, stopped};
use crate::error::Error;
use crate::session::{Received, Session, Settlement};
use crate::word::Bye;

/// Read from the socket at a time: little enough that a heartbeat is not late behind opening it.
const READ_BYTES: usize = 16 * 1024;

/// Sealed at a time at most, so that reading and the clock get their turn however much waits.
const SEALED_AT_ONCE: usize = 256;

/// Sealed and waiting to be written at most, but for one message: what a heartbeat may wait for.
const WRITE_BYTES: usize = 64 * 1024;

/// The last words of a connection are given this long to leave.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// A running connection.
pub(super) struct Connection<'a> {
    shared: &'a MeshState,
    session: Session,
    id: u64,
    wake: Arc<Notify>,
    /// Who this end has promised to it.
    promised: Option<&'a MeshPeer>,
    /// Who it speaks, or spoke, for.
    peer: Option<&'a MeshPeer>,
    heard: VecDeque<Received>,
    batch: Vec<Vec<u8>>,
}

impl<'a> Connection<'a> {
    /// A connection to `dialled`, or from whoever it may be.
    pub(super) fn new(shared: &'a MeshState, dialled: Option<NodeId>) -> Result<Connection<'a>, Error> {
        let (identity, now) = (shared.identity.clone(), Instant::now());
        let session = match dialled {
            Some(peer) => Session::dial(identity, peer, now)?,
            None => Session::listen(identity, now)?,
        };
        Ok(Connection {
            shared,
            session,
            id: shared.connection_id(),
            wake: Arc::new(Notify::new()),
            promised: None,
            peer: None,
            heard: VecDeque::new(),
            batch: Vec::new(),
        })
    }

    /// Runs until the connection ends, and says why. If it had spoken for a peer, the peer's `Down`
    /// has been told.
    pub(super) async fn run(mut self, mut stream: TcpStream) -> Error {
        let Err(error) = self.serve(&mut stream).await;
        let lives_on = self.peer.is_some() && !error.is_end();
        if lives_on {
            // What the peer has granted to this node still runs: it must not take the end of the connection for
            // the end of this node before that is over.
            let after = 2 * self.shared.identity.failure_timeout;
            tokio::spawn(async move {
                sleep(after).await;
                drop(stream);
            });
        } else if !matches!(error, Error::Silent { .. }) {
            let last_words = async {
                stream.write_all(self.session.pending()).await?;
                stream.shutdown().await
            };
            // Nothing depends on it: a peer that does not get them sees the connection end.
            let _best_effort = timeout(LAST_WORDS, last_words).await;
        }
        if let Some(peer) = self.promised {
            peer.withdraw(self.id);
        }
        if let Some(peer) = self.peer
            && let Ok(mut places) = self.shared.events.reserve_many(1).await
        {
            peer.down(self.id, &error, Instant::now(), &mut places);
        }
        error
    }

    async fn serve(&mut self, stream: &mut TcpStream) -> Result<Infallible, Error> {
        let events = self.shared.events.clone();
        let mut stop = self.shared.stop.subscribe();
        let wake = self.wake.clone();
        let mut chunk = vec![0; READ_BYTES];
        let (mut reader, writer) = stream.split();
        let timer = sleep_until(self.session.deadline().into());
        tokio::pin!(timer);
        loop {
            self.deliver()?;
            let more = self.fill()?;
            self.write(|bytes| writer.try_write(bytes))?;
            let deadline = self.session.deadline().into();
            if timer.deadline() != deadline {
                timer.as_mut().reset(deadline);
            }
            let (reading, writing) = (self.heard.is_empty(), !self.session.pending().is_empty());
            let places_needed = self.places_needed();
            tokio::select! {
                biased;
                () = stopped(&mut stop) => {
                    while self.session.pending().len() < WRITE_BYTES && self.fill()? {}
                    self.session.refuse(Bye::Stopping)?;
                    return Err(Error::Stopping);
                }
                // Before the timer, so that after a pause of this process what has arrived counts.
                read = reader.read(&mut chunk), if reading => {
                    let came = Instant::now();
                    self.read(read, &chunk, came)?;
                    let done = Instant::now();
                    self.session.was_busy(done.saturating_duration_since(came));
                    self.session.tick(done)?;
                }
                writable = writer.writable(), if writing => writable.map_err(socket)?,
                places = events.reserve_many(places_needed), if !reading => {
                    let mut places = places.map_err(|_| Error::Stopping)?;
                    self.session.was_not_reading(Instant::now());
                    self.deliver_one(&mut places)?;
                }
                () = wake.notified() => (),
                () = &mut timer => {
                    let now = Instant::now();
                    self.shared.see_wall(now);
                    if reading {
                        // While this process was stopped it could hear nobody.
                        self.session.was_busy(now.saturating_duration_since(timer.deadline().into()));
                    } else {
                        self.session.was_not_reading(now);
                    }
                    self.session.tick(now)?;
                }
                () = yield_now(), if more && !writing => (),
            }
        }
    }

    fn read(&mut self, read: io::Result<usize>, chunk: &[u8], now: Instant) -> Result<(), Error> {
        let count = read.map_err(|cause| match (self.session.closed(), cause.kind()) {
            (ended @ (Error::HungUp | Error::Closed), io::ErrorKind::ConnectionReset) => ended,
            _ => socket(cause),
        })?;
        if count == 0 {
            return Err(self.session.closed());
        }
        if let Some(peer) = self.peer {
            peer.bytes_in.fetch_add(count as u64, Relaxed);
        }
        let bytes = chunk.get(..count).unwrap_or_default();
        self.shared.see_wall(now);
        let received = self.session.receive(bytes, now, &mut self.heard);
        if received.is_err() {
            self.deliver()?; // what came before the error counts, as far as there is room
        }
        received
    }

    /// Writes what is pending as far as the socket takes it now.
    fn write(&mut self, mut try_write: impl FnMut(&[u8]) -> io::Result<usize>) -> Result<(), Error> {
        while !self.session.pending().is_empty() {
            match try_write(self.session.pending()) {
                Ok(count) => {
                    self.session.wrote(count);
                    if let Some(peer) = self.peer {
                        peer.bytes_out.fetch_add(count as u64, Relaxed);
                    }
                }
                Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => break,
                Err(cause) => return Err(socket(cause)),
            }
        }
        Ok(())
    }

    /// Seals waiting messages, as many as should be under way at once. Says whether more may wait.
    fn fill(&mut self) -> Result<bool, Error> {
        let Some(peer) = self.peer else { return Ok(false) };
        let room = WRITE_BYTES.saturating_sub(self.session.pending().len());
        peer.outgoing(self.id, room, SEALED_AT_ONCE, self.session.measured(), &mut self.batch)?;
        let more = !self.batch.is_empty();
        for message in self.batch.drain(..) {
            self.session.send(&message)?;
        }
        Ok(more)
    }

    /// Turns what was heard into events, as far as there is room for them.
    fn deliver(&mut self) -> Result<(), Error> {
        while !self.heard.is_empty() {
            match self.shared.events.try_reserve_many(self.places_needed()) {
                Ok(mut places) => self.deliver_one(&mut places)?,
                Err(TrySendError::Full(())) => break,
                Err(TrySendError::Closed(())) => return Err(Error::Stopping),
            }
        }
        Ok(())
    }

    /// How many events the next thing heard may become.
    fn places_needed(&self) -> usize {
        match self.heard.front() {
            Some(Received::Message(_) | Received::Proposed(_)) | None => 1,
            Some(Received::Opened(_)) => 2, // the old connection's end, and the new one
        }
    }

    fn deliver_one(&mut self, places: &mut EventPlaces<'_>) -> Result<(), Error> {
        let now = Instant::now();
        match (self.heard.pop_front(), self.peer) {
            (Some(Received::Message(message)), Some(peer)) => peer.heard(self.id, message, places),
            (Some(Received::Proposed(hello)), _) => {
                let peer = self.peer_of(hello.node)?;
                if peer.propose(self.id, hello.boot) == Settlement::Refuse {
                    self.session.refuse(Bye::Duplicate)?;
                    return Err(Error::Duplicate);
                }
                self.promised = Some(peer);
                self.shared.see_wall(now);
                self.session.accept(now)
            }
            (Some(Received::Opened(hello)), _) => {
                let peer = self.peer_of(hello.node)?;
                peer.opened(self.id, self.promised.is_some(), &self.wake, hello, now, places)?;
                self.peer = Some(peer);
                Ok(())
            }
            (Some(Received::Message(_)) | None, _) => Ok(()),
        }
    }

    fn peer_of(&self, node: NodeId) -> Result<&'a MeshPeer, Error> {
        let unknown = || Error::UnknownNode { node: self.shared.identity.name(node) };
        self.shared.peers.get(&node).ok_or_else(unknown)
    }
}

pub(super) fn socket(cause: io::Error) -> Error {
    Error::Socket(cause.into())
}
