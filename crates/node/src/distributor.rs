//! The distributor role's share in user space: packets that the kernel holds because it cannot decide.
//! Each held connection is asked of the dispatcher, once; the answer binds it and lets its packets go
//! on. Without a dispatcher the fallback decides, which every node computes alike.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use baton_cluster::{Cluster, Flow, NodeId, PoolId, Service, Target};
use baton_control::message::{self, MOVES_MAX};
use baton_control::{Answer, BatchLimits, Batcher, Load, Message, Move, Push, Question, Update, Verdict};
use baton_datapath::constants::{HELD_MS, LASTING_MS, MAX_REPLICAS};
use baton_datapath::{Datapath, DatapathError, Frame, Guide, Hold, State, target_of};
use baton_dispatcher::Loads;

use crate::clock;
use crate::guided::{Guided, known_as};
use crate::peers::Peers;
use crate::post::Post;
use crate::setup::target_key;

/// A question unanswered for this long is decided by the fallback.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);

/// What the distributor counts in user space.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) asked: u64,
    pub(crate) answered: u64,
    pub(crate) batches: u64,
    pub(crate) failed: u64,
    pub(crate) fallback: u64,
    pub(crate) overflowed: u64,
}

/// A connection whose packets wait.
#[derive(Debug)]
struct Held {
    start_seq: u32,
    pool: PoolId,
    target: Option<Target>,
    frames: Vec<Frame>,
    /// Packets of it read from the hold device, repetitions included.
    read: u32,
    since: Instant,
}

/// A decided connection whose packets are on their way up here still, and back.
#[derive(Debug)]
struct Releasing {
    start_seq: u32,
    read: u32,
}

/// The distributor of this node.
#[derive(Debug)]
pub(crate) struct Distributor {
    me: NodeId,
    dispatcher: NodeId,
    batcher: Batcher<Flow>,
    held: HashMap<Flow, Held>,
    releasing: HashMap<Flow, Releasing>,
    held_packets: usize,
    held_packets_max: usize,
    /// `PoolId` -> how.
    guided: Vec<Guided>,
    live: Option<Vec<NodeId>>,
    loads: Loads,
    least_weight: u16,
    generation: u32,
    moves: VecDeque<(Instant, Move)>,
    handed: HashMap<NodeId, u64>,
    pub(crate) tally: Tally,
    target_secret: u64,
}

/// What the distributor works with; borrowed from the daemon for one call.
pub(crate) struct Tools<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) peers: &'a Peers,
    pub(crate) datapath: &'a Datapath,
    pub(crate) hold: &'a Hold,
    pub(crate) post: &'a mut Post,
    pub(crate) now: Instant,
}

impl Distributor {
    pub(crate) fn new(cluster: &Cluster, me: NodeId) -> Self {
        let servers: Vec<(NodeId, u16)> = cluster.with_role(|r| r.server).map(|n| (n.id, n.weight)).collect();
        let held_packets_max = cluster.limits.held_packets as usize;
        Self {
            me,
            dispatcher: cluster.dispatcher().id,
            batcher: Batcher::new(BatchLimits {
                undecided_max: held_packets_max,
                answer_timeout: ANSWER_TIMEOUT,
            }),
            held: HashMap::new(),
            releasing: HashMap::new(),
            held_packets: 0,
            held_packets_max,
            guided: cluster.pools.iter().map(|pool| Guided::new(pool, &servers)).collect(),
            live: None,
            loads: Loads::new(servers.iter().copied()),
            least_weight: servers.iter().map(|(_, w)| *w).min().unwrap_or(1),
            generation: 1,
            moves: VecDeque::new(),
            handed: HashMap::new(),
            tally: Tally::default(),
            target_secret: cluster.keys().target,
        }
    }

    /// Packets that wait now.
    pub(crate) fn held_now(&self) -> usize {
        self.held_packets
    }

    /// Connections that user space handed to a server.
    pub(crate) fn handed_to(&self, node: NodeId) -> u64 {
        self.handed.get(&node).copied().unwrap_or(0)
    }

    /// Every server's load as known here.
    pub(crate) fn loads(&self) -> &Loads {
        &self.loads
    }

