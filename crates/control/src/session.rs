//! One connection between two nodes, from its first byte to its last: the handshake, who is there,
//! sealed messages, signs of life. A pure state machine: the link feeds it bytes and the time, and
//! writes what it has pending; in the tests another session does. It owns no socket and no queue.
//!
//! ```text
//!   dialler                              listener
//!      | -- greeting: magic, version, e, psk --> |   wrong version or secret: ends here
//!      | <-- greeting: magic, version, e, ee --- |
//!      | <-- Hello ----------------------------- |   from here on all is sealed
//!      | -- Hello -----------------------------> |
//!      | <=> the node with the lower number      |   ... decides whether this connection
//!      |     sends Heartbeat, or Bye             |       is the one of the pair
//!      | <=> the other sends Heartbeat           |   open at both ends
//!      | <=> Heartbeats, messages                |
//! ```

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use baton_cluster::NodeId;

use crate::channel::Channel;
use crate::clock::{NodeClocks, WallFilter};
use crate::codec::Word;
use crate::error::Error;
use crate::frame::{FRAME_BYTES_MAX, FrameReader};
use crate::message::{Kind, Message};
use crate::word::{Bye, Echo, Heartbeat, Hello};

/// The longest frame that is taken from someone who has not proved to hold the secret.
const GREETING_BYTES_MAX: usize = 128;

/// A connection is set up within this, however short the failure timeout is.
const SET_UP_MIN: Duration = Duration::from_secs(1);

/// Heartbeats in one failure timeout: three may be late before the fourth is missed.
const HEARTBEATS_PER_TIMEOUT: u32 = 4;

/// No further heartbeat is added while this much is waiting to be written.
const PENDING_BYTES_ENOUGH: usize = 64 * 1024;

/// What a node says and expects on each of its connections.
#[derive(Clone)]
pub struct Identity {
    /// Who this node is.
    pub hello: Hello,
    /// The pre-shared key.
    pub psk: [u8; 32],
    /// The nodes that may connect.
    pub peers: BTreeSet<NodeId>,
    /// The names of all nodes, by their numbers.
    pub names: Vec<String>,
    /// A peer that is silent for longer is down.
    pub failure_timeout: Duration,
    /// This node's clocks, shared by all its connections.
    pub clocks: Arc<NodeClocks>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the key: an identity may end up in a log.
        f.debug_struct("Identity")
            .field("hello", &self.hello)
            .field("peers", &self.peers)
            .finish_non_exhaustive()
    }
}

impl Identity {
    /// What people call a node.
    pub fn name(&self, node: NodeId) -> String {
        self.names.get(node.index()).cloned().unwrap_or_else(|| node.to_string())
    }

    /// How long the set-up of a connection may take, the TCP handshake included or not.
    pub fn set_up_timeout(&self) -> Duration {
        self.failure_timeout.max(SET_UP_MIN)
    }
}

/// What came out of received bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// The peer is who it should be and this node has the lower number: say [`Session::accept`] or
    /// [`Session::refuse`].
    Proposed(Hello),
    /// Both ends have taken this connection: it may be used.
    Opened(Hello),
    /// A message.
    Message(Message),
}

/// Which of two connections between the same nodes stays. Asked by the node with the lower number
/// only, so that both ends always keep the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// There is no other: take it.
    Take,
    /// The other one is with an earlier life of the peer: take this one instead.
    Replace,
    /// The other one stays.
    Refuse,
}

/// Settles what becomes of a proposed connection, given the boot number of the peer on the
/// connection that is taken already. First come stays, since both ends hold it alive; if it is in truth
/// broken, silence will tell within the failure timeout. A peer that has restarted has a new boot
/// number, and nobody at the other end of the old connection.
pub fn settle(open_boot: Option<u64>, proposed_boot: u64) -> Settlement {
    match open_boot {
        None => Settlement::Take,
        Some(boot) if boot != proposed_boot => Settlement::Replace,
        Some(_) => Settlement::Refuse,
    }
}

