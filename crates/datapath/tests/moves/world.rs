//! What the model of the move is made of: a client, nodes, and what is in flight between them. Sequence
//! numbers count units: a request is one unit or more, a response always two. No behaviour is here.

/// No node: a packet that comes from outside, or from this node's own user space.
pub const NOBODY: u8 = 255;
/// Where packets for the client are.
pub const CLIENT: u8 = 254;
/// How often members may forward a packet among each other; more is going round in circles.
pub const TTL: u8 = 6;

/// Roles of a node, to be combined.
pub mod role {
    /// Forwards by binding, else to the distributor.
    pub const SWITCH: u8 = 1;
    /// Starts connections.
    pub const DISTRIBUTOR: u8 = 2;
    /// Adopts connections.
    pub const SERVER: u8 = 4;
}

/// Who sends the Update of a handoff.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tell {
    /// Who hands off, to distributor and switches, as it does so.
    Giver,
    /// The same, and it tells the new owner too.
    GiverTellsTaker,
    /// The new owner, once it has adopted.
    Taker,
    /// Nobody: every Update is late for ever.
    Nobody,
}

/// The rules of the move; each wrong variant changes one.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Who tells.
    pub tell: Tell,
    /// A server adopts from a plain first packet of a flow it knows nothing of, if its cookie is right.
    pub adopt_by_cookie: bool,
    /// A packet at `start_seq` is wrapped again also when it came from the node that the binding names.
    pub again_whoever_sent: bool,
    /// Only a packet that acknowledges `start_ack` exactly is wrapped again.
    pub again_same_ack: bool,
    /// Who has moved a connection acknowledges data from before `start_seq` itself, forwarding none.
    pub answer_old_data: bool,
    /// An earlier handoff packet is handed on only if it is about the same first byte.
    pub hand_on_same_start: bool,
    /// Moves are ordered by `max(wall clock, what it was + 1)`; else by the wall clock.
    pub hybrid_clock: bool,
    /// The owner looks at its socket again when the binding has changed.
    pub recheck: bool,
    /// While a node moves a connection, its program does nothing else for it.
    pub claim: bool,
    /// A request counts as asked from the moment the program lets it pass, not when the socket has it.
    pub asked_at_ingress: bool,
    /// In a strict service whoever adopts passes only what it may serve.
    pub taker_looks: bool,
    /// The reader freezes the flow before its last read.
    pub freeze_first: bool,
    /// The reader repeats its replay until it is told that it was taken.
    pub replay_again: bool,
    /// A connection that a reader has is known as a server's is: no earlier decision takes it away.
    pub reading_stands: bool,
}

/// One configuration of the model, with its bounds.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// For the reports.
    pub name: &'static str,
    /// Of each node.
    pub roles: &'static [u8],
    /// How far each node's wall clock is ahead.
    pub skew: &'static [u8],
    /// Where the router sends the client's packets.
    pub entry: u8,
    /// The switches' choice for flows they do not know.
    pub distributor: u8,
    /// The distributor's choice of a server.
    pub first: u8,
    /// Where each request ends, in the client's sequence space.
    pub ends: &'static [u8],
    /// How many requests the client has outstanding at most; it joins what it sends again.
    pub ahead: u8,
    /// Which node must serve each request (a strict service); empty: any may, and moves are free.
    pub homes: &'static [u8],
    /// A server may answer before it has the whole request.
    pub early: bool,
    /// A response may come in two pieces.
    pub halves: bool,
    /// The socket acts between the steps of a move, and is behind the program.
    pub races: bool,
    /// A head that is not complete in one packet goes to the reader.
    pub reader: bool,
    /// Pure ACKs are sent too.
    pub acks: bool,
    /// Packets that may be lost.
    pub losses: u8,
    /// Packets that may be delivered once more.
    pub copies: u8,
    /// Moves (where they are free).
    pub moves: u8,
    /// Times that a server may close.
    pub closes: u8,
    /// What is checked.
    pub rules: Rules,
}

