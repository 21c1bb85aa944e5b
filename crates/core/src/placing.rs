//! The share of user space in placing requests: packets that the kernel holds because it cannot decide,
//! first requests on distributors, later ones on the servers that have the connection. Each is asked of
//! the dispatcher, once; the answer lets its packets go on. Without a dispatcher the fallback decides,
//! which every node computes alike.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::{Duration, Instant};

use baton_cluster::{Flow, NodeId, PoolId};
use baton_control::{BatchLimits, Batcher};
use baton_datapath::replay::Replay;
use baton_datapath::{DatapathError, Frame, Reading, State, answer};

mod asking;
mod feeding;
mod kept;

use feeding::is_early;

use crate::early::Early;
use crate::guides::Guides;
use crate::head::{Head, Refusal};
use crate::line::{DispatcherLine, SeatState};
use crate::outside::Outside;
use crate::owners::Owners;
use crate::question::{self, Read};
use crate::replays::{Replayed, Replays};
use crate::services::Services;
use crate::tools::Tools;
use crate::trouble::for_all;
use crate::waiting::{Ticket, Waiting, Waits, release, up_to_date};

/// A question unanswered for this long is decided by the fallback.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);
/// And one unanswered for this long is put to another dispatcher, if there is one.
const ANSWER_PATIENCE: Duration = Duration::from_millis(200);

/// What is counted in user space.
#[derive(Clone, Copy, Debug, Default)]
pub struct PlacingTally {
    /// Questions put to the dispatcher.
    pub asked: u64,
    /// Of them, answered.
    pub answered: u64,
    /// Messages that they were put in.
    pub batches: u64,
    /// Put to another dispatcher, because the first one was silent or went away.
    pub reasked: u64,
    /// Answered by a server's name that this node does not reach.
    pub unreachable: u64,
    /// Without answer in time, or without a server.
    pub failed: u64,
    /// Decided without the dispatcher.
    pub fallback: u64,
    /// Decided as the programs would have.
    pub known: u64,
    /// Packets for which there was no room.
    pub overflowed: u64,
}

/// The interface that clients' packets arrive by, as the bytes of a replay name it.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    /// Its address.
    pub mac: [u8; 6],
    /// What it carries, bytes, and the ways to the other nodes.
    pub mtu: usize,
    /// The nodes have IPv6 addresses.
    pub ipv6_nodes: bool,
}

/// The placing of requests on this node.
#[derive(Debug)]
pub struct Placing<S> {
    me: NodeId,
    /// The dispatchers, and which of them is asked.
    pub(crate) line: DispatcherLine,
    /// Who has the batch under way.
    put_to: Option<NodeId>,
    /// Nobody could tell this node what has moved, for a while.
    lapsed: bool,
    batcher: Batcher<Ticket>,
    waits: Waits<S>,
    early: Early,
    pub(crate) guides: Guides,
    pub(crate) replays: Replays,
    pub(crate) link: Link,
    pub(crate) owners: Owners,
    handed: BTreeMap<NodeId, u64>,
    tally: PlacingTally,
    target_secret: u64,
}

impl<S: Debug> Placing<S> {
    pub(crate) fn new(services: &Services, me: NodeId, link: Link, now: Instant) -> Self {
        let cluster = services.cluster();
        let owners = Owners::new(cluster, me, link.mac, now);
        let held_packets_max = cluster.limits.held_packets as usize;
        Self {
            me,
            line: DispatcherLine::new(cluster.dispatchers().map(|node| node.id), now),
            put_to: None,
            lapsed: true,
            batcher: Batcher::new(BatchLimits {
                undecided_max: held_packets_max,
                answer_timeout: ANSWER_TIMEOUT,
            }),
            waits: Waits::new(held_packets_max),
            early: Early::new(held_packets_max),
            guides: Guides::new(services),
            replays: Replays::new(cluster.limits.reader_connections as usize),
            link,
            owners,
            handed: BTreeMap::new(),
            tally: PlacingTally::default(),
            target_secret: cluster.keys().target,
        }
    }

    /// The servers' loads and the rules for deciding alone.
    pub fn guides(&self) -> &Guides {
        &self.guides
    }

    /// Connections that nobody here knew.
    pub fn owners(&self) -> &Owners {
        &self.owners
    }

    /// What servers have yet to take of connections that the reader had.
    pub fn replays(&self) -> &Replays {
        &self.replays
    }

    /// Whether something is due sooner than usual.
    pub(crate) fn is_busy(&self) -> bool {
        !self.replays.is_empty() || self.early.is_busy()
    }

    /// Packets that wait now.
    pub fn held_now(&self) -> usize {
        self.waits.packets()
    }

