//! A node's machine, as a model: its packet path (`baton-packet-model`), its TCP stack, its reader, and what its core
//! orders of them. See `baton_core::Outside`.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use baton_cluster::{Flow, Maker, NodeId, PoolId, ServiceId, SpreadTable, Target};
use baton_control::ClusterClock;
use baton_core::{Head, Outside, Refusal, TakenBytes};
use baton_datapath::constants::{FLAG_ADOPTED, FLAG_CLOSED, FLAG_FIN_IN, LINGER_MS, OPTION_TIMESTAMPS};
use baton_datapath::{
    Binding, Counter, DatapathError, Event, GuideKind, Heard, Known, Lease, Numbers, PoolEntry, Progress,
    Reading, Receipt, ServiceEntry, State, Swept,
};
use baton_host::SocketState;
use baton_http::OUTSTANDING_MAX;
use baton_packet_model::{Clock, Decision, Doubt, Guided, Load, Model, Pool, Service};
use rand::Rng as _;
use rand::rngs::StdRng;

use crate::planted::Planted;
use crate::server::Request;
use crate::tcp::End;

type Result<T> = std::result::Result<T, DatapathError>;

/// Who has a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holder {
    Server,
    Reader,
}

/// A socket of the node's stack.
#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) holder: Holder,
    pub(crate) start_seq: u32,
    pub(crate) end: End,
    /// The request of which the server has the head.
    pub(crate) request: Option<Request>,
    /// The pieces of the server's present answer, and when each is ready.
    pub(crate) answers: VecDeque<(u64, Vec<u8>)>,
    /// The reader has told its head.
    pub(crate) is_read: bool,
    /// When it is looked at again.
    pub(crate) timer: Option<u64>,
}

/// The control connections to a node.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Session {
    /// How many there have been.
    pub(crate) number: u64,
    /// Since when the last one is not heard of.
    pub(crate) silent_since: Option<u64>,
    /// How old what is heard of it may be, nanoseconds.
    pub(crate) lag: u64,
    /// The core takes the node for up.
    pub(crate) is_up: bool,
}

/// What a core has made its machine do, for the world to carry out.
#[derive(Debug)]
pub(crate) enum Deed {
    /// A packet given back.
    Release(Vec<u8>),
    /// A packet made for a client.
    Packet(Vec<u8>),
    /// The reader begins to read.
    Read(Flow),
    /// The reader answers a request itself.
    Refuse(Flow),
}

/// See the head of this file.
pub(crate) struct Shell {
    pub(crate) model: Model,
    pub(crate) sockets: BTreeMap<Flow, Socket>,
    pub(crate) counters: BTreeMap<Counter, u64>,
    pub(crate) events: Vec<Event>,
    pub(crate) deeds: Vec<Deed>,
    pub(crate) sessions: BTreeMap<NodeId, Session>,
    /// Simulated time, nanoseconds; and by how much this node's monotonic clock is ahead of it.
    pub(crate) now: u64,
    pub(crate) booted: u64,
    /// The cluster's clock, as the node has it.
    pub(crate) cluster_clock: ClusterClock,
    pub(crate) random: StdRng,
    pub(crate) planted: Option<Planted>,
    /// A server that a connection was decided for, and that the node does not reach.
    pub(crate) unreached: Option<NodeId>,
}

impl Shell {
    pub(crate) fn clock(&self) -> Clock {
        let kernel_ns = self.now + self.booted;
        Clock { kernel_ns, cluster_ns: self.cluster_clock.reads(kernel_ns) }
    }

    pub(crate) fn monotonic(&self) -> Duration {
        Duration::from_nanos(self.clock().kernel_ns)
    }

    fn has(&self, fault: Planted) -> bool {
        self.planted == Some(fault)
    }

    fn reaches(&self, node: NodeId) -> bool {
        node == self.model.settings.node || self.sessions.get(&node).is_some_and(|session| session.is_up)
    }

    /// A connection is decided for a server.
    fn decides(&mut self, server: NodeId) -> NodeId {
        let peers = &self.model.tables.nodes;
        let unreached = || peers.iter().find(|(id, peer)| peer.roles.server && !self.reaches(**id));
        let planted = self.has(Planted::UnreachedServer).then(unreached).flatten();
        let server = planted.map_or(server, |(id, _)| *id);
        if !self.reaches(server) {
            self.unreached = Some(server);
        }
        server
    }