    /// A packet that the kernel holds.
    pub(crate) fn frame(&mut self, bytes: &[u8], tools: &mut Tools<'_>) -> Result<(), DatapathError> {
        let Some(frame) = Frame::parse(bytes) else { return Ok(()) };
        if let Some(releasing) = self.releasing.get_mut(&frame.flow) {
            releasing.read += 1;
            release(tools.hold, &frame);
            return self.finish_release(frame.flow, tools);
        }
        if let Some(held) = self.held.get_mut(&frame.flow) {
            held.read += 1;
            let again = held.frames.iter().any(|f| f.seq == frame.seq);
            if again {
                return Ok(());
            }
            if self.held_packets < self.held_packets_max {
                self.held_packets += 1;
                held.frames.push(frame);
            } else {
                self.tally.overflowed += 1;
            }
            return Ok(());
        }
        let Some(binding) = tools.datapath.binding(&frame.flow)? else { return Ok(()) };
        match binding.state {
            // Decided while this packet was on its way up here.
            State::Bound(_) | State::Releasing(_) => release(tools.hold, &frame),
            State::Held if binding.start_seq == frame.seq => self.hold(frame, tools)?,
            // A later segment whose first one is not here: the client repeats both.
            State::Held | State::Open => {}
        }
        Ok(())
    }

    /// Asks for a connection by its first data packet.
    fn hold(&mut self, frame: Frame, tools: &mut Tools<'_>) -> Result<(), DatapathError> {
        let Some(service) = service_of(tools.cluster, &frame.flow) else { return Ok(()) };
        if self.held_packets >= self.held_packets_max {
            self.tally.overflowed += 1;
            return Ok(());
        }
        let Some(pool) = tools.cluster.pools_of(service.id).next() else { return Ok(()) };
        let target = target_of(frame.payload(), target_key(&pool.key), self.target_secret);
        let question = Question { pool: pool.id, target, at: None };
        let (flow, start_seq) = (frame.flow, frame.seq);
        self.held_packets += 1;
        self.held.insert(
            flow,
            Held { start_seq, pool: pool.id, target, frames: vec![frame], read: 1, since: tools.now },
        );
        if !tools.peers.is_up(self.dispatcher) {
            return self.decide_alone(flow, tools);
        }
        self.tally.asked += 1;
        match self.batcher.ask(question, flow, tools.now) {
            Ok(Some(ask)) => self.send_batch(ask, tools),
            Ok(None) => Ok(()),
            Err((flow, _full)) => self.decide_alone(flow, tools),
        }
    }

    fn send_batch(&mut self, ask: baton_control::Ask, tools: &mut Tools<'_>) -> Result<(), DatapathError> {
        self.tally.batches += 1;
        if !tools.post.send(self.dispatcher, Message::Ask(ask)) {
            return self.dispatcher_lost(tools);
        }
        Ok(())
    }

    /// The dispatcher's answer to a batch.
    pub(crate) fn answered(&mut self, answer: Answer, tools: &mut Tools<'_>) -> Result<(), DatapathError> {
        match self.batcher.answered(answer, tools.now) {
            Ok((verdicts, next)) => {
                for (flow, verdict) in verdicts {
                    self.tally.answered += 1;
                    self.verdict(flow, &verdict, tools)?;
                }
                next.map_or(Ok(()), |ask| self.send_batch(ask, tools))
            }
            Err(baton_control::BatchError::Stale { batch }) => {
                tracing::debug!(batch, "late answer ignored");
                Ok(())
            }
            Err(error) => {
                tracing::error!(%error, "dispatcher");
                self.dispatcher_lost(tools)
            }
        }
    }

    fn verdict(&mut self, flow: Flow, verdict: &Verdict, tools: &mut Tools<'_>) -> Result<(), DatapathError> {
        let Some(server) = verdict.server else {
            // Nobody is there to serve it now. The client repeats its request until somebody is.
            self.tally.failed += 1;
            self.forget(&flow);
            return Ok(());
        };
        if let (Some(held), Some(keep)) = (self.held.get(&flow), &verdict.keep)
            && let Some(target) = held.target
        {
            self.keep(held.pool, target, keep, tools)?;
        }
        self.settle(flow, server, tools)
    }

    /// Remembers a mapping, if the pool's guide lets the kernel use it.
    fn keep(
        &self,
        pool: PoolId,
        target: Target,
        servers: &[NodeId],
        tools: &Tools<'_>,
    ) -> Result<(), DatapathError> {
        let (Some(guided), Some(service)) = (self.guided.get(pool.index()), known_as(tools.cluster, pool))
        else {
            return Ok(());
        };
        if !matches!(guided.guide, message::Guide::Cached { .. }) || servers.is_empty() {
            return Ok(());
        }
        let servers = servers.get(..MAX_REPLICAS as usize).unwrap_or(servers);
        let expires = (servers.len() > 1).then(|| clock::monotonic() + guided.replicas_for);
        tools.datapath.set_decision(service, target, servers, expires, self.generation)
    }