    /// The dispatchers, how they stand with this node, and how often each was late.
    pub fn dispatchers(&self, now: Instant) -> impl Iterator<Item = (NodeId, SeatState, u64)> {
        self.line.standings(now)
    }

    /// What has been counted.
    pub fn tally(&self) -> PlacingTally {
        PlacingTally { overflowed: self.waits.overflowed, ..self.tally }
    }

    /// Connections that user space handed to a server.
    pub fn handed_to(&self, node: NodeId) -> u64 {
        self.handed.get(&node).copied().unwrap_or(0)
    }

    /// A packet that the kernel holds.
    pub(crate) fn frame(
        &mut self,
        bytes: &[u8],
        tools: &mut Tools<'_, impl Outside<Stream = S>>,
    ) -> Result<(), DatapathError> {
        let Some(frame) = Frame::parse(bytes) else { return Ok(()) };
        if frame.is_unknown() {
            return self.owners.packet(frame, tools);
        }
        let (flow, seq) = (frame.flow, frame.seq);
        self.tell_socket(&frame, tools)?;
        if is_early(&frame, tools)? {
            self.early.add(frame, tools.now);
            self.waits.read_another(&flow, tools.outside)?;
            self.feed(&flow, tools)?;
            if let Some(asked) = tools.outside.asked(&flow)? {
                self.early.came(&flow, asked.at, seq, tools.now);
            }
            return Ok(());
        }
        let Some(frame) = self.waits.add(frame, tools.outside)? else { return Ok(()) };
        let Some(binding) = tools.outside.binding(&frame.flow)? else { return Ok(()) };
        match binding.state {
            // Decided while this packet was on its way up here.
            State::Bound(_) => {
                let frame = up_to_date(&frame, binding.start_seq, tools.outside)?;
                release(tools.outside, &frame, None);
            }
            // Or moved, by a packet that this one must not overtake.
            State::Releasing(_) | State::Reading => {
                self.waits.pass_on(&frame, binding.start_seq, tools.outside)?;
            }
            State::Held if binding.start_seq == frame.seq => self.first(frame, tools)?,
            State::Asking => self.later(frame, tools)?,
            // A later segment whose first one is not here: the client repeats both.
            State::Held | State::Open => {}
        }
        Ok(())
    }

    /// The first request of a connection.
    fn first(
        &mut self,
        frame: Frame,
        tools: &mut Tools<'_, impl Outside<Stream = S>>,
    ) -> Result<(), DatapathError> {
        let Some(service) = tools.services.of(&frame.flow) else { return Ok(()) };
        let read = question::read(service, frame.payload(), self.target_secret);
        let waiting = match read {
            Read::Reader | Read::Doubtful(_) | Read::Refused(_) => {
                if tools.outside.read_held(&frame.flow, frame.seq)? {
                    self.waits.pass_on(&frame, frame.seq, tools.outside)?;
                }
                return Ok(());
            }
            Read::Unclear => {
                let pool = service.pools.first().copied().unwrap_or(PoolId(0));
                Waiting::of(frame.clone(), pool, None, tools.now)
            }
            Read::Request { pool, target, host, next } => {
                if let Some(host) = host {
                    tools.outside.set_host(service, &host)?;
                }
                let cut = next.filter(|_| service.strict).map(|at| frame.seq.wrapping_add(at as u32));
                Waiting { cut_seq: cut, ..Waiting::of(frame.clone(), pool, target, tools.now) }
            }
        };
        self.ask(frame.flow, waiting, tools)
    }