    fn raw(&self, flow: &Flow) -> Option<&baton_packet_model::Binding> {
        self.model.tables.bindings.get(flow)
    }

    /// What happens with an order's outcome.
    fn told(&mut self, outcome: baton_packet_model::Outcome) -> bool {
        let done = !outcome.counted.is_empty() || !outcome.events.is_empty();
        for (counter, n) in outcome.counted {
            *self.counters.entry(counter).or_default() += n;
        }
        self.events.extend(outcome.events);
        done
    }
}

impl Outside for Shell {
    type Stream = Flow;

    fn binding(&mut self, flow: &Flow) -> Result<Option<Binding>> {
        Ok(self.raw(flow).map(|b| Binding {
            state: b.state,
            start_seq: b.start_seq,
            ending: b.has(FLAG_CLOSED | FLAG_FIN_IN),
            is_adopted: b.has(FLAG_ADOPTED),
        }))
    }

    fn asked(&mut self, flow: &Flow) -> Result<Option<Progress>> {
        let Some(f) = self.model.tables.exchanges.get(flow) else { return Ok(None) };
        let (m, requests) = (f.messages(), f.messages.requests());
        let between = requests.is_between_messages() || self.has(Planted::BodiesAreNotFollowed);
        let is_idle = m.asked != 0
            && m.asked == m.answered
            && between
            && f.messages.responses().is_between_messages()
            && m.heard.ack == m.responses.at
            && m.doubt.is_none()
            && !m.closing;
        Ok(Some(Progress {
            start_seq: m.start_seq,
            at: m.requests.at,
            boundary: between.then_some(m.requests.at),
            early_seq: m.early.map(|(seq, _)| seq),
            is_idle,
            is_head_whole: m.asked != 0,
            room: if m.doubt == Some(Doubt::Responses) {
                OUTSTANDING_MAX
            } else {
                OUTSTANDING_MAX.saturating_sub(m.asked.wrapping_sub(m.answered))
            },
            is_let_go: m.doubt == Some(Doubt::All),
            heard: Heard { ack: m.heard.ack, window: m.heard.window, timestamps: m.heard.timestamps },
            cut_seq: m.cut_seq,
        }))
    }

    fn reading(&mut self, flow: &Flow) -> Result<Option<Reading>> {
        Ok(self.raw(flow).filter(|b| b.state == State::Reading).map(|b| Reading {
            start_seq: b.start_seq,
            start_ack: b.start_ack,
            window: b.window,
            timestamps: (u32::from(b.options) & OPTION_TIMESTAMPS != 0).then_some((b.tsval, b.clock)),
            since: Duration::from_nanos(b.since_ns),
        }))
    }

    fn receipt(&mut self, flow: &Flow) -> Result<Option<(Receipt, u32)>> {
        let Some(f) = self.model.tables.exchanges.get(flow) else { return Ok(None) };
        let (Some(b), Some(socket)) = (self.raw(flow), self.sockets.get(flow)) else { return Ok(None) };
        let stamps = u32::from(b.options) & OPTION_TIMESTAMPS != 0;
        let receipt = Receipt {
            seq: b.snd_end,
            ack: socket.end.rcv_nxt,
            window: 64_000,
            timestamps: stamps.then_some((b.clock, f.heard.timestamps.map_or(0, |(value, _)| value))),
            selective: false,
        };
        Ok((b.start_seq == f.start_seq).then_some((receipt, f.messages().requests.at)))
    }

    fn known(&mut self, flow: &Flow, now: Duration) -> Result<Option<Known>> {
        let now_ns = now.as_nanos() as u64;
        let Some(b) = self.raw(flow).filter(|b| b.has(FLAG_CLOSED) || b.is_live(now_ns)) else {
            return Ok(None);
        };
        let undecided = matches!(b.state, State::Open | State::Held);
        let holds = |lease: &Lease| lease.term == b.term && now < lease.until;
        Ok(Some(Known {
            state: b.state,
            start_seq: b.start_seq,
            start_ack: b.start_ack,
            issued: b.issued,
            closed: b.has(FLAG_CLOSED),
            hearsay: b.mss == 0,
            since: Duration::from_nanos(b.since_ns),
            lapsed: undecided && !self.model.tables.leases.iter().any(holds),
        }))
    }

    fn has_begun(&mut self, flow: &Flow, numbers: &Numbers) -> Result<bool> {
        Ok(!self.has(Planted::BegunIsUnknown) && self.model.has_begun(flow, numbers, self.clock()))
    }