/// How far a connection has come.
#[derive(Debug)]
enum Stage {
    /// The peer's greeting is awaited.
    Greeting,
    /// The peer's Hello is awaited.
    Meeting,
    /// The Hello was right; the lower node's decision is awaited.
    Settling(Hello),
    /// This end has decided for the connection; the peer's word that it knows is awaited.
    Accepted(Hello),
    /// In use.
    Open,
}

/// One end of one connection.
#[derive(Debug)]
pub struct Session {
    identity: Arc<Identity>,
    /// Who was dialled; `None` at the listening end.
    dialled: Option<NodeId>,
    channel: Channel,
    stage: Stage,
    reader: FrameReader,
    pending: Vec<u8>,
    started: Instant,
    heard_at: Instant,
    heartbeat_at: Instant,
    heartbeats: u64,
    /// The peer's last heartbeat: its clock, and when it came.
    last_heartbeat: Option<(u64, Instant)>,
    measured: Measured,
    wall: WallFilter,
}

/// What the heartbeats of a connection have told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// The last round trip, in microseconds.
    pub rtt_us: Option<u64>,
    /// A moment at or after which the peer has heard this end: when the last heartbeat was sent that it has repeated.
    pub heard_by_peer: Option<Instant>,
    /// By how much the peer's wall clock is ahead of the time since this node's clocks began, in microseconds.
    pub wall_ahead_us: Option<i64>,
}

impl Session {
    /// The dialling end, which expects to meet `peer`.
    ///
    /// # Errors
    /// The secure channel cannot be had (no randomness).
    pub fn dial(identity: Arc<Identity>, peer: NodeId, now: Instant) -> Result<Session, Error> {
        let channel = Channel::dial(&identity.psk)?;
        let mut session = Session::new(identity, Some(peer), channel, now);
        session.channel.greet(&mut session.pending)?;
        Ok(session)
    }

    /// The listening end.
    ///
    /// # Errors
    /// The secure channel cannot be had.
    pub fn listen(identity: Arc<Identity>, now: Instant) -> Result<Session, Error> {
        let channel = Channel::listen(&identity.psk)?;
        Ok(Session::new(identity, None, channel, now))
    }

    fn new(identity: Arc<Identity>, dialled: Option<NodeId>, channel: Channel, now: Instant) -> Session {
        Session {
            identity,
            dialled,
            channel,
            stage: Stage::Greeting,
            reader: FrameReader::new(GREETING_BYTES_MAX),
            pending: Vec::new(),
            started: now,
            heard_at: now,
            heartbeat_at: now,
            heartbeats: 0,
            last_heartbeat: None,
            measured: Measured::default(),
            wall: WallFilter::default(),
        }
    }

    /// Takes bytes that arrived, and appends what they mean to `heard`.
    ///
    /// # Errors
    /// The connection is to be closed, after what is [`Session::pending`] was written if it can be
    /// (it may tell the peer why). What was heard before the error counts.
    pub fn receive(
        &mut self,
        bytes: &[u8],
        now: Instant,
        heard: &mut VecDeque<Received>,
    ) -> Result<(), Error> {
        self.reader.push(bytes);
        loop {
            let Some(frame) = self.reader.take()? else { return Ok(()) };
            if let Stage::Greeting = self.stage {
                self.channel.greeted(frame, &mut self.pending)?;
                self.reader.allow(FRAME_BYTES_MAX);
                self.stage = Stage::Meeting;
                self.say(&Word::Hello(self.identity.hello.clone()))?;
                continue;
            }
            let word = Word::decode(self.channel.open(frame)?)?;
            self.heard_at = now;
            self.hear(word, now, heard)?;
        }
    }