    /// A later request of a connection that this node serves.
    fn later(
        &mut self,
        frame: Frame,
        tools: &mut Tools<'_, impl Outside<Stream = S>>,
    ) -> Result<(), DatapathError> {
        let Some(service) = tools.services.of(&frame.flow) else { return Ok(()) };
        let Some(asked) = tools.outside.asked(&frame.flow)? else { return Ok(()) };
        let flow = frame.flow;
        if service.strict && !question::is_asked(&frame, &asked) {
            // It was on its way up here before that one, and goes back behind it.
            self.early.add(frame, tools.now);
            return Ok(());
        }
        let behind = self.early.take(&flow);
        let (start_seq, mut cut_seq) = (asked.start_seq, asked.cut_seq);
        let here = service.pools.first().copied().unwrap_or(PoolId(0));
        let read = question::read(service, frame.payload(), self.target_secret);
        // What stands before the request goes to the server that has the connection.
        let begins = asked.boundary == Some(frame.seq) && question::empty_lines(frame.payload()) == 0;
        let waiting = match read {
            Read::Request { pool, target, host, next } if begins => {
                if let Some(host) = host {
                    tools.outside.set_host(service, &host)?;
                }
                // As above: it may be longer than the one that the kernel asks about.
                cut_seq = next.filter(|_| service.strict).map(|at| frame.seq.wrapping_add(at as u32));
                Waiting::of(frame, pool, target, tools.now)
            }
            Read::Doubtful(_) if begins => {
                // The reader takes it alone, and refuses it.
                cut_seq = question::next_request(frame.payload()).map(|at| frame.seq.wrapping_add(at as u32));
                let waiting = Waiting::of(frame, here, None, tools.now);
                let mut waiting = Waiting { start_seq, is_ours: true, cut_seq, ..waiting };
                waiting.frames.extend(behind);
                if tools.outside.answer_asked(&flow, waiting.seq)?.is_none() {
                    return Ok(());
                }
                return self.waits.release(flow, start_seq, &waiting, tools.outside);
            }
            // The end of a request, and the next one behind it: or nothing that could be decided.
            _ => {
                let waiting = Waiting::of(frame, here, None, tools.now);
                let mut waiting = Waiting { start_seq, is_ours: true, cut_seq, ..waiting };
                waiting.frames.extend(behind);
                let Ok(ticket) = self.waits.begin(flow, waiting) else { return Ok(()) };
                return self.settle(ticket, self.me, tools);
            }
        };
        let mut waiting = Waiting { start_seq, is_ours: true, cut_seq, ..waiting };
        waiting.frames.extend(behind);
        // It cannot move now: all that the kernel could not tell is whether it may stay.
        if service.strict && !asked.is_idle && self.guides.is_member(waiting.pool, self.me) {
            let Ok(ticket) = self.waits.begin(flow, waiting) else { return Ok(()) };
            return self.settle(ticket, self.me, tools);
        }
        self.ask(flow, waiting, tools)
    }

    /// Decides a waiting request for a server and lets its packets go on.
    fn settle(
        &mut self,
        ticket: Ticket,
        server: NodeId,
        tools: &mut Tools<'_, impl Outside<Stream = S>>,
    ) -> Result<(), DatapathError> {
        let Some(mut waited) = self.waits.take(&ticket) else { return Ok(()) };
        let flow = ticket.flow;
        if let Some(head) = waited.head.take() {
            return self.replay(server, head, waited, tools);
        }
        if waited.is_ours {
            let Some(start_seq) = tools.outside.decide_asked(&flow, waited.seq, server)? else {
                return Ok(());
            };
            if server == self.me {
                waited.strip_timestamps();
            }
            self.waits.release(flow, start_seq, &waited, tools.outside)?;
            return self.feed(&flow, tools);
        }
        if tools.outside.bind_held(&flow, waited.seq, server)?.is_none() {
            return Ok(());
        }
        self.assign(server, tools)?;
        self.waits.release(flow, waited.seq, &waited, tools.outside)
    }

    /// Nobody is there to have a request. The reader says so, in the protocol of its service, and so it gets
    /// what it has not got yet.
    fn nobody(
        &mut self,
        flow: Flow,
        mut waited: Waiting<S>,
        tools: &mut Tools<'_, impl Outside<Stream = S>>,
    ) -> Result<(), DatapathError> {
        if let Some(head) = waited.head.take() {
            tools.outside.refuse(head, Refusal::NoServer);
            return Ok(());
        }
        let start_seq = if waited.is_ours {
            tools.outside.answer_asked(&flow, waited.seq)?
        } else {
            tools.outside.read_held(&flow, waited.seq)?.then_some(waited.seq)
        };
        let Some(start_seq) = start_seq else { return Ok(()) };
        self.waits.release(flow, start_seq, &waited, tools.outside)
    }

    fn assign(
        &mut self,
        server: NodeId,
        tools: &mut Tools<'_, impl Outside<Stream = S>>,
    ) -> Result<(), DatapathError> {
        self.guides.assign(server);
        *self.handed.entry(server).or_default() += 1;
        tools.outside.add_assigned(server)
    }

    /// No server can take the request. The client repeats packets that are held; what the reader has acknowledged it does
    /// not repeat, so the reader refuses it.
    fn give_up(&mut self, waited: Option<Waiting<S>>, outside: &mut impl Outside<Stream = S>) {
        if let Some(head) = waited.and_then(|waited| waited.head) {
            outside.refuse(head, Refusal::NoServer);
        }
    }

    /// The programs have given the reader a connection.
    pub(crate) fn accepted(&mut self, head: Head<S>, tools: &mut Tools<'_, impl Outside<Stream = S>>) {
        if let Some(service) = tools.services.of(&head.flow) {
            tools.outside.read_head(Head { protocol: service.protocol, ..head }, service.strict);
        }
    }