    fn bind_held(&mut self, flow: &Flow, start_seq: u32, server: NodeId) -> Result<Option<u64>> {
        let (clock, server) = (self.clock(), self.decides(server));
        Ok(self.model.bind_held(flow, start_seq, server, clock).then_some(clock.cluster_ns))
    }

    fn read_held(&mut self, flow: &Flow, start_seq: u32) -> Result<bool> {
        let clock = self.clock();
        Ok(self.model.read_held(flow, start_seq, clock))
    }

    fn released(&mut self, flow: &Flow, start_seq: u32, held: u32) -> Result<bool> {
        Ok(self.model.released(flow, start_seq, held))
    }

    fn decide_asked(&mut self, flow: &Flow, seq: u32, server: NodeId) -> Result<Option<u32>> {
        let clock = self.clock();
        let server = self.decides(server);
        let server = if self.has(Planted::WrongServer) { self.model.settings.node } else { server };
        Ok(self.model.decide_asked(flow, seq, server, clock))
    }

    fn answer_asked(&mut self, flow: &Flow, seq: u32) -> Result<Option<u32>> {
        let clock = self.clock();
        let reader = NodeId(baton_datapath::constants::NODE_READER as u16);
        Ok(self.model.decide_asked(flow, seq, reader, clock))
    }

    fn bind_read(
        &mut self,
        flow: &Flow,
        start_seq: u32,
        server: NodeId,
        replay_end: u32,
    ) -> Result<Option<u64>> {
        let (clock, server) = (self.clock(), self.decides(server));
        let bound = self.model.bind_read(flow, start_seq, server, replay_end, clock);
        Ok(bound.then_some(clock.cluster_ns))
    }

    fn bind_told(
        &mut self,
        flow: &Flow,
        start_seq: u32,
        server: NodeId,
        distributor: NodeId,
        issued: u64,
    ) -> Result<bool> {
        let clock = self.clock();
        let issued = if self.has(Planted::NewsOutOfOrder) { u64::MAX / 4 } else { issued };
        let outcome = self.model.bind_told(flow, start_seq, server, distributor, issued, clock);
        Ok(self.told(outcome))
    }

    fn bind_found(&mut self, flow: &Flow, start_seq: u32, owner: NodeId, issued: u64) -> Result<bool> {
        let clock = self.clock();
        let outcome = self.model.bind_found(flow, start_seq, owner, issued, clock);
        Ok(self.told(outcome))
    }

    fn close_told(&mut self, flow: &Flow, start_seq: u32) -> Result<bool> {
        let clock = self.clock();
        self.model.close_told(flow, start_seq, clock);
        Ok(true)
    }

    fn remove_binding(&mut self, flow: &Flow) -> Result<()> {
        self.model.tables.bindings.remove(flow);
        Ok(())
    }

    fn population(&mut self) -> Result<u64> {
        Ok(0)
    }

    fn sweep(&mut self) -> Result<Swept> {
        let now = self.clock().kernel_ns;
        let before = self.model.tables.bindings.len();
        // What has ended stays for a while, for late packets.
        let lingers = |b: &baton_packet_model::Binding| {
            b.has(FLAG_CLOSED) && now.saturating_sub(b.seen_ns) <= u64::from(LINGER_MS) * 1_000_000
        };
        self.model.tables.bindings.retain(|_, b| lingers(b) || b.is_live(now));
        let after = self.model.tables.bindings.len();
        Ok(Swept { live: after as u32, ended: 0, aside: 0, removed: (before - after) as u32 })
    }

    fn counter(&mut self, counter: Counter) -> Result<u64> {
        Ok(self.counters.get(&counter).copied().unwrap_or(0))
    }

    fn spoken(&mut self, service: ServiceId) -> Result<u64> {
        Ok(self.model.tables.evidence.spoken.get(&service).copied().unwrap_or(0))
    }

    fn waiting(&mut self, _port: u16) -> Option<(u64, u32)> {
        None
    }

    fn handoffs_sent(&mut self, to: NodeId) -> Result<u64> {
        Ok(self.model.tables.evidence.sent.get(&to).copied().unwrap_or(0))
    }

    fn handoffs_taken(&mut self, from: NodeId) -> Result<u64> {
        Ok(self.model.tables.evidence.taken.get(&from).copied().unwrap_or(0))
    }