    /// Binds a held connection and lets its packets go on.
    fn settle(&mut self, flow: Flow, server: NodeId, tools: &mut Tools<'_>) -> Result<(), DatapathError> {
        let Some(held) = self.forget(&flow) else { return Ok(()) };
        let Some(issued) = tools.datapath.bind_held(&flow, held.start_seq, server)? else {
            return Ok(());
        };
        self.loads.assign(server);
        tools.datapath.add_assigned(server)?;
        *self.handed.entry(server).or_default() += 1;
        for frame in &held.frames {
            release(tools.hold, frame);
        }
        self.releasing.insert(flow, Releasing { start_seq: held.start_seq, read: held.read });
        self.finish_release(flow, tools)?;
        let moved = Move { flow, server, start_seq: held.start_seq, issued, from: self.me };
        self.bound(moved, tools.now);
        Ok(())
    }

    /// Lets the connection's packets pass by themselves, when none is on its way up here any more:
    /// before that, they would overtake those.
    fn finish_release(&mut self, flow: Flow, tools: &Tools<'_>) -> Result<(), DatapathError> {
        if let Some(r) = self.releasing.get(&flow)
            && tools.datapath.released(&flow, r.start_seq, r.read)?
        {
            self.releasing.remove(&flow);
        }
        Ok(())
    }

    fn forget(&mut self, flow: &Flow) -> Option<Held> {
        let held = self.held.remove(flow)?;
        self.held_packets -= held.frames.len();
        Some(held)
    }

    fn decide_alone(&mut self, flow: Flow, tools: &mut Tools<'_>) -> Result<(), DatapathError> {
        let Some(held) = self.held.get(&flow) else { return Ok(()) };
        let guided = self.guided.get(held.pool.index());
        match guided.and_then(|g| g.ring.choose(held.target, self.loads.of(&g.servers))) {
            Some(server) => {
                self.tally.fallback += 1;
                self.settle(flow, server, tools)
            }
            None => {
                self.tally.failed += 1;
                self.forget(&flow);
                Ok(())
            }
        }
    }

    /// The dispatcher went away: whatever was asked of it is decided here.
    pub(crate) fn dispatcher_lost(&mut self, tools: &mut Tools<'_>) -> Result<(), DatapathError> {
        self.live = None;
        self.refresh_live(tools)?;
        for flow in self.batcher.drain() {
            self.decide_alone(flow, tools)?;
        }
        Ok(())
    }

    /// Called on every tick: questions and packets that waited too long, and news for the switches.
    pub(crate) fn tick(&mut self, tools: &mut Tools<'_>) -> Result<(), DatapathError> {
        for flow in self.batcher.expire(tools.now) {
            self.decide_alone(flow, tools)?;
        }
        let too_old = Duration::from_millis(u64::from(HELD_MS));
        let stale: Vec<Flow> =
            self.held.iter().filter(|(_, h)| tools.now - h.since > too_old).map(|(f, _)| *f).collect();
        for flow in stale {
            self.tally.failed += 1;
            self.forget(&flow);
        }
        Ok(())
    }

    /// A connection was bound, here or by the kernel.
    pub(crate) fn bound(&mut self, moved: Move, now: Instant) {
        self.moves.push_back((now, moved));
    }

    /// Whether moves wait for being told.
    pub(crate) fn has_news(&self) -> bool {
        !self.moves.is_empty()
    }

    /// Tells the switches what has moved, of the connections that last.
    pub(crate) fn send_moves(
        &mut self,
        cluster: &Cluster,
        peers: &Peers,
        datapath: &Datapath,
        post: &mut Post,
    ) -> Result<(), DatapathError> {
        let mut due = Vec::new();
        let now = Instant::now();
        let lasting = Duration::from_millis(u64::from(LASTING_MS));
        while let Some((since, moved)) = self.moves.front().copied() {
            if now - since < lasting {
                break;
            }
            self.moves.pop_front();
            let binding = datapath.binding(&moved.flow)?;
            if binding.is_some_and(|b| b.start_seq == moved.start_seq && !b.ending) {
                due.push(moved);
            }
        }
        if due.is_empty() {
            return Ok(());
        }
        for switch in peers.others(cluster, |r| r.switch) {
            for moves in due.chunks(MOVES_MAX) {
                post.send(switch, Message::Update(Update { moves: moves.to_vec() }));
            }
        }
        Ok(())
    }

