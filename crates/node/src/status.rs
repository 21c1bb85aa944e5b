//! What a node says of itself, as types: the daemon fills them, nodes ask each other for them over
//! control connections, `baton status` prints them. Only the shape: nothing here measures or prints.
//!
//! On the Unix socket a [`ClusterStatus`] is one JSON document; in a control message a [`NodeStatus`]
//! is postcard, which keeps one of the largest cluster within the message's bound. Postcard knows no
//! absent fields, so no field may be skipped. Counts run since the daemon started, unless said
//! otherwise.

pub use baton_datapath::CounterKind;
use serde::{Deserialize, Serialize};

/// The whole cluster, as seen by the node that was asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// The cluster's name.
    pub cluster: String,
    /// The name of the node that was asked.
    pub asked: String,
    /// Every node of the cluster file, in its order; one that did not answer has only what the asked
    /// node knows of it.
    pub nodes: Vec<NodeStatus>,
}

impl ClusterStatus {
    /// The node that was asked.
    pub fn asked_node(&self) -> Option<&NodeStatus> {
        self.nodes.iter().find(|node| node.name == self.asked)
    }
}

/// One node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// Its place in the cluster file, from 0.
    pub id: u16,
    /// Its own address.
    pub address: String,
    /// The names of its roles.
    pub roles: Vec<String>,
    /// It answered in time; when false, everything below is empty, but for `since_s`.
    pub reachable: bool,
    /// For how many seconds its daemon has been running, or the asked node has been unable to reach it.
    pub since_s: u64,
    /// The version of its daemon.
    pub version: String,
    /// Its cluster file, by the first eight bytes of a digest of what it means, in hexadecimal. Nodes may differ while
    /// an operator gives them another one.
    pub file: String,
    /// Services that its cluster file has no more, or that have lost a VIP, and that end.
    pub ending: Vec<EndingStatus>,
    /// The largest packet that its interface to the other nodes carries, in bytes.
    pub link_mtu: u16,
    /// Its control connections, one for each other node, in the order of the cluster file.
    pub connections: Vec<ConnectionStatus>,
    /// The servers' loads as this node knows them.
    pub loads: Vec<LoadStatus>,
    /// The servers that it doubts, by what packets have shown it: they are given a request now and then, and else nothing,
    /// while the pool has others.
    pub doubts: Vec<DoubtStatus>,
    /// How its requests were decided, and what it decided for others.
    pub decisions: DecisionStatus,
    /// Connections whose first packet did not hold a whole request head.
    pub reader: ReaderStatus,
    /// Connections that this node did not know, and asked the other nodes about.
    pub unknown: UnknownStatus,
    /// Connections that this node handed off, by the server that took them; itself included.
    pub handoffs: Vec<HandoffStatus>,
    /// The packet path's counters that are not zero, in their own order.
    pub counters: Vec<CounterStatus>,
    /// Connections that its web server is serving now.
    pub serving: u64,
    /// Connections that were taken over for its web server.
    pub adopted: u64,
    /// Taken-over connections that have ended.
    pub closed: u64,
    /// Bytes of responses, headers included, that its web server sent on taken-over connections.
    pub bytes_served: u64,
    /// What went wrong in its daemon.
    pub troubles: TroubleStatus,
    /// What others have changed on its host.
    pub host: HostStatus,
}

/// What others have changed on a node's host while it ran.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostStatus {
    /// Things that were put back: kernel settings, VIPs, attached programs.
    pub mended: u64,
    /// Changes that were followed: of interfaces, MTUs and routes.
    pub followed: u64,
    /// The last of them.
    pub last: Option<String>,
    /// What was put back again and again within the last minute: something fights the node.
    pub fought: Option<String>,
    /// Why the node cannot stay on its host; it leaves soon.
    pub lost: Option<String>,
    /// A VIP that is where it must not be now, and the command that takes it away.
    pub misplaced: Option<String>,
    /// Interfaces on which programs of others see packets before Baton's now: at most [`HostStatus::IN_FRONT_MAX`].
    pub in_front: Vec<String>,
}