    fn busy(&mut self, silent_since: Duration) -> u64 {
        let serves = |b: &&baton_packet_model::Binding| {
            b.has(baton_datapath::constants::FLAG_SERVING) && u128::from(b.seen_ns) >= silent_since.as_nanos()
        };
        self.model.tables.bindings.values().filter(serves).count() as u64
    }

    fn connections_at(&mut self, addresses: &[(IpAddr, u16)], now: Duration) -> (Vec<u64>, Duration) {
        let now = now.as_nanos() as u64;
        let bindings = &self.model.tables.bindings;
        let at = |address: &(IpAddr, u16)| {
            let its = |(flow, b): &(&Flow, &baton_packet_model::Binding)| {
                (flow.vip, flow.vip_port) == *address && b.is_live(now)
            };
            bindings.iter().filter(its).count() as u64
        };
        (addresses.iter().map(at).collect(), Duration::ZERO)
    }

    fn decided(&mut self, pool: PoolId, target: Option<Target>, _now: Duration) -> Result<Option<NodeId>> {
        let pool = if self.has(Planted::AnyServer) { PoolId(pool.0 ^ 1) } else { pool };
        Ok(self.model.decided(pool, target, self.clock()))
    }

    fn set_decision(
        &mut self,
        pool: PoolId,
        target: Target,
        servers: &[NodeId],
        expires: Option<Duration>,
        generation: u32,
    ) -> Result<()> {
        let expires_ns = expires.map(|at| at.as_nanos() as u64);
        let decision = Decision { servers: servers.to_vec(), expires_ns, generation };
        self.model.tables.decisions.insert((pool, target), decision);
        Ok(())
    }

    fn remove_decision(&mut self, pool: PoolId, target: Target) -> Result<()> {
        self.model.tables.decisions.remove(&(pool, target));
        Ok(())
    }

    fn forget_server(&mut self, server: NodeId) -> Result<usize> {
        let before = self.model.tables.decisions.len();
        self.model.tables.decisions.retain(|_, decision| !decision.servers.contains(&server));
        Ok(before - self.model.tables.decisions.len())
    }

    fn set_guide(&mut self, pool: PoolId, guide: &GuideKind, rota: &[NodeId], generation: u32) -> Result<()> {
        let guided = Guided { guide: guide.clone(), rota: rota.to_vec(), generation };
        self.model.tables.guides.insert(pool, guided);
        Ok(())
    }

    fn set_load(
        &mut self,
        node: NodeId,
        reported: u32,
        weight: u16,
        least_weight: u16,
        live: bool,
    ) -> Result<()> {
        let load = Load { reported, assigned: 0, weight, least_weight, live, gone: false };
        self.model.tables.loads.insert(node, load);
        Ok(())
    }

    fn add_assigned(&mut self, node: NodeId) -> Result<()> {
        if let Some(load) = self.model.tables.loads.get_mut(&node) {
            load.assigned += 1;
        }
        Ok(())
    }

    fn set_member(&mut self, mac: [u8; 6], node: NodeId) -> Result<()> {
        self.model.tables.members.insert(mac, node);
        Ok(())
    }

    fn remove_member(&mut self, mac: [u8; 6]) -> Result<()> {
        self.model.tables.members.remove(&mac);
        Ok(())
    }

    fn set_leases(&mut self, leases: &[Lease]) -> Result<()> {
        let mut leases = leases.to_vec();
        if self.has(Planted::NoLeases) {
            leases.iter_mut().for_each(|lease| (lease.until, lease.is_heir) = (Duration::MAX, false));
        }
        self.model.tables.leases = leases;
        Ok(())
    }

    fn set_spread_table(&mut self, table: u8, spread: &SpreadTable) -> Result<()> {
        self.model.tables.spread.tables.insert(table, spread.clone().into());
        Ok(())
    }

    fn set_maker(&mut self, number: u16, maker: &Maker) -> Result<()> {
        self.model.tables.spread.makers.insert(number, *maker);
        Ok(())
    }

    fn set_spread(&mut self, table: u8, unsettled: Duration, refuse: Duration) -> Result<()> {
        let spread = &mut self.model.tables.spread;
        spread.table = Some(table);
        spread.unsettled_ns = u64::try_from(unsettled.as_nanos()).unwrap_or(u64::MAX);
        spread.refuse_ns = u64::try_from(refuse.as_nanos()).unwrap_or(u64::MAX);
        Ok(())
    }