impl Setup {
    /// The number of requests that end at or before `seq`.
    pub fn requests(&self, seq: u8) -> u8 {
        self.ends.iter().filter(|&&end| end <= seq).count() as u8
    }

    /// Whether a request begins at `seq`.
    pub fn at_boundary(&self, seq: u8) -> bool {
        seq == 0 || self.ends.contains(&seq)
    }

    /// Where the request begins that `done` others come before.
    pub fn start_of(&self, done: u8) -> u8 {
        if done == 0 { 0 } else { self.ends[done as usize - 1] }
    }

    /// Where the request ends that has the byte at `seq`.
    pub fn end_of(&self, seq: u8) -> u8 {
        self.ends[self.requests(seq) as usize]
    }

    /// In a strict service a later request whose head is not whole goes to the reader, too.
    pub fn reads_later(&self) -> bool {
        self.reader && !self.homes.is_empty()
    }

    /// The only node that may serve the byte at `seq`, if there is such a one.
    pub fn home(&self, seq: u8) -> Option<u8> {
        self.homes.get(self.requests(seq) as usize).copied()
    }

    /// The client's last byte.
    pub fn last(&self) -> u8 {
        self.ends[self.ends.len() - 1]
    }

    /// Whether the node has the role.
    pub fn is(&self, node: u8, role: u8) -> bool {
        self.roles[node as usize] & role != 0
    }
}

/// The client's TCP.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Client {
    /// What it has sent.
    pub sent: u8,
    /// What of it is acknowledged.
    pub una: u8,
    /// What it has received, in order.
    pub rcv: u8,
    /// A FIN was what came next.
    pub fin: bool,
}

/// What a handoff packet says besides the client's packet in it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Wrap {
    /// Where the new owner begins.
    pub start_seq: u8,
    /// When it was decided.
    pub issued: u8,
    /// By whom.
    pub issuer: u8,
}

/// A packet in flight; towards the client, `seq` and `ack` are the server's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Packet {
    /// Where it arrives next.
    pub at: u8,
    /// The member that sent it there.
    pub from: u8,
    /// Its first byte.
    pub seq: u8,
    /// Bytes.
    pub len: u8,
    /// What it acknowledges.
    pub ack: u8,
    /// FIN (servers only).
    pub fin: bool,
    /// RST (servers only).
    pub rst: bool,
    /// By how much the response that is in it is out of place: 0 is right.
    pub shift: i8,
    /// How often members forwarded it.
    pub hops: u8,
    /// It is a handoff packet.
    pub wrap: Option<Wrap>,
}

/// What a binding is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Stage {
    /// The reader has the connection.
    Reading,
    /// The reader takes the connection apart: nothing passes.
    Frozen,
    /// A node owns the connection.
    Bound,
}

/// A node's entry for the flow.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Binding {
    /// The owner.
    pub node: u8,
    /// Where it began.
    pub start_seq: u8,
    /// What the client had acknowledged then.
    pub start_ack: u8,
    /// When it was decided.
    pub issued: u8,
    /// By whom.
    pub issuer: u8,
    /// Known from an Update alone.
    pub hearsay: bool,
    /// What it is.
    pub stage: Stage,
}

/// A server's socket, or the reader's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Socket {
    /// Where it began.
    pub first: u8,
    /// What it expects next.
    pub rcv: u8,
    /// What it sends next.
    pub snd: u8,
    /// What of it is acknowledged.
    pub una: u8,
    /// Requests answered, of all on the connection.
    pub done: u8,
    /// One more is answered by half.
    pub half: bool,
    /// It has sent a FIN.
    pub fin: bool,
    /// By how much its responses are out of place.
    pub shift: i8,
    /// Its RST is under way, on this node.
    pub doomed: bool,
}