impl HostStatus {
    /// The most bytes of each text.
    pub const TEXT_BYTES_MAX: usize = 160;
    /// The most interfaces that it names.
    pub const IN_FRONT_MAX: usize = 8;
}

/// What went wrong in a daemon that went on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TroubleStatus {
    /// Errors of tables, files and sockets; each cost what it was for.
    pub errors: u64,
    /// The last of them, in at most [`TroubleStatus::ERROR_BYTES_MAX`] bytes.
    pub last: Option<String>,
    /// Times that a client was not told that its packet is too big, because so many were.
    pub icmp_held_back: u64,
}

impl TroubleStatus {
    /// The most bytes of `last`.
    pub const ERROR_BYTES_MAX: usize = 128;
}

/// A service that ends: it takes no new connections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndingStatus {
    /// Its name.
    pub service: String,
    /// Connections that the node still knows of.
    pub connections: u64,
}

/// The answer to `baton reload`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// The node that was told to; empty with `error`.
    pub node: String,
    /// Services that are new.
    pub added: Vec<String>,
    /// Services of which something has changed.
    pub changed: Vec<String>,
    /// Services that end.
    pub removed: Vec<String>,
    /// Why the node goes on as before.
    pub error: Option<String>,
}

/// One control connection, as one of its ends sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionStatus {
    /// The name of the node at the other end.
    pub peer: String,
    /// Whether there is one.
    pub state: ConnectionState,
    /// For how many seconds it has been in this state.
    pub since_s: u64,
    /// The last measured round trip, in microseconds; none before the first.
    pub rtt_us: Option<u64>,
    /// By how much the other node's wall clock is ahead of this one's, in microseconds, within half a round trip; none
    /// before the first measurement. Nothing depends on it but people who compare logs.
    pub clock_ahead_us: Option<i64>,
    /// The largest packet on the way to the other node that it has acknowledged, in bytes; none while it acknowledges none.
    pub path_mtu: Option<u16>,
    /// Messages received.
    pub messages_in: u64,
    /// Messages sent.
    pub messages_out: u64,
    /// Bytes received, as on the wire.
    pub bytes_in: u64,
    /// Bytes sent, as on the wire.
    pub bytes_out: u64,
    /// Why there is none: why it last ended or could not be made, in at most [`ConnectionStatus::ERROR_BYTES_MAX`]
    /// bytes. Nothing while there is one.
    pub last_error: Option<String>,
}

impl ConnectionStatus {
    /// The most bytes of `last_error`.
    pub const ERROR_BYTES_MAX: usize = 240;

    /// Its bytes where more do not fit: so 255 of them fit a status message.
    pub const ERROR_BYTES_LEAST: usize = 48;
}

/// Whether there is a control connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConnectionState {
    /// There is one, and the peer is heard.
    Up,
    /// There is none; it is dialled again and again.
    #[default]
    Down,
}

/// What a node knows of one server's load.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadStatus {
    /// The server's name.
    pub server: String,
    /// Connections being served, as the server last reported.
    pub serving: u64,
    /// Connections assigned to it by this node since that report.
    pub assigned: u64,
    /// It is taken for alive.
    pub live: bool,
    /// Its share of the work.
    pub weight: u16,
}

/// How a dispatcher stands with a node that asks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DispatcherStatus {
    /// Its name.
    pub dispatcher: String,
    /// Whether it is asked.
    pub standing: DispatcherStanding,
    /// Times that it has not answered in time.
    pub late: u64,
}

/// Whether a dispatcher is asked, and if not, why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DispatcherStanding {
    /// It is.
    Asked,
    /// Another one comes before it, or it has just come back.
    Standby,
    /// It has not got yet what the others have decided.
    Cold,
    /// It has not answered in time, and is left alone for a while.
    Slow,
    /// There is no control connection to it.
    #[default]
    Down,
}