    /// The reader has a request's head.
    pub(crate) fn whole_head(
        &mut self,
        head: Head<S>,
        tools: &mut Tools<'_, impl Outside<Stream = S>>,
    ) -> Result<(), DatapathError> {
        let flow = head.flow;
        let Some(service) = tools.services.of(&flow) else { return Ok(()) };
        let Some(reading) = tools.outside.reading(&flow)? else {
            tools.outside.gone();
            return Ok(());
        };
        let (pool, target) = match question::read(service, &head.bytes, self.target_secret) {
            Read::Request { pool, target, host, .. } => {
                if let Some(host) = host {
                    tools.outside.set_host(service, &host)?;
                }
                (pool, target)
            }
            Read::Refused(alert) => {
                tools.outside.refuse(head, Refusal::Alert(alert));
                return Ok(());
            }
            Read::Doubtful(reason) => {
                tools.outside.refuse(head, Refusal::Doubtful(reason));
                return Ok(());
            }
            // In doubt, and any server may have it: by load alone.
            Read::Reader | Read::Unclear => (service.pools.first().copied().unwrap_or(PoolId(0)), None),
        };
        let waiting = Waiting {
            start_seq: reading.start_seq,
            seq: reading.start_seq,
            pool,
            target,
            is_ours: false,
            cut_seq: None,
            head: Some(head),
            frames: Vec::new(),
            read: self.waits.passed_on(&flow),
            since: tools.now,
        };
        self.ask(flow, waiting, tools)
    }

    /// Hands off a connection that the reader has: its server gets the client's bytes once more.
    fn replay(
        &mut self,
        server: NodeId,
        head: Head<S>,
        mut waited: Waiting<S>,
        tools: &mut Tools<'_, impl Outside<Stream = S>>,
    ) -> Result<(), DatapathError> {
        let (flow, start_seq) = (head.flow, waited.seq);
        let reading = tools.outside.reading(&flow)?.filter(|r| r.start_seq == start_seq);
        let taken = match &reading {
            Some(_) => tools.outside.take(head, start_seq)?,
            None => None,
        };
        let (Some(reading), Some(taken)) = (reading, taken) else {
            tools.outside.gone();
            return Ok(());
        };
        let reading = Reading { timestamps: reading.timestamps_at(tools.monotonic), ..reading };
        let replay = Replay { flow, reading, bytes: &taken.bytes, fin: taken.fin };
        let end = replay.end();
        if tools.outside.bind_read(&flow, start_seq, server, end)?.is_none() {
            tools.outside.gone();
            if tools.outside.reading(&flow)?.is_some_and(|r| r.start_seq == start_seq) {
                // The right to decide has run out, and its client has been told that all of it came.
                let packet = answer::reset(&flow, reading.start_ack, end);
                if let Err(error) = tools.outside.send_packet(&packet, &flow) {
                    tracing::debug!(%error, %flow, "the client could not be told; it will give up by itself");
                }
                tools.outside.remove_binding(&flow)?;
            }
            return Ok(());
        }
        self.assign(server, tools)?;
        let frames = replay.frames(self.link.mac, self.link.mtu, self.link.ipv6_nodes);
        let start_ack = reading.start_ack;
        let replayed = Replayed { start_seq, start_ack, end, frames, since: tools.now };
        self.replays.begin(flow, replayed, tools.outside);
        waited.frames.extend(self.early.take(&flow));
        self.waits.release(flow, start_seq, &waited, tools.outside)
    }

    /// Called on every tick: questions and packets that waited too long.
    pub(crate) fn tick(
        &mut self,
        tools: &mut Tools<'_, impl Outside<Stream = S>>,
    ) -> Result<(), DatapathError> {
        let asked = self.owners.tick(tools);
        let decided = self.ask_in_time(tools);
        for waited in self.waits.expire(tools.now) {
            self.tally.failed += 1;
            self.give_up(Some(waited), tools.outside);
        }
        self.early.expire(tools.now);
        let gaps = self.early.take_untold(tools.now);
        let heard = for_all(gaps, |(flow, untold)| self.tell_client(&flow, untold, tools));
        let fed = for_all(self.early.due(tools.now), |flow| {
            let fed = self.feed(&flow, tools);
            self.early.forget_late_half(&flow, tools.now);
            fed
        });
        let told = self.guides.tick(tools.outside, tools.now);
        let repeated = self.replays.tick(tools);
        let forgotten = self.waits.forget_released(tools.outside);
        asked.and(decided).and(heard).and(fed).and(told).and(repeated).and(forgotten)
    }
}

impl<S> Waiting<S> {
    fn of(frame: Frame, pool: PoolId, target: Option<baton_cluster::Target>, now: Instant) -> Self {
        Self {
            start_seq: frame.seq,
            seq: frame.seq,
            pool,
            target,
            is_ours: false,
            cut_seq: None,
            head: None,
            frames: vec![frame],
            read: 1,
            since: now,
        }
    }
}
