//! What a node's core acts on, and asks: the programs' tables, the hold device, the reader's sockets, the node's own
//! TCP stack, and chance. The daemon gives it the real ones; the simulation gives it a model of them. Time is no part
//! of it: the core is told the moment with each thing that happens.
//!
//! Orders answer, and are asked and given within one step, because a packet may change a binding at any moment: each
//! is compared with what it was given for (docs/decisions/0021).

use std::fmt::Debug;
use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use baton_cluster::{Flow, Maker, NodeId, PoolId, ServiceId, SpreadTable, Target};
use baton_datapath::{
    Binding, Counter, DatapathError, GuideKind, Known, Lease, Numbers, PoolEntry, Progress, Reading, Receipt,
    ServiceEntry, Swept,
};
use baton_host::SocketState;

use crate::head::{Head, Refusal, TakenBytes};

/// One moment, by the two clocks that a core is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// For what is measured on this node alone.
    pub instant: Instant,
    /// CLOCK_MONOTONIC, which the programs use too.
    pub monotonic: Duration,
}

type Result<T> = std::result::Result<T, DatapathError>;

/// See the head of this file. Each method is [`baton_datapath::Datapath`]'s of its name, if it has one.
#[allow(missing_docs, reason = "the datapath's own words, which must not be said twice")]
#[allow(clippy::missing_errors_doc, reason = "as above")]
pub trait Outside {
    /// A connection that the reader has.
    type Stream: Debug;

    // Connections.
    fn binding(&mut self, flow: &Flow) -> Result<Option<Binding>>;
    fn asked(&mut self, flow: &Flow) -> Result<Option<Progress>>;
    fn reading(&mut self, flow: &Flow) -> Result<Option<Reading>>;
    fn receipt(&mut self, flow: &Flow) -> Result<Option<(Receipt, u32)>>;
    fn known(&mut self, flow: &Flow, now: Duration) -> Result<Option<Known>>;
    fn has_begun(&mut self, flow: &Flow, numbers: &Numbers) -> Result<bool>;
    fn bind_held(&mut self, flow: &Flow, start_seq: u32, server: NodeId) -> Result<Option<u64>>;
    fn read_held(&mut self, flow: &Flow, start_seq: u32) -> Result<bool>;
    fn released(&mut self, flow: &Flow, start_seq: u32, held: u32) -> Result<bool>;
    fn decide_asked(&mut self, flow: &Flow, seq: u32, server: NodeId) -> Result<Option<u32>>;
    fn answer_asked(&mut self, flow: &Flow, seq: u32) -> Result<Option<u32>>;
    fn bind_read(
        &mut self,
        flow: &Flow,
        start_seq: u32,
        server: NodeId,
        replay_end: u32,
    ) -> Result<Option<u64>>;
    fn bind_told(
        &mut self,
        flow: &Flow,
        start_seq: u32,
        server: NodeId,
        distributor: NodeId,
        issued: u64,
    ) -> Result<bool>;
    fn bind_found(&mut self, flow: &Flow, start_seq: u32, owner: NodeId, issued: u64) -> Result<bool>;
    fn close_told(&mut self, flow: &Flow, start_seq: u32) -> Result<bool>;
    fn remove_binding(&mut self, flow: &Flow) -> Result<()>;

    // The table of connections.
    fn population(&mut self) -> Result<u64>;
    fn sweep(&mut self) -> Result<Swept>;
    fn counter(&mut self, counter: Counter) -> Result<u64>;
    fn spoken(&mut self, service: ServiceId) -> Result<u64>;
    /// Connections that wait for this node's web server on a port at the last look, and that look's number; `None`: unknown.
    fn waiting(&mut self, port: u16) -> Option<(u64, u32)>;
    fn handoffs_sent(&mut self, to: NodeId) -> Result<u64>;
    fn handoffs_taken(&mut self, from: NodeId) -> Result<u64>;
    fn busy(&mut self, silent_since: Duration) -> u64;
    /// And how long it took to count them.
    fn connections_at(&mut self, addresses: &[(IpAddr, u16)], now: Duration) -> (Vec<u64>, Duration);

    // Decisions.
    fn decided(&mut self, pool: PoolId, target: Option<Target>, now: Duration) -> Result<Option<NodeId>>;
    fn set_decision(
        &mut self,
        pool: PoolId,
        target: Target,
        servers: &[NodeId],
        expires: Option<Duration>,
        generation: u32,
    ) -> Result<()>;
    fn remove_decision(&mut self, pool: PoolId, target: Target) -> Result<()>;
    fn forget_server(&mut self, server: NodeId) -> Result<usize>;
    fn set_guide(&mut self, pool: PoolId, guide: &GuideKind, rota: &[NodeId], generation: u32) -> Result<()>;
    fn set_load(
        &mut self,
        node: NodeId,
        reported: u32,
        weight: u16,
        least_weight: u16,
        live: bool,
    ) -> Result<()>;
    fn add_assigned(&mut self, node: NodeId) -> Result<()>;

    // Members, leases, the switch's tables.
    fn set_member(&mut self, mac: [u8; 6], node: NodeId) -> Result<()>;
    fn remove_member(&mut self, mac: [u8; 6]) -> Result<()>;
    fn set_leases(&mut self, leases: &[Lease]) -> Result<()>;
    fn set_spread_table(&mut self, table: u8, spread: &SpreadTable) -> Result<()>;
    fn set_maker(&mut self, number: u16, maker: &Maker) -> Result<()>;
    fn set_spread(&mut self, table: u8, unsettled: Duration, refuse: Duration) -> Result<()>;

    // Services.
    fn set_pool(&mut self, pool: &PoolEntry) -> Result<()>;
    fn set_service(&mut self, service: &ServiceEntry) -> Result<()>;
    fn set_host(&mut self, service: &ServiceEntry, host: &str) -> Result<()>;
    fn end_address(&mut self, vip: IpAddr, port: u16) -> Result<()>;
    fn remove_address(&mut self, vip: IpAddr, port: u16) -> Result<()>;
    fn remove_service(&mut self, service: ServiceId) -> Result<()>;
    fn remove_pool(&mut self, pool: PoolId) -> Result<()>;

    /// Gives a packet back through the hold device.
    fn release(&mut self, frame: &[u8]) -> io::Result<()>;
    /// Sends a whole IP packet to a client.
    fn send_packet(&mut self, packet: &[u8], flow: &Flow) -> io::Result<()>;

    // The reader.
    /// Begins to read a head.
    fn read_head(&mut self, head: Head<Self::Stream>, strict: bool);
    /// Answers a request that was read, but cannot be handed off.
    fn refuse(&mut self, head: Head<Self::Stream>, refusal: Refusal);
    /// The client had left when its connection was to be handed off.
    fn gone(&mut self);
    /// Ends a connection at the reader; `None` when there is nothing to hand off any more.
    fn take(&mut self, head: Head<Self::Stream>, start_seq: u32) -> Result<Option<TakenBytes>>;

    /// How the node's stack has a connection, if it has it; an error when that cannot be said.
    fn socket(&mut self, flow: &Flow) -> io::Result<Option<SocketState>>;
    /// How busy the server's disk is, percent.
    fn pressure(&mut self, now: Instant) -> u8;
    /// For how long a node's connection of this number has not proved that it hears this node; `None`: it never has.
    fn heard_by(&mut self, node: NodeId) -> Option<(u64, Duration)>;
    /// What the cluster's clock reads.
    fn cluster_time(&mut self) -> Duration;
    /// A number that nobody can guess.
    fn random(&mut self) -> u32;
}
