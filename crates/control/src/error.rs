//! What can go wrong between two nodes, in words for the operator. [`enum@Error`] ends a connection (a
//! damaged or foreign stream cannot be resynchronised); [`SendError`] is only told to the sender.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use baton_cluster::NodeId;

use crate::message::{Kind, MESSAGE_BYTES_MAX, PROTOCOL_VERSION};

/// The operating system's error, which several are told.
#[derive(Clone, Debug, thiserror::Error)]
#[error(transparent)]
pub struct SocketError(Arc<io::Error>);

impl SocketError {
    /// What kind of error it is.
    pub fn kind(&self) -> io::ErrorKind {
        self.0.kind()
    }
}

impl From<io::Error> for SocketError {
    fn from(error: io::Error) -> Self {
        Self(Arc::new(error))
    }
}

impl PartialEq for SocketError {
    fn eq(&self, other: &Self) -> bool {
        (self.kind(), self.0.raw_os_error()) == (other.kind(), other.0.raw_os_error())
    }
}

impl Eq for SocketError {}

/// Why a connection to a peer ended, or what is wrong with the bytes that came over it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    // The bytes of one message.
    /// No room for a version and a kind.
    #[error("a message of {bytes} bytes is too short to be one")]
    Short {
        /// Its length.
        bytes: usize,
    },
    /// More than one frame can hold.
    #[error("a message of {bytes} bytes is longer than the {MESSAGE_BYTES_MAX} allowed")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// Another version of the protocol.
    #[error(
        "the peer speaks protocol version {theirs}, this node {PROTOCOL_VERSION}: upgrade the older node"
    )]
    Version {
        /// The version that came.
        theirs: u8,
    },
    /// A kind that this version does not know.
    #[error("a message of unknown kind {number}")]
    UnknownKind {
        /// The kind's number.
        number: u8,
    },
    /// A field that cannot be read or written.
    #[error("{kind}: a field is damaged or missing ({source})")]
    Field {
        /// The message's kind.
        kind: Kind,
        /// What the encoding says.
        source: postcard::Error,
    },
    /// A list above its limit.
    #[error("{kind}: a list or name is longer than allowed")]
    TooMany {
        /// The message's kind.
        kind: Kind,
    },
    /// A choice that this version does not have.
    #[error("{kind}: choice {choice} is not known")]
    UnknownChoice {
        /// The message's kind.
        kind: Kind,
        /// The number that came.
        choice: u32,
    },
    /// Bytes after the last field.
    #[error("{kind}: {bytes} bytes are left over after the last field")]
    LeftOver {
        /// The message's kind.
        kind: Kind,
        /// How many.
        bytes: usize,
    },
    /// A node that no cluster can have.
    #[error("{kind}: node {id} is beyond the {} nodes that a cluster may have", NodeId::MAX_NODES)]
    BadNode {
        /// The message's kind.
        kind: Kind,
        /// The number that came.
        id: u16,
    },
    /// More than all of something.
    #[error("{kind}: {percent} percent, which is more than all")]
    BadPercent {
        /// The message's kind.
        kind: Kind,
        /// The number that came.
        percent: u8,
    },
    /// A kind that may not come at this point.
    #[error("{kind} came where it must not")]
    OutOfPlace {
        /// The message's kind.
        kind: Kind,
    },

    // The stream of frames.
    /// A frame of no bytes, or of more than a frame may have.
    #[error("a frame announces {bytes} bytes: the stream is damaged, or the peer is no Baton node")]
    FrameLength {
        /// The announced length.
        bytes: usize,
    },
    /// A frame whose seal is broken.
    #[error("a frame failed its authentication: it was damaged, forged or replayed on the way")]
    Tampered,

    // The set-up of a connection.
    /// The other end does not begin as a Baton node does.
    #[error("the other end is no Baton node: check the address and port")]
    NotBaton,
    /// The other end holds another secret.
    #[error("the other end has another secret or cluster name: give every node the same cluster file")]
    WrongSecret,
    /// The other end hung up during the handshake.
    #[error(
        "the other end hung up during the handshake, most likely because its cluster file has another secret or name: its log says why"
    )]
    HungUp,
    /// The set-up took too long.
    #[error("the connection was not set up within {} ms", limit.as_millis())]
    SetUpTimeout {
        /// How long it might have taken.
        limit: Duration,
    },
    /// A node of another cluster that has the same secret.
    #[error("the peer belongs to cluster {theirs:?}, this node to {ours:?}")]
    WrongCluster {
        /// The peer's cluster.
        theirs: String,
        /// This node's cluster.
        ours: String,
    },
    /// A node whose cluster file differs in what all agree on.
    #[error(
        "{node} runs a different cluster file, with another failure timeout, port or forwarding, or the first switch: copy the same file to every node and restart it"
    )]
    WrongDigest {
        /// Which node, by its own name.
        node: String,
    },
    /// A node in whose cluster file a number means another node.
    #[error(
        "{node} runs a cluster file in which [[node]] number {place} is another one (name, address or roles): while nodes run, others can come only at the end of the file; copy the same file to every node and restart those that have another"
    )]
    WrongOrder {
        /// Which node, by its own name.
        node: String,
        /// The first place that differs, counted from 1.
        place: usize,
    },
    /// A node that this node's cluster file does not have, yet or any more.
    #[error(
        "{node} is not in this node's cluster file: copy the file that has it here, and restart this node"
    )]
    NotHere {
        /// Which node, by its own name.
        node: String,
    },
    /// A node whose cluster file does not have this node, yet or any more.
    #[error(
        "{node} runs a cluster file without this node: copy the file that has it there, and restart {node}"
    )]
    NotThere {
        /// Which node, by its own name.
        node: String,
    },
    /// The node at the dialled address is another one.
    #[error("{expected} was dialled but {found} answered: check the addresses in the cluster file")]
    WrongNode {
        /// Who was dialled.
        expected: String,
        /// Who answered.
        found: String,
    },
    /// A node with this node's own number, or none.
    #[error("the peer calls itself {node}, which is this node or none: check --node on both machines")]
    UnknownNode {
        /// What it calls itself.
        node: String,
    },
    /// The peer already has a connection with this node.
    #[error("a second connection between the same two nodes, not needed")]
    Duplicate,

    // A connection that was up.
    /// Nothing came for too long.
    #[error("nothing was heard for {} ms", limit.as_millis())]
    Silent {
        /// The failure timeout.
        limit: Duration,
    },
    /// The peer said that it is stopping.
    #[error("the peer is stopping")]
    Stopping,
    /// The peer's end closed without a word.
    #[error("the peer closed the connection")]
    Closed,
    /// The peer has been started anew.
    #[error("the peer was restarted")]
    Restarted,
    /// The peer does not take what it is sent, and what waits for it may not be dropped.
    #[error("the peer does not keep up: {kind} found the queue full and cannot be left out")]
    Overflow {
        /// The message that found no room.
        kind: Kind,
    },
    /// The operating system's word on the socket.
    #[error("the socket: {0}")]
    Socket(#[source] SocketError),
    /// The cryptographic library refused, by no fault of the peer.
    #[error("the secure channel could not be made: {0}")]
    Channel(String),
}

