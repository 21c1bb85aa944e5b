//! The reference model of the packet path: every decision of `bpf/`, in plain Rust, written from what
//! the programs are meant to do. Slow, naive and without any I/O; the tests hold the programs to it,
//! packet by packet. Nothing in the daemon calls it.

mod binding;
mod cookie;
mod decide;
mod egress;
mod guard;
mod handoff;
mod ingress;
mod later;
mod lease;
mod orders;
mod packet;
mod probe;
mod reader;
mod receive;
mod request;
mod rewrite;
pub mod test_run;
mod whose;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::net::IpAddr;

use baton_cluster::{Flow, Keys, NodeId, PHttp, PoolId, Protocol, ServiceId, Target};
use baton_http::{Key, Rules};

use baton_datapath::constants::{FLAG_ASKED, FLAG_MOVED, SENDER_MAC};
use baton_datapath::{Counter, Event, GuideKind, Lease, Peer, Settings};

pub use binding::Binding;
pub use cookie::{Age, Offer, cookie_age, cookie_of, flow_clock, maglev_slot, prefix_slot};
pub use handoff::{Handoff, Refusal};
pub use later::{Direction, Doubt, Followed, Heard, Messages};
pub use lease::Spread;
pub use packet::{Options, Packet, Parsed, flag};

/// The two clocks, at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// CLOCK_MONOTONIC, as the kernel's programs read it, nanoseconds.
    pub kernel_ns: u64,
    /// The cluster's clock, nanoseconds.
    pub cluster_ns: u64,
}

impl Clock {
    /// The cluster's clock as timestamps have it: milliseconds, truncated.
    pub fn cluster_ms(self) -> u32 {
        (self.cluster_ns / 1_000_000) as u32
    }
}

/// A cached decision.
#[derive(Clone, Debug)]
pub struct Decision {
    /// The servers it names, at most four.
    pub servers: Vec<NodeId>,
    /// Kernel time after which it no longer holds; `None`: it always does.
    pub expires_ns: Option<u64>,
    /// Of the guide that it was made under.
    pub generation: u32,
}

/// A service.
#[derive(Clone, Debug)]
pub struct Service {
    /// Which.
    pub id: ServiceId,
    /// What is spoken.
    pub protocol: Protocol,
    /// Which pool a request belongs to, by index in `pools`.
    pub rules: Rules,
    /// Its pools.
    pub pools: Vec<PoolId>,
    /// They have different servers.
    pub strict: bool,
    /// Later requests of a connection may have to move.
    pub follows: bool,
    /// It has given the address up: what is open goes on, nothing new begins.
    pub ending: bool,
    /// Hosts that no route names in full, of which user space has said what they match.
    pub hosts: HashSet<String>,
}

/// A pool.
#[derive(Clone, Debug)]
pub struct Pool {
    /// What its targets are made from.
    pub key: Key,
    /// Whether later requests move.
    pub p_http: PHttp,
    /// Its servers.
    pub servers: Vec<NodeId>,
}

/// What may be decided unasked for one pool.
#[derive(Clone, Debug)]
pub struct Guided {
    /// How.
    pub guide: GuideKind,
    /// Whose turn it is, in order.
    pub rota: Vec<NodeId>,
    /// Decisions of another generation count as absent.
    pub generation: u32,
}

/// A server's load.
#[derive(Clone, Copy, Debug, Default)]
pub struct Load {
    /// Connections being served, as it said.
    pub reported: u32,
    /// Handed to it since.
    pub assigned: u32,
    /// Its weight.
    pub weight: u16,
    /// The smallest weight of all servers: limits are given for that one.
    pub least_weight: u16,
    /// Whether it may be chosen.
    pub live: bool,
    /// Its machine answers nobody.
    pub gone: bool,
}

/// What the programs count of servers that work.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// Connections of each service of which this node's socket has spoken.
    pub spoken: HashMap<ServiceId, u64>,
    /// Handoff packets of this distributor's connections to each node.
    pub sent: HashMap<NodeId, u64>,
    /// Handoff packets from each distributor.
    pub taken: HashMap<NodeId, u64>,
}