/// A server that a node doubts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DoubtStatus {
    /// The server's name.
    pub server: String,
    /// In which pool, as `service/pool`; none: in all.
    pub pool: Option<String>,
    /// What was seen, as the end of a sentence about the server.
    pub seen: String,
    /// How often, since the server last worked.
    pub count: u64,
    /// What to look at.
    pub help: String,
}

/// How requests were decided. A distributor counts what it needed, a dispatcher what it decided.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecisionStatus {
    /// Decided by the packet path itself, from its decision cache or rota.
    pub in_kernel: u64,
    /// Decided by the daemon as the packet path would have, had it been able to read the request.
    pub known: u64,
    /// Questions put to the dispatcher.
    pub asked: u64,
    /// Questions that were put to another dispatcher, because the first one was silent or went away.
    pub reasked: u64,
    /// Answers with a server that this node does not reach, so that it chose another one.
    pub unreachable: u64,
    /// Questions that the dispatcher answered.
    pub answered: u64,
    /// Batches in which they were asked.
    pub batches: u64,
    /// Packets that wait for an answer now.
    pub held_now: u64,
    /// Questions that were not answered in time, or had no server to name.
    pub failed: u64,
    /// Decided without the dispatcher, by the fallback that every node computes alike.
    pub fallback: u64,
    /// As dispatcher: questions that it decided.
    pub decided: u64,
    /// As dispatcher: targets that it moved to another server.
    pub moves: u64,
    /// As dispatcher: targets that it has mapped now; none for policies that are blind to content.
    pub targets: Option<u64>,
    /// As dispatcher: mappings that it has learned from other dispatchers.
    pub learned: u64,
    /// As dispatcher: it remembers what the dispatchers have decided; none on nodes without the role.
    pub ready: Option<bool>,
    /// How each dispatcher stands with this node, in the order in which they are asked; none if it asks nobody.
    pub dispatchers: Vec<DispatcherStatus>,
}

/// The reader: request heads that do not fit one packet are read by this node, which then hands the
/// connection off by giving its server the client's bytes once more.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReaderStatus {
    /// Connections whose heads are being read now.
    pub reading_now: u64,
    /// Heads that were read as far as needed.
    pub read: u64,
    /// Answered 400: in doubt, in a service whose pools differ in servers.
    pub doubtful: u64,
    /// Answered 408: not whole in time.
    pub too_slow: u64,
    /// Answered 431: too long.
    pub too_long: u64,
    /// Answered 503: too many heads at once, or no server. Of TLS by the alert internal_error, as those
    /// before.
    pub refused: u64,
    /// TLS connections ended by another alert: no pool is for their name, or they cannot be read.
    pub alerted: u64,
    /// Left by their clients.
    pub gone: u64,
    /// Connections whose bytes were given to a server.
    pub replayed: u64,
    /// Times that such bytes were given again, because the server had not acknowledged them.
    pub repeated: u64,
    /// Connections that no server took in time; they were reset.
    pub failed: u64,
}

/// Connections of which packets came, but which the node did not know: their bindings were lost.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnknownStatus {
    /// In question now.
    pub asking_now: u64,
    /// Asked about.
    pub asked: u64,
    /// Found at another node.
    pub found: u64,
    /// Reset, because no node has them.
    pub reset: u64,
    /// Just begun: what comes before was lost on its way here, and the client repeats it.
    #[serde(default)]
    pub begun: u64,
    /// Not answered by all nodes that may have them; asked about again when the client repeats its packet.
    pub unanswered: u64,
    /// On their way to this node, whose server did not have them yet.
    pub coming: u64,
    /// Packets dropped because too many connections were in question.
    pub overflowed: u64,
}

/// Connections that one node handed to one server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandoffStatus {
    /// The server's name.
    pub to: String,
    /// How many.
    pub count: u64,
}

/// One counter of the packet path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterStatus {
    /// Its name.
    pub name: String,
    /// What it counts.
    pub kind: CounterKind,
    /// How often.
    pub count: u64,
    /// What it means, in a sentence.
    pub text: String,
}
