//! Every message that the components of two nodes exchange, and its limits. Components build and
//! match these types; `codec` turns them into bytes and back; nothing here does either.
//!
//! A message is advice or news, never a transaction: each may be lost with its connection, and each
//! says in its description what that costs. Nothing is resent; what must hold again after a
//! reconnection ([`Push`], [`Guidance`], [`Live`]) is told anew when the peer comes up.

use std::fmt;

#[cfg(doc)]
use baton_cluster::Sign;
use baton_cluster::bounded::{at_most, maybe_at_most};
use baton_cluster::{Flow, Guide, NodeId, PoolHash, Target};
use serde::{Deserialize, Serialize};

pub use crate::mapped::{MAPPED_MAX, Mapped, MappedTarget, Ready, Recall, RecallPlace, Recalled};

/// The version of everything on the wire. Two nodes talk only if theirs are equal: a cluster is
/// upgraded node by node, and a node that is not yet upgraded counts as down to those that are.
pub const PROTOCOL_VERSION: u8 = 2;

/// The longest encoded message, in bytes. Below the 65,535 that one Noise message can hold, so that
/// one message is always one frame; a bulk message therefore never delays a heartbeat by more.
pub const MESSAGE_BYTES_MAX: usize = 60_000;

/// The most questions of one [`Ask`], hence verdicts of one [`Answer`].
pub const QUESTIONS_MAX: usize = 1024;

/// The most servers that one target may be mapped to, as told to a distributor. A larger replica
/// set is cut to its first servers: any of them may serve (design: a mapping is advice).
pub const SERVERS_MAX: usize = 16;

/// The most changes of one [`Push`].
pub const CHANGES_MAX: usize = 1024;

/// The most moves of one [`Update`].
pub const MOVES_MAX: usize = 960;

/// The most ends of one [`Close`].
pub const ENDS_MAX: usize = 1280;

/// The most connections of one [`Whose`], hence claims of one [`Owned`].
pub const LOST_MAX: usize = 1024;

/// The most servers of one [`Doubts`], each once for each pool; further ones are left out.
pub const DOUBTS_MAX: usize = 1024;

/// The longest body of a [`StatusReply`], in bytes: leaves room for its head in one frame.
pub const STATUS_BYTES_MAX: usize = MESSAGE_BYTES_MAX - 64;

/// One question: which server should serve this request?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// The pool that the request is routed to.
    pub pool: PoolHash,
    /// What is requested. `None`: the head was not understood, or has nothing of what names a target
    /// in this pool, so there is nothing to be local to.
    pub target: Option<Target>,
    /// The server that has the connection, when the request is not its first one. `None`: nobody has
    /// it yet.
    pub at: Option<NodeId>,
}

/// Distributor, or the server that has the connection, to dispatcher: a batch of questions
/// (ATC'00 5.4). Lost: the asker's batcher times out and it decides without the dispatcher.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// The batch's number, to recognise its answer. Wraps around.
    pub batch: u32,
    /// The questions, at most [`QUESTIONS_MAX`].
    #[serde(deserialize_with = "at_most::<QUESTIONS_MAX, _, _>")]
    pub questions: Vec<Question>,
}

/// The answer to one [`Question`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The server to hand this request to. `None`: the pool has no live server, or the dispatcher's
    /// cluster file has no such pool.
    pub server: Option<NodeId>,
    /// `Some`: the servers that the distributor may remember for this target and choose from by
    /// itself from now on, best first, at most [`SERVERS_MAX`]. `None`: ask again next time.
    #[serde(deserialize_with = "maybe_at_most::<SERVERS_MAX, _, _>")]
    pub keep: Option<Vec<NodeId>>,
}

/// Dispatcher to distributor: the answers to one [`Ask`]. Lost: as a lost [`Ask`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The number of the batch that is answered.
    pub batch: u32,
    /// One verdict for each question, in the questions' order.
    #[serde(deserialize_with = "at_most::<QUESTIONS_MAX, _, _>")]
    pub answers: Vec<Verdict>,
}

