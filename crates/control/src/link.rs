//! The sockets: one lasting connection to every other node of the cluster. The node daemon starts
//! one [`Mesh`], sends through it and reads its events. The only file (with its parts) that does
//! I/O or reads a clock; what to do on a connection is the session's to say.

mod connection;
mod dial;
mod peers;
mod places;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use baton_cluster::NodeId;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};

use self::peers::MeshState;
use crate::clock::NodeClocks;
use crate::error::{Error, SendError};
use crate::message::Message;
use crate::session::Identity;
use crate::word::Hello;

/// Why a peer is down: the error that ended its connection.
pub type DownReason = Error;

/// What a [`Mesh`] needs to know.
#[derive(Clone)]
pub struct MeshConfig {
    /// This node.
    pub me: NodeId,
    /// The cluster's name; peers must agree.
    pub cluster_name: String,
    /// The digest of what all nodes agree on; peers must agree.
    pub digest: [u8; 32],
    /// A digest of each node in the cluster file's order; of peers', the longer list begins with the other one.
    pub nodes: Vec<[u8; 8]>,
    /// The nodes' names, in the same order.
    pub names: Vec<String>,
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
    /// This node's clocks: its heartbeats tell of them, and agree on the cluster's with its peers.
    pub clocks: Arc<NodeClocks>,
    /// Every other node and where it listens.
    pub peers: Vec<(NodeId, SocketAddr)>,
}

/// What a [`Mesh`] tells its node. For one peer: `Up`, then messages, then `Down`, and again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MeshEvent {
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
    /// By how much the peer's wall clock is ahead of this node's, in microseconds, within half a round trip.
    pub clock_ahead_us: Option<i64>,
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

/// This node's connections to all others, on a thread of their own: whatever keeps the caller busy, peers are heard and
/// hear this node. Cheap to clone; the connections end with [`Mesh::stop`], or when the last clone is dropped (then without
/// a goodbye).
#[derive(Clone, Debug)]
pub struct Mesh {
    shared: Arc<MeshState>,
    /// Kept, so that the thread sees the last clone go.
    _alive: Arc<watch::Sender<()>>,
    /// Whose other end the thread has.
    ended: watch::Receiver<()>,
}

impl Mesh {
    /// Listens, and begins to dial every peer, in the network namespace of the calling thread.
    ///
    /// Events arrive in the returned receiver, which must be read: while it is full, peers are not
    /// read from either. When it is dropped, connections end.
    ///
    /// # Errors
    /// The listening socket could not be had, or the thread.
    pub fn start(config: MeshConfig) -> io::Result<(Mesh, mpsc::Receiver<MeshEvent>)> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = {
            let _entered = runtime.enter();
            dial::listen(config.listen)?
        };
        let listen = listener.local_addr()?;
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let peers: Vec<_> = config.peers.iter().copied().filter(|(node, _)| *node != config.me).collect();
        let shared = Arc::new(MeshState::new(config.identity(), listen, &peers, sender, Instant::now()));
        let (alive, last_clone) = watch::channel(());
        let (ends, ended) = watch::channel(());
        let running = connections(shared.clone(), listener, last_clone);
        thread::Builder::new().name("baton-control".to_owned()).spawn(move || {
            // Dropped at the end of the thread, however that comes.
            let _ends = ends;
            runtime.block_on(running);
        })?;
        Ok((Mesh { shared, _alive: Arc::new(alive), ended }, events))
    }

    /// Sends a message to a peer that is up. Never waits: the message is queued.
    ///
    /// # Errors
    /// See [`SendError`]; the message is then not sent.
    pub fn send(&self, node: NodeId, message: &Message) -> Result<(), SendError> {
        self.shared.peers.get(&node).ok_or(SendError::NoSuchPeer(node))?.send(message)
    }

    /// A moment at or after which a peer is sure to have heard this node on their present connection, and how many
    /// times the peer had come up with that one: so many [`MeshEvent::Up`] have been told. `None`: not yet, or it is
    /// down.
    pub fn heard_by(&self, node: NodeId) -> Option<(u64, Instant)> {
        self.shared.peers.get(&node)?.heard_by()
    }

    /// How every peer is doing, in the order of their numbers.
    pub fn peers(&self) -> Vec<PeerStatus> {
        self.shared.see_wall(Instant::now());
        self.shared.peers.values().map(|peer| peer.status(&self.shared.identity.clocks)).collect()
    }

    /// Where this node listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.shared.listen
    }

    /// Says goodbye to every peer and closes all connections. Returns when they are closed, which
    /// takes no longer than a second. No `Down` is told for a peer once this is called, unless there
    /// is room for it.
    pub async fn stop(&self) {
        self.shared.stop.send_replace(true);
        self.ended().await;
    }

    /// Waits until there are no connections any more, nor will be: after [`Mesh::stop`], or because of a mistake in this
    /// crate, without which they last.
    pub async fn ended(&self) {
        // Nothing is ever sent: the error is the news.
        while self.ended.clone().changed().await.is_ok() {}
    }
}

/// What the wall clock reads, since 1970.
fn wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Dials and accepts, until all has been closed in order, or the last [`Mesh`] is gone.
async fn connections(shared: Arc<MeshState>, listener: TcpListener, mut last_clone: watch::Receiver<()>) {
    let mut tasks = JoinSet::new();
    tasks.spawn(dial::accept_for_ever(shared.clone(), listener));
    let nodes: Vec<NodeId> = shared.peers.keys().copied().collect();
    for node in nodes {
        let shared = shared.clone();
        tasks.spawn(async move {
            if let Some(peer) = shared.peers.get(&node) {
                dial::dial_for_ever(&shared, peer).await;
            }
        });
    }
    let mut stop = shared.stop.subscribe();
    let all = async { while tasks.join_next().await.map(fails_together).is_some() {} };
    let too_late = async {
        peers::stopped(&mut stop).await;
        tokio::time::sleep(STOP_TIMEOUT).await;
    };
    tokio::select! {
        () = all => (),
        () = too_late => (),
        _ = last_clone.changed() => (),
    }
}

/// A task that panics ends its thread: a node with half of its connections would be worse than one that stops.
fn fails_together(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        resume_unwind(error.into_panic());
    }
}

impl MeshConfig {
    fn identity(&self) -> Identity {
        Identity {
            hello: Hello {
                cluster: self.cluster_name.clone(),
                node: self.me,
                name: self.names.get(self.me.index()).cloned().unwrap_or_default(),
                digest: self.digest,
                nodes: self.nodes.clone(),
                mac: self.mac,
                boot: self.boot,
                software: env!("CARGO_PKG_VERSION").to_owned(),
            },
            psk: self.psk,
            peers: self.peers.iter().map(|(node, _)| *node).collect(),
            names: self.names.clone(),
            failure_timeout: self.failure_timeout,
            clocks: self.clocks.clone(),
        }
    }
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

/// Events that may wait to be read.
const EVENTS_MAX: usize = 1024;

/// Connections are closed within this, whatever their peers do.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);