    fn hear(&mut self, word: Word, now: Instant, heard: &mut VecDeque<Received>) -> Result<(), Error> {
        match (&self.stage, word) {
            (_, Word::Bye(Bye::Duplicate)) => Err(Error::Duplicate),
            (_, Word::Bye(Bye::Stopping)) => Err(Error::Stopping),
            (Stage::Meeting, Word::Hello(hello)) => {
                self.verify(&hello)?;
                if self.decides(&hello) {
                    heard.push_back(Received::Proposed(hello.clone()));
                }
                self.stage = Stage::Settling(hello);
                Ok(())
            }
            (Stage::Settling(hello), Word::Heartbeat(heartbeat)) if !self.decides(hello) => {
                heard.push_back(Received::Opened(hello.clone()));
                self.stage = Stage::Open;
                self.beat(heartbeat, now);
                self.heartbeat(now)
            }
            (Stage::Accepted(hello), Word::Heartbeat(heartbeat)) => {
                heard.push_back(Received::Opened(hello.clone()));
                self.stage = Stage::Open;
                self.beat(heartbeat, now);
                Ok(())
            }
            (Stage::Open, Word::Heartbeat(heartbeat)) => {
                self.beat(heartbeat, now);
                Ok(())
            }
            (Stage::Open, Word::Message(message)) => {
                heard.push_back(Received::Message(message));
                Ok(())
            }
            (_, Word::Hello(_)) => Err(Error::OutOfPlace { kind: Kind::Hello }),
            (_, Word::Heartbeat(_)) => Err(Error::OutOfPlace { kind: Kind::Heartbeat }),
            (_, Word::Message(message)) => Err(Error::OutOfPlace { kind: message.kind() }),
        }
    }

    /// Whether the peer is who it should be.
    fn verify(&self, theirs: &Hello) -> Result<(), Error> {
        let ours = &self.identity.hello;
        if theirs.cluster != ours.cluster {
            return Err(Error::WrongCluster { theirs: theirs.cluster.clone(), ours: ours.cluster.clone() });
        }
        let node = theirs.name.clone();
        // The digests come before the numbers: in a different file the same number may be another node.
        if theirs.digest != ours.digest {
            return Err(Error::WrongDigest { node });
        }
        if let Some(at) = theirs.nodes.iter().zip(&ours.nodes).position(|(one, other)| one != other) {
            return Err(Error::WrongOrder { node, place: at + 1 });
        }
        if theirs.node.index() >= ours.nodes.len() && theirs.node.index() < theirs.nodes.len() {
            return Err(Error::NotHere { node });
        }
        if ours.node.index() >= theirs.nodes.len() {
            return Err(Error::NotThere { node });
        }
        if theirs.node == ours.node || !self.identity.peers.contains(&theirs.node) {
            return Err(Error::UnknownNode { node });
        }
        match self.dialled {
            Some(dialled) if dialled != theirs.node => {
                Err(Error::WrongNode { expected: self.identity.name(dialled), found: node })
            }
            _ => Ok(()),
        }
    }

    /// Whether this end decides which connection of the pair stays.
    fn decides(&self, peer: &Hello) -> bool {
        self.identity.hello.node < peer.node
    }

    /// Takes the proposed connection. The peer learns it by the first heartbeat, and its own makes
    /// the connection open: a peer that has died meanwhile never comes up.
    ///
    /// # Errors
    /// [`Error::OutOfPlace`] if none is proposed; else the connection is to be closed.
    pub fn accept(&mut self, now: Instant) -> Result<(), Error> {
        let Stage::Settling(peer) = &self.stage else {
            return Err(Error::OutOfPlace { kind: Kind::Heartbeat });
        };
        self.stage = Stage::Accepted(peer.clone());
        self.heartbeat(now)
    }

    /// Says the last word. Close the connection once nothing is pending.
    ///
    /// # Errors
    /// It cannot be said; close all the same.
    pub fn refuse(&mut self, why: Bye) -> Result<(), Error> {
        match self.stage {
            Stage::Greeting => Ok(()),
            Stage::Meeting | Stage::Settling(_) | Stage::Accepted(_) | Stage::Open => {
                self.say(&Word::Bye(why))
            }
        }
    }

    /// Seals an encoded message behind what is pending. Call it on an open connection only.
    ///
    /// # Errors
    /// The connection is to be closed.
    pub fn send(&mut self, message: &[u8]) -> Result<(), Error> {
        self.channel.seal(message, &mut self.pending)
    }

    fn say(&mut self, word: &Word) -> Result<(), Error> {
        let mut bytes = Vec::new();
        word.encode(&mut bytes)?;
        self.channel.seal(&bytes, &mut self.pending)
    }