/// A target's new mapping.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The target whose mapping changed.
    pub target: Target,
    /// Its servers now, best first, at most [`SERVERS_MAX`]. Empty: forget the target, ask anew.
    #[serde(deserialize_with = "at_most::<SERVERS_MAX, _, _>")]
    pub servers: Vec<NodeId>,
}

/// Dispatcher to distributor: mappings that changed. Lost only with the connection, and a
/// distributor forgets what it remembers when its dispatcher goes down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Push {
    /// The pool whose targets these are.
    pub pool: PoolHash,
    /// What changed, at most [`CHANGES_MAX`], in the order in which it changed.
    #[serde(deserialize_with = "at_most::<CHANGES_MAX, _, _>")]
    pub changes: Vec<Change>,
}

/// Dispatcher to distributor: how to decide for one pool from now on. Replaces what was said
/// before; sent when a distributor comes up and whenever it changes. Lost only with the connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guidance {
    /// The pool it is about.
    pub pool: PoolHash,
    /// What may be decided without asking.
    pub guide: Guide,
}

/// Server to all dispatchers, and to distributors: how busy the sender is. Lost: the next one says it all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// Connections being served now (an idle persistent connection is not load).
    pub serving: u32,
    /// Connections adopted since the node's part of Baton started.
    pub adopted_total: u64,
    /// Adopted connections that have ended since.
    pub closed_total: u64,
    /// How busy the server's disk is, in percent; at most 100.
    pub pressure: u8,
}

/// One flow that has moved to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// The client connection.
    pub flow: Flow,
    /// Where its packets go now.
    pub server: NodeId,
    /// The client's sequence number at which the binding starts: tells this connection from an
    /// older or newer one with the same addresses and ports.
    pub start_seq: u32,
    /// When the move was decided: the cluster's clock in nanoseconds, or one more than the connection's
    /// move before, if that is later (a hybrid logical clock: Kulkarni et al., OPODIS'14). Of two
    /// moves of one flow the later stands, whichever is told last.
    pub issued: u64,
    /// Who decided it. A node that is told that a flow is its own, and has not got the handoff packet,
    /// sends the client's packets there: only that node can hand the connection off again.
    pub from: NodeId,
}

/// Distributor (or owning server) to switch: flows that have moved (ATC'00 5.2). Lost: packets take
/// the detour over the distributor, which knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Update {
    /// The moves, at most [`MOVES_MAX`], in the order in which they happened.
    #[serde(deserialize_with = "at_most::<MOVES_MAX, _, _>")]
    pub moves: Vec<Move>,
}

/// One flow that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// The client connection.
    pub flow: Flow,
    /// The `start_seq` of the binding that has ended; a younger binding of the flow stays.
    pub start_seq: u32,
}

/// Server to switch and distributor: flows that have ended (ATC'00 5.2). Lost: the binding gives
/// way to the flow's next connection, or leaves by age.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Close {
    /// The ends, at most [`ENDS_MAX`].
    #[serde(deserialize_with = "at_most::<ENDS_MAX, _, _>")]
    pub ends: Vec<End>,
}

/// Dispatcher to distributor: the servers that may be chosen now. Replaces what was said before.
/// Lost only with the connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Live {
    /// The live servers, in ascending order, at most [`NodeId::MAX_NODES`].
    #[serde(deserialize_with = "at_most::<{ NodeId::MAX_NODES }, _, _>")]
    pub nodes: Vec<NodeId>,
}

/// Server to the node whose user space read a request and replayed it: the server's socket has
/// acknowledged the whole replay, so it need not be sent again. Lost: the replay is sent again, and
/// this with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// The client connection.
    pub flow: Flow,
    /// The `start_seq` of its binding.
    pub start_seq: u32,
}

/// Distributor to switch, when the switch comes up and when its own word has run out: the number that
/// cookies of handshakes which come by this switch are made with from now on. Lost only with the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Term {
    /// The number, random.
    pub term: u32,
}