/// A move between two of its steps.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Moving {
    /// The request.
    pub packet: Packet,
    /// The new owner.
    pub to: u8,
    /// The binding as it was, once it has been changed.
    pub was: Option<Binding>,
}

/// What the reader has done; it goes on from `Replaying` when it is told that all was taken.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Reader {
    /// Nothing, or all.
    Idle,
    /// Read so far (only in the wrong order).
    Read(u8),
    /// Closed its socket, having read so far.
    Closed(u8),
    /// Replays up to here.
    Replaying(u8),
    /// Has replayed once (only where it does not repeat).
    Replayed,
}

/// One node.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Node {
    /// Its entry for the flow.
    pub binding: Option<Binding>,
    /// Its socket for the flow.
    pub socket: Option<Socket>,
    /// The next byte of the client's that its program has not let pass.
    pub at: u8,
    /// Passed by the program, not yet taken by the socket.
    pub up: Vec<Packet>,
    /// A move under way.
    pub moving: Option<Moving>,
    /// The reader's progress.
    pub reader: Reader,
}

/// What one node tells another over their control connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum News {
    /// Update: the flow's owner.
    Owner(Binding),
    /// Taken: a server's socket has all up to here.
    Taken(u8),
}

/// A message on a control connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Message {
    /// Sender.
    pub from: u8,
    /// Receiver.
    pub to: u8,
    /// What it says.
    pub news: News,
}

/// The whole.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct State {
    /// The client.
    pub client: Client,
    /// The nodes.
    pub nodes: Vec<Node>,
    /// Packets in flight, each at most once, sorted.
    pub net: Vec<Packet>,
    /// Messages in flight, in order for each pair of nodes.
    pub told: Vec<Message>,
    /// A bit for each request that an application has.
    pub served: u8,
    /// The wall clock: decisions so far.
    pub time: u8,
    /// What is left of each bound.
    pub losses: u8,
    /// See [`Setup::copies`].
    pub copies: u8,
    /// See [`Setup::moves`].
    pub moves: u8,
    /// See [`Setup::closes`].
    pub closes: u8,
    /// What has gone wrong.
    pub wrong: Option<&'static str>,
}

impl State {
    /// A finished handshake.
    pub fn new(setup: &Setup) -> Self {
        let node =
            Node { binding: None, socket: None, at: 0, up: Vec::new(), moving: None, reader: Reader::Idle };
        Self {
            client: Client { sent: 0, una: 0, rcv: 0, fin: false },
            nodes: vec![node; setup.roles.len()],
            net: Vec::new(),
            told: Vec::new(),
            served: 0,
            time: 0,
            losses: setup.losses,
            copies: setup.copies,
            moves: setup.moves,
            closes: setup.closes,
            wrong: None,
        }
    }

    /// The node.
    pub fn node(&mut self, n: u8) -> &mut Node {
        &mut self.nodes[n as usize]
    }

    /// Puts a packet in flight; one that is there already stands for both.
    pub fn send(&mut self, packet: Packet) {
        if let Err(place) = self.net.binary_search(&packet) {
            self.net.insert(place, packet);
        }
    }

    /// Sends a message, unless the last one on that connection says the same.
    pub fn tell(&mut self, from: u8, to: u8, news: News) {
        let message = Message { from, to, news };
        let place = self.told.partition_point(|m| (m.from, m.to) <= (from, to));
        if place == 0 || self.told[place - 1] != message {
            self.told.insert(place, message);
        }
    }

    /// All requests answered, or the server has closed and the client has seen it.
    pub fn complete(&self, setup: &Setup) -> bool {
        self.client.fin || self.client.rcv as usize == 2 * setup.ends.len()
    }

    /// What the node's stack sends reaches the client.
    pub fn egress_open(&self, n: u8) -> bool {
        let binding = &self.nodes[n as usize].binding;
        binding.is_some_and(|b| b.node == n && !b.hearsay && b.stage != Stage::Frozen)
    }
}