/// The maps, as the programs see them.
#[derive(Clone)]
pub struct Tables {
    /// Services by address and port.
    pub services: HashMap<(IpAddr, u16), Service>,
    /// What shows that servers work.
    pub evidence: Evidence,
    /// Pools.
    pub pools: HashMap<PoolId, Pool>,
    /// What may be decided without asking, and the rota.
    pub guides: HashMap<PoolId, Guided>,
    /// The nodes.
    pub nodes: HashMap<NodeId, Peer>,
    /// The largest packet that reaches every other node; 0: as large as the interface's MTU.
    pub path_mtu: u16,
    /// Some service's later requests may move.
    pub follows: bool,
    /// Members by MAC address.
    pub members: HashMap<[u8; 6], NodeId>,
    /// The switch's tables.
    pub spread: Spread,
    /// Of a switch, by slot: half of a flow's hash, and its latest SYN's sequence number.
    pub latest_syns: HashMap<u32, (u32, u32)>,
    /// The terms that a distributor knows, the one for what comes by no switch first.
    pub leases: Vec<Lease>,
    /// Cached decisions.
    pub decisions: HashMap<(PoolId, Target), Decision>,
    /// Loads.
    pub loads: HashMap<NodeId, Load>,
    /// The cluster's keys.
    pub keys: Keys,
    /// Until when user space promises to answer, kernel time.
    pub daemon_until_ns: u64,
    /// Bindings.
    pub bindings: HashMap<Flow, Binding>,
    /// The messages of connections that this node serves.
    pub exchanges: HashMap<Flow, Followed>,
    /// Turns taken of each pool's rota.
    pub turns: HashMap<PoolId, u32>,
    /// Packets of unknown connections that user space was given, by slot: in which window of time, how many.
    pub unknowns: HashMap<u32, (u32, u32)>,
}

impl Tables {
    /// The lease of a cookie's term.
    fn lease_of_term(&self, term: u32) -> Option<&Lease> {
        self.leases.iter().find(|lease| lease.term == term)
    }

    /// Whether the node may decide a connection now: a distributor by its lease, and who had a connection and has
    /// moved it, again, when nobody took it.
    fn may_decide(&self, b: &Binding, clock: Clock) -> bool {
        if b.has(FLAG_MOVED) {
            return true;
        }
        let holds = |lease: &&Lease| u128::from(clock.kernel_ns) < lease.until.as_nanos();
        let lease = self.lease_of_term(b.term).filter(holds);
        lease.is_some_and(|lease| !lease.is_heir || b.has(FLAG_ASKED))
    }
}

impl fmt::Debug for Tables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tables").field("bindings", &self.bindings).finish_non_exhaustive()
    }
}

/// A TCP socket of the node's stack that is no listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Socket {
    /// Its client's first data byte; `None` for one in TIME_WAIT, which no longer knows.
    pub start_seq: Option<u32>,
    /// The sequence number that it expects next.
    pub rcv_nxt: u32,
    /// What its client may send and acknowledge; `None` for one in TIME_WAIT.
    pub reach: Option<Reach>,
    /// What moving its connection looks at; `None` in any state but ESTABLISHED.
    pub established: Option<Established>,
}

/// What a socket takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// Bytes from what it expects next.
    pub window: u32,
    /// What of its own the client has acknowledged.
    pub snd_una: u32,
    /// The end of what it has sent.
    pub snd_nxt: u32,
    /// The client's window at its largest.
    pub max_window: u32,
}

/// An established socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Established {
    /// The end of what its server has written.
    pub write_seq: u32,
    /// The end of what it has sent of that.
    pub snd_nxt: u32,
    /// Something came out of order, and waits for what is missing.
    pub out_of_order: bool,
    /// Segments that it may have in flight.
    pub cwnd: u32,
    /// The round trip, milliseconds.
    pub rtt_ms: u32,
}

/// What of the node's TCP stack the programs can see.
#[derive(Clone, Debug, Default)]
pub struct Stack {
    /// Where somebody listens.
    pub listeners: HashSet<(IpAddr, u16)>,
    /// The reader does.
    pub reader: bool,
    /// Sockets by flow.
    pub sockets: HashMap<Flow, Socket>,
    /// Whether the kernel agrees to adoptions (a test-run's packet can never be adopted).
    pub adopts: bool,
}