/// Switch to distributor, in answer to a [`Term`]: whether the distributor may decide connections of that term
/// while the switch hears it. If not they have been left to others, and it needs another term. Lost only with
/// the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The term.
    pub term: u32,
    /// Whether it is granted.
    pub granted: bool,
}

/// Switch to distributor: another distributor decides no connections of this term any more. Those that come by
/// the sender are left to the receiver. Lost: it takes them for connections of nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heir {
    /// The term.
    pub term: u32,
}

/// A connection that the asking node does not know, as a packet of its client shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// The client connection.
    pub flow: Flow,
    /// The packet's sequence number.
    pub seq: u32,
    /// What it acknowledges: tells whether the client has heard of a server yet.
    pub ack: u32,
}

/// Any distributor or server to all others: who has these connections? Lost: the asker asks again when the
/// client repeats its packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Whose {
    /// The batch's number, to recognise its answers. Wraps around.
    pub batch: u32,
    /// The connections, at most [`LOST_MAX`].
    #[serde(deserialize_with = "at_most::<LOST_MAX, _, _>")]
    pub lost: Vec<Lost>,
}

/// A node has a connection, or is about to hand it off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Where its packets belong: to the node that says so; or to the asker, whose handoff packet is on its way.
    pub owner: NodeId,
    /// The `start_seq` of its binding; of a socket without binding the packet's sequence number.
    pub start_seq: u32,
    /// As in [`Move`]; 0 where nobody knows: any decision is later.
    pub issued: u64,
    /// The connection has ended. The owner's stack answers what still comes, unless another node has a
    /// connection of the same addresses and ports.
    pub ended: bool,
}

/// The answer to a [`Whose`]. Lost: the asker gives up after a while, and never takes silence for "nobody".
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owned {
    /// The number of the batch that is answered.
    pub batch: u32,
    /// For each connection, in the questions' order, what the sender has of it.
    #[serde(deserialize_with = "at_most::<LOST_MAX, _, _>")]
    pub claims: Vec<Option<Claim>>,
}

/// Any node to any node: tell me how you are. Lost: whoever asked times out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusRequest {
    /// Chosen by the asker, returned with the reply.
    pub id: u32,
}

/// The reply to a [`StatusRequest`]. Bulk: waits for everything urgent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReply {
    /// The request's number.
    pub id: u32,
    /// What the node says of itself, in a form of its own, at most [`STATUS_BYTES_MAX`] bytes.
    #[serde(deserialize_with = "at_most::<STATUS_BYTES_MAX, _, _>")]
    pub body: Vec<u8>,
}

/// A probe of the way has arrived: a datagram to the handoff port, of a size that its sender knows by the number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probed {
    /// The probe's.
    pub number: u32,
    /// The largest packet, in bytes, that gets from the sender of this message to all other nodes, as it knows; 0: it
    /// knows of no limit. What connections are moved by between two other nodes must be this small.
    pub least: u16,
}

/// Any node to any node: the sender's frames come from another MAC address than the one that it has said in its Hello, and
/// from no other. Lost only with the connection; the next one begins with it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mac {
    /// The address.
    pub mac: [u8; 6],
}

/// A server that the sender doubts, by what packets have shown it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doubted {
    /// The server.
    pub server: NodeId,
    /// In which pool. `None`: in all.
    pub pool: Option<PoolHash>,
    /// Why, by [`Sign::number`]; what a later version may say as well is no error.
    pub sign: u8,
    /// How often that was seen since the server last worked.
    pub count: u32,
}

/// Server or distributor to those who decide, as often as its load: what it has seen of servers, itself included.
/// Replaces what it said before. Lost: the next one says it all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doubts {
    /// Handoff packets that the sender has taken from the receiver since its start: by this the receiver knows that
    /// they arrive.
    pub taken: u64,
    /// The servers that it doubts, at most [`DOUBTS_MAX`].
    #[serde(deserialize_with = "at_most::<DOUBTS_MAX, _, _>")]
    pub servers: Vec<Doubted>,
}