    fn set_pool(&mut self, p: &PoolEntry) -> Result<()> {
        let pool = Pool { key: p.key.clone(), p_http: p.p_http, servers: p.servers.clone() };
        if !self.has(Planted::OldPools) || !self.model.tables.pools.contains_key(&p.id) {
            self.model.tables.pools.insert(p.id, pool);
        }
        Ok(())
    }

    fn set_service(&mut self, s: &ServiceEntry) -> Result<()> {
        for vip in &s.vips {
            let service = Service {
                id: s.id,
                protocol: s.protocol,
                rules: s.rules.clone(),
                pools: s.pools.clone(),
                strict: s.strict,
                follows: s.follows,
                ending: false,
                hosts: std::collections::HashSet::new(),
            };
            self.model.tables.services.insert((*vip, s.port), service);
        }
        Ok(())
    }

    fn set_host(&mut self, s: &ServiceEntry, host: &str) -> Result<()> {
        for vip in &s.vips {
            if let Some(service) = self.model.tables.services.get_mut(&(*vip, s.port)) {
                service.hosts.insert(host.to_owned());
            }
        }
        Ok(())
    }

    fn end_address(&mut self, vip: IpAddr, port: u16) -> Result<()> {
        if self.has(Planted::EndsAtOnce) {
            return self.remove_address(vip, port);
        }
        if let Some(service) = self.model.tables.services.get_mut(&(vip, port)) {
            service.ending = true;
        }
        Ok(())
    }

    fn remove_address(&mut self, vip: IpAddr, port: u16) -> Result<()> {
        self.model.tables.services.remove(&(vip, port));
        Ok(())
    }

    fn remove_service(&mut self, _service: ServiceId) -> Result<()> {
        Ok(())
    }

    fn remove_pool(&mut self, pool: PoolId) -> Result<()> {
        self.model.tables.pools.remove(&pool);
        Ok(())
    }

    fn release(&mut self, frame: &[u8]) -> io::Result<()> {
        self.deeds.push(Deed::Release(frame.to_vec()));
        Ok(())
    }

    fn send_packet(&mut self, packet: &[u8], _flow: &Flow) -> io::Result<()> {
        self.deeds.push(Deed::Packet(packet.to_vec()));
        Ok(())
    }

    fn read_head(&mut self, head: Head<Flow>, _strict: bool) {
        self.deeds.push(Deed::Read(head.flow));
    }

    fn refuse(&mut self, head: Head<Flow>, _refusal: Refusal) {
        self.deeds.push(Deed::Refuse(head.flow));
    }

    fn gone(&mut self) {}

    fn take(&mut self, head: Head<Flow>, start_seq: u32) -> Result<Option<TakenBytes>> {
        let flow = head.flow;
        let is_its = |socket: &Socket| socket.holder == Holder::Reader && !socket.end.is_reset;
        if !self.sockets.get(&flow).is_some_and(is_its) {
            return Ok(None);
        }
        let Some(mut socket) = self.sockets.remove(&flow) else { return Ok(None) };
        self.model.stack.sockets.remove(&flow);
        if !self.model.freeze(&flow, start_seq) {
            return Ok(None);
        }
        let mut bytes = std::mem::take(&mut socket.end.input);
        if self.has(Planted::TakesTooLittle) {
            bytes.pop();
        }
        Ok(Some(TakenBytes { bytes, fin: socket.end.they_ended() }))
    }

    fn socket(&mut self, flow: &Flow) -> io::Result<Option<SocketState>> {
        let is_servers = |socket: &&Socket| socket.holder == Holder::Server;
        Ok(self.sockets.get(flow).filter(is_servers).map(|_| SocketState::Live))
    }

    fn pressure(&mut self, _now: Instant) -> u8 {
        0
    }

    fn heard_by(&mut self, node: NodeId) -> Option<(u64, Duration)> {
        let Session { number, silent_since, lag, .. } = *self.sessions.get(&node)?;
        let ago = silent_since.map_or(0, |since| self.now.saturating_sub(since)) + lag;
        let ago = if self.has(Planted::SilentIsHeard) { 0 } else { ago };
        Some((number, Duration::from_nanos(ago)))
    }

    fn cluster_time(&mut self) -> Duration {
        Duration::from_nanos(self.clock().cluster_ns)
    }

    fn random(&mut self) -> u32 {
        self.random.random()
    }
}