    /// Sends a heartbeat and sets the time of the next.
    fn heartbeat(&mut self, now: Instant) -> Result<(), Error> {
        self.heartbeat_at = now + self.identity.failure_timeout / HEARTBEATS_PER_TIMEOUT;
        if self.pending.len() >= PENDING_BYTES_ENOUGH {
            return Ok(()); // the peer is not reading; what is pending is sign of life enough
        }
        let echo = self.last_heartbeat.map(|(sent_us, came)| Echo { sent_us, held_us: micros(came, now) });
        let (sent_us, clocks) = (micros(self.started, now), self.identity.clocks.say(now));
        let heartbeat = Heartbeat { sequence: self.heartbeats, sent_us, clocks, echo };
        self.heartbeats += 1;
        self.say(&Word::Heartbeat(heartbeat))
    }

    /// Takes a heartbeat of the peer.
    fn beat(&mut self, heartbeat: Heartbeat, now: Instant) {
        self.last_heartbeat = Some((heartbeat.sent_us, now));
        self.identity.clocks.hear(now, &heartbeat.clocks);
        let Some(echo) = heartbeat.echo else { return };
        // An impossible echo is no measurement.
        let Some(away_us) = micros(self.started, now).checked_sub(echo.sent_us) else { return };
        let sent = self.started + Duration::from_micros(echo.sent_us);
        self.measured.heard_by_peer = self.measured.heard_by_peer.max(Some(sent));
        let Some(rtt_us) = away_us.checked_sub(echo.held_us) else { return };
        self.measured.rtt_us = Some(rtt_us);
        self.identity.clocks.compare(now, &heartbeat.clocks, rtt_us, &mut self.wall);
        self.measured.wall_ahead_us = self.wall.ahead_us();
    }

    /// Lets time pass: sends a heartbeat when it is due.
    ///
    /// # Errors
    /// The peer is too slow or silent: the connection is to be closed.
    pub fn tick(&mut self, now: Instant) -> Result<(), Error> {
        if !matches!(self.stage, Stage::Open) {
            let limit = self.identity.set_up_timeout();
            let late = now >= self.started + limit;
            return if late { Err(Error::SetUpTimeout { limit }) } else { Ok(()) };
        }
        let limit = self.identity.failure_timeout;
        if now > self.heard_at + limit {
            return Err(Error::Silent { limit });
        }
        if now >= self.heartbeat_at { self.heartbeat(now) } else { Ok(()) }
    }

    /// When to call [`Session::tick`] next, at the latest.
    pub fn deadline(&self) -> Instant {
        match self.stage {
            // A nanosecond later, because exactly the failure timeout is not yet silence.
            Stage::Open => {
                self.heartbeat_at.min(self.heard_at + self.identity.failure_timeout + Duration::from_nanos(1))
            }
            _ => self.started + self.identity.set_up_timeout(),
        }
    }

    /// Says that this end has not been reading, so that the peer's silence means nothing.
    pub fn was_not_reading(&mut self, now: Instant) {
        self.heard_at = now;
    }

    /// Says that this end was busy with what it had received: the peer's silence does not include it.
    pub fn was_busy(&mut self, took: Duration) {
        self.heard_at += took;
    }

    /// What the end of the stream means at this point.
    pub fn closed(&self) -> Error {
        if matches!(self.stage, Stage::Greeting) { Error::HungUp } else { Error::Closed }
    }

    /// The bytes to be written next.
    pub fn pending(&self) -> &[u8] {
        &self.pending
    }

    /// Says that the first `count` pending bytes have been written.
    pub fn wrote(&mut self, count: usize) {
        self.pending.drain(..count.min(self.pending.len()));
    }

    /// What heartbeats have told, on this connection.
    pub fn measured(&self) -> Measured {
        self.measured
    }

    /// Whether messages may be sent.
    pub fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Open)
    }
}

/// Whole microseconds from one moment to a later one.
fn micros(from: Instant, to: Instant) -> u64 {
    u64::try_from(to.saturating_duration_since(from).as_micros()).unwrap_or(u64::MAX)
}