/// Anything that one component says to another node's.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant is its type, described there")]
pub enum Message {
    Ask(Ask),
    Answer(Answer),
    Push(Push),
    Guide(Guidance),
    Load(Load),
    Update(Update),
    Close(Close),
    Live(Live),
    StatusRequest(StatusRequest),
    StatusReply(StatusReply),
    Taken(Taken),
    Term(Term),
    Grant(Grant),
    Heir(Heir),
    Whose(Whose),
    Owned(Owned),
    Probed(Probed),
    Mac(Mac),
    Ready(Ready),
    Mapped(Mapped),
    Recall(Recall),
    Recalled(Recalled),
    Doubts(Doubts),
}

/// What kind of message: its number is the second byte on the wire and never changes its meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[expect(missing_docs, reason = "each variant is the message of that name")]
pub enum Kind {
    Hello = 0,
    Heartbeat = 1,
    Bye = 2,
    Ask = 16,
    Answer = 17,
    Push = 18,
    Guide = 19,
    Load = 20,
    Update = 21,
    Close = 22,
    Live = 23,
    StatusRequest = 24,
    StatusReply = 25,
    Taken = 26,
    Term = 27,
    Grant = 28,
    Whose = 29,
    Owned = 30,
    Heir = 31,
    Probed = 32,
    Mac = 33,
    Doubts = 34,
    Ready = 40,
    Mapped = 41,
    Recall = 42,
    Recalled = 43,
}

impl Kind {
    /// Every kind, in the order of their numbers.
    pub const ALL: [Kind; 26] = [
        Kind::Hello,
        Kind::Heartbeat,
        Kind::Bye,
        Kind::Ask,
        Kind::Answer,
        Kind::Push,
        Kind::Guide,
        Kind::Load,
        Kind::Update,
        Kind::Close,
        Kind::Live,
        Kind::StatusRequest,
        Kind::StatusReply,
        Kind::Taken,
        Kind::Term,
        Kind::Grant,
        Kind::Whose,
        Kind::Owned,
        Kind::Heir,
        Kind::Probed,
        Kind::Mac,
        Kind::Doubts,
        Kind::Ready,
        Kind::Mapped,
        Kind::Recall,
        Kind::Recalled,
    ];

    /// The kind with this number, if there is one.
    pub fn from_number(number: u8) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| *kind as u8 == number)
    }

    /// Whether the message waits behind everything else: only what may be large and is in no hurry.
    pub fn is_bulk(self) -> bool {
        matches!(self, Kind::StatusReply | Kind::Recalled)
    }

    /// Whether the receiver would be wrong for ever without it. When its queue is full such a
    /// message is not dropped: the connection is closed, and the next one starts from the truth.
    pub fn is_state(self) -> bool {
        use Kind::{Grant, Guide, Heir, Live, Mac, Push, Ready, Term};
        matches!(self, Push | Guide | Live | Term | Grant | Heir | Mac | Ready)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl Message {
    /// What kind of message this is.
    pub fn kind(&self) -> Kind {
        match self {
            Message::Ask(_) => Kind::Ask,
            Message::Answer(_) => Kind::Answer,
            Message::Push(_) => Kind::Push,
            Message::Guide(_) => Kind::Guide,
            Message::Load(_) => Kind::Load,
            Message::Update(_) => Kind::Update,
            Message::Close(_) => Kind::Close,
            Message::Live(_) => Kind::Live,
            Message::StatusRequest(_) => Kind::StatusRequest,
            Message::StatusReply(_) => Kind::StatusReply,
            Message::Taken(_) => Kind::Taken,
            Message::Term(_) => Kind::Term,
            Message::Grant(_) => Kind::Grant,
            Message::Heir(_) => Kind::Heir,
            Message::Whose(_) => Kind::Whose,
            Message::Owned(_) => Kind::Owned,
            Message::Probed(_) => Kind::Probed,
            Message::Mac(_) => Kind::Mac,
            Message::Ready(_) => Kind::Ready,
            Message::Mapped(_) => Kind::Mapped,
            Message::Recall(_) => Kind::Recall,
            Message::Recalled(_) => Kind::Recalled,
            Message::Doubts(_) => Kind::Doubts,
        }
    }
}