    /// A server's load.
    pub(crate) fn load(&mut self, node: NodeId, load: &Load, tools: &Tools<'_>) -> Result<(), DatapathError> {
        self.loads.report(node, load.serving, load.pressure);
        self.tell_load(node, tools)
    }

    /// The dispatcher says which servers may be chosen.
    pub(crate) fn live(&mut self, nodes: Vec<NodeId>, tools: &Tools<'_>) -> Result<(), DatapathError> {
        self.live = Some(nodes);
        self.refresh_live(tools)
    }

    /// Works out which servers may be chosen: those the dispatcher names, of those that are there.
    pub(crate) fn refresh_live(&mut self, tools: &Tools<'_>) -> Result<(), DatapathError> {
        let mut left = false;
        let servers: Vec<NodeId> = self.loads.servers().map(|(node, _)| node).collect();
        for node in servers {
            let named = self.live.as_ref().is_none_or(|live| live.contains(&node));
            let live = named && tools.peers.is_up(node);
            if self.loads.set_live(node, live) {
                left |= !live;
                self.tell_load(node, tools)?;
            }
        }
        if left {
            // A server that left leaves every mapping for good: its targets may be elsewhere by the
            // time it is back.
            self.generation = self.generation.wrapping_add(1);
        }
        self.tell_guides(tools)
    }

    /// How to decide for a pool from now on.
    pub(crate) fn guide(
        &mut self,
        pool: PoolId,
        guide: message::Guide,
        tools: &Tools<'_>,
    ) -> Result<(), DatapathError> {
        if let Some(guided) = self.guided.get_mut(pool.index()) {
            guided.guide = guide;
        }
        self.tell_guides(tools)
    }

    /// Whatever was remembered is void: the dispatcher is another one, or has forgotten.
    pub(crate) fn dispatcher_found(&mut self, tools: &Tools<'_>) -> Result<(), DatapathError> {
        self.generation = self.generation.wrapping_add(1);
        self.tell_guides(tools)
    }

    /// Mappings that changed.
    pub(crate) fn pushed(&mut self, push: &Push, tools: &Tools<'_>) -> Result<(), DatapathError> {
        for change in &push.changes {
            if change.servers.is_empty() {
                if let Some(service) = known_as(tools.cluster, push.pool) {
                    tools.datapath.remove_decision(service, change.target)?;
                }
            } else {
                self.keep(push.pool, change.target, &change.servers, tools)?;
            }
        }
        Ok(())
    }

    fn tell_load(&self, node: NodeId, tools: &Tools<'_>) -> Result<(), DatapathError> {
        let weight = self.loads.weight(node).unwrap_or(1);
        let reported = self.loads.load(node).unwrap_or(0);
        tools.datapath.set_load(node, reported, weight, self.least_weight, self.loads.is_live(node))
    }

    fn tell_guides(&self, tools: &Tools<'_>) -> Result<(), DatapathError> {
        for (pool, guided) in tools.cluster.pools.iter().zip(&self.guided) {
            let Some(service) = known_as(tools.cluster, pool.id) else { continue };
            // While user space is silent the kernel goes round all live servers.
            let everybody: Vec<NodeId> =
                self.loads.of(&guided.servers).live().map(|(node, _)| node).collect();
            let (guide, rota) = match &guided.guide {
                message::Guide::AskAlways => (Guide::Ask, &everybody),
                message::Guide::Cached { load_limit } => {
                    (Guide::Cached { load_limit: *load_limit }, &everybody)
                }
                message::Guide::Rota(turns) => (Guide::Rota, turns),
            };
            tools.datapath.set_guide(service, &guide, rota, self.generation)?;
        }
        Ok(())
    }
}

fn release(hold: &Hold, frame: &Frame) {
    if let Err(error) = hold.release(&frame.bytes) {
        tracing::debug!(%error, flow = %frame.flow, "held packet lost; the client repeats it");
    }
}

fn service_of<'a>(cluster: &'a Cluster, flow: &Flow) -> Option<&'a Service> {
    cluster.services.iter().find(|s| s.port == flow.vip_port && s.vips.contains(&flow.vip))
}