/// One node's packet path.
#[derive(Clone)]
pub struct Model {
    /// What the node is.
    pub settings: Settings,
    /// The address of the interface that packets arrive by.
    pub mac: [u8; 6],
    /// What it looks up.
    pub tables: Tables,
    /// Its TCP stack.
    pub stack: Stack,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not ours: other programs, then the stack (TCX_NEXT).
    Next,
    /// To the node's stack (TC_ACT_OK).
    Stack,
    /// Dropped (TC_ACT_SHOT).
    Drop,
    /// Sent to another node, back to the client or to the hold device (TC_ACT_REDIRECT).
    Redirect,
}

/// All that one packet brings about.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What becomes of it.
    pub verdict: Verdict,
    /// The frame as it goes on; means nothing when it is dropped.
    pub frame: Vec<u8>,
    /// The node that it is sent to, if it is sent to one.
    pub to: Option<NodeId>,
    /// What was counted, each how often.
    pub counted: BTreeMap<Counter, u64>,
    /// What user space is told.
    pub events: Vec<Event>,
}

impl Model {
    /// A packet arrives at the node.
    pub fn ingress(&mut self, frame: &[u8], clock: Clock) -> Outcome {
        Run::over(self, frame, clock, |run| {
            // What is for another host the network has flooded: no node acts on that.
            if run.frame.get(..6) == Some(&run.model.mac) { run.ingress(false) } else { Verdict::Next }
        })
    }

    /// A RST arrives that a program made for this node's own socket, or a packet to make it from.
    pub fn ingress_local_reset(&mut self, frame: &[u8], clock: Clock) -> Outcome {
        Run::over(self, frame, clock, Run::local_reset)
    }

    /// A packet arrives that user space has given back.
    pub fn ingress_released(&mut self, frame: &[u8], clock: Clock) -> Outcome {
        Run::over(self, frame, clock, |run| run.ingress(true))
    }

    /// The node's stack sends a packet.
    pub fn egress(&mut self, frame: &[u8], clock: Clock) -> Outcome {
        Run::over(self, frame, clock, Run::egress)
    }

    /// A packet leaves that a program made, in answer to a client's.
    pub fn egress_answer(&mut self, frame: &[u8], clock: Clock) -> Outcome {
        Run::over(self, frame, clock, |_| Verdict::Next)
    }
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Model").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// One packet on its way through the model. Its steps are in the files beside this one.
struct Run<'m> {
    model: &'m mut Model,
    clock: Clock,
    /// Without its wrapping, if it came in one.
    frame: Vec<u8>,
    /// Who wrapped it, and how often that has been done.
    wrapped: Option<(NodeId, u8)>,
    to: Option<NodeId>,
    counted: BTreeMap<Counter, u64>,
    events: Vec<Event>,
}

impl<'m> Run<'m> {
    fn over(
        model: &'m mut Model,
        frame: &[u8],
        clock: Clock,
        program: impl FnOnce(&mut Self) -> Verdict,
    ) -> Outcome {
        let mut run = Self {
            model,
            clock,
            frame: frame.to_vec(),
            wrapped: None,
            to: None,
            counted: BTreeMap::new(),
            events: Vec::new(),
        };
        let verdict = program(&mut run);
        Outcome { verdict, frame: run.frame, to: run.to, counted: run.counted, events: run.events }
    }

    fn count(&mut self, counter: Counter) {
        self.count_many(counter, 1);
    }

    fn count_many(&mut self, counter: Counter, n: u64) {
        *self.counted.entry(counter).or_default() += n;
    }

    fn drop(&mut self, why: Counter) -> Verdict {
        self.count(why);
        Verdict::Drop
    }

    /// The member that the packet came from, if it is from one.
    fn sender(&self) -> Option<NodeId> {
        if let Some((from, _)) = self.wrapped {
            return Some(from);
        }
        let mac: [u8; 6] = self.frame.get(6..12)?.try_into().ok()?;
        if let [a, b, c, d, high, low] = mac
            && u32::from_be_bytes([a, b, c, d]) == SENDER_MAC
        {
            return Some(NodeId(u16::from_be_bytes([high, low])));
        }
        self.model.tables.members.get(&mac).copied()
    }

    /// Tells user space, where there is somebody to be told.
    fn tell(&mut self, event: Event) {
        if self.model.settings.has_switch || self.model.tables.follows {
            self.events.push(event);
        }
    }

    fn service(&self, flow: &Flow) -> Option<&Service> {
        self.model.tables.services.get(&(flow.vip, flow.vip_port))
    }

    fn put(&mut self, flow: Flow, binding: Binding) {
        self.model.tables.bindings.insert(flow, binding);
    }
}