impl Error {
    /// Whether the peer's end of the connection is closed, by the peer or with it, or both ends know that it ends.
    pub fn is_end(&self) -> bool {
        matches!(
            self,
            Self::Closed
                | Self::HungUp
                | Self::Stopping
                | Self::Restarted
                | Self::Duplicate
                | Self::Socket(_)
        )
    }

    /// Whether the peer does nothing any more that it had been granted on an open connection: it has ended, is
    /// ending, or has begun another life. One that closes a connection for a reason of its own does so only
    /// when that has run out.
    pub fn has_ended(&self) -> bool {
        matches!(self, Self::Closed | Self::Stopping | Self::Restarted)
    }
}

/// Why a message was not taken for sending. The sender goes on without it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// No such peer in this mesh (or this node itself).
    #[error("{0} is not a peer of this node")]
    NoSuchPeer(NodeId),
    /// No connection at present.
    #[error("{0} is down")]
    Down(NodeId),
    /// The peer does not keep up. The message was dropped and counted; if its kind may not be
    /// dropped, the connection is being closed instead.
    #[error("{node} does not keep up: {kind} dropped")]
    Full {
        /// The slow peer.
        node: NodeId,
        /// What was dropped.
        kind: Kind,
    },
    /// The message breaks a limit of its type: a mistake of the sender's.
    #[error("not a message that can be sent: {0}")]
    Invalid(#[from] Error),
}
